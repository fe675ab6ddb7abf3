//! The HTTP client of the API. It makes single requests, without retries and rate limiting.
//!
//! This is the only file that handles the URLs of the API, which contain the UserSig.

use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use reqwest::header::DATE;
use reqwest::{StatusCode, Url};
use serde::Serialize;

use super::error::{ApiError, advice, describe_json};
use super::info::{GROUP_INFO_PATH, InfoAnswer, InfoRequest, details};
use super::statistics::{STATISTICS_PATH, StatisticsRequest, read_statistics};
use super::usersig::{Claims, SecretKey, UserSig, sign};
use super::wire::{LIST_GROUPS_PATH, ListAnswer, ListRequest};
use crate::clock::Clock;
use crate::http;
use crate::model::{AppStatistics, GroupDetails, GroupIds, GroupType, SdkAppId};

/// The maximum size of a decompressed answer, against decompression bombs. The API's own limit is 1
/// MB.
const MAX_BODY_BYTES: usize = 8 * 1024 * 1024;
/// The number of idle connections that are kept. `get_group_info` has several requests in flight.
const MAX_IDLE_CONNECTIONS: usize = 4;
/// The lifetime of a signature: the minimum that the documentation recommends (document 269/1671,
/// error 70001).
const SIGNATURE_LIFETIME: Duration = Duration::from_hours(24);
/// The age at which a signature is renewed. It is far below the lifetime, so that a signature is
/// also valid if the clock is wrong.
const SIGNATURE_RENEWAL: Duration = Duration::from_hours(6);

/// The settings of a [`Client`]: the app, the account and the data centre.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    pub sdk_app_id: SdkAppId,
    /// An administrator of the app.
    pub identifier: String,
    pub secret_key: SecretKey,
    /// Scheme, host and port of the app's data centre.
    pub base_url: Url,
    /// A description of the configured and the other data centres, for advice in errors.
    pub region_hint: String,
    /// The maximum time from sending a request to the end of its answer. The API's own timeout is 3
    /// s.
    pub request_timeout: Duration,
    pub clock: Clock,
}

/// One page of `get_appid_group_list`.
#[derive(Debug)]
pub struct Page {
    pub ids: GroupIds,
    /// The number of listed ids that were dropped because they are not valid group ids.
    pub unusable: u64,
    /// The number of groups in the app, or of the requested type.
    pub total_count: Option<u64>,
    /// The cursor of the next page; 0 on the last page.
    pub next: u64,
}

impl Page {
    /// Returns a page without ids.
    #[must_use]
    pub fn empty() -> Self {
        Self { ids: GroupIds::new(), unusable: 0, total_count: None, next: 0 }
    }
}

/// The answer of `get_group_info` about one group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupAnswer {
    /// The group's error code. It is 0 if the group exists, and `None` if the answer has no entry
    /// or no code for it.
    pub code: Option<i64>,
    /// The group's type, if the group exists and the answer has its type.
    pub group_type: Option<GroupType>,
    /// The group's details, if the group exists and they were requested.
    pub details: Option<GroupDetails>,
}

/// The fields of each group that a `get_group_info` request selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fields {
    /// The type.
    Type,
    /// The type and the details.
    Details,
}

/// An HTTP response, not yet interpreted.
pub(super) struct HttpResponse {
    pub(super) status: StatusCode,
    /// The `Date` header.
    pub(super) date: Option<String>,
    pub(super) body: Vec<u8>,
}

/// The HTTP client could not be created.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot create the HTTP client: {0}; install the system's CA certificates (package \
     ca-certificates), or set SSL_CERT_FILE to a file with CA certificates"
)]
pub struct ClientError(String);

/// Calls the API as one administrator of one app. Connections are kept alive.
pub struct Client {
    http: reqwest::Client,
    settings: ClientSettings,
    signature: Mutex<Option<Signature>>,
    clock_skew: Mutex<Option<TimeDelta>>,
    outage: Mutex<Option<Outage>>,
}

/// A period in which the API does not answer.
struct Outage {
    since: Instant,
    /// The error that was reported last.
    reported: String,
}

#[derive(Clone)]
struct Signature {
    usersig: UserSig,
    issued_at: i64,
}

impl HttpResponse {
    /// Returns the time of the server, from the `Date` header (RFC 9110, section 6.6.1).
    fn time(&self) -> Option<DateTime<Utc>> {
        Some(DateTime::parse_from_rfc2822(self.date.as_deref()?).ok()?.to_utc())
    }
}

