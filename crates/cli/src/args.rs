//! The verbs, and what was typed.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Shows, finds, explains and cures responses lost at close().
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {}

/// Reads the command line; on a mistake clap says what is wrong and ends with status 2.
pub(crate) fn parse() -> Arguments {
    Arguments::parse()
}

impl Arguments {
    pub(crate) fn run(self) -> ExitCode {
        match self.verb {}
    }
}
