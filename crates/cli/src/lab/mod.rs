//! `linger lab`: what was typed becomes cells, cells become a table or JSON.

mod capture;
mod exec;
mod files;
mod look;
mod network;
mod one;
mod page;
mod plan;
mod results;
mod sizes;
mod story;
mod text;
mod three;

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Subcommand, ValueHint};
use linger_lab::{
    CellPlan, CellReport, LARGEST_RESPONSE, Link, Named, Setting, Stop, WireReport, burst, run_all,
    side_by_side,
};
use linger_netns::Isolation;
use rustix::fs::Access;

use capture::{Growing, begin, finish as finish_capture};
use files::LabPage;
pub(crate) use network::NetworkOutcome;
use plan::{Grid, RefusedPlan, scenarios};
use results::{Outcome, Plan, Results, Show, Task, TaskReport, name_all};

use crate::lines::{self, line};
use crate::memory::room_for;
use crate::options::{AtRisk, Chance, Json};
use crate::output::{Content, NewFile, Stdout, Stopped, say};
use crate::{exit, interrupt, progress};

/// Reproduces lost responses on this machine, side by side with the close that loses none.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
#[command(
    after_help = "Without arguments: the usual close, SO_LINGER and the lingering close over a wireless link,\n\
    a table of three rows. The whole grid: --all.\n\nExamples:\n  linger lab\n  linger lab --all\n  \
    linger lab --ending close,lingering --peer unread --link overtake \
    --response 1000 --trials 1000\n  linger lab scenarios/fastcgi-empty-stdin.toml\n  \
    linger lab --peer late --link wifi-lossy --pcap /tmp\n\n\
    Exit status: 0 if `lingering` and well-behaved peers kept everything (that `close` loses is what\n\
    the lab shows), or if a scenario's expectations are met; 1 if not, also where a response was only\n\
    at risk: all bytes came, and then a reset; 4 if this machine has no namespaces for the links."
)]
pub(crate) struct LabArguments {
    #[command(subcommand)]
    verb: Option<LabVerb>,
    /// Scenario files to run; options for what a scenario contains cannot be given as well.
    #[arg(
        value_name = "FILE.toml",
        value_hint = ValueHint::FilePath,
        conflicts_with_all = ["Cells", "ServerSide", "ClientSide", "Family"]
    )]
    files: Vec<PathBuf>,
    /// The whole grid: the endings against four peers over three links, and an accept queue that overflows.
    #[arg(long, conflicts_with = "files")]
    all: bool,
    /// One connection, step by step: the loss, or what --ending, --peer and --link say.
    #[arg(long, conflicts_with_all = ["files", "all", "trials", "decisions", "concurrency"])]
    one: bool,
    #[command(flatten)]
    grid: Grid,
    /// Try each cell exactly this often [default: until its result is settled, at most 100 times].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    trials: Option<u64>,
    #[command(flatten)]
    chance: Chance,
    #[command(flatten)]
    at_risk: AtRisk,
    #[command(flatten)]
    output: Json,
    /// Also write the report as one HTML page; with --pcap it shows packets of each cell that did not keep everything
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    html: Option<PathBuf>,
    /// Write a capture of each cell's link, pcapng, to this directory.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pcap: Option<PathBuf>,
    /// Write every decision of each cell's link to this directory.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    decisions: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum LabVerb {
    Exec(exec::ExecArguments),
    Story(story::StoryArguments),
}

