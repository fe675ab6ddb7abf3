//! Notifications, and the requests that deliver them to each kind of receiver. No I/O.
//!
//! Text from outside, such as the reason of a failed crawl, can contain markup. Chats get all text
//! as plain text, and the characters that could start a mention, a tag or a link are replaced by
//! their full-width forms, or escaped for Slack. So no text notifies an entire group or hides a link.

use std::fmt::{self, Write as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, SecondsFormat, Utc};
use hmac::{Hmac, KeyInit as _, Mac as _};
use reqwest::Url;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use serde_json::json;
use sha2::Sha256;

use crate::escape::{lines, one_line};
use crate::model::SdkAppId;
use crate::policy::NotificationFormat;

/// The header with the signature of the body, for the format `json`.
pub const SIGNATURE_HEADER: &str = "x-signature-256";

/// The maximum length of a text from outside, in characters.
const MAX_QUOTED: usize = 500;
/// The maximum length of a text for a chat, in bytes, before characters are escaped for Slack. WeCom accepts 2,048 bytes (page 91770); the
/// others accept more.
const MAX_CHAT_BYTES: usize = 2_048;

/// A condition that causes notifications.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// The deletion of groups is withheld.
    Withheld,
    /// The API refuses the credentials of an app, or its key cannot be read.
    Refused,
    /// No crawl of an app was complete for several ticks.
    Late,
    /// The database cannot be used.
    Database,
    /// The peak of the month is near `group_quota`.
    Quota,
    /// The notification of `notify --test`.
    Test,
}

impl Event {
    /// The conditions. They are the values of the label `event` of the metric `notifications_total`.
    pub const CONDITIONS: [Self; 5] =
        [Self::Withheld, Self::Refused, Self::Late, Self::Database, Self::Quota];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Withheld => "withheld",
            Self::Refused => "refused",
            Self::Late => "late",
            Self::Database => "database",
            Self::Quota => "quota",
            Self::Test => "test",
        }
    }
}

/// The state of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConditionState {
    Begins,
    Lasts,
    Ends,
}

impl ConditionState {
    pub(super) const ALL: [Self; 3] = [Self::Begins, Self::Lasts, Self::Ends];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Begins => "begins",
            Self::Lasts => "lasts",
            Self::Ends => "ends",
        }
    }
}

/// One notification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    pub event: Event,
    pub state: ConditionState,
    /// The name of the app. `None` for a condition of the entire process.
    pub app: Option<String>,
    pub sdk_app_id: Option<SdkAppId>,
    pub at: DateTime<Utc>,
    /// One or more sentences.
    pub text: String,
    /// The command that resolves or examines the condition.
    pub command: Option<String>,
    pub crawl_id: Option<i64>,
}

impl Notification {
    /// Returns the notification of `notify --test`.
    #[must_use]
    pub fn test(at: DateTime<Utc>) -> Self {
        Self {
            event: Event::Test,
            state: ConditionState::Begins,
            app: None,
            sdk_app_id: None,
            at,
            text: "This is a test. Notifications reach this place.".to_owned(),
            command: None,
            crawl_id: None,
        }
    }
}

/// The address of a receiver, which is a secret.
#[derive(Clone)]
pub(super) struct ReceiverUrl(Url);

impl ReceiverUrl {
    /// Parses a URL. The error is a phrase that does not contain the URL.
    pub(super) fn parse(text: &SecretString) -> Result<Self, String> {
        let url = Url::parse(text.expose_secret()).map_err(|error| format!("is not a URL: {error}"))?;
        let is_allowed = match url.scheme() {
            "https" => true,
            "http" => crate::http::is_loopback(&url),
            _ => false,
        };
        if is_allowed {
            Ok(Self(url))
        } else {
            Err("does not begin with https://; plain http:// is only for this machine".to_owned())
        }
    }

    pub(super) fn expose(&self) -> &Url {
        &self.0
    }

    /// Replaces every part of the URL that may be a secret in a text from the receiver.
    pub(super) fn redact_in(&self, text: &str) -> String {
        let path = self.0.path_segments().into_iter().flatten().map(str::to_owned);
        let query = self.0.query_pairs().map(|(_, value)| value.into_owned());
        let raw_query = self.0.query().unwrap_or_default().split(['&', '=']).map(str::to_owned);
        let user = [self.0.username(), self.0.password().unwrap_or_default()].map(str::to_owned);
        let mut hidden = text.to_owned();
        // Shorter parts, such as `send` and `robot`, are fixed parts of the vendor's URLs.
        for part in path.chain(query).chain(raw_query).chain(user).filter(|part| part.len() >= 8) {
            hidden = hidden.replace(&part, "(hidden)");
        }
        hidden
    }
}

impl fmt::Debug for ReceiverUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReceiverUrl")
    }
}

/// A request to deliver a notification. Its URL is a secret.
pub(super) struct Request {
    pub(super) url: Url,
    /// The value of [`SIGNATURE_HEADER`].
    pub(super) signature: Option<String>,
    pub(super) body: Vec<u8>,
}

