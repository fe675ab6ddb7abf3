//! The rhythm of requests: never more often than the API allows, and again after a failure that may pass.
//! Knows what to do about a failure ([`Disposition`]), not what the failure was.

use std::sync::{Mutex as StdMutex, PoisonError};
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Attempts at an answer that makes no sense, or an undocumented error: it may be a hiccup, but is hardly a long one.
const BRIEF_ATTEMPTS: u32 = 3;

/// What a failure calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// Try again, with growing pauses.
    Retry,
    /// Try again, but not for long.
    RetryBriefly,
    /// Calls came too often: pause at least this long, then try again.
    Throttle { at_least: Duration },
    /// Make a new signature and try once more.
    Resign,
    /// The answer would be too large: ask for fewer groups.
    ReduceLimit,
    /// This group type is not known to the API.
    RejectType,
    /// Nothing will change until someone changes something.
    Fatal,
}

/// Spaces the requests of one app: passes, retries and commands all wait for their turn here.
#[derive(Debug)]
pub struct Pacer {
    interval: Duration,
    next_turn: Mutex<Instant>,
}

impl Pacer {
    /// The first turn is at `first_turn`, each further one at least `interval` after the one before.
    #[must_use]
    pub fn new(interval: Duration, first_turn: Instant) -> Self {
        Self { interval, next_turn: Mutex::new(first_turn) }
    }

    /// Waits for a turn and takes it. Waiters are served in order; one that gives up takes no turn.
    pub async fn turn(&self) {
        let mut next_turn = self.next_turn.lock().await;
        tokio::time::sleep_until(*next_turn).await;
        *next_turn = Instant::now() + self.interval;
    }

    /// Puts the next turn off until this moment, if it is later.
    pub async fn not_before(&self, moment: Instant) {
        let mut next_turn = self.next_turn.lock().await;
        *next_turn = moment.max(*next_turn);
    }

    /// When the next request may be sent: what a successor in another process has to wait for.
    pub async fn next_turn(&self) -> Instant {
        *self.next_turn.lock().await
    }
}

/// How long to go on after failures.
#[derive(Clone, Copy, Debug)]
pub struct RetryPolicy {
    pub first_pause: Duration,
    pub longest_pause: Duration,
    /// How long one request may be retried. All requests of a crawl together get three times this.
    pub retry_for: Duration,
}

impl RetryPolicy {
    #[must_use]
    pub fn lasting(retry_for: Duration) -> Self {
        Self { first_pause: Duration::from_secs(1), longest_pause: Duration::from_secs(60), retry_for }
    }
}

/// What one attempt is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The API refused the signature: make a new one first.
    pub renew_signature: bool,
}

/// A pause that is about to be made.
#[derive(Debug)]
pub struct Pause<'a, E> {
    pub error: &'a E,
    pub disposition: Disposition,
    pub pause: Duration,
}

/// The retry budget that requests share, those in flight at the same time too: what is left of the time that their retries
/// may take together.
#[derive(Debug)]
pub struct Patience {
    policy: RetryPolicy,
    left: StdMutex<Duration>,
}

impl Patience {
    #[must_use]
    pub fn new(policy: RetryPolicy) -> Self {
        Self { policy, left: StdMutex::new(policy.retry_for * 3) }
    }

    /// A budget of this much in all, none of it reserved for a single request.
    #[must_use]
    pub fn in_all(policy: RetryPolicy) -> Self {
        Self { policy, left: StdMutex::new(policy.retry_for) }
    }

