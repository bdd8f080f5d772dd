//! `linger lab exec`: other people's programs at the two ends of an emulated link.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};
use std::time::Duration;

use clap::{Args, ValueHint};
use linger_lab::{COUNTERS, ExecPlan, ExecReport, Guests, Link, ProgramUser, WireReport, exec, exec_in};
use linger_netns::Counters;

use super::{capture, plan};
use crate::input::read_text;
use crate::lines::{self, line};
use crate::options::{Chance, Family, JsonBeside};
use crate::output::{say, say_json};
use crate::typed::{duration, links_and_files};
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
A command of one's own among the hosts of a scenario, in the place of its clients:
  linger lab exec --scenario scenarios/upload-behind-nginx.toml -- curl -sS http://gateway:8080/x

Exit status: the client's own, of several the first that is not 0; 3 if a command could not be started or the server never listened.";

/// Runs two commands at the two ends of an emulated link; ends with the client's status.
///
/// Both commands find each other by the names `server` and `client`, and the addresses in
/// LINGER_SERVER and LINGER_CLIENT. The client starts once something listens on the server's side.
/// When the client has ended, the server is ended with SIGTERM, then SIGKILL.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ExecArguments {
    /// The network: a preset, or a file with the keys of a scenario's `[link]`.
    #[arg(long, default_value = "wifi", value_parser = links_and_files())]
    link: Link,
    /// The server's command, for sh -c.
    #[arg(long, value_name = "CMD", value_hint = ValueHint::CommandString, required_unless_present = "scenario")]
    server: Option<String>,
    /// The client's command, for sh -c.
    #[arg(long, value_name = "CMD", value_hint = ValueHint::CommandString, required_unless_present = "scenario")]
    client: Option<String>,
    /// Hosts and programs of a scenario with `[[host]]`; the command behind `--` runs in the place of its clients.
    #[arg(
        long,
        value_name = "FILE",
        value_hint = ValueHint::FilePath,
        conflicts_with_all = ["link", "server", "client", "Family", "ready", "pcap"],
        requires = "command"
    )]
    scenario: Option<PathBuf>,
    /// The command among a scenario's hosts.
    #[arg(last = true, value_name = "COMMAND", requires = "scenario", conflicts_with_all = ["server", "client"])]
    command: Vec<OsString>,
    /// How many clients run at the same time; LINGER_REQUEST is the number of each.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=200))]
    clients: u64,
    /// As whom the commands run, name or number. Without root they have its number and stay yours; files of others stay closed to them.
    #[arg(long, value_name = "USER", value_parser = ProgramUser::parse)]
    user: Option<ProgramUser>,
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

impl ExecArguments {
    fn guests(&self) -> Guests {
        Guests { count: usize::try_from(self.clients).unwrap_or(1), user: self.user }
    }
}

pub(crate) fn run(arguments: ExecArguments) -> ExitCode {
    let seed = arguments.chance.seed();
    if let Some(file) = &arguments.scenario {
        return in_scenario(file, &arguments, seed);
    }
    let guests = arguments.guests();
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
        server: arguments.server.unwrap_or_default(),
        client: arguments.client.unwrap_or_default(),
        guests,
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
    status_of(report.client)
}

/// The client's own status.
fn status_of(client: Option<ExitStatus>) -> ExitCode {
    let code = client.and_then(|status| status.code()).and_then(|code| u8::try_from(code).ok());
    ExitCode::from(code.unwrap_or(exit::COULD_NOT_TELL))
}

/// Runs a command among the hosts of a scenario.
fn in_scenario(file: &Path, arguments: &ExecArguments, seed: u64) -> ExitCode {
    let name = file.display().to_string();
    let text = match read_text(file) {
        Ok(text) => text,
        Err(error) => return exit::file(format_args!("cannot read {name}"), &error),
    };
    let plan = match plan::network(&name, &text, None, arguments.chance.typed(), seed) {
        Ok(plan) => plan,
        Err((code, error)) => return exit::fail(code, error),
    };
    let stop = match interrupt::stop() {
        Ok(stop) => stop,
        Err(error) => return exit::io("cannot take signals", &error),
    };
    let words = || {
        let mut command = Command::new(arguments.command.first().map_or_else(OsString::new, Clone::clone));
        command.args(arguments.command.iter().skip(1));
        command
    };
    let (client, hosts, wires) = match exec_in(&plan, words, arguments.guests(), &stop) {
        Ok(report) => report,
        Err(error) => return exit::io("lab exec", &error),
    };
    if arguments.output.json {
        say_json(&line(lines::ExecHosts::new(&plan, client, &hosts, &wires)));
        return status_of(client);
    }
    for host in &hosts {
        tell_counters(&host.name, &host.counters);
    }
    for (joined, wire) in plan.links.iter().zip(&wires) {
        tell_wire(&format!("the link {}", joined.link.name), wire, plan.seed);
    }
    status_of(client)
}

/// stdout belongs to the two commands, so the report goes to stderr.
fn tell(report: &ExecReport, seed: u64, json: bool) {
    if json {
        return say_json(&line(lines::Exec::new(report, seed)));
    }
    for (side, counters) in [("server", &report.server_counters), ("client", &report.client_counters)] {
        tell_counters(side, counters);
    }
    if let Some(wire) = &report.wire {
        tell_wire("the link", wire, seed);
    }
}

fn tell_counters(host: &str, counters: &Counters) {
    let counted: Vec<String> = COUNTERS
        .iter()
        .filter(|name| counters.of(name) > 0)
        .map(|name| format!("{name} {}", counters.of(name)))
        .collect();
    let counted = if counted.is_empty() { "no resets".to_owned() } else { counted.join(", ") };
    say!("linger: the {host}'s kernel counted: {counted}");
}

fn tell_wire(link: &str, wire: &WireReport, seed: u64) {
    let (carried, lost, full) = (wire.carried, wire.lost, wire.queue_full);
    say!("linger: {link} carried {carried} frames, lost {lost}, dropped {full} (queue full); seed {seed}");
    if let Some(counts) = wire.middlebox {
        say!("linger: its middlebox {counts}");
    }
}
