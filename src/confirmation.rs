//! Evaluates answers of `get_group_info` about groups that the lists lack. No I/O.
//!
//! The lists nominate groups for deletion, and `get_group_info` decides about each by its id. An answer counts only if the same
//! request shows that the server distinguishes existing groups from absent ones. So every batch has two controls:
//!
//! - an **absent control**: an id that cannot exist. The server must answer that it does not exist.
//! - a **listed control**: a group that this crawl has listed. The server must answer that it exists.
//!
//! Only [`judge_controls`] makes a [`ValidBatch`], and only a valid batch makes a [`Gone`]. So without valid controls no group
//! can be deleted.

use std::collections::{BTreeMap, HashMap};

use crate::model::{GroupIds, GroupType, TypeId};
use crate::tencent::GroupAnswer;
use crate::tencent::wire::MAX_INFO_IDS;

/// Most questions in a batch. The other ids of a request are the two controls.
pub const BATCH: usize = MAX_INFO_IDS - 2;

/// The group does not exist, or was disbanded (269/1671).
const NO_SUCH_GROUP: i64 = 10010;
/// The group id is illegal (269/1671). Some servers answer it for groups that do not exist.
const ILLEGAL_ID: i64 = 10015;

/// Consecutive crawls without a usable answer about a group, after which a person has to decide about it.
pub const MAX_UNLEARNED: i64 = 3;
/// The longest back-off, in crawls, before a group that exists is asked about again.
const MAX_BACKOFF: i64 = 24;
/// Samples of listed groups that are kept for each type and form of id.
const SAMPLES: usize = 4;

/// The forms of group ids (269/1502). A server may answer differently for each form.
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

    /// Returns an id of this form that no group has. It ends in digits made of `random`, so that no app can have chosen it.
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
            let digit = u8::try_from(random % 36).unwrap_or(0);
            id.push(char::from(ALPHABET[usize::from(digit)]));
            random /= 36;
        }
        id
    }
}

/// Proof that the API called a group gone in a valid batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone(());

/// What an answer says about one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Learned {
    Gone(Gone),
    /// It exists, and has this type if the answer states one.
    Stands(Option<GroupType>),
    /// The answer is not usable: another code, or none.
    Unlearned,
}

/// The result of evaluating the controls of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Controls {
    /// Both have the expected answers.
    Valid(ValidBatch),
    /// The listed control does not exist. It may have been dissolved since it was listed, so another one is tried.
    ListedIsGone,
    /// The answers contradict what is known: the batch is ignored.
    Contradict { absent: Option<i64>, listed: Option<i64> },
}

/// A batch whose controls have the expected answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValidBatch {
    /// The server answered "illegal id" for the absent control, so that this code means "does not exist" for ids of its form.
    illegal_means_absent: bool,
}

/// Compares the answers about the controls with the expected ones. `listed` is `None` only for an app without any groups,
/// which has no listed control.
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
    pub fn learn(self, answer: &GroupAnswer) -> Learned {
        match answer.code {
            Some(0) => Learned::Stands(answer.group_type.clone()),
            Some(NO_SUCH_GROUP) => Learned::Gone(Gone(())),
            Some(ILLEGAL_ID) if self.illegal_means_absent => Learned::Gone(Gone(())),
            _ => Learned::Unlearned,
        }
    }
}

/// The answers of earlier crawls about a group that lists lack, or whose type is uncertain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asked {
    /// How many times in a row it existed.
    pub stood: i64,
    /// How many times in a row there was no usable answer.
    pub unlearned: i64,
    /// The round in which it was last asked about. Rounds count the app's crawls that reached their end.
    pub round: i64,
    /// The round from which on it is due to be asked about again.
    pub again_in: i64,
}

impl Asked {
    /// The state after an answer that the group exists: exponential back-off of 1, 2, 4 … 24 crawls.
    #[must_use]
    pub fn then_stood(before: Option<&Self>, round: i64) -> Self {
        let stood = before.map_or(0, |before| before.stood) + 1;
        Self { stood, unlearned: 0, round, again_in: round + backoff_after(stood) }
    }