/// The body of the format `json`.
#[derive(Serialize)]
struct Body<'a> {
    event: &'a str,
    state: &'a str,
    app: Option<&'a str>,
    sdk_app_id: Option<SdkAppId>,
    at: String,
    text: &'a str,
    command: Option<&'a str>,
    crawl_id: Option<i64>,
}

/// Builds the request for a receiver. `now` is the time of the attempt, which some signatures
/// contain.
pub(super) fn request(
    notification: &Notification,
    format: NotificationFormat,
    url: &ReceiverUrl,
    secret: Option<&SecretString>,
    now: DateTime<Utc>,
) -> Request {
    let mut url = url.0.clone();
    let mut signature = None;
    let body = match format {
        NotificationFormat::Json => {
            let body = json_body(notification);
            signature = secret.map(|secret| body_signature(secret, &body));
            body
        }
        NotificationFormat::Slack => to_vec(&json!({ "text": slack_text(notification), "mrkdwn": false })),
        NotificationFormat::WeCom => {
            to_vec(&json!({ "msgtype": "text", "text": { "content": chat_text(notification) } }))
        }
        NotificationFormat::DingTalk => {
            if let Some(secret) = secret {
                let timestamp = now.timestamp_millis();
                let sign = dingtalk_sign(secret, timestamp);
                url.query_pairs_mut()
                    .append_pair("timestamp", &timestamp.to_string())
                    .append_pair("sign", &sign);
            }
            let text = json!({ "content": chat_text(notification) });
            to_vec(&json!({ "msgtype": "text", "text": text, "at": { "isAtAll": false } }))
        }
        NotificationFormat::Feishu => {
            let mut body = json!({ "msg_type": "text", "content": { "text": chat_text(notification) } });
            if let Some(secret) = secret {
                let timestamp = now.timestamp();
                body["timestamp"] = timestamp.to_string().into();
                body["sign"] = feishu_sign(secret, timestamp).into();
            }
            to_vec(&body)
        }
    };
    Request { url, signature, body }
}

fn json_body(notification: &Notification) -> Vec<u8> {
    to_vec(&Body {
        event: notification.event.as_str(),
        state: notification.state.as_str(),
        app: notification.app.as_deref(),
        sdk_app_id: notification.sdk_app_id,
        at: notification.at.to_rfc3339_opts(SecondsFormat::Secs, true),
        text: &notification.text,
        command: notification.command.as_deref(),
        crawl_id: notification.crawl_id,
    })
}

fn to_vec(body: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(body).expect("strings and numbers always serialise")
}

/// Returns the value of [`SIGNATURE_HEADER`]: the HMAC-SHA256 of the body in hexadecimal, by which
/// the receiver can verify the sender.
fn body_signature(secret: &SecretString, body: &[u8]) -> String {
    let mut signature = "sha256=".to_owned();
    for byte in hmac_sha256(secret.expose_secret().as_bytes(), body) {
        // Writing to a String cannot fail.
        let _ = write!(signature, "{byte:02x}");
    }
    signature
}

/// Signs a request to DingTalk (page "Customize the security settings of a robot", 自定义机器人安全设置):
/// the message is the time in milliseconds and the secret, the key is the secret.
fn dingtalk_sign(secret: &SecretString, timestamp: i64) -> String {
    let message = format!("{timestamp}\n{}", secret.expose_secret());
    STANDARD.encode(hmac_sha256(secret.expose_secret().as_bytes(), message.as_bytes()))
}

/// Signs a request to Feishu (page "Use custom bots in groups", 自定义机器人使用指南): the key is the time
/// in seconds and the secret, the message is empty.
fn feishu_sign(secret: &SecretString, timestamp: i64) -> String {
    let key = format!("{timestamp}\n{}", secret.expose_secret());
    STANDARD.encode(hmac_sha256(key.as_bytes(), b""))
}

fn hmac_sha256(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC accepts keys of any length");
    mac.update(message);
    mac.finalize().into_bytes().to_vec()
}

/// Returns the plain text of a notification for a chat, with its command. It begins with the name
/// of the program, so that DingTalk and Feishu robots can have that name as their keyword.
fn plain_text(notification: &Notification) -> String {
    let text = lines(&notification.text);
    let command = notification.command.iter().map(|command| format!("\nCommand: {command}"));
    format!("tim-group-sync: {text}{}", command.collect::<String>())
}

/// Returns the text for WeCom (page 91770, 群机器人配置说明), DingTalk and Feishu. WeCom reads `<@id>` as a
/// mention, and Feishu reads `<at>` tags in messages of the type text.
fn chat_text(notification: &Notification) -> String {
    let text = plain_text(notification).chars().map(without_markup).collect();
    shortened(text, MAX_CHAT_BYTES)
}

/// Returns the text for Slack, with the three characters escaped that Slack's page "Formatting
/// message text" names. Programs that are compatible with Slack also read `@all` as a mention and
/// `[text](url)` as a link.
fn slack_text(notification: &Notification) -> String {
    let mut escaped = String::new();
    for c in shortened(plain_text(notification), MAX_CHAT_BYTES).chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            other => escaped.push(without_markup(other)),
        }
    }
    escaped
}

