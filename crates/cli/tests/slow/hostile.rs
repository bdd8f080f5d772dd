//! Servers that send damaged and poisoned frames to the program: what it makes in the user's directory, and what it shows.

#[allow(dead_code, reason = "each test uses what it needs")]
#[path = "../../../transfer/tests/common/mad.rs"]
mod mad;
#[allow(dead_code, reason = "each test uses what it needs")]
#[path = "../../../transfer/tests/common/proxy.rs"]
mod proxy;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::common::share::Share;
use mad::{damage, frames, seal};
use proxy::Proxy;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

const LINGER: &str = env!("CARGO_BIN_EXE_linger");
const ROUNDS: u64 = 90;
/// For how long a hostile server may keep a processor busy.
const MOST_BUSY: Duration = Duration::from_secs(1);
/// What a terminal would obey, and what turns text around.
const POISON: [&[u8]; 6] =
    [FORGED, b"\x1b]0;owned\x07", b"\x1b[2J\r", b"\xc2\x9b2J", "\u{202e}txt".as_bytes(), b"\x9b\x00\x08"];
/// A line that the program could have written.
const FORGED: &[u8] = b"\nlinger: all is confirmed\n";
/// The user's own file, whose name servers love.
const MINE: &str = ".bashrc";

fn linger(verb: &str, port: u16, flags: &[&str], words: &[&str], home: &Path) -> (Output, Duration) {
    let mut command = Command::new(LINGER);
    command
        .args([verb, "--insecure", "--retry-for", "0", "--timeout", "5", "--port", &port.to_string()])
        .args(flags)
        .args(words)
        .current_dir(home.join("here"))
        .env("XDG_CONFIG_HOME", home)
        .stdin(Stdio::null());
    busy(&mut command)
}

/// Runs a program that prints less than a pipe holds. Returns how long it kept a processor busy: the kernel's count, which is there
/// until the program is waited for.
fn busy(command: &mut Command) -> (Output, Duration) {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let over = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    waitid(WaitId::Pid(Pid::from_child(&child)), over).unwrap();
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    // The name of the program may have spaces. Then come the state, which is field 3, and utime and stime, 14 and 15 (proc(5)).
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    let spent = Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second());
    (child.wait_with_output().unwrap(), spent)
}

/// What a real server answers to the three verbs.
fn recorded(home: &Path) -> [Vec<Vec<u8>>; 3] {
    let shared = home.join("shared");
    fs::create_dir_all(shared.join("tree/sub")).unwrap();
    fs::write(shared.join("tree/sub/file"), "text").unwrap();
    fs::write(shared.join("tree/small"), [7; 5000]).unwrap();
    std::os::unix::fs::symlink("small", shared.join("tree/link")).unwrap();
    // What cannot be sent is named, which is text of the server's.
    std::os::unix::fs::symlink("/etc/passwd", shared.join("tree/outside")).unwrap();
    let server = Share::new(home, &shared, &["--insecure"]);
    ["get", "ls", "put"].map(|verb| {
        let proxy = Proxy::new(server.port, None);
        let words = match verb {
            "get" => &["127.0.0.1:tree", "real/"][..],
            "ls" => &["127.0.0.1:tree"],
            _ => &["letter", "127.0.0.1:"],
        };
        let (output, _) = linger(verb, proxy.port, &[], words, home);
        let expected = if verb == "get" { 1 } else { 0 };
        assert_eq!(output.status.code(), Some(expected), "{verb}: {output:?}");
        frames(&proxy.answered.lock().unwrap())
    })
}

/// Writes terminal controls over what the server said in words: names, and sentences of what it cannot send.
fn poison(frames: &mut [Vec<u8>], random: &mut ChaCha8Rng) {
    let mut below = |most: usize| random.next_u32() as usize % most.max(1);
    for frame in &mut frames[1..] {
        for word in [&b"outside"[..], b"small", b"link", b"/etc/passwd", b"which", b"letter"] {
            let Some(at) = frame.windows(word.len()).position(|found| found == word) else { continue };
            if below(3) > 0 {
                continue;
            }
            let evil = POISON[below(POISON.len())];
            let length = evil.len().min(word.len());
            frame[at..at + length].copy_from_slice(&evil[..length]);
            seal(frame);
        }
    }
}

