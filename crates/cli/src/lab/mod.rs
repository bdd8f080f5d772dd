//! `linger lab`: what was typed becomes cells, cells become a table or JSON.

mod exec;
mod json;
mod results;
mod text;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use clap::{Args, Subcommand};
use linger_lab::{
    BacklogPlan, Bytes, Capture, CellPlan, CellReport, Ending, IpVersion, LARGEST_RESPONSE, Link, Named,
    Peer, Scenario, Setting, Stop, Trials, any_seed, burst, run_all, side_by_side,
};
use linger_netns::Isolation;

use rustix::fs::Access;

use results::{Plan, Report, Results, Task};

use crate::{exit, interrupt, progress};

/// Reproduces lost responses on this machine, side by side with the close that loses none.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
#[command(
    after_help = "Without arguments: the endings against four peers over three links, and an accept queue that \
    overflows.\n\nExamples:\n  linger lab\n  linger lab --ending close,lingering --peer unread --link overtake \
    --response 1000 --trials 1000\n  linger lab scenarios/fastcgi-empty-stdin.toml\n  \
    linger lab --peer late --link wifi-lossy --pcap /tmp\n\n\
    Exit status: 0 if `lingering` and well-behaved peers lost nothing (that `close` loses is what the lab shows),\n\
    or if a scenario's expectations are met; 1 if not; 4 if this machine has no namespaces for the links."
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// Scenarios to run instead of the grid that the options describe.
    #[arg(value_name = "FILE.toml")]
    files: Vec<PathBuf>,
    /// What the server does after its last write: close, shutdown-close, so-linger=SECS, abort, exit, lingering.
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    ending: Vec<Ending>,
    /// What the client does: reads-all, unread, late, upload, pipelined, never-closes, never-reads.
    #[arg(long, value_delimiter = ',', value_name = "LIST", value_parser = Peer::named)]
    peer: Vec<Peer>,
    /// The network: loopback, lan, wifi, wifi-lossy, mobile, satellite, overtake.
    #[arg(long, value_delimiter = ',', value_name = "LIST", value_parser = Link::named)]
    link: Vec<Link>,
    /// Size of the response.
    #[arg(long, value_name = "BYTES", default_value = "200k")]
    response: Bytes,
    /// Size of the part of the request that the server reads.
    #[arg(long, value_name = "BYTES", default_value = "100")]
    request: Bytes,
    /// What comes beyond it; 8 bytes are FastCGI's empty STDIN record.
    #[arg(long, value_name = "BYTES", default_value = "8")]
    extra: Bytes,
    /// What the peer `upload` sends beyond it.
    #[arg(long, value_name = "BYTES", default_value = "256KiB")]
    upload: Bytes,
    /// Try each cell exactly so often [default: until its verdict is settled, at most 100 times].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    trials: Option<u64>,
    /// Connections at a time in each cell.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    concurrency: u64,
    /// The servers' backlog.
    #[arg(long, value_name = "N", default_value_t = 128)]
    backlog: u32,
    /// Congestion control of both ends, as cubic, bbr or reno [default: this machine's].
    #[arg(long, value_name = "NAME")]
    congestion: Option<String>,
    /// The clients' receive buffer (SO_RCVBUF).
    #[arg(long, value_name = "BYTES")]
    recv_buffer: Option<Bytes>,
    /// IPv6 instead of IPv4.
    #[arg(long)]
    ipv6: bool,
    /// Feeds the links' chance; the same seed decides the same for the same packet.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// One JSON object a line instead of the table.
    #[arg(long)]
    json: bool,
    /// Write a capture of each cell's link, pcapng, to this directory.
    #[arg(long, value_name = "DIR")]
    pcap: Option<PathBuf>,
    /// Write every decision of each cell's link to this directory.
    #[arg(long, value_name = "DIR")]
    decisions: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Exec(exec::Arguments),
}