/// Replaces a character that can start a mention, a tag, a link or code by its full-width form.
fn without_markup(c: char) -> char {
    match c {
        '<' => '＜',
        '>' => '＞',
        '@' => '＠',
        '[' => '［',
        ']' => '］',
        '`' => '｀',
        other => other,
    }
}

fn shortened(mut text: String, max_bytes: usize) -> String {
    if text.len() > max_bytes {
        text.truncate(text.floor_char_boundary(max_bytes - '…'.len_utf8()));
        text.push('…');
    }
    text
}

/// Returns a text from outside on one line, escaped and shortened, to be used in a notification.
pub(super) fn quoted(text: &str) -> String {
    let text = one_line(text);
    match text.char_indices().nth(MAX_QUOTED) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> ReceiverUrl {
        ReceiverUrl::parse(&text.into()).unwrap()
    }

    fn notification(text: &str) -> Notification {
        let at = "2026-03-10T09:00:00Z".parse().unwrap();
        Notification { text: text.to_owned(), ..Notification::test(at) }
    }

    fn text_in(format: NotificationFormat, text: &str) -> String {
        let url = url("https://example.com/hook");
        let request = request(&notification(text), format, &url, None, DateTime::UNIX_EPOCH);
        let body: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
        let found = ["/text/content", "/content/text", "/text"]
            .iter()
            .find_map(|pointer| body.pointer(pointer).and_then(|text| text.as_str()));
        found.unwrap().to_owned()
    }

    #[test]
    fn a_url_is_https_or_on_this_machine_and_errors_do_not_contain_it() {
        for valid in ["https://example.com/hook?key=x", "http://127.0.0.1:80/x", "http://localhost/x"] {
            url(valid);
        }
        for invalid in ["http://example.com/token", "token", "ftp://127.0.0.1/token", "https://"] {
            let error = ReceiverUrl::parse(&invalid.into()).unwrap_err();
            assert!(!error.contains("token"), "{error}");
        }
        assert_eq!(format!("{:?}", url("https://example.com/token")), "ReceiverUrl");
    }

    /// The expected values were computed with Python's hmac module by the examples of the vendors.
    #[test]
    fn signatures_follow_the_rules_of_the_vendors() {
        let secret = SecretString::from("this is secret");
        assert_eq!(dingtalk_sign(&secret, 1_700_000_000_000), "sSFWELbV2YwjdDQhWZwTcWlX5BWUx5J6TPpsZmuPii0=");
        assert_eq!(feishu_sign(&secret, 1_700_000_000), "OfGzRzoUICBOoc8wVra1e4A1hPfbZ9zqXozA8CWVUuY=");
        assert_eq!(
            body_signature(&secret, b"{}"),
            "sha256=a5c3993cffe1c4609d6c20dd563aaef818e69e942e7410d32959a65794478a48"
        );
    }

    #[test]
    fn no_text_of_a_chat_mentions_people_or_contains_a_tag_or_a_link() {
        use NotificationFormat::{DingTalk, Feishu, Slack, WeCom};
        let text = "<!channel> <@all> <at user_id=\"all\">x</at> @here [a](https://b) `c` & d";
        for format in [WeCom, DingTalk, Feishu, Slack] {
            let sent = text_in(format, text);
            assert!(!sent.contains(['<', '>', '@', '[', ']', '`']), "{format}: {sent}");
        }
        assert!(text_in(Slack, text).starts_with("tim-group-sync: &lt;!channel&gt; &lt;＠all&gt;"));
        assert!(text_in(Slack, text).ends_with("&amp; d"));
        assert!(text_in(Feishu, text).contains("＜at user_id=\"all\"＞x＜/at＞"));
    }

    #[test]
    fn text_for_a_chat_has_at_most_2048_bytes_and_no_control_characters() {
        use NotificationFormat::{DingTalk, Feishu, WeCom};
        for format in [WeCom, DingTalk, Feishu] {
            let sent = text_in(format, &"@".repeat(3_000));
            assert!(sent.len() <= 2_048 && sent.ends_with('…'), "{}", sent.len());
            assert_eq!(text_in(format, "a\u{202e}b\x1b"), "tim-group-sync: a\\u{202e}b\\u{1b}");
        }
        assert_eq!(quoted(&"é".repeat(600)).chars().count(), 501);
        assert_eq!(quoted("two\nlines"), "two\\nlines");
    }

    #[test]
    fn parts_of_the_url_are_redacted_in_a_text_from_the_receiver() {
        let url = url("https://example.com/robot/send/abcdefgh?key=12345678&x=a%20bcdefgh");
        let hidden = url.redact_in("send: key 12345678 of abcdefgh and a bcdefgh is bad");
        assert_eq!(hidden, "send: key (hidden) of (hidden) and (hidden) is bad");
    }
}
