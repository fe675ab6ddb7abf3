//! `simulate`: runs the API simulator as a server.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::exit::{Exit, Failure};
use super::init::sdk_app_id;
use super::output::print_line;
use super::text;
use crate::config::SecretFile;
use crate::lifecycle::Lifecycle;
use crate::model::SdkAppId;
use crate::simulator::{
    AbsentCodes, At, Cursor, Fault, KEY, Listing, Order, Settings, SimulatedApp, Simulator,
};
use crate::tencent::usersig::SecretKey;

/// The share of each documented type in a simulated app, in percent.
pub(super) const SHARES: [(&str, usize); 6] = [
    ("Public", 40),
    ("Private", 30),
    ("ChatRoom", 15),
    ("AVChatRoom", 10),
    ("BChatRoom", 1),
    ("Community", 4),
];

#[derive(Debug, Args)]
pub(super) struct Simulate {
    /// Address to listen on
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8787")]
    listen: SocketAddr,
    /// SDKAppID of the simulated app. Simulators that run at the same time need different ones
    #[arg(long, value_name = "NUMBER", value_parser = sdk_app_id, default_value_t = default_sdk_app_id())]
    sdk_app_id: SdkAppId,
    /// Groups at the start, spread over the six documented types
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    groups: usize,
    /// Groups created, and groups dissolved, per second
    #[arg(long, value_name = "PER_SECOND", default_value_t = 0.0)]
    churn: f64,
    /// Minimum time between two list requests; a request that arrives sooner gets an error, as from
    /// the real API
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = humantime::parse_duration)]
    rate: Duration,
    /// Error code of get_group_info for a group that does not exist: 10010, or 10015 for servers
    /// that use that code
    #[arg(long, value_name = "CODE", default_value_t = 10010)]
    absent_code: i64,
    /// Delay of each get_group_info answer
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = humantime::parse_duration)]
    info_delay: Duration,
    /// Order of the list
    #[arg(long, value_enum, default_value_t = OrderArg::Oldest)]
    order: OrderArg,
    /// Meaning of Next: the last listed group, or a position, which shifts when groups before it
    /// are created or dissolved
    #[arg(long, value_enum, default_value_t = CursorArg::Key)]
    cursor: CursorArg,
    /// Apply the fault to one request in N
    #[arg(long, value_name = "N", requires = "fault")]
    one_in: Option<u64>,
    /// The fault: an error code such as 60011, or one of timeout, reset, truncated, html,
    /// early-end, empty. For get_group_info also fewer-groups (every second group is missing) and
    /// swapped-codes (groups that exist are reported as absent, and absent ones as existing)
    #[arg(long, value_name = "FAULT", value_parser = fault)]
    fault: Option<Fault>,
    /// File with the app's key. Default: the simulator's built-in key
    #[arg(long, value_name = "FILE")]
    secret_key_file: Option<PathBuf>,
    /// Seed of all generated data
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum OrderArg {
    Oldest,
    Newest,
    Shuffled,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum CursorArg {
    Key,
    Position,
}

impl Simulate {
    pub(super) async fn run(self, lifecycle: &Lifecycle) -> Result<Exit, Failure> {
        if !(0.0..=1000.0).contains(&self.churn) {
            return Err(Failure::new(
                Exit::Usage,
                anyhow::anyhow!("--churn must be between 0 and 1000 a second"),
            ));
        }
        let settings = self.settings()?;
        let sdk_app_id = settings.sdk_app_id;
        let simulator = Simulator::start(settings).await.map_err(|error| {
            Failure::new(
                Exit::Failed,
                anyhow::Error::from(error).context(format!(
                    "cannot listen on {}; choose another address with --listen",
                    self.listen
                )),
            )
        })?;
        populate(&simulator, self.groups);
        if let Some(fault) = self.fault.clone() {
            simulator.script(self.one_in.map_or(At::Every, At::OneIn), fault);
        }
        let groups = text::count(self.groups as u64, "group");
        print_line(format_args!("simulated API with {groups} at {}", simulator.base_url()))?;
        if self.secret_key_file.is_none() {
            print_line(format_args!("key, to be saved as simulated.key: {KEY}"))?;
        }
        // The configuration names a separate database, so that simulated groups never mix with real
        // ones. The name contains the SDKAppID, so that several simulators use different databases.
        let name = if sdk_app_id == default_sdk_app_id() {
            "simulated".to_owned()
        } else {
            format!("simulated-{sdk_app_id}")
        };
        print_line(format_args!(
            "configuration:\n\n[database]\nurl = \"sqlite:{name}.db\"\n\n[apps.{name}]\nsdk_app_id = {sdk_app_id}\n\
             base_url = \"{}\"\nsecret_key_file = \"simulated.key\"",
            simulator.base_url()
        ))?;
        if self.rate < Duration::from_secs(1) {
            print_line(format_args!(
                "request_interval = \"{}\"",
                humantime::format_duration(self.rate + self.rate / 20)
            ))?;
        }
        tokio::select! {
            () = lifecycle.stop().soft().cancelled() => {}
            () = churn(&simulator, self.churn) => {}
        }
        Ok(Exit::Done)
    }

    fn settings(&self) -> Result<Settings, Failure> {
        let secret_key = match &self.secret_key_file {
            Some(path) => {
                SecretFile { path: path.clone(), is_credential: false }.read_key("--secret-key-file")?.key
            }
            None => SecretKey::new(KEY),
        };
        Ok(Settings {
            listen: self.listen,
            sdk_app_id: self.sdk_app_id,
            secret_key,
            min_interval: (self.rate > Duration::ZERO).then_some(self.rate),
            listing: Listing {
                order: match self.order {
                    OrderArg::Oldest => Order::OldestFirst,
                    OrderArg::Newest => Order::NewestFirst,
                    OrderArg::Shuffled => Order::Shuffled,
                },
                cursor: match self.cursor {
                    CursorArg::Key => Cursor::Key,
                    CursorArg::Position => Cursor::Position,
                },
            },
            absent: AbsentCodes::all(self.absent_code),
            info_delay: self.info_delay,
            seed: self.seed,
            ..Settings::default()
        })
    }
}

fn default_sdk_app_id() -> SdkAppId {
    Settings::default().sdk_app_id
}

/// Creates `groups` groups, distributed over the documented types as in [`SHARES`].
pub(super) fn populate(app: &SimulatedApp, groups: usize) {
    let mut created = 0;
    for (group_type, share) in &SHARES[1..] {
        let of_type = groups * share / 100;
        app.create_many(group_type, of_type);
        created += of_type;
    }
    app.create_many(SHARES[0].0, groups - created);
}

/// Creates and dissolves `per_second` groups per second, forever.
pub(super) async fn churn(app: &SimulatedApp, per_second: f64) {
    if per_second == 0.0 {
        return std::future::pending().await;
    }
    let mut tick = tokio::time::interval(Duration::from_secs_f64(1.0 / per_second));
    for turn in 0.. {
        tick.tick().await;
        let (group_type, _) = SHARES[turn % SHARES.len()];
        app.create_many(group_type, 1);
        app.dissolve_some(1);
    }
}

fn fault(name: &str) -> Result<Fault, String> {
    Ok(match name {
        "timeout" => Fault::Timeout,
        "reset" => Fault::Reset,
        "truncated" => Fault::TruncatedBody,
        "html" => Fault::HtmlWith200,
        "early-end" => Fault::EarlyEnd,
        "empty" => Fault::EmptyList,
        "fewer-groups" => Fault::FewerGroups,
        // `lie` is the former name.
        "swapped-codes" | "lie" => Fault::SwappedCodes,
        code => Fault::ErrorCode(
            code.parse().map_err(|_| "neither an error code nor the name of a fault".to_owned())?,
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_an_error_code_or_a_name() {
        assert_eq!(fault("60011"), Ok(Fault::ErrorCode(60011)));
        assert_eq!(fault("fewer-groups"), Ok(Fault::FewerGroups));
        assert_eq!(fault("swapped-codes"), Ok(Fault::SwappedCodes));
        assert_eq!(fault("lie"), Ok(Fault::SwappedCodes), "the former name");
        assert!(fault("lies").is_err());
    }
}