pub(crate) fn run(arguments: LabArguments) -> ExitCode {
    // Before the first thread: unshare(CLONE_NEWUSER) refuses a process with several (unshare(2)).
    let entered = Isolation::prepare().enter();
    if let Some(verb) = arguments.verb {
        return match (entered, verb) {
            (Ok(()), LabVerb::Exec(arguments)) => exec::run(arguments),
            (Ok(()), LabVerb::Story(arguments)) => story::run(arguments),
            (Err(refused), _) => exit::fail(exit::NOT_POSSIBLE_HERE, refused),
        };
    }
    // Check the output directories before the trials, which take minutes.
    for directory in [&arguments.pcap, &arguments.decisions].into_iter().flatten() {
        if let Err(error) = can_write_to(directory) {
            return exit::file(format_args!("cannot write to {}", directory.display()), &error);
        }
    }
    let page = match LabPage::begin(&arguments) {
        Ok(page) => page,
        Err(code) => return code,
    };
    let seed = arguments.chance.seed();
    if arguments.one {
        return one::run(&arguments, entered, seed, page);
    }
    let (mut tasks, show) = match tasks(&arguments, entered.is_ok(), seed) {
        Ok(tasks) => tasks,
        Err((code, error)) => return exit::fail(code, error),
    };
    name_all(&mut tasks);
    let largest = largest_response(&tasks);
    if let Err(error) = room_for(largest) {
        return exit::io(format_args!("cannot hold a response of {largest} bytes"), &error);
    }
    let shared = entered.is_err();
    if let Err(refused) = entered {
        let asked_for_more = !arguments.grid.cells.link.is_empty() || !arguments.files.is_empty();
        let needs_link = |task: &Task| !matches!(&task.plan, Plan::Cell(plan) if plan.link.loopback);
        if asked_for_more && tasks.iter().any(needs_link) {
            return exit::fail(exit::NOT_POSSIBLE_HERE, refused);
        }
        tasks.retain(|task| !needs_link(task));
        say!("linger: {refused}\nlinger: running the loopback part only, in this machine's own network");
    }
    let stop = match interrupt::stop() {
        Ok(stop) => stop,
        Err(error) => return exit::io("cannot take signals", &error),
    };
    let bar = progress::steps(tasks.len());
    let (mut out, mut printed) = (Stdout::new(), Ok(()));
    let reports = run_all(
        &tasks,
        side_by_side(),
        &stop,
        |task| try_one(task, &arguments, shared, &stop),
        |index, report| {
            bar.inc(1);
            if arguments.output.json && printed.is_ok() {
                printed = bar.suspend(|| print(&mut out, &tasks[index].name, report));
                // Stop the rest once stdout has failed.
                if printed.is_err() {
                    stop.request();
                }
            }
        },
    );
    bar.finish_and_clear();
    let interrupted = stop.requested();
    let at_risk_ok = arguments.at_risk.at_risk_ok;
    let results = Results { tasks, reports, show, seed, again: again(seed), at_risk_ok, interrupted, shared };
    if let Err(stopped) = printed {
        // An unexpected result is final, whatever the other cells would have shown.
        let known = (results.outcome() == Outcome::Unexpected).then_some(exit::LOSS_FOUND);
        return stopped.end(known);
    }
    finish(&mut out, &results, &arguments, page)
}

/// The largest response of all cells, in bytes: a server holds its whole response in memory.
fn largest_response(tasks: &[Task]) -> u64 {
    let responses = tasks.iter().filter_map(|task| match &task.plan {
        Plan::Cell(plan) => Some(plan.response),
        Plan::Backlog(_) | Plan::Network(_) => None,
    });
    responses.max().unwrap_or(0).min(LARGEST_RESPONSE)
}

fn print(out: &mut Stdout, name: &str, report: &TaskReport) -> Result<(), Stopped> {
    match report {
        TaskReport::Cell(report) => out.json(&line(lines::Cell::named(name, report)))?,
        TaskReport::Backlog(report) => out.json(&line(lines::Backlog::from(&**report)))?,
        TaskReport::Network(outcome) => out.json(&line(lines::Network::named(name, outcome)))?,
        TaskReport::Failed(_) => {}
    }
    out.flush()
}

fn can_write_to(directory: &Path) -> io::Result<()> {
    if !fs::metadata(directory)?.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    Ok(rustix::fs::access(directory, Access::WRITE_OK | Access::EXEC_OK)?)
}

fn finish(out: &mut Stdout, results: &Results, arguments: &LabArguments, page: LabPage) -> ExitCode {
    let printed = if arguments.output.json {
        out.json(&line(summary(results)))
    } else {
        // Colours go only to terminals that want them.
        out.text(format_args!("{}", text::render(results)))
    };
    for (task, report) in results.done() {
        if let TaskReport::Failed(error) = report {
            let is_network = matches!(task.plan, Plan::Network(_));
            return exit::io(if is_network { "lab" } else { "the lab could not be built" }, error);
        }
    }
    let status = match results.outcome() {
        Outcome::AsExpected => exit::NOTHING_LOST,
        Outcome::Unexpected => exit::LOSS_FOUND,
        Outcome::Interrupted => exit::COULD_NOT_TELL,
    };
    let printed = printed.and_then(|()| out.flush());
    let written = page.write(results, arguments.pcap.as_deref());
    match printed {
        Ok(()) => files::status(written, status),
        Err(stopped) => stopped.end(Some(status)),
    }
}

fn summary(results: &Results) -> lines::Lab {
    lines::Lab {
        seed: results.seed,
        outcome: results.outcome().name(),
        cells: results.done().count(),
        planned: results.tasks.len(),
        again: results.again.clone(),
        namespaces: !results.shared,
    }
}

/// The cells that were asked for, and how their results are shown.
fn tasks(arguments: &LabArguments, has_links: bool, seed: u64) -> Result<(Vec<Task>, Show), RefusedPlan> {
    if !arguments.files.is_empty() {
        let (tasks, titles) = scenarios(&arguments.files, arguments.trials, arguments.chance.typed(), seed)?;
        return Ok((tasks, Show::Grid { titles }));
    }
    if arguments.all || !arguments.grid.names_no_cells() {
        let tasks = arguments.grid.all(arguments.trials, seed)?;
        return Ok((tasks, Show::Grid { titles: Vec::new() }));
    }
    let link = Link::named(if has_links { "wifi" } else { "loopback" });
    let link = link.map_err(|error| (exit::BAD_USAGE, error))?;
    Ok((arguments.grid.three(&link, arguments.trials, seed)?, Show::Three))
}