pub(crate) fn run(arguments: Arguments) -> ExitCode {
    // Before the first thread: a process with several cannot enter a user namespace.
    let entered = Isolation::prepare().enter();
    if let Some(Verb::Exec(arguments)) = arguments.verb {
        return match entered {
            Ok(()) => exec::run(arguments),
            Err(refused) => exit::fail(exit::NOT_POSSIBLE_HERE, refused),
        };
    }
    // Before minutes of trials are lost to a path that was mistyped.
    for directory in [&arguments.pcap, &arguments.decisions].into_iter().flatten() {
        if let Err(error) = can_write_to(directory) {
            return exit::file(format_args!("cannot write to {}", directory.display()), &error);
        }
    }
    let seed = arguments.seed.unwrap_or_else(any_seed);
    let (mut tasks, titles) = match tasks(&arguments, seed) {
        Ok(tasks) => tasks,
        Err((code, error)) => return exit::fail(code, error),
    };
    let shared = entered.is_err();
    if let Err(refused) = entered {
        let asked_for_more = !arguments.link.is_empty() || !arguments.files.is_empty();
        let needs_link = |task: &Task| !matches!(&task.plan, Plan::Cell(plan) if plan.link.loopback);
        if asked_for_more && tasks.iter().any(needs_link) {
            return exit::fail(exit::NOT_POSSIBLE_HERE, refused);
        }
        tasks.retain(|task| !needs_link(task));
        eprintln!("linger: {refused}\nlinger: running the loopback part only, in this machine's own network");
    }
    let stop = match interrupt::stop() {
        Ok(stop) => stop,
        Err(error) => return exit::io("cannot take signals", &error),
    };
    let bar = progress::steps(tasks.len());
    let reports = run_all(
        &tasks,
        side_by_side(),
        &stop,
        |task| try_one(task, &arguments, shared, &stop),
        |_, report| {
            bar.inc(1);
            let line = match report {
                Report::Cell(report) if arguments.json => json::cell(report),
                Report::Backlog(report) if arguments.json => json::backlog(report),
                _ => return,
            };
            bar.suspend(|| println!("{line}"));
        },
    );
    bar.finish_and_clear();
    let interrupted = stop.requested();
    let results = Results { tasks, reports, titles, seed, again: again(seed), interrupted, shared };
    finish(&results, arguments.json)
}

fn can_write_to(directory: &Path) -> io::Result<()> {
    if !fs::metadata(directory)?.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    Ok(rustix::fs::access(directory, Access::WRITE_OK | Access::EXEC_OK)?)
}

fn finish(results: &Results, json: bool) -> ExitCode {
    if json {
        println!("{}", json::summary(results));
    } else {
        text::print(results);
    }
    for (_, report) in results.done() {
        if let Report::Failed(error) = report {
            return exit::io("the lab could not be built", error);
        }
    }
    ExitCode::from(match results.verdict() {
        "as-expected" => exit::NOTHING_LOST,
        "unexpected" => exit::LOSS_FOUND,
        _ => exit::COULD_NOT_TELL,
    })
}

