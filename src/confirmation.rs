//! What `get_group_info` proves about groups that the lists lack. Pure.
//!
//! The list nominates groups for deletion, the API decides about each by its id. An answer is believed only if the same
//! request shows that the server tells existing groups from absent ones. So every batch has two controls:
//!
//! - an **absent control**: an id that cannot exist. The server must answer that it does not stand.
//! - a **listed control**: a group that this crawl has listed. The server must answer that it stands.
//!
//! Only [`judge_controls`] makes a [`ValidBatch`], and only a valid batch makes a [`Gone`]: without controls that hold, no
//! group can be called gone.

use std::collections::{BTreeMap, HashMap};

use crate::model::{GroupIds, GroupType, TypeId};
use crate::tencent::GroupAnswer;
use crate::tencent::wire::MAX_INFO_IDS;

/// Questions of one batch. The rest of a request's ids are the controls.
pub const BATCH: usize = MAX_INFO_IDS - 2;

/// The group does not exist, or was disbanded (269/1671).
const NO_SUCH_GROUP: i64 = 10010;
/// The group id is illegal (269/1671). Some servers answer it for groups that do not exist.
const ILLEGAL_ID: i64 = 10015;

/// Crawls that ask about a group without learning anything, after which a person has to decide about it.
pub const MAX_UNLEARNED: i64 = 3;
/// Most crawls that pass before a group is asked about again that was found standing every time.
const LONGEST_PAUSE: i64 = 24;
/// Samples of listed groups that are kept of each type and form.
const SAMPLES: usize = 4;

/// The forms of group ids (269/1502). A server may answer differently for ids of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum IdForm {
    /// Made by the API: `@TGS#…`.
    Default,
    /// Of a Community: `@TGS#_…`.
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

    /// An id of this form that no group has. Its end is made of `random`, so that no app can have chosen it.
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

/// What was learned about one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Learned {
    Gone(Gone),
    /// It exists; of this type, if the answer names one.
    Stands(Option<GroupType>),
    /// The answer says neither: another code, or nothing at all.
    Unlearned,
}

/// What the controls of one batch say about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Controls {
    /// Both hold.
    Valid(ValidBatch),
    /// The listed control is gone. It may have been dissolved since it was listed, so another one is tried.
    ListedIsGone,
    /// They contradict what is known: nothing of the batch is believed.
    Contradict { absent: Option<i64>, listed: Option<i64> },
}

/// A batch whose controls hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValidBatch {
    /// The absent control was called illegal, so that is what "does not exist" looks like for ids of its form.
    illegal_means_absent: bool,
}

/// Compares the answers about the controls with what they are known to be. `listed` is `None` for an app that has listed
/// nothing and whose totals are 0: no group could be a listed control then.
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
    /// What an answer of this batch says about its group.
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

/// What earlier crawls learned about a group that is still in doubt: the lists lack it, or contradict its type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asked {
    /// How many times running it was found standing.
    pub stood: i64,
    /// How many times running nothing was learned.
    pub unlearned: i64,
    /// The round in which it was asked about last. Rounds count the app's crawls that reached their end.
    pub round: i64,
    /// The first round in which it is asked about again.
    pub again_in: i64,
}

impl Asked {
    /// The state after the group was found standing: it is asked about again after 1, 2, 4 … 24 crawls.
    #[must_use]
    pub fn then_stood(before: Option<&Self>, round: i64) -> Self {
        let stood = before.map_or(0, |before| before.stood) + 1;
        Self { stood, unlearned: 0, round, again_in: round + pause_after(stood) }
    }

    /// The state after nothing was learned: the next crawls ask again, and ever more seldom once it is left to a person.
    #[must_use]
    pub fn then_unlearned(before: Option<&Self>, round: i64) -> Self {
        let unlearned = before.map_or(0, |before| before.unlearned) + 1;
        Self { stood: 0, unlearned, round, again_in: round + pause_after(unlearned + 1 - MAX_UNLEARNED) }
    }

    #[must_use]
    pub fn is_due(&self, round: i64) -> bool {
        round >= self.again_in
    }

    /// Whether the last answer was that the group stands.
    #[must_use]
    pub fn stood_last(&self) -> bool {
        self.stood > 0
    }
}

/// The crawls that pass before a group is asked about again: 1 after the first time, and before that.
fn pause_after(times: i64) -> i64 {
    (1 << (times - 1).clamp(0, 10)).min(LONGEST_PAUSE)
}

/// The groups in doubt that earlier crawls asked about.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// The round of the crawl under way.
    pub round: i64,
    pub asked: HashMap<String, Asked>,
}

