//! Decides what becomes of live groups that no list of a crawl has. No I/O.
//!
//! First the lists *nominate*: [`Absences`] says which unlisted groups are candidates for deletion.
//!
//! | the group's type | nominated by |
//! |---|---|
//! | has a pass in this crawl | that pass, if it is exact or moving |
//! | has no pass, or the API rejected it | the unfiltered pass, if one was made and is exact or moving |
//! | the same, without an unfiltered pass | the app's totals, if they count fewer groups than would be live |
//!
//! Then `get_group_info` is asked about each candidate, and [`Candidates::settle`] turns the answers into a [`Settlement`].
//! With `deletion.confirm = false` nothing is asked, and the lists alone decide.
//!
//! [`ListingEffect`] defines what listing a group changes.

mod absences;
mod candidates;
mod leftover;
mod listing;
mod settlement;
#[cfg(test)]
mod tests;

pub use self::absences::{Absences, WithoutPass, accounted_by_typed_lists};
pub use self::candidates::Candidates;
pub use self::leftover::Leftover;
pub use self::listing::{GroupBefore, ListingEffect, ListingEvent};
pub use self::settlement::{Absent, AskedCounts, Confirmation, Finding, Settlement, WithheldGroups};
