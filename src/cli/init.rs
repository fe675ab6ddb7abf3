//! `init`: writes a configuration and its key file from options or from answers on the terminal. It
//! never overwrites a file.

use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::io::{self, BufRead as _, ErrorKind, IsTerminal as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use rustix::process::geteuid;
use secrecy::{ExposeSecret as _, SecretString};
use uzers::User;

use super::checks;
use super::exit::{Exit, Failure};
use super::hidden;
use super::output::{Output, message, prompt, warning};
use super::setup::Setup;
use crate::config::{
    APP_NAME_RULE, Config, NewConfigLocation, SecretFile, UNUSUAL_KEY, did_you_mean, invalid_key_content,
    is_app_name,
};
use crate::model::SdkAppId;
use crate::tencent::region::Region;
use crate::tencent::usersig::SecretKey;

/// The user of the installed service.
const SERVICE_USER: &str = "tim-group-sync";

#[derive(Debug, Args)]
#[command(after_help = "On a terminal it asks for the values of missing options; the key is not shown.
No file is ever overwritten.
Without --config it writes $XDG_CONFIG_HOME/tim-group-sync/config.toml,
or /etc/tim-group-sync/config.toml for root.")]
pub(super) struct Init {
    /// The app's SDKAppID, from the console
    #[arg(long, value_name = "NUMBER", value_parser = sdk_app_id)]
    sdk_app_id: Option<SdkAppId>,
    /// The app's data centre
    #[arg(long, value_name = "NAME", ignore_case = true, value_parser = region_parser())]
    region: Option<Region>,
    /// URL of the API instead of a region, for example of the simulator
    #[arg(long, value_name = "URL", conflicts_with = "region")]
    base_url: Option<String>,
    /// File that contains only the app's key; it is copied to a new file of mode 0600
    #[arg(long, value_name = "FILE")]
    secret_key_file: Option<PathBuf>,
    /// The app's name in the configuration and in the rows of the database
    #[arg(long, value_name = "NAME", default_value = "prod", value_parser = app_name)]
    name: String,
    /// The administrator account that signs requests
    #[arg(long, value_name = "USERID", default_value = "administrator")]
    identifier: String,
    /// The database: sqlite:FILE or postgres://…, without a password
    // A secret type, because the URL may contain a password, which must not be printed.
    #[arg(long, value_name = "URL")]
    database: Option<SecretString>,
    #[command(flatten)]
    pub(super) output: Output,
    #[arg(skip)]
    written: Option<Written>,
}

#[derive(Debug)]
struct Written {
    config_file: PathBuf,
    secret_key_file: PathBuf,
    /// The user that owns the key file, if it is the key of the installed service.
    service_user: Option<String>,
}

pub(super) fn sdk_app_id(text: &str) -> Result<SdkAppId, String> {
    let number = text.trim().parse().ok().and_then(SdkAppId::new);
    number.ok_or_else(|| "an SDKAppID is a number such as 1400000000; the console shows it".to_owned())
}

fn app_name(text: &str) -> Result<String, &'static str> {
    if is_app_name(text) { Ok(text.to_owned()) } else { Err(APP_NAME_RULE) }
}

impl Init {
    /// Writes the files. Must run before the process changes from root to the owner of the
    /// database.
    pub(super) fn write(&mut self, setup: &Setup) -> Result<(), Failure> {
        let location = setup.new_config_location()?;
        let key_file = location.config.with_file_name(format!("{}.key", self.name));
        refuse_existing(&location.config, "edit it, or name another file with --config FILE")?;
        let given = self.secret_key_file.as_deref();
        let is_in_place = given.is_some_and(|given| is_same_file(given, &key_file));
        if !is_in_place {
            refuse_existing(
                &key_file,
                "to use it, pass it with --secret-key-file; or choose another --name",
            )?;
        }
        // Without a terminal, init cannot ask for the values of missing options.
        self.refuse_missing(io::stdin().is_terminal())?;
        let given_key = given.map(read_key).transpose()?;
        let sdk_app_id = match self.sdk_app_id {
            Some(sdk_app_id) => sdk_app_id,
            None => ask_until("SDKAppID (console: IM, your app): ", sdk_app_id)?,
        };
        let endpoint = match (&self.base_url, &self.region) {
            (Some(url), _) => format!("base_url = {}", toml_text(url)),
            (None, Some(region)) => format!("region = {}", toml_text(&region.to_string())),
            (None, None) => format!("region = {}", toml_text(&ask_region()?.to_string())),
        };
        let text = self.config_text(&location, sdk_app_id, &endpoint);
        if let Err(problems) = Config::parse(&text, &location.config, &setup.environment) {
            let error =
                anyhow::Error::from(problems).context("these values do not make a valid configuration");
            return Err(Failure::new(Exit::Usage, error));
        }
        let key = match given_key {
            Some(key) => key,
            None => ask_key()?,
        };

        let owner = service_user(&location);
        make_folder(&location)?;
        if !is_in_place {
            write_new(&key_file, key.expose(), 0o600, owner.as_ref())?;
        }
        if let Err(failure) = write_new(&location.config, &text, 0o644, None) {
            if !is_in_place {
                // Without a configuration, the new key file is useless and would block the next
                // attempt.
                let _ = std::fs::remove_file(&key_file);
            }
            return Err(failure);
        }
        let service_user = owner.map(|user| user.name().to_string_lossy().into_owned());
        message(format_args!("wrote {}", location.config.display()));
        if !is_in_place {
            let owner = service_user.as_ref().map_or_else(String::new, |name| format!(", owner {name}"));
            message(format_args!("wrote {} (mode 0600{owner})", key_file.display()));
        }
        self.written =
            Some(Written { config_file: location.config, secret_key_file: key_file, service_user });
        Ok(())
    }