    /// The state after no usable answer: the next crawls ask again. Once a person has to decide, the back-off grows.
    #[must_use]
    pub fn then_unlearned(before: Option<&Self>, round: i64) -> Self {
        let unlearned = before.map_or(0, |before| before.unlearned) + 1;
        Self { stood: 0, unlearned, round, again_in: round + backoff_after(unlearned + 1 - MAX_UNLEARNED) }
    }

    #[must_use]
    pub fn is_due(&self, round: i64) -> bool {
        round >= self.again_in
    }

    /// Whether the group existed when it was last asked about.
    #[must_use]
    pub fn stood_last(&self) -> bool {
        self.stood > 0
    }
}

/// The back-off in crawls after this many answers in a row, at least 1.
fn backoff_after(times: i64) -> i64 {
    (1 << (times - 1).clamp(0, 10)).min(MAX_BACKOFF)
}

/// The groups that earlier crawls asked about and that are still open.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// The round of the current crawl.
    pub round: i64,
    pub asked: HashMap<String, Asked>,
}

impl History {
    /// Whether a group may be asked about in this round.
    #[must_use]
    pub fn is_due(&self, id: &str) -> bool {
        self.asked.get(id).is_none_or(|asked| asked.is_due(self.round))
    }

    /// The round in which a group was last asked about; 0 if never, which is asked first.
    #[must_use]
    pub fn last_round(&self, id: &str) -> i64 {
        self.asked.get(id).map_or(0, |asked| asked.round)
    }
}

/// A question about one group.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    pub id: &'a str,
    /// The type that the database has.
    pub type_id: TypeId,
    /// The round in which it was last asked, 0 if never.
    pub last_round: i64,
}

/// Questions of one type and one form of id that go into one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch<'a> {
    pub type_id: TypeId,
    pub form: IdForm,
    pub ids: Vec<&'a str>,
}

/// Sorts questions into batches: first those never asked, then the others by how long ago they were asked. Takes at most
/// `limit` questions; the others wait for a later crawl.
#[must_use]
pub fn batches<'a>(questions: impl IntoIterator<Item = Question<'a>>, limit: usize) -> Vec<Batch<'a>> {
    // There may be millions of questions. Collecting only `limit` of them bounds the memory.
    let (mut never, mut asked) = (Vec::new(), Vec::new());
    for question in questions {
        match question.last_round {
            0 if never.len() < limit => never.push(question),
            0 => {}
            _ => asked.push(question),
        }
    }
    asked.sort_by_key(|question| question.last_round);
    let questions = never.into_iter().chain(asked).take(limit);
    let mut batches: Vec<Batch<'a>> = Vec::new();
    let mut open: BTreeMap<(TypeId, IdForm), usize> = BTreeMap::new();
    for Question { id, type_id, .. } in questions {
        let form = IdForm::of(id);
        let at = *open.entry((type_id, form)).or_insert(batches.len());
        if let Some(batch) = batches.get_mut(at).filter(|batch| batch.ids.len() < BATCH) {
            batch.ids.push(id);
        } else {
            open.insert((type_id, form), batches.len());
            batches.push(Batch { type_id, form, ids: vec![id] });
        }
    }
    batches
}

/// Listed groups that can be controls: the last few of each type and form of id.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    /// Groups that no crawl had listed before. They are better controls, because a stale server does not know them.
    new: BTreeMap<(TypeId, IdForm), Vec<String>>,
    known: BTreeMap<(TypeId, IdForm), Vec<String>>,
}

