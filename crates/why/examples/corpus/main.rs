//! Runs the diagnosis over a folder of captures, and an independent checker over every sentence of it.
//!
//! `cargo run --release -p linger-why --example corpus -- FOLDER... [--findings] [--priors]`
//!
//! Prints how many resets there are of each cause and confidence, and each sentence that the packets refute; with
//! `--findings` every finding as a line of JSON before that, with `--priors` the rows of `src/priors.rs`. `--rules` prints the table of
//! rules, as it stands in docs/why-rules.md. `--labelled LINES FOLDER...` compares the verdicts on captures of `linger lab --json --pcap FOLDER`,
//! which printed LINES, of one run or more, with the kernel's counters, and says which packets can decide. Ends with 1 if a sentence was refuted, or a verdict was certain and wrong.

mod check;
mod check_course;
mod check_failed;
mod check_prints;
mod check_sender;
mod check_streams;
mod labelled;
mod payload;
mod shape;
mod trace;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use linger_why::{AnalyzerLimits, Finding, examine};

fn main() -> ExitCode {
    let (options, folders): (Vec<String>, Vec<String>) =
        std::env::args().skip(1).partition(|argument| argument.starts_with("--"));
    let priors = options.iter().any(|option| option == "--priors");
    let mut seen = BTreeMap::<(String, String), u32>::new();
    if options.iter().any(|option| option == "--rules") {
        print!("{}", linger_why::CauseRule::table());
        return ExitCode::SUCCESS;
    }
    if options.iter().any(|option| option == "--labelled") {
        return match labelled::score(folders.as_chunks().0) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        };
    }
    let list = options.iter().any(|option| option == "--findings");
    let mut files = Vec::new();
    for folder in &folders {
        collect(Path::new(folder), &mut files);
    }
    files.sort();
    let (mut counts, mut readable, mut sentences) = (BTreeMap::<String, u64>::new(), 0_u64, 0_usize);
    let mut refuted = Vec::new();
    for file in &files {
        let mut findings: Vec<Finding> = Vec::new();
        if examine(file, AnalyzerLimits::default(), |finding| findings.push(finding)).is_err() {
            continue;
        }
        readable += 1;
        let Ok(packets) = (if findings.is_empty() { Ok(Vec::new()) } else { trace::read(file) }) else {
            continue;
        };
        for finding in &findings {
            let harm = if finding.harmless { "harmless" } else { "harmful" };
            let key = format!("{} {} {harm}", finding.cause, finding.confidence);
            *counts.entry(key).or_default() += 1;
            *seen.entry((format!("{:?}", finding.cause), format!("{:?}", finding.class))).or_default() += 1;
            sentences += finding.evidence.len();
            if list {
                println!("{}", serde_json::to_string(finding).expect("a finding is JSON"));
            }
            for claim in check::refuted(&packets, finding) {
                refuted.push(format!("{} frame {}: {claim}", file.display(), finding.frame));
            }
        }
    }
    for ((cause, class), count) in seen.iter().filter(|_| priors) {
        println!("    (Cause::{cause}, Class::{class}, {count}),");
    }
    let resets: u64 = counts.values().sum();
    let unnamed: u64 =
        counts.iter().filter(|(key, _)| key.starts_with("unknown")).map(|(_, count)| count).sum();
    eprintln!("{} files, {readable} readable, {resets} resets, {} named", files.len(), resets - unnamed);
    for (key, count) in &counts {
        eprintln!("{count:>6} {key}");
    }
    for line in &refuted {
        eprintln!("refuted: {line}");
    }
    eprintln!("{} of {sentences} sentences refuted", refuted.len());
    if refuted.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// All files below a folder, Git's own left out.
fn collect(path: &Path, files: &mut Vec<PathBuf>) {
    if path.is_file() {
        files.push(path.to_owned());
    } else if let Ok(entries) = std::fs::read_dir(path) {
        for entry in entries.flatten().filter(|entry| entry.file_name() != ".git") {
            collect(&entry.path(), files);
        }
    }
}