impl Client {
    pub fn new(settings: ClientSettings) -> Result<Self, ClientError> {
        let http = http::client(&settings.base_url, settings.request_timeout, MAX_IDLE_CONNECTIONS)
            .map_err(|error| ClientError(http::describe(error)))?;
        Ok(Self {
            http,
            settings,
            signature: Mutex::default(),
            clock_skew: Mutex::default(),
            outage: Mutex::default(),
        })
    }

    /// Requests one page of the list.
    pub async fn list_groups(&self, request: &ListRequest) -> Result<Page, ApiError> {
        let usersig = self.usersig();
        let answer = self.post(LIST_GROUPS_PATH, request, &usersig).await?;
        let page = read_page(&answer.body);
        self.update_clock_skew(answer.time(), &page);
        page.map_err(|error| self.explain(error, &usersig))
    }

    /// Requests the state of at most [`super::info::MAX_INFO_IDS`] groups. The answers are in the
    /// order of `ids`.
    pub async fn group_answers(&self, ids: &[&str], fields: Fields) -> Result<Vec<GroupAnswer>, ApiError> {
        let usersig = self.usersig();
        let request = match fields {
            Fields::Type => InfoRequest::types_of(ids),
            Fields::Details => InfoRequest::details_of(ids),
        };
        let answer = self.post(GROUP_INFO_PATH, &request, &usersig).await?;
        let answers = read_answers(&answer.body, ids, fields);
        self.update_clock_skew(answer.time(), &answers);
        answers.map_err(|error| self.explain(error, &usersig))
    }

    /// Requests the app's statistics of the last 30 days (`getappinfo`), in ascending order of
    /// days.
    pub async fn app_statistics(&self) -> Result<Vec<AppStatistics>, ApiError> {
        let usersig = self.usersig();
        let answer = self.post(STATISTICS_PATH, &StatisticsRequest::new(), &usersig).await?;
        let statistics = read_statistics(&answer.body);
        self.update_clock_skew(answer.time(), &statistics);
        statistics.map_err(|error| self.explain(error, &usersig))
    }

