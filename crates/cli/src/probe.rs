//! `linger probe`: does this server lose its responses?

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use clap::Args;
use linger_lab::Bytes;
use linger_probe::{Answer, Check, Config, Error, Finding, Report, Target};
use serde::Serialize;

use crate::{exit, interrupt, progress};

/// Asks a server how it closes: does it lose responses, does it stall, does it bound its peers?
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  linger probe http://127.0.0.1:8080/large\n  \
    linger probe fcgi://127.0.0.1:9000/srv/www/index.php --only unread-body,trailing-bytes\n  \
    linger probe http://unix:/run/app.sock:/path --hostile\n\n\
    A path with a response of more than 64 KB shows most.\n\
    `loses`: bytes are missing. `at risk`: all arrived, and then the server reset the connection.\n\
    Exit status: 0 nothing lost, 1 a fault was found, 3 could not tell.")]
pub(crate) struct Arguments {
    /// http://, https://, fcgi://HOST:PORT/SCRIPT, tcp://HOST:PORT; in place of the host, unix:/PATH:
    target: Target,
    /// Ask only these
    #[arg(long, value_name = "CHECK", value_delimiter = ',')]
    only: Vec<Check>,
    /// Also ask what a hostile client would: drip, endless-upload, backlog
    #[arg(long)]
    hostile: bool,
    /// Allow that against an address that is neither loopback nor private
    #[arg(long)]
    i_own_this_server: bool,
    /// The length of the response's body, where the protocol does not tell
    #[arg(long, value_name = "BYTES")]
    expect: Option<Bytes>,
    /// The request to send to a tcp:// target
    #[arg(long, value_name = "FILE")]
    payload: Option<PathBuf>,
    /// A process of the server: shows what the kernel counted in its network namespace, and saw of its resets
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,
    /// How often each question is asked; the worst answer counts
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=100))]
    repeat: u32,
    /// How long a connection is held at most, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 35, value_parser = clap::value_parser!(u64).range(1..=600))]
    hold: u64,
    /// End with status 0 also where responses were at risk, as long as nothing worse was found
    #[arg(long)]
    at_risk_ok: bool,
    /// One JSON object for each check, and one for the whole
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: Arguments) -> ExitCode {
    let mut config = Config::default();
    config.only = arguments.only;
    config.hostile = arguments.hostile || config.only.iter().any(|check| check.is_hostile());
    if config.hostile && !arguments.hostile {
        return exit::fail(exit::BAD_USAGE, "--only names a hostile check: say --hostile too");
    }
    config.own_server = arguments.i_own_this_server;
    config.expect = arguments.expect.map(|Bytes(bytes)| bytes);
    config.pid = arguments.pid;
    config.repeat = arguments.repeat;
    config.hold = Duration::from_secs(arguments.hold);
    if let Some(path) = &arguments.payload {
        match std::fs::read(path) {
            Ok(payload) if payload.is_empty() => {
                return exit::fail(exit::BAD_USAGE, format_args!("--payload: {} is empty", path.display()));
            }
            Ok(payload) => config.payload = payload,
            Err(error) => return exit::file(format_args!("cannot read {}", path.display()), &error),
        }
    }
    let (json, at_risk_ok) = (arguments.json, arguments.at_risk_ok);
    let bar = progress::spinner();
    bar.set_message(format!("asking {}", arguments.target));
    let fault = Arc::new(AtomicBool::new(false));
    let (so_far, line) = (fault.clone(), bar.clone());
    // A question may wait for half a minute; its answers so far are out.
    let ended = interrupt::on_first(move || {
        line.finish_and_clear();
        eprintln!("linger: interrupted; the other questions were not asked");
        let found = so_far.load(Ordering::Relaxed);
        std::process::exit(i32::from(if found { exit::LOSS_FOUND } else { exit::COULD_NOT_TELL }));
    });
    if let Err(error) = ended {
        return exit::io("cannot take signals", &error);
    }
    let mut headed = json;
    let report = linger_probe::probe(&arguments.target, &config, |finding| {
        fault.fetch_or(status(finding.answer, at_risk_ok) == exit::LOSS_FOUND, Ordering::Relaxed);
        bar.suspend(|| {
            if !headed {
                print_head();
                headed = true;
            }
            if json { println!("{}", serde_json::json!(Line::Finding(finding))) } else { print(finding) }
        });
    });
    bar.finish_and_clear();
    let report = match report {
        Ok(report) => report,
        Err(error @ (Error::NoPayload | Error::NotYours(_))) => return exit::fail(exit::BAD_USAGE, error),
        Err(error) => return exit::fail(exit::COULD_NOT_TELL, error),
    };
    let overall = report.overall();
    if let Some(why) = &report.unwatched {
        eprintln!("linger: causes and processes are not shown: {why}");
    }
    if json {
        println!("{}", serde_json::json!(Line::Probe(Whole::of(&report))));
    } else {
        let server = report.server.as_deref().unwrap_or("this server");
        anstream::println!("\n{server}: {}{overall}{:#}", style(overall), style(overall));
    }
    // One that is at risk may be excused; it must not hide what is not.
    let faults = report.findings.iter().any(|finding| status(finding.answer, at_risk_ok) == exit::LOSS_FOUND);
    ExitCode::from(if faults { exit::LOSS_FOUND } else { status(overall, at_risk_ok) })
}

