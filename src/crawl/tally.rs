//! The plan, the numbers and the result of a pass.

use chrono::{DateTime, Utc};
use tokio::sync::watch;
use tracing::warn;

use super::progress::{Progress, Step};
use super::uncertain_types::UncertainTypes;
use crate::confirmation::{History, Samples};
use crate::model::{Counts, GroupType, TypeId};
use crate::pages::EndOfList;
use crate::roll::PassNo;
use crate::tencent::ApiError;
use crate::verdict::{FinishedPass, Recheck};

/// The plan of a pass.
#[derive(Clone, Debug)]
pub(super) struct PassPlan {
    pub(super) no: PassNo,
    /// `None` lists all types.
    pub(super) group_type: Option<GroupType>,
    pub(super) type_id: TypeId,
    pub(super) in_baseline: bool,
    /// Live groups of the type, or of all types, when the crawl began.
    pub(super) live_before: u64,
    /// New groups are written at the crawl's end, when their types may be known.
    pub(super) defers_new: bool,
}

/// What the passes of a crawl collect for its conclusion, and what they need for it.
#[derive(Debug, Default)]
pub(super) struct PassNotes {
    /// The answers of earlier crawls.
    pub(super) history: History,
    /// Listed groups that can be controls.
    pub(super) samples: Samples,
    pub(super) uncertain: UncertainTypes,
    /// Types with a pass of their own.
    pub(super) own_types: Vec<TypeId>,
}

/// The numbers of a pass so far.
#[derive(Debug)]
pub(super) struct PassTally {
    pub(super) plan: PassPlan,
    pub(super) pages: u32,
    /// The TotalCounts that the list stated.
    pub(super) counts: Counts,
    /// Different ids listed by this pass.
    pub(super) distinct: u64,
    /// Ids that this pass listed again.
    pub(super) repeats: u64,
    /// Ids that an earlier pass of this crawl had listed.
    pub(super) elsewhere: u64,
    /// Listed ids that cannot be group ids.
    pub(super) unusable: u64,
    /// Groups that no crawl had listed before.
    pub(super) first_listed: u64,
    /// Ids that were not on the roll: unknown, or deleted.
    pub(super) new: u64,
    /// Groups that were missing.
    pub(super) returned: u64,
    /// Groups that were known under another type.
    pub(super) claimed: u64,
    /// Live groups that this pass added.
    pub(super) gained: u64,
    /// Pages in a row without an id that is new to this pass.
    pub(super) pages_without_news: u32,
    pub(super) ended_at: Option<DateTime<Utc>>,
}

/// The end of a pass.
#[derive(Debug)]
pub(super) enum PassEnd {
    /// The API said that the list is complete.
    Complete(EndOfList),
    /// The API does not know the type.
    Rejected(ApiError),
}

/// A pass that was begun.
#[derive(Debug)]
pub(super) struct PassResult {
    pub(super) tally: PassTally,
    /// `None`: the pass was interrupted, or its end has been judged.
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
            elsewhere: 0,
            unusable: 0,
            first_listed: 0,
            new: 0,
            returned: 0,
            claimed: 0,
            gained: 0,
            pages_without_news: 0,
            ended_at: None,
        }
    }

    /// Whether every listed id was live, known under this type, not missing, and listed once.
    pub(super) fn is_plain(&self) -> bool {
        self.new + self.returned + self.claimed + self.repeats + self.elsewhere + self.unusable == 0
    }

    /// The evidence of a pass that reached its end.
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

    /// Publishes the pass as the crawl's current step. `listed` counts the ids of all passes.
    pub(super) fn show(&self, progress: &watch::Sender<Progress>, listed: u64) {
        progress.send_modify(|progress| {
            progress.listed = listed;
            progress.step = Step::Listing {
                group_type: self.plan.group_type.clone(),
                listed: self.distinct,
                total: self.counts.last,
            };
        });
    }

    pub(super) fn warn_about_anomalies(&self) {
        let group_type = self.plan.group_type.as_ref().map(GroupType::as_str);
        if self.elsewhere > 0 && group_type.is_some() {
            warn!(
                group_type,
                groups = self.elsewhere,
                "groups are listed under this type and by an earlier pass too; their types stay as they are (if every crawl logs \
                 this, remove one of the types from `group_types`)"
            );
        }
        if self.unusable > 0 {
            warn!(
                group_type,
                ids = self.unusable,
                "listed ids cannot be group ids (empty, over 255 bytes, or with control characters) and are not kept; report \
                 them to Tencent Cloud's support"
            );
        }
    }
}
