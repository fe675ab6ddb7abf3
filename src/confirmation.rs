//! Evaluates answers of `get_group_info` about groups that the lists do not contain. No I/O.
//!
//! The lists nominate candidates for deletion, and `get_group_info` decides about each of them. An
//! answer counts only if the same request shows that the server distinguishes existing groups from
//! absent ones. Therefore every batch has two controls:
//!
//! - an **absent control**: an id that cannot exist. The server must answer with an error code,
//!   whichever it is. [`ValidBatch::interpret`] decides which codes mean that a group is gone.
//! - a **listed control**: a group that this crawl has listed. The server must answer that it
//!   exists.
//!
//! Only [`judge_controls`] creates a [`ValidBatch`], and only a valid batch creates a [`Gone`]. So
//! without valid controls no group can be deleted.

use std::collections::{BTreeMap, HashMap};

use crate::model::{GroupIds, GroupType, TypeId};
use crate::tencent::GroupAnswer;
use crate::tencent::info::MAX_INFO_IDS;

/// The maximum number of groups in a batch. The two controls take the other places of a request.
pub const MAX_BATCH_IDS: usize = MAX_INFO_IDS - 2;

/// The API's code for a group that does not exist or was disbanded (document 269/1671).
const NO_SUCH_GROUP: i64 = 10010;
/// The API's code for an illegal group id (document 269/1671). Some servers also use it for groups
/// that do not exist.
const ILLEGAL_ID: i64 = 10015;

/// If this many consecutive lookups of a group give no usable answer, its deletion is withheld, and
/// a person has to decide.
pub const MAX_UNUSABLE_ANSWERS: i64 = 3;
/// The longest back-off, in crawls, before a group is looked up again.
const MAX_BACKOFF: i64 = 24;
/// The number of listed groups that are kept as possible controls for each type and form of id.
const SAMPLES: usize = 4;
/// The number of ids at the end of a page that are considered as samples. It exceeds [`SAMPLES`],
/// because these ids may have several forms, and each form has its own samples.
const SAMPLED_IDS: usize = 8 * SAMPLES;

/// The forms of group ids (document 269/1502). A server may answer differently for each form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum IdForm {
    /// Assigned by the API: `@TGS#…`.
    Default,
    /// The id of a Community: `@TGS#_…`.
    Community,
    /// Chosen by the app.
    Custom,
}

impl IdForm {
    #[must_use]
    pub fn of(id: &str) -> Self {
        if id.starts_with("@TGS#_") {
            Self::Community
        } else if id.starts_with("@TGS#") {
            Self::Default
        } else {
            Self::Custom
        }
    }

    /// Returns an id of this form that no group has. It ends in 12 characters that encode `random`,
    /// so that no app can have chosen it.
    #[must_use]
    pub fn absent_id(self, mut random: u64) -> String {
        const ALPHABET: &[u8; 36] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
        let prefix = match self {
            Self::Default => "@TGS#",
            Self::Community => "@TGS#_@TGS#",
            Self::Custom => "absent-control-",
        };
        let mut id = prefix.to_owned();
        for _ in 0..12 {
            let index = u8::try_from(random % 36).unwrap_or(0);
            id.push(char::from(ALPHABET[usize::from(index)]));
            random /= 36;
        }
        id
    }
}

/// Proof that the API reported in a valid batch that a group does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone(());

/// What a valid batch says about one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Gone(Gone),
    /// The group exists. The type is `None` if the answer does not have it.
    Exists(Option<GroupType>),
    /// The group has another code or no entry, so nothing is known about it.
    Unusable,
}

/// The result of evaluating the controls of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Controls {
    /// The absent control has an error code, and the listed control exists if there is one.
    Valid(ValidBatch),
    /// The listed control does not exist. It may have been dissolved since it was listed, so
    /// another control is tried.
    ListedIsGone,
    /// A control has an unexpected answer, so the batch is ignored. The fields are the codes of
    /// both controls.
    Contradict { absent: Option<i64>, listed: Option<i64> },
}

/// A batch whose controls are valid, see [`Controls::Valid`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValidBatch {
    /// The absent control got [`ILLEGAL_ID`]. So this code means "does not exist" for ids of the
    /// same form.
    illegal_means_absent: bool,
}

