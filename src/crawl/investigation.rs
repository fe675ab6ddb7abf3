//! What a crawl finds out: the passes and second looks that it takes, and what their numbers prove.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use chrono::{DateTime, Utc};
use tracing::{info, warn};

use super::confirm::confirm;
use super::pass::{self, PassEnd, PassPlan, PassTally};
use super::progress::{Progress, SignsOfLife, Step};
use super::roll_read::RollRead;
use super::{CrawlSite, Crawler, Interrupted};
use crate::guard::{Change, GuardSettings, Withholding, withhold};
use crate::model::{GroupType, TypeId, Verdict};
use crate::pages::{Caller, Pages};
use crate::reconcile::{Absences, Leftover, Settlement, typed_account_for_app};
use crate::roll::{PassNo, Roll};
use crate::store::{PassRecord, StoreError, TypeState};
use crate::tencent::ApiError;
use crate::verdict::{Evidence, Judgement, Recheck, is_nearly_whole, judge};

/// A crawl as far as it has come. Filled while it runs, so that a crawl that is interrupted is recorded too.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) total_at_start: Option<u64>,
    pub(super) total_at_end: Option<u64>,
    pub(super) leftover: Option<u64>,
    pub(super) listed: u64,
    pub(super) tallies: Vec<PassTally>,
    ends: Vec<Option<PassEnd>>,
    verdicts: BTreeMap<TypeId, Verdict>,
}

/// A crawl that reached its end.
pub(super) struct Concluded {
    pub(super) settlement: Settlement,
    pub(super) judgement: Judgement,
    pub(super) withholding: Option<Withholding>,
    /// Why nobody may ask about the vanished groups: then they are withheld.
    pub(super) unconfirmed: Option<ApiError>,
}

impl Crawler {
    /// Makes all requests of a crawl and writes what they list; concludes nothing about what they do not.
    pub(super) async fn investigate(
        &self,
        site: &CrawlSite<'_>,
        types: &BTreeMap<GroupType, TypeId>,
        caller: &mut Caller<'_>,
        findings: &mut Findings,
    ) -> Result<Concluded, Interrupted> {
        self.progress.send_replace(Progress { step: Step::Starting, ..Progress::default() });
        let states = site.type_states().await?;
        let past = site.store.past(site.app).await?;
        // The roll is read while the first pages come in.
        let mut roll = RollRead::begin(site, &states);
        findings.total_at_start = site.asking(caller.in_hand(), caller.count_app()).await??;
        self.progress.send_modify(|progress| progress.total = findings.total_at_start);

        self.list(site, self.plans(types, &states), caller, &mut roll, findings).await?;
        self.note_rejected(findings)?;
        self.progress.send_modify(|progress| progress.step = Step::Checking);
        let mut rechecks = self.ask_emptied_types_again(site, caller, &mut roll, findings).await?;
        findings.total_at_end = site.asking(caller.in_hand(), caller.count_app()).await??;
        let leftover = self.leftover(findings);
        if leftover.calls_for_unfiltered_pass(!past.crawled_before, past.leftover_last_time) {
            let plan = unfiltered(&states, findings.tallies.len());
            self.list(site, vec![plan], caller, &mut roll, findings).await?;
            // There were more groups than the typed passes listed: a list without any contradicts that.
            let empty = findings.tallies.last().is_some_and(|tally| tally.distinct == 0);
            rechecks.push(if empty { Recheck::Contradicted } else { Recheck::NotNeeded });
            // What came while this pass ran may stand in the earlier count for what it missed.
            findings.total_at_end = site.asking(caller.in_hand(), caller.count_app()).await??;
        }
        let roll = site.unless_stopped(roll.ready()).await??;
        let concluding = self.conclude(site, types, roll, leftover, rechecks, findings);
        let mut concluded = site.unless_stopped(concluding).await??;
        if self.settings.guard.confirm {
            concluded.unconfirmed = confirm(site, types, caller, &mut concluded.settlement).await?;
        }
        Ok(concluded)
    }

    fn plans(&self, types: &BTreeMap<GroupType, TypeId>, states: &[TypeState]) -> Vec<PassPlan> {
        if self.settings.group_types.is_empty() {
            return vec![unfiltered(states, 0)];
        }
        // In the order of the configuration: the first pass that lists a group decides its type.
        let typed = self.settings.group_types.iter().filter_map(|name| Some((name, *types.get(name)?)));
        typed
            .enumerate()
            .map(|(index, (name, type_id))| PassPlan {
                no: PassNo::nth(index),
                group_type: Some(name.clone()),
                type_id,
                in_baseline: in_baseline(states, type_id),
            })
            .collect()
    }

