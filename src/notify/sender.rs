//! Sends notifications to the receiver, one after another and with retries.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::answer::{Answer, evaluate};
use super::message::{Event, Notification, ReceiverUrl, SIGNATURE_HEADER, request};
use super::outbox::{Item, Outbox};
use crate::clock::Clock;
use crate::escape::one_line;
use crate::http;
use crate::pace::{Disposition, Pacer, RetryBudget, RetryPolicy};
use crate::policy::NotificationFormat;

/// The maximum time of one attempt.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);
/// The maximum size of an answer. Later bytes are not read.
const MAX_ANSWER_BYTES: usize = 16 * 1024;

/// How one attempt to deliver a notification ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The receiver accepted it.
    Delivered,
    /// The attempt failed. Another one follows.
    Retried,
    /// The receiver refused it, or retries took too long. It is not sent again.
    Refused,
    /// It was given up without a last attempt, because the outbox was full or the receiver was
    /// removed from the configuration.
    Dropped,
}

impl Outcome {
    pub const ALL: [Self; 4] = [Self::Delivered, Self::Retried, Self::Refused, Self::Dropped];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Retried => "retried",
            Self::Refused => "refused",
            Self::Dropped => "dropped",
        }
    }
}

/// Receives the outcome of each attempt to deliver a notification of this process.
pub trait Observer: Send + Sync {
    fn on_notification(&self, event: Event, outcome: Outcome);
}

/// A receiver of notifications.
#[derive(Debug)]
pub struct Receiver {
    url: ReceiverUrl,
    format: NotificationFormat,
    secret: Option<SecretString>,
    http: reqwest::Client,
}

/// Reads the URL and the secret of the receiver from their files. May block. The error is a
/// sentence.
pub type MakeReceiver = Arc<dyn Fn() -> Result<Receiver, String> + Send + Sync>;

/// Why a notification was not delivered.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// A file cannot be used.
    #[error("{0}")]
    Unusable(String),
    #[error("the receiver cannot be reached: {0}")]
    Unreachable(String),
    /// The receiver answered that it did not accept the notification.
    #[error("{text}")]
    Rejected { text: String, disposition: Disposition },
    #[error("[notify] was removed from the configuration")]
    Removed,
}

impl DeliveryError {
    /// Returns whether the configuration, or a setting of the receiver, has to be changed.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        matches!(self, Self::Unusable(_) | Self::Rejected { disposition: Disposition::Fatal, .. })
    }

    fn disposition(&self) -> Disposition {
        match self {
            // A file may be corrected while the service runs.
            Self::Unusable(_) | Self::Unreachable(_) => Disposition::Retry,
            Self::Rejected { disposition, .. } => *disposition,
            Self::Removed => Disposition::Fatal,
        }
    }
}

impl Receiver {
    /// Creates a receiver. `place` names the source of the URL in the error.
    pub fn new(
        url: &SecretString,
        place: &str,
        format: NotificationFormat,
        secret: Option<SecretString>,
    ) -> Result<Self, String> {
        let url = ReceiverUrl::parse(url).map_err(|why| format!("the content of {place} {why}"))?;
        let http = http::client(url.expose(), ATTEMPT_TIMEOUT, 1);
        let http =
            http.map_err(|error| format!("cannot create the HTTP client: {}", http::describe(error)))?;
        Ok(Self { url, format, secret, http })
    }

    /// Makes one attempt to deliver a notification.
    pub async fn send(&self, notification: &Notification, now: DateTime<Utc>) -> Result<(), DeliveryError> {
        let request = request(notification, self.format, &self.url, self.secret.as_ref(), now);
        let mut sending =
            self.http.post(request.url).header(CONTENT_TYPE, "application/json").body(request.body);
        if let Some(signature) = request.signature {
            sending = sending.header(SIGNATURE_HEADER, signature);
        }
        // Errors of reqwest contain the URL. `describe` removes it.
        let unreachable = |error| DeliveryError::Unreachable(self.redact(&http::describe(error)));
        let mut response = sending.send().await.map_err(unreachable)?;
        let status = response.status().as_u16();
        let retry_after = response.headers().get(RETRY_AFTER);
        let retry_after = retry_after.and_then(|seconds| seconds.to_str().ok()?.parse().ok());
        let mut body = Vec::new();
        while body.len() < MAX_ANSWER_BYTES
            && let Some(chunk) = response.chunk().await.map_err(unreachable)?
        {
            body.extend_from_slice(&chunk);
        }
        body.truncate(MAX_ANSWER_BYTES);
        evaluate(self.format, &Answer { status, retry_after, body: &body }).map_err(|rejection| {
            let text = self.redact(&rejection.text);
            DeliveryError::Rejected { text, disposition: rejection.disposition }
        })
    }

