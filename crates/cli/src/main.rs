//! The program `linger`: arguments to library calls, results to text; nothing else.

mod args;
mod client;
#[cfg(test)]
mod docs_tests;
mod exit;
mod fcgi;
mod generate;
mod input;
mod interrupt;
mod lab;
mod lines;
mod logger;
mod memory;
mod options;
mod output;
mod probe;
mod progress;
mod run;
mod server;
mod tools;
mod transfer;
mod typed;
mod watch;
mod why;

use std::process::ExitCode;

fn main() -> ExitCode {
    args::run()
}
