//! `cargo xtask matrix [NAME ...]`: starts real servers, probes each, writes docs/matrix.md and docs/matrix.json.
//!
//! Each server runs in a network namespace of its own, so that the kernel's counters there are of this server alone. With
//! names, only servers whose names contain one of them are probed, and the result is printed instead of written.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::Context;
use linger_netns::{Isolation, Namespace, net};
use linger_probe::{Check, CheckAnswer, ProbeConfig, ProbeReport, probe};
use linger_testing::servers::{SERVERS, Server};
use serde_json::{Value, json};

/// Servers probed at a time. Most of the time is spent waiting.
const AT_ONCE: usize = 4;

/// A row of the matrix: a report, or the reason why there is none.
type Row = Result<ProbeReport, String>;

pub(crate) fn run(only: &[&str]) -> anyhow::Result<()> {
    if let Err(refused) = Isolation::prepare().enter() {
        anyhow::bail!("{refused}");
    }
    net::up("lo").context("cannot set up lo in a namespace of one's own")?;
    let asked: Vec<&Server> = SERVERS
        .iter()
        .filter(|server| only.is_empty() || only.iter().any(|part| server.name.contains(part)))
        .collect();
    anyhow::ensure!(!asked.is_empty(), "no server is called anything like {}", only.join(", "));
    let rows = ask_all(&asked);
    let (text, object) = (markdown(&asked, &rows), document(&asked, &rows));
    if !only.is_empty() {
        println!("{text}");
        return Ok(());
    }
    let docs = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs"));
    fs::create_dir_all(docs)?;
    fs::write(docs.join("matrix.md"), text)?;
    fs::write(docs.join("matrix.json"), serde_json::to_string_pretty(&object)? + "\n")?;
    println!("matrix: docs/matrix.md and docs/matrix.json are written");
    Ok(())
}

fn ask_all(asked: &[&Server]) -> Vec<Row> {
    let next = AtomicUsize::new(0);
    let rows: Mutex<Vec<Option<Row>>> = Mutex::new(asked.iter().map(|_| None).collect());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some((index, server)) = {
                    let index = next.fetch_add(1, Ordering::SeqCst);
                    asked.get(index).map(|server| (index, server))
                } {
                    let row = Namespace::new().and_then(|own| own.run(|| ask(server)));
                    let row = row.unwrap_or_else(|error| Err(format!("no namespace: {error}")));
                    match &row {
                        Ok(report) => eprintln!("matrix: {}: {}", server.name, report.overall()),
                        Err(why) => eprintln!("matrix: {}: not measured: {why}", server.name),
                    }
                    rows.lock().expect("no thread panics with it")[index] = Some(row);
                }
            });
        }
    });
    let rows = rows.into_inner().expect("no thread panicked");
    rows.into_iter().map(|row| row.unwrap_or_else(|| Err("was not asked".into()))).collect()
}

fn ask(server: &Server) -> Row {
    let subject = (server.start)().map_err(|error| error.to_string())?;
    let target = subject.url.parse().map_err(|error| format!("{error}"))?;
    let mut config = ProbeConfig::default();
    config.hostile = true;
    probe(&target, &config, |_| {}).map_err(|error| error.to_string())
}

fn cell(answer: CheckAnswer) -> &'static str {
    match answer {
        CheckAnswer::Keeps => "keeps",
        CheckAnswer::AtRisk => "**at risk**",
        CheckAnswer::Loses => "**loses**",
        CheckAnswer::LosesSilently => "**loses silently**",
        CheckAnswer::Stalls => "**stalls**",
        CheckAnswer::Refuses => "**refuses**",
        CheckAnswer::Unbounded => "unbounded",
        CheckAnswer::CannotTell => "?",
        _ => "",
    }
}

fn markdown(asked: &[&Server], rows: &[Row]) -> String {
    let mut text = String::from(
        "# Who loses what\n\n\
         Written by `cargo xtask matrix`: each server runs on loopback in a network of its own, answers 300,000 bytes \
         without looking at the request's body, and is asked by `linger probe --hostile`. What the questions mean \
         is in [probe.md](probe.md); the sentences, bytes, endings and kernel counters behind each word are in \
         `matrix.json`. `?` means that the question decides nothing there.\n\n",
    );
    let mut heads = vec!["server", "version"];
    // Nobody's server is told to reload here.
    let checks = || Check::ALL.into_iter().filter(|check| *check != Check::Reload);
    heads.extend(checks().map(Check::name));
    let _ = writeln!(text, "| {} |\n|{}", heads.join(" | "), "---|".repeat(heads.len()));
    for (server, row) in asked.iter().zip(rows) {
        let Ok(report) = row else { continue };
        let mut cells = vec![server.name.to_owned(), server.version()];
        for check in checks() {
            cells.push(report.of(check).map_or("", |finding| cell(finding.answer)).to_owned());
        }
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
    text.push_str("\n## What was lost, and how\n\n");
    for (server, row) in asked.iter().zip(rows) {
        let Ok(report) = row else { continue };
        let faults: Vec<_> = report.findings.iter().filter(|finding| finding.answer.is_fault()).collect();
        if faults.is_empty() {
            continue;
        }
        let _ = writeln!(text, "**{}**\n", server.name);
        for finding in faults {
            let _ = writeln!(text, "- {}: {}", finding.check, finding.sentence);
        }
        text.push('\n');
    }
    let missing: Vec<_> =
        asked.iter().zip(rows).filter_map(|(server, row)| Some((server, row.as_ref().err()?))).collect();
    if !missing.is_empty() {
        text.push_str("## Not measured\n\n");
        for (server, why) in missing {
            let _ = writeln!(text, "- {}: {}", server.name, why.lines().next().unwrap_or_default());
        }
    }
    text
}

fn document(asked: &[&Server], rows: &[Row]) -> Value {
    let servers = asked.iter().zip(rows).map(|(server, row)| match row {
        Ok(report) => json!({
            "name": server.name,
            "version": server.version(),
            "server": report.server,
            "response_bytes": report.response_bytes,
            "framing": report.framing,
            "answer": report.overall(),
            "findings": report.findings,
        }),
        Err(why) => json!({ "name": server.name, "version": server.version(), "not_measured": why }),
    });
    json!({ "written_by": "cargo xtask matrix", "servers": servers.collect::<Vec<_>>() })
}