/// Evaluates the answers about the controls. The absent control must have an error code, and the
/// listed control must exist. `listed` is `None` only for an app without groups, which has no listed
/// control.
#[must_use]
pub fn judge_controls(absent: &GroupAnswer, listed: Option<&GroupAnswer>) -> Controls {
    let listed_code = listed.and_then(|answer| answer.code);
    let contradict = Controls::Contradict { absent: absent.code, listed: listed_code };
    let Some(absent_code) = absent.code.filter(|code| *code != 0) else { return contradict };
    let illegal_means_absent = absent_code == ILLEGAL_ID;
    match (listed, listed_code) {
        (None, _) | (Some(_), Some(0)) => Controls::Valid(ValidBatch { illegal_means_absent }),
        (Some(_), Some(NO_SUCH_GROUP | ILLEGAL_ID)) => Controls::ListedIsGone,
        (Some(_), _) => contradict,
    }
}

impl ValidBatch {
    /// Returns what an answer of this batch says about its group.
    #[must_use]
    pub fn interpret(self, answer: &GroupAnswer) -> Answer {
        match answer.code {
            Some(0) => Answer::Exists(answer.group_type.clone()),
            Some(NO_SUCH_GROUP) => Answer::Gone(Gone(())),
            Some(ILLEGAL_ID) if self.illegal_means_absent => Answer::Gone(Gone(())),
            _ => Answer::Unusable,
        }
    }
}

/// The answers of earlier crawls about one group that was unlisted or of uncertain type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LookupRecord {
    /// The number of consecutive answers that the group exists.
    pub existing_streak: i64,
    /// The number of consecutive lookups without a usable answer.
    pub unusable_streak: i64,
    /// The round of the last lookup. Rounds count the app's crawls that reached their end.
    pub round: i64,
    /// The first round in which the group is looked up again.
    pub due_round: i64,
}

impl LookupRecord {
    /// Returns the record after an answer that the group exists. The back-off is exponential: 1, 2,
    /// 4 … 24 crawls.
    #[must_use]
    pub fn after_existing(before: Option<&Self>, round: i64) -> Self {
        let existing_streak = before.map_or(0, |before| before.existing_streak) + 1;
        Self { existing_streak, unusable_streak: 0, round, due_round: round + backoff_after(existing_streak) }
    }

    /// Returns the record after a lookup without a usable answer. The next crawls repeat the
    /// lookup. After [`MAX_UNUSABLE_ANSWERS`] of them the back-off is exponential.
    #[must_use]
    pub fn after_unusable_answer(before: Option<&Self>, round: i64) -> Self {
        let unusable_streak = before.map_or(0, |before| before.unusable_streak) + 1;
        Self {
            existing_streak: 0,
            unusable_streak,
            round,
            due_round: round + backoff_after(unusable_streak + 1 - MAX_UNUSABLE_ANSWERS),
        }
    }

    /// Returns whether the group may be looked up in this round.
    #[must_use]
    pub fn is_due(&self, round: i64) -> bool {
        round >= self.due_round
    }

    /// Returns whether the last lookup found that the group exists.
    #[must_use]
    pub fn existed_last(&self) -> bool {
        self.existing_streak > 0
    }
}

/// Returns the back-off, in crawls, after this number of consecutive equal results: at least 1.
fn backoff_after(times: i64) -> i64 {
    (1 << (times - 1).clamp(0, 10)).min(MAX_BACKOFF)
}

/// The lookups of earlier crawls whose groups are still unlisted or of uncertain type.
#[derive(Clone, Debug, Default)]
pub struct LookupHistory {
    /// The round of the current crawl.
    pub round: i64,
    pub records: HashMap<String, LookupRecord>,
}

impl LookupHistory {
    /// Returns whether a group may be looked up in this round.
    #[must_use]
    pub fn is_due(&self, id: &str) -> bool {
        self.records.get(id).is_none_or(|record| record.is_due(self.round))
    }

    /// Returns the round of a group's last lookup, or 0 if it was never looked up.
    #[must_use]
    pub fn last_round(&self, id: &str) -> i64 {
        self.records.get(id).map_or(0, |record| record.round)
    }
}

/// A group to look up.
#[derive(Clone, Copy, Debug)]
pub struct LookupTarget<'a> {
    pub id: &'a str,
    /// The type of the group's batch.
    pub type_id: TypeId,
    /// The round of the group's last lookup, 0 if it was never looked up.
    pub last_round: i64,
}

