//! Asks about each group that is to be deleted (`deletion.confirm`), so that none goes that a list merely skipped.
//!
//! What is learned can only take groups out of a settlement. Without permission to ask, nothing is deleted.

use std::collections::BTreeMap;

use tracing::warn;

use super::{CrawlSite, Interrupted};
use crate::model::{GroupIds, GroupType, ReasonCode, TypeId, with_causes};
use crate::pages::Caller;
use crate::reconcile::{Learned, Settlement};
use crate::tencent::wire::MAX_INFO_IDS;
use crate::tencent::{ApiError, GroupState};

/// Groups that stand, by the type they are of, if it was told.
type Standing = BTreeMap<Option<GroupType>, GroupIds>;

/// Sorts out which of the vanished groups are gone. Returns why nobody may ask, if that is so: then all are withheld.
pub(super) async fn confirm(
    site: &CrawlSite<'_>,
    types: &BTreeMap<GroupType, TypeId>,
    caller: &mut Caller<'_>,
    settlement: &mut Settlement,
) -> Result<Option<ApiError>, Interrupted> {
    let ids: Vec<&str> = settlement.vanished().flat_map(|(_, ids)| ids.iter()).collect();
    let (mut learned, mut standing) = (Vec::with_capacity(ids.len()), Standing::new());
    let mut refused = None;
    for some in ids.chunks(MAX_INFO_IDS) {
        match site.asking(caller.in_hand(), caller.ask_about(some)).await? {
            Ok(states) => {
                learned.extend(some.iter().zip(states).map(|(id, state)| learn(id, state, &mut standing)));
            }
            Err(error) if error.reason_code() == ReasonCode::Refused => {
                refused = Some(error);
                break;
            }
            Err(error) => {
                // It was tried again for as long as a crawl may: the others would fare no better.
                let why = with_causes(&error);
                warn!(error_code = error.code(), "asking about vanished groups failed: {why}");
                break;
            }
        }
        site.progress.send_modify(|progress| progress.requests = caller.requests());
    }
    if refused.is_some() {
        // Nothing is known against their deletion, but for those that stand: a person decides.
        learned.resize(ids.len(), Learned::Gone);
    }
    let untold = ids.len() - learned.iter().filter(|learned| **learned != Learned::Nothing).count();
    if untold > 0 {
        warn!(
            groups = untold,
            "it could not be learned whether vanished groups still stand; they are missing for now"
        );
    }
    keep(site, types, &standing).await?;
    settlement.doubt(&learned);
    if refused.is_some() {
        settlement.withhold_all();
    }
    Ok(refused)
}

fn learn(id: &str, state: GroupState, standing: &mut Standing) -> Learned {
    match state {
        GroupState::Gone => Learned::Gone,
        GroupState::Stands(group_type) => {
            standing.entry(group_type).or_default().push(id);
            Learned::Stands
        }
        GroupState::Untold(_) => Learned::Nothing,
    }
}

/// Groups that stand are as good as listed, under the type they are of.
async fn keep(
    site: &CrawlSite<'_>,
    types: &BTreeMap<GroupType, TypeId>,
    standing: &Standing,
) -> Result<(), Interrupted> {
    let groups: usize = standing.values().map(GroupIds::len).sum();
    if groups > 0 {
        warn!(groups, "groups that no list has stand all the same, as get_group_info says; they are kept");
    }
    for (group_type, ids) in standing {
        let type_id = match group_type {
            None => TypeId::UNKNOWN,
            Some(group_type) => match types.get(group_type) {
                Some(type_id) => *type_id,
                None => site.type_id(group_type).await?,
            },
        };
        site.write_listed(type_id, false, site.clock.now(), ids).await?;
    }
    Ok(())
}
