//! Transfers between processes that are killed, run out of disk space or are stopped. Their exit statuses must
//! be right.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::common::share::{Share, put, stopping_proxy};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const BLOCK: u64 = 1 << 20;

fn events(output: &Output) -> Vec<Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    crate::common::contract::lines("put", &text)
}

fn content(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// A home, a folder to receive, and a file of eight blocks and a little, with its content.
fn eight_blocks() -> (tempfile::TempDir, PathBuf, PathBuf, PathBuf, Vec<u8>) {
    let temp = tempfile::tempdir().unwrap();
    let (home, to) = (temp.path().join("home"), temp.path().join("to"));
    fs::create_dir_all(home.join("linger")).unwrap();
    fs::create_dir(&to).unwrap();
    let file = temp.path().join("file");
    let bytes = content(8 * BLOCK as usize + 4321);
    fs::write(&file, &bytes).unwrap();
    (temp, home, to, file, bytes)
}

/// Kills one side after a given number of bytes. Then checks the exit status of the other side, and that a
/// second attempt continues the transfer.
fn kill_and_resume(kill_server: bool) {
    let (_temp, home, to, file, bytes) = eight_blocks();
    let length = bytes.len() as u64;
    for point in 0..64u64 {
        let name = format!("copy{point}");
        let at = (length + 900) * (point + 1) / 65;
        let mut server =
            Share::new(&home, &to, if kill_server { &[] } else { &["--once", "--retry-for", "0"] });
        let (port, reached, go) = stopping_proxy(server.port, at as usize);
        let mut client = put(&home, port, &file, &name, &["--retry-for", "0"]).spawn().unwrap();
        reached.recv().unwrap();
        if kill_server {
            server.child.kill().unwrap();
            server.child.wait().unwrap();
        } else {
            client.kill().unwrap();
        }
        drop(go);
        let output = client.wait_with_output().unwrap();
        // The receiver may still be at work on what reached it before the sender died.
        let code = if kill_server { output.status.code() } else { server.child.wait().unwrap().code() };
        let code = code.unwrap();
        let there = fs::read(to.join(&name)).ok();
        assert!(there.as_ref().is_none_or(|there| *there == bytes), "point {point}: not identical");
        if kill_server {
            assert!(matches!(code, 1 | 3) || (code == 0 && there.is_some()), "point {point}: exit {code}");
        } else {
            let expected: &[i32] = if there.is_some() { &[0, 3] } else { &[1] };
            assert!(
                expected.contains(&code),
                "point {point}: exit {code}, file is there: {}",
                there.is_some()
            );
        }
        // What has been verified and written by now must not be sent again.
        let work = to.join(".linger");
        let parts = fs::read_dir(&work).into_iter().flatten().flatten();
        let part = parts.filter(|entry| entry.path().extension().is_some_and(|end| end == "part"));
        let kept = part.map(|entry| entry.metadata().unwrap().len()).max().unwrap_or(0);
        let again = Share::new(&home, &to, &["--once"]);
        let output = put(&home, again.port, &file, &name, &[]).output().unwrap();
        let events = events(&output);
        assert_eq!(output.status.code(), Some(0), "point {point}: {events:?}");
        assert_eq!(again.wait(), Some(0), "point {point}");
        assert!(fs::read(to.join(&name)).unwrap() == bytes, "point {point}");
        assert!(!work.exists(), "point {point}: something is left behind");
        let wire = events.last().unwrap()["wire_bytes"].as_u64().unwrap();
        let expected = if there.is_some() { 0 } else { length - kept.min(length) };
        assert!(wire <= expected + BLOCK + 4000, "point {point}: {wire} bytes for {expected}");
    }
}

/// A signal while the link stands still at a random byte: the program ends without waiting for the link, what the client's status
/// says agrees with what is there in the end, and what was verified is not sent again.
#[test]
fn a_signal_at_any_byte_ends_the_program_and_the_next_one_goes_on() {
    let (_temp, home, to, file, bytes) = eight_blocks();
    for seed in 0..32u64 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        // The first bytes say hello and ask; the file comes then.
        let at = 300 + u64::from(random.next_u32()) % bytes.len() as u64;
        let signal = if random.next_u32().is_multiple_of(2) { Signal::INT } else { Signal::TERM };
        let to_server = seed % 2 == 0;
        let name = format!("copy{seed}");
        let told = format!("seed {seed}: {signal:?} at byte {at}, to the server: {to_server}");
        let mut server =
            Share::new(&home, &to, if to_server { &[] } else { &["--once", "--retry-for", "0"] });
        let (port, reached, go) = stopping_proxy(server.port, at as usize);
        let mut client = put(&home, port, &file, &name, &["--retry-for", "0"]).spawn().unwrap();
        reached.recv().unwrap();
        let signalled = if to_server { &mut server.child } else { &mut client };
        kill_process(Pid::from_child(signalled), signal).unwrap();
        // Nothing moves on the link before the program has ended.
        let own = signalled.wait().unwrap().code();
        drop(go);
        let output = client.wait_with_output().unwrap();
        let client = output.status.code();
        let served = server.wait();
        let there = fs::read(to.join(&name)).ok();
        assert!(there.as_ref().is_none_or(|there| *there == bytes), "{told}: not identical");
        if to_server {
            // A service that is stopped has done what it was asked for. A client that has sent everything cannot know whether it
            // was stored.
            assert!(own == Some(0) && matches!(client, Some(1 | 3)) && there.is_none(), "{told}: {output:?}");
        } else {
            // What the client has sent arrives without it: "sent, unconfirmed" is true if that was everything, and only then.
            let (said, was_stored) = if there.is_some() { (3, &[0, 3][..]) } else { (1, &[1][..]) };
            let is_right = client == Some(said) && served.is_some_and(|code| was_stored.contains(&code));
            assert!(is_right, "{told}: {served:?} {output:?}");
        }
        goes_on(&home, &to, &file, &name, &told);
    }
}

