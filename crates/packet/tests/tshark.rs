//! What is written is read by the program that most people read captures with.

mod common;

use std::process::Command;

use common::capture;
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
