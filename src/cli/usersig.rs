//! `usersig`: prints a signature for the vendor's online debugger. It is the only command that
//! prints a secret.

use std::time::Duration;

use clap::Args;

use super::exit::{Exit, Failure};
use super::output::{Output, warning};
use super::setup::{Setup, selected};
use super::text;
use crate::tencent::usersig::{Claims, sign};

/// The maximum lifetime. The documentation has two maxima: ten years in trtc.io/document/34456, and
/// fifty in document 269/32688. This is the smaller one.
const MAX_LIFETIME: Duration = Duration::from_secs(10 * YEAR.as_secs());
/// A year as `--expires` parses it: `10y` is the maximum.
const YEAR: Duration = Duration::from_secs(31_557_600);

#[derive(Debug, Args)]
pub(super) struct PrintUserSig {
    /// The app to sign for
    #[arg(long, value_name = "NAME")]
    app: String,
    /// Time until it expires
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = humantime::parse_duration)]
    expires: Duration,
    #[command(flatten)]
    pub(super) output: Output,
}

impl PrintUserSig {
    pub(super) fn run(self, setup: &Setup) -> Result<Exit, Failure> {
        if self.expires.as_secs() == 0 || self.expires > MAX_LIFETIME {
            let error = anyhow::anyhow!("--expires must be between 1s and 10 years");
            return Err(Failure::new(Exit::Usage, error));
        }
        let config = setup.config_for_command()?;
        let [app] = selected(&config, Some(&self.app))?[..] else {
            let error = anyhow::anyhow!("app names are unique, but {:?} exists more than once", self.app);
            return Err(Failure::new(Exit::Config, error));
        };
        let read = app.read_secret_key()?;
        read.warnings.iter().for_each(|text| warning(text));
        let now = setup.clock.now();
        let claims = Claims {
            sdk_app_id: app.sdk_app_id,
            identifier: app.identifier.clone(),
            issued_at: now.timestamp(),
            lifetime: self.expires,
        };
        warning(&format!(
            "for {} from now, this UserSig grants full admin rights: those of administrator {:?} \
             of app {}",
            humantime::format_duration(self.expires),
            app.identifier,
            app.sdk_app_id
        ));
        let usersig = sign(&claims, &read.key);
        let expires_at = now + self.expires;
        let result = serde_json::json!({
            "app": app.name, "sdk_app_id": app.sdk_app_id, "identifier": app.identifier,
            "usersig": usersig.expose(), "expires_at": text::time(expires_at),
        });
        self.output.print(Exit::Done, result, |out| writeln!(out, "{}", usersig.expose()))
    }
}
