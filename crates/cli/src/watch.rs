//! `linger watch`: every reset of this host, live, as a view, as lines, as JSON, or for Prometheus.

use std::io::{self, IsTerminal};
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use clap::builder::PossibleValuesParser;
use linger_watch::export::Metrics;
use linger_watch::view::{View, ViewKey, describe, place};
use linger_watch::{Filter, FurtherResets, LiveReset, Notice, ProcessRole, Watcher};
use linger_why::Cause;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyModifiers};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::capabilities;

use crate::options::{Json, MetricsAt, RunFor};
use crate::output::{Stdout, Stopped, ViewTerminal, queue_stderr, say};
use crate::tools::tools;
use crate::typed::port;
use crate::{exit, interrupt, lines};
use journal::SystemJournal;
use outputs::OtherOutputs;
use record::RecordTrouble;

mod check;
#[cfg(feature = "otlp")]
mod events;
mod journal;
#[cfg_attr(not(feature = "otlp"), path = "watch/no_otlp.rs")]
mod otlp;
mod outputs;
mod record;
mod rights;

/// Longest wait for events: two wake-ups a second on an idle host.
const PATIENCE: Duration = Duration::from_millis(500);
/// The longest wait before the interactive view is drawn again.
const FRAME: Duration = Duration::from_millis(250);
/// Wait at the end for byte counts that are still outstanding.
const LAST: Duration = Duration::from_millis(200);

/// Help of `--metrics` for this verb.
const METRICS: &str = "Serve the counts for Prometheus at http://HOST:PORT/metrics, and /healthz, with no other output unless asked for";

/// Shows every reset this host sends or receives, with its cause and the process that closed.
#[derive(Args, Debug)]
#[command(mut_arg("metrics", |arg| arg.help(METRICS)))]
#[command(after_help = "Examples:\n  sudo linger watch\n  sudo linger watch --port 8080 --for 60 --json\n  \
    sudo linger watch --prometheus 127.0.0.1:9464\n  sudo linger watch --record /var/lib/linger/resets --keep 1GiB\n  \
    sudo linger watch --otlp http://127.0.0.1:4318\n\n\
    It reads the kernel's tracepoints and needs root or CAP_PERFMON; to record packets, CAP_NET_RAW as well.\n\n\
    Exit status: 0 watched to the end, 1 a reset that --fail-on names was seen, 3 an address is taken, 4 this machine or user \
    cannot watch.")]
pub(crate) struct WatchArguments {
    #[command(flatten)]
    output: Json,
    /// Plain lines instead of the view, also on a terminal.
    #[arg(long, conflicts_with = "json")]
    plain: bool,
    #[command(flatten)]
    counts: MetricsAt,
    /// Write each event to the systemd journal with fields (`journalctl LINGER_CAUSE=aborted`), and to no other output unless asked for.
    #[arg(long)]
    journal: bool,
    #[command(flatten)]
    otlp: otlp::OtlpTo,
    #[command(flatten)]
    end: RunFor,
    /// Only resets that concern these ports, here or there.
    #[arg(long, value_delimiter = ',', value_name = "PORT,...", value_parser = port)]
    port: Vec<u16>,
    #[command(flatten)]
    record: record::RecordTo,
    /// Only resets of processes with these names.
    #[arg(long, value_delimiter = ',', value_name = "NAME,...")]
    process: Vec<String>,
    /// Check each right, limit and setting that watching needs here; say what is missing and the line that mends it.
    #[arg(long, conflicts_with_all = ["plain", "metrics", "journal", "time", "port", "process", "fail_on", "record"])]
    check: bool,
    /// End with status 1 if a reset with this cause was seen and shown; `any` stands for all. Can be repeated.
    #[arg(long, value_name = "CAUSE", value_parser = PossibleValuesParser::new(fail_on()))]
    fail_on: Vec<String>,
}

impl WatchArguments {
    /// Whether notices go elsewhere than to the output, unless that is asked for as well.
    fn is_quiet(&self) -> bool {
        self.counts.metrics.is_some() || self.journal || self.otlp.is_asked_for()
    }
}

