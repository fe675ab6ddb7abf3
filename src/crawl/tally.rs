//! The plan, the counters and the result of a pass.

use chrono::{DateTime, Utc};
use tokio::sync::watch;
use tracing::warn;

use super::progress::{Progress, Step};
use super::uncertain_types::UncertainTypes;
use crate::confirmation::{LookupHistory, Samples};
use crate::model::{Counts, GroupType, TypeId};
use crate::pages::EndOfList;
use crate::roll::PassNo;
use crate::tencent::ApiError;
use crate::verdict::{FinishedPass, Recheck};

/// The plan of a pass.
#[derive(Clone, Debug)]
pub(super) struct PassPlan {
    pub(super) no: PassNo,
    /// `None` for the unfiltered pass.
    pub(super) group_type: Option<GroupType>,
    pub(super) type_id: TypeId,
    /// Whether the baseline of this type has not ended yet.
    pub(super) in_baseline: bool,
    /// The number of live groups of the type when the crawl began; of all types for the unfiltered
    /// pass.
    pub(super) live_before: u64,
    /// Whether new groups are written at the end of the crawl, after their types have been looked
    /// up.
    pub(super) defers_new_groups: bool,
}

/// State that all passes of a crawl share, and that its conclusion uses.
#[derive(Debug, Default)]
pub(super) struct PassState {
    /// The lookups of earlier crawls.
    pub(super) history: LookupHistory,
    /// Listed groups that can be controls.
    pub(super) samples: Samples,
    pub(super) uncertain: UncertainTypes,
    /// The types that have a pass of their own.
    pub(super) own_types: Vec<TypeId>,
}

/// The counters of a pass.
#[derive(Debug)]
pub(super) struct PassTally {
    pub(super) plan: PassPlan,
    pub(super) pages: u32,
    /// The `TotalCount`s of the list.
    pub(super) counts: Counts,
    /// The number of distinct ids that this pass listed.
    pub(super) distinct: u64,
    /// The number of entries that repeat an id of this pass.
    pub(super) repeats: u64,
    /// The number of ids that an earlier pass of this crawl had listed.
    pub(super) listed_earlier: u64,
    /// The number of listed ids that are not valid group ids.
    pub(super) unusable: u64,
    /// The number of groups that no crawl had listed before. Updated when groups are written.
    pub(super) first_listed: u64,
    /// The number of listed ids that are not on the roll, because the group is new or was deleted.
    pub(super) not_on_roll: u64,
    /// The number of listed groups that were missing.
    pub(super) were_missing: u64,
    /// The number of listed groups that are stored under another type.
    pub(super) stored_as_other_type: u64,
    /// The number of live groups that this pass added. Updated when groups are written.
    pub(super) added_live: u64,
    /// The number of consecutive pages without an id that is new to this pass.
    pub(super) repeated_pages: u32,
    pub(super) ended_at: Option<DateTime<Utc>>,
}

/// The end of a pass.
#[derive(Debug)]
pub(super) enum PassEnd {
    /// The list was read to its end.
    Complete(EndOfList),
    /// The API does not know the type.
    Rejected(ApiError),
}

/// A pass that was started.
#[derive(Debug)]
pub(super) struct PassResult {
    pub(super) tally: PassTally,
    /// `None` if the pass was interrupted, or if `conclusion` has taken the value to judge the
    /// pass.
    pub(super) end: Option<PassEnd>,
}

impl PassTally {
    pub(super) fn new(plan: PassPlan) -> Self {
        Self {
            plan,
            pages: 0,
            counts: Counts::default(),
            distinct: 0,
            repeats: 0,
            listed_earlier: 0,
            unusable: 0,
            first_listed: 0,
            not_on_roll: 0,
            were_missing: 0,
            stored_as_other_type: 0,
            added_live: 0,
            repeated_pages: 0,
            ended_at: None,
        }
    }

    /// Returns whether every listed id was a known live group of this type, not missing, and listed
    /// once.
    pub(super) fn found_only_known_groups(&self) -> bool {
        let changes = self.not_on_roll + self.were_missing + self.stored_as_other_type;
        changes + self.repeats + self.listed_earlier + self.unusable == 0
    }

    /// Returns the numbers by which the pass is judged.
    pub(super) fn finished(&self, end: EndOfList, recheck: Recheck) -> FinishedPass {
        FinishedPass {
            type_id: self.plan.type_id,
            end,
            counts: self.counts,
            distinct: self.distinct,
            repeats: self.repeats,
            first_listed: self.first_listed,
            in_baseline: self.plan.in_baseline,
            unusable: self.unusable,
            recheck,
        }
    }

    /// Publishes the pass as the crawl's current step. `listed` is the number of distinct ids of
    /// all passes.
    pub(super) fn publish_progress(&self, progress: &watch::Sender<Progress>, listed: u64) {
        progress.send_modify(|progress| {
            progress.listed = listed;
            progress.step = Step::Listing {
                group_type: self.plan.group_type.clone(),
                listed: self.distinct,
                total: self.counts.last,
            };
        });
    }

    /// Logs a warning for groups that two typed passes listed, and for invalid ids.
    pub(super) fn warn_about_anomalies(&self) {
        let group_type = self.plan.group_type.as_ref().map(GroupType::as_str);
        if self.listed_earlier > 0 && group_type.is_some() {
            warn!(
                group_type,
                groups = self.listed_earlier,
                "groups of this list were also listed by an earlier pass; their stored types are \
                 kept; if every crawl logs this, remove one of the types from `group_types`"
            );
        }
        if self.unusable > 0 {
            warn!(
                group_type,
                ids = self.unusable,
                "ignored listed ids that are not valid: they are empty, longer than 255 bytes, or \
                 have control characters; report them to Tencent Cloud's support"
            );
        }
    }
}
