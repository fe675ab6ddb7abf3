//! The HTTP side of the simulator: checks a request as the API documents it and writes the answer.
//!
//! The request is read here with eyes of its own, not with the client's types: what the two misread in common, no
//! test would find.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, DATE};
use axum::http::{HeaderValue, StatusCode, Uri};
use axum::middleware::map_response_with_state;
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::{Extension, Router};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::error::Category;

use super::catalog::{Page, PageRequest};
use super::fault::Fault;
use super::info::AskedInfo;
use super::line::Cut;
use super::random::invented_id;
use super::{Call, SeenRequest, SimulatedApp, lock};
use crate::model::{GroupIds, SdkAppId};
use crate::tencent::usersig::{self, InvalidUserSig};
use crate::tencent::wire::{GROUP_INFO_PATH, LIST_GROUPS_PATH, MAX_LIMIT};

/// A little more than the head of an answer has.
const HEAD_BYTES: usize = 128;

pub(super) fn router(app: Arc<SimulatedApp>) -> Router {
    let wrong_method =
        || async { Refusal(60002, "HTTP parse error: the API takes POST only").into_response() };
    let wrong_path = || async { Refusal(60009, "no such resource, check the URL").into_response() };
    Router::new()
        .route(LIST_GROUPS_PATH, post(list_groups).fallback(wrong_method))
        .route(GROUP_INFO_PATH, post(group_info).fallback(wrong_method))
        .fallback(wrong_path)
        .layer(map_response_with_state(Arc::clone(&app), date))
        .with_state(app)
}

/// Marks a response that is to have no `Date` header.
#[derive(Clone)]
struct WithoutDate;

async fn date(State(app): State<Arc<SimulatedApp>>, mut response: Response) -> Response {
    if response.extensions().get::<WithoutDate>().is_none() {
        let date = app.date().format("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let date = HeaderValue::try_from(date).expect("a formatted date is ASCII");
        response.headers_mut().insert(DATE, date);
    }
    response
}

async fn list_groups(
    State(app): State<Arc<SimulatedApp>>,
    Extension(cut): Extension<Cut>,
    uri: Uri,
    body: Bytes,
) -> Response {
    let received = app.receive_list(&uri, &body);
    respond(&app, &cut, &uri, received).await
}

async fn group_info(
    State(app): State<Arc<SimulatedApp>>,
    Extension(cut): Extension<Cut>,
    uri: Uri,
    body: Bytes,
) -> Response {
    let received = app.receive_info(&uri, &body);
    respond(&app, &cut, &uri, received).await
}

/// A request that was noted, and what it asks for or why it may not.
pub(super) type Received = (SeenRequest, Result<Asked, Refusal>);

async fn respond(app: &SimulatedApp, cut: &Cut, uri: &Uri, received: Received) -> Response {
    tokio::select! {
        response = answer(app, cut, uri, received) => response,
        () = app.stopped.cancelled() => cut_off(cut),
    }
}

async fn answer(app: &SimulatedApp, cut: &Cut, uri: &Uri, received: Received) -> Response {
    app.call_hooks(&received.0);
    for gate in app.gates(&received.0) {
        gate.pass().await;
    }
    if received.0.call == Call::Info && !app.settings.info_delay.is_zero() {
        tokio::time::sleep(app.settings.info_delay).await;
    }
    let faults = app.faults(&received.0);
    let without_date = faults.contains(&Fault::NoDate);
    let mut response = answer_with(app, cut, uri, received, faults).await;
    if without_date {
        response.extensions_mut().insert(WithoutDate);
    }
    response
}

async fn answer_with(
    app: &SimulatedApp,
    cut: &Cut,
    uri: &Uri,
    (request, mut asked): Received,
    faults: Vec<Fault>,
) -> Response {
    let mut truncated = false;
    let mut on_page = Vec::new();
    for fault in faults {
        match fault {
            Fault::Delay(pause) => tokio::time::sleep(pause).await,
            Fault::Timeout => std::future::pending().await,
            Fault::Reset => return cut_off(cut),
            Fault::TruncatedBody => truncated = true,
            Fault::ErrorCode(code) => asked = Err(Refusal(code, "scripted")),
            fault => match fault.instead(uri) {
                Some(response) => return response,
                None => on_page.push(fault),
            },
        }
    }
    let answered = asked.and_then(|asked| match asked {
        Asked::List(asked) => app.list(request.number, &asked, &on_page),
        Asked::Info(asked) => Ok(app.group_info(&asked, &on_page)),
    });
    let (code, body) = match answered {
        Ok(body) => (0, body),
        Err(refusal) => (refusal.0, refusal.body()),
    };
    app.answered(request.number, code);
    if truncated {
        cut.after(HEAD_BYTES + body.len() / 2);
    }
    json(body)
}

/// Ends the connection; the response that HTTP needs is never sent.
fn cut_off(cut: &Cut) -> Response {
    cut.after(0);
    StatusCode::SERVICE_UNAVAILABLE.into_response()
}

fn json(body: Vec<u8>) -> Response {
    ([(CONTENT_TYPE, "application/json")], body).into_response()
}

/// An error code of the documentation (269/1671) with its `ErrorInfo`. The HTTP status is 200 all the same.
#[derive(Clone, Copy)]
pub(super) struct Refusal(pub(super) i64, pub(super) &'static str);

impl Refusal {
    fn body(self) -> Vec<u8> {
        let Self(code, info) = self;
        serde_json::json!({ "ActionStatus": "FAIL", "ErrorCode": code, "ErrorInfo": info })
            .to_string()
            .into_bytes()
    }

    fn into_response(self) -> Response {
        json(self.body())
    }
}

pub(super) enum Asked {
    List(AskedList),
    Info(AskedInfo),
}

/// The body of a request for a page. `{}` is a whole one.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct AskedList {
    limit: u32,
    next: u64,
    group_type: Option<String>,
}

impl Default for AskedList {
    fn default() -> Self {
        Self { limit: MAX_LIMIT, next: 0, group_type: None }
    }
}

pub(super) fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| match error.classify() {
        Category::Data => Refusal(10004, "a field is not of the documented type"),
        _ => Refusal(60003, "the request is not JSON"),
    })
}