    /// Escapes a text from the receiver, and removes the secrets from it.
    fn redact(&self, text: &str) -> String {
        let text = self.url.redact_in(text);
        let text = match &self.secret {
            Some(secret) => text.replace(secret.expose_secret(), "(hidden)"),
            None => text,
        };
        one_line(&text).into_owned()
    }
}

/// The pauses between attempts to send.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pauses {
    /// The minimum time between two attempts.
    pub(super) between: Duration,
    pub(super) retry: RetryPolicy,
}

/// Delivers the notifications of an outbox.
pub(super) struct Sender {
    pub(super) outbox: Arc<Outbox>,
    pub(super) receiver: watch::Receiver<Option<MakeReceiver>>,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) clock: Clock,
    pub(super) pauses: Pauses,
}

impl Sender {
    /// Delivers the notifications of the outbox in order. Never returns.
    pub(super) async fn run(self) {
        let pacer = Pacer::new(self.pauses.between, Instant::now());
        let mut logged_problem = None;
        loop {
            let item = self.outbox.next().await;
            let event = item.notification.event;
            let outcome = match self.deliver(&item, &pacer, &mut logged_problem).await {
                Ok(()) => {
                    if logged_problem.take().is_some() {
                        info!("notifications are delivered again");
                    }
                    log_delivered(&item);
                    Outcome::Delivered
                }
                Err(DeliveryError::Removed) => Outcome::Dropped,
                Err(error) => {
                    log_problem(&mut logged_problem, &item, &error, "it is not sent again");
                    Outcome::Refused
                }
            };
            self.outbox.finish(item, self.clock.now());
            self.observer.on_notification(event, outcome);
        }
    }

    /// Delivers one notification, with retries.
    async fn deliver(
        &self,
        item: &Item,
        pacer: &Pacer,
        logged_problem: &mut Option<String>,
    ) -> Result<(), DeliveryError> {
        let mut changes = self.receiver.clone();
        loop {
            changes.mark_unchanged();
            let (pausing, mut paused) = watch::channel(false);
            let budget = RetryBudget::of_total(self.pauses.retry);
            let sending = budget.request(
                pacer,
                |_| {
                    pausing.send_replace(false);
                    self.attempt(&item.notification)
                },
                DeliveryError::disposition,
                |pause| {
                    pausing.send_replace(true);
                    self.observer.on_notification(item.notification.event, Outcome::Retried);
                    let next = format!("another attempt follows in {} s", pause.pause.as_secs());
                    log_problem(logged_problem, item, pause.error, &next);
                },
            );
            // After a reload, the next attempt is made at once. An attempt in progress is not
            // interrupted, because the receiver may have accepted the notification.
            let reloaded = async {
                let _ = changes.changed().await;
                let _ = paused.wait_for(|is_paused| *is_paused).await;
            };
            tokio::select! {
                biased;
                result = sending => return result,
                () = reloaded => {}
            }
        }
    }

    async fn attempt(&self, notification: &Notification) -> Result<(), DeliveryError> {
        let make = self.receiver.borrow().clone().ok_or(DeliveryError::Removed)?;
        // `make` reads files and the system's certificates, so it may block.
        let made = tokio::task::spawn_blocking(move || make()).await;
        let receiver = match made {
            Ok(made) => made.map_err(DeliveryError::Unusable)?,
            Err(error) => return Err(DeliveryError::Unusable(error.to_string())),
        };
        receiver.send(notification, self.clock.now()).await
    }
}

fn log_delivered(item: &Item) {
    let Item { notification, state, .. } = item;
    let (event, app) = (notification.event.as_str(), notification.app.as_deref());
    info!(event, app, state = state.as_str(), "notification delivered");
}

/// Logs a problem: as a warning if it differs from `logged_problem`, the one that was logged last,
/// otherwise at debug.
fn log_problem(logged_problem: &mut Option<String>, item: &Item, error: &DeliveryError, effect: &str) {
    let why = error.to_string();
    let (event, app) = (item.notification.event.as_str(), item.notification.app.as_deref());
    if logged_problem.as_ref() == Some(&why) {
        debug!(event, app, "a notification was still not delivered, {effect}: {why}");
    } else {
        warn!(event, app, "a notification was not delivered, {effect}: {why}");
        *logged_problem = Some(why);
    }
}
