//! Compares this crate with tshark over folders of captures: is there TCP that this crate neither reads nor counts as
//! unread?
//!
//! `cargo run --release -p linger-packet --example beside_tshark -- FOLDER...` takes about a second a file, which tshark needs to start.
//! Prints the files in which tshark finds more segments than this crate has read or has said that it cannot read; ends with 1 if there
//! are any. Segments quoted in ICMP messages do not count. A datagram of sFlow holds samples of several packets, and counts as one.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use linger_packet::{NotTcp, Segment, capture};

/// Packets of a capture: the segments, and those that this crate reports as not read.
fn ours(path: &Path) -> Option<(u64, u64)> {
    let mut reader = capture::open(path).ok()?;
    let (mut segments, mut said) = (0, 0);
    while let Ok(Some(packet)) = reader.next() {
        match Segment::from_frame(packet.link, packet.data, packet.wire_len) {
            Ok(_) => segments += 1,
            Err(NotTcp::OtherProtocol | NotTcp::Icmp(_)) => {}
            Err(_) => said += 1,
        }
    }
    Some((segments, said))
}

/// Frames in which tshark finds TCP.
fn theirs(path: &Path) -> Option<u64> {
    let output = Command::new("tshark")
        .args(["-n", "-T", "fields", "-e", "frame.protocols", "-r"])
        .arg(path)
        .output()
        .ok()?;
    let frames = String::from_utf8_lossy(&output.stdout);
    let before_icmp = |line: &str| line.split(":icmp").next().unwrap_or_default().to_owned();
    Some(frames.lines().map(before_icmp).filter(|line| line.split(':').any(|layer| layer == "tcp")).count()
        as u64)
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return found.push(folder.to_owned()) };
    for entry in entries.flatten() {
        files(&entry.path(), found);
    }
}

fn main() -> ExitCode {
    let mut found = Vec::new();
    for folder in std::env::args_os().skip(1) {
        files(Path::new(&folder), &mut found);
    }
    found.sort();
    let (mut read, mut silent) = (0, 0);
    for path in &found {
        let Some((segments, said)) = ours(path) else { continue };
        let Some(tcp) = theirs(path) else {
            eprintln!("tshark does not run");
            return ExitCode::from(4);
        };
        read += 1;
        if segments + said < tcp {
            silent += 1;
            println!("{}: tshark finds {tcp}, read {segments}, said to be unread {said}", path.display());
        }
    }
    println!("{read} captures beside tshark, {silent} with TCP that is neither read nor said to be unread");
    ExitCode::from(u8::from(silent > 0))
}
