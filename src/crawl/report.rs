//! The report of a crawl, its log line, and the reasons why it is incomplete or withheld deletions.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use tracing::{error, info, warn};

use super::dry_run::PlannedChange;
use super::listing::Findings;
use crate::guard::{LiveCounts, Withholding};
use crate::model::{CrawlId, CrawlStatus, Deletions, GroupType, ReasonCode, TypeId, plural, with_causes};
use crate::reconcile::{LookupCounts, Settlement, WithheldCounts};
use crate::store::{Closing, CrawlEvents, Reason};
use crate::tencent::ApiError;
use crate::verdict::Judgement;

/// The result of a crawl that was recorded, also of a failed one.
#[derive(Clone, Debug)]
pub struct CrawlReport {
    pub crawl: CrawlId,
    pub status: CrawlStatus,
    /// `None` unless the crawl is complete.
    pub deletions: Option<Deletions>,
    pub reason: Option<Reason>,
    pub started_at: DateTime<Utc>,
    pub finished_at: DateTime<Utc>,
    pub requests: u64,
    /// The number of distinct ids that were listed.
    pub listed: u64,
    /// The number of groups that no crawl had listed before, including those of a baseline.
    pub first_listed: u64,
    /// The app's `TotalCount` at the end, or at the start if the one at the end is unknown.
    pub total: Option<u64>,
    pub events: CrawlEvents,
    /// The number of groups that became missing.
    pub missing: u64,
    /// The number of deletions that this crawl withheld.
    pub withheld: u64,
    /// How many of the withheld deletions `get_group_info` confirmed.
    pub withheld_confirmed: u64,
    /// The numbers of answers about candidates.
    pub lookups: LookupCounts,
}

/// The result of a dry run: what a crawl would have done.
#[derive(Clone, Debug)]
pub struct DryRun {
    pub status: CrawlStatus,
    pub deletions: Option<Deletions>,
    pub reason: Option<Reason>,
    pub requests: u64,
    /// The number of distinct ids that were listed.
    pub listed: u64,
    /// The app's `TotalCount` at the end, or at the start if the one at the end is unknown.
    pub total: Option<u64>,
    /// The numbers of answers about candidates.
    pub lookups: LookupCounts,
    pub changes: Vec<PlannedChange>,
}

impl CrawlReport {
    /// Returns the report of a crawl that was closed with these events.
    pub(super) fn new(closing: Closing<'_>, findings: &Findings, events: CrawlEvents) -> Self {
        let settlement = closing.settlement;
        let withheld = settlement.withheld_counts();
        Self {
            crawl: closing.crawl,
            status: closing.status,
            deletions: closing.deletions(),
            reason: closing.reason,
            started_at: closing.started_at,
            finished_at: closing.finished_at,
            requests: closing.requests,
            listed: closing.listed,
            first_listed: findings.tallies().map(|tally| tally.first_listed).sum(),
            total: closing.total_at_end.or(closing.total_at_start),
            events,
            missing: settlement.missing().map(|(_, ids)| ids.len() as u64).sum(),
            withheld: withheld.groups,
            withheld_confirmed: withheld.confirmed,
            lookups: settlement.lookup_counts(),
        }
    }

    /// Writes the crawl's log line, at a level according to its status.
    pub(super) fn log(&self) {
        let (reason_code, error_code) = self
            .reason
            .as_ref()
            .map_or((None, None), |reason| (Some(reason.code.as_str()), reason.error_code));
        let reason = self.reason.as_ref().map_or("", |reason| reason.text.as_str());
        let took = (self.finished_at - self.started_at).to_std().unwrap_or_default();
        macro_rules! line {
            ($level:ident) => {
                $level!(
                    crawl_id = self.crawl.0,
                    status = self.status.as_str(),
                    reason_code,
                    error_code,
                    listed = self.listed,
                    total = self.total,
                    first_listed = self.first_listed,
                    appeared = self.events.appeared,
                    vanished = self.events.vanished,
                    reappeared = self.events.reappeared,
                    retyped = self.events.retyped,
                    missing = self.missing,
                    withheld = self.withheld,
                    asked = self.lookups.asked,
                    confirmed = self.lookups.confirmed,
                    spared = self.lookups.spared,
                    unlearned = self.lookups.unlearned,
                    unasked = self.lookups.unasked,
                    requests = self.requests,
                    took = %humantime::format_duration(took),
                    "crawl {}{}{reason}",
                    self.status,
                    if reason.is_empty() { "" } else { ": " },
                )
            };
        }
        match self.status {
            CrawlStatus::Failed => line!(error),
            CrawlStatus::Incomplete => line!(warn),
            CrawlStatus::Complete if self.withheld > 0 => line!(warn),
            _ => line!(info),
        }
    }
}