    /// Discards the cached signature, so that the next call creates a new one. Used when the API
    /// refuses a signature.
    pub fn renew_signature(&self) {
        *self.signature.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Returns by how much this machine's clock is ahead of the API's, according to the `Date` of
    /// the API's last answer. The value is negative if the clock is behind. Returns `None` if no
    /// answer had a `Date` yet.
    #[must_use]
    pub fn clock_skew(&self) -> Option<TimeDelta> {
        *self.clock_skew.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that a request got no answer from the API. Returns true if the error is to be
    /// reported: it begins an outage, or its text differs from the one that was reported last.
    #[must_use]
    pub fn record_outage(&self, error: &ApiError) -> bool {
        let mut outage = self.outage.lock().unwrap_or_else(PoisonError::into_inner);
        let text = error.to_string();
        match outage.as_mut() {
            Some(outage) if outage.reported == text => false,
            Some(outage) => {
                outage.reported = text;
                true
            }
            None => {
                *outage = Some(Outage { since: Instant::now(), reported: text });
                true
            }
        }
    }

    /// Records that the API answered. If this ends an outage, returns how long the outage lasted.
    pub fn end_outage(&self) -> Option<Duration> {
        let outage = self.outage.lock().unwrap_or_else(PoisonError::into_inner).take();
        outage.map(|outage| outage.since.elapsed())
    }

    /// Updates the clock skew, but only from an answer of the API: the `Date` of a proxy's error
    /// page is not the API's time.
    fn update_clock_skew<T>(&self, date: Option<DateTime<Utc>>, answer: &Result<T, ApiError>) {
        let is_from_api = matches!(answer, Ok(_) | Err(ApiError::Answered { .. }));
        if let Some(date) = date.filter(|_| is_from_api) {
            let skew = self.settings.clock.now() - date;
            *self.clock_skew.lock().unwrap_or_else(PoisonError::into_inner) = Some(skew);
        }
    }

    /// Returns the cached signature, or a new one if there is none or it must be renewed.
    pub(super) fn usersig(&self) -> UserSig {
        let now = self.settings.clock.now().timestamp();
        let mut cached = self.signature.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(signature) = cached.as_ref()
            // A cached signature with a time in the future is not reused: the clock was set back.
            && (0..SIGNATURE_RENEWAL.as_secs().cast_signed()).contains(&(now - signature.issued_at))
        {
            return signature.usersig.clone();
        }
        let claims = Claims {
            sdk_app_id: self.settings.sdk_app_id,
            identifier: self.settings.identifier.clone(),
            issued_at: now,
            lifetime: SIGNATURE_LIFETIME,
        };
        let usersig = sign(&claims, &self.settings.secret_key);
        *cached = Some(Signature { usersig: usersig.clone(), issued_at: now });
        usersig
    }

    async fn post(
        &self,
        path: &str,
        body: &(impl Serialize + Sync),
        usersig: &UserSig,
    ) -> Result<HttpResponse, ApiError> {
        let response = self.exchange(path, body, usersig).await?;
        if response.status.is_success() {
            Ok(response)
        } else {
            Err(ApiError::Status { host: self.host(), status: response.status.as_u16() })
        }
    }

    /// Posts a body and returns the response, regardless of its HTTP status.
    pub(super) async fn exchange(
        &self,
        path: &str,
        body: &(impl Serialize + Sync),
        usersig: &UserSig,
    ) -> Result<HttpResponse, ApiError> {
        let mut url = self.settings.base_url.clone();
        url.set_path(path);
        url.query_pairs_mut()
            .append_pair("sdkappid", &self.settings.sdk_app_id.to_string())
            .append_pair("identifier", &self.settings.identifier)
            .append_pair("usersig", usersig.expose())
            .append_pair("random", &rand::random::<u32>().to_string())
            .append_pair("contenttype", "json");
        let json = serde_json::to_vec(body).expect("strings and numbers always serialise");
        let failed = |error| self.transport_error(error);
        let mut response = self
            .http
            .post(url)
            .header(reqwest::header::CONTENT_TYPE, "application/json")
            .body(json)
            .send()
            .await
            .map_err(failed)?;
        let status = response.status();
        let date = response.headers().get(DATE).and_then(|date| date.to_str().ok()).map(str::to_owned);
        let mut body = Vec::new();
        // The body is read even if the status is an error, because otherwise the connection could
        // not be reused.
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > MAX_BODY_BYTES {
                return Err(ApiError::TooLarge { limit: MAX_BODY_BYTES });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(HttpResponse { status, date, body })
    }

    /// Converts an error of reqwest, which contains the URL, into an error without the URL. Every
    /// error of a request is converted here.
    fn transport_error(&self, error: reqwest::Error) -> ApiError {
        let host = self.host();
        if error.is_timeout() {
            return ApiError::Timeout { host, after: self.settings.request_timeout };
        }
        if let Some(detail) = certificate_error(&error) {
            return ApiError::Untrusted { host, detail };
        }
        let connecting = error.is_connect();
        let detail = http::describe(error);
        // These prefixes of the HTTP libraries only repeat what the message says.
        let cause = detail.strip_prefix("error sending request: ").unwrap_or(&detail);
        let cause = cause.strip_prefix("client error (Connect): ").unwrap_or(cause).to_owned();
        if connecting {
            ApiError::Connect { host, detail: cause }
        } else {
            ApiError::Broken { host, detail: cause }
        }
    }

    /// Returns the host of the API, for errors.
    #[must_use]
    pub fn host(&self) -> String {
        self.settings.base_url.host_str().unwrap_or_default().to_owned()
    }

    /// Adds advice to an error that the API answered. Removes the signature from `ErrorInfo`, which
    /// may repeat it.
    fn explain(&self, error: ApiError, usersig: &UserSig) -> ApiError {
        let ApiError::Answered { code, info, .. } = error else { return error };
        let info = info.replace(usersig.expose(), "(UserSig hidden)");
        let info = info.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect();
        ApiError::Answered {
            code,
            info,
            advice: advice(code, &self.settings.identifier, &self.settings.region_hint),
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("sdk_app_id", &self.settings.sdk_app_id).finish_non_exhaustive()
    }
}

/// Returns what is wrong with the server's certificate, or `None` if the error has another cause.
fn certificate_error(error: &reqwest::Error) -> Option<String> {
    let mut cause: Option<&(dyn Error + 'static)> = error.source();
    while let Some(error) = cause {
        if let Some(rustls::Error::InvalidCertificate(what)) = error.downcast_ref() {
            return Some(what.to_string());
        }
        // The `source` of an I/O error skips the error that it wraps.
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        cause = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    None
}

fn read_page(body: &[u8]) -> Result<Page, ApiError> {
    let malformed = |what: &str| ApiError::Malformed { what: what.to_owned() };
    let answer: ListAnswer = serde_json::from_slice(body).map_err(|error| describe_json(&error, body))?;
    let code = answer.error_code.ok_or_else(|| malformed("no ErrorCode"))?;
    if code != 0 {
        let info = answer.error_info.unwrap_or_default();
        return Err(ApiError::Answered { code, info, advice: None });
    }
    if answer.action_status.as_deref() != Some("OK") {
        return Err(malformed("ErrorCode 0, but ActionStatus is not OK"));
    }
    let next = answer.next.ok_or_else(|| malformed("no Next, so the end of the list is unknown"))?;
    let listed = match answer.group_id_list {
        Some(listed) => listed,
        // The list may be absent only if `TotalCount` is 0.
        None if answer.total_count == Some(0) => super::wire::ListedIds::default(),
        None => return Err(malformed("no GroupIdList")),
    };
    Ok(Page { ids: listed.ids, unusable: listed.unusable, total_count: answer.total_count, next })
}

fn read_answers(body: &[u8], ids: &[&str], fields: Fields) -> Result<Vec<GroupAnswer>, ApiError> {
    let malformed = |what: &str| ApiError::Malformed { what: what.to_owned() };
    let answer: InfoAnswer = serde_json::from_slice(body).map_err(|error| describe_json(&error, body))?;
    // The top-level code is meaningful only if there are no entries about groups (document
    // 269/1616).
    let Some(entries) = answer.group_info.filter(|entries| !entries.is_empty()) else {
        return Err(match answer.error_code {
            Some(code) if code != 0 => {
                ApiError::Answered { code, info: answer.error_info.unwrap_or_default(), advice: None }
            }
            _ => malformed("no entries in GroupInfo"),
        });
    };
    let answers: HashMap<&str, GroupAnswer> = entries
        .iter()
        .map(|entry| {
            let exists = entry.error_code == Some(0);
            let group_type = entry.group_type.as_deref().filter(|_| exists).and_then(GroupType::new);
            let details = (exists && fields == Fields::Details).then(|| details(entry));
            (entry.group_id.as_str(), GroupAnswer { code: entry.error_code, group_type, details })
        })
        .collect();
    Ok(ids.iter().map(|id| answers.get(id).cloned().unwrap_or_default()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(clock: &Clock) -> Client {
        Client::new(ClientSettings {
            sdk_app_id: SdkAppId::new(1_400_000_000).unwrap(),
            identifier: "administrator".to_owned(),
            secret_key: SecretKey::new("key"),
            base_url: Url::parse("http://127.0.0.1:9").unwrap(),
            region_hint: String::new(),
            request_timeout: Duration::from_secs(1),
            clock: clock.clone(),
        })
        .unwrap()
    }

    fn error_of(body: &str) -> String {
        read_page(body.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn a_signature_is_reused_for_hours_and_renewed_long_before_it_expires() {
        let start = chrono::DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        let clock = Clock::fixed_at(start);
        let client = client(&clock);
        let first = client.usersig();
        clock.set(start + Duration::from_hours(5));
        assert_eq!(client.usersig().expose(), first.expose());
        clock.set(start + Duration::from_hours(7));
        assert_ne!(client.usersig().expose(), first.expose());
    }

    #[test]
    fn a_signature_is_renewed_after_the_clock_was_set_back() {
        let start = chrono::DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        let clock = Clock::fixed_at(start);
        let client = client(&clock);
        let first = client.usersig();
        clock.set(start - Duration::from_hours(1));
        assert_ne!(client.usersig().expose(), first.expose());
    }

    #[test]
    fn success_needs_error_code_zero_status_ok_and_an_explicit_next() {
        let good =
            r#"{"ActionStatus":"OK","ErrorCode":0,"TotalCount":1,"GroupIdList":[{"GroupId":"a"}],"Next":0}"#;
        assert_eq!(read_page(good.as_bytes()).unwrap().next, 0);
        assert!(error_of(r#"{"ActionStatus":"OK","ErrorCode":0,"GroupIdList":[]}"#).contains("no Next"));
        assert!(
            error_of(r#"{"ActionStatus":"FAIL","ErrorCode":0,"GroupIdList":[],"Next":0}"#)
                .contains("ActionStatus")
        );
        assert!(error_of(r#"{"GroupIdList":[],"Next":0}"#).contains("no ErrorCode"));
        assert!(
            error_of(r#"{"ActionStatus":"OK","ErrorCode":0,"TotalCount":5,"Next":0}"#)
                .contains("no GroupIdList")
        );
        assert!(read_page(br#"{"ActionStatus":"OK","ErrorCode":0,"TotalCount":0,"Next":0}"#).is_ok());
    }

    #[test]
    fn each_group_has_its_own_code_and_the_top_level_code_counts_only_without_entries() {
        let answers =
            |body: &str| read_answers(body.as_bytes(), &["a", "b", "c", "d", "e", "f"], Fields::Type);
        let answer = r#"{"ActionStatus":"FAIL","ErrorCode":10010,"GroupInfo":[
            {"GroupId":"b","ErrorCode":10010,"Type":"Public"},{"GroupId":"a","ErrorCode":0,"Type":"Work","Name":"x"},
            {"GroupId":"c","ErrorCode":10015},{"GroupId":"d"},{"GroupId":"E","ErrorCode":10010},
            {"GroupId":"f","ErrorCode":0}]}"#;
        let code = |code| GroupAnswer { code: Some(code), ..GroupAnswer::default() };
        let private = GroupAnswer { code: Some(0), group_type: GroupType::new("Private"), details: None };
        let none = GroupAnswer::default();
        let expected = [private, code(10010), code(10015), none.clone(), none, code(0)];
        assert_eq!(answers(answer).unwrap(), expected);
        for refusal in [
            r#"{"ActionStatus":"FAIL","ErrorCode":10007,"ErrorInfo":"no"}"#,
            r#"{"ActionStatus":"FAIL","ErrorCode":10007,"ErrorInfo":"no","GroupInfo":[]}"#,
        ] {
            assert_eq!(answers(refusal).unwrap_err().code(), Some(10007), "{refusal}");
        }
        let no_entries = r#"{"ActionStatus":"OK","ErrorCode":0,"GroupInfo":[]}"#;
        for nonsense in
            [r#"{"ActionStatus":"OK","ErrorCode":0}"#, no_entries, "{}", "[]", r#"{"GroupInfo":[{}]}"#]
        {
            assert!(matches!(answers(nonsense), Err(ApiError::Malformed { .. })), "{nonsense}");
        }
    }

    #[test]
    fn the_clock_skew_follows_from_the_date_of_an_answer() {
        let clock = Clock::fixed_at("2026-03-01T08:00:00Z".parse().unwrap());
        let client = client(&clock);
        let skew_after = |date: &'static str| {
            let response =
                HttpResponse { status: StatusCode::OK, date: Some(date.to_owned()), body: Vec::new() };
            let before = client.clock_skew();
            client.update_clock_skew(
                response.time(),
                &Err::<(), _>(ApiError::Status { host: String::new(), status: 502 }),
            );
            assert_eq!(client.clock_skew(), before, "only the API's own answers count");
            client.update_clock_skew(response.time(), &Ok(()));
            client.clock_skew().map(|skew| skew.num_seconds())
        };
        assert_eq!(skew_after("soon"), None);
        assert_eq!(skew_after("Sun, 01 Mar 2026 07:55:00 GMT"), Some(300));
        assert_eq!(skew_after("Sun, 01 Mar 2026 09:00:00 GMT"), Some(-3600));
    }

    #[test]
    fn a_malformed_body_is_described_and_not_quoted() {
        assert!(error_of("<html>secret</html>").contains("HTML instead of JSON"));
        assert!(error_of(r#"{"ErrorCode":0,"GroupIdL"#).contains("ends after 24 bytes"));
        let wrong_type = error_of(r#"{"ActionStatus":"OK","ErrorCode":0,"Next":"secret"}"#);
        assert!(wrong_type.contains("wrong type") && !wrong_type.contains("secret"), "{wrong_type}");
    }

    #[tokio::test]
    async fn errors_and_debug_output_contain_neither_url_nor_signature() {
        let client = client(&Clock::system());
        let request = ListRequest { limit: 1, next: 0, group_type: None };
        let error = client.list_groups(&request).await.unwrap_err();
        for text in [format!("{error} {error:?}"), format!("{client:?}"), format!("{:?}", client.settings)] {
            assert!(!text.contains("usersig=") && !text.contains("eJ"), "{text}");
        }
    }

    #[test]
    fn a_signature_that_the_api_repeats_is_removed_from_the_error() {
        let client = client(&Clock::system());
        let usersig = client.usersig();
        let info = format!("bad sig {}", usersig.expose());
        let error = client.explain(ApiError::Answered { code: 70003, info, advice: None }, &usersig);
        assert!(!format!("{error} {error:?}").contains(usersig.expose()));
    }
}
