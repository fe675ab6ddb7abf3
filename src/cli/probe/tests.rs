//! Tests of the evaluation of answers.

use serde_json::{Value, json};

use super::questions::*;
use super::*;

fn info(body: Value) -> RawAnswer {
    RawAnswer { call: Call::Info, status: 200, date: None, body }
}

fn list(body: Value) -> ProbeResult<Listed> {
    page(&RawAnswer { call: Call::List, status: 200, date: None, body })
}

/// Returns the only page of a list of these groups.
fn listing(ids: &[&str]) -> ProbeResult<Listed> {
    listing_of(ids.len(), ids)
}

fn listing_of(total: usize, ids: &[&str]) -> ProbeResult<Listed> {
    let entries: Vec<Value> = ids.iter().map(|id| json!({ "GroupId": id })).collect();
    list(
        json!({ "ActionStatus": "OK", "ErrorCode": 0, "TotalCount": total, "GroupIdList": entries, "Next": 0 }),
    )
}

fn of(name: &str) -> GroupType {
    GroupType::new(name).unwrap()
}

fn answer(row: &Row) -> String {
    row.cells()[1].clone()
}

fn detail(row: &Row) -> String {
    row.cells()[2].clone()
}

#[test]
fn the_rest_names_of_aliases_are_listed_too() {
    let names = |configured: &[&str]| {
        let configured: Vec<GroupType> = configured.iter().map(|name| of(name)).collect();
        types_to_list(&configured).iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(names(&["Public", "Private"]), ["Public", "Private", "ChatRoom"]);
    assert_eq!(names(&[]).len(), 6);
}

#[test]
fn the_code_for_an_unknown_id_is_from_its_entry_or_from_the_top_level() {
    let answer_of = |body| answer(&unknown_id(UnknownId::Custom, "x", &Ok(info(body))));
    assert_eq!(
        answer_of(json!({ "ErrorCode": 0, "GroupInfo": [{ "GroupId": "x", "ErrorCode": 10010 }] })),
        "code 10010"
    );
    assert_eq!(
        answer_of(json!({ "GroupInfo": [{ "GroupId": "x", "ErrorCode": 0 }] })),
        "code 0, as if the group existed"
    );
    assert_eq!(
        answer_of(json!({ "GroupInfo": [{ "ErrorCode": 10015 }] })),
        "code 10015, in an entry with another or no GroupId"
    );
    assert_eq!(answer_of(json!({ "GroupInfo": [{ "GroupId": "x" }] })), "an entry without ErrorCode");
    assert_eq!(answer_of(json!({ "GroupInfo": [] })), "GroupInfo is empty");
    assert_eq!(answer_of(json!({ "ErrorCode": 10015 })), "no GroupInfo; top-level code 10015");
    let failed = unknown_id(UnknownId::Custom, "x", &Err("HTTP status 502".to_owned()));
    assert_eq!((answer(&failed), detail(&failed)), ("not answered".to_owned(), "HTTP status 502".to_owned()));
}

#[test]
fn the_row_of_a_listed_group_has_its_code_and_type() {
    let answer_of = |entry: Value| {
        let entries = entries(&Ok(info(json!({ "GroupInfo": [entry] }))));
        answer(&listed_group(&of("Private"), &listing(&["x"]), &entries))
    };
    assert_eq!(
        answer_of(json!({ "GroupId": "x", "ErrorCode": 0, "Type": "Private" })),
        "code 0, Type Private"
    );
    assert_eq!(answer_of(json!({ "GroupId": "x", "ErrorCode": 0, "Type": "Work" })), "code 0, Type Work");
    assert_eq!(
        answer_of(json!({ "GroupId": "x", "ErrorCode": 0, "Type": "Public" })),
        "code 0, but Type Public"
    );
    assert_eq!(
        answer_of(json!({ "GroupId": "x", "ErrorCode": 0, "Type": "secret" })),
        "code 0, but another Type"
    );
    assert_eq!(answer_of(json!({ "GroupId": "x", "ErrorCode": 0 })), "code 0, without Type");
    assert_eq!(answer_of(json!({ "GroupId": "x", "ErrorCode": 10010 })), "code 10010, though it is listed");
    assert_eq!(answer_of(json!({ "GroupId": "y", "ErrorCode": 0 })), "GroupInfo has no entry for it");
    let none = listed_group(&of("Private"), &listing(&[]), &Ok(Vec::new()));
    assert_eq!(
        (answer(&none).as_str(), detail(&none).as_str()),
        ("not asked", "the list of this type is empty")
    );
    let refused = list(json!({ "ActionStatus": "FAIL", "ErrorCode": 10004, "ErrorInfo": "secret" }));
    let row = listed_group(&of("Private"), &refused, &Ok(Vec::new()));
    assert_eq!(detail(&row), "the list of this type: refused with code 10004");
}

#[test]
fn the_top_level_agrees_if_it_is_ok_exactly_when_all_entries_are() {
    let answer_of = |code: i64, status: &str, codes: &[i64]| {
        let entries: Vec<Value> =
            codes.iter().map(|code| json!({ "GroupId": "x", "ErrorCode": code })).collect();
        let body = json!({ "ActionStatus": status, "ErrorCode": code, "GroupInfo": entries });
        answer(&top_level("x", &Ok(info(body)))) == "agrees with its entries"
    };
    assert!(
        answer_of(0, "OK", &[0, 0])
            && answer_of(10010, "FAIL", &[10010])
            && answer_of(10010, "FAIL", &[0, 10010])
    );
    assert!(
        !answer_of(0, "OK", &[0, 10010]) && !answer_of(10010, "FAIL", &[0]) && !answer_of(0, "FAIL", &[0])
    );
    let alone = top_level("x", &Ok(info(json!({ "ActionStatus": "secret", "ErrorCode": 10007 }))));
    assert_eq!(answer(&alone), "ErrorCode 10007, another ActionStatus, no GroupInfo");
}

#[test]
fn a_filter_is_honoured_if_types_have_no_group_in_common() {
    let answer_to = |unfiltered: &ProbeResult<Listed>, pages: &[(&str, ProbeResult<Listed>)]| {
        let pages: Vec<_> = pages.iter().map(|(name, page)| (of(name), page.clone())).collect();
        answer(&filter(unfiltered, &pages))
    };
    let unfiltered = listing(&["a", "b", "c"]);
    assert_eq!(
        answer_to(&unfiltered, &[("Public", listing(&["a"])), ("Private", listing(&["b", "c"]))]),
        "yes: the first pages of 2 types have no group in common"
    );
    assert_eq!(
        answer_to(&unfiltered, &[("Public", unfiltered.clone()), ("Private", unfiltered.clone())]),
        "no: Public and Private have 3 groups in common"
    );
    let rejected = Err("refused with code 10004".to_owned());
    let pages = [("Public", listing(&["a", "b"])), ("Live", rejected.clone())];
    assert_eq!(answer_to(&unfiltered, &pages), "yes: TotalCount differs from the app's");
    assert_eq!(
        answer_to(&unfiltered, &[("Public", unfiltered.clone())]),
        "unknown: only one type has groups"
    );
    assert_eq!(answer_to(&rejected, &pages), "unknown: only one type has groups");
    assert_eq!(answer_to(&unfiltered, &[("Public", listing(&[]))]), "unknown: no type has a group");
    let row = filter(&unfiltered, &[(of("Public"), unfiltered.clone()), (of("Live"), rejected)]);
    assert_eq!(detail(&row), "TotalCount: app 3, Public 3, Live refused with code 10004");
}

#[test]
fn an_alias_is_compared_with_the_name_of_the_rest_api() {
    let answer_to = |aliased: &ProbeResult<Listed>, named: &ProbeResult<Listed>| {
        let unfiltered = listing(&["a", "b", "c"]);
        answer(&alias(("Work", aliased), ("Private", named.as_ref().ok()), &unfiltered))
    };
    let named = listing(&["a", "b"]);
    assert_eq!(answer_to(&named, &named), "yes: it lists the same groups as Private");
    assert_eq!(answer_to(&Err("refused with code 10004".to_owned()), &named), "no: refused with code 10004");
    assert_eq!(answer_to(&listing(&[]), &named), "accepted, but it lists nothing");
    assert_eq!(
        answer_to(&listing(&["a", "b", "c"]), &named),
        "accepted, but ignored: it lists the same groups as no filter"
    );
    assert_eq!(
        answer_to(&listing(&["b", "d"]), &named),
        "accepted, but it lists other groups than Private: 1 group in common"
    );
    let empty = listing(&[]);
    assert_eq!(answer_to(&empty, &empty), "accepted; Private is empty, so they cannot be compared");
    assert_eq!(answer_to(&named, &Err(String::new())), "accepted; Private was not listed to compare");
}

#[test]
fn order_and_cursors_are_evaluated_by_comparing_ids() {
    let first = listing(&["a", "b", "c"]).unwrap();
    let order = |second: &[&str]| answer(&order(&first, &listing(second)));
    assert_eq!(order(&["a", "b", "c"]), "the same 3 groups in the same order");
    assert_eq!(order(&["b", "a", "c"]), "the same 3 groups in another order");
    assert_eq!(order(&["a", "d"]), "3 groups and 2 groups, 1 in common");
    let again = |second: ProbeResult<Listed>| answer(&next_again(&Ok(first.clone()), &second, "1m"));
    assert_eq!(again(listing(&["a", "b", "c"])), "yes, 1m later: the same 3 groups in the same order");
    assert_eq!(again(Err("refused with code 10004".to_owned())), "no, 1m later: refused with code 10004");
    let refused: ProbeResult<Listed> = Err("refused with code 10004".to_owned());
    assert_eq!(answer(&next_again(&refused, &refused, "1m")), "not accepted even at once");
}

#[test]
fn only_field_names_that_are_identifiers_are_shown() {
    let seen = |names: &[&str]| names.iter().map(ToString::to_string).collect::<BTreeSet<String>>();
    let fields = unknown_fields(Call::List, &seen(&["ActionStatus", "RequestId", "@TGS#2J4SZEAEL"]));
    assert_eq!(answer(&fields), "(not an identifier), RequestId");
    assert_eq!(detail(&fields), "never sent: ErrorCode, ErrorInfo, GroupIdList, Next, TotalCount");
    let entries = unknown_entry_fields(Call::Info, &seen(&["GroupId", "Type", "MemberList", "New"]));
    assert_eq!(
        (answer(&entries).as_str(), detail(&entries).as_str()),
        ("New", "sent though filtered out: MemberList")
    );
    assert_eq!(answer(&unknown_entry_fields(Call::List, &seen(&["GroupId"]))), "none");
    assert_eq!(answer(&unknown_entry_fields(Call::List, &seen(&[]))), "not answered");
}

#[test]
fn the_date_is_compared_with_this_machines_clock() {
    let now: DateTime<Utc> = "2026-03-01T12:00:00.900Z".parse().unwrap();
    let answer_of = |header: Option<&str>| answer(&date(Some((header, now))));
    assert_eq!(
        answer_of(Some("Sun, 01 Mar 2026 12:00:00 GMT")),
        "present, within a second of this machine's clock"
    );
    assert_eq!(
        answer_of(Some("Sun, 01 Mar 2026 12:01:01 GMT")),
        "present, 60 s ahead of this machine's clock"
    );
    assert_eq!(answer_of(Some("Sun, 01 Mar 2026 11:59:50 GMT")), "present, 10 s behind this machine's clock");
    assert_eq!(
        (answer_of(Some("soon")), answer_of(None)),
        ("present, but not a date".to_owned(), "none".to_owned())
    );
    assert_eq!(answer(&date(None)), "not answered");
}

#[test]
fn a_failure_is_described_without_text_from_the_server_or_the_network() {
    let connect =
        ApiError::Connect { host: "secret.example.com".to_owned(), detail: "secret.example.com".to_owned() };
    assert_eq!(reason(&connect), "no usable answer (network)");
    let answered =
        ApiError::Answered { code: 10006, info: "secret".to_owned(), advice: Some("secret".to_owned()) };
    assert_eq!(reason(&answered), "refused with code 10006");
}