    async fn list(
        &self,
        site: &CrawlSite<'_>,
        plans: Vec<PassPlan>,
        caller: &mut Caller<'_>,
        roll: &mut RollRead,
        findings: &mut Findings,
    ) -> Result<(), Interrupted> {
        pass::run(site, caller, self.settings.page_limit, roll, plans, |tally, end, listed| {
            findings.listed = listed;
            findings.tallies.push(tally);
            findings.ends.extend(end.map(Some));
        })
        .await
    }

    /// Says which types the API rejects when that changes; all of them are a failure.
    fn note_rejected(&self, findings: &Findings) -> Result<(), Interrupted> {
        let rejected: BTreeMap<&GroupType, &ApiError> = findings
            .ended()
            .filter_map(|(tally, end)| match end {
                PassEnd::Rejected(error) => Some((tally.plan.group_type.as_ref()?, error)),
                PassEnd::Complete(_) => None,
            })
            .collect();
        let mut before = self.rejected.lock().unwrap_or_else(PoisonError::into_inner);
        for (group_type, error) in rejected.iter().filter(|(group_type, _)| !before.contains(**group_type)) {
            warn!(%group_type, error_code = error.code(), "the API rejects this group type; its groups stay as they are: {error}");
        }
        for group_type in before.iter().filter(|group_type| !rejected.contains_key(*group_type)) {
            info!(%group_type, "the API accepts this group type again");
        }
        *before = rejected.keys().map(|group_type| (*group_type).clone()).collect();
        let all = rejected.len() == findings.tallies.len();
        if let Some(error) = rejected.values().next().filter(|_| all) {
            let names: Vec<&str> = rejected.keys().map(|group_type| group_type.as_str()).collect();
            return Err(Interrupted::AllRejected { names: names.join(", "), error: error.to_string() });
        }
        Ok(())
    }

    /// Asks each type that had live groups and was listed as empty for its first page once more.
    async fn ask_emptied_types_again(
        &self,
        site: &CrawlSite<'_>,
        caller: &mut Caller<'_>,
        roll: &mut RollRead,
        findings: &Findings,
    ) -> Result<Vec<Recheck>, Interrupted> {
        let roll = site.unless_stopped(roll.ready()).await??;
        let mut rechecks = Vec::with_capacity(findings.tallies.len());
        for (tally, end) in findings.ended() {
            let had_groups = match tally.plan.group_type {
                Some(_) => roll.live_before(tally.plan.type_id) > 0,
                None => roll.live_before_in_all() > 0,
            };
            if tally.distinct > 0 || !had_groups || matches!(end, PassEnd::Rejected(_)) {
                rechecks.push(Recheck::NotNeeded);
                continue;
            }
            let mut pages = Pages::of(tally.plan.group_type.clone(), self.settings.page_limit);
            let again = site.asking(caller.in_hand(), pages.turn(caller)).await??;
            let empty = again.page.ids.is_empty() && again.page.unusable == 0 && again.end.is_some();
            let confirmed = empty && again.page.total_count == Some(0);
            rechecks.push(if confirmed { Recheck::StillEmpty } else { Recheck::Contradicted });
        }
        Ok(rechecks)
    }

    fn leftover(&self, findings: &mut Findings) -> Leftover {
        if self.settings.group_types.is_empty() {
            return Leftover::Unknown;
        }
        let claimed = findings.tallies.iter().map(|tally| tally.counts.highest.unwrap_or(tally.distinct));
        let leftover = Leftover::of(findings.total_at_start, findings.total_at_end, claimed);
        findings.leftover = match leftover {
            Leftover::Unknown => None,
            Leftover::None => Some(0),
            Leftover::Groups(groups) => Some(groups),
        };
        leftover
    }

