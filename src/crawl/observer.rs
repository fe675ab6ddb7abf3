//! The interface through which requests and crawls are counted.

use std::time::Duration;

use super::report::CrawlReport;
use crate::pages::RequestOutcome;
use crate::tencent::ApiError;

/// Counts the requests and crawls of an app.
pub trait Observer: std::fmt::Debug + Send + Sync {
    /// A request was answered or failed, after this time.
    fn answered(&self, took: Duration);
    /// The outcome of that request is known.
    fn request(&self, outcome: RequestOutcome, error: Option<&ApiError>);
    /// A crawl ended and is recorded.
    fn crawl(&self, report: &CrawlReport);
}