impl History {
    /// Whether a group may be asked about in this round.
    #[must_use]
    pub fn is_due(&self, id: &str) -> bool {
        self.asked.get(id).is_none_or(|asked| asked.is_due(self.round))
    }

    /// The round in which a group was asked about last; 0 if never, which comes first.
    #[must_use]
    pub fn last_round(&self, id: &str) -> i64 {
        self.asked.get(id).map_or(0, |asked| asked.round)
    }
}

/// A question that waits for its turn.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    pub id: &'a str,
    /// The type that the database has.
    pub type_id: TypeId,
    /// The round in which it was asked last, 0 if never.
    pub last_round: i64,
}

/// Questions of one type and one form of id that go into one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch<'a> {
    pub type_id: TypeId,
    pub form: IdForm,
    pub ids: Vec<&'a str>,
}

/// Sorts questions into batches: first what was never asked about, then what was not asked about for longest. At most
/// `most` questions are taken; the others wait for a later crawl.
#[must_use]
pub fn batches<'a>(questions: impl IntoIterator<Item = Question<'a>>, most: usize) -> Vec<Batch<'a>> {
    // Millions may wait, but only `most` are asked: collecting no more of them bounds the memory.
    let (mut never, mut asked) = (Vec::new(), Vec::new());
    for question in questions {
        match question.last_round {
            0 if never.len() < most => never.push(question),
            0 => {}
            _ => asked.push(question),
        }
    }
    asked.sort_by_key(|question| question.last_round);
    let questions = never.into_iter().chain(asked).take(most);
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

/// Listed groups that can be controls: of each type and form the last few.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    /// Groups that this crawl listed first. A stale server does not know them, so they are the better controls.
    new: BTreeMap<(TypeId, IdForm), Vec<String>>,
    known: BTreeMap<(TypeId, IdForm), Vec<String>>,
}

impl Samples {
    /// Takes samples of the groups that a pass of this type has just listed, and of those among them that are new.
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

    /// Controls for a batch, the best first: of its type and form, of its type, of its form, any; new ones before known ones.
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
    fn a_batch_is_valid_if_the_listed_control_stands_and_the_absent_one_does_not() {
        for absent in [10010, 10015, 10004, -1] {
            valid(absent);
        }
    }

    #[test]
    fn a_server_that_says_that_everything_stands_is_not_believed() {
        let contradict = Controls::Contradict { absent: Some(0), listed: Some(0) };
        assert_eq!(judge_controls(&answer(0), Some(&answer(0))), contradict);
        let without_listed = Controls::Contradict { absent: Some(0), listed: None };
        assert_eq!(judge_controls(&answer(0), None), without_listed);
    }

    #[test]
    fn a_server_that_leaves_a_control_out_is_not_believed() {
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
    fn a_group_that_does_not_exist_is_gone_and_one_without_an_error_stands() {
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
    fn a_standing_group_is_asked_about_after_1_2_4_and_at_most_24_crawls() {
        let mut asked: Option<Asked> = None;
        let mut pauses = Vec::new();
        for _ in 0..7 {
            let next = Asked::then_stood(asked.as_ref(), 100);
            assert!(!next.is_due(next.again_in - 1) && next.is_due(next.again_in) && next.stood_last());
            pauses.push(next.again_in - 100);
            asked = Some(next);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 24, 24]);
    }

    #[test]
    fn a_group_that_stays_unlearned_is_asked_about_by_each_of_three_crawls_and_then_more_seldom() {
        let mut asked: Option<Asked> = Some(Asked { stood: 5, ..Asked::default() });
        let mut pauses = Vec::new();
        for times in 1..6 {
            let next = Asked::then_unlearned(asked.as_ref(), 100);
            assert_eq!((next.unlearned, next.stood_last()), (times, false));
            pauses.push(next.again_in - 100);
            asked = Some(next);
        }
        assert_eq!(pauses, [1, 1, 1, 2, 4]);
        assert_eq!(Asked::then_stood(asked.as_ref(), 100).unlearned, 0);
    }

    #[test]
    fn a_group_without_history_is_due_and_comes_first() {
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
    fn a_batch_has_one_type_and_one_form_and_what_was_never_asked_comes_first() {
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
    fn a_batch_has_at_most_48_questions_and_the_oldest_are_taken_if_there_are_too_many() {
        let ids: Vec<String> = (0..100).map(|n| format!("{n:03}")).collect();
        let questions = || (1..).zip(&ids).map(|(round, id)| question(id, PUBLIC, round));
        let sizes = |most| batches(questions(), most).iter().map(|batch| batch.ids.len()).collect::<Vec<_>>();
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
