//! `notify --test`: sends one test notification, so that the receiver can be checked without an
//! incident.

use clap::Args;
use serde_json::json;

use super::exit::{Exit, Failure};
use super::output::{Output, warning};
use super::setup::{Setup, receiver_and_warnings};
use crate::notify::Notification;

#[derive(Debug, Args)]
pub(super) struct Notify {
    /// Send a test notification
    #[arg(long, required = true)]
    test: bool,
    #[command(flatten)]
    pub(super) output: Output,
}

impl Notify {
    /// Makes one attempt. A refusal that needs a change of a setting exits 78, as refused
    /// credentials of the API do; every other failure exits 1.
    pub(super) async fn run(self, setup: &Setup) -> Result<Exit, Failure> {
        let config = setup.config_for_command()?;
        let Some(notify) = config.notify else {
            let error = anyhow::anyhow!(
                "there is no receiver: the configuration has no section [notify]; add it with url_file, the path of a \
                 file that contains only the receiver's URL"
            );
            return Err(Failure::new(Exit::Config, error));
        };
        let (receiver, warnings) = receiver_and_warnings(&notify).map_err(|why| {
            Failure::new(Exit::Config, anyhow::anyhow!("cannot send a notification: {why}"))
        })?;
        warnings.iter().for_each(|text| warning(text));
        let now = setup.clock.now();
        receiver.send(&Notification::test(now), now).await.map_err(|error| {
            let exit = if error.is_configuration() { Exit::Config } else { Exit::Failed };
            Failure::new(exit, anyhow::Error::from(error).context("the test notification was not delivered"))
        })?;
        let format = notify.format.to_string();
        self.output.print(Exit::Done, json!({ "delivered": true, "format": format }), |out| {
            writeln!(out, "the {format} receiver accepted the test notification")
        })
    }
}
