//! Peers that have gone mad: frames of real sessions, dropped, doubled, swapped and damaged, against both sides.
//!
//! No panic, bounded memory, nothing written outside of the directory.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use common::proxy::Proxy;
use common::*;
use linger_transfer::session::Deadlines;
use linger_transfer::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use tempfile::tempdir;

const ROUNDS: u64 = 400;

fn quick() -> Deadlines {
    let mut deadlines = Deadlines::default();
    deadlines.ping = Duration::from_millis(20);
    deadlines.stall = Duration::from_millis(60);
    deadlines
}

/// The preface and the frames of a recorded direction.
fn frames(stream: &[u8]) -> Vec<Vec<u8>> {
    let mut frames = vec![stream[..8].to_vec()];
    let mut at = 8;
    while at + 8 <= stream.len() {
        let length = u32::from_be_bytes(stream[at..at + 4].try_into().unwrap()) as usize;
        let end = (at + 8 + length).min(stream.len());
        frames.push(stream[at..end].to_vec());
        at = end;
    }
    frames
}

fn damage(frames: &mut Vec<Vec<u8>>, random: &mut ChaCha8Rng) {
    let mut below = |most: usize| random.next_u32() as usize % most.max(1);
    for _ in 0..=below(3) {
        let place = 1 + below(frames.len() - 1);
        match below(8) {
            0 => drop(frames.remove(place)),
            1 => frames.insert(place, frames[place].clone()),
            2 => {
                let other = 1 + below(frames.len() - 1);
                frames.swap(place, other);
            }
            3 => frames[place][4] = below(11) as u8,
            4 => frames[place][7] = below(4) as u8,
            5 => {
                let length = below(1 << 21) as u32;
                frames[place][..4].copy_from_slice(&length.to_be_bytes());
            }
            6 => {
                // Paths that lead elsewhere, of the same length as what was there.
                let evil: &[u8] = [&b"../"[..], b"/etc", b"..", b".linger", b"a\0"][below(5)];
                let frame = &mut frames[place];
                if frame.len() > 8 + evil.len() {
                    let at = 8 + below(frame.len() - 8 - evil.len());
                    frame[at..at + evil.len()].copy_from_slice(evil);
                }
            }
            _ => {
                let frame = &mut frames[place];
                for _ in 0..=below(4) {
                    let at = below(frame.len());
                    frame[at] = below(256) as u8;
                }
            }
        }
        if frames.len() < 2 {
            return;
        }
    }
}

/// Says everything without waiting for answers, and reads what comes until the other side has enough.
fn babble(mut stream: TcpStream, frames: &[Vec<u8>]) {
    stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut sink = stream.try_clone().unwrap();
    let reading = std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(1..) = sink.read(&mut buffer) {}
    });
    for frame in frames {
        if stream.write_all(frame).is_err() {
            break;
        }
    }
    let _ = stream.shutdown(std::net::Shutdown::Write);
    reading.join().unwrap();
}

fn peak_mib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() >> 10
}

/// A directory beside others that nobody may touch.
fn guarded(top: &Path) -> std::path::PathBuf {
    fs::create_dir_all(top.join("etc")).unwrap();
    fs::write(top.join("etc/passwd"), b"untouched").unwrap();
    fs::create_dir(top.join("shared")).unwrap();
    top.join("shared")
}

fn assert_untouched(top: &Path) {
    let mut names: Vec<_> = fs::read_dir(top).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["etc", "shared"]);
    assert_eq!(fs::read_dir(top.join("etc")).unwrap().count(), 1);
    assert_eq!(fs::read(top.join("etc/passwd")).unwrap(), b"untouched");
}

