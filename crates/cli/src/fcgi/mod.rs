//! `linger fcgi`: requests to a FastCGI application, or an application to try a gateway with.

mod abort;
mod endings;
mod get;
mod journal;
mod ping;
mod serve;
mod values;

use std::process::ExitCode;

use clap::{Args, Subcommand};
use linger_fastcgi::gateway::Error;

use crate::exit;

/// Speaks FastCGI: requests to an application, or an application for a gateway.
#[derive(Args, Debug)]
pub(crate) struct FcgiArguments {
    #[command(subcommand)]
    verb: FcgiVerb,
}

#[derive(Debug, Subcommand)]
enum FcgiVerb {
    Get(get::Get),
    Ping(ping::Ping),
    Values(values::Values),
    Abort(abort::Abort),
    Serve(serve::ServeArguments),
}

pub(crate) fn run(arguments: FcgiArguments) -> ExitCode {
    match arguments.verb {
        FcgiVerb::Get(get) => get.run(),
        FcgiVerb::Ping(ping) => ping.run(),
        FcgiVerb::Values(values) => values.run(),
        FcgiVerb::Abort(abort) => abort.run(),
        FcgiVerb::Serve(serve) => serve.run(),
    }
}

/// The exit status for a response that is not whole.
fn status_of(error: &Error) -> u8 {
    match error {
        Error::Cut { .. } | Error::Short { .. } => exit::LOSS_FOUND,
        _ => exit::COULD_NOT_TELL,
    }
}
