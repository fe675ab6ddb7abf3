//! One call, one answer: no loop, no retry, no pacing. The only place that builds an HTTP client, and the only one
//! that sees a URL with a UserSig in it.

use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::sync::{Mutex, Once, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use reqwest::header::DATE;
use reqwest::redirect::Policy;
use reqwest::{StatusCode, Url};
use serde::Serialize;

use super::error::{ApiError, advice};
use super::usersig::{Claims, SecretKey, UserSig, sign};
use super::wire::{GROUP_INFO_PATH, InfoAnswer, InfoRequest, LIST_GROUPS_PATH, ListAnswer, ListRequest};
use crate::clock::Clock;
use crate::model::{GroupIds, GroupType, SdkAppId, with_causes};

/// Documented answers end at 1 MB; this leaves room and stops a bomb.
const MAX_BODY_BYTES: usize = 8 * 1024 * 1024;
/// What the documentation advises at least (269/1671, error 70001).
const SIGNATURE_LIFETIME: Duration = Duration::from_hours(24);
/// A signature is renewed long before it expires, so that a slow or wrong clock does not matter.
const SIGNATURE_RENEWAL: Duration = Duration::from_hours(6);

/// Whom to call, and as whom.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    pub sdk_app_id: SdkAppId,
    /// An administrator of the app.
    pub identifier: String,
    pub secret_key: SecretKey,
    /// Scheme and host of the app's data centre.
    pub base_url: Url,
    /// For the advice in an error: the configured data centre and the others.
    pub place: String,
    /// From sending a request to the end of its answer. The API itself gives up after 3 s.
    pub request_timeout: Duration,
    pub clock: Clock,
}

/// One answer of `get_appid_group_list`.
#[derive(Debug)]
pub struct Page {
    pub ids: GroupIds,
    /// Listed ids that cannot be group ids: they are not kept and prove nothing.
    pub unusable: u64,
    /// The number of groups in the app, or of the type asked for.
    pub total_count: Option<u64>,
    /// 0: this was the last page.
    pub next: u64,
}

impl Page {
    /// A page that lists nothing.
    #[must_use]
    pub fn empty() -> Self {
        Self { ids: GroupIds::new(), unusable: 0, total_count: None, next: 0 }
    }
}

/// What one answer of `get_group_info` says about one group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupAnswer {
    /// The group's own error code, 0 for a group that exists. `None`: the answer leaves the group out.
    pub code: Option<i64>,
    /// The group's type, if it exists and the answer names it.
    pub group_type: Option<GroupType>,
}

/// A response as HTTP delivered it.
pub(super) struct HttpResponse {
    pub(super) status: StatusCode,
    /// The `Date` header.
    pub(super) date: Option<String>,
    pub(super) body: Vec<u8>,
}

/// The client could not be set up at all.
#[derive(Debug, thiserror::Error)]
#[error(
    "the HTTP client could not be set up: {0}; the system's CA certificates come as ca-certificates, or SSL_CERT_FILE names a \
     file with them"
)]
pub struct ClientError(String);

/// Calls the API as one administrator of one app, over connections that are kept open.
pub struct Client {
    http: reqwest::Client,
    settings: ClientSettings,
    signature: Mutex<Option<Signature>>,
    clock_skew: Mutex<Option<TimeDelta>>,
}

#[derive(Clone)]
struct Signature {
    usersig: UserSig,
    issued_at: i64,
}

impl HttpResponse {
    /// The time of the server that answered (RFC 9110, section 6.6.1).
    fn time(&self) -> Option<DateTime<Utc>> {
        Some(DateTime::parse_from_rfc2822(self.date.as_deref()?).ok()?.to_utc())
    }
}

impl Client {
    pub fn new(settings: ClientSettings) -> Result<Self, ClientError> {
        let http = http_client(&settings).map_err(|error| ClientError(describe(error)))?;
        Ok(Self { http, settings, signature: Mutex::new(None), clock_skew: Mutex::new(None) })
    }

    /// Asks for one page.
    pub async fn list_groups(&self, request: &ListRequest) -> Result<Page, ApiError> {
        let usersig = self.usersig();
        let answer = self.post(LIST_GROUPS_PATH, request, &usersig).await?;
        let page = read_page(&answer.body);
        self.note_date(answer.time(), &page);
        page.map_err(|error| self.explain(error, &usersig))
    }

