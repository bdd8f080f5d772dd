//! `linger why`: captures in; the cause of every reset out, as text, page or JSON.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, ValueHint};
use linger_untrusted::{Untrusted, message};
use linger_why::{
    AnalyzerLimits, CaptureSet, Cause, ExamineEvent, ExamineOptions, Examined, Finding, FindingFilter, Group,
    Groups, HostRange, ReadStop, compare_series, html, text,
};

use crate::lines::{self, line};
use crate::options::Json;
use crate::output::{Content, NewFile, Stdout, Stopped, say};
use crate::tools::tools;
use crate::{exit, interrupt};

mod recorded;

use recorded::RecordedSection;

/// Findings that wait for the comparison, about 4 KB each. Those after them are reported as their capture alone shows them.
const HELD: usize = 2_048;
/// Up to this many captures are compared with each other whatever the times in them: clocks may be wrong.
const FEW: usize = 16;
/// Of more captures, only those are compared whose times overlap, give or take this many nanoseconds.
const CLOCK_ERROR: u64 = 600_000_000_000;

/// Names the cause of every reset in a capture, with evidence, or says that it cannot be known.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  linger why capture.pcap\n  tcpdump -i eth0 -w - tcp | linger why -\n  \
    linger why client.pcap server.pcapng.zst --html report.html\n  \
    linger why /var/captures --host 10.0.0.5 --since '2026-11-26 10:00:00'\n  \
    linger why --reset 3-17 /var/lib/linger/resets\n\n\
    Several captures of the same connections are compared: a reset that its alleged sender never\n\
    sent is proven forged. The files of a rotated capture are read as one.\n\n\
    Exit status: 0 nothing harmful, 1 harmful resets or failures, 2 bad usage, 3 a capture could not\n\
    be read, or not to its end (1 if something harmful was found all the same).")]
pub(crate) struct WhyArguments {
    /// Captures, pcap or pcapng, plain or compressed (gzip, zstd, xz, bzip2, lz4); folders of them; patterns; `-` is standard input.
    #[arg(value_name = "FILE", required_unless_present = "causes", value_hint = ValueHint::AnyPath)]
    files: Vec<PathBuf>,
    #[command(flatten)]
    output: Json,
    /// Write the report as one self-contained page as well.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    html: Option<PathBuf>,
    /// Look only at packets from this time on: `2026-11-26 10:00:00` or RFC 3339, in UTC, or seconds since 1970.
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<u64>,
    /// Look only at packets up to this time.
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<u64>,
    /// Look only at connections of this address or network (`10.0.0.0/8`); may be given several times.
    #[arg(long, value_name = "ADDRESS")]
    host: Vec<HostRange>,
    /// Look only at connections with this port; may be given several times.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Vec<u16>,
    /// Tell only the findings for which this holds, such as `cause cut-short and not client host 10.0.0.0/8`; all are judged as
    /// without it.
    #[arg(long, value_name = "EXPRESSION")]
    filter: Option<FindingFilter>,
    /// Tell one reset that `linger watch --record` has recorded, by its id; FILE is the directory of the records.
    #[arg(long, value_name = "ID", conflicts_with_all = ["since", "until", "host", "port", "filter"])]
    reset: Option<String>,
    /// Leave out connections that failed without a reset.
    #[arg(long)]
    resets_only: bool,
    /// List the causes with their meaning and remedy.
    #[arg(long, conflicts_with_all = ["files", "html", "flows", "since", "until", "host", "port", "filter", "reset", "resets_only"])]
    causes: bool,
    /// Connections remembered at once; each takes about 600 bytes.
    #[arg(long, value_name = "N", default_value_t = AnalyzerLimits::default().flows)]
    flows: usize,
}

