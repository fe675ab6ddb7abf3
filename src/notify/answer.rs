//! Evaluates the answers of receivers. No I/O.
//!
//! The robots of WeCom, DingTalk and Feishu answer HTTP 200 even if they refuse a message. The
//! result is a code in the body. The codes are from these pages: "Group robot configuration" (WeCom
//! 91770, 群机器人配置说明) and "Global error codes" (WeCom 90313, 全局错误码); "Custom robot sends group
//! messages" (DingTalk, 自定义机器人发送群消息); "Use custom bots in groups" (Feishu, 自定义机器人使用指南).

use std::time::Duration;

use serde_json::Value;

use crate::pace::Disposition;
use crate::policy::NotificationFormat;

/// The pause after the receiver has refused a message because of its rate limit, if it does not
/// name one. All three robots limit the messages per minute.
const THROTTLE_PAUSE: Duration = Duration::from_secs(60);
/// The pause after DingTalk has refused a message because of its rate limit. It then refuses all
/// messages for ten minutes.
const DINGTALK_THROTTLE_PAUSE: Duration = Duration::from_secs(600);
/// The maximum length of a quoted text from a receiver, in characters.
const MAX_QUOTED: usize = 200;

/// An HTTP answer of a receiver.
#[derive(Debug)]
pub(super) struct Answer<'a> {
    pub(super) status: u16,
    /// The header `Retry-After`, in seconds.
    pub(super) retry_after: Option<u64>,
    pub(super) body: &'a [u8],
}

/// Why a notification was not accepted, and how to react. The text may quote the receiver.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rejection {
    pub(super) text: String,
    pub(super) disposition: Disposition,
}

/// Returns an error unless the receiver has accepted the notification.
pub(super) fn evaluate(format: NotificationFormat, answer: &Answer<'_>) -> Result<(), Rejection> {
    let is_robot = !matches!(format, NotificationFormat::Json | NotificationFormat::Slack);
    let code = if is_robot { code_in(answer.body) } else { None };
    match (code, answer.status) {
        (Some((0, _)), 200..300) => Ok(()),
        (Some((code, text)), _) if code != 0 => Err(of_code(format, code, &text)),
        (None, 200..300) if is_robot => Err(Rejection {
            text: format!(
                "the receiver answered HTTP {} without a result: the URL does not belong to a {format} robot, or a \
                 proxy answered",
                answer.status
            ),
            disposition: Disposition::RetryBriefly,
        }),
        (None, 200..300) => Ok(()),
        (_, status) => Err(of_status(status, answer)),
    }
}

/// Returns the code and the text in the body of a robot.
fn code_in(body: &[u8]) -> Option<(i64, String)> {
    let body: Value = serde_json::from_slice(body).ok()?;
    // Feishu answers with either of two names.
    let code = ["errcode", "code", "StatusCode"].iter().find_map(|name| body.get(name)?.as_i64())?;
    let text = ["errmsg", "msg", "StatusMessage"].iter().find_map(|name| body.get(name)?.as_str());
    Some((code, text.unwrap_or_default().to_owned()))
}

fn of_status(status: u16, answer: &Answer<'_>) -> Rejection {
    let disposition = match status {
        429 => {
            Disposition::Throttle { at_least: answer.retry_after.map_or(THROTTLE_PAUSE, Duration::from_secs) }
        }
        408 | 425 | 500.. => Disposition::Retry,
        _ => Disposition::Fatal,
    };
    let advice = match status {
        429 => "its rate limit was exceeded",
        300..400 => "it redirects, which is not followed: put the final URL into url_file",
        401 | 403 | 404 | 410 => "the URL in url_file is no longer valid, or the secret is wrong",
        400..500 => "it does not accept this format: check notify.format",
        _ => "it has an internal error",
    };
    let quoted = quoted(&String::from_utf8_lossy(answer.body));
    let quoted = if quoted.is_empty() { quoted } else { format!(" ({quoted})") };
    Rejection { text: format!("the receiver answered HTTP {status}: {advice}{quoted}"), disposition }
}

fn of_code(format: NotificationFormat, code: i64, text: &str) -> Rejection {
    use NotificationFormat::{DingTalk, Feishu, WeCom};
    let throttled = |at_least| (Disposition::Throttle { at_least }, "its rate limit was exceeded");
    let refused = |advice| (Disposition::Fatal, advice);
    let (disposition, advice) = match (format, code) {
        (WeCom, 45_009 | 45_033) | (Feishu, 11_232) => throttled(THROTTLE_PAUSE),
        (DingTalk, 130_101 | 410_100) => throttled(DINGTALK_THROTTLE_PAUSE),
        (WeCom | DingTalk, -1) => (Disposition::Retry, "it is busy"),
        (WeCom, 93_000 | 93_004 | 93_008)
        | (DingTalk, 300_001 | 400_101 | 400_102 | 400_106)
        | (Feishu, 19_001) => refused("the URL in url_file is not the URL of an active robot"),
        (DingTalk, 400_013) => refused("its group was dissolved"),
        (DingTalk, 310_000) => refused(
            "the robot's security settings do not allow the message: set secret_file, check this machine's clock, \
             add tim-group-sync to the keywords, or allow this machine's IP address",
        ),
        (Feishu, 19_021) => refused("check secret_file, and this machine's clock"),
        (Feishu, 19_022) => refused("allow this machine's IP address in the bot's settings"),
        (Feishu, 19_024) => refused("add tim-group-sync to the bot's keywords"),
        // An unknown code may be transient or permanent.
        _ => (Disposition::RetryBriefly, "see the vendor's documentation of this code"),
    };
    let quoted = quoted(text);
    let quoted = if quoted.is_empty() { quoted } else { format!(" ({quoted})") };
    Rejection { text: format!("the receiver answered code {code}: {advice}{quoted}"), disposition }
}

