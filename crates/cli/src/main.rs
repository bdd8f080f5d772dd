//! The program `linger`: arguments to library calls, results to text; nothing else.

mod args;
mod exit;

use std::process::ExitCode;

fn main() -> ExitCode {
    args::parse().run()
}