    /// Asks about single groups, [`super::wire::MAX_INFO_IDS`] at most. The answer is in their order.
    pub async fn group_answers(&self, ids: &[&str]) -> Result<Vec<GroupAnswer>, ApiError> {
        let usersig = self.usersig();
        let answer = self.post(GROUP_INFO_PATH, &InfoRequest::types_of(ids), &usersig).await?;
        let answers = read_answers(&answer.body, ids);
        self.note_date(answer.time(), &answers);
        answers.map_err(|error| self.explain(error, &usersig))
    }

    /// Makes the next call sign anew: the API may have been told to forget earlier signatures.
    pub fn renew_signature(&self) {
        *self.signature.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// By how much this machine's clock is ahead of the API's, by the `Date` of its last answer: negative if it is behind.
    /// `None` until an answer had a `Date`.
    #[must_use]
    pub fn clock_skew(&self) -> Option<TimeDelta> {
        *self.clock_skew.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what the `Date` of an answer says of the clock, if the API itself answered: a proxy's page has one too.
    fn note_date<T>(&self, date: Option<DateTime<Utc>>, read: &Result<T, ApiError>) {
        let by_the_api = matches!(read, Ok(_) | Err(ApiError::Answered { .. }));
        if let Some(date) = date.filter(|_| by_the_api) {
            let skew = self.settings.clock.now() - date;
            *self.clock_skew.lock().unwrap_or_else(PoisonError::into_inner) = Some(skew);
        }
    }

    pub(super) fn usersig(&self) -> UserSig {
        let now = self.settings.clock.now().timestamp();
        let mut cached = self.signature.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(signature) = cached.as_ref()
            // A clock that was set back makes a cached signature one from the future.
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
            Err(ApiError::Status { status: response.status.as_u16() })
        }
    }

    /// Posts a body and returns the response, whatever its HTTP status.
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
        let json = serde_json::to_vec(body).expect("numbers and strings always serialise");
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
        // The body of an error is read too, or its connection could not be used again.
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > MAX_BODY_BYTES {
                return Err(ApiError::TooLarge { limit: MAX_BODY_BYTES });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(HttpResponse { status, date, body })
    }

    /// The one way from reqwest's errors, which carry the URL, to ours, which do not.
    fn transport_error(&self, error: reqwest::Error) -> ApiError {
        if error.is_timeout() {
            return ApiError::Timeout { after: self.settings.request_timeout };
        }
        if let Some(detail) = untrusted(&error) {
            return ApiError::Untrusted { detail };
        }
        let connecting = error.is_connect();
        let detail = describe(error);
        if connecting { ApiError::Connect { detail } } else { ApiError::Broken { detail } }
    }

    /// Adds what to change to an error the API answered, and makes sure it does not repeat the signature to us.
    fn explain(&self, error: ApiError, usersig: &UserSig) -> ApiError {
        let ApiError::Answered { code, info, .. } = error else { return error };
        let info = info.replace(usersig.expose(), "(UserSig hidden)");
        let info = info.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect();
        ApiError::Answered {
            code,
            info,
            advice: advice(code, &self.settings.identifier, &self.settings.place),
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("sdk_app_id", &self.settings.sdk_app_id).finish_non_exhaustive()
    }
}

#[expect(clippy::disallowed_methods, reason = "the one lawful place")]
fn http_client(settings: &ClientSettings) -> reqwest::Result<reqwest::Client> {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        // Fails only if a provider is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
        .redirect(Policy::none())
        .https_only(settings.base_url.scheme() == "https")
        .connect_timeout(settings.request_timeout)
        .timeout(settings.request_timeout)
        .tcp_nodelay(true)
        .pool_max_idle_per_host(1);
    if is_loopback(&settings.base_url) {
        builder = builder.no_proxy();
        if settings.base_url.scheme() == "http" {
            // Nothing goes over TLS then, and the simulator shall do on a machine without CA certificates.
            builder = builder.tls_certs_only([]);
        }
    }
    builder.build()
}

/// Whether a URL stays on this machine.
#[must_use]
pub fn is_loopback(url: &Url) -> bool {
    match url.host_str() {
        Some("localhost") => true,
        Some(host) => {
            host.trim_matches(['[', ']']).parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
        }
        None => false,
    }
}

/// An HTTP error's causes without its URL.
fn describe(error: reqwest::Error) -> String {
    with_causes(&error.without_url())
}

/// What is wrong with the server's certificate, if that is what went wrong.
fn untrusted(error: &reqwest::Error) -> Option<String> {
    let mut cause: Option<&(dyn Error + 'static)> = error.source();
    while let Some(error) = cause {
        if let Some(rustls::Error::InvalidCertificate(what)) = error.downcast_ref() {
            return Some(what.to_string());
        }
        // An I/O error hides the one it was made of from `source`.
        let hidden = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        cause = match hidden {
            Some(hidden) => Some(hidden),
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
    let next = answer.next.ok_or_else(|| malformed("no Next: the end of the list cannot be told"))?;
    let listed = match answer.group_id_list {
        Some(listed) => listed,
        // An empty list may well be left out, but only where the count says so too.
        None if answer.total_count == Some(0) => super::wire::ListedIds::default(),
        None => return Err(malformed("no GroupIdList")),
    };
    Ok(Page { ids: listed.ids, unusable: listed.unusable, total_count: answer.total_count, next })
}

fn read_answers(body: &[u8], ids: &[&str]) -> Result<Vec<GroupAnswer>, ApiError> {
    let malformed = |what: &str| ApiError::Malformed { what: what.to_owned() };
    let answer: InfoAnswer = serde_json::from_slice(body).map_err(|error| describe_json(&error, body))?;
    // The code of the whole answer counts only where nothing is said of single groups (269/1616).
    let Some(entries) = answer.group_info else {
        return Err(match answer.error_code {
            Some(code) if code != 0 => {
                ApiError::Answered { code, info: answer.error_info.unwrap_or_default(), advice: None }
            }
            _ => malformed("no GroupInfo"),
        });
    };
    let answers: HashMap<&str, GroupAnswer> = entries
        .iter()
        .map(|entry| {
            let stands = entry.error_code == Some(0);
            let group_type = entry.group_type.as_deref().filter(|_| stands).and_then(GroupType::new);
            (entry.group_id.as_str(), GroupAnswer { code: entry.error_code, group_type })
        })
        .collect();
    Ok(ids.iter().map(|id| answers.get(id).cloned().unwrap_or_default()).collect())
}

/// Says what is wrong with a body without repeating it.
pub(super) fn describe_json(error: &serde_json::Error, body: &[u8]) -> ApiError {
    let start = body.trim_ascii_start();
    let what = if start.starts_with(b"<") {
        "HTML instead of JSON (a proxy or a captive portal may have answered)".to_owned()
    } else if error.is_eof() {
        format!("the JSON ends after {} bytes", body.len())
    } else if error.is_data() {
        format!("a field has the wrong type at line {} column {}", error.line(), error.column())
    } else {
        format!("no JSON at line {} column {}", error.line(), error.column())
    };
    ApiError::Malformed { what }
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
            place: String::new(),
            request_timeout: Duration::from_secs(1),
            clock: clock.clone(),
        })
        .unwrap()
    }

    fn error_of(body: &str) -> String {
        read_page(body.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn a_signature_is_kept_for_hours_and_made_anew_well_before_it_expires() {
        let start = chrono::DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        let clock = Clock::standing_at(start);
        let client = client(&clock);
        let first = client.usersig();
        clock.set(start + Duration::from_hours(5));
        assert_eq!(client.usersig().expose(), first.expose());
        clock.set(start + Duration::from_hours(7));
        assert_ne!(client.usersig().expose(), first.expose());
    }

    #[test]
    fn a_clock_set_back_makes_a_new_signature() {
        let start = chrono::DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        let clock = Clock::standing_at(start);
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
    fn each_group_has_its_own_code_and_the_code_of_the_whole_answer_counts_only_without_them() {
        let answers = |body: &str| read_answers(body.as_bytes(), &["a", "b", "c", "d", "e", "f"]);
        let answer = r#"{"ActionStatus":"FAIL","ErrorCode":10010,"GroupInfo":[
            {"GroupId":"b","ErrorCode":10010,"Type":"Public"},{"GroupId":"a","ErrorCode":0,"Type":"Work","Name":"x"},
            {"GroupId":"c","ErrorCode":10015},{"GroupId":"d"},{"GroupId":"E","ErrorCode":10010},
            {"GroupId":"f","ErrorCode":0}]}"#;
        let code = |code| GroupAnswer { code: Some(code), group_type: None };
        let private = GroupAnswer { code: Some(0), group_type: GroupType::new("Private") };
        let none = GroupAnswer::default();
        let expected = [private, code(10010), code(10015), none.clone(), none, code(0)];
        assert_eq!(answers(answer).unwrap(), expected);
        let refused = answers(r#"{"ActionStatus":"FAIL","ErrorCode":10007,"ErrorInfo":"no"}"#).unwrap_err();
        assert_eq!(refused.code(), Some(10007));
        for nonsense in [r#"{"ActionStatus":"OK","ErrorCode":0}"#, "{}", "[]", r#"{"GroupInfo":[{}]}"#] {
            assert!(matches!(answers(nonsense), Err(ApiError::Malformed { .. })), "{nonsense}");
        }
    }

    #[test]
    fn the_date_of_an_answer_tells_by_how_much_the_clocks_differ() {
        let clock = Clock::standing_at("2026-03-01T08:00:00Z".parse().unwrap());
        let client = client(&clock);
        let note = |date: &'static str| {
            let response =
                HttpResponse { status: StatusCode::OK, date: Some(date.to_owned()), body: Vec::new() };
            let before = client.clock_skew();
            client.note_date(response.time(), &Err::<(), _>(ApiError::Status { status: 502 }));
            assert_eq!(client.clock_skew(), before, "only the API's own answers count");
            client.note_date(response.time(), &Ok(()));
            client.clock_skew().map(|skew| skew.num_seconds())
        };
        assert_eq!(note("soon"), None);
        assert_eq!(note("Sun, 01 Mar 2026 07:55:00 GMT"), Some(300));
        assert_eq!(note("Sun, 01 Mar 2026 09:00:00 GMT"), Some(-3600));
    }

    #[test]
    fn a_body_that_is_no_answer_is_described_and_not_repeated() {
        assert!(error_of("<html>secret</html>").contains("HTML instead of JSON"));
        assert!(error_of(r#"{"ErrorCode":0,"GroupIdL"#).contains("ends after 24 bytes"));
        let wrong_type = error_of(r#"{"ActionStatus":"OK","ErrorCode":0,"Next":"secret"}"#);
        assert!(wrong_type.contains("wrong type") && !wrong_type.contains("secret"), "{wrong_type}");
    }

    #[tokio::test]
    async fn neither_errors_nor_debug_show_a_url_or_a_signature() {
        let client = client(&Clock::system());
        let request = ListRequest { limit: 1, next: 0, group_type: None };
        let error = client.list_groups(&request).await.unwrap_err();
        for text in [format!("{error} {error:?}"), format!("{client:?}"), format!("{:?}", client.settings)] {
            assert!(!text.contains("usersig=") && !text.contains("eJ"), "{text}");
        }
    }

    #[test]
    fn a_signature_the_api_repeats_is_taken_out_of_the_error() {
        let client = client(&Clock::system());
        let usersig = client.usersig();
        let info = format!("bad sig {}", usersig.expose());
        let error = client.explain(ApiError::Answered { code: 70003, info, advice: None }, &usersig);
        assert!(!format!("{error} {error:?}").contains(usersig.expose()));
    }

    #[test]
    fn loopback_is_told_from_other_hosts() {
        for (url, expected) in [
            ("http://127.0.0.1:80", true),
            ("http://[::1]:80", true),
            ("http://localhost", true),
            ("https://console.tim.qq.com", false),
            ("http://127.0.0.1.example.com", false),
        ] {
            assert_eq!(is_loopback(&Url::parse(url).unwrap()), expected, "{url}");
        }
    }
}