    /// Checks the configuration that was written.
    pub(super) async fn check(self, setup: &Setup) -> Result<Exit, Failure> {
        let (findings, _) = checks::run_checks(setup, &setup.config_for_command()?).await?;
        let exit = checks::worst(&findings);
        let written = self.written.expect("the files are written before they are checked");
        let result = serde_json::json!({
            "config_file": written.config_file, "secret_key_file": written.secret_key_file, "findings": findings,
        });
        self.output.print_with_error_in_text((exit, checks::error_of(&findings)), result, |out| {
            checks::print(out, &findings)?;
            writeln!(out, "\n{}", next_steps(setup, &written, exit))
        })
    }

    /// Fails if required options are missing and cannot be asked for.
    fn refuse_missing(&self, can_ask: bool) -> Result<(), Failure> {
        let mut missing = Vec::new();
        if self.sdk_app_id.is_none() {
            missing.push("--sdk-app-id");
        }
        if self.region.is_none() && self.base_url.is_none() {
            missing.push("--region");
        }
        if self.secret_key_file.is_none() {
            missing.push("--secret-key-file");
        }
        if can_ask || missing.is_empty() {
            return Ok(());
        }
        let error =
            anyhow::anyhow!("missing {}: stdin is not a terminal, so init cannot ask", missing.join(", "));
        Err(Failure::new(Exit::Usage, error))
    }

    fn config_text(&self, location: &NewConfigLocation, sdk_app_id: SdkAppId, endpoint: &str) -> String {
        let database =
            self.database.as_ref().map_or(location.database_url.as_str(), |url| url.expose_secret());
        format!(
            "# `tim-group-sync check --show-config` shows every option; config.example.toml explains them.\n\
             \n\
             [database]\n\
             # An SQLite file, or \"postgres://user@host/db\" with the password in a password_file.\n\
             url = {database}\n\
             \n\
             [schedule]\n\
             # Every hour. The time zone also defines the days of daily_counts.\n\
             cron = \"0 * * * *\"\n\
             timezone = \"UTC\"\n\
             \n\
             # One section for each app. Its name is in every row of the database.\n\
             [apps.{name}]\n\
             sdk_app_id = {sdk_app_id}\n\
             # An administrator of the app.\n\
             identifier = {identifier}\n\
             # Contains only the app's key. Only the user that runs this program may read it.\n\
             secret_key_file = {key_file}\n\
             {endpoint}\n",
            database = toml_text(database),
            name = self.name,
            identifier = toml_text(&self.identifier),
            key_file = toml_text(&format!("{}.key", self.name)),
        )
    }
}

fn toml_text(text: &str) -> String {
    toml::Value::from(text).to_string()
}

fn refuse_existing(path: &Path, remedy: &str) -> Result<(), Failure> {
    match path.symlink_metadata() {
        Ok(_) => {
            let error =
                anyhow::anyhow!("{} exists, and init does not overwrite it: {remedy}", path.display());
            Err(Failure::new(Exit::Failed, error))
        }
        Err(_) => Ok(()),
    }
}

