//! The queue between the monitor, which claims notifications, and the sender, which delivers them.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use tokio::sync::Notify;

use super::message::{ConditionState, Notification};
use super::states::{ConditionKey, InFlight};
use crate::store::NotificationRow;

/// The maximum number of notifications that wait, besides the one that is being sent. It is enough
/// for two conditions of each of 50 apps.
pub const OUTBOX_CAPACITY: usize = 100;

/// A claimed notification.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) key: ConditionKey,
    pub(super) state: ConditionState,
    /// The row of its claim.
    pub(super) row: NotificationRow,
    pub(super) notification: Notification,
}

#[derive(Debug, Default)]
pub(super) struct Outbox {
    inner: Mutex<Inner>,
    added: Notify,
    finished: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: VecDeque<Item>,
    sending: Option<(ConditionKey, ConditionState)>,
    finished: Vec<Finished>,
}

/// A notification that was delivered or given up. The monitor has to record it.
#[derive(Clone, Debug)]
pub(super) struct Finished {
    pub(super) item: Item,
    pub(super) at: DateTime<Utc>,
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a notification. If the outbox is full, gives up the oldest one and returns it.
    pub(super) fn add(&self, item: Item, now: DateTime<Utc>) -> Option<Item> {
        let mut inner = self.lock();
        let dropped = if inner.waiting.len() >= OUTBOX_CAPACITY { inner.waiting.pop_front() } else { None };
        inner.waiting.push_back(item);
        inner.finished.extend(dropped.clone().map(|item| Finished { item, at: now }));
        drop(inner);
        self.added.notify_one();
        dropped
    }

    /// Waits for the oldest notification, and takes it to be sent.
    pub(super) async fn next(&self) -> Item {
        loop {
            {
                let mut inner = self.lock();
                if let Some(item) = inner.waiting.pop_front() {
                    inner.sending = Some((item.key, item.state));
                    return item;
                }
            }
            self.added.notified().await;
        }
    }

    /// Records that the notification being sent was delivered or given up.
    pub(super) fn finish(&self, item: Item, now: DateTime<Utc>) {
        let mut inner = self.lock();
        inner.sending = None;
        inner.finished.push(Finished { item, at: now });
        drop(inner);
        self.finished.notify_one();
    }

    /// Waits until a notification is finished.
    pub(super) async fn wait_for_finished(&self) {
        self.finished.notified().await;
    }

    /// Returns the finished notifications that are not recorded yet.
    pub(super) fn finished(&self) -> Vec<Finished> {
        self.lock().finished.clone()
    }

    /// Forgets finished notifications that were recorded.
    pub(super) fn forget_finished(&self, recorded: &BTreeSet<(ConditionKey, ConditionState)>) {
        self.lock().finished.retain(|Finished { item, .. }| !recorded.contains(&(item.key, item.state)));
    }

    /// Returns the notifications that wait, are being sent, or are finished and not recorded.
    pub(super) fn in_flight(&self) -> InFlight {
        let inner = self.lock();
        let finished = inner.finished.iter().map(|finished| &finished.item);
        let items = inner.waiting.iter().chain(finished).map(|item| (item.key, item.state));
        items.chain(inner.sending).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SdkAppId;
    use crate::notify::message::Event;

    fn item(app: i64) -> Item {
        let key = ConditionKey { app: SdkAppId::new(app), event: Event::Late };
        let row = NotificationRow {
            sdk_app_id: app,
            event: "late".to_owned(),
            state: "begins".to_owned(),
            begun_at: 0,
            claimed_at: 0,
            claimed_by: "a".to_owned(),
            delivered_at: None,
        };
        let notification = Notification::test(DateTime::UNIX_EPOCH);
        Item { key, state: ConditionState::Begins, row, notification }
    }

    #[tokio::test]
    async fn a_full_outbox_gives_up_the_oldest_notification_that_waits() {
        let outbox = Outbox::default();
        assert!(outbox.add(item(1), DateTime::UNIX_EPOCH).is_none());
        let sending = outbox.next().await;
        for app in 2..=101 {
            assert!(outbox.add(item(app), DateTime::UNIX_EPOCH).is_none());
        }
        assert_eq!(outbox.add(item(102), DateTime::UNIX_EPOCH).unwrap().row.sdk_app_id, 2);
        assert_eq!(outbox.in_flight().len(), 102);
        outbox.finish(sending, DateTime::UNIX_EPOCH);
        let finished = outbox.finished();
        assert_eq!(finished.iter().map(|finished| finished.item.row.sdk_app_id).collect::<Vec<_>>(), [2, 1]);
        outbox
            .forget_finished(&finished.iter().map(|Finished { item, .. }| (item.key, item.state)).collect());
        assert_eq!(outbox.in_flight().len(), 100);
        assert_eq!(outbox.next().await.row.sdk_app_id, 3);
    }
}