/// A message or a goodbye of a server that refuses, with each kind of poison in its text.
fn refusal(kind: u8, text: &[u8]) -> Vec<Vec<u8>> {
    let payload = match kind {
        // Error, as docs/transfer-protocol.md has it: reason and text.
        2 => [&[17, 3][..], &(text.len() as u16).to_be_bytes(), text].concat(),
        // BYE: code and text.
        _ => [&[0, 1][..], text].concat(),
    };
    let stream = if kind == 2 { 1 } else { 0 };
    vec![frame(kind, stream, &payload)]
}

fn frame(kind: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut frame = [&[0, length[1], length[2], length[3], kind, 0, 0, stream][..], payload].concat();
    seal(&mut frame);
    frame
}

/// A file of `size` bytes that is one hole, with a wrong hash at its end.
fn hole(size: u64) -> Vec<Vec<u8>> {
    let size = &size.to_be_bytes()[..];
    let offer = [&[1, 0, 4][..], b"tree", &[0]].concat();
    // An index, a path, a mode, no time, a size, a token, no hash; sparse, without a target, not by blocks.
    let entry = [&[3][..], &[0; 8], &[0], &[0, 0], &[0; 6], &[1, 0xa4], &[0], &[1], size, &[7; 16], &[0]];
    let entry = [&entry.concat()[..], &[1, 0, 0, 0]].concat();
    let end = [&[7][..], &[0; 8], size, &[1], &[9; 32]].concat();
    [offer, entry, [&[5], size].concat(), end].iter().map(|message| frame(2, 1, message)).collect()
}

/// Accepts one connection, says everything, and reads until the client has enough.
fn babble(listener: &TcpListener, said: &[u8]) {
    let (mut peer, _) = listener.accept().unwrap();
    let mut reads: TcpStream = peer.try_clone().unwrap();
    let reading = std::thread::spawn(move || while matches!(reads.read(&mut [0; 4096]), Ok(1..)) {});
    let _ = peer.write_all(said);
    let _ = peer.shutdown(Shutdown::Write);
    reading.join().unwrap();
}

/// Whether a terminal shows a character and does nothing else.
fn is_plain(c: char) -> bool {
    let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c == '\n' || !(c.is_control() || turns)
}

fn assert_plain(bytes: &[u8], told: &str) -> String {
    let text = std::str::from_utf8(bytes).unwrap_or_else(|error| panic!("{told}: {error}: {bytes:?}"));
    assert!(text.chars().all(is_plain), "{told}: {text:?}");
    assert!(!text.contains(&*String::from_utf8_lossy(FORGED)), "{told}: {text:?}");
    text.to_owned()
}

/// Runs a verb against a server that says `said`. Returns what it has shown.
fn meet(verb: &str, said: &[Vec<u8>], flags: &[&str], home: &Path, told: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let words = match verb {
        "get" | "ls" => &["127.0.0.1:tree"][..],
        _ => &["letter", "127.0.0.1:"],
    };
    let whole = said.concat();
    let (output, spent) = std::thread::scope(|scope| {
        scope.spawn(|| babble(&listener, &whole));
        linger(verb, port, flags, words, home)
    });
    assert!(spent < MOST_BUSY, "{told}: {spent:?} of a processor");
    assert!(matches!(output.status.code(), Some(0 | 1 | 3)), "{told}: {output:?}");
    assert_plain(&output.stdout, told) + &assert_plain(&output.stderr, told)
}

