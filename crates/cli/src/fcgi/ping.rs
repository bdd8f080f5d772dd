//! `linger fcgi ping`: whether an application answers, and in what time.

use std::io;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, value_parser};
use linger_fastcgi::Address;
use linger_fastcgi::environment::Environment;
use linger_fastcgi::gateway::{self, Client, Error, GatewayRequest};

use super::status_of;
use crate::exit;
use crate::options::Silence;
use crate::output::Stdout;
use crate::typed::fastcgi;

/// Asks an application for an answer, for health checks: any whole response will do whose HTTP status is below 500.
#[derive(Args, Debug)]
#[command(mut_arg("timeout", |arg| arg.default_value("5s")))]
#[command(after_help = "Examples:\n  linger fcgi ping unix:/run/php/php-fpm.sock\n  \
    linger fcgi ping 127.0.0.1:9000 /srv/www/index.php --repeat 100\n\n\
    Exit status: 0 all answers were whole, 1 one was cut or its status was 500 or more, 3 it cannot be reached.")]
pub(super) struct Ping {
    /// HOST:PORT, or unix:/PATH.
    #[arg(value_parser = fastcgi)]
    address: Address,
    /// What is asked for: `ping.path` of php-fpm, or a script
    #[arg(default_value = "/ping")]
    script: String,
    /// Ask so often, one request after the other, each on a connection of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(u32).range(1..=1_000_000))]
    repeat: u32,
    #[command(flatten)]
    silence: Silence,
}

impl Ping {
    pub(super) fn run(self) -> ExitCode {
        let mut config = gateway::Config::default();
        config.io_timeout = self.silence.timeout;
        config.connect_timeout = self.silence.timeout;
        let client = Client::new(self.address, config);
        let mut times = Vec::new();
        let mut last = 0;
        for number in 1..=self.repeat {
            let of = if self.repeat == 1 { String::new() } else { format!("request {number}: ") };
            let started = Instant::now();
            match ask(&client, &self.script) {
                Ok(status) if status < 500 => last = status,
                Ok(status) => {
                    let what = format_args!("{of}the application answered with HTTP status {status}");
                    return exit::fail(exit::LOSS_FOUND, what);
                }
                Err(error) => return exit::fail(status_of(&error), format_args!("{of}{error}")),
            }
            times.push(started.elapsed());
        }
        times.sort_unstable();
        let mut stdout = Stdout::new();
        let said = match times[..] {
            [only] => stdout.text(format_args!("answered with status {last} after {}\n", shown(only))),
            [first, .., slowest] => {
                let (count, median) = (times.len(), times[times.len() / 2]);
                let times = [first, median, slowest].map(shown);
                let [first, median, slowest] = times;
                stdout.text(format_args!(
                    "{count} answers, the last with status {last}: fastest {first}, median {median}, slowest {slowest}\n"
                ))
            }
            [] => Ok(()),
        };
        match said.and_then(|()| stdout.flush()) {
            Ok(()) => ExitCode::from(exit::NOTHING_LOST),
            Err(stopped) => stopped.end(Some(exit::NOTHING_LOST)),
        }
    }
}

/// Asks once. Returns the HTTP status of a whole response.
fn ask(client: &Client, script: &str) -> Result<u16, Error> {
    let (file, query) = script.split_once('?').unwrap_or((script, ""));
    let mut environment = Environment::of_file("GET", file, query);
    environment.local();
    let mut response = client.send(GatewayRequest::of(environment))?;
    let status = response.head()?.status;
    io::copy(&mut response, &mut io::sink()).map_err(|error| match error.downcast::<Error>() {
        Ok(error) => error,
        Err(error) => Error::System(error),
    })?;
    Ok(status)
}

fn shown(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}