/// An answer that faults may still bend.
pub(super) struct Draft {
    pub(super) page: Page,
    pub(super) total_count: Option<u64>,
    pub(super) next: Option<serde_json::Value>,
    pub(super) broken_ids: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Answer<'a> {
    action_status: &'static str,
    error_info: &'static str,
    error_code: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    total_count: Option<u64>,
    #[serde(serialize_with = "entries")]
    group_id_list: &'a GroupIds,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<serde_json::Value>,
}

fn entries<S: Serializer>(ids: &GroupIds, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Entry<'a> {
        group_id: &'a str,
    }
    serializer.collect_seq(ids.iter().map(|group_id| Entry { group_id }))
}

impl SimulatedApp {
    fn receive_list(&self, uri: &Uri, body: &[u8]) -> Received {
        let authentic = self.authenticate(uri);
        let asked = read::<AskedList>(body).and_then(|asked| {
            let lawful = (1..=MAX_LIMIT).contains(&asked.limit);
            if lawful { Ok(asked) } else { Err(Refusal(10004, "Limit must be between 1 and 10000")) }
        });
        let mut traffic = lock(&self.traffic);
        let arrived_at = Instant::now();
        let (group_type, limit, next) =
            asked.as_ref().map_or((None, 0, 0), |asked| (asked.group_type.clone(), asked.limit, asked.next));
        let request = traffic.note_list(arrived_at, group_type, limit, next);
        let admitted = authentic.and_then(|()| {
            let too_early =
                self.settings.min_interval.is_some_and(|interval| !traffic.admit(arrived_at, interval));
            // Which code the limit answers with is not documented; 10006 is the one that the documentation
            // explains with this very call (api facts, section 1).
            if too_early { Err(Refusal(10006, "operations come too frequently")) } else { Ok(()) }
        });
        (request, admitted.and(asked).map(Asked::List))
    }

    pub(super) fn authenticate(&self, uri: &Uri) -> Result<(), Refusal> {
        let query = Query::of(uri);
        let settings = &self.settings;
        let app = query.get("sdkappid").ok_or(Refusal(60012, "sdkappid is missing from the URL"))?;
        let app = app.parse().ok().and_then(SdkAppId::new).ok_or(Refusal(60006, "sdkappid is invalid"))?;
        if app != settings.sdk_app_id {
            return Err(Refusal(70020, "no such sdkappid in this data centre"));
        }
        let identifier =
            query.get("identifier").ok_or(Refusal(60004, "identifier is missing from the URL"))?;
        let usersig = query.get("usersig").filter(|usersig| !usersig.is_empty());
        let usersig = usersig.ok_or(Refusal(70002, "the UserSig has length 0"))?;
        let now = settings.clock.now().timestamp();
        let claims =
            usersig::verify(usersig, &settings.secret_key, now).map_err(|invalid| match invalid {
                InvalidUserSig::Undecodable => Refusal(70003, "the UserSig is illegal, perhaps truncated"),
                InvalidUserSig::WrongKey => Refusal(70009, "the UserSig was made with another key"),
                InvalidUserSig::Expired => Refusal(70001, "the UserSig has expired"),
            })?;
        if claims.sdk_app_id != app {
            return Err(Refusal(70014, "the sdkappid differs from the one in the UserSig"));
        }
        if claims.identifier != identifier {
            return Err(Refusal(70013, "the identifier differs from the one in the UserSig"));
        }
        if identifier != settings.identifier {
            return Err(Refusal(10007, "the identifier is not an administrator of the app"));
        }
        if query.get("random").is_none_or(|random| random.parse::<u32>().is_err()) {
            return Err(Refusal(60002, "random must be an unsigned 32-bit number"));
        }
        if query.get("contenttype") != Some("json") {
            return Err(Refusal(60002, "contenttype must be json"));
        }
        Ok(())
    }

