//! Rate limiting and retries of requests, generic over the error type: the caller maps each error
//! to a [`Disposition`].

use std::sync::{Mutex as StdMutex, PoisonError};
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use tokio::sync::Mutex;
use tokio::time::Instant;

/// The number of attempts for [`Disposition::RetryBriefly`].
const BRIEF_ATTEMPTS: u32 = 3;

/// How to react to a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// Retry with exponential back-off.
    Retry,
    /// Retry with exponential back-off, but at most twice. A malformed answer or an undocumented
    /// error either disappears quickly or is permanent.
    RetryBriefly,
    /// The rate limit was exceeded. Retry after the back-off, but not earlier than `at_least`.
    Throttle { at_least: Duration },
    /// The API refused the signature. Create a new one and retry once.
    RenewSignature,
    /// The answer would be too large. Request fewer groups.
    ReduceLimit,
    /// The API does not know this group type.
    RejectType,
    /// Do not retry. The configuration or the app's settings in the console must be changed first.
    Fatal,
}

/// The rate limiter of one app. Every list request waits for it, whether it is sent by a pass, a
/// retry or a command.
#[derive(Debug)]
pub struct Pacer {
    interval: Duration,
    next_slot: Mutex<Instant>,
}

impl Pacer {
    /// Creates a rate limiter. The first request may be sent at `first_slot`, and each later one at
    /// least `interval` after the previous one.
    #[must_use]
    pub fn new(interval: Duration, first_slot: Instant) -> Self {
        Self { interval, next_slot: Mutex::new(first_slot) }
    }

    /// Waits until a request may be sent, and reserves that slot. Waiting requests are served in
    /// FIFO order. Dropping the future reserves no slot.
    pub async fn wait(&self) {
        let mut next_slot = self.next_slot.lock().await;
        tokio::time::sleep_until(*next_slot).await;
        *next_slot = Instant::now() + self.interval;
    }

    /// Delays the next request until this moment, if it would be sent earlier.
    pub async fn not_before(&self, moment: Instant) {
        let mut next_slot = self.next_slot.lock().await;
        *next_slot = moment.max(*next_slot);
    }

    /// Returns the time at which the next request may be sent. The crawl passes it on with its
    /// lease, so that the next holder, which may be another process, waits until then.
    pub async fn next_slot(&self) -> Instant {
        *self.next_slot.lock().await
    }
}

/// The length of the pauses between retries, and the time limit for retries.
#[derive(Clone, Copy, Debug)]
pub struct RetryPolicy {
    pub first_pause: Duration,
    pub longest_pause: Duration,
    /// The maximum time for which one request is retried.
    pub retry_for: Duration,
}

impl RetryPolicy {
    /// Returns the policy of the API client: pauses from 1 s to 60 s.
    #[must_use]
    pub fn lasting(retry_for: Duration) -> Self {
        Self { first_pause: Duration::from_secs(1), longest_pause: Duration::from_secs(60), retry_for }
    }
}

/// The parameters of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Whether to create a new signature first, because the API refused the previous one.
    pub renew_signature: bool,
}

/// A pause before a retry. Its length is 0 for [`Disposition::RenewSignature`].
#[derive(Debug)]
pub struct Pause<'a, E> {
    pub error: &'a E,
    pub disposition: Disposition,
    pub pause: Duration,
}

/// The remaining time that the retries of several requests may take in total. Concurrent requests
/// may share a budget.
#[derive(Debug)]
pub struct RetryBudget {
    policy: RetryPolicy,
    left: StdMutex<Duration>,
}

impl RetryBudget {
    /// Returns a budget of three times `policy.retry_for`, of which one request may use up to
    /// `policy.retry_for`.
    #[must_use]
    pub fn new(policy: RetryPolicy) -> Self {
        Self { policy, left: StdMutex::new(policy.retry_for * 3) }
    }

    /// Returns a budget of `policy.retry_for`. One request may use all of it.
    #[must_use]
    pub fn of_total(policy: RetryPolicy) -> Self {
        Self { policy, left: StdMutex::new(policy.retry_for) }
    }

