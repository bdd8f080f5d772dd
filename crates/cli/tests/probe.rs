//! `linger probe`, run as a user runs it, against this program's own server.

mod common;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

const LINGER: &str = env!("CARGO_BIN_EXE_linger");

/// A server that reads 100 bytes, answers a kilobyte and ends the connection.
struct Server {
    process: Child,
    address: String,
}

impl Server {
    fn start(ending: &str) -> Self {
        let mut process = Command::new(LINGER)
            .args(["server", "--listen", "127.0.0.1:0", "--response", "1000", "--consume", "100"])
            .args(["--ending", ending])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        BufReader::new(process.stderr.take().unwrap()).read_line(&mut said).unwrap();
        let address = said.split_whitespace().nth(2).unwrap().trim_end_matches(',').to_owned();
        Self { process, address }
    }

    /// Asks whether a late byte costs the response, in one trial.
    fn probe(&self, directory: &Path, more: &[&str]) -> Output {
        let payload = directory.join("payload");
        std::fs::write(&payload, [b'x'; 100]).unwrap();
        Command::new(LINGER)
            .args(["probe", &format!("tcp://{}", self.address), "--payload", payload.to_str().unwrap()])
            .args(["--expect", "1000", "--only", "late-byte", "--repeat", "1"])
            .args(more)
            .output()
            .unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The response has reached the client's kernel before the late byte meets a socket that no longer exists. Nothing
/// is lost, by luck.
#[test]
fn a_reset_after_all_bytes_is_at_risk_and_no_success() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start("close");
    let shown = server.probe(directory.path(), &[]);
    assert_eq!(shown.status.code(), Some(1), "{shown:?}");
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(text.contains("late-byte          at risk") && text.contains("all 1000 bytes arrived"), "{text}");
    let told = server.probe(directory.path(), &["--json", "--at-risk-ok"]);
    assert_eq!(told.status.code(), Some(0), "{told:?}");
    let lines = String::from_utf8(told.stdout).unwrap();
    let lines = common::contract::lines("probe", &lines);
    assert_eq!((&lines[0]["type"], &lines[0]["answer"]), (&"finding".into(), &"at-risk".into()));
    assert_eq!((&lines[0]["verdict"], &lines[0]["got_bytes"]), (&"at_risk".into(), &1000.into()));
    assert_eq!((&lines[1]["type"], &lines[1]["answer"]), (&"probe".into(), &"at-risk".into()));
}

#[test]
fn one_field_away_the_response_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let told = Server::start("lingering").probe(directory.path(), &["--json"]);
    assert_eq!(told.status.code(), Some(0), "{told:?}");
    let lines = String::from_utf8(told.stdout).unwrap();
    let finding = common::contract::lines("probe", &lines).remove(0);
    assert_eq!((&finding["answer"], &finding["verdict"]), (&"keeps".into(), &"kept".into()));
}