impl Samples {
    /// Takes samples of the groups on a page of a pass of this type, and of the new groups among them.
    pub fn take(&mut self, type_id: TypeId, listed: &GroupIds, new: &GroupIds) {
        for (samples, ids) in [(&mut self.known, listed), (&mut self.new, new)] {
            for id in ids.iter().skip(ids.len().saturating_sub(8 * SAMPLES)) {
                let of_form = samples.entry((type_id, IdForm::of(id))).or_default();
                if of_form.len() == SAMPLES {
                    of_form.remove(0);
                }
                of_form.push(id.to_owned());
            }
        }
    }

    /// The controls for a batch, best first: of its type and form, of its type, of its form, any. New ones precede known ones.
    pub fn controls(&self, type_id: TypeId, form: IdForm) -> impl Iterator<Item = &str> {
        let mut found: Vec<(bool, bool, bool, &str)> = Vec::new();
        for (is_known, samples) in [(false, &self.new), (true, &self.known)] {
            for ((of_type, of_form), ids) in samples {
                let rank = |id| (*of_type != type_id, *of_form != form, is_known, id);
                found.extend(ids.iter().rev().map(|id| rank(id.as_str())));
            }
        }
        found.sort_by_key(|(other_type, other_form, is_known, _)| (*other_type, *other_form, *is_known));
        let mut seen = Vec::new();
        found.into_iter().filter_map(move |(.., id)| {
            let first = !seen.contains(&id);
            seen.push(id);
            first.then_some(id)
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
        GroupAnswer { code: Some(code), group_type: None }
    }

    fn valid(absent: i64) -> ValidBatch {
        match judge_controls(&answer(absent), Some(&answer(0))) {
            Controls::Valid(batch) => batch,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_batch_is_valid_if_the_listed_control_exists_and_the_absent_one_does_not() {
        for absent in [10010, 10015, 10004, -1] {
            valid(absent);
        }
    }

    #[test]
    fn a_server_that_answers_that_everything_exists_contradicts() {
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
        assert_eq!(batch.learn(&answer(10010)), Learned::Gone(Gone(())));
        let private = GroupAnswer { code: Some(0), group_type: GroupType::new("Work") };
        assert_eq!(batch.learn(&private), Learned::Stands(GroupType::new("Private")));
        for unknown in [answer(10002), answer(99_999), GroupAnswer::default()] {
            assert_eq!(batch.learn(&unknown), Learned::Unlearned, "{unknown:?}");
        }
    }

    #[test]
    fn an_illegal_id_is_gone_only_where_absent_ids_of_its_form_are_called_illegal() {
        assert_eq!(valid(10010).learn(&answer(10015)), Learned::Unlearned);
        assert_eq!(valid(10004).learn(&answer(10015)), Learned::Unlearned);
        assert_eq!(valid(10015).learn(&answer(10015)), Learned::Gone(Gone(())));
        assert_eq!(valid(10015).learn(&answer(10010)), Learned::Gone(Gone(())));
    }

    #[test]
    fn ids_are_of_three_forms_and_an_absent_id_is_of_the_form_asked_for() {
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
    fn a_group_that_exists_is_asked_about_after_1_2_4_and_at_most_24_crawls() {
        let mut asked: Option<Asked> = None;
        let mut backoffs = Vec::new();
        for _ in 0..7 {
            let next = Asked::then_stood(asked.as_ref(), 100);
            assert!(!next.is_due(next.again_in - 1) && next.is_due(next.again_in) && next.stood_last());
            backoffs.push(next.again_in - 100);
            asked = Some(next);
        }
        assert_eq!(backoffs, [1, 2, 4, 8, 16, 24, 24]);
    }

    #[test]
    fn a_group_without_a_usable_answer_is_asked_about_by_three_crawls_and_then_backed_off() {
        let mut asked: Option<Asked> = Some(Asked { stood: 5, ..Asked::default() });
        let mut backoffs = Vec::new();
        for times in 1..6 {
            let next = Asked::then_unlearned(asked.as_ref(), 100);
            assert_eq!((next.unlearned, next.stood_last()), (times, false));
            backoffs.push(next.again_in - 100);
            asked = Some(next);
        }
        assert_eq!(backoffs, [1, 1, 1, 2, 4]);
        assert_eq!(Asked::then_stood(asked.as_ref(), 100).unlearned, 0);
    }

    #[test]
    fn a_group_without_history_is_due_and_is_asked_first() {
        let mut history = History { round: 7, ..History::default() };
        history.asked.insert("later".to_owned(), Asked { again_in: 8, round: 6, ..Asked::default() });
        history.asked.insert("now".to_owned(), Asked { again_in: 7, round: 6, ..Asked::default() });
        assert!(history.is_due("never") && history.is_due("now") && !history.is_due("later"));
        assert_eq!((history.last_round("never"), history.last_round("now")), (0, 6));
    }

    fn question(id: &str, type_id: TypeId, last_round: i64) -> Question<'_> {
        Question { id, type_id, last_round }
    }

    #[test]
    fn a_batch_has_one_type_and_one_form_and_new_questions_come_first() {
        let questions = [
            question("asked-recently", PUBLIC, 9),
            question("asked-long-ago", PUBLIC, 2),
            question("never", PUBLIC, 0),
            question("@TGS#a", PUBLIC, 0),
            question("of-another-type", PRIVATE, 0),
        ];
        let batches = batches(questions, 100);
        let of = |type_id, form, ids: &[&'static str]| Batch { type_id, form, ids: ids.to_vec() };
        let expected = [
            of(PUBLIC, IdForm::Custom, &["never", "asked-long-ago", "asked-recently"]),
            of(PUBLIC, IdForm::Default, &["@TGS#a"]),
            of(PRIVATE, IdForm::Custom, &["of-another-type"]),
        ];
        assert_eq!(batches, expected);
    }

    #[test]
    fn a_batch_has_at_most_48_questions_and_the_limit_keeps_the_oldest() {
        let ids: Vec<String> = (0..100).map(|n| format!("{n:03}")).collect();
        let questions = || (1..).zip(&ids).map(|(round, id)| question(id, PUBLIC, round));
        let sizes =
            |limit| batches(questions(), limit).iter().map(|batch| batch.ids.len()).collect::<Vec<_>>();
        assert_eq!(sizes(1000), [48, 48, 4]);
        assert_eq!(sizes(50), [48, 2]);
        assert_eq!(batches(questions(), 1)[0].ids, ["000"]);
        assert!(batches(questions(), 0).is_empty());
    }

    #[test]
    fn a_control_is_of_the_same_type_and_form_if_possible_and_new_if_possible() {
        let ids = |ids: &[&str]| ids.iter().copied().collect::<GroupIds>();
        let mut samples = Samples::default();
        assert!(samples.controls(PUBLIC, IdForm::Custom).next().is_none());
        samples.take(PUBLIC, &ids(&["@TGS#p", "old", "new"]), &ids(&["new"]));
        samples.take(PRIVATE, &ids(&["other"]), &ids(&[]));
        let controls = |type_id, form| samples.controls(type_id, form).collect::<Vec<_>>();
        assert_eq!(controls(PUBLIC, IdForm::Custom), ["new", "old", "@TGS#p", "other"]);
        assert_eq!(controls(PUBLIC, IdForm::Default)[0], "@TGS#p");
        assert_eq!(controls(PRIVATE, IdForm::Default)[0], "other");
        assert_eq!(controls(TypeId(9), IdForm::Default)[0], "@TGS#p");
    }

    #[test]
    fn samples_are_of_the_groups_that_were_listed_last() {
        let mut samples = Samples::default();
        let ids: GroupIds =
            (0..100).map(|n| format!("{n}")).collect::<Vec<_>>().iter().map(String::as_str).collect();
        samples.take(PUBLIC, &ids, &GroupIds::new());
        assert_eq!(samples.controls(PUBLIC, IdForm::Custom).collect::<Vec<_>>(), ["99", "98", "97", "96"]);
    }
}
