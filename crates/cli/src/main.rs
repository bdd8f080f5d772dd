//! The program `linger`: arguments to library calls, results to text; nothing else.

mod address;
mod args;
mod client;
#[cfg(test)]
mod docs_tests;
mod duration;
mod exit;
mod fcgi;
mod generate;
mod interrupt;
mod lab;
mod lines;
mod logger;
mod output;
mod probe;
mod progress;
mod run;
mod server;
mod tools;
mod transfer;
mod watch;
mod why;

use std::process::ExitCode;

fn main() -> ExitCode {
    args::run()
}
