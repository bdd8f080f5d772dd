//! tshark reads the captures that this crate writes, and finds the same segments.

mod common;
#[path = "common/layers.rs"]
mod layers;

use std::process::Command;

use common::capture;
use linger_packet::LinkType;
use linger_packet::pcapng::Writer;
use linger_testing::skip;

#[test]
fn tshark_reads_it_without_a_warning() {
    let file = tempfile::Builder::new().suffix(".pcapng").tempfile().unwrap();
    std::fs::write(file.path(), capture()).unwrap();
    let fields = ["frame.time_epoch", "frame.len", "frame.cap_len", "frame.interface_name", "frame.comment"];
    let mut tshark = Command::new("tshark");
    tshark.arg("-r").arg(file.path()).args(["-T", "fields", "-E", "separator=|"]);
    for field in fields {
        tshark.args(["-e", field]);
    }
    let Ok(output) = tshark.output() else { return skip("tshark", "it is not installed") };
    let stderr = String::from_utf8_lossy(&output.stderr);
    let complaints: Vec<_> = stderr.lines().filter(|line| !line.contains("Running as user")).collect();
    assert!(complaints.is_empty() && output.status.success(), "{stderr}");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "1700000000.123456789|41|41|wire|a comment, ünïcödé\n1700000000.123456790|9000|20|short|\n"
    );
}

/// tshark finds the same segment in every wrapping that it understands.
#[test]
fn tshark_finds_the_same_segment_in_every_wrapping() {
    let wrappings: Vec<_> = layers::wrappings().into_iter().filter(|wrapping| wrapping.tshark).collect();
    let mut writer = Writer::new(Vec::new(), "linger test").unwrap();
    for wrapping in &wrappings {
        let interface = writer.interface(wrapping.name, LinkType(wrapping.link), 0).unwrap();
        let length = u32::try_from(wrapping.frame.len()).unwrap();
        writer.packet(interface, 0, &wrapping.frame, length, None).unwrap();
    }
    let file = tempfile::Builder::new().suffix(".pcapng").tempfile().unwrap();
    std::fs::write(file.path(), writer.into_inner()).unwrap();
    let mut tshark = Command::new("tshark");
    tshark.arg("-r").arg(file.path()).args(["-T", "fields", "-E", "separator=|"]);
    for field in ["frame.interface_name", "tcp.srcport", "tcp.dstport", "tcp.seq_raw"] {
        tshark.args(["-e", field]);
    }
    let Ok(output) = tshark.output() else { return skip("tshark", "it is not installed") };
    let ((source, destination), seq) = (layers::PORTS, layers::SEQ);
    let expected: String = wrappings
        .iter()
        .map(|wrapping| format!("{}|{source}|{destination}|{seq}\n", wrapping.name))
        .collect();
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{output:?}");
}