fn is_same_file(one: &Path, other: &Path) -> bool {
    matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

fn read_key(file: &Path) -> Result<SecretKey, Failure> {
    let read = SecretFile { path: file.to_owned(), is_credential: false }.read_key("--secret-key-file")?;
    read.warnings.iter().for_each(|text| warning(text));
    Ok(read.key)
}

fn ask(question: &str) -> Result<String, Failure> {
    prompt(question);
    let mut answer = String::new();
    if io::stdin().lock().read_line(&mut answer)? == 0 {
        return Err(unanswered());
    }
    Ok(answer.trim().to_owned())
}

fn unanswered() -> Failure {
    Failure::new(Exit::Usage, anyhow::anyhow!("not all questions were answered; nothing was written"))
}

fn ask_until<T>(question: &str, read: impl Fn(&str) -> Result<T, String>) -> Result<T, Failure> {
    loop {
        match read(&ask(question)?) {
            Ok(answer) => return Ok(answer),
            Err(mistake) => message(format_args!("{mistake}")),
        }
    }
}

/// Returns a parser that also provides the names for completions and suggestions.
fn region_parser() -> impl TypedValueParser<Value = Region> {
    PossibleValuesParser::new(Region::ALL.map(|(name, _)| name)).try_map(|name| region(&name))
}

fn ask_region() -> Result<Region, Failure> {
    let names = Region::ALL.map(|(name, _)| name).join(", ");
    ask_until(&format!("Data centre ({names}) [china]: "), |answer| match answer {
        "" => Ok(Region::China),
        name => region(name),
    })
}

/// Parses the name of a region in any case, with spaces or underscores instead of hyphens.
fn region(text: &str) -> Result<Region, String> {
    let plain = |text: &str| text.trim().to_lowercase().replace([' ', '_'], "-");
    let found = Region::ALL.iter().find(|(name, _)| *name == plain(text));
    found.map(|(_, region)| *region).ok_or_else(|| {
        let names = Region::ALL.map(|(name, _)| name);
        let near = did_you_mean(text, names);
        format!("must be one of {}; or use --base-url. {near}", names.join(", ")).trim_end().to_owned()
    })
}

fn ask_key() -> Result<SecretKey, Failure> {
    loop {
        let typed =
            hidden::ask("Key (console: basic configuration; it is not shown): ").map_err(|error| {
                if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::Interrupted) {
                    return unanswered();
                }
                let error =
                    anyhow::Error::from(error).context("cannot ask for the key; use --secret-key-file");
                Failure::new(Exit::Failed, error)
            })?;
        let text = typed.expose_secret().trim();
        if text.is_empty() {
            message(format_args!("a key is not empty"));
            continue;
        }
        if let Some(what) = invalid_key_content(text) {
            message(format_args!("a key contains no {what}: paste it again"));
            continue;
        }
        let key = SecretKey::new(text);
        if key.has_usual_form() {
            return Ok(key);
        }
        message(format_args!("this {UNUSUAL_KEY}"));
        if matches!(ask("Use it anyway? [y/N] ")?.as_str(), "y" | "Y" | "yes") {
            return Ok(key);
        }
    }
}

/// Returns the user of the installed service, who becomes the owner of the key file. Returns `None`
/// if this is not the configuration of the service, or if this process is not root and cannot
/// change owners.
fn service_user(location: &NewConfigLocation) -> Option<User> {
    if !location.is_system || !geteuid().is_root() {
        return None;
    }
    uzers::get_user_by_name(SERVICE_USER)
}

fn make_folder(location: &NewConfigLocation) -> Result<(), Failure> {
    let Some(folder) = location.config.parent().filter(|folder| !folder.as_os_str().is_empty()) else {
        return Ok(());
    };
    if folder.exists() {
        return Ok(());
    }
    // Only the folder of the service's configuration must be accessible to another user.
    let mode = if location.is_system { 0o755 } else { 0o700 };
    let made = DirBuilder::new().recursive(true).mode(mode).create(folder);
    made.and_then(|()| std::fs::set_permissions(folder, Permissions::from_mode(mode)))
        .map_err(|error| cannot_write(folder, error))
}

fn cannot_write(path: &Path, error: io::Error) -> Failure {
    let error = anyhow::Error::from(error)
        .context(format!("cannot write {}; choose another path with --config FILE", path.display()));
    Failure::new(Exit::Failed, error)
}

/// Creates a file with this mode, regardless of the umask. Fails if it exists.
fn write_new(path: &Path, text: &str, mode: u32, owner: Option<&User>) -> Result<(), Failure> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = opened.map_err(|error| cannot_write(path, error))?;
    let mut fill = || {
        writeln!(file, "{}", text.trim_end())?;
        file.set_permissions(Permissions::from_mode(mode))?;
        if let Some(user) = owner {
            fchown(&file, Some(user.uid()), Some(user.primary_group_id()))?;
        }
        file.sync_all()
    };
    fill().map_err(|error| {
        // An incomplete file would block the next attempt.
        let _ = std::fs::remove_file(path);
        cannot_write(path, error)
    })
}

fn next_steps(setup: &Setup, written: &Written, exit: Exit) -> String {
    let config = setup.config_argument();
    let program = format!("tim-group-sync{config}");
    if exit != Exit::Done {
        return format!(
            "Next: correct {} where a check above is not ok, then run\n  {program} check",
            written.config_file.display()
        );
    }
    if written.service_user.is_some() {
        return "Next:\n  systemctl enable --now tim-group-sync   # crawls at once, then every hour\n  \
                tim-group-sync status                   # shows the groups of each app"
            .to_owned();
    }
    format!(
        "Next:\n  {program} crawl    # one crawl; --dry-run shows what it would change\n  \
         {program} status   # shows the groups of each app\n  \
         {program} run      # the service: crawls every hour until stopped"
    )
}
