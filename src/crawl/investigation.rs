//! The requests of a crawl for lists: the passes and the second looks that follow them.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use chrono::{DateTime, Utc};
use tokio::time::Instant;
use tracing::{info, warn};

use super::conclusion::{Concluded, Lists};
use super::pass::{PageFetcher, make_passes};
use super::progress::{Progress, SignsOfLife, Step};
use super::site::check_clock;
use super::tally::{PassEnd, PassNotes, PassPlan, PassResult, PassTally};
use super::{CrawlSite, Crawler, Interrupted};
use crate::model::{GroupType, TypeId, Verdict};
use crate::pages::{Caller, Pages};
use crate::reconcile::Leftover;
use crate::roll::{PassNo, Roll, RollBuilder};
use crate::store::{PassRecord, TypeState};
use crate::tencent::ApiError;
use crate::verdict::Recheck;

/// A crawl as far as it has come. Filled while it runs, so that a crawl that is interrupted is recorded too.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) total_at_start: Option<u64>,
    pub(super) total_at_end: Option<u64>,
    pub(super) leftover: Option<u64>,
    /// The next crawl has to make an unfiltered pass.
    pub(super) unfiltered_next: bool,
    pub(super) listed: u64,
    pub(super) passes: Vec<PassResult>,
    pub(super) verdicts: BTreeMap<TypeId, Verdict>,
}

impl Crawler {
    /// Makes all requests of a crawl, writes what they list, and concludes what follows from it.
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
        let live_before: u64 = states.iter().map(TypeState::live).sum();
        let own_types = types.values().copied().collect();
        let mut notes =
            PassNotes { history: site.store.history(site.app).await?, own_types, ..PassNotes::default() };
        let begun = Instant::now();
        let counting = async {
            findings.total_at_start = self.count_app(site, caller).await?;
            self.progress.send_modify(|progress| progress.total = findings.total_at_start);
            Ok::<(), Interrupted>(())
        };
        let ((), mut roll) = tokio::try_join!(biased; counting, read_roll(site, &states))?;
        // Without any count of the app only a list's own TotalCount can bound it.
        let known_groups = findings.total_at_start.map(|total| total.max(live_before));

