//! Another implementation: a client in Python, written from docs/transfer-protocol.md alone.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::*;
use linger_transfer::*;
use tempfile::tempdir;

const CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/client.py");

fn python(arguments: &[&str]) -> Option<std::process::Output> {
    match Command::new("python3").arg(CLIENT).args(arguments).output() {
        Ok(output) => Some(output),
        Err(_) => {
            linger_testing::skip("python3", "it is not there");
            None
        }
    }
}

fn succeeds(arguments: &[&str]) -> bool {
    let Some(output) = python(arguments) else { return false };
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    true
}

#[test]
fn the_documented_vectors_are_those_that_the_text_leads_to() {
    succeeds(&["vectors", concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/transfer-vectors.txt")]);
}

#[test]
fn a_client_made_from_the_text_puts_and_gets() {
    let (from, to) = (tempdir().unwrap(), tempdir().unwrap());
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let (file, back) = (from.path().join("file"), from.path().join("back"));
    // Two blocks and a rest: BLAKE3 in Python takes a second for each block.
    let content = bytes(BLOCK + 70_001, 77);
    fs::write(&file, &content).unwrap();
    let served = share(
        to.path(),
        |_| {},
        |shared| {
            let port = shared.port.to_string();
            let run = |rest: &[&str]| succeeds(&[&["127.0.0.1", &port], rest].concat());
            if !run(&["put", &path(&file), "copy"]) {
                return;
            }
            assert!(fs::read(to.path().join("copy")).unwrap() == content);
            run(&["get", "copy", &path(&back)]);
            assert!(fs::read(&back).unwrap() == content);
            // A different file is refused under the same name.
            fs::write(&file, "other").unwrap();
            run(&["put-cut", &path(&file), "again"]);
            let refused = python(&["127.0.0.1", &port, "put", &path(&file), "copy"]).unwrap();
            let told = String::from_utf8_lossy(&refused.stderr);
            assert!(!refused.status.success(), "{told}");
            assert!(fs::read(to.path().join("copy")).unwrap() == content);
        },
    );
    if let [put, get, ..] = &served[..] {
        assert!(put.summary.peer_knows && get.summary.peer_knows, "both sides know: {put:?} {get:?}");
        assert_eq!((put.summary.confirmed, get.summary.confirmed), (1, 1));
    }
}