/// Only what the user has, and what was asked for.
fn assert_only_asked(home: &Path, told: &str) {
    let here = home.join("here");
    for entry in fs::read_dir(&here).unwrap().map(|entry| entry.unwrap()) {
        let name = entry.file_name();
        assert!(
            [MINE, "letter", "real", "tree", ".linger"].map(Into::into).contains(&name),
            "{told}: {name:?}"
        );
    }
    assert_eq!(fs::read(here.join(MINE)).unwrap(), MINE.as_bytes(), "{told}");
    let beside: Vec<_> = fs::read_dir(home).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(
        beside.iter().all(|name| name == "here" || name == "shared" || name == "linger"),
        "{told}: {beside:?}"
    );
    let tree = here.join("tree");
    if fs::symlink_metadata(&tree).is_ok_and(|meta| meta.is_dir()) {
        // A server may send a mode that nobody can read.
        let _ = fs::set_permissions(&tree, std::os::unix::fs::PermissionsExt::from_mode(0o700));
        let _ = Command::new("chmod").args(["-R", "u+rwx"]).arg(&tree).status();
        fs::remove_dir_all(&tree).unwrap();
    } else {
        let _ = fs::remove_file(&tree);
    }
}

#[test]
fn a_hostile_server_names_nothing_and_commands_no_terminal() {
    let top = tempfile::tempdir().unwrap();
    let home = top.path();
    fs::create_dir(home.join("here")).unwrap();
    fs::write(home.join("here").join(MINE), MINE).unwrap();
    fs::write(home.join("here/letter"), "Dear").unwrap();
    let recorded = recorded(home);
    let (mut escaped, mut names) = (0, 0);
    for round in 0..ROUNDS {
        let number = round as usize % 3;
        let verb = ["get", "ls", "put"][number];
        let mut random = ChaCha8Rng::seed_from_u64(round);
        let mut said = recorded[number].clone();
        poison(&mut said, &mut random);
        if round % 2 == 1 {
            damage(&mut said, &mut random);
        }
        let flags: &[&str] = match (verb, round / 3 % 3) {
            ("get", 0) => &["--replace"],
            (_, 1) => &["--json"],
            _ => &[],
        };
        let told = format!("seed {round}, {verb} {flags:?}");
        let shown = meet(verb, &said, flags, home, &told);
        names += usize::from(home.join("here/tree").exists());
        assert_only_asked(home, &told);
        escaped += usize::from(shown.contains("\\u{1b}") || shown.contains("\\u001b"));
    }
    // The poison was there, and came as far as the user's eyes.
    assert!(escaped > 0 && names > 0, "{escaped} {names}");
    let preface = &recorded[0][..1];
    for verb in ["get", "ls", "put"] {
        for kind in [2, 9] {
            for evil in POISON {
                let text = [b"no ", evil].concat();
                let said = [preface, &refusal(kind, &text)].concat();
                let told = format!("{verb}, refused by {kind} with {evil:?}");
                let shown = meet(verb, &said, &[], home, &told);
                // A text that is not UTF-8 is no text of the protocol.
                assert!(shown.contains("no ") || String::from_utf8(text).is_err(), "{told}: {shown}");
                assert_only_asked(home, &told);
            }
        }
    }
}

/// What a server makes the program hash, or a program that would be busy for longer than this test lets it.
#[test]
fn a_server_keeps_no_processor_busy_with_a_few_bytes() {
    let top = tempfile::tempdir().unwrap();
    let home = top.path();
    fs::create_dir(home.join("here")).unwrap();
    fs::write(home.join("here").join(MINE), MINE).unwrap();
    fs::write(home.join("here/letter"), "Dear").unwrap();
    let preface = recorded(home)[0][..1].to_vec();
    for (size, answer) in [
        (64 << 30, "the end of a file arrived damaged"),
        (1 << 30, "the end of a file arrived damaged"),
        (1 << 40, "too many holes for a file that is not hashed by blocks"),
    ] {
        let told = format!("a hole of {size} bytes");
        let shown = meet("get", &[preface.clone(), hole(size)].concat(), &[], home, &told);
        assert!(shown.contains(answer), "{told}: {shown}");
        let _ = fs::remove_dir_all(home.join("here/.linger"));
        assert_only_asked(home, &told);
    }
    // The kernel ends this one after two seconds of a processor.
    let (ended, spent) = busy(Command::new("sh").args(["-c", "ulimit -t 2; while :; do :; done"]));
    assert!(!ended.status.success() && spent >= MOST_BUSY, "{ended:?} {spent:?}");
}
