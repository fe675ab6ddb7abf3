//! `completions`: prints a shell's completion script, generated from the definition of the command
//! line.

use clap::{Args, CommandFactory as _};
use clap_complete::{Shell, generate};

use super::Cli;
use super::exit::{Exit, Failure};
use super::output::to_stdout;

#[derive(Debug, Args)]
#[command(after_help = "To install them for your user:
  bash  tim-group-sync completions bash > ~/.local/share/bash-completion/completions/tim-group-sync
  zsh   tim-group-sync completions zsh > ~/.zfunc/_tim-group-sync   (with fpath+=~/.zfunc before compinit)
  fish  tim-group-sync completions fish > ~/.config/fish/completions/tim-group-sync.fish
For the current bash only: source <(tim-group-sync completions bash)")]
pub(super) struct Completions {
    /// Shell for which to print the completions
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let mut script = Vec::new();
        generate(self.shell, &mut Cli::command(), "tim-group-sync", &mut script);
        // clap_complete 4.6 encodes a name with hyphens in two different ways. Without this
        // correction bash would complete nothing after a subcommand (clap-rs/clap#6421).
        let script =
            String::from_utf8_lossy(&script).replace("tim__subcmd__group__subcmd__sync", "tim__group__sync");
        to_stdout(|out| out.write_all(script.as_bytes()))?;
        Ok(Exit::Done)
    }
}
