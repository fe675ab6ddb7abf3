//! Parses the command line, runs the command, prints an error's causes once, returns the exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    tim_group_sync::cli::main()
}
