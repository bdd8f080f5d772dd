//! `linger why` over very many files, connections and resets: the verdicts are those of each capture alone, or of the whole stream,
//! and the memory is bounded.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use linger_why::{AnalyzerLimits, Finding, examine};
use nix::sys::resource::{UsageWho, getrusage};
use serde_json::Value;

use crate::wire::{ACK, Capture, End, PSH, RST, SYN, packet};

const FIN: u8 = 1;
const GET: &[u8] = b"GET /a HTTP/1.1\r\nHost: shop.example\r\n\r\n";
const SERVER: End = ([198, 51, 100, 20], 80);

/// The most memory that a run may take, in KiB.
const MOST: i64 = 64 * 1024;

/// The client of this number.
fn client(number: u32) -> End {
    let [_, high, low, last] = (number / 20_000).to_be_bytes();
    ([10, high, low, last], 20_000 + (number % 20_000) as u16)
}

/// The packets of a connection; which end it has depends on its number.
fn connection(number: u32) -> Vec<Vec<u8>> {
    let (ours, theirs) = (number.wrapping_mul(2_654_435_761), number.wrapping_mul(40_503));
    let (to, after) = (client(number), ours.wrapping_add(1 + GET.len() as u32));
    let ask = |seq: u32, ack: u32, flags, payload| packet(to, SERVER, (seq, ack), flags, payload);
    let tell = |seq: u32, ack: u32, flags| packet(SERVER, to, (seq, ack), flags, b"");
    let (first, theirs_next) = (ours.wrapping_add(1), theirs.wrapping_add(1));
    let syn = ask(ours, 0, SYN, b"");
    if number.is_multiple_of(4) {
        return vec![syn, tell(0, first, RST | ACK)];
    }
    let mut all = vec![syn, tell(theirs, first, SYN | ACK), ask(first, theirs_next, ACK, b"")];
    match number % 4 {
        1 => all.extend([ask(first, theirs_next, PSH | ACK, GET), tell(theirs_next, after, RST | ACK)]),
        2 => all.extend([
            tell(theirs_next, first, FIN | ACK),
            ask(first, theirs_next.wrapping_add(1), PSH | ACK, GET),
            tell(theirs_next.wrapping_add(1), 0, RST),
        ]),
        _ => all.extend([
            ask(first, theirs_next, FIN | ACK, b""),
            tell(theirs_next, first.wrapping_add(1), FIN | ACK),
            ask(first.wrapping_add(1), theirs_next.wrapping_add(1), ACK, b""),
        ]),
    }
    all
}

/// What the program says of these captures.
fn why(arguments: &[&str], paths: &[&Path]) -> String {
    let output =
        Command::new(env!("CARGO_BIN_EXE_linger")).arg("why").args(arguments).args(paths).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    let memory = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap().max_rss();
    println!("{memory} KiB");
    assert!(memory <= MOST, "{memory} KiB");
    String::from_utf8(output.stdout).unwrap()
}

/// The verdicts, as far as they do not depend on which file a packet is in.
fn verdicts(told: &str) -> BTreeSet<String> {
    let lines = told.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let of_reset = |line: &Value| {
        let fields = ["from", "to", "cause", "confidence", "class", "harmless", "candidates", "service"];
        let numbers = ["lost_response_bytes", "unread_request_bytes", "silence_seconds", "age_seconds"];
        fields.iter().chain(&numbers).map(|field| line[field].to_string()).collect::<Vec<_>>().join(" ")
    };
    lines.filter(|line| line["type"] == "reset").map(|line| of_reset(&line)).collect()
}