pub(crate) fn run(arguments: &WhyArguments) -> ExitCode {
    let mut out = Stdout::new();
    if arguments.causes {
        return match causes(&mut out, arguments.output.json) {
            Ok(()) => ExitCode::from(exit::NOTHING_LOST),
            Err(stopped) => stopped.end(None),
        };
    }
    if let Some(wrong) = arguments.contradiction() {
        return exit::fail(exit::BAD_USAGE, wrong);
    }
    let recorded =
        arguments.reset.as_deref().map(|id| RecordedSection::read(id, &arguments.files)).transpose();
    let recorded = match recorded {
        Ok(recorded) => recorded,
        Err(status) => return status,
    };
    let set = CaptureSet::of(if recorded.is_some() { &[] } else { &arguments.files });
    // Check the output path before reading, which may take an hour.
    let page = arguments
        .html
        .as_deref()
        .map(|path| {
            let inputs = set.paths().chain(set.unreadable.iter().map(|(path, _)| &**path));
            NewFile::create(path, Content::Text, inputs)
        })
        .transpose();
    let page = match page {
        Ok(page) => page,
        Err(refused) => return refused.end(),
    };
    let stop = ReadStop::default();
    let asked = stop.clone();
    let signals = interrupt::on_first(move || {
        if !asked.request() {
            say!("linger: ended before a capture began");
            std::process::exit(i32::from(exit::COULD_NOT_TELL));
        }
    });
    if let Err(error) = signals {
        return exit::io("cannot take signals", &error);
    }
    let mut report = WhyReport::new(arguments, out);
    let (files, unreadable) = match &recorded {
        Some(recorded) => {
            report.stopped = recorded.write(&mut report.out, report.json).err();
            recorded.examine(arguments.options().limits, |finding| report.take(finding))
        }
        None => read(&set, &arguments.options(), &stop, &mut report),
    };
    let WhyReport { mut out, mut groups, harmful, stopped, left_out, .. } = report;
    files.iter().for_each(|file| groups.note_drops(file));
    let groups = groups.sorted();
    let status = match (harmful, unreadable) {
        (true, _) => exit::LOSS_FOUND,
        (false, true) => exit::COULD_NOT_TELL,
        (false, false) => exit::NOTHING_LOST,
    };
    // If stdout failed, reading stopped early: only a harmful reset is certain.
    if let Some(stopped) = stopped {
        return stopped.end(harmful.then_some(exit::LOSS_FOUND));
    }
    // If nothing was read, keep the old page.
    if let (Some(page), false) = (page, files.is_empty())
        && let Err(refused) = write_page(page, &files, &groups, left_out)
    {
        return refused.end();
    }
    match write(&mut out, arguments.output.json, &files, &groups, left_out) {
        Ok(()) => ExitCode::from(status),
        Err(stopped) => stopped.end(Some(status)),
    }
}

/// The findings so far.
struct WhyReport {
    json: bool,
    resets_only: bool,
    filter: FindingFilter,
    /// Findings that are not told.
    left_out: u64,
    out: Stdout,
    groups: Groups,
    harmful: bool,
    /// Why stdout failed; reading stops then.
    stopped: Option<Stopped>,
}

impl WhyReport {
    fn new(arguments: &WhyArguments, out: Stdout) -> Self {
        Self {
            json: arguments.output.json,
            resets_only: arguments.resets_only,
            filter: arguments.filter.clone().unwrap_or_default(),
            left_out: 0,
            out,
            groups: Groups::default(),
            harmful: false,
            stopped: None,
        }
    }

    fn take(&mut self, finding: Finding) {
        if self.resets_only && !finding.class.is_reset() || !self.filter.has(&finding) {
            self.left_out += 1;
            return;
        }
        self.harmful |= !finding.harmless;
        tracing::debug!(
            file = finding.file,
            frame = finding.frame,
            cause = finding.cause.name(),
            confidence = finding.confidence.name(),
            harmless = finding.harmless,
            "judged"
        );
        if self.json && self.stopped.is_none() {
            let printed = self.out.json(&line(lines::Reset::from(&finding)));
            self.stopped = printed.err();
        }
        self.groups.add(finding);
    }
}

