//! The program `tim-group-sync`; see the `cli` module of the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    tim_group_sync::cli::main()
}
