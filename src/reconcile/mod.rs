//! Decides about live groups that no list of a crawl contains. No I/O.
//!
//! First the lists *nominate* candidates for deletion among the unlisted groups, see [`Absences`]:
//!
//! | type of the group | nominated by |
//! |---|---|
//! | has a pass in this crawl | this pass, if it is exact or moving |
//! | has no pass, or the API rejected it | the unfiltered pass, if one was made and is exact or moving |
//! | the same, and no unfiltered pass was made | the app's totals, if they count fewer groups than are known to be live |
//!
//! Then each candidate is looked up with `get_group_info`, and [`Candidates::settle`] turns the
//! answers into a [`Settlement`]. With `deletion.confirm = false` there are no lookups, and the
//! lists alone decide.
//!
//! [`ListingEffect`] defines what changes when a group is listed.

mod absences;
mod candidates;
mod leftover;
mod listing;
mod settlement;
#[cfg(test)]
mod tests;

pub use self::absences::{Absences, TotalsEvidence, proof_for_types_without_pass};
pub use self::candidates::Candidates;
pub use self::leftover::Leftover;
pub use self::listing::{GroupBefore, ListingEffect, ListingEvent};
pub use self::settlement::{
    CandidateKind, CandidateStatus, Confirmation, LookupCounts, Settlement, WithheldCounts, WithheldKind,
};
