//! The JSON API. It has one list for each view, with the name of the view and keyset pagination.
//! docs/api.md describes it.

use axum::Json;
use axum::extract::{Path, Query, State};
use serde_json::{Value, json};

use super::apps::{self, AppSummary};
use super::error::RequestError;
use super::parameters::{Pairs, Parameters, quoted};
use super::sources::Sources;
use crate::model::SdkAppId;
use crate::store::{AppId, EventsAfter, KeysetPage, Store};

type Answer = Result<Json<Value>, RequestError>;

/// The parameters of a list with keyset pagination.
const PAGE_PARAMETERS: [&str; 2] = ["before", "limit"];
/// The groups that follow a page of a search are counted up to this number.
const MAX_COUNTED: i64 = 1000;

pub(super) async fn apps(State(sources): State<Sources>, Query(pairs): Query<Pairs>) -> Answer {
    Parameters::of(pairs, &[])?;
    let apps: Vec<AppSummary> = apps::all(&sources).await?.into_iter().map(|(app, _)| app).collect();
    Ok(Json(json!({ "version": env!("CARGO_PKG_VERSION"), "apps": apps })))
}

pub(super) async fn app(
    State(sources): State<Sources>,
    Path(app): Path<String>,
    Query(pairs): Query<Pairs>,
) -> Answer {
    Parameters::of(pairs, &[])?;
    let sdk_app_id = sdk_app_id(&app)?;
    let found =
        apps::all(&sources).await?.into_iter().find(|(app, _)| app.sdk_app_id == Some(sdk_app_id.get()));
    let (app, type_status) = found.ok_or_else(|| no_app(&app))?;
    Ok(Json(json!({ "app_status": app, "type_status": type_status })))
}

pub(super) async fn crawls(
    State(sources): State<Sources>,
    Path(app): Path<String>,
    Query(pairs): Query<Pairs>,
) -> Answer {
    let page = Parameters::of(pairs, &PAGE_PARAMETERS)?.page()?;
    let (store, app) = find_app(&sources, &app).await?;
    let crawls = store.crawls(app.id, page).await?;
    let next = next_page(&crawls, page, |crawl| crawl.crawl_id);
    Ok(app.answer("crawls", json!(crawls), json!(next)))
}

pub(super) async fn app_counts(
    State(sources): State<Sources>,
    Path(app): Path<String>,
    Query(pairs): Query<Pairs>,
) -> Answer {
    let page = Parameters::of(pairs, &PAGE_PARAMETERS)?.page()?;
    let (store, app) = find_app(&sources, &app).await?;
    let counts = store.app_counts(app.id, page).await?;
    let next = next_page(&counts, page, |count| count.crawl_id);
    Ok(app.answer("app_counts", json!(counts), json!(next)))
}

pub(super) async fn type_counts(
    State(sources): State<Sources>,
    Path(app): Path<String>,
    Query(pairs): Query<Pairs>,
) -> Answer {
    let page = Parameters::of(pairs, &PAGE_PARAMETERS)?.page()?;
    let (store, app) = find_app(&sources, &app).await?;
    let (counts, next) = store.type_counts(app.id, page).await?;
    Ok(app.answer("type_counts", json!(counts), json!(next)))
}

pub(super) async fn daily_counts(
    State(sources): State<Sources>,
    Path(app): Path<String>,
    Query(pairs): Query<Pairs>,
) -> Answer {
    let (before, days) = Parameters::of(pairs, &PAGE_PARAMETERS)?.day_page()?;
    let (store, app) = find_app(&sources, &app).await?;
    let (counts, next) = store.daily_counts(app.id, &before, days).await?;
    Ok(app.answer("daily_counts", json!(counts), json!(next)))
}

pub(super) async fn group_events(
    State(sources): State<Sources>,
    Path(app): Path<String>,
    Query(pairs): Query<Pairs>,
) -> Answer {
    let page = Parameters::of(pairs, &PAGE_PARAMETERS)?.page()?;
    let (store, app) = find_app(&sources, &app).await?;
    let events = store.group_events(app.id, None, page).await?;
    let next = next_page(&events, page, |event| event.event_id);
    Ok(app.answer("group_events", json!(events), json!(next)))
}