fn quoted(text: &str) -> String {
    text.trim().chars().take(MAX_QUOTED).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(format: NotificationFormat, status: u16, body: &str) -> Result<(), Rejection> {
        evaluate(format, &Answer { status, retry_after: None, body: body.as_bytes() })
    }

    fn disposition(format: NotificationFormat, status: u16, body: &str) -> Option<Disposition> {
        answered(format, status, body).err().map(|rejection| rejection.disposition)
    }

    #[test]
    fn code_0_of_a_robot_and_any_2xx_status_of_another_receiver_mean_success() {
        use NotificationFormat::{DingTalk, Feishu, Json, Slack, WeCom};
        for (format, body) in [
            (WeCom, r#"{"errcode":0,"errmsg":"ok"}"#),
            (DingTalk, r#"{"errcode":0,"errmsg":"ok"}"#),
            (Feishu, r#"{"code":0,"msg":"success","data":{}}"#),
            (Feishu, r#"{"StatusCode":0,"StatusMessage":"success"}"#),
            (Slack, "ok"),
            (Json, ""),
        ] {
            assert_eq!(answered(format, 200, body), Ok(()), "{format}");
        }
        assert_eq!(answered(Json, 204, ""), Ok(()));
        for format in [WeCom, DingTalk, Feishu] {
            assert_eq!(disposition(format, 200, "<html>"), Some(Disposition::RetryBriefly), "{format}");
            assert_eq!(disposition(format, 502, "<html>"), Some(Disposition::Retry), "{format}");
        }
    }

    #[test]
    fn a_rate_limited_message_is_retried_later_and_a_wrong_setting_is_not() {
        use NotificationFormat::{DingTalk, Feishu, Json, Slack, WeCom};
        let later = |seconds| Some(Disposition::Throttle { at_least: Duration::from_secs(seconds) });
        for (format, status, body, expected) in [
            (WeCom, 200, r#"{"errcode":45009,"errmsg":"api freq out of limit"}"#, later(60)),
            (WeCom, 200, r#"{"errcode":93000,"errmsg":"invalid webhook url"}"#, Some(Disposition::Fatal)),
            (WeCom, 200, r#"{"errcode":-1,"errmsg":"system busy"}"#, Some(Disposition::Retry)),
            (DingTalk, 200, r#"{"errcode":130101,"errmsg":"send too fast"}"#, later(600)),
            (
                DingTalk,
                200,
                r#"{"errcode":310000,"errmsg":"keywords not in content"}"#,
                Some(Disposition::Fatal),
            ),
            (DingTalk, 200, r#"{"errcode":300001,"errmsg":"token is not exist"}"#, Some(Disposition::Fatal)),
            (Feishu, 200, r#"{"code":11232,"msg":"frequency limited"}"#, later(60)),
            (Feishu, 200, r#"{"code":19021,"msg":"sign match fail"}"#, Some(Disposition::Fatal)),
            (Feishu, 200, r#"{"code":19024,"msg":"ConditionKey Words Not Found"}"#, Some(Disposition::Fatal)),
            (Feishu, 400, r#"{"code":9499,"msg":"Bad Request"}"#, Some(Disposition::RetryBriefly)),
            (Slack, 429, "", later(60)),
            (Slack, 403, "invalid_token", Some(Disposition::Fatal)),
            (Slack, 404, "no_service", Some(Disposition::Fatal)),
            (Json, 302, "", Some(Disposition::Fatal)),
            (Json, 500, "", Some(Disposition::Retry)),
        ] {
            assert_eq!(disposition(format, status, body), expected, "{format} {status} {body}");
        }
        let answer = Answer { status: 429, retry_after: Some(7), body: b"" };
        let throttled = evaluate(Slack, &answer).unwrap_err().disposition;
        assert_eq!(throttled, Disposition::Throttle { at_least: Duration::from_secs(7) });
    }

    #[test]
    fn a_refusal_says_what_to_change_and_quotes_the_receiver() {
        let refused = answered(NotificationFormat::Feishu, 200, r#"{"code":19021,"msg":"sign match fail"}"#);
        assert_eq!(
            refused.unwrap_err().text,
            "the receiver answered code 19021: check secret_file, and this machine's clock (sign match fail)"
        );
    }
}
