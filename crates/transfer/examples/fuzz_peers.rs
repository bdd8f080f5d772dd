//! Hostile peers against both sides, each connection made from a seed: `fuzz_peers [FRAMES] [SEED]`.
//!
//! The frames of real sessions are dropped, doubled, swapped and damaged, and names that lead elsewhere are
//! put into them. They are sent over loopback TCP to a server that receives, and to clients that put and get, with a
//! name for what they get and without one. No side may panic, wait for something that cannot come, write outside of its
//! directory, write a name inside that was not asked for, make a link that leads out, use a second of processor time for
//! one connection, or take more than 128 MiB. Everything lies below `TMPDIR`; on tmpfs it goes faster.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use linger_transfer::session::Deadlines;
use linger_transfer::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

#[path = "../tests/common/mod.rs"]
mod common;

use common::mad::*;
use common::proxy::Proxy;
use common::*;

/// Connections between two looks at the directories, after which they are empty again.
const CHECK: u64 = 8;
/// As many bytes as fit into the socket buffers, so that they can be sent before anybody reads.
const FITS: usize = 100 << 10;

fn main() {
    let mut arguments =
        std::env::args().skip(1).map(|text| text.parse::<u64>().expect("FRAMES and SEED are numbers"));
    let (frames, seed) = (arguments.next().unwrap_or(100_000), arguments.next().unwrap_or(1));
    let started = Instant::now();
    let from = tempfile::tempdir().expect("a temporary directory");
    let corpus = Corpus::record(from.path());
    let (served, asked) = (Counts::default(), Counts::default());
    std::thread::scope(|scope| {
        scope.spawn(|| against_server(&corpus, frames / 2, seed, &served));
        scope.spawn(|| against_clients(&corpus, from.path(), frames / 2, seed, &asked));
    });
    println!("mad clients: {}", served.told());
    println!("mad servers: {}", asked.told());
    let (peak, seconds) = (peak_mib(), started.elapsed().as_secs_f64());
    assert!(peak < 128, "{peak} MiB");
    println!("seed {seed}: no panic, nothing outside, {peak} MiB at most, {seconds:.0} s");
}

/// What was sent, and the results.
#[derive(Default)]
struct Counts {
    connections: AtomicU64,
    frames: AtomicU64,
    /// Entries that arrived, or were confirmed, in spite of the damage.
    confirmed: AtomicU64,
    violations: AtomicU64,
    /// The most milliseconds of processor time and of time that one connection took.
    busiest: AtomicU64,
    longest: AtomicU64,
}

impl Counts {
    fn add(&self, frames: usize, confirmed: u64, error: Option<&Error>) {
        self.connections.fetch_add(1, Ordering::Relaxed);
        self.frames.fetch_add(frames as u64, Ordering::Relaxed);
        self.confirmed.fetch_add(confirmed, Ordering::Relaxed);
        let is_violation = matches!(error, Some(Error::Violation(_)));
        self.violations.fetch_add(u64::from(is_violation), Ordering::Relaxed);
    }

    /// Runs what one connection takes, and measures it.
    fn measure<T>(&self, connection: impl FnOnce() -> T) -> T {
        let (started, used) = (Instant::now(), processor_time());
        let result = connection();
        let used = processor_time().saturating_sub(used);
        assert!(used < Duration::from_secs(1), "one connection took {used:?} of a processor");
        self.busiest.fetch_max(used.as_millis() as u64, Ordering::Relaxed);
        self.longest.fetch_max(started.elapsed().as_millis() as u64, Ordering::Relaxed);
        result
    }

    fn frames(&self) -> u64 {
        self.frames.load(Ordering::Relaxed)
    }

    fn told(&self) -> String {
        let [connections, frames, confirmed, violations] =
            [&self.connections, &self.frames, &self.confirmed, &self.violations]
                .map(|count| count.load(Ordering::Relaxed));
        let [busiest, longest] = [&self.busiest, &self.longest].map(|count| count.load(Ordering::Relaxed));
        format!(
            "{connections} connections, {frames} frames, {violations} ended as violations, \
             {confirmed} entries confirmed; one connection took {busiest} ms of a processor at most, and {longest} ms"
        )
    }
}

/// The processor time of this thread.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).expect("it is positive")
}

/// The frames of well-behaved peers.
struct Corpus {
    /// Clients that put: a tree, the same again, a file of more than a block.
    putting: Vec<Vec<Vec<u8>>>,
    /// Servers that receive a put.
    answering: Vec<Vec<Vec<u8>>>,
    /// Servers that a client gets from.
    giving: Vec<Vec<Vec<u8>>>,
}

