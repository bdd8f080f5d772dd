//! `linger fcgi abort`: what an application does with a request that its gateway aborts.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use linger_fastcgi::Address;
use linger_fastcgi::environment::Environment;
use linger_fastcgi::gateway::{self, AbortedRequest, Client, GatewayRequest};

use super::status_of;
use crate::exit;
use crate::options::Silence;
use crate::output::Stdout;
use crate::typed::{duration, fastcgi};

/// Sends a request whose body does not end, and aborts it (FCGI_ABORT_REQUEST).
#[derive(Args, Debug)]
#[command(mut_arg("timeout", |arg| arg.default_value("10s")))]
#[command(after_help = "Example:\n  linger fcgi abort 127.0.0.1:9000 /srv/app --after 200ms\n\n\
    Exit status: 0 the application ended the request, 1 it closed without END_REQUEST or went on, 3 it cannot be reached.")]
pub(super) struct Abort {
    /// HOST:PORT, or unix:/PATH.
    #[arg(value_parser = fastcgi)]
    address: Address,
    /// The script's file name, as the application sees it. A query may follow behind `?`
    script: String,
    /// How long the application works on the request before it is aborted
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = duration)]
    after: Duration,
    #[command(flatten)]
    silence: Silence,
}

impl Abort {
    pub(super) fn run(self) -> ExitCode {
        let mut config = gateway::Config::default();
        config.io_timeout = self.silence.timeout;
        let (file, query) = self.script.split_once('?').unwrap_or((&self.script, ""));
        let mut environment = Environment::of_file("POST", file, query);
        environment.local().length(u64::from(u32::MAX));
        let client = Client::new(self.address, config);
        let told = match client.abort(&GatewayRequest::of(environment), self.after) {
            Ok(told) => told,
            Err(error) => return exit::fail(status_of(&error), error),
        };
        let AbortedRequest { before, after, end, took, .. } = told;
        let mut stdout = Stdout::new();
        let said = if told.was_early {
            stdout.text(format_args!(
                "nothing to abort: the application ended the request with status {} before, after {before} bytes of a response \
                 (it does not wait for the body; with a shorter --after it may still be at work)\n",
                end.app_status
            ))
        } else {
            let took = took.as_secs_f64() * 1e3;
            stdout.text(format_args!(
                "ended with status {} {took:.1} ms after ABORT_REQUEST; {before} bytes of a response came before it, {after} after\n",
                end.app_status
            ))
        };
        match said.and_then(|()| stdout.flush()) {
            Ok(()) => ExitCode::from(exit::NOTHING_LOST),
            Err(stopped) => stopped.end(Some(exit::NOTHING_LOST)),
        }
    }
}