    fn left(&self) -> Duration {
        *self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a request, at the rate of `pacer`, until it succeeds, fails with an error that is not
    /// retried, or has used up the budget.
    ///
    /// backon provides the pauses but not the loop, because each attempt waits for the pacer,
    /// depends on the previous failure, and counts against a shared budget.
    ///
    /// # Errors
    /// Returns the error of the last attempt.
    pub async fn request<T, E, F: Future<Output = Result<T, E>>>(
        &self,
        pacer: &Pacer,
        mut attempt: impl FnMut(Attempt) -> F,
        disposition: impl Fn(&E) -> Disposition,
        mut on_pause: impl FnMut(Pause<'_, E>),
    ) -> Result<T, E> {
        let mut pauses = ExponentialBuilder::default()
            .with_min_delay(self.policy.first_pause)
            .with_max_delay(self.policy.longest_pause)
            .with_jitter()
            .without_max_times()
            .build();
        let mut brief_retries = 0;
        let mut renewed = false;
        let mut failing_since = None;
        let mut next = Attempt { renew_signature: false };
        loop {
            pacer.wait().await;
            let error = match attempt(next).await {
                Ok(answer) => {
                    self.spend(failing_since);
                    return Ok(answer);
                }
                Err(error) => error,
            };
            let since = *failing_since.get_or_insert_with(Instant::now);
            let disposition = disposition(&error);
            let at_least = match disposition {
                Disposition::Retry => Duration::ZERO,
                Disposition::RetryBriefly if brief_retries + 1 < BRIEF_ATTEMPTS => {
                    brief_retries += 1;
                    Duration::ZERO
                }
                Disposition::Throttle { at_least } => at_least,
                Disposition::RenewSignature if !renewed => {
                    renewed = true;
                    next = Attempt { renew_signature: true };
                    on_pause(Pause { error: &error, disposition, pause: Duration::ZERO });
                    continue;
                }
                _ => {
                    self.spend(failing_since);
                    return Err(error);
                }
            };
            let backoff = pauses.next().unwrap_or(self.policy.longest_pause);
            let pause = backoff.max(at_least).min(self.policy.longest_pause);
            if since.elapsed() + pause > self.policy.retry_for.min(self.left()) {
                self.spend(failing_since);
                return Err(error);
            }
            on_pause(Pause { error: &error, disposition, pause });
            tokio::time::sleep(pause).await;
            next = Attempt { renew_signature: false };
        }
    }

    fn spend(&self, failing_since: Option<Instant>) {
        let spent = failing_since.map_or(Duration::ZERO, |since| since.elapsed());
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        *left = left.saturating_sub(spent);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RetryPolicy = RetryPolicy {
        first_pause: Duration::from_secs(1),
        longest_pause: Duration::from_secs(60),
        retry_for: Duration::from_secs(300),
    };

    fn pacer() -> Pacer {
        Pacer::new(Duration::from_millis(1050), Instant::now())
    }

    /// Makes a request whose attempts fail with these dispositions and then succeed. Returns the
    /// result, and for each attempt its time and whether it renewed the signature.
    async fn request(
        budget: &RetryBudget,
        failures: &[Disposition],
    ) -> (Result<(), Disposition>, Vec<(Duration, bool)>) {
        let start = Instant::now();
        let mut failures = failures.iter();
        let mut made = Vec::new();
        let result = budget
            .request(
                &pacer(),
                |attempt: Attempt| {
                    made.push((start.elapsed(), attempt.renew_signature));
                    std::future::ready(failures.next().map_or(Ok(()), |failure| Err(*failure)))
                },
                |failure| *failure,
                |_| (),
            )
            .await;
        (result, made)
    }

    #[tokio::test(start_paused = true)]
    async fn slots_are_an_interval_apart_and_do_not_accumulate() {
        let pacer = pacer();
        let start = Instant::now();
        pacer.wait().await;
        pacer.wait().await;
        assert_eq!(start.elapsed(), Duration::from_millis(1050));
        tokio::time::advance(Duration::from_secs(60)).await;
        pacer.wait().await;
        pacer.wait().await;
        assert_eq!(start.elapsed(), Duration::from_millis(1050 + 60_000 + 1050));
    }

    #[tokio::test(start_paused = true)]
    async fn a_transient_failure_is_retried_with_exponential_back_off() {
        let (result, made) = request(&RetryBudget::new(POLICY), &[Disposition::Retry; 5]).await;
        assert_eq!(result, Ok(()));
        let gaps: Vec<_> = made.windows(2).map(|pair| pair[1].0.saturating_sub(pair[0].0)).collect();
        for (n, gap) in gaps.iter().enumerate() {
            let least = Duration::from_secs(1 << n);
            assert!((least..=least * 2 + Duration::from_millis(60)).contains(gap), "pause {n}: {gap:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_permanent_failure_is_returned_when_the_time_for_retries_is_used_up() {
        let start = Instant::now();
        let (result, _) = request(&RetryBudget::new(POLICY), &[Disposition::Retry; 1000]).await;
        assert_eq!(result, Err(Disposition::Retry));
        assert!(
            (Duration::from_secs(180)..=POLICY.retry_for).contains(&start.elapsed()),
            "{:?}",
            start.elapsed()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_retries_of_a_crawl_share_three_times_the_budget_of_one_request() {
        let start = Instant::now();
        let budget = RetryBudget::new(POLICY);
        for _ in 0..50 {
            let _ = request(&budget, &[Disposition::Retry; 1000]).await;
        }
        assert!(start.elapsed() < POLICY.retry_for * 4, "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn throttling_is_retried_after_the_requested_pause() {
        let throttled = Disposition::Throttle { at_least: Duration::from_secs(60) };
        let (result, made) = request(&RetryBudget::new(POLICY), &[throttled]).await;
        assert_eq!(result, Ok(()));
        assert!(made[1].0 >= Duration::from_secs(60));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_signature_is_renewed_only_once() {
        let (result, made) = request(&RetryBudget::new(POLICY), &[Disposition::RenewSignature]).await;
        assert_eq!(result, Ok(()));
        assert_eq!(made.iter().map(|m| m.1).collect::<Vec<_>>(), [false, true]);
        let (result, made) = request(&RetryBudget::new(POLICY), &[Disposition::RenewSignature; 9]).await;
        assert_eq!((result, made.len()), (Err(Disposition::RenewSignature), 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_malformed_answer_is_retried_twice_and_a_refusal_never() {
        let (result, made) = request(&RetryBudget::new(POLICY), &[Disposition::RetryBriefly; 9]).await;
        assert_eq!((result, made.len()), (Err(Disposition::RetryBriefly), 3));
        for refusal in [Disposition::Fatal, Disposition::RejectType, Disposition::ReduceLimit] {
            let (result, made) = request(&RetryBudget::new(POLICY), &[refusal]).await;
            assert_eq!((result, made.len()), (Err(refusal), 1));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn retries_wait_for_the_pacer_too() {
        let quick = RetryPolicy { first_pause: Duration::from_millis(1), ..POLICY };
        let (_, made) = request(&RetryBudget::new(quick), &[Disposition::Retry; 3]).await;
        assert!(
            made.windows(2).all(|pair| pair[1].0.saturating_sub(pair[0].0) >= Duration::from_millis(1050)),
            "{made:?}"
        );
    }
}
