//! Another implementation: a client in Python, written from docs/transfer-protocol.md alone.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use crate::common::*;
use linger_transfer::*;
use tempfile::tempdir;

/// The receiver's own directory.
const WORK: &str = ".linger";
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
fn the_recorded_sessions_can_be_read_by_the_text() {
    let record = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/transfer-sessions.txt");
    if !succeeds(&["sessions", record]) {
        return;
    }
    // One digit that is not as the text has it is noticed: of a check, of a length, of an account.
    let text = fs::read_to_string(record).unwrap();
    let dir = tempdir().unwrap();
    for (was, is) in [
        ("> 0000000004050001\n", "> 0000000004050003\n"),
        ("> 0000000303010001616263\n", "> 00000003030100016162\n"),
        // No check of a frame notices this one.
        ("9042ffff0394", "9143ffff0394"),
    ] {
        assert!(text.contains(was), "{was}");
        let changed = dir.path().join("changed");
        fs::write(&changed, text.replacen(was, is, 1)).unwrap();
        let read = python(&["sessions", changed.to_str().unwrap()]).unwrap();
        assert!(!read.status.success(), "{was}");
    }
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

/// A client of no good will: it puts the same to a printer twice in one session, and says of neither that it has heard.
#[test]
fn the_same_twice_in_one_session_is_printed_once() {
    let (from, to) = (tempdir().unwrap(), tempdir().unwrap());
    let (letter, printed) = (from.path().join("letter"), from.path().join("printed"));
    fs::write(&letter, "a letter\n").unwrap();
    let config = format!("[sink.print]\ncommand = ['sh', '-c', 'cat >>{}']\n", printed.display());
    share(
        to.path(),
        |options| options.config = StreamsConfig::parse(&config).unwrap(),
        |shared| {
            let (port, path) = (shared.port.to_string(), letter.to_str().unwrap());
            let Some(output) = python(&["127.0.0.1", &port, "print-twice", path, "print"]) else { return };
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(String::from_utf8_lossy(&output.stdout), "receipt\nerror 9\n", "{told}");
            assert_eq!(fs::read_to_string(&printed).unwrap(), "a letter\n");
            // Nobody has said that it knows: for others it is in doubt, until a person's word.
            let mut options = PutOptions::default();
            let (summary, error) = shared.try_put(&letter, "@print", &options);
            assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::Unconfirmed, "{summary:?} {error:?}");
            assert!(error.unwrap().to_string().contains("has not heard"));
            options.anew = true;
            shared.put_with(&letter, "@print", &options);
            // Other content is another matter.
            fs::write(&letter, "another\n").unwrap();
            shared.put(&letter, "@print");
            assert_eq!(fs::read_to_string(&printed).unwrap(), "a letter\na letter\nanother\n");
        },
    );
}

/// The seconds that this process has kept a processor busy.
fn busy() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Sixty bytes of a peer's that stand for gigabytes and terabytes of zeros.
#[test]
fn a_hole_costs_the_server_neither_a_processor_nor_room() {
    let to = tempdir().unwrap();
    let work = to.path().join(WORK);
    share(
        to.path(),
        |_| {},
        |shared| {
            let port = shared.port.to_string();
            for (size, by_blocks, verify, answer) in [
                (1u64 << 40, "0", "1", "bye: the peer sent too many holes"),
                (1 << 40, "1", "1", "bye: the end of a file arrived damaged"),
                (1 << 40, "0", "0", "receipt"),
                // Nearly all of these zeros have their hash in a table.
                (60 << 30, "0", "1", "bye: the end of a file arrived damaged"),
                (8 << 20, "0", "1", "bye: the end of a file arrived damaged"),
            ] {
                let (size, before) = (size.to_string(), busy());
                let Some(output) = python(&["127.0.0.1", &port, "hole", "big", &size, by_blocks, verify])
                else {
                    return;
                };
                let spent = busy() - before;
                let told = format!("{size} {by_blocks} {verify}: {output:?}");
                assert!(output.status.success(), "{told}");
                assert!(String::from_utf8_lossy(&output.stdout).contains(answer), "{told}");
                assert!(spent < 1.0, "{spent} s of a processor, {told}");
                let blocks = |entry: fs::DirEntry| entry.metadata().unwrap().blocks();
                let made = [to.path(), &work].map(fs::read_dir).into_iter().flatten().flatten();
                let room: u64 = made.map(|made| blocks(made.unwrap()) * 512).sum();
                assert!(room <= 64 << 10, "{room} bytes, {told}");
                let length = fs::metadata(to.path().join("big")).map_or(0, |made| made.len());
                assert_eq!(length, if verify == "1" { 0 } else { 1 << 40 }, "{told}");
                let _ = fs::remove_file(to.path().join("big"));
            }
        },
    );
}