/// What `--fail-on` takes.
fn fail_on() -> impl Iterator<Item = &'static str> {
    std::iter::once(ANY).chain(Cause::ALL.iter().map(|cause| cause.name()))
}

/// Every cause.
const ANY: &str = "any";

pub(crate) fn run(arguments: &WatchArguments) -> ExitCode {
    raise_descriptors();
    if arguments.check {
        return check::run(arguments.output.json, &arguments.otlp);
    }
    // Both are first: what they keep open is nothing of what follows.
    let otlp = match arguments.otlp.start() {
        Ok(otlp) => otlp,
        Err(status) => return status,
    };
    let opener = rights::opener();
    let mut filter = Filter::default();
    filter.ports = arguments.port.clone();
    filter.own = otlp.as_ref().map(otlp::Otlp::own);
    filter.processes = arguments.process.iter().map(|name| name.as_str().into()).collect();
    // Before the events, so that there are packets of every reset that is seen.
    let tap = arguments.record.tap(&arguments.port);
    let mut watcher = match Watcher::open(filter) {
        Ok(watcher) => watcher,
        Err(error) => {
            return exit::fail(exit::NOT_POSSIBLE_HERE, format_args!("{error}{}", check::remedy(&error)));
        }
    };
    for blind in watcher.blind() {
        say!("linger: {}", blind.meaning());
    }
    tell_hidden();
    let tap = match tap {
        Ok(tap) => tap,
        Err(error) => return arguments.record.refused(&error),
    };
    let metrics = Metrics::default();
    let listener =
        arguments.counts.metrics.as_ref().map(|address| address.resolve().and_then(TcpListener::bind));
    let journal = arguments.journal.then(SystemJournal::open).transpose();
    // A port below 1024 is bound, packets can be read, and no thread is started yet that would keep what this one gives up.
    let is_delegated = rights::give_up(&mut watcher, opener);
    match tap.map(|tap| arguments.record.begin(tap)) {
        Some(Ok(recorder)) => watcher.record(recorder),
        Some(Err(status)) => return status,
        None => {}
    }
    if is_delegated {
        rights::close(arguments.record.directory());
    }
    if let (Some(address), Some(listener)) = (&arguments.counts.metrics, listener) {
        match listener.and_then(|listener| metrics.serve(listener)) {
            Ok(bound) => say!("linger: serving http://{bound}/metrics"),
            Err(error) => return exit::listening(address, &error),
        }
    }
    let journal = match journal {
        Ok(journal) => journal,
        Err(error) => return journal::refused(&error),
    };
    let viewed =
        io::stdout().is_terminal() && !arguments.is_quiet() && !arguments.output.json && !arguments.plain;
    let end = arguments.end.time.map(|time| Instant::now() + time);
    let stop = Arc::new(AtomicBool::new(false));
    let asked = stop.clone();
    if let Err(error) = interrupt::on_first(move || asked.store(true, Ordering::Relaxed)) {
        return exit::io("cannot take signals", &error);
    }
    let mut failures = Failures { causes: &arguments.fail_on, seen: 0 };
    let mut told = OtherOutputs::new(&metrics, arguments.counts.metrics.is_some(), journal, otlp);
    let result = if viewed {
        view(&mut watcher, &mut failures, &stop, end).map_err(Ended::Kernel)
    } else {
        lines(&mut watcher, &mut told, arguments, &mut failures, &stop, end)
    };
    told.finish();
    if result.is_err() {
        // What was seen counts, although nobody could be told of it.
        let _ = watcher.finish(Duration::ZERO);
    }
    tell_counts(&watcher);
    record::summary(&watcher);
    status(result, failures.seen > 0)
}

/// Says what is not seen for want of capabilities.
fn tell_hidden() {
    if let Ok(sets) = capabilities(None) {
        check::hidden(sets.effective).for_each(|hidden| say!("linger: {hidden}"));
    }
}