impl Corpus {
    fn record(from: &Path) -> Self {
        let tree = from.join("tree");
        fs::create_dir_all(tree.join("sub/deep")).expect("a tree");
        for number in 0..40 {
            let dir = ["", "sub", "sub/deep"][number % 3];
            fs::write(tree.join(dir).join(format!("file{number}")), bytes(number * 7, number as u64))
                .expect("a file");
        }
        std::os::unix::fs::symlink("file0", tree.join("link")).expect("a link");
        let sparse = fs::File::create(tree.join("sparse")).expect("a file");
        sparse.set_len(3 * BLOCK as u64 + 10).expect("its length");
        fs::write(from.join("large"), bytes(BLOCK + 9, 1)).expect("a file");
        let (mut putting, mut answering, mut giving) = (Vec::new(), Vec::new(), Vec::new());
        let to = tempfile::tempdir().expect("a temporary directory");
        share(
            to.path(),
            |_| {},
            |shared| {
                for name in ["tree", "tree", "large"] {
                    let proxy = Proxy::new(shared.port, None);
                    let input = Input::Path(from.join(name));
                    let (_, error) =
                        client(proxy.port).put(input, &place(name), &PutOptions::default(), &mut |_| {});
                    assert!(error.is_none(), "{error:?}");
                    putting.push(frames(&proxy.recorded.lock().expect("what was said")));
                    answering.push(frames(&proxy.answered.lock().expect("what was answered")));
                }
                for name in ["tree", "large"] {
                    let proxy = Proxy::new(shared.port, None);
                    let output = Output::Path(to.path().join(format!("{name}-copy")));
                    let (_, error) =
                        client(proxy.port).get(&place(name), &output, &GetOptions::default(), &mut |_| {});
                    assert!(error.is_none(), "{error:?}");
                    giving.push(frames(&proxy.answered.lock().expect("what was answered")));
                }
            },
        );
        Self { putting, answering, giving }
    }
}

/// A damaged copy of one session of a corpus. Large sessions are chosen seldom.
fn mad(corpus: &[Vec<Vec<u8>>], iteration: u64, random: &mut ChaCha8Rng) -> Vec<Vec<u8>> {
    let (large, small) = corpus.split_last().expect("recorded sessions");
    let mut said = if iteration.is_multiple_of(64) || small.is_empty() {
        large.clone()
    } else {
        small[iteration as usize % small.len()].clone()
    };
    damage(&mut said, random);
    said
}

fn client(port: u16) -> Client {
    let mut options = ClientOptions::default();
    options.retry.patience = Duration::ZERO;
    options.deadlines = deadlines();
    Client::new("127.0.0.1", port, options).expect("a client")
}

/// The peer closes after its last frame, so that nobody ever has to wait.
fn deadlines() -> Deadlines {
    let mut deadlines = Deadlines::default();
    deadlines.stall = Duration::from_secs(5);
    deadlines
}

fn random(seed: u64, iteration: u64) -> ChaCha8Rng {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(iteration);
    random
}

fn against_server(corpus: &Corpus, frames: u64, seed: u64, counts: &Counts) {
    let top = tempfile::tempdir().expect("a temporary directory");
    let directory = guarded(top.path());
    let mut options = ShareOptions::new(&directory);
    options.insecure_loopback = true;
    options.writable = true;
    options.deadlines = deadlines();
    let server = Server::new(options).expect("a server");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    for iteration in 0.. {
        if iteration % CHECK == 0 {
            look_around(top.path(), &directory);
        }
        if counts.frames() >= frames {
            break;
        }
        let said = mad(&corpus.putting, iteration, &mut random(seed, iteration));
        let peer = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
        let (accepted, address) = listener.accept().expect("a connection");
        std::thread::scope(|scope| {
            let whole = said.concat();
            if whole.len() <= FITS {
                say(&peer, &whole);
            } else {
                scope.spawn(|| say(&peer, &said.concat()));
            }
            let served = counts.measure(|| server.connection(accepted, address, &|_| {}));
            counts.add(said.len(), served.summary.confirmed, served.error.as_ref());
        });
    }
    look_around(top.path(), &directory);
}

