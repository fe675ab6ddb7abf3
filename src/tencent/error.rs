//! The errors of API calls: what they mean, how the crawl reacts, and what the user can do.
//!
//! Codes and meanings are from the vendor's documents 269/1671 and 269/1614. How the crawl reacts
//! is this project's decision. No message contains a URL, because URLs contain the UserSig.

use std::time::Duration;

use crate::model::{ReasonCode, plural};
use crate::pace::Disposition;

/// Why a call has no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error(
        "the API at {host} did not answer within {}; if this persists, check the network and raise \
         `request_timeout`",
        humantime::format_duration(*.after)
    )]
    Timeout { host: String, after: Duration },
    #[error("no connection to the API at {host}: {detail}{NETWORK_ADVICE}")]
    Connect { host: String, detail: String },
    #[error(
        "the certificate of the API's server {host} is not trusted ({detail}): if a proxy \
         intercepts TLS, add its CA certificate to the system's (update-ca-certificates), or set \
         SSL_CERT_FILE to a file with all CA certificates; otherwise check base_url and this \
         machine's clock"
    )]
    Untrusted { host: String, detail: String },
    #[error(
        "the connection to the API at {host} broke before the answer was complete: \
         {detail}{NETWORK_ADVICE}"
    )]
    Broken { host: String, detail: String },
    #[error("the API at {host} answered with HTTP status {status}; {}", status_advice(*.status))]
    Status { host: String, status: u16 },
    #[error(
        "the API's answer is larger than {limit} bytes; check that `base_url` is the address of \
         this API"
    )]
    TooLarge { limit: usize },
    #[error(
        "the API's answer does not conform to its documentation: {what}; check `base_url` and any \
         proxy or captive portal, otherwise report the problem"
    )]
    Malformed { what: String },
    #[error("the API answered error {code}{}{}{}", meaning_in_text(*.code), info_in_text(.info), advice_in_text(.advice.as_deref()))]
    Answered {
        code: i64,
        /// The API's `ErrorInfo`, shortened.
        info: String,
        /// What the user can do, for codes for which this is known.
        advice: Option<String>,
    },
}