/// Returns the reason of an incomplete crawl.
pub(super) fn shortfall_reason(judgement: &Judgement, types: &BTreeMap<GroupType, TypeId>) -> Reason {
    let name = |type_id| type_name(types, type_id).unwrap_or("the unfiltered list");
    let lists = if judgement.shortfalls.len() == 1 { "this list" } else { "these lists" };
    let sentences: Vec<String> = judgement
        .shortfalls
        .iter()
        .map(|shortfall| format!("{} {shortfall}", name(shortfall.type_id)))
        .collect();
    Reason {
        code: ReasonCode::ShortListing,
        error_code: None,
        text: format!("{}; no group was marked deleted for its absence from {lists}", sentences.join("; ")),
    }
}

fn type_name(types: &BTreeMap<GroupType, TypeId>, type_id: TypeId) -> Option<&str> {
    types.iter().find(|(_, id)| **id == type_id).map(|(name, _)| name.as_str())
}

/// Returns why deletions are withheld, or `None` if no deletion is withheld.
pub(super) fn withheld_reason(
    withholding: Option<Withholding>,
    refused: Option<ApiError>,
    settlement: &Settlement,
    types: &BTreeMap<GroupType, TypeId>,
    crawl: Option<CrawlId>,
) -> Option<Reason> {
    let WithheldCounts { groups, confirmed } = settlement.withheld_counts();
    if groups == 0 {
        return None;
    }
    let mut causes = Vec::new();
    let (mut code, mut error_code) = (None, None);
    if let Some(withholding) = withholding {
        code = Some(withholding.code);
        causes.push(guard_reason(&withholding, types));
    }
    if let Some(error) = refused {
        error_code = error.code();
        code = code.or(Some(ReasonCode::ConfirmRefused));
        causes.push(format!("the API refuses get_group_info (deletion.confirm): {}", with_causes(&error)));
    } else if settlement.unconfirmable() > 0 {
        code = code.or(Some(ReasonCode::Unconfirmable));
        causes.push(format!(
            "in three crawls get_group_info gave no usable answer about {}",
            counted(settlement.unconfirmable(), "group")
        ));
    }
    let cause = causes.join("; ");
    let deletions = if groups == 1 { "1 deletion is".to_owned() } else { format!("{groups} deletions are") };
    let lookups = lookup_summary(settlement, confirmed);
    let text = match crawl {
        Some(crawl) => format!(
            "{cause}: {deletions} withheld{lookups} until the API lists the groups again or you run \
             `tim-group-sync approve --crawl {crawl}` (`approve --crawl {crawl} --dry-run` lists \
             the groups)"
        ),
        None => format!("{cause}: {} would be withheld{lookups}", counted(groups, "deletion")),
    };
    Some(Reason { code: code?, error_code, text })
}

/// Returns the numbers of answers, in parentheses, for the reason of a crawl that withheld
/// deletions.
fn lookup_summary(settlement: &Settlement, confirmed: u64) -> String {
    let LookupCounts { asked, spared, unlearned, unasked, .. } = settlement.lookup_counts();
    if asked + unasked == 0 {
        return String::new();
    }
    let others =
        [(spared, "exist"), (unlearned, "without a usable answer"), (unasked, "not asked about yet")];
    let mut parts = vec![format!("{confirmed} confirmed by get_group_info")];
    parts.extend(
        others.iter().filter(|(groups, _)| *groups > 0).map(|(groups, what)| format!("{groups} {what}")),
    );
    format!(" ({})", parts.join(", "))
}

/// Returns a number with its noun: "1 group", "2 groups".
fn counted(number: u64, noun: &str) -> String {
    format!("{number} {}", plural(number, noun))
}

/// Returns which limits of the guard were exceeded, with the numbers.
fn guard_reason(withholding: &Withholding, types: &BTreeMap<GroupType, TypeId>) -> String {
    if withholding.exceeded.is_empty() {
        return "deletion.mode is \"review\"".to_owned();
    }
    let sentence = |(type_id, counts): &(Option<TypeId>, LiveCounts)| {
        // The sum lacks the types of `max_fraction_by_type`, so it is not the app's number of
        // groups.
        let together = "all types without a max_fraction_by_type together";
        let what =
            type_id.map_or(together, |type_id| type_name(types, type_id).unwrap_or("a type without a pass"));
        format!("{what} would shrink from {} to {} live groups", counts.before, counts.after)
    };
    let sentences: Vec<String> = withholding.exceeded.iter().map(sentence).collect();
    format!("{} (deletion.max_fraction, deletion.min_groups)", sentences.join(", "))
}