/// Answers with the change feed: events after a cursor, oldest first, and the next cursor.
pub(super) async fn events(
    State(sources): State<Sources>,
    Path(app): Path<String>,
    Query(pairs): Query<Pairs>,
) -> Answer {
    let parameters = Parameters::of(pairs, &["after", "limit"])?;
    let (after, limit) = (parameters.after_event()?, parameters.event_limit()?);
    let (store, app) = find_app(&sources, &app).await?;
    match store.events_after(app.id, after, limit).await? {
        EventsAfter::Events(events) => {
            let mut answer = app.head();
            answer["next_after"] = json!(events.last().map_or(after, |event| event.event_id));
            answer["events"] = json!(events);
            Ok(Json(answer))
        }
        EventsAfter::Removed { continue_after } => Err(RequestError::Gone(format!(
            "retention has removed events after {after}; after={continue_after} continues with the \
             oldest event that remains"
        ))),
    }
}

/// Answers with the groups whose ids start with a prefix, including deleted ones, or with the
/// groups that a crawl holds.
pub(super) async fn groups(
    State(sources): State<Sources>,
    Path(app): Path<String>,
    Query(pairs): Query<Pairs>,
) -> Answer {
    let parameters = Parameters::of(pairs, &["prefix", "held_by", "after", "limit"])?;
    let (prefix, after, limit) = (parameters.text("prefix")?, parameters.text("after")?, parameters.limit()?);
    let held_by = parameters.crawl("held_by")?;
    if held_by.is_some() && !prefix.is_empty() {
        return Err(RequestError::Malformed("send either prefix or held_by".to_owned()));
    }
    let (store, app) = find_app(&sources, &app).await?;
    let groups = match held_by {
        Some(crawl) => store.groups_held_by(app.id, crawl, after, limit).await?,
        None => store.groups_with_prefix(app.id, prefix, after, limit).await?,
    };
    let full = i64::try_from(groups.len()).is_ok_and(|found| found == limit);
    let next = groups.last().filter(|_| full).map(|group| group.group_id.clone());
    // Only a search counts the rest, so that reading all groups stays cheap.
    let more = match &next {
        _ if prefix.is_empty() => None,
        Some(last) => Some(store.count_groups_with_prefix(app.id, prefix, last, MAX_COUNTED).await?),
        None => Some(0),
    };
    let mut answer = app.head();
    answer["groups"] = json!(groups);
    answer["next_after"] = json!(next);
    answer["more_count"] = json!(more);
    Ok(Json(answer))
}

/// Answers with one group and its events.
pub(super) async fn group(
    State(sources): State<Sources>,
    Path(app): Path<String>,
    Query(pairs): Query<Pairs>,
) -> Answer {
    let parameters = Parameters::of(pairs, &["group_id", "before", "limit"])?;
    let (group_id, page) = (parameters.group_id()?, parameters.page()?);
    let (store, app) = find_app(&sources, &app).await?;
    let Some(group) = store.group(app.id, group_id).await? else {
        return Err(RequestError::NotFound(format!("{} never had a group {group_id:?}", app.name)));
    };
    let events = store.group_events(app.id, Some(group_id), page).await?;
    let mut answer = app.head();
    answer["group"] = json!(group);
    answer["next_before"] = json!(next_page(&events, page, |event| event.event_id));
    answer["group_events"] = json!(events);
    Ok(Json(answer))
}

/// The app that a request is about.
struct RequestedApp {
    id: AppId,
    name: String,
    sdk_app_id: SdkAppId,
}

impl RequestedApp {
    fn head(&self) -> Value {
        json!({ "sdk_app_id": self.sdk_app_id.get(), "app": self.name })
    }

    fn answer(&self, list: &str, rows: Value, next: Value) -> Json<Value> {
        let mut answer = self.head();
        answer[list] = rows;
        answer["next_before"] = next;
        Json(answer)
    }
}

async fn find_app(sources: &Sources, app: &str) -> Result<(Store, RequestedApp), RequestError> {
    let sdk_app_id = sdk_app_id(app)?;
    let store = sources.store()?;
    let (id, name) = store.find_app_and_name(sdk_app_id).await?.ok_or_else(|| no_app(app))?;
    Ok((store, RequestedApp { id, name, sdk_app_id }))
}

/// Parses the app in a path. It is an SDKAppID, because another app can get the same name later.
fn sdk_app_id(text: &str) -> Result<SdkAppId, RequestError> {
    text.parse().ok().and_then(SdkAppId::new).ok_or_else(|| no_app(text))
}

fn no_app(app: &str) -> RequestError {
    RequestError::NotFound(format!(
        "there is no app {}; write an SDKAppID, as listed by api/apps",
        quoted(app)
    ))
}

/// Returns the key before which the next page starts, or `None` if this page is not full.
fn next_page<T>(rows: &[T], page: KeysetPage, key: impl Fn(&T) -> i64) -> Option<i64> {
    let full = i64::try_from(rows.len()).is_ok_and(|found| found == page.limit);
    rows.last().filter(|_| full).map(key)
}