#[test]
fn a_mad_client_harms_nobody() {
    let (from, top) = (tempdir().unwrap(), tempdir().unwrap());
    let tree = from.path().join("tree");
    fs::create_dir_all(tree.join("sub")).unwrap();
    fs::write(tree.join("sub/big"), bytes(2 * BLOCK + 9, 1)).unwrap();
    fs::write(tree.join("small"), bytes(5000, 2)).unwrap();
    std::os::unix::fs::symlink("small", tree.join("link")).unwrap();
    let directory = guarded(top.path());
    let change = |options: &mut ShareOptions| {
        options.deadlines = quick();
        options.policy.idle = Duration::from_millis(50);
        options.policy.total = Duration::from_millis(200);
        options.policy.grace = Duration::from_millis(10);
    };
    share(&directory, change, |shared| {
        let proxy = Proxy::new(shared.port, None);
        let client = Client::new("127.0.0.1", proxy.port, ClientOptions::default()).unwrap();
        let (summary, error) =
            client.put(Input::Path(tree.clone()), &place("tree"), &PutOptions::default(), &mut |_| {});
        assert_eq!(summary.verdict(error.as_ref()), Verdict::Confirmed, "{error:?}");
        let recorded = frames(&proxy.recorded.lock().unwrap());
        for seed in 0..ROUNDS {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            let mut mad = recorded.clone();
            damage(&mut mad, &mut random);
            babble(TcpStream::connect(("127.0.0.1", shared.port)).unwrap(), &mad);
        }
        // It still serves whoever behaves.
        shared.put(&tree, "afterwards");
    });
    assert_untouched(top.path());
    assert!(peak_mib() < 256, "{} MiB in this process, both tests and both sides", peak_mib());
}

#[test]
fn a_mad_server_harms_nobody() {
    let (from, top) = (tempdir().unwrap(), tempdir().unwrap());
    make_tree(&from.path().join("tree"));
    let directory = guarded(top.path());
    let recorded = std::sync::Mutex::new((Vec::new(), Vec::new()));
    share(
        from.path(),
        |_| {},
        |shared| {
            let proxy = Proxy::new(shared.port, None);
            let client = Client::new("127.0.0.1", proxy.port, ClientOptions::default()).unwrap();
            let output = Output::Path(from.path().join("copy"));
            let (summary, error) = client.get(&place("tree"), &output, &GetOptions::default(), &mut |_| {});
            assert_eq!(summary.verdict(error.as_ref()), Verdict::Confirmed, "{error:?}");
            let got = frames(&proxy.answered.lock().unwrap());
            let proxy = Proxy::new(shared.port, None);
            let client = Client::new("127.0.0.1", proxy.port, ClientOptions::default()).unwrap();
            let (summary, error) = client.put(
                Input::Path(from.path().join("tree")),
                &place("back"),
                &PutOptions::default(),
                &mut |_| {},
            );
            assert_eq!(summary.verdict(error.as_ref()), Verdict::Confirmed, "{error:?}");
            *recorded.lock().unwrap() = (got, frames(&proxy.answered.lock().unwrap()));
        },
    );
    let (got, put) = recorded.into_inner().unwrap();
    for seed in 0..ROUNDS {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let is_get = seed % 2 == 0;
        let mut mad = if is_get { got.clone() } else { put.clone() };
        damage(&mut mad, &mut random);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut options = ClientOptions::default();
        options.deadlines = quick();
        options.retry.patience = Duration::ZERO;
        options.policy.idle = Duration::from_millis(50);
        options.policy.grace = Duration::from_millis(10);
        let client = Client::new("127.0.0.1", listener.local_addr().unwrap().port(), options).unwrap();
        let serving = std::thread::spawn(move || babble(listener.accept().unwrap().0, &mad));
        let name = format!("copy{seed}");
        if is_get {
            let output = Output::Path(directory.join(&name));
            client.get(&place("tree"), &output, &GetOptions::default(), &mut |_| {});
        } else {
            let from = Input::Path(from.path().join("tree"));
            client.put(from, &place(&name), &PutOptions::default(), &mut |_| {});
        }
        serving.join().unwrap();
    }
    assert_untouched(top.path());
}