/// Transfers a file of which all or a part may be there. What is there must not be sent again.
fn goes_on(home: &Path, to: &Path, file: &Path, name: &str, told: &str) {
    let length = fs::metadata(file).unwrap().len();
    let parts = fs::read_dir(to.join(".linger")).into_iter().flatten().flatten();
    let kept = parts.filter(|entry| entry.path().extension().is_some_and(|end| end == "part"));
    let kept = kept.map(|entry| entry.metadata().unwrap().len()).max().unwrap_or(0);
    let left = if to.join(name).exists() { 0 } else { length - kept.min(length) };
    let again = Share::new(home, to, &["--once"]);
    let output = put(home, again.port, file, name, &[]).output().unwrap();
    let events = events(&output);
    assert_eq!((output.status.code(), again.wait()), (Some(0), Some(0)), "{told}: {events:?}");
    assert!(fs::read(to.join(name)).unwrap() == fs::read(file).unwrap(), "{told}");
    assert!(!to.join(".linger").exists(), "{told}: something is left behind");
    let wire = events.last().unwrap()["wire_bytes"].as_u64().unwrap();
    assert!(wire <= left + 4000, "{told}: {wire} bytes, {kept} were there");
}

#[test]
fn a_killed_receiver_at_64_points() {
    kill_and_resume(true);
}

#[test]
fn a_killed_sender_at_64_points() {
    kill_and_resume(false);
}

#[test]
fn a_sender_at_a_limited_rate_is_interrupted_at_once() {
    let temp = tempfile::tempdir().unwrap();
    let (home, to) = (temp.path().join("home"), temp.path().join("to"));
    fs::create_dir_all(home.join("linger")).unwrap();
    fs::create_dir(&to).unwrap();
    let file = temp.path().join("file");
    // At this rate the transfer would take an hour.
    fs::write(&file, content(4 * BLOCK as usize)).unwrap();
    let server = Share::new(&home, &to, &["--once", "--retry-for", "0"]);
    let mut sender = put(&home, server.port, &file, "copy", &["--limit", "1KiB"]).spawn().unwrap();
    let mut out = BufReader::new(sender.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("started") {
        line.clear();
        assert_ne!(out.read_line(&mut line).unwrap(), 0, "it ended before it began");
    }
    kill_process(Pid::from_child(&sender), Signal::INT).unwrap();
    let output = sender.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!to.join("copy").exists());
    assert_eq!(server.wait(), Some(1));
}

