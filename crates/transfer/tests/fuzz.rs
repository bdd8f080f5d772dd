//! Peers that send damaged frames: the frames of real sessions are dropped, doubled, swapped and damaged, and sent to
//! both sides.
//!
//! No side may panic, take much memory, or write outside of its directory. `examples/fuzz_peers.rs` does the same for
//! longer.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use common::mad::*;
use common::proxy::Proxy;
use common::*;
use linger_transfer::session::Deadlines;
use linger_transfer::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use tempfile::tempdir;

const ROUNDS: u64 = 400;

fn quick() -> Deadlines {
    let mut deadlines = Deadlines::default();
    deadlines.ping = Duration::from_millis(20);
    deadlines.stall = Duration::from_millis(60);
    deadlines
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
        assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::Confirmed, "{error:?}");
        let recorded = frames(&proxy.recorded.lock().unwrap());
        for seed in 0..ROUNDS {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            let mut mad = recorded.clone();
            damage(&mut mad, &mut random);
            babble(TcpStream::connect(("127.0.0.1", shared.port)).unwrap(), &mad);
        }
        // The server still serves a well-behaved client.
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
            assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::Confirmed, "{error:?}");
            let got = frames(&proxy.answered.lock().unwrap());
            let proxy = Proxy::new(shared.port, None);
            let client = Client::new("127.0.0.1", proxy.port, ClientOptions::default()).unwrap();
            let (summary, error) = client.put(
                Input::Path(from.path().join("tree")),
                &place("back"),
                &PutOptions::default(),
                &mut |_| {},
            );
            assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::Confirmed, "{error:?}");
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
