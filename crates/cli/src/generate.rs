//! Man pages and completions, from the same definitions as `--help`.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Command};

use crate::exit;

/// Prints a completion script for a shell.
#[derive(Args, Debug)]
pub(crate) struct Completions {
    /// The shell.
    shell: clap_complete::Shell,
}

/// Writes the man pages, one for each verb.
#[derive(Args, Debug)]
pub(crate) struct Man {
    /// The directory to write them to; it must exist.
    directory: PathBuf,
}

impl Completions {
    pub(crate) fn run(self, mut program: Command) -> ExitCode {
        clap_complete::generate(self.shell, &mut program, "linger", &mut io::stdout());
        ExitCode::from(exit::NOTHING_LOST)
    }
}

impl Man {
    pub(crate) fn run(self, program: Command) -> ExitCode {
        match clap_mangen::generate_to(program, &self.directory) {
            Ok(()) => ExitCode::from(exit::NOTHING_LOST),
            Err(error) => exit::file(format_args!("cannot write to {}", self.directory.display()), &error),
        }
    }
}