/// `tcpdump -C` and `-G` make thousands of files of one stream. Here every connection lies in several of them.
#[test]
fn a_rotated_series_of_a_thousand_files_is_judged_as_one_stream() {
    let folder = tempfile::tempdir().unwrap();
    let mut all: Vec<(u64, Vec<u8>)> = Vec::new();
    for number in 0..4_000 {
        let packets = connection(number).into_iter().enumerate();
        all.extend(packets.map(|(at, packet)| (u64::from(number) * 10_000 + at as u64 * 250_000, packet)));
    }
    all.sort_by_key(|(time, _)| *time);
    let whole = folder.path().join("whole.pcap");
    let mut capture = Capture::create(&whole);
    all.iter().for_each(|(time, packet)| capture.packet(*time, packet));
    drop(capture);
    let parts = folder.path().join("parts");
    std::fs::create_dir(&parts).unwrap();
    for (number, packets) in all.chunks(all.len().div_ceil(1_000)).enumerate() {
        let suffix = if number == 0 { String::new() } else { number.to_string() };
        let mut capture = Capture::create(&parts.join(format!("part.pcap{suffix}")));
        packets.iter().for_each(|(time, packet)| capture.packet(*time, packet));
    }
    assert!(std::fs::read_dir(&parts).unwrap().count() > 950);
    let (of_whole, of_parts) = (why(&["--json"], &[&whole]), why(&["--json"], &[&parts]));
    assert_eq!(verdicts(&of_whole).len(), 3_000);
    assert_eq!(verdicts(&of_parts), verdicts(&of_whole));
    assert_eq!(of_parts.lines().filter(|line| line.starts_with("{\"type\":\"why\"")).count(), 1);
}

/// Captures that have nothing to do with each other, of one time and with the same server.
#[test]
fn a_folder_of_two_thousand_captures_is_judged_as_each_alone() {
    let folder = tempfile::tempdir().unwrap();
    let mut alone: Vec<Finding> = Vec::new();
    for file in 0..2_000_u32 {
        let path: PathBuf = folder.path().join(format!("{}.pcap", name(file)));
        let mut capture = Capture::create(&path);
        for number in file * 3..file * 3 + 3 {
            let packets = connection(number).into_iter().enumerate();
            packets.for_each(|(at, packet)| {
                capture.packet(u64::from(file) * 100 + at as u64 * 5_000, &packet);
            });
        }
        drop(capture);
        examine(&path, AnalyzerLimits::default(), |finding| alone.push(finding)).unwrap();
    }
    let told = why(&["--json"], &[folder.path()]);
    let text: String = alone
        .iter()
        .map(|finding| {
            let mut line = serde_json::to_value(finding).unwrap();
            (line["type"], line["service"]) = ("reset".into(), finding.service().into());
            format!("{line}\n")
        })
        .collect();
    assert_eq!(alone.len(), 4_500);
    assert_eq!(verdicts(&told), verdicts(&text));
}

/// A name without a number, so that the files are no series.
fn name(number: u32) -> String {
    number.to_string().bytes().map(|digit| char::from(digit - b'0' + b'a')).collect()
}

#[test]
fn thirty_thousand_resets_beside_another_capture_are_all_told() {
    resets_beside_another_capture(30_000);
}

#[test]
#[ignore = "minutes in a debug build: cargo test -p linger-cli --release --test slow many:: -- --ignored"]
fn three_hundred_thousand_resets_beside_another_capture_are_all_told() {
    resets_beside_another_capture(300_000);
}

fn resets_beside_another_capture(count: u32) {
    let folder = tempfile::tempdir().unwrap();
    let (large, small) = (folder.path().join("large.pcap"), folder.path().join("small.pcap"));
    let write = |path: &Path, numbers: &mut dyn Iterator<Item = u32>| {
        let mut capture = Capture::create(path);
        for (at, number) in numbers.enumerate() {
            for (step, packet) in connection(number).into_iter().enumerate() {
                capture.packet(at as u64 * 50 + step as u64, &packet);
            }
        }
    };
    // Refused, one in three reset instead.
    write(&large, &mut (0..count).map(|number| number * 4 + u32::from(number % 3 == 0)));
    write(&small, &mut (0..10).map(|number| 2_000_002 + number * 4));
    let told = why(&[], &[&large, &small]);
    let mut alone = counts(&why(&[], &[&large]));
    for (what, count) in counts(&why(&[], &[&small])) {
        *alone.entry(what).or_default() += count;
    }
    assert_eq!(counts(&told), alone, "{told}");
    assert_eq!(alone.values().sum::<u32>(), count + 10);
    assert_eq!(alone["data-after-close (certain)"], 10);
}

/// The connections of each verdict, by the headings of a report.
fn counts(told: &str) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    for line in told.lines() {
        // "1. undecided between aborted, forged, 12 connections, http (198.51.100.20:80)"
        let Some((number, rest)) = line.split_once(". ") else { continue };
        let Some((what, count)) = rest.split_once(" connection").and_then(|(what, _)| what.rsplit_once(", "))
        else {
            continue;
        };
        if number.parse::<u32>().is_ok() {
            *counts.entry(what.to_owned()).or_default() += count.parse::<u32>().unwrap();
        }
    }
    counts
}