/// Reads a point in time. Returns nanoseconds since 1970-01-01 00:00 UTC.
fn time(text: &str) -> Result<u64, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.0..1e10).contains(seconds));
    let nanoseconds = match seconds {
        Some(seconds) => Some((seconds * 1e6) as u64 * 1_000),
        None => {
            let midnight = format!("{text} 00:00:00");
            [text, &midnight]
                .into_iter()
                .find_map(|text| humantime::parse_rfc3339_weak(text).ok())
                .and_then(|time: SystemTime| time.duration_since(UNIX_EPOCH).ok())
                .and_then(|since| u64::try_from(since.as_nanos()).ok())
        }
    };
    nanoseconds
        .ok_or_else(|| "give a time such as '2026-11-26 10:00:00' (UTC), or seconds since 1970".to_owned())
}

impl WhyArguments {
    /// What is wrong with the arguments.
    fn contradiction(&self) -> Option<&'static str> {
        if let (Some(since), Some(until)) = (self.since, self.until)
            && since > until
        {
            return Some("--since is later than --until: no packet can be in between");
        }
        let to_stdout = self.html.as_deref() == Some(Path::new("-"));
        to_stdout
            .then_some("--html needs a file: the report is on standard output (./- is a file of the name -)")
    }

    fn options(&self) -> ExamineOptions {
        let mut options = ExamineOptions::default();
        options.limits.flows = self.flows;
        options.selection.since = self.since;
        options.selection.until = self.until;
        options.selection.hosts.clone_from(&self.host);
        options.selection.ports.clone_from(&self.port);
        options
    }
}

/// Reads all captures. Returns what was read, and whether anything was unreadable.
fn read(
    set: &CaptureSet,
    options: &ExamineOptions,
    stop: &ReadStop,
    report: &mut WhyReport,
) -> (Vec<Examined>, bool) {
    let several = set.series.len() > 1 || set.series.iter().any(|files| files.len() > 1);
    let live = !several && set.paths().any(|path| path == Path::new("-"));
    let (mut files, mut findings) = (Vec::<Examined>::new(), Vec::<Finding>::new());
    let (mut unreadable, mut not_compared) = (!set.unreadable.is_empty(), 0u64);
    for (path, error) in &set.unreadable {
        say!("linger: {}: {error}", Untrusted::from(&**path).terminal());
    }
    linger_why::examine_set(set, options, stop, |event| match event {
        // The interfaces of one capture are vantage points to compare, as several captures are.
        ExamineEvent::Finding(finding) if !live && findings.len() < HELD => findings.push(*finding),
        ExamineEvent::Finding(finding) => {
            not_compared += 1;
            report.take(*finding);
            if report.stopped.is_some() {
                stop.request();
            }
        }
        ExamineEvent::Examined(examined) => {
            unreadable |= examined.stopped.is_some();
            if let Some(why) = text::mostly_unread(&examined) {
                unreadable = true;
                say!("linger: {}: {why}", Untrusted::from(&*examined.file).terminal());
            }
            tell(&examined);
            files.push(*examined);
        }
        other => {
            unreadable = true;
            if report.stopped.is_none() {
                complain(&other);
            }
        }
    });
    let compared = to_compare(&files);
    tracing::info!(findings = findings.len() as u64 + not_compared, captures = compared.len(), "all read");
    if !stop.requested()
        && !findings.is_empty()
        && (compared.len() > 1 || findings.iter().any(|finding| finding.interface != 0))
    {
        if not_compared > 0 {
            say!(
                "linger: the first {HELD} resets are compared between captures, {not_compared} others are not"
            );
        }
        let (found, problems) = compare_series(&compared, findings);
        findings = found;
        for (path, error) in problems {
            say!("linger: {}: not compared with the others: {error}", Untrusted::from(&*path).terminal());
        }
    }
    for finding in findings {
        report.take(finding);
    }
    (files, unreadable)
}

