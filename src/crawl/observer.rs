//! The interface through which the crawl reports its requests and results, for metrics.

use std::time::Duration;

use super::report::CrawlReport;
use crate::pages::RequestOutcome;
use crate::tencent::ApiError;

/// Receives the events of an app's requests and crawls.
pub trait Observer: std::fmt::Debug + Send + Sync {
    /// Called when an attempt at a request has ended with an answer or a failure. `took` is the
    /// duration of the attempt.
    fn on_attempt_finished(&self, took: Duration);
    /// Called after `on_attempt_finished`, when it is known whether the attempt is retried.
    fn on_attempt_classified(&self, outcome: RequestOutcome, error: Option<&ApiError>);
    /// Called when the end of a crawl is recorded.
    fn on_crawl_recorded(&self, report: &CrawlReport);
}