/// The cells that were asked for.
fn tasks(arguments: &Arguments, seed: u64) -> Result<(Vec<Task>, Vec<String>), (u8, String)> {
    let mut titles = Vec::new();
    let mut tasks = Vec::new();
    if !arguments.files.is_empty() {
        for file in &arguments.files {
            let name = file.display().to_string();
            let unreadable = |error| {
                (exit::COULD_NOT_TELL, format!("cannot read {name}: {error}{}", exit::file_hint(&error)))
            };
            let text = fs::read_to_string(file).map_err(unreadable)?;
            let scenario = Scenario::parse(&name, &text).map_err(|error| (exit::BAD_USAGE, error))?;
            titles.push(scenario.title);
            for (mut plan, expect) in scenario.cells {
                if arguments.seed.is_some() || plan.seed == 0 {
                    plan.seed = seed;
                }
                if let Some(trials) = arguments.trials {
                    plan.trials = Trials::Exactly(trials);
                }
                tasks.push(Task { plan: Plan::Cell(plan), expect });
            }
        }
        return Ok((tasks, titles));
    }
    if arguments.response.0 == 0 || arguments.response.0 > LARGEST_RESPONSE {
        return Err((exit::BAD_USAGE, "--response: name 1 byte to 1GiB".to_owned()));
    }
    let usual = arguments.ending.is_empty() && arguments.peer.is_empty() && arguments.link.is_empty();
    let endings = or(&arguments.ending, || {
        vec![Ending::Close, Ending::ShutdownClose, Ending::SoLinger(5), Ending::Exit, Ending::Lingering]
    });
    let peers = or(&arguments.peer, || vec![Peer::ReadsAll, Peer::Unread, Peer::Late, Peer::Upload]);
    let links = or(&arguments.link, || {
        ["loopback", "wifi", "overtake"].into_iter().filter_map(Link::by_name).collect()
    });
    if usual {
        // They wait most of the time, so they begin first.
        let wifi = Link::named("wifi").map_err(|error| (exit::BAD_USAGE, error))?;
        for (backlog, abort) in [(128, false), (8, false), (8, true)] {
            let plan = BacklogPlan::new(wifi.clone(), backlog, abort);
            tasks.push(Task { plan: Plan::Backlog(plan), expect: None });
        }
    }
    for link in &links {
        for ending in &endings {
            for peer in &peers {
                let usual = CellPlan::new(*ending, *peer, link.clone());
                let plan = CellPlan {
                    response: arguments.response.0,
                    request: arguments.request.0,
                    extra: arguments.extra.0,
                    upload: arguments.upload.0,
                    ip: if arguments.ipv6 { IpVersion::V6 } else { IpVersion::V4 },
                    concurrency: arguments.concurrency,
                    trials: arguments.trials.map_or(usual.trials, Trials::Exactly),
                    congestion: arguments.congestion.clone(),
                    backlog: arguments.backlog,
                    receive_buffer: arguments.recv_buffer.map(|bytes| bytes.0 as usize),
                    seed,
                    ..usual
                };
                tasks.push(Task { plan: Plan::Cell(plan), expect: None });
            }
        }
    }
    Ok((tasks, titles))
}

fn or<T: Clone>(given: &[T], usual: impl FnOnce() -> Vec<T>) -> Vec<T> {
    if given.is_empty() { usual() } else { given.to_vec() }
}

fn try_one(task: &Task, arguments: &Arguments, shared: bool, stop: &Arc<Stop>) -> Report {
    match &task.plan {
        Plan::Cell(plan) => match try_cell(plan, arguments, shared, stop) {
            Ok(report) => Report::Cell(Box::new(report)),
            Err(error) => Report::Failed(error),
        },
        Plan::Backlog(plan) => match burst(plan) {
            Ok(report) => Report::Backlog(Box::new(report)),
            Err(error) => Report::Failed(error),
        },
    }
}

fn try_cell(plan: &CellPlan, arguments: &Arguments, shared: bool, stop: &Stop) -> io::Result<CellReport> {
    let name = format!("{}-{}-{}", plan.ending, plan.peer, plan.link.name);
    // Loopback has no wire from which to capture.
    let pcap = arguments.pcap.as_ref().filter(|_| !plan.link.loopback);
    let capture = pcap
        .map(|directory| {
            let path = directory.join(format!("{name}.pcapng"));
            Capture::create(&path).map(Mutex::new).map(Arc::new).map_err(|error| at(&path, error))
        })
        .transpose()?;
    let setting = Setting { capture: capture.clone(), decisions: arguments.decisions.is_some(), shared };
    let report = linger_lab::run(plan, &setting, stop)?;
    if let Some(capture) = capture {
        capture.lock().unwrap_or_else(PoisonError::into_inner).finish()?;
    }
    if let (Some(directory), Some(wire)) = (&arguments.decisions, &report.wire) {
        let path = directory.join(format!("{name}.decisions"));
        fs::write(&path, text::decisions(&wire.log)).map_err(|error| at(&path, error))?;
    }
    Ok(report)
}

fn at(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// The command that was typed, with the seed.
fn again(seed: u64) -> String {
    let typed: Vec<String> = std::env::args().skip(1).collect();
    let mut words = vec!["linger".to_owned()];
    words.extend(typed.iter().map(|word| quoted(word)));
    if !typed.iter().any(|word| word.starts_with("--seed")) {
        words.push(format!("--seed {seed}"));
    }
    words.join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=,./:@+%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}
