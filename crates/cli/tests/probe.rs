//! `linger probe`, run as a user runs it, against this program's own server.

mod common;

use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::TcpListener;
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

/// A server that answers every request so, and closes in order.
fn web(status: &'static str, body: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: {body}\r\nConnection: close\r\n\r\n");
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&vec![b'x'; body]));
            let _ = stream.shutdown(std::net::Shutdown::Write);
            while let Ok(1..) = stream.read(&mut [0; 4096]) {}
        }
    });
    url
}

/// A server of HTTP/2 without TLS, which begins with its settings: asked in HTTP/1.1 it is told how to ask, and asked in HTTP/2
/// without a response it is silent.
#[test]
fn a_server_of_http2_is_told_how_to_be_asked() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut held = Vec::new();
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]);
            held.push(stream);
        }
    });
    let asks = |url: &str, more: &[&str]| {
        let shown = Command::new(LINGER).args(["probe", url, "--patience", "1"]).args(more).output().unwrap();
        (shown.status.code(), String::from_utf8(shown.stderr).unwrap())
    };
    let (status, said) = asks(&format!("http://{address}/"), &[]);
    assert_eq!(status, Some(3), "{said}");
    assert!(said.contains("HTTP/2 without TLS") && said.contains("; --http2 asks in HTTP/2"), "{said}");
    let (status, said) = asks(&format!("http://{address}/"), &["--http2"]);
    assert!(status == Some(3) && said.contains("0 bytes of a response came"), "{status:?} {said}");
    let (status, said) = asks(&format!("fcgi://{address}/x"), &["--http2"]);
    assert!(status == Some(2) && said.contains("is not asked in HTTP/2"), "{status:?} {said}");
}

#[test]
fn the_last_sentence_says_what_to_do() {
    let asks = |url: &str| {
        let words = ["probe", url, "--only", "trailing-bytes,half-close", "--repeat", "1"];
        let shown = Command::new(LINGER).args(words).output().unwrap();
        (shown.status.code(), String::from_utf8(shown.stdout).unwrap())
    };
    let (status, text) = asks(&web("301 Moved\r\nLocation: https://example.org/page", 0));
    assert_eq!(status, Some(3), "{text}");
    assert!(
        text.contains("this server: cannot tell") && text.contains("probe https://example.org/page."),
        "{text}"
    );
    // A text of the server's cannot begin a line of its own, nor colour one.
    let (_, text) = asks(&web("302 Found\r\nLocation: /\u{9b}2J\u{202e}", 0));
    assert!(text.contains("probe /\\u{9b}2J\\u{202e}."), "{text}");
    let (status, text) = asks(&web("401 Unauthorized", 20));
    assert!(status == Some(3) && text.contains("It answers 401 to a plain request"), "{text}");
    let (status, text) = asks(&web("200 OK", 100_000));
    assert!(status == Some(0) && text.ends_with("this server: keeps\n"), "{text}");

    let directory = tempfile::tempdir().unwrap();
    let lost = Server::start("close").probe(directory.path(), &[]);
    let text = String::from_utf8(lost.stdout).unwrap();
    // Who may not watch the kernel gets another sentence, and another place of the line's end.
    let words: Vec<&str> = text.split_whitespace().collect();
    assert!(words.join(" ").contains("linger run -- COMMAND"), "{text}");
}