fn status(answer: Answer, at_risk_ok: bool) -> u8 {
    match answer {
        Answer::AtRisk if at_risk_ok => exit::NOTHING_LOST,
        Answer::Keeps => exit::NOTHING_LOST,
        Answer::CannotTell => exit::COULD_NOT_TELL,
        _ => exit::LOSS_FOUND,
    }
}

fn style(answer: Answer) -> Style {
    let colour = match answer {
        Answer::Keeps => AnsiColor::Green,
        Answer::CannotTell => AnsiColor::BrightBlack,
        Answer::Stalls | Answer::Unbounded | Answer::AtRisk => AnsiColor::Yellow,
        _ => AnsiColor::Red,
    };
    colour.on_default()
}

fn print_head() {
    anstream::println!(
        "{:<19}{:<16}{:>10} {:>10}  {:<18}{:>7}",
        "check",
        "answer",
        "got",
        "expected",
        "ended",
        "seconds"
    );
}

fn print(finding: &Finding) {
    let style = style(finding.answer);
    let expected = finding.expected.map_or("-".to_owned(), |bytes| bytes.to_string());
    let ended = finding.ended.map_or("-".to_owned(), |ended| ended.to_string());
    anstream::println!(
        "{:<19}{style}{:<16}{style:#}{:>10} {expected:>10}  {ended:<18}{:>7.3}",
        finding.check.name(),
        finding.answer.name(),
        finding.got,
        finding.seconds
    );
    let times = match finding.trials {
        0 | 1 => String::new(),
        trials => format!(" ({} of {trials} trials)", finding.with_this_answer),
    };
    let options = &textwrap::Options::new(100).initial_indent("    ").subsequent_indent("    ");
    anstream::println!("{}", textwrap::fill(&format!("{}{times}", finding.sentence), options));
    if !finding.counters.is_empty() {
        let counted: Vec<String> =
            finding.counters.iter().map(|(name, value)| format!("{name} +{value}")).collect();
        anstream::println!("    the kernel counted: {}", counted.join(", "));
    }
    for seen in &finding.resets {
        let seen = format!("the kernel saw in all trials: {seen}");
        let options = options.clone().subsequent_indent("      ");
        anstream::println!("{}", textwrap::fill(&seen, options));
    }
}

/// One line for machines.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Line<'a> {
    /// The answer to one question.
    Finding(&'a Finding),
    /// All of them in one.
    Probe(Whole<'a>),
}

#[derive(Serialize)]
struct Whole<'a> {
    target: &'a str,
    server: Option<&'a str>,
    response_bytes: u64,
    framing: &'a str,
    unwatched: Option<&'a str>,
    answer: Answer,
}

impl<'a> Whole<'a> {
    fn of(report: &'a Report) -> Self {
        Self {
            target: &report.target,
            server: report.server.as_deref(),
            response_bytes: report.response_bytes,
            framing: report.framing,
            unwatched: report.unwatched.as_deref(),
            answer: report.overall(),
        }
    }
}
