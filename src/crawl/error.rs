//! The errors of a crawl.

use chrono::{DateTime, TimeDelta, Utc};

use super::clock_skew::format_skew;
use crate::model::{ReasonCode, with_causes};
use crate::pages::PagesError;
use crate::store::{Reason, StoreError};
use crate::tencent::ApiError;

/// Why a crawl was not started or could not be recorded.
#[derive(Debug, thiserror::Error)]
pub enum CrawlError {
    #[error("app {app} is being crawled by another process")]
    Busy { app: String },
    #[error("the tick of {due_at} has already been crawled")]
    TickAlreadyCrawled { due_at: DateTime<Utc> },
    #[error("stopped before the crawl began")]
    Stopped,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a crawl did not reach its end. The reason is recorded with the crawl.
#[derive(Debug, thiserror::Error)]
pub(super) enum Interrupted {
    #[error("the program was asked to stop")]
    Stopped,
    #[error(transparent)]
    Pages(#[from] PagesError),
    #[error("the API rejects every configured group type ({names}): {error}")]
    AllRejected { names: String, error: String },
    #[error(
        "this machine's clock is {} {} the API's, so the crawl would store wrong times; correct \
         the clock (`timedatectl` shows whether it is synchronised)",
        format_skew(*.skew),
        if *.skew > TimeDelta::zero() { "ahead of" } else { "behind" }
    )]
    Clock { skew: TimeDelta },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<ApiError> for Interrupted {
    fn from(error: ApiError) -> Self {
        Self::Pages(error.into())
    }
}

impl Interrupted {
    pub(super) fn reason(&self) -> Reason {
        let (code, error_code) = match self {
            Self::Stopped => (ReasonCode::Cancelled, None),
            Self::Pages(error) => (error.reason_code(), error.code()),
            // 10004 is the API's code for a parameter that it does not accept, here the group type.
            Self::AllRejected { .. } => (ReasonCode::RejectedTypes, Some(10004)),
            Self::Clock { .. } => (ReasonCode::Clock, None),
            Self::Store(_) => (ReasonCode::Database, None),
        };
        Reason { code, error_code, text: with_causes(self) }
    }
}
