//! `linger fcgi values`: what an application says of itself.

use std::process::ExitCode;

use clap::Args;
use linger_fastcgi::Address;
use linger_fastcgi::gateway::{self, Client, VALUES};
use linger_untrusted::Untrusted;

use super::status_of;
use crate::exit;
use crate::options::Silence;
use crate::output::Stdout;
use crate::typed::fastcgi;

/// Asks an application how many connections and requests it takes at once (FCGI_GET_VALUES).
#[derive(Args, Debug)]
#[command(mut_arg("timeout", |arg| arg.default_value("10s")))]
#[command(after_help = "Example:\n  linger fcgi values unix:/run/php/php-fpm.sock\n\n\
    Exit status: 0 it answered, 1 it closed without an answer or was silent, 3 it cannot be reached.")]
pub(super) struct Values {
    /// HOST:PORT, or unix:/PATH.
    #[arg(value_parser = fastcgi)]
    address: Address,
    /// The variables [default: the three of the specification]
    name: Vec<String>,
    #[command(flatten)]
    silence: Silence,
}

impl Values {
    pub(super) fn run(self) -> ExitCode {
        let names: Vec<&str> = if self.name.is_empty() {
            VALUES.to_vec()
        } else {
            self.name.iter().map(String::as_str).collect()
        };
        let mut config = gateway::Config::default();
        config.io_timeout = self.silence.timeout;
        let told = match Client::new(self.address, config).values(&names) {
            Ok(told) => told,
            Err(error) => return exit::fail(status_of(&error), error),
        };
        let mut stdout = Stdout::new();
        for (name, value) in told.iter() {
            let (name, value) = (Untrusted::from(name), Untrusted::from(value));
            if let Err(stopped) = stdout.text(format_args!("{}={}\n", name.plain(), value.terminal())) {
                return stopped.end(None);
            }
        }
        match stdout.flush() {
            Ok(()) => ExitCode::from(exit::NOTHING_LOST),
            Err(stopped) => stopped.end(None),
        }
    }
}
