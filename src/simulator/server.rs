//! The HTTP side of the simulator: checks a request as the API documents it and writes the answer.
//!
//! The request is read here with eyes of its own, not with the client's types: what the two misread in common, no
//! test would find.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{ConnectInfo, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::error::Category;

use super::fault::Fault;
use super::line::Cut;
use super::state::Page;
use super::{SeenRequest, SimulatedApp, lock};
use crate::model::{GroupIds, SdkAppId};
use crate::tencent::usersig::{self, InvalidUserSig};
use crate::tencent::wire::{GROUP_INFO_PATH, LIST_GROUPS_PATH, MAX_INFO_IDS, MAX_LIMIT};

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
        .with_state(app)
}

async fn list_groups(
    State(app): State<Arc<SimulatedApp>>,
    ConnectInfo(cut): ConnectInfo<Cut>,
    uri: Uri,
    body: Bytes,
) -> Response {
    let received = app.receive_list(&uri, &body);
    respond(&app, &cut, &uri, received).await
}

async fn group_info(
    State(app): State<Arc<SimulatedApp>>,
    ConnectInfo(cut): ConnectInfo<Cut>,
    uri: Uri,
    body: Bytes,
) -> Response {
    let received = app.receive_info(&uri, &body);
    respond(&app, &cut, &uri, received).await
}

/// A request that was noted, and what it asks for or why it may not.
type Received = (SeenRequest, Result<Asked, Refusal>);

async fn respond(app: &SimulatedApp, cut: &Cut, uri: &Uri, received: Received) -> Response {
    tokio::select! {
        response = answer(app, cut, uri, received) => response,
        () = app.stopped.cancelled() => cut_off(cut),
    }
}

async fn answer(app: &SimulatedApp, cut: &Cut, uri: &Uri, received: Received) -> Response {
    let (request, mut asked) = received;
    app.call_hooks(&request);
    for gate in app.gates(&request) {
        gate.pass().await;
    }
    let mut truncated = false;
    let mut on_page = Vec::new();
    for fault in app.faults(&request) {
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
        Asked::List(asked) => app.list(&asked, &on_page),
        Asked::Info(asked) => Ok(app.tell(&asked, &on_page)),
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
struct Refusal(i64, &'static str);

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

enum Asked {
    List(AskedList),
    Info(AskedInfo),
}

/// The body of a request for a page. `{}` is a whole one.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct AskedList {
    limit: u32,
    next: u64,
    group_type: Option<String>,
}

impl Default for AskedList {
    fn default() -> Self {
        Self { limit: MAX_LIMIT, next: 0, group_type: None }
    }
}

/// The body of a request about single groups.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AskedInfo {
    group_id_list: Vec<String>,
    #[serde(default)]
    response_filter: AskedFilter,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AskedFilter {
    group_base_info_filter: Option<Vec<String>>,
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
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

    /// The limit of this call, 200 a second, is not simulated.
    fn receive_info(&self, uri: &Uri, body: &[u8]) -> Received {
        let authentic = self.authenticate(uri);
        let asked = read::<AskedInfo>(body).and_then(|asked| {
            let lawful = (1..=MAX_INFO_IDS).contains(&asked.group_id_list.len());
            if lawful { Ok(asked) } else { Err(Refusal(10004, "GroupIdList must have 1 to 50 groups")) }
        });
        let groups = asked.as_ref().map_or_else(|_| Vec::new(), |asked| asked.group_id_list.clone());
        let request = lock(&self.traffic).note_info(Instant::now(), groups);
        (request, authentic.and(asked).map(Asked::Info))
    }

    fn authenticate(&self, uri: &Uri) -> Result<(), Refusal> {
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

    fn list(&self, asked: &AskedList, faults: &[Fault]) -> Result<Vec<u8>, Refusal> {
        let filter = asked.group_type.as_deref().filter(|_| !faults.contains(&Fault::IgnoreGroupType));
        let page = lock(&self.groups)
            .page(filter, asked.next, asked.limit as usize)
            .ok_or(Refusal(10004, "unknown GroupType or Next"))?;
        let mut draft = Draft { total_count: Some(page.total_count), next: Some(page.next.into()), page };
        for fault in faults {
            fault.bend(&mut draft);
        }
        let body = serde_json::to_vec(&Answer {
            action_status: "OK",
            error_info: "",
            error_code: 0,
            total_count: draft.total_count,
            group_id_list: &draft.page.ids,
            next: draft.next,
        })
        .expect("texts and numbers always serialise");
        if body.len() <= self.settings.max_answer_bytes {
            Ok(body)
        } else {
            Err(Refusal(10018, "the answer would be too large"))
        }
    }
}

impl SimulatedApp {
    /// What there is to say of single groups: of each its type, or why not.
    fn tell(&self, asked: &AskedInfo, faults: &[Fault]) -> Vec<u8> {
        let filter = asked.response_filter.group_base_info_filter.as_deref();
        let with_type = filter.is_none_or(|fields| fields.iter().any(|field| field == "Type"))
            && !faults.contains(&Fault::NoGroupTypes);
        let groups = lock(&self.groups);
        let tell = |id: &String| {
            let scripted = faults.iter().find_map(|fault| match fault {
                Fault::GroupCode(of, code) if of == id => Some(*code),
                _ => None,
            });
            let code = match scripted {
                Some(code) => code,
                None if groups.type_of(id).is_some() => 0,
                None => 10010,
            };
            let mut told = serde_json::json!({ "GroupId": id, "ErrorCode": code, "ErrorInfo": "" });
            if let Some(group_type) = groups.type_of(id).filter(|_| code == 0 && with_type) {
                told["Type"] = group_type.into();
            }
            told
        };
        let told: Vec<serde_json::Value> = asked.group_id_list.iter().map(tell).collect();
        let code = faults.iter().find_map(|fault| match fault {
            Fault::CodeBesideGroups(code) => Some(*code),
            _ => None,
        });
        let status = if code.is_some() { "FAIL" } else { "OK" };
        serde_json::json!({
            "ActionStatus": status, "ErrorCode": code.unwrap_or(0), "ErrorInfo": "", "GroupInfo": told
        })
        .to_string()
        .into_bytes()
    }
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
