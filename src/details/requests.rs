//! Requests the details of groups, at a limited rate.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesOrdered;
use tokio::time::Instant;

use crate::crawl::{Observer, RequestOutcome};
use crate::model::GroupDetails;
use crate::pace::{Attempt, Disposition, Pacer, Pause, RetryBudget, RetryPolicy};
use crate::tencent::info::MAX_INFO_IDS;
use crate::tencent::{ApiError, Client, Fields};

/// The maximum number of requests in flight.
const MAX_IN_FLIGHT: usize = 4;

/// Each id with its details. `None` if the API has no usable answer about the group.
pub(super) type Answers = Vec<(String, Option<GroupDetails>)>;

/// Makes the requests of one app.
pub(super) struct Requests {
    client: Client,
    pacer: Pacer,
    /// Applies to all requests of one call of [`Requests::details_of`] together.
    retry: RetryPolicy,
    observer: Option<Arc<dyn Observer>>,
}

impl Requests {
    pub(super) fn new(client: Client, per_second: u32, retry: RetryPolicy) -> Self {
        let interval = Duration::from_secs(1) / per_second.max(1);
        Self { client, pacer: Pacer::new(interval, Instant::now()), retry, observer: None }
    }

    /// Reports the events of requests to this observer.
    pub(super) fn set_observer(&mut self, observer: Arc<dyn Observer>) {
        self.observer = Some(observer);
    }

    /// Requests the details of these groups, [`MAX_INFO_IDS`] in each request.
    pub(super) async fn details_of(&self, ids: &[String]) -> Result<Answers, ApiError> {
        let retries = RetryBudget::of_total(self.retry);
        let mut waiting = ids.chunks(MAX_INFO_IDS);
        let mut in_flight = FuturesOrdered::new();
        let mut answers = Answers::with_capacity(ids.len());
        loop {
            while in_flight.len() < MAX_IN_FLIGHT
                && let Some(batch) = waiting.next()
            {
                in_flight.push_back(self.batch(batch, &retries));
            }
            match in_flight.next().await {
                Some(answered) => answers.extend(answered?),
                None => return Ok(answers),
            }
        }
    }

    /// Requests the details of one batch. If the answer is too large or malformed, requests each
    /// half of the batch, so that the data of one group cannot keep the others from being stored.
    /// Fails only if no request about a part of the batch succeeded.
    fn batch<'a>(
        &'a self,
        ids: &'a [String],
        retries: &'a RetryBudget,
    ) -> Pin<Box<dyn Future<Output = Result<Answers, ApiError>> + Send + 'a>> {
        Box::pin(async move {
            let error = match self.request(ids, retries).await {
                Ok(answers) => return Ok(answers),
                Err(error) => error,
            };
            let depends_on_groups = matches!(error, ApiError::Malformed { .. })
                || error.disposition() == Disposition::ReduceLimit;
            if !depends_on_groups || ids.len() < 2 {
                return Err(error);
            }
            let (first, second) = ids.split_at(ids.len() / 2);
            let halves =
                [(first, self.batch(first, retries).await), (second, self.batch(second, retries).await)];
            if halves.iter().all(|(_, answers)| answers.is_err()) {
                return Err(error);
            }
            let without_answers = |ids: &[String]| ids.iter().map(|id| (id.clone(), None)).collect();
            Ok(halves
                .into_iter()
                .flat_map(|(ids, answers)| answers.unwrap_or_else(|_| without_answers(ids)))
                .collect())
        })
    }

    async fn request(&self, ids: &[String], retries: &RetryBudget) -> Result<Answers, ApiError> {
        let texts: Vec<&str> = ids.iter().map(String::as_str).collect();
        let texts = texts.as_slice();
        let attempt = |attempt: Attempt| {
            if attempt.renew_signature {
                self.client.renew_signature();
            }
            let (sent, answer) = (Instant::now(), self.client.group_answers(texts, Fields::Details));
            async move {
                let answer = answer.await;
                if let Some(observer) = &self.observer {
                    observer.on_attempt_finished(sent.elapsed());
                }
                answer
            }
        };
        let disposition = |error: &ApiError| match error.disposition() {
            // Not retried here: the caller pauses all requests.
            Disposition::Throttle { .. } => Disposition::Fatal,
            disposition => disposition,
        };
        let on_pause = |pause: Pause<'_, ApiError>| self.report(RequestOutcome::Retried, Some(pause.error));
        let answers = retries.request(&self.pacer, attempt, disposition, on_pause).await;
        match &answers {
            Ok(_) => self.report(RequestOutcome::Ok, None),
            Err(error) if matches!(error.disposition(), Disposition::Throttle { .. }) => {
                self.report(RequestOutcome::Throttled, Some(error));
            }
            Err(error) => self.report(RequestOutcome::Failed, Some(error)),
        }
        let answers = answers?;
        Ok(ids.iter().cloned().zip(answers.into_iter().map(|answer| answer.details)).collect())
    }

    fn report(&self, outcome: RequestOutcome, error: Option<&ApiError>) {
        if let Some(observer) = &self.observer {
            observer.on_attempt_classified(outcome, error);
        }
    }
}

impl fmt::Debug for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Requests").field("client", &self.client).finish_non_exhaustive()
    }
}