/// As `linger share --json | head -1`.
#[test]
fn a_share_whose_lines_nobody_reads_any_more_finishes_what_is_under_way() {
    let temp = tempfile::tempdir().unwrap();
    let (home, to) = (temp.path().join("home"), temp.path().join("to"));
    fs::create_dir_all(home.join("linger")).unwrap();
    fs::create_dir(&to).unwrap();
    let file = temp.path().join("file");
    let sent = content(3 * BLOCK as usize);
    fs::write(&file, &sent).unwrap();
    let mut share = Command::new(env!("CARGO_BIN_EXE_linger"))
        .args(["share", "--writable", "--json", "--listen", "127.0.0.1:0"])
        .arg(&to)
        .env("XDG_CONFIG_HOME", &home)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(share.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let value: Value = crate::common::contract::line("share", &line);
    let port = value["address"].as_str().unwrap().rsplit(':').next().unwrap().parse().unwrap();
    let output = put(&home, port, &file, "copy", &["--limit", "2MiB"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(fs::read(to.join("copy")).unwrap(), sent);
    // Then it ends as any program does whose output nobody reads.
    assert_eq!(share.wait().unwrap().signal(), Some(Signal::PIPE.as_raw()));
}

#[test]
fn a_full_disk_is_said_and_made_good_later() {
    let temp = tempfile::tempdir().unwrap();
    let (home, to) = (temp.path().join("home"), temp.path().join("to"));
    fs::create_dir_all(home.join("linger")).unwrap();
    fs::create_dir(&to).unwrap();
    let file = temp.path().join("file");
    fs::write(&file, content(12 * BLOCK as usize)).unwrap();
    let probe = Command::new("unshare").args(["-rm", "true"]).output();
    if !probe.as_ref().is_ok_and(|output| output.status.success()) {
        return linger_testing::skip("mount namespaces", &format!("{probe:?}"));
    }
    let mount = format!(
        "mount -t tmpfs -o size=5m none {} && exec {} \"$@\"",
        to.display(),
        env!("CARGO_BIN_EXE_linger")
    );
    let mut small = Command::new("unshare");
    small.args(["-rm", "sh", "-c", &mount, "linger"]);
    let server = Share::through(small, &home, &to, &["--once"]);
    let output = put(&home, server.port, &file, "copy", &[]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("copy needs 12582912 bytes more, and "), "{said}");
    assert_eq!(server.wait(), Some(1));
}

/// The check for free space at the start passes, and the disk is full before the end: how many blocks a file with holes or a
/// pipe will need is not known at the start.
#[test]
fn a_disk_that_fills_up_in_the_middle_is_said_and_made_good_later() {
    let temp = tempfile::tempdir().unwrap();
    let (home, to) = (temp.path().join("home"), temp.path().join("to"));
    fs::create_dir_all(home.join("linger")).unwrap();
    fs::create_dir(&to).unwrap();
    let file = temp.path().join("file");
    fs::write(&file, content(12 * BLOCK as usize)).unwrap();
    fs::File::options().append(true).open(&file).unwrap().set_len(14 * BLOCK).unwrap();
    let probe = Command::new("unshare").args(["-rm", "true"]).output();
    if !probe.as_ref().is_ok_and(|output| output.status.success()) {
        return linger_testing::skip("mount namespaces", &format!("{probe:?}"));
    }
    let mount = format!(
        "mount -t tmpfs -o size=5m none {} && exec {} \"$@\"",
        to.display(),
        env!("CARGO_BIN_EXE_linger")
    );
    let mut small = Command::new("unshare");
    small.args(["-rm", "sh", "-c", &mount, "linger"]);
    let server = Share::through(small, &home, &to, &[]);
    for (from, name) in [(Path::new("-"), "piped"), (&file, "copy")] {
        let mut command = put(&home, server.port, from, name, &[]);
        let output = command.stdin(fs::File::open(&file).unwrap()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(&format!("cannot write {name} at byte ")), "{said}");
        assert!(said.contains("No space left on device"), "{said}");
    }
    let inside = |program: &str, arguments: &[&str]| {
        let mut command = Command::new("nsenter");
        command.args(["--preserve-credentials", "-U", "-m", "-t", &server.child.id().to_string(), program]);
        let output = command.args(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        output.stdout
    };
    let shared = to.to_str().unwrap();
    assert_eq!(inside("ls", &[shared]), b"", "nothing has its final name");
    inside("mount", &["-o", "remount,size=64m", "none", shared]);
    let output = put(&home, server.port, &file, "copy", &[]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let started = events(&output).into_iter().find(|event| event["type"] == "started").unwrap();
    assert!(started["resumed_bytes"].as_u64().unwrap() > 0, "{started}");
    assert!(inside("cat", &[&format!("{shared}/copy")]) == fs::read(&file).unwrap());
}

#[test]
fn a_file_size_limit_is_said() {
    let temp = tempfile::tempdir().unwrap();
    let (home, to) = (temp.path().join("home"), temp.path().join("to"));
    fs::create_dir_all(home.join("linger")).unwrap();
    fs::create_dir(&to).unwrap();
    let file = temp.path().join("file");
    fs::write(&file, content(9 * BLOCK as usize + 5)).unwrap();
    let mut limited = Command::new("sh");
    // In units of 512 bytes.
    limited.args(["-c", &format!("ulimit -f 8192; exec {} \"$@\"", env!("CARGO_BIN_EXE_linger")), "linger"]);
    let server = Share::through(limited, &home, &to, &["--once"]);
    let output = put(&home, server.port, &file, "copy", &[]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("File too large"), "{said}");
    assert_eq!(server.wait(), Some(1));
    assert!(!to.join("copy").exists());
    // Without the limit it goes on with what it has.
    let server = Share::new(&home, &to, &["--once"]);
    let output = put(&home, server.port, &file, "copy", &[]).output().unwrap();
    assert_eq!((output.status.code(), server.wait()), (Some(0), Some(0)));
    let started = events(&output).into_iter().find(|event| event["type"] == "started").unwrap();
    assert!(started["resumed_bytes"].as_u64().unwrap() >= 3 * BLOCK, "{started}");
    assert!(fs::read(to.join("copy")).unwrap() == fs::read(&file).unwrap());
}

#[test]
fn a_receiver_that_is_stopped_is_given_up_and_said_so() {
    let temp = tempfile::tempdir().unwrap();
    let (home, to) = (temp.path().join("home"), temp.path().join("to"));
    fs::create_dir_all(home.join("linger")).unwrap();
    fs::create_dir(&to).unwrap();
    let file = temp.path().join("file");
    fs::write(&file, content(20 * BLOCK as usize)).unwrap();
    let server = Share::new(&home, &to, &[]);
    let (port, reached, go) = stopping_proxy(server.port, 5 * BLOCK as usize);
    let client = put(&home, port, &file, "copy", &["--retry-for", "0", "--timeout", "1"]).spawn().unwrap();
    reached.recv_timeout(Duration::from_secs(60)).unwrap();
    let output = client.wait_with_output().unwrap();
    drop(go);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("nothing was heard"));
}

/// As `sd_listen_fds(3)` has it: the socket is descriptor 3, and the process that it is for is named. A client
/// that comes before the server has started waits in the accept queue.
#[test]
fn a_socket_from_systemd_is_served() {
    let (home, from, to) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = from.path().join("file");
    fs::write(&file, content(100_000)).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let early = put(home.path(), port, &file, "early", &[]).spawn().unwrap();
    let mut activated = Command::new("sh");
    activated
        .args(["-c", "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$@\"", "sh"])
        .arg(env!("CARGO_BIN_EXE_linger"))
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(listener)));
    let share = Share::through(activated, home.path(), to.path(), &[]);
    assert_eq!(share.port, port, "the address is that of the socket, not that of --listen");
    let output = early.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let output = put(home.path(), port, &file, "late", &[]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    for name in ["early", "late"] {
        assert!(fs::read(to.path().join(name)).unwrap() == fs::read(&file).unwrap(), "{name}");
    }
}

#[test]
fn the_parts_a_person_types_work_together() {
    let temp = tempfile::tempdir().unwrap();
    let (home, to) = (temp.path().join("home"), temp.path().join("to"));
    fs::create_dir_all(home.join("linger")).unwrap();
    fs::create_dir(&to).unwrap();
    let server = Share::new(&home, &to, &[]);
    let linger = |arguments: &[&str], stdin: &[u8]| {
        let mut child = Command::new(env!("CARGO_BIN_EXE_linger"))
            .args(arguments)
            .env("XDG_CONFIG_HOME", &home)
            .current_dir(temp.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(stdin).unwrap();
        child.wait_with_output().unwrap()
    };
    let port = server.port.to_string();
    let piped = linger(&["put", "--port", &port, "--receipt", "r.json", "-", "127.0.0.1:note"], b"hello\n");
    assert_eq!(piped.status.code(), Some(0), "{piped:?}");
    let said = String::from_utf8_lossy(&piped.stdout);
    assert!(said.starts_with("note: 6 bytes, blake3 "), "{said}");
    let got = linger(&["get", "--port", &port, "127.0.0.1:note", "-"], b"");
    assert_eq!((got.status.code(), &got.stdout[..]), (Some(0), &b"hello\n"[..]));
    let checked = linger(&["receipt", "verify", "r.json", to.join("note").to_str().unwrap()], b"");
    assert_eq!(checked.status.code(), Some(0), "{checked:?}");
    let told = String::from_utf8_lossy(&checked.stdout);
    assert!(told.starts_with("1 of 1 as in the receipt; signed by ed25519:"), "{told}");
    // The receiver signs each transfer for itself, and has not signed a file that has those of several.
    for name in ["a", "b"] {
        fs::write(temp.path().join(name), "6 more").unwrap();
    }
    let two = linger(&["put", "--port", &port, "--receipt", "two.json", "a", "b", "127.0.0.1:"], b"");
    assert_eq!(two.status.code(), Some(0), "{two:?}");
    let checked = linger(&["receipt", "verify", "two.json", to.to_str().unwrap()], b"");
    let told = String::from_utf8_lossy(&checked.stdout);
    assert_eq!(told, "2 of 2 as in the receipt; nobody has signed it\n");
    fs::write(to.join("note"), b"hellO\n").unwrap();
    let checked = linger(&["receipt", "verify", "r.json", to.join("note").to_str().unwrap()], b"");
    assert_eq!(checked.status.code(), Some(1), "{checked:?}");
    for (arguments, code) in [
        (vec!["put", "--port", &port, "nothing", "127.0.0.1:"], 1),
        (vec!["put", "r.json", "nocolon"], 2),
        (vec!["put", "--port", &port, "r.json", "127.0.0.1:../x"], 2),
        (vec!["get", "--port", &port, "127.0.0.1:nothing"], 1),
        (vec!["put", "--port", "1", "r.json", "127.0.0.1:"], 1),
        (vec!["receipt", "verify", "note", "note"], 2),
    ] {
        let output = linger(&arguments, b"");
        assert_eq!(output.status.code(), Some(code), "{arguments:?} {output:?}");
    }
}

/// The main thread of `get` is blocked in a write(2) to a pipe that nobody reads, and this write never returns.
#[test]
fn ctrl_c_ends_a_get_whose_reader_has_stalled() {
    let temp = tempfile::tempdir().unwrap();
    let (home, to) = (temp.path().join("home"), temp.path().join("to"));
    fs::create_dir_all(home.join("linger")).unwrap();
    fs::create_dir(&to).unwrap();
    fs::write(to.join("file"), content(8 * BLOCK as usize)).unwrap();
    let server = Share::new(&home, &to, &[]);
    let mut get = Command::new(env!("CARGO_BIN_EXE_linger"))
        .args(["get", "--port", &server.port.to_string(), "127.0.0.1:file", "-"])
        .env("XDG_CONFIG_HOME", &home)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The rest is more than a pipe holds.
    get.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    kill_process(Pid::from_child(&get), Signal::INT).unwrap();
    let status = get.wait().unwrap();
    let mut said = String::new();
    get.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("stopped on request"), "{said}");
    assert_eq!(status.code(), Some(1), "{said}");
}