    /// Judges the passes and names what they prove gone.
    async fn conclude(
        &self,
        site: &CrawlSite<'_>,
        types: &BTreeMap<GroupType, TypeId>,
        roll: &Roll,
        leftover: Leftover,
        rechecks: Vec<Recheck>,
        findings: &mut Findings,
    ) -> Result<Concluded, StoreError> {
        let mut passes = Vec::with_capacity(rechecks.len());
        for ((tally, end), recheck) in findings.tallies.iter().zip(&mut findings.ends).zip(rechecks) {
            match end.take() {
                Some(PassEnd::Complete(end)) => passes.push(tally.finished(end, recheck)),
                Some(PassEnd::Rejected(_)) => {
                    findings.verdicts.insert(tally.plan.type_id, Verdict::Rejected);
                }
                None => {}
            }
        }
        let judgement = judge(Evidence {
            passes,
            total_at_start: findings.total_at_start,
            total_at_end: findings.total_at_end,
            distinct: findings.listed,
            max_shortfall: self.settings.max_shortfall,
        });
        findings.verdicts.extend(judgement.passes.iter().map(|judged| (judged.pass.type_id, judged.verdict)));
        // A first list that broke off is no baseline: what it lacks would all seem to appear later. One whose own count is
        // of something else may be whole all the same.
        for judged in judgement.passes.iter().filter(|judged| judged.pass.in_baseline) {
            if judged.proof.is_some() && !is_nearly_whole(&judged.pass.counts, judged.pass.distinct) {
                site.end_baseline(judged.pass.type_id).await?;
            }
        }
        let total = findings.total_at_start.min(findings.total_at_end);
        let accounted = typed_account_for_app(leftover, &judgement, findings.listed, total);
        let absences = Absences::of(&judgement, accounted);
        let unlisted = roll.unlisted();
        let states = site.type_states().await?;
        let known: Vec<TypeId> = states.iter().map(TypeState::type_id).collect();
        let begin = || absences.settlement(&known, &unlisted);
        let mut settlement = if unlisted.is_empty() {
            begin()
        } else {
            let mut signs = SignsOfLife::of(site.progress);
            let each = |settlement: &mut Settlement, type_id, id: &str, mark| {
                signs.count();
                if roll.is_unlisted(type_id, id) {
                    settlement.consider(&absences, type_id, id, mark);
                }
            };
            site.store.gather_live(site.app, begin, each).await?
        };
        let withholding = withhold(&self.guard(types), &changes(roll, &states, &settlement));
        if let Some(withholding) = &withholding {
            settlement.withhold(&withholding.types);
        }
        Ok(Concluded { settlement, judgement, withholding, unconfirmed: None })
    }

    fn guard(&self, types: &BTreeMap<GroupType, TypeId>) -> GuardSettings {
        let policy = &self.settings.guard;
        let own = policy.max_fraction_by_type.iter();
        GuardSettings {
            review: policy.review,
            max_fraction: policy.max_fraction,
            min_groups: policy.min_groups,
            max_fraction_by_type: own.filter_map(|(name, share)| Some((*types.get(name)?, *share))).collect(),
        }
    }
}

impl Findings {
    /// The passes that ended, with how.
    fn ended(&self) -> impl Iterator<Item = (&PassTally, &PassEnd)> {
        self.tallies.iter().zip(&self.ends).filter_map(|(tally, end)| Some((tally, end.as_ref()?)))
    }

    pub(super) fn records(&self, started_at: DateTime<Utc>) -> Vec<PassRecord> {
        let record = |tally: &PassTally| PassRecord {
            type_id: tally.plan.type_id,
            recorded_at: tally.ended_at.unwrap_or(started_at),
            verdict: self.verdicts.get(&tally.plan.type_id).copied(),
            pages: tally.pages,
            counts: tally.counts,
            distinct: tally.distinct,
            repeats: tally.repeats,
            first_listed: tally.first_listed,
            unusable: tally.unusable,
        };
        self.tallies.iter().map(record).collect()
    }
}

/// What the settlement would do to each type. `states` has what this crawl listed already.
fn changes(roll: &Roll, states: &[TypeState], settlement: &Settlement) -> BTreeMap<TypeId, Change> {
    let mut changes: BTreeMap<TypeId, Change> = states
        .iter()
        .map(|state| {
            let type_id = state.type_id();
            (type_id, Change { before: roll.live_before(type_id), after: state.live(), vanished: 0 })
        })
        .collect();
    for (of, ids) in settlement.vanished() {
        let change = changes.entry(of.type_id).or_default();
        change.vanished += ids.len() as u64;
        change.after = change.after.saturating_sub(ids.len() as u64);
    }
    changes
}

fn in_baseline(states: &[TypeState], type_id: TypeId) -> bool {
    !states.iter().any(|state| state.type_id() == type_id && state.past_baseline())
}

fn unfiltered(states: &[TypeState], index: usize) -> PassPlan {
    PassPlan {
        no: PassNo::nth(index),
        group_type: None,
        type_id: TypeId::UNKNOWN,
        in_baseline: in_baseline(states, TypeId::UNKNOWN),
    }
}
