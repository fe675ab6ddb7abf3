//! The report of a crawl, its log line, and the reasons why it is incomplete or withheld deletions.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use tracing::{error, info, warn};

use super::dry_run::PlannedChange;
use super::listing::Findings;
use crate::guard::{LiveCounts, Withholding};
use crate::model::{CrawlId, CrawlStatus, Deletions, GroupType, ReasonCode, TypeId, with_causes};
use crate::reconcile::{AskedCounts, Settlement};
use crate::store::{Closing, CrawlEvents, Reason};
use crate::tencent::ApiError;
use crate::verdict::Judgement;

/// A crawl that was recorded, whatever its status.
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
    /// Different ids listed.
    pub listed: u64,
    /// Groups that no crawl had listed before, those of a baseline included.
    pub first_listed: u64,
    pub total: Option<u64>,
    pub events: CrawlEvents,
    /// Groups that are missing now and were not before.
    pub missing: u64,
    /// Deletions that wait for approval.
    pub withheld: u64,
    /// Those of them that the API confirmed to be gone.
    pub withheld_confirmed: u64,
    /// The answers about groups that the lists lacked.
    pub asked: AskedCounts,
}

/// What a crawl would have done.
#[derive(Clone, Debug)]
pub struct DryRun {
    pub status: CrawlStatus,
    pub deletions: Option<Deletions>,
    pub reason: Option<Reason>,
    pub requests: u64,
    /// Different ids listed.
    pub listed: u64,
    pub total: Option<u64>,
    /// The answers about groups that the lists lacked.
    pub asked: AskedCounts,
    pub changes: Vec<PlannedChange>,
}

impl CrawlReport {
    /// The report of a crawl that was closed with these events.
    pub(super) fn new(closing: Closing<'_>, findings: &Findings, events: CrawlEvents) -> Self {
        let settlement = closing.settlement;
        let (withheld, withheld_confirmed) = settlement.withheld_counts();
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
            withheld,
            withheld_confirmed,
            asked: settlement.asked(),
        }
    }

    /// Writes the crawl's log line, at a level that fits its status.
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
                    asked = self.asked.asked,
                    confirmed = self.asked.confirmed,
                    spared = self.asked.spared,
                    unlearned = self.asked.unlearned,
                    unasked = self.asked.unasked,
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

/// Why a crawl is incomplete.
pub(super) fn shortfall_reason(judgement: &Judgement, types: &BTreeMap<GroupType, TypeId>) -> Reason {
    let name = |type_id| type_name(types, type_id).unwrap_or("the unfiltered list");
    let sentences: Vec<String> = judgement
        .shortfalls
        .iter()
        .map(|shortfall| format!("{} {shortfall}", name(shortfall.type_id)))
        .collect();
    Reason {
        code: ReasonCode::ShortListing,
        error_code: None,
        text: format!("{}; nothing of it was marked deleted", sentences.join("; ")),
    }
}

fn type_name(types: &BTreeMap<GroupType, TypeId>, type_id: TypeId) -> Option<&str> {
    types.iter().find(|(_, of)| **of == type_id).map(|(name, _)| name.as_str())
}

/// Why deletions are withheld, if any are.
pub(super) fn withheld_reason(
    withholding: Option<Withholding>,
    refused: Option<ApiError>,
    settlement: &Settlement,
    types: &BTreeMap<GroupType, TypeId>,
    crawl: Option<CrawlId>,
) -> Option<Reason> {
    let (groups, confirmed) = settlement.withheld_counts();
    if groups == 0 {
        return None;
    }
    let mut whys = Vec::new();
    let (mut code, mut error_code) = (None, None);
    if let Some(withholding) = withholding {
        code = Some(withholding.code);
        whys.push(guard_reason(&withholding, types));
    }
    if let Some(error) = refused {
        error_code = error.code();
        code = code.or(Some(ReasonCode::ConfirmRefused));
        whys.push(format!("get_group_info may not be asked (deletion.confirm): {}", with_causes(&error)));
    } else if settlement.unconfirmable() > 0 {
        code = code.or(Some(ReasonCode::Unconfirmable));
        whys.push(format!(
            "three crawls could not learn from get_group_info whether {} still exist",
            counted(settlement.unconfirmable(), "group")
        ));
    }
    let why = whys.join("; ");
    let deletions = if groups == 1 { "1 deletion is".to_owned() } else { format!("{groups} deletions are") };
    let asked = asked_in_words(settlement, confirmed);
    let text = match crawl {
        Some(crawl) => format!(
            "{why}: {deletions} withheld{asked} until the API lists the groups again or someone runs \
             `tim-group-sync approve --crawl {crawl}` (`approve --crawl {crawl} --dry-run` lists the groups)"
        ),
        None => format!("{why}: {} would be withheld{asked}", counted(groups, "deletion")),
    };
    Some(Reason { code: code?, error_code, text })
}

/// The counts of answers in words, for the reason of a crawl that withheld deletions.
fn asked_in_words(settlement: &Settlement, confirmed: u64) -> String {
    let AskedCounts { asked, spared, unlearned, unasked, .. } = settlement.asked();
    if asked + unasked == 0 {
        return String::new();
    }
    let others =
        [(spared, "stand"), (unlearned, "without a usable answer"), (unasked, "not asked about yet")];
    let mut parts = vec![format!("{confirmed} confirmed by get_group_info")];
    parts.extend(
        others.iter().filter(|(groups, _)| *groups > 0).map(|(groups, what)| format!("{groups} {what}")),
    );
    format!(" ({})", parts.join(", "))
}

/// A number with its noun: 1 group, 2 groups.
fn counted(number: u64, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// Which of the guard's limits were exceeded, with the numbers.
fn guard_reason(withholding: &Withholding, types: &BTreeMap<GroupType, TypeId>) -> String {
    if withholding.exceeded.is_empty() {
        return "deletion.mode is \"review\"".to_owned();
    }
    let sentence = |(type_id, counts): &(Option<TypeId>, LiveCounts)| {
        let what =
            type_id.map_or("the app", |type_id| type_name(types, type_id).unwrap_or("a type without a pass"));
        format!("{what} would shrink from {} to {} live groups", counts.before, counts.after)
    };
    let sentences: Vec<String> = withholding.exceeded.iter().map(sentence).collect();
    format!("{} (deletion.max_fraction, deletion.min_groups)", sentences.join(", "))
}
