//! `man`: prints one manual page for all commands, generated from the definition of the command
//! line.

use std::io::{self, Write};

use clap::{Args, CommandFactory as _};
use clap_mangen::roff::{Roff, bold, roman};

use super::Cli;
use super::exit::{Exit, Failure};
use super::output::to_stdout;

#[derive(Debug, Args)]
#[command(after_help = "To read it: tim-group-sync man | man -l -
To install it for your user: tim-group-sync man > ~/.local/share/man/man1/tim-group-sync.1")]
pub(super) struct Man {}

impl Man {
    #[expect(clippy::unused_self, reason = "all commands have the same signature")]
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let page = String::from_utf8_lossy(&page()?).into_owned();
        to_stdout(|out| page.chars().try_for_each(|c| write_char(out, c)))?;
        Ok(Exit::Done)
    }
}

/// Writes a character, as a numeric escape if it is not ASCII. How formatters render raw non-ASCII
/// characters depends on the locale.
fn write_char(out: &mut dyn Write, c: char) -> io::Result<()> {
    if c.is_ascii() { write!(out, "{c}") } else { write!(out, "\\[u{:04X}]", u32::from(c)) }
}

fn page() -> io::Result<Vec<u8>> {
    let mut command = Cli::command();
    command.build();
    let mut page = Vec::new();
    let about_all = clap_mangen::Man::new(command.clone());
    about_all.render_title(&mut page)?;
    about_all.render_name_section(&mut page)?;
    about_all.render_synopsis_section(&mut page)?;
    about_all.render_description_section(&mut page)?;
    about_all.render_options_section(&mut page)?;
    let mut heading = Roff::new();
    heading.control("SH", ["COMMANDS"]);
    heading.to_writer(&mut page)?;
    for subcommand in command.get_subcommands().filter(|subcommand| subcommand.get_name() != "help") {
        write_command(&mut page, subcommand)?;
    }
    write_rest(&mut page)?;
    Ok(page)
}

/// Writes the section of a command, without the options that all commands have.
fn write_command(page: &mut Vec<u8>, command: &clap::Command) -> io::Result<()> {
    let mut heading = Roff::new();
    heading.control("SS", [command.get_name()]);
    heading.to_writer(page)?;
    let own = command.clone().mut_args(|argument| {
        let everywhere = ["config", "help", "version"].contains(&argument.get_id().as_str());
        argument.hide(everywhere)
    });
    let own = clap_mangen::Man::new(own);
    let mut parts = Vec::new();
    own.render_synopsis_section(&mut parts)?;
    writeln!(parts, ".PP")?;
    own.render_description_section(&mut parts)?;
    own.render_options_section(&mut parts)?;
    for line in parts.split_inclusive(|byte| *byte == b'\n').filter(|line| !line.starts_with(b".SH")) {
        page.extend_from_slice(line);
    }
    if let Some(after) = command.get_after_help() {
        let mut lines = Roff::new();
        lines.control("PP", []);
        lines.control("nf", []);
        after.to_string().lines().for_each(|line| _ = lines.text([roman(line)]));
        lines.control("fi", []);
        lines.to_writer(page)?;
    }
    Ok(())
}

const EXIT_CODES: [(&str, &str); 8] = [
    ("0", "Done."),
    ("1", "Failed."),
    ("2", "Wrong usage."),
    ("3", "A crawl is complete, but its deletions are withheld until they are approved."),
    ("4", "A crawl is incomplete: groups that it could not account for were not marked deleted."),
    ("75", "Another process is crawling an app, or the database is unreachable. Try again later."),
    ("78", "The configuration or the credentials are wrong and must be changed."),
    ("129, 130, 143", "A crawl was stopped by SIGHUP, SIGINT or SIGTERM."),
];
const FILES: [(&str, &str); 2] = [
    (
        "$XDG_CONFIG_HOME/tim-group-sync/config.toml",
        "The configuration of an ordinary user. $XDG_CONFIG_HOME is ~/.config by default.",
    ),
    (
        "/etc/tim-group-sync/config.toml",
        "The configuration of the service, of root, and of users without a configuration of their \
         own.",
    ),
];
const VARIABLES: [(&str, &str); 5] = [
    ("TIM_GROUP_SYNC_CONFIG", "The configuration file, unless --config is given."),
    ("TIM_GROUP_SYNC_DATABASE_URL", "Overrides database.url."),
    ("TIM_GROUP_SYNC_LOG", "Overrides log.level: a level, or a filter such as info,tim_group_sync=debug."),
    ("HTTPS_PROXY, NO_PROXY", "The proxy for requests to the API, and the hosts for which it is not used."),
    ("NO_COLOR", "Turns off colours in log lines."),
];
const SIGNALS: [(&str, &str); 3] = [
    (
        "SIGTERM, SIGINT",
        "Finish the current page, record the crawl as cancelled, and exit within 5 seconds, \
         whatever else hangs. A second signal aborts.",
    ),
    (
        "SIGHUP",
        "The service reloads the configuration and the keys between crawls. Commands stop, because \
         their terminal is gone, unless they were started with nohup.",
    ),
    ("SIGUSR1", "The service crawls every app now."),
];

fn write_rest(page: &mut Vec<u8>) -> io::Result<()> {
    let sections: [(&str, &[(&str, &str)]); 4] =
        [("EXIT STATUS", &EXIT_CODES), ("FILES", &FILES), ("ENVIRONMENT", &VARIABLES), ("SIGNALS", &SIGNALS)];
    let mut rest = Roff::new();
    for (heading, entries) in sections {
        rest.control("SH", [heading]);
        for (name, meaning) in entries {
            rest.control("TP", []);
            rest.text([bold(*name)]);
            rest.text([roman(*meaning)]);
        }
    }
    rest.to_writer(page)
}
