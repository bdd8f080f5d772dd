//! `linger lab exec`: other people's programs at the two ends of an emulated link.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueHint};
use linger_lab::{COUNTERS, ExecPlan, ExecReport, Link, exec};

use super::capture;
use crate::lines::{self, line};
use crate::options::{Chance, Family, JsonBeside};
use crate::output::{say, say_json};
use crate::typed::{duration, links};
use crate::{exit, interrupt};

/// A test runs both commands as they are printed: the first loses data, the second does not.
const EXAMPLES: &str = "\
Examples: Python's server leaves the body of a GET unread, and curl gets half of the file
  head -c 500000 /dev/zero > /tmp/big
  linger lab exec \\
    --server 'python3 -m http.server --bind $LINGER_SERVER --directory /tmp 8000' \\
    --client 'curl -sS -o /dev/null -X GET --data-binary @/tmp/big http://$LINGER_SERVER:8000/big'
and all of it from the same server, cured:
  linger lab exec \\
    --server 'linger run -- python3 -m http.server --bind $LINGER_SERVER --directory /tmp 8000' \\
    --client 'curl -sS -o /dev/null -X GET --data-binary @/tmp/big http://$LINGER_SERVER:8000/big'
A body above 1 MiB makes curl wait for `100 Continue`; -H Expect: sends it at once.

Exit status: the client's own; 3 if a command could not be started or the server never listened.";

/// Runs two commands at the two ends of an emulated link; ends with the client's status.
///
/// Both commands find their addresses in LINGER_SERVER and LINGER_CLIENT. The client starts once
/// something listens on the server's side. When the client has ended, the server is ended with
/// SIGTERM, then SIGKILL.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ExecArguments {
    /// The network.
    #[arg(long, default_value = "wifi", value_parser = links())]
    link: Link,
    /// The server's command, for sh -c.
    #[arg(long, value_name = "CMD", value_hint = ValueHint::CommandString)]
    server: String,
    /// The client's command, for sh -c.
    #[arg(long, value_name = "CMD", value_hint = ValueHint::CommandString)]
    client: String,
    #[command(flatten)]
    family: Family,
    #[command(flatten)]
    chance: Chance,
    /// How long the server may take to listen; 0 starts the client at once.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    ready: Duration,
    /// Write a capture of the link, pcapng, to this file.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pcap: Option<PathBuf>,
    #[command(flatten)]
    output: JsonBeside,
}

pub(crate) fn run(arguments: ExecArguments) -> ExitCode {
    let seed = arguments.chance.seed();
    if arguments.pcap.is_some() && arguments.link.loopback {
        return exit::fail(
            exit::BAD_USAGE,
            "--pcap: loopback has no wire to capture from; choose another --link",
        );
    }
    let capture = match arguments.pcap.as_deref().map(capture::begin).transpose() {
        Ok(capture) => capture,
        Err(refused) => return refused.end(),
    };
    let stop = match interrupt::stop() {
        Ok(stop) => stop,
        Err(error) => return exit::io("cannot take signals", &error),
    };
    let plan = ExecPlan {
        link: arguments.link,
        server: arguments.server,
        client: arguments.client,
        ip: arguments.family.version(),
        seed,
        ready: (!arguments.ready.is_zero()).then_some(arguments.ready),
        capture: capture.as_ref().map(|(_, open)| open.clone()),
    };
    let report = match exec(&plan, &stop) {
        Ok(report) => report,
        Err(error) => return exit::io("lab exec", &error),
    };
    if let Err(error) = capture::finish(capture) {
        return exit::io("--pcap", &error);
    }
    tell(&report, seed, arguments.output.json);
    match report.client.and_then(|status| status.code()) {
        Some(code) => ExitCode::from(u8::try_from(code).unwrap_or(exit::COULD_NOT_TELL)),
        None => ExitCode::from(exit::COULD_NOT_TELL),
    }
}

/// stdout belongs to the two commands, so the report goes to stderr.
fn tell(report: &ExecReport, seed: u64, json: bool) {
    if json {
        return say_json(&line(lines::Exec::new(report, seed)));
    }
    for (side, counters) in [("server", &report.server_counters), ("client", &report.client_counters)] {
        let counted: Vec<String> = COUNTERS
            .iter()
            .filter(|name| counters.of(name) > 0)
            .map(|name| format!("{name} {}", counters.of(name)))
            .collect();
        let counted = if counted.is_empty() { "no resets".to_owned() } else { counted.join(", ") };
        say!("linger: the {side}'s kernel counted: {counted}");
    }
    if let Some(wire) = &report.wire {
        let (carried, lost, full) = (wire.carried, wire.lost, wire.queue_full);
        say!(
            "linger: the link carried {carried} frames, lost {lost}, dropped {full} (queue full); seed {seed}"
        );
    }
}