impl ApiError {
    /// Returns how the crawl reacts to this error.
    #[must_use]
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::Timeout { .. }
            | Self::Connect { .. }
            | Self::Untrusted { .. }
            | Self::Broken { .. }
            | Self::Status { status: 500.., .. } => Disposition::Retry,
            Self::Status { status: 429, .. } => Disposition::Throttle { at_least: THROTTLE_PAUSE },
            Self::Status { .. } | Self::Malformed { .. } => Disposition::RetryBriefly,
            // The answer becomes smaller only if it has fewer groups.
            Self::TooLarge { .. } => Disposition::ReduceLimit,
            Self::Answered { code, .. } => disposition_of_code(*code),
        }
    }

    /// Returns whether no answer in the API's format arrived: the network, a proxy or a server
    /// failed, or answered with an HTTP error.
    #[must_use]
    pub fn is_without_answer(&self) -> bool {
        matches!(
            self,
            Self::Timeout { .. }
                | Self::Connect { .. }
                | Self::Untrusted { .. }
                | Self::Broken { .. }
                | Self::Status { .. }
        )
    }

    /// Returns the API's error code, if the API answered with one.
    #[must_use]
    pub fn code(&self) -> Option<i64> {
        match self {
            Self::Answered { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Returns the reason code of a crawl that fails with this error.
    #[must_use]
    pub fn reason_code(&self) -> ReasonCode {
        match self {
            Self::Timeout { .. } => ReasonCode::Timeout,
            Self::Connect { .. } | Self::Untrusted { .. } | Self::Broken { .. } | Self::Status { .. } => {
                ReasonCode::Network
            }
            Self::TooLarge { .. } | Self::Malformed { .. } => ReasonCode::MalformedAnswer,
            Self::Answered { code, .. } => match disposition_of_code(*code) {
                Disposition::Throttle { .. } => ReasonCode::Throttled,
                Disposition::RenewSignature => ReasonCode::Refused,
                Disposition::Fatal if is_refusal(*code) => ReasonCode::Refused,
                _ => ReasonCode::ApiError,
            },
        }
    }
}

const NETWORK_ADVICE: &str = "; check DNS, the firewall and HTTPS_PROXY; if only this host is blocked, set `base_url` to \
     another one";

/// The minimum pause after a request that exceeded the rate limit of one request a second.
const THROTTLE_PAUSE: Duration = Duration::from_secs(2);
/// The minimum pause after code 70050, for which the documentation requires a minute.
const SIGNATURE_THROTTLE_PAUSE: Duration = Duration::from_secs(60);

/// The codes for an exceeded rate limit.
pub const THROTTLING: [i64; 6] = [10006, 60007, 60011, 60018, 60019, 70050];

/// Returns how the crawl reacts to an error code of the API.
fn disposition_of_code(code: i64) -> Disposition {
    match code {
        10002 | 60008 | 60013 | 60014 | 70169 | 70202 | 70500 | 90992 | 90994 | 90995 | 91000 => {
            Disposition::Retry
        }
        70050 => Disposition::Throttle { at_least: SIGNATURE_THROTTLE_PAUSE },
        _ if THROTTLING.contains(&code) => Disposition::Throttle { at_least: THROTTLE_PAUSE },
        10008 | 60004 | 60005 | 70001 | 70002 | 70003 | 70005 => Disposition::RenewSignature,
        10018 => Disposition::ReduceLimit,
        10004 => Disposition::RejectType,
        10003 | 10007 | 10011 | 10012 | 10026 | 60000..70000 | 70000..80000 => Disposition::Fatal,
        _ => Disposition::RetryBriefly,
    }
}

/// Returns whether the API refuses the app, the account, the key or this host, so that the
/// configuration or the app's settings in the console must be changed.
fn is_refusal(code: i64) -> bool {
    matches!(
        code,
        10007
            | 10012
            | 10026
            | 60006
            | 60010
            | 60012
            | 60016
            | 60017
            | 60020
            | 60021
            | 70009
            | 70013
            | 70014
            | 70016
            | 70020
            | 70051
            | 70107
            | 70114
            | 70403
    )
}

/// Returns the documented meaning of a code, or `None` for an undocumented code.
#[must_use]
pub fn meaning(code: i64) -> Option<&'static str> {
    Some(match code {
        10002 => "internal error of the group service",
        10003 => "illegal request command",
        10004 => "a parameter is not accepted",
        10006 => "the call is made too often",
        10007 => "no permission: the identifier is not an administrator of the app",
        10008 => "illegal request, possibly the signature",
        10011 | 60003 => "the request's JSON could not be parsed",
        10012 => "the operator's account is invalid",
        10018 => "the answer would exceed 1 MB",
        10026 => "the command is disabled for this SDKAppID",
        60002 | 60009 => "the request's URL is wrong",
        60004 | 60005 => "wrong account or signature",
        60006 => "the SDKAppID is invalid",
        60007 | 60011 => "REST calls are made too often",
        60008 | 70169 | 70202 => "the service timed out",
        60010 | 70403 => "the call needs an administrator of the app",
        60012 => "the SDKAppID is missing",
        60013 => "the service could not parse its own answer",
        60014 => "the service timed out on the account",
        60015 => "an account in the body is not a text",
        60016 => "the SDKAppID is disabled",
        60017 => "requests are disabled",
        60018 | 60019 => "too many requests, retry later",
        60020 => "the app's package has expired or was stopped",
        60021 => "requests from this address are not allowed",
        70001 => "the UserSig has expired",
        70002 => "the UserSig is empty",
        70003 | 70005 => "the UserSig is illegal",
        70009 => "the UserSig could not be verified",
        70013 => "the identifier differs from the one in the UserSig",
        70014 => "the SDKAppID differs from the one in the UserSig",
        70016 => "no key was found for the SDKAppID",
        70020 => "the SDKAppID was not found",
        70050 => "the UserSig failed too often, retry after a minute",
        70051 => "the account is blacklisted",
        70107 => "the account does not exist",
        70114 => "the account may not log in",
        70402 => "a parameter is wrong",
        70500 => "internal error of the service",
        90992 | 90994 | 90995 | 91000 => "internal error of the message service",
        _ => return None,
    })
}

/// Returns what the user can do, for codes for which this is known. `region_hint` describes the
/// configured and the other data centres.
#[must_use]
pub(super) fn advice(code: i64, identifier: &str, region_hint: &str) -> Option<String> {
    Some(match code {
        10007 | 10012 | 60010 | 70107 | 70403 => format!(
            "set the app's `identifier`, now {identifier:?}, to one of its administrators (in the \
             console: the app's basic configuration)"
        ),
        10003 | 60002 | 60009 => "check `base_url`, and any proxy that changes URLs".to_owned(),
        10004 => "if a group type is rejected, remove it from `group_types` or correct its name; \
                  `group_types = []` lists all groups, without their types"
            .to_owned(),
        10011 | 60003 => "check any proxy that changes requests; otherwise report the problem".to_owned(),
        60006 => "check the app's `sdk_app_id`".to_owned(),
        60012 => "check the app's `sdk_app_id`, and any proxy that drops the query of URLs".to_owned(),
        60015 | 70402 => "report this as a bug of this program".to_owned(),
        60016 | 60017 | 10026 => "ask Tencent Cloud's support why the app is disabled".to_owned(),
        60020 => "renew the package in the console; it takes effect after about five minutes".to_owned(),
        60021 => "add this host's address to the app's IP allow-list in the console".to_owned(),
        70001 => "check this machine's clock".to_owned(),
        10008 | 60004 | 60005 | 70002 | 70003 | 70005 | 70009 | 70050 => {
            "check that the key in `secret_key_file` is the key of this `sdk_app_id` (in the \
             console: the app's basic configuration), not the SecretKey of a Tencent Cloud API key \
             (CAM)"
                .to_owned()
        }
        70013 | 70014 => "check any proxy that changes URLs; otherwise report the problem".to_owned(),
        70051 => format!(
            "remove the account {identifier:?} from the blacklist in the console, or set \
             `identifier` to another administrator"
        ),
        70114 => format!(
            "the login of {identifier:?} is restricted for security: set `identifier` to another \
             administrator, or ask Tencent Cloud's support"
        ),
        _ if THROTTLING.contains(&code) => {
            "if this persists, raise `request_interval`, or find out what else calls the API for \
             this SDKAppID"
                .to_owned()
        }
        70016 | 70020 => format!("check `sdk_app_id` and the data centre it was created in: {region_hint}"),
        _ => return None,
    })
}

/// Describes why a body is not valid JSON of the expected form, without quoting it.
pub(super) fn describe_json(error: &serde_json::Error, body: &[u8]) -> ApiError {
    let start = body.trim_ascii_start();
    let what = if start.starts_with(b"<") {
        "HTML instead of JSON".to_owned()
    } else if error.is_eof() {
        format!("the JSON ends after {} {}", body.len(), plural(body.len() as u64, "byte"))
    } else if error.is_data() {
        format!("a field has the wrong type at line {} column {}", error.line(), error.column())
    } else {
        format!("no JSON at line {} column {}", error.line(), error.column())
    };
    ApiError::Malformed { what }
}

fn status_advice(status: u16) -> &'static str {
    match status {
        429 => {
            "if this persists, raise `request_interval`, or find out what else calls the API for \
             this SDKAppID"
        }
        500.. => "if this persists, check any proxy, or ask Tencent Cloud's support",
        _ => "check `base_url` and any proxy",
    }
}