        let plans = self.plans(types, &states, live_before);
        self.list(site, plans, caller, (&mut roll, &mut notes), known_groups, findings).await?;
        self.note_rejected(findings)?;
        self.progress.send_modify(|progress| progress.step = Step::Checking);
        let mut rechecks = self.ask_emptied_types_again(site, caller, &roll, findings).await?;
        findings.total_at_end = self.count_app(site, caller).await?;
        let leftover = self.leftover(findings);
        let by_leftover = leftover.calls_for_unfiltered_pass(!past.crawled_before, past.leftover_last_time);
        if by_leftover || (past.unfiltered_wanted && !self.settings.group_types.is_empty()) {
            let keep_new = site.learns_types;
            let plan = unfiltered(&states, findings.passes.len(), live_before, keep_new);
            self.list(site, vec![plan], caller, (&mut roll, &mut notes), known_groups, findings).await?;
            // There were more groups than the typed passes listed: a list without any contradicts that.
            let empty = findings.passes.last().is_some_and(|pass| pass.tally.distinct == 0);
            rechecks.push(if empty && by_leftover { Recheck::Contradicted } else { Recheck::NotNeeded });
            // What came while this pass ran may stand in the earlier count for what it missed.
            findings.total_at_end = self.count_app(site, caller).await?;
        }
        let took = begun.elapsed();
        let lists = Lists { roll: &roll, states_before: &states, rechecks, took };
        self.conclude(site, types, caller, lists, (findings, notes)).await
    }

    /// Asks for the app's TotalCount.
    async fn count_app(
        &self,
        site: &CrawlSite<'_>,
        caller: &mut Caller<'_>,
    ) -> Result<Option<u64>, Interrupted> {
        let counted = site.asking(caller.in_flight(), caller.count_app()).await?;
        // First, because a wrong clock makes signatures that the API refuses.
        check_clock(caller)?;
        Ok(counted?)
    }

    fn plans(
        &self,
        types: &BTreeMap<GroupType, TypeId>,
        states: &[TypeState],
        live_before: u64,
    ) -> Vec<PassPlan> {
        if self.settings.group_types.is_empty() {
            return vec![unfiltered(states, 0, live_before, false)];
        }
        // In the order of the configuration: the first pass that lists a new group decides its type.
        let typed = self.settings.group_types.iter().filter_map(|name| Some((name, *types.get(name)?)));
        let live =
            |type_id| states.iter().find(|state| state.type_id() == type_id).map_or(0, TypeState::live);
        typed
            .enumerate()
            .map(|(index, (name, type_id))| PassPlan {
                no: PassNo::nth(index),
                group_type: Some(name.clone()),
                type_id,
                in_baseline: in_baseline(states, type_id),
                live_before: live(type_id),
                keep_new: false,
            })
            .collect()
    }

    async fn list(
        &self,
        site: &CrawlSite<'_>,
        plans: Vec<PassPlan>,
        caller: &mut Caller<'_>,
        (roll, notes): (&mut Roll, &mut PassNotes),
        known_groups: Option<u64>,
        findings: &mut Findings,
    ) -> Result<(), Interrupted> {
        let fetcher = PageFetcher::new(site, caller, plans, self.settings.page_limit, known_groups);
        let made = make_passes(site, fetcher, roll, notes, &mut findings.passes).await;
        findings.listed = roll.listed();
        made
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
        let all = rejected.len() == findings.passes.len();
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
        roll: &Roll,
        findings: &Findings,
    ) -> Result<Vec<Recheck>, Interrupted> {
        let mut rechecks = Vec::with_capacity(findings.passes.len());
        for (tally, end) in findings.ended() {
            let had_groups = match tally.plan.group_type {
                Some(_) => roll.live_before(tally.plan.type_id) > 0,
                None => roll.live_before_in_all() > 0,
            };
            if tally.distinct > 0 || !had_groups || matches!(end, PassEnd::Rejected(_)) {
                rechecks.push(Recheck::NotNeeded);
                continue;
            }
            let mut pages = Pages::of(tally.plan.group_type.clone(), self.settings.page_limit, None);
            let again = site.asking(caller.in_flight(), pages.fetch_next(caller)).await??;
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
        let claimed = findings.tallies().map(|tally| tally.counts.highest.unwrap_or(tally.distinct));
        let leftover = Leftover::of(findings.total_at_start, findings.total_at_end, claimed);
        findings.leftover = match leftover {
            Leftover::Unknown => None,
            Leftover::None => Some(0),
            Leftover::Groups(groups) => Some(groups),
        };
        leftover
    }
}

impl Findings {
    /// The passes that ended, with how.
    fn ended(&self) -> impl Iterator<Item = (&PassTally, &PassEnd)> {
        self.passes.iter().filter_map(|pass| Some((&pass.tally, pass.end.as_ref()?)))
    }

    pub(super) fn tallies(&self) -> impl Iterator<Item = &PassTally> {
        self.passes.iter().map(|pass| &pass.tally)
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
        self.tallies().map(record).collect()
    }
}

/// Reads the known live groups of the app.
async fn read_roll(site: &CrawlSite<'_>, states: &[TypeState]) -> Result<Roll, Interrupted> {
    let begin = || RollBuilder::with_room(states.iter().map(|state| (state.type_id(), state.live())));
    if states.iter().all(|state| state.live() == 0) {
        return Ok(begin().finish());
    }
    let mut signs = SignsOfLife::of(site.progress);
    let each = |builder: &mut RollBuilder, type_id, id: &str, mark| {
        builder.add(type_id, id, mark);
        signs.count();
    };
    Ok(site.unless_stopped(site.store.gather_live(site.app, begin, each)).await??.finish())
}

fn in_baseline(states: &[TypeState], type_id: TypeId) -> bool {
    !states.iter().any(|state| state.type_id() == type_id && state.past_baseline())
}

fn unfiltered(states: &[TypeState], index: usize, live_before: u64, keep_new: bool) -> PassPlan {
    PassPlan {
        no: PassNo::nth(index),
        group_type: None,
        type_id: TypeId::UNKNOWN,
        in_baseline: in_baseline(states, TypeId::UNKNOWN),
        live_before,
        keep_new,
    }
}