/// The groups that one request looks up. They have one type and one form of id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookupBatch<'a> {
    pub type_id: TypeId,
    pub form: IdForm,
    pub ids: Vec<&'a str>,
}

/// Divides at most `limit` targets into batches. Groups that were never looked up come first, then
/// the others in the order of their last lookups. Targets beyond the limit are left out; a later
/// crawl looks them up.
#[must_use]
pub fn batches<'a>(
    targets: impl IntoIterator<Item = LookupTarget<'a>>,
    limit: usize,
) -> Vec<LookupBatch<'a>> {
    // Millions of targets may be new. Collecting at most `limit` of them bounds the memory.
    let (mut new, mut repeated) = (Vec::new(), Vec::new());
    for target in targets {
        match target.last_round {
            0 if new.len() < limit => new.push(target),
            0 => {}
            _ => repeated.push(target),
        }
    }
    repeated.sort_by_key(|target| target.last_round);
    let targets = new.into_iter().chain(repeated).take(limit);
    let mut batches: Vec<LookupBatch<'a>> = Vec::new();
    let mut open: BTreeMap<(TypeId, IdForm), usize> = BTreeMap::new();
    for LookupTarget { id, type_id, .. } in targets {
        let form = IdForm::of(id);
        let at = *open.entry((type_id, form)).or_insert(batches.len());
        if let Some(batch) = batches.get_mut(at).filter(|batch| batch.ids.len() < MAX_BATCH_IDS) {
            batch.ids.push(id);
        } else {
            open.insert((type_id, form), batches.len());
            batches.push(LookupBatch { type_id, form, ids: vec![id] });
        }
    }
    batches
}

/// Listed groups that can be controls: the last ones of each type and form of id.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    /// Groups that are not known as live. They are better controls than known groups, because a
    /// stale replica does not know them.
    new: BTreeMap<(TypeId, IdForm), Vec<String>>,
    /// Any listed groups, including new ones.
    listed: BTreeMap<(TypeId, IdForm), Vec<String>>,
}

impl Samples {
    /// Keeps the last ids of a page as samples. `listed` are all ids of the page, `new` are the new
    /// ones.
    pub fn add_page(&mut self, type_id: TypeId, listed: &GroupIds, new: &GroupIds) {
        for (samples, ids) in [(&mut self.listed, listed), (&mut self.new, new)] {
            for id in ids.iter().skip(ids.len().saturating_sub(SAMPLED_IDS)) {
                let of_form = samples.entry((type_id, IdForm::of(id))).or_default();
                if of_form.len() == SAMPLES {
                    of_form.remove(0);
                }
                of_form.push(id.to_owned());
            }
        }
    }

    /// Returns possible controls for a batch, the best first: of the same type and form, of the
    /// same type, of the same form, others. Within each of these, new groups come first.
    pub fn controls(&self, type_id: TypeId, form: IdForm) -> impl Iterator<Item = &str> {
        let mut found: Vec<((bool, bool, bool), &str)> = Vec::new();
        for (is_of_any_listed, samples) in [(false, &self.new), (true, &self.listed)] {
            for ((of_type, of_form), ids) in samples {
                let rank = (*of_type != type_id, *of_form != form, is_of_any_listed);
                found.extend(ids.iter().rev().map(|id| (rank, id.as_str())));
            }
        }
        found.sort_by_key(|(rank, _)| *rank);
        // A new group is in both maps. Its first occurrence counts.
        let mut seen = Vec::new();
        found.into_iter().filter_map(move |(_, id)| {
            let is_first = !seen.contains(&id);
            seen.push(id);
            is_first.then_some(id)
        })
    }
}