fn try_one(task: &Task, arguments: &LabArguments, shared: bool, stop: &Arc<Stop>) -> TaskReport {
    match &task.plan {
        Plan::Cell(plan) => match try_cell(plan, &task.name, arguments, shared, stop) {
            Ok(report) => TaskReport::Cell(Box::new(report)),
            Err(error) => TaskReport::Failed(error),
        },
        Plan::Backlog(plan) => match burst(plan) {
            Ok(report) => TaskReport::Backlog(Box::new(report)),
            Err(error) => TaskReport::Failed(error),
        },
        Plan::Network(plan) => match network::run(plan, &task.name, arguments, stop) {
            Ok(outcome) => TaskReport::Network(Box::new(outcome)),
            Err(error) => TaskReport::Failed(error),
        },
    }
}

fn try_cell(
    plan: &CellPlan,
    name: &str,
    arguments: &LabArguments,
    shared: bool,
    stop: &Stop,
) -> io::Result<CellReport> {
    let capture = capture(plan, name, arguments)?;
    let open = capture.as_ref().map(|(_, open)| open.clone());
    let setting = Setting { capture: open, decisions: arguments.decisions.is_some(), shared };
    let report = linger_lab::run(plan, &setting, stop)?;
    finish_capture(capture)?;
    if let (Some(directory), Some(wire)) = (&arguments.decisions, &report.wire) {
        write_decisions(directory, name, wire)?;
    }
    Ok(report)
}

/// Writes the decisions of a link.
fn write_decisions(directory: &Path, name: &str, wire: &WireReport) -> io::Result<()> {
    let path = directory.join(format!("{name}.decisions"));
    let mut file = NewFile::create(&path, Content::Text, []).map_err(io::Error::other)?;
    file.write_all(text::decisions(&wire.log).as_bytes()).map_err(|error| at(&path, error))?;
    file.finish().map_err(io::Error::other)
}

fn capture_path(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}.pcapng"))
}

/// Begins the capture of a cell if one was asked for. Loopback has no wire to capture.
fn capture(plan: &CellPlan, name: &str, arguments: &LabArguments) -> io::Result<Option<Growing>> {
    let directory = arguments.pcap.as_ref().filter(|_| !plan.link.loopback);
    let create = |directory: &PathBuf| begin(&capture_path(directory, name)).map_err(io::Error::other);
    directory.map(create).transpose()
}

fn at(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// The command that was typed, with the seed.
pub(crate) fn again(seed: u64) -> String {
    with_seed(&std::env::args().skip(1).collect::<Vec<_>>(), seed)
}

/// What stands behind `--` is another program's.
fn with_seed(typed: &[String], seed: u64) -> String {
    let own = typed.iter().position(|word| word == "--").unwrap_or(typed.len());
    let mut words = vec!["linger".to_owned()];
    words.extend(typed.iter().map(|word| quoted(word)));
    if !typed[..own].iter().any(|word| word.starts_with("--seed")) {
        words.insert(own + 1, format!("--seed {seed}"));
    }
    words.join(" ")
}

pub(crate) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=,./:@+%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::with_seed;

    #[test]
    fn the_seed_stands_before_the_command() {
        let of = |line: &str| with_seed(&line.split(' ').map(str::to_owned).collect::<Vec<_>>(), 7);
        assert_eq!(of("lab --trials 3"), "linger lab --trials 3 --seed 7");
        assert_eq!(of("lab --seed=4"), "linger lab --seed=4");
        assert_eq!(of("hunt -- nginx -c x"), "linger hunt --seed 7 -- nginx -c x");
        assert_eq!(of("hunt -- app --seed 3"), "linger hunt --seed 7 -- app --seed 3");
        assert_eq!(of("hunt --seed 4 -- app"), "linger hunt --seed 4 -- app");
    }

    /// With a scenario each option is either used or refused. The test finds options that are added later,
    /// too.
    #[test]
    fn a_scenario_leaves_to_options_what_it_does_not_say() {
        const OBEYED: [&str; 8] =
            ["trials", "seed", "at_risk_ok", "json", "html", "pcap", "decisions", "verbose"];
        let mut program = crate::args::Arguments::command();
        program.build();
        let lab = program.find_subcommand("lab").unwrap().clone();
        let mut tried = 0;
        for arg in lab.get_arguments().filter(|arg| arg.get_id() != "help") {
            let Some(long) = arg.get_long() else { continue };
            let mut words = vec!["linger".to_owned(), "lab".into(), "x.toml".into(), format!("--{long}")];
            if arg.get_action().takes_values() {
                let values = arg.get_possible_values();
                words.push(values.first().map_or("1", |value| value.get_name()).to_owned());
            }
            let parsed = program.try_get_matches_from_mut(&words);
            assert_eq!(
                parsed.is_ok(),
                OBEYED.contains(&arg.get_id().as_str()),
                "{words:?}: {:?}",
                parsed.err()
            );
            tried += 1;
        }
        assert!(tried > OBEYED.len() + 10, "{tried}");
    }
}
