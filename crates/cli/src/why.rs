//! `linger why`: captures in; the cause of every reset out, as text, page or JSON.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueHint};
use linger_untrusted::{Untrusted, message};
use linger_why::{
    AnalyzerLimits, Cause, Class, Examined, Finding, Group, Groups, ReadStop, compare, examine_until, html,
    text,
};

use crate::lines::{self, line};
use crate::options::Json;
use crate::output::{Content, NewFile, Stdout, Stopped, say};
use crate::tools::tools;
use crate::{exit, interrupt};

/// Most findings kept until the end of a file, which may turn out to have several interfaces.
const HELD: usize = 10_000;

/// Names the cause of every reset in a capture, with evidence, or says that it cannot be known.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  linger why capture.pcap\n  tcpdump -i eth0 -w - tcp | linger why -\n  \
    linger why client.pcap server.pcapng.zst --html report.html\n\n\
    Several captures are taken for views of the same connections from different places: a reset\n\
    that its alleged sender never sent is proven forged.\n\n\
    Exit status: 0 nothing harmful, 1 harmful resets found, 3 a capture could not be read.")]
pub(crate) struct WhyArguments {
    /// Captures, pcap or pcapng, plain or compressed (gzip, zstd, xz, bzip2, lz4); `-` is standard input.
    #[arg(value_name = "FILE", required_unless_present = "causes", value_hint = ValueHint::FilePath)]
    files: Vec<PathBuf>,
    #[command(flatten)]
    output: Json,
    /// Write the report as one self-contained page as well.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    html: Option<PathBuf>,
    /// Leave out connections that failed without a reset.
    #[arg(long)]
    resets_only: bool,
    /// List the causes with their meaning and remedy.
    #[arg(long, conflicts_with_all = ["files", "html", "flows", "resets_only"])]
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
    // Check the output path before reading, which may take an hour.
    let inputs = arguments.files.iter().map(PathBuf::as_path);
    let page = arguments.html.as_deref().map(|path| NewFile::create(path, Content::Text, inputs)).transpose();
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
    let mut report = WhyReport {
        json: arguments.output.json,
        resets_only: arguments.resets_only,
        out,
        groups: Groups::default(),
        harmful: false,
        stopped: None,
    };
    let (files, unreadable) = read(arguments, &stop, &mut report);
    let WhyReport { mut out, groups, harmful, stopped, .. } = report;
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
        && let Err(refused) = write_page(page, &files, &groups)
    {
        return refused.end();
    }
    match write(&mut out, arguments.output.json, &files, &groups) {
        Ok(()) => ExitCode::from(status),
        Err(stopped) => stopped.end(Some(status)),
    }
}

/// The findings so far.
struct WhyReport {
    json: bool,
    resets_only: bool,
    out: Stdout,
    groups: Groups,
    harmful: bool,
    /// Why stdout failed; reading stops then.
    stopped: Option<Stopped>,
}

impl WhyReport {
    fn take(&mut self, finding: Finding) {
        if self.resets_only && finding.class == Class::Unanswered {
            return;
        }
        self.harmful |= !finding.harmless;
        if self.json && self.stopped.is_none() {
            let printed = self.out.json(&line(lines::Reset::from(&finding)));
            self.stopped = printed.err();
        }
        self.groups.add(finding);
    }
}

/// Reads all captures. Returns what was read, and whether anything was unreadable.
fn read(arguments: &WhyArguments, stop: &ReadStop, report: &mut WhyReport) -> (Vec<Examined>, bool) {
    let several = arguments.files.len() > 1;
    let mut limits = AnalyzerLimits::default();
    limits.flows = arguments.flows;
    let (mut files, mut findings) = (Vec::<Examined>::new(), Vec::<Finding>::new());
    let mut unreadable = false;
    for path in &arguments.files {
        let name = Untrusted::from(path.as_path());
        if stop.requested() {
            if report.stopped.is_none() {
                say!("linger: {}: not read", name.terminal());
            }
            unreadable = true;
            continue;
        }
        let live = path == Path::new("-");
        let examined = examine_until(path, limits, stop, |finding| {
            if several || !live && findings.len() < HELD {
                findings.push(finding);
            } else {
                report.take(finding);
                if report.stopped.is_some() {
                    stop.request();
                }
            }
        });
        match examined {
            Ok(examined) => {
                if let Some(stopped) = examined.stopped.as_ref().filter(|_| report.stopped.is_none()) {
                    say!("linger: {}: {stopped}; what stands before it was read", name.terminal());
                }
                unreadable |= examined.unread || examined.is_mostly_not_understood();
                unreadable |= examined.stopped.is_some() && examined.counts.packets == 0;
                files.push(examined);
            }
            Err(error) => {
                say!("linger: {}: {error}", name.terminal());
                unreadable = true;
            }
        }
    }
    // The interfaces of one capture are vantage points to compare, as several captures are.
    if !stop.requested() && (several || findings.iter().any(|finding| finding.interface != 0)) {
        let paths: Vec<&Path> = arguments
            .files
            .iter()
            .map(PathBuf::as_path)
            .filter(|path| files.iter().any(|file| Path::new(&file.file) == *path))
            .filter(|path| *path != Path::new("-"))
            .collect();
        match compare(&paths, findings) {
            Ok(compared) => findings = compared,
            Err(error) => {
                say!("linger: {error}");
                return (files, true);
            }
        }
    }
    for finding in findings {
        report.take(finding);
    }
    (files, unreadable)
}

fn write_page(mut page: NewFile, files: &[Examined], groups: &[Group]) -> Result<(), crate::output::Refused> {
    match html::report(&mut page, files, groups, &tools()) {
        Ok(()) => page.finish(),
        Err(error) => Err(page.failed(error)),
    }
}

fn write(out: &mut Stdout, json: bool, files: &[Examined], groups: &[Group]) -> Result<(), Stopped> {
    if json {
        for group in groups {
            out.json(&line(lines::Group::from(group)))?;
        }
        for file in files {
            out.json(&line(lines::Summary::from(file)))?;
        }
    } else if !files.is_empty() {
        let mut report = Vec::new();
        text::report(&mut report, files, groups, &tools())?;
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
