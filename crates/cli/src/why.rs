//! `linger why`: captures in; the cause of every reset out, as text, page or JSON.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use linger_why::{Cause, Examined, Finding, Groups, Limits, Stop, Tools, compare, examine_until, html, text};
use serde_json::json;

use crate::{exit, interrupt};

/// Findings of a file that are held until its end, to see whether it has several interfaces.
const HELD: usize = 10_000;

/// Names the cause of every reset in a capture, with evidence, or says that it cannot be known.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  linger why capture.pcap\n  tcpdump -i eth0 -w - tcp | linger why -\n  \
    linger why client.pcap server.pcapng.zst --html report.html\n\n\
    Several captures are taken for views of the same connections from different places: a reset\n\
    that its alleged sender never sent is proven forged.\n\n\
    Exit status: 0 nothing harmful, 1 harmful resets found, 3 a capture could not be read.")]
pub(crate) struct Arguments {
    /// Captures, pcap or pcapng, plain, gzip or zstd; `-` is standard input.
    #[arg(value_name = "FILE", required_unless_present = "causes")]
    files: Vec<PathBuf>,
    /// One JSON object a line: each reset, each finding, and a summary.
    #[arg(long)]
    json: bool,
    /// Write the report as one self-contained page as well.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// List the causes with their meaning and remedy.
    #[arg(long)]
    causes: bool,
    /// Connections remembered at once; each takes about 600 bytes.
    #[arg(long, value_name = "N", default_value_t = Limits::default().flows)]
    flows: usize,
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    match execute(arguments) {
        Ok(code) => ExitCode::from(code),
        // Who closes our output has seen enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::from(exit::NOTHING_LOST),
        Err(error) => exit::fail(exit::COULD_NOT_TELL, format!("{error:#}")),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn execute(arguments: &Arguments) -> anyhow::Result<u8> {
    let mut out = BufWriter::new(io::stdout().lock());
    if arguments.causes {
        causes(&mut out, arguments.json)?;
        out.flush()?;
        return Ok(exit::NOTHING_LOST);
    }
    // Before an hour of reading is lost to a path that was mistyped.
    let page = match &arguments.html {
        Some(path) => match File::create(path) {
            Ok(file) => Some((path, BufWriter::new(file))),
            Err(error) => {
                anyhow::bail!("cannot write {}: {error}{}", path.display(), exit::file_hint(&error))
            }
        },
        None => None,
    };
    let stop = Stop::default();
    let asked = stop.clone();
    interrupt::on_first(move || {
        if !asked.request() {
            eprintln!("linger: ended before a capture began");
            std::process::exit(i32::from(exit::COULD_NOT_TELL));
        }
    })?;
    let several = arguments.files.len() > 1;
    let mut limits = Limits::default();
    limits.flows = arguments.flows;
    let (mut files, mut groups, mut harmful) = (Vec::<Examined>::new(), Groups::default(), false);
    let mut findings = Vec::<Finding>::new();
    let mut unreadable = false;
    let mut failed = None;
    let mut take = |finding: Finding, groups: &mut Groups, out: &mut BufWriter<_>| {
        harmful |= !finding.harmless;
        if arguments.json
            && let Err(error) = print_json(out, "reset", &worded(&finding))
        {
            failed.get_or_insert(error);
        }
        groups.add(finding);
    };
    for path in &arguments.files {
        if stop.requested() {
            eprintln!("linger: {}: not read", path.display());
            unreadable = true;
            continue;
        }
        let live = path == Path::new("-");
        let examined = examine_until(path, limits, &stop, |finding| {
            if several || !live && findings.len() < HELD {
                findings.push(finding);
            } else {
                take(finding, &mut groups, &mut out);
            }
        });
        match examined {
            Ok(examined) => {
                if let Some(stopped) = &examined.stopped {
                    eprintln!("linger: {}: {stopped}; what stands before it was read", path.display());
                }
                unreadable |= examined.unread || examined.stopped.is_some() && examined.counts.packets == 0;
                files.push(examined);
            }
            Err(error) => {
                eprintln!("linger: {}: {error}", path.display());
                unreadable = true;
            }
        }
    }
    // Interfaces of one capture are places to compare as well.
    if !stop.requested() && (several || findings.iter().any(|finding| finding.interface != 0)) {
        let paths: Vec<&Path> = arguments
            .files
            .iter()
            .map(PathBuf::as_path)
            .filter(|path| files.iter().any(|file| Path::new(&file.file) == *path))
            .filter(|path| *path != Path::new("-"))
            .collect();
        findings = compare(&paths, findings)?;
    }
    for finding in findings {
        take(finding, &mut groups, &mut out);
    }
    if let Some(error) = failed {
        return Err(error.into());
    }
    let groups = groups.sorted();
    if arguments.json {
        for group in &groups {
            print_json(&mut out, "finding", &json!(group))?;
        }
        for file in &files {
            print_json(&mut out, "summary", &json!(file))?;
        }
    } else if !files.is_empty() {
        text::report(&mut out, &files, &groups, &tools())?;
    }
    out.flush()?;
    if let Some((path, mut page)) = page {
        html::report(&mut page, &files, &groups, &tools())
            .and_then(|()| page.flush())
            .map_err(|error| anyhow::anyhow!("cannot write {}: {error}", path.display()))?;
    }
    Ok(if harmful {
        exit::LOSS_FOUND
    } else if unreadable {
        exit::COULD_NOT_TELL
    } else {
        exit::NOTHING_LOST
    })
}

/// What this program calls the tools that a remedy may name.
pub(crate) fn tools() -> Tools {
    let mut tools = Tools::default();
    tools.live = Some("`linger watch`");
    tools.library = Some("the crate `linger`");
    tools.wrapper = Some("`linger run`");
    tools.remember = Some("--flows");
    tools.list = Some("--json");
    tools
}

/// A finding as JSON, in this program's words.
fn worded(finding: &Finding) -> serde_json::Value {
    let mut value = json!(finding);
    value["would_decide"] = json!(finding.would_decide.map(|ask| ask.words(&tools())));
    value["remedy"] = json!(finding.remedy.words(&tools()));
    value
}

fn print_json(out: &mut impl Write, kind: &str, value: &serde_json::Value) -> io::Result<()> {
    let mut object = serde_json::Map::new();
    object.insert("type".into(), kind.into());
    if let serde_json::Value::Object(fields) = value {
        object.extend(fields.clone());
    }
    writeln!(out, "{}", serde_json::Value::Object(object))
}

fn causes(out: &mut impl Write, as_json: bool) -> io::Result<()> {
    for cause in Cause::ALL {
        let (name, meaning, remedy) = (cause.name(), cause.meaning(), cause.remedy().words(&tools()));
        if as_json {
            print_json(out, "cause", &json!({ "cause": name, "meaning": meaning, "remedy": remedy }))?;
        } else {
            writeln!(out, "{name}\n    {meaning}\n    Remedy: {remedy}\n")?;
        }
    }
    Ok(())
}