/// Logs what was read of a capture.
fn tell(examined: &Examined) {
    let counts = &examined.counts;
    tracing::info!(
        file = examined.file,
        packets = counts.packets,
        segments = counts.segments,
        connections = counts.connections,
        resets = counts.resets,
        "read"
    );
    tracing::debug!(
        outside = counts.outside,
        unselected = counts.unselected,
        fragments = counts.fragments,
        cut = counts.cut,
        malformed = counts.malformed,
        not_understood = counts.not_understood,
        duplicates = counts.duplicates,
        "of them not judged"
    );
}

/// Says what could not be read.
fn complain(event: &ExamineEvent) {
    match event {
        ExamineEvent::Unreadable(path, error) => {
            say!("linger: {}: {error}", Untrusted::from(&**path).terminal());
        }
        ExamineEvent::Stopped(path, why) => {
            say!("linger: {}: {why}; what stands before it was read", Untrusted::from(&**path).terminal());
        }
        ExamineEvent::NotRead(path) => say!("linger: {}: not read", Untrusted::from(&**path).terminal()),
        _ => {}
    }
}

/// The captures that may be views of the same connections, each with its files.
fn to_compare(files: &[Examined]) -> Vec<Vec<&Path>> {
    let can_be_read_again = |file: &&Examined| file.files.iter().all(|path| path.is_file());
    let captures: Vec<&Examined> = files.iter().filter(can_be_read_again).collect();
    let meets = |one: &Examined, other: &Examined| {
        let (one, other) = (&one.counts, &other.counts);
        one.first <= other.last.saturating_add(CLOCK_ERROR)
            && other.first <= one.last.saturating_add(CLOCK_ERROR)
    };
    let mut by_time = captures.clone();
    by_time.sort_by_key(|capture| capture.counts.first);
    let mut kept: Vec<Vec<&Path>> = Vec::new();
    // In the order of their beginnings, a capture meets another one if it meets the one that lasts longest of those before, or
    // the next one.
    let mut longest: Option<&Examined> = None;
    for (at, capture) in by_time.iter().enumerate() {
        let before = longest.is_some_and(|longest| meets(longest, capture));
        let after = by_time.get(at + 1).is_some_and(|next| meets(capture, next));
        if captures.len() <= FEW || before || after {
            kept.push(capture.files.iter().map(PathBuf::as_path).collect());
        }
        if longest.is_none_or(|longest| longest.counts.last < capture.counts.last) {
            longest = Some(capture);
        }
    }
    kept
}

fn write_page(
    mut page: NewFile,
    files: &[Examined],
    groups: &[Group],
    left_out: u64,
) -> Result<(), crate::output::Refused> {
    match html::report(&mut page, files, groups, left_out, &tools()) {
        Ok(()) => page.finish(),
        Err(error) => Err(page.failed(error)),
    }
}

fn write(
    out: &mut Stdout,
    json: bool,
    files: &[Examined],
    groups: &[Group],
    left_out: u64,
) -> Result<(), Stopped> {
    if json {
        if left_out > 0 {
            let findings = if left_out == 1 { "finding is" } else { "findings are" };
            say!("linger: {left_out} other {findings} not told");
        }
        for group in groups {
            out.json(&line(lines::Group::from(group)))?;
        }
        for file in files {
            out.json(&line(lines::Summary::from(file)))?;
        }
    } else if !files.is_empty() {
        let mut report = Vec::new();
        text::report(&mut report, files, groups, left_out, &tools())?;
        // The report contains file names and packet data.
        out.text(format_args!("{}", message(&String::from_utf8_lossy(&report))))?;
    }
    out.flush()
}

fn causes(out: &mut Stdout, json: bool) -> Result<(), Stopped> {
    for cause in Cause::ALL {
        if json {
            out.json(&line(lines::CauseEntry::from(cause)))?;
        } else {
            let (name, meaning, remedy) = (cause.name(), cause.meaning(), cause.remedy().words(&tools()));
            out.text(format_args!("{name}\n    {meaning}\n    Remedy: {remedy}\n\n"))?;
        }
    }
    out.flush()
}
