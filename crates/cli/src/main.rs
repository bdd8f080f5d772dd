//! The program `linger`: arguments to library calls, results to text; nothing else.

mod args;
mod captured;
mod client;
#[cfg(test)]
mod docs_tests;
mod exit;
mod fcgi;
mod generate;
mod hunt;
mod input;
mod interrupt;
mod junit;
#[allow(unsafe_code)]
mod kernel;
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
    if let Err((limit, least)) = linger_run::enough_stack() {
        return exit::fail(
            exit::NOT_POSSIBLE_HERE,
            format_args!(
                "the stack may have {limit} bytes (RLIMIT_STACK), and {least} are needed: raise that limit (`ulimit -s`, systemd's \
                 `LimitSTACK=`)"
            ),
        );
    }
    let status = args::run();
    output::settle_stderr();
    status
}
