//! `run`: the daemon.

use clap::Args;

use super::exit::{Exit, Failure};
use super::setup::Setup;

#[derive(Debug, Args)]
pub(super) struct Run {}

impl Run {
    pub(super) async fn run(self, setup: &Setup) -> Result<Exit, Failure> {
        let config = setup.config()?;
        let _store = setup.store(&config).await?;
        Ok(Exit::Done)
    }
}