    fn left(&self) -> Duration {
        *self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a request, at `pacer`'s turns, until it succeeds or its failure is one that waiting does not mend.
    ///
    /// # Errors
    /// The last attempt's failure.
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
        let mut nonsense = 0;
        let mut renewed = false;
        let mut failing_since = None;
        let mut next = Attempt { renew_signature: false };
        loop {
            pacer.turn().await;
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
                Disposition::RetryBriefly if nonsense + 1 < BRIEF_ATTEMPTS => {
                    nonsense += 1;
                    Duration::ZERO
                }
                Disposition::Throttle { at_least } => at_least,
                Disposition::Resign if !renewed => {
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

    /// Answers with these failures, then with success; returns the result and when each attempt was made.
    async fn play(
        patience: &Patience,
        failures: &[Disposition],
    ) -> (Result<(), Disposition>, Vec<(Duration, bool)>) {
        let start = Instant::now();
        let mut failures = failures.iter();
        let mut made = Vec::new();
        let result = patience
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
    async fn turns_are_an_interval_apart_and_an_unused_one_is_not_saved_up() {
        let pacer = pacer();
        let start = Instant::now();
        pacer.turn().await;
        pacer.turn().await;
        assert_eq!(start.elapsed(), Duration::from_millis(1050));
        tokio::time::advance(Duration::from_secs(60)).await;
        pacer.turn().await;
        pacer.turn().await;
        assert_eq!(start.elapsed(), Duration::from_millis(1050 + 60_000 + 1050));
    }

    #[tokio::test(start_paused = true)]
    async fn a_passing_failure_is_retried_with_growing_pauses() {
        let (result, made) = play(&Patience::new(POLICY), &[Disposition::Retry; 5]).await;
        assert_eq!(result, Ok(()));
        let gaps: Vec<_> = made.windows(2).map(|pair| pair[1].0.saturating_sub(pair[0].0)).collect();
        for (n, gap) in gaps.iter().enumerate() {
            let least = Duration::from_secs(1 << n);
            assert!((least..=least * 2 + Duration::from_millis(60)).contains(gap), "pause {n}: {gap:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_that_does_not_pass_is_given_up_when_its_time_is_over() {
        let start = Instant::now();
        let (result, _) = play(&Patience::new(POLICY), &[Disposition::Retry; 1000]).await;
        assert_eq!(result, Err(Disposition::Retry));
        assert!(
            (Duration::from_secs(180)..=POLICY.retry_for).contains(&start.elapsed()),
            "{:?}",
            start.elapsed()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_retries_of_a_crawl_share_three_times_the_patience_for_one_request() {
        let start = Instant::now();
        let patience = Patience::new(POLICY);
        for _ in 0..50 {
            let _ = play(&patience, &[Disposition::Retry; 1000]).await;
        }
        assert!(start.elapsed() < POLICY.retry_for * 4, "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_lockout_is_waited_out() {
        let lockout = Disposition::Throttle { at_least: Duration::from_secs(60) };
        let (result, made) = play(&Patience::new(POLICY), &[lockout]).await;
        assert_eq!(result, Ok(()));
        assert!(made[1].0 >= Duration::from_secs(60));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_signature_is_renewed_once_and_never_in_a_loop() {
        let (result, made) = play(&Patience::new(POLICY), &[Disposition::Resign]).await;
        assert_eq!(result, Ok(()));
        assert_eq!(made.iter().map(|m| m.1).collect::<Vec<_>>(), [false, true]);
        let (result, made) = play(&Patience::new(POLICY), &[Disposition::Resign; 9]).await;
        assert_eq!((result, made.len()), (Err(Disposition::Resign), 2));
    }

    #[tokio::test(start_paused = true)]
    async fn nonsense_is_retried_twice_and_a_refusal_never() {
        let (result, made) = play(&Patience::new(POLICY), &[Disposition::RetryBriefly; 9]).await;
        assert_eq!((result, made.len()), (Err(Disposition::RetryBriefly), 3));
        for refusal in [Disposition::Fatal, Disposition::RejectType, Disposition::ReduceLimit] {
            let (result, made) = play(&Patience::new(POLICY), &[refusal]).await;
            assert_eq!((result, made.len()), (Err(refusal), 1));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn retries_wait_for_their_turn_too() {
        let quick = RetryPolicy { first_pause: Duration::from_millis(1), ..POLICY };
        let (_, made) = play(&Patience::new(quick), &[Disposition::Retry; 3]).await;
        assert!(
            made.windows(2).all(|pair| pair[1].0.saturating_sub(pair[0].0) >= Duration::from_millis(1050)),
            "{made:?}"
        );
    }
}