/// Says what was seen, and what the kernel counted.
fn tell_counts(watcher: &Watcher) {
    let counted = watcher.counted();
    let own = match counted.own_resets {
        0 => String::new(),
        own => format!(", {own} of them of connections to the collector, which are not told"),
    };
    say!(
        "linger: {} resets sent and {} received were seen{own}; the kernel counted {}",
        counted.seen_sent,
        counted.seen_received,
        counted.describe()
    );
}

/// How the program ends. `failed`: a reset was seen that is not to be.
fn status(result: Result<(), Ended>, failed: bool) -> ExitCode {
    let status = if failed { exit::LOSS_FOUND } else { exit::NOTHING_LOST };
    match result {
        Ok(()) => ExitCode::from(status),
        Err(Ended::Output(stopped)) => stopped.end(failed.then_some(status)),
        Err(Ended::Kernel(error)) => exit::io("cannot go on watching", &error),
    }
}

/// Raises the number of open files to the most that this process may have: each processor takes several, each container two.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    // Where that is refused the limit stays as it was, and `perf_event_open` says if it is too low.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// Counts the resets with a cause that `--fail-on` names.
struct Failures<'a> {
    causes: &'a [String],
    seen: u64,
}

impl Failures<'_> {
    fn count(&mut self, notices: &[Notice]) {
        let named = |cause: Cause| self.causes.iter().any(|name| name == ANY || name == cause.name());
        let failing = |notice: &&Notice| matches!(notice, Notice::Reset(reset) if named(reset.cause));
        self.seen += notices.iter().filter(failing).count() as u64;
    }
}

/// Why watching ended early.
enum Ended {
    /// stdout failed.
    Output(Stopped),
    Kernel(io::Error),
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        Self::Kernel(error)
    }
}

fn lines(
    watcher: &mut Watcher,
    told: &mut OtherOutputs<'_>,
    arguments: &WatchArguments,
    failures: &mut Failures<'_>,
    stop: &AtomicBool,
    end: Option<Instant>,
) -> Result<(), Ended> {
    let quiet = arguments.is_quiet() && !arguments.output.json && !arguments.plain;
    queue_stderr();
    let mut out = Stdout::queued(if arguments.output.json { lines::left_out } else { left_out });
    let (mut lost, mut last, mut blind, mut unread) = (0, false, watcher.blind().len(), false);
    let mut trouble = RecordTrouble::default();
    while !last {
        last = stop.load(Ordering::Relaxed) || end.is_some_and(|end| Instant::now() >= end);
        let notices = if last {
            watcher.finish(LAST)?
        } else {
            let left = end.map_or(PATIENCE, |end| end.saturating_duration_since(Instant::now()));
            watcher.next(left.min(PATIENCE))?
        };
        told.tell(&notices, watcher, last);
        failures.count(&notices);
        for new in watcher.blind().iter().skip(blind) {
            say!("linger: {}", new.meaning());
        }
        blind = watcher.blind().len();
        if watcher.lost() > lost {
            lost = watcher.lost();
            say!("linger: {lost} kernel events were lost so far: this host resets faster than they are read");
        }
        trouble.tell(watcher);
        if !quiet {
            write(&mut out, &notices, arguments.output.json).map_err(Ended::Output)?;
            if out.left_out() > 0 {
                told.left_out(out.left_out());
                if !std::mem::replace(&mut unread, true) {
                    say!("linger: nobody reads standard output: lines are left out, and counted");
                }
            }
        }
    }
    if let Some(recorder) = watcher.recorder().filter(|_| arguments.output.json) {
        lines::recording(recorder.counts(), &mut out).and_then(|()| out.flush()).map_err(Ended::Output)?;
    }
    out.finish(|| stop.load(Ordering::Relaxed)).map_err(Ended::Output)
}

/// The line that stands where so many were left out.
fn left_out(lines: u64) -> String {
    format!("{lines} lines were left out here, as nobody read them\n")
}

fn write(out: &mut Stdout, notices: &[Notice], json: bool) -> Result<(), Stopped> {
    for notice in notices {
        if json {
            lines::notice(notice, out)?;
        } else if let Some(line) = line(notice) {
            out.text(format_args!("{line}\n"))?;
        }
    }
    out.flush()
}