    fn list(&self, request_number: u64, asked: &AskedList, faults: &[Fault]) -> Result<Vec<u8>, Refusal> {
        let filter = asked.group_type.as_deref().filter(|_| !faults.contains(&Fault::IgnoreGroupType));
        if filter.is_some_and(|group_type| !lock(&self.groups).catalog().knows_type(group_type)) {
            return Err(Refusal(10004, "unknown GroupType"));
        }
        let leave_out_one_in: Vec<u64> = faults.iter().filter_map(Fault::leaves_out_one_in).collect();
        let request = PageRequest {
            request_number,
            filter,
            next: asked.next,
            limit: asked.limit as usize,
            leave_out_one_in: &leave_out_one_in,
        };
        let page = self
            .read_groups(faults, |groups| groups.page(request))
            .ok_or(Refusal(10004, "unknown Next for this GroupType"))?;
        let mut draft = Draft {
            total_count: Some(page.total_count),
            next: Some(page.next.into()),
            page,
            broken_ids: false,
        };
        for fault in faults {
            match fault {
                Fault::InventIds => self.invent(&mut draft, asked),
                fault => fault.apply(&mut draft),
            }
        }
        let mut body = serde_json::to_vec(&Answer {
            action_status: "OK",
            error_info: "",
            error_code: 0,
            total_count: draft.total_count,
            group_id_list: &draft.page.ids,
            next: draft.next,
        })
        .expect("texts and numbers always serialise");
        if draft.broken_ids {
            add_broken_ids(&mut body, draft.page.ids.is_empty());
        }
        if body.len() <= self.settings.max_answer_bytes {
            Ok(body)
        } else {
            Err(Refusal(10018, "the answer would be too large"))
        }
    }

    /// Replaces the ids of the page by ids that no group has, and its `Next` by a new cursor.
    fn invent(&self, draft: &mut Draft, asked: &AskedList) {
        let community = asked.group_type.as_deref() == Some("Community");
        let first = self.invented.fetch_add(asked.limit.into(), Ordering::Relaxed);
        draft.page.ids.clear();
        for n in first..first + u64::from(asked.limit) {
            draft.page.ids.push(&invented_id(community, n, self.settings.seed));
        }
        draft.total_count = Some(2);
        draft.next = Some(draft.page.invented.into());
    }
}

/// Inserts entries whose ids are not valid text at the beginning of the page's list. The serialiser cannot write such
/// ids, so they go into the finished body.
fn add_broken_ids(body: &mut Vec<u8>, list_is_empty: bool) {
    const LIST: &[u8] = br#""GroupIdList":["#;
    const ENTRIES: &[u8] = b"{\"GroupId\":\"\\ud800x\"},{\"GroupId\":\"\\udc00\"},{\"GroupId\":\"\xFF\xFE\"}";
    let list_at = body.windows(LIST.len()).position(|bytes| bytes == LIST).expect("every page has a list");
    let at = list_at + LIST.len();
    let comma: &[u8] = if list_is_empty { b"" } else { b"," };
    body.splice(at..at, [ENTRIES, comma].concat());
}

/// The parameters of a URL, decoded. Names and values are case-sensitive; of a repeated one the first counts.
struct Query(Vec<(String, String)>);

impl Query {
    fn of(uri: &Uri) -> Self {
        let url = reqwest::Url::parse(&format!("http://simulator/?{}", uri.query().unwrap_or_default()));
        Self(url.map(|url| url.query_pairs().into_owned().collect()).unwrap_or_default())
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find_map(|(key, value)| (key == name).then_some(value.as_str()))
    }
}