fn meaning_in_text(code: i64) -> String {
    meaning(code).map_or_else(String::new, |meaning| format!(" ({meaning})"))
}

fn info_in_text(info: &str) -> String {
    if info.is_empty() { String::new() } else { format!(", ErrorInfo {info:?}") }
}

fn advice_in_text(advice: Option<&str>) -> String {
    advice.map_or_else(String::new, |advice| format!(": {advice}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(code: i64) -> ApiError {
        ApiError::Answered { code, info: String::new(), advice: None }
    }

    #[test]
    fn every_documented_code_has_its_disposition() {
        let throttled = Disposition::Throttle { at_least: THROTTLE_PAUSE };
        let dispositions: &[(Disposition, &[i64])] = &[
            (
                Disposition::Retry,
                &[10002, 60008, 60013, 60014, 70169, 70202, 70500, 90992, 90994, 90995, 91000],
            ),
            (throttled, &[10006, 60007, 60011, 60018, 60019]),
            (Disposition::Throttle { at_least: SIGNATURE_THROTTLE_PAUSE }, &[70050]),
            (Disposition::RenewSignature, &[10008, 60004, 60005, 70001, 70002, 70003, 70005]),
            (Disposition::ReduceLimit, &[10018]),
            (Disposition::RejectType, &[10004]),
            (
                Disposition::Fatal,
                &[
                    10003, 10007, 10011, 10012, 10026, 60002, 60003, 60006, 60009, 60010, 60012, 60015,
                    60016, 60017, 60020, 60021, 70009, 70013, 70014, 70016, 70020, 70051, 70107, 70114,
                    70402, 70403, 60999, 79999,
                ],
            ),
            (Disposition::RetryBriefly, &[1, -1, 10015, 30000, 80001, 123_456]),
        ];
        for (disposition, codes) in dispositions {
            for code in *codes {
                assert_eq!(answered(*code).disposition(), *disposition, "{code}");
            }
        }
    }

    #[test]
    fn refused_credentials_and_a_failing_service_have_different_reason_codes() {
        for code in [10007, 60021, 70001, 70003, 70009, 70016, 70020] {
            assert_eq!(answered(code).reason_code(), ReasonCode::Refused, "{code}");
        }
        for code in [10002, 10003, 10018, 60002, 123_456] {
            assert_eq!(answered(code).reason_code(), ReasonCode::ApiError, "{code}");
        }
        assert_eq!(answered(60011).reason_code(), ReasonCode::Throttled);
    }

    #[test]
    fn an_error_contains_its_meaning_and_advice() {
        let error = ApiError::Answered {
            code: 60021,
            info: "ip not in allow list".to_owned(),
            advice: advice(60021, "administrator", ""),
        };
        assert_eq!(
            error.to_string(),
            "the API answered error 60021 (requests from this address are not allowed), ErrorInfo \
             \"ip not in allow list\": add this host's address to the app's IP allow-list in the \
             console"
        );
    }
}