fn line(notice: &Notice) -> Option<String> {
    match notice {
        Notice::Reset(reset) => Some(reset_line(reset)),
        Notice::Further(further) => Some(further_line(further)),
        Notice::Warning(warning) => Some(format!("warning: {}", describe(warning))),
        // Printed only if resets were missed; the totals are printed at the end.
        Notice::Counters(counted) if counted.missed > 0 => {
            Some(format!("the kernel counted {}", counted.describe()))
        }
        _ => None,
    }
}

fn reset_line(reset: &LiveReset) -> String {
    let remote = reset.remote.map_or("?".to_owned(), |remote| remote.to_string());
    let words = reset.role.map_or("by", ProcessRole::words);
    let process = reset.process.as_ref();
    let process = process.map_or(String::new(), |process| format!(" {words} {}", process.plain()));
    let place = place(reset).map_or(String::new(), |place| format!(" in {place}"));
    let connections = match reset.connections {
        0..=1 => String::new(),
        several => format!(", {several} connections"),
    };
    let further = match reset.further_resets {
        0 => String::new(),
        more => format!(", {more} further resets for packets already under way"),
    };
    let candidates: Vec<_> = reset.candidates.iter().map(|cause| cause.name()).collect();
    let others =
        if candidates.len() > 1 { format!("; one of {}", candidates.join(", ")) } else { String::new() };
    let recorded = reset.recorded.as_ref().map_or(String::new(), record::words);
    format!(
        "{:.6} {} {} -> {remote} {} ({}){process}{place}{connections}, {}{further}{others}{recorded}",
        reset.time_seconds,
        reset.direction.name(),
        reset.local,
        reset.cause,
        reset.confidence,
        reset.bytes.describe()
    )
}

fn further_line(further: &FurtherResets) -> String {
    let remote = further.remote.map_or("?".to_owned(), |remote| remote.to_string());
    format!(
        "{} further resets after {} {} -> {remote}, for packets that were already under way",
        further.resets, further.cause, further.local
    )
}

fn view(
    watcher: &mut Watcher,
    failures: &mut Failures<'_>,
    stop: &AtomicBool,
    end: Option<Instant>,
) -> io::Result<()> {
    // What is said at the end goes to the same terminal, mostly.
    queue_stderr();
    let keyboard = std::fs::File::open("/dev/tty")?;
    let mut terminal = ViewTerminal::open()?;
    let mut view = View::new(tools());
    let mut stale = true;
    let result = loop {
        if stop.load(Ordering::Relaxed) || end.is_some_and(|end| Instant::now() >= end) {
            break Ok(());
        }
        if stale {
            match terminal.draw(|frame| view.draw(frame)) {
                Ok(is_drawn) => stale = !is_drawn,
                Err(error) => break Err(error),
            }
        }
        stale |= match watcher.next_or(FRAME, Some(keyboard.as_fd())) {
            Ok(notices) => {
                failures.count(&notices);
                view.record(&notices, watcher)
            }
            Err(error) => break Err(error),
        };
        match keys(&mut view) {
            Ok(Keys::None) => {}
            Ok(Keys::Some) => stale = true,
            Ok(Keys::Quit) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    terminal.close();
    // What was read in the last moments counts, and is too late to be drawn.
    failures.count(&watcher.finish(LAST)?);
    result
}

/// Input from the terminal.
enum Keys {
    None,
    /// A key or a resized window: redraw.
    Some,
    Quit,
}

fn keys(view: &mut View) -> io::Result<Keys> {
    let mut keys = Keys::None;
    while event::poll(Duration::ZERO)? {
        keys = Keys::Some;
        let Event::Key(key) = event::read()? else { continue };
        match key.code {
            KeyCode::Char('q') => return Ok(Keys::Quit),
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Ok(Keys::Quit),
            KeyCode::Up | KeyCode::Char('k') => view.key(ViewKey::Up),
            KeyCode::Down | KeyCode::Char('j') => view.key(ViewKey::Down),
            KeyCode::Enter => view.key(ViewKey::Open),
            KeyCode::Esc => view.key(ViewKey::Back),
            _ => {}
        }
    }
    Ok(keys)
}