#[cfg(test)]
impl Gone {
    pub(crate) fn for_test() -> Self {
        Self(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLIC: TypeId = TypeId(1);
    const PRIVATE: TypeId = TypeId(2);

    fn answer(code: i64) -> GroupAnswer {
        GroupAnswer { code: Some(code), ..GroupAnswer::default() }
    }

    fn valid(absent: i64) -> ValidBatch {
        match judge_controls(&answer(absent), Some(&answer(0))) {
            Controls::Valid(batch) => batch,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_batch_is_valid_if_the_listed_control_exists_and_the_absent_one_has_any_error_code() {
        for absent in [10010, 10015, 10004, -1] {
            valid(absent);
        }
    }

    #[test]
    fn a_server_that_reports_every_id_as_existing_contradicts() {
        let contradict = Controls::Contradict { absent: Some(0), listed: Some(0) };
        assert_eq!(judge_controls(&answer(0), Some(&answer(0))), contradict);
        let without_listed = Controls::Contradict { absent: Some(0), listed: None };
        assert_eq!(judge_controls(&answer(0), None), without_listed);
    }

    #[test]
    fn a_server_that_leaves_a_control_out_contradicts() {
        let none = GroupAnswer::default();
        let absent_left_out = Controls::Contradict { absent: None, listed: Some(0) };
        assert_eq!(judge_controls(&none, Some(&answer(0))), absent_left_out);
        let listed_left_out = Controls::Contradict { absent: Some(10010), listed: None };
        assert_eq!(judge_controls(&answer(10010), Some(&none)), listed_left_out);
        assert_eq!(judge_controls(&none, None), Controls::Contradict { absent: None, listed: None });
    }

    #[test]
    fn a_listed_control_that_is_gone_is_replaced_and_one_with_another_code_contradicts() {
        for gone in [10010, 10015] {
            assert_eq!(judge_controls(&answer(10010), Some(&answer(gone))), Controls::ListedIsGone);
        }
        let contradict = Controls::Contradict { absent: Some(10010), listed: Some(10007) };
        assert_eq!(judge_controls(&answer(10010), Some(&answer(10007))), contradict);
    }

    #[test]
    fn an_app_without_any_listed_group_needs_the_absent_control_alone() {
        assert!(matches!(judge_controls(&answer(10010), None), Controls::Valid(_)));
    }

    #[test]
    fn a_group_that_does_not_exist_is_gone_and_one_without_an_error_exists() {
        let batch = valid(10010);
        assert_eq!(batch.interpret(&answer(10010)), Answer::Gone(Gone(())));
        let private = GroupAnswer { code: Some(0), group_type: GroupType::new("Work"), details: None };
        assert_eq!(batch.interpret(&private), Answer::Exists(GroupType::new("Private")));
        for unknown in [answer(10002), answer(99_999), GroupAnswer::default()] {
            assert_eq!(batch.interpret(&unknown), Answer::Unusable, "{unknown:?}");
        }
    }

    #[test]
    fn the_code_for_an_illegal_id_means_gone_only_if_the_absent_control_got_it() {
        assert_eq!(valid(10010).interpret(&answer(10015)), Answer::Unusable);
        assert_eq!(valid(10004).interpret(&answer(10015)), Answer::Unusable);
        assert_eq!(valid(10015).interpret(&answer(10015)), Answer::Gone(Gone(())));
        assert_eq!(valid(10015).interpret(&answer(10010)), Answer::Gone(Gone(())));
    }

    #[test]
    fn ids_have_three_forms_and_an_absent_id_has_the_requested_form() {
        assert_eq!(IdForm::of("@TGS#2J4SZEAEL"), IdForm::Default);
        assert_eq!(IdForm::of("@TGS#_@TGS#cQVLVHIM62CJ"), IdForm::Community);
        assert_eq!(IdForm::of("room_1"), IdForm::Custom);
        for form in [IdForm::Default, IdForm::Community, IdForm::Custom] {
            let [one, other] = [form.absent_id(1), form.absent_id(2)];
            assert_eq!(IdForm::of(&one), form);
            assert!(one != other && one.len() <= 48 && one.is_ascii(), "{one}");
        }
        assert_eq!(IdForm::Default.absent_id(37), "@TGS#BBAAAAAAAAAA");
    }

    #[test]
    fn a_group_that_exists_is_looked_up_after_1_2_4_and_at_most_24_crawls() {
        let mut record: Option<LookupRecord> = None;
        let mut backoffs = Vec::new();
        for _ in 0..7 {
            let next = LookupRecord::after_existing(record.as_ref(), 100);
            assert!(!next.is_due(next.due_round - 1) && next.is_due(next.due_round) && next.existed_last());
            backoffs.push(next.due_round - 100);
            record = Some(next);
        }
        assert_eq!(backoffs, [1, 2, 4, 8, 16, 24, 24]);
    }

    #[test]
    fn a_group_without_a_usable_answer_is_looked_up_by_three_crawls_and_then_backed_off() {
        let mut record: Option<LookupRecord> =
            Some(LookupRecord { existing_streak: 5, ..LookupRecord::default() });
        let mut backoffs = Vec::new();
        for times in 1..6 {
            let next = LookupRecord::after_unusable_answer(record.as_ref(), 100);
            assert_eq!((next.unusable_streak, next.existed_last()), (times, false));
            backoffs.push(next.due_round - 100);
            record = Some(next);
        }
        assert_eq!(backoffs, [1, 1, 1, 2, 4]);
        assert_eq!(LookupRecord::after_existing(record.as_ref(), 100).unusable_streak, 0);
    }

    #[test]
    fn a_group_without_history_is_due_and_has_last_round_0() {
        let mut history = LookupHistory { round: 7, ..LookupHistory::default() };
        history
            .records
            .insert("later".to_owned(), LookupRecord { due_round: 8, round: 6, ..LookupRecord::default() });
        history
            .records
            .insert("now".to_owned(), LookupRecord { due_round: 7, round: 6, ..LookupRecord::default() });
        assert!(history.is_due("never") && history.is_due("now") && !history.is_due("later"));
        assert_eq!((history.last_round("never"), history.last_round("now")), (0, 6));
    }

    fn target(id: &str, type_id: TypeId, last_round: i64) -> LookupTarget<'_> {
        LookupTarget { id, type_id, last_round }
    }

    #[test]
    fn a_batch_has_one_type_and_one_form_and_groups_never_looked_up_come_first() {
        let targets = [
            target("looked-up-recently", PUBLIC, 9),
            target("looked-up-long-ago", PUBLIC, 2),
            target("never", PUBLIC, 0),
            target("@TGS#a", PUBLIC, 0),
            target("of-another-type", PRIVATE, 0),
        ];
        let batches = batches(targets, 100);
        let batch = |type_id, form, ids: &[&'static str]| LookupBatch { type_id, form, ids: ids.to_vec() };
        let expected = [
            batch(PUBLIC, IdForm::Custom, &["never", "looked-up-long-ago", "looked-up-recently"]),
            batch(PUBLIC, IdForm::Default, &["@TGS#a"]),
            batch(PRIVATE, IdForm::Custom, &["of-another-type"]),
        ];
        assert_eq!(batches, expected);
    }

    #[test]
    fn a_batch_has_at_most_48_groups_and_the_limit_keeps_the_longest_waiting() {
        let ids: Vec<String> = (0..100).map(|n| format!("{n:03}")).collect();
        let targets = || (1..).zip(&ids).map(|(round, id)| target(id, PUBLIC, round));
        let sizes = |limit| batches(targets(), limit).iter().map(|batch| batch.ids.len()).collect::<Vec<_>>();
        assert_eq!(sizes(1000), [48, 48, 4]);
        assert_eq!(sizes(50), [48, 2]);
        assert_eq!(batches(targets(), 1)[0].ids, ["000"]);
        assert!(batches(targets(), 0).is_empty());
    }

    #[test]
    fn controls_of_the_same_type_and_form_come_first_and_new_groups_precede_known_ones() {
        let ids = |ids: &[&str]| ids.iter().copied().collect::<GroupIds>();
        let mut samples = Samples::default();
        assert!(samples.controls(PUBLIC, IdForm::Custom).next().is_none());
        samples.add_page(PUBLIC, &ids(&["@TGS#p", "old", "new"]), &ids(&["new"]));
        samples.add_page(PRIVATE, &ids(&["other"]), &ids(&[]));
        let controls = |type_id, form| samples.controls(type_id, form).collect::<Vec<_>>();
        assert_eq!(controls(PUBLIC, IdForm::Custom), ["new", "old", "@TGS#p", "other"]);
        assert_eq!(controls(PUBLIC, IdForm::Default)[0], "@TGS#p");
        assert_eq!(controls(PRIVATE, IdForm::Default)[0], "other");
        assert_eq!(controls(TypeId(9), IdForm::Default)[0], "@TGS#p");
    }

    #[test]
    fn the_last_groups_of_a_page_are_kept_as_samples() {
        let mut samples = Samples::default();
        let ids: GroupIds =
            (0..100).map(|n| format!("{n}")).collect::<Vec<_>>().iter().map(String::as_str).collect();
        samples.add_page(PUBLIC, &ids, &GroupIds::new());
        assert_eq!(samples.controls(PUBLIC, IdForm::Custom).collect::<Vec<_>>(), ["99", "98", "97", "96"]);
    }
}