fn against_clients(corpus: &Corpus, from: &Path, frames: u64, seed: u64, counts: &Counts) {
    let top = tempfile::tempdir().expect("a temporary directory");
    let directory = guarded(top.path());
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    for iteration in 0.. {
        if iteration % CHECK == 0 {
            assert_only_asked(&directory);
            look_around(top.path(), &directory);
            fs::write(directory.join(MINE), MINE).expect("a file");
        }
        if counts.frames() >= frames {
            break;
        }
        let is_get = iteration % 2 == 0;
        let corpus = if is_get { &corpus.giving } else { &corpus.answering };
        let said = mad(corpus, iteration / 2, &mut random(seed, iteration));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut peer, _) = listener.accept().expect("a connection");
                say(&peer, &said.concat());
                let _ = peer.set_read_timeout(Some(Duration::from_secs(5)));
                while let Ok(1..) = peer.read(&mut [0; 4096]) {}
            });
            let client = client(port);
            let (summary, error) = counts.measure(|| {
                if !is_get {
                    let input = Input::Path(from.join("tree"));
                    return client.put(input, &place("copy"), &PutOptions::default(), &mut |_| {});
                }
                // Every other one without a name: then it is that of the request.
                let is_named = iteration % 4 == 0;
                let name = if is_named { format!("copy{}", iteration % 8) } else { String::new() };
                let mut options = GetOptions::default();
                options.if_exists = if iteration % 3 == 0 { IfExists::Replace } else { IfExists::Fail };
                client.get(&place("tree"), &Output::Path(directory.join(name)), &options, &mut |_| {})
            });
            counts.add(said.len(), summary.confirmed, error.as_ref());
        });
    }
    look_around(top.path(), &directory);
}

/// The user's own file, in the directory in which files land: servers love this name.
const MINE: &str = ".bashrc";

/// Checks that the user's own file is untouched, and that nothing else is there than what was asked for.
fn assert_only_asked(directory: &Path) {
    for entry in fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry")) {
        let name = entry.file_name().into_string().expect("a name of ours");
        let asked = ["copy0", "copy4", "tree", MINE, ".linger"];
        assert!(asked.contains(&&*name), "{name} was not asked for");
        assert!(
            name != MINE || fs::read(entry.path()).expect("a file") == MINE.as_bytes(),
            "{name} has changed"
        );
    }
}

/// Sends everything, whether or not somebody reads. A peer that has had enough closes the connection.
fn say(mut peer: &TcpStream, bytes: &[u8]) {
    let _ = peer.set_write_timeout(Some(Duration::from_secs(5)));
    let _ = peer.write_all(bytes);
    let _ = peer.shutdown(Shutdown::Write);
}

/// Checks that nothing outside has changed and that no link leads there. Then removes what is inside.
fn look_around(top: &Path, directory: &Path) {
    assert_untouched(top);
    let mut todo = vec![directory.to_owned()];
    while let Some(path) = todo.pop() {
        // A peer may have sent a mode that nobody can read.
        let _ = fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o700));
        for entry in fs::read_dir(&path).expect("a directory").map(|entry| entry.expect("an entry").path()) {
            let kind = fs::symlink_metadata(&entry).expect("its kind").file_type();
            if kind.is_symlink() {
                let target = fs::read_link(&entry).expect("its target");
                assert!(stays_inside(directory, &entry, &target), "{entry:?} leads to {target:?}");
                if let Ok(real) = fs::canonicalize(&entry) {
                    let top = fs::canonicalize(directory).expect("the directory");
                    assert!(real.starts_with(top), "{entry:?} leads to {real:?}");
                }
            }
            if kind.is_dir() {
                todo.push(entry);
            } else {
                assert!(kind.is_file() || kind.is_symlink(), "{entry:?} is {kind:?}");
            }
        }
    }
    for entry in fs::read_dir(directory).expect("the directory") {
        let path = entry.expect("an entry").path();
        let is_dir = fs::symlink_metadata(&path).expect("its kind").is_dir();
        if is_dir { fs::remove_dir_all(path) } else { fs::remove_file(path) }.expect("to remove it");
    }
}

/// Whether a link stays inside, judged by its text alone: nothing that it names need exist.
fn stays_inside(directory: &Path, link: &Path, target: &Path) -> bool {
    let mut place: PathBuf = link.parent().expect("a directory").to_owned();
    for component in target.components() {
        match component {
            Component::ParentDir => drop(place.pop()),
            Component::Normal(name) => place.push(name),
            Component::CurDir => {}
            _ => return false,
        }
        if !place.starts_with(directory) {
            return false;
        }
    }
    true
}
