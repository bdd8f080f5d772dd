//! What a server with 64 sessions, as many as it serves at once, takes of memory.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use linger_transfer::{
    BLOCK, Client, ClientKeys, ClientOptions, Destination, Identity, Input, ItemVerdict, Keyring, PutOptions,
    Security,
};

/// What a server serves at once.
const SESSIONS: usize = 64;
/// Each session holds a block that is being received, about 1.4 MiB with all else (docs/transfer.md). With a window of 16 MiB
/// for each, or a file of this test, it would be hundreds.
const BOUND_MIB: u64 = 160;
/// What each sends before all of them have begun, and as a whole.
const BEGUN: usize = BLOCK + BLOCK / 2;
const WHOLE: usize = 8 * BLOCK + 7;

/// A server that is killed when it goes out of scope.
struct Share(Child);

impl Drop for Share {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The most memory that a process has had, in MiB.
fn peak_mib(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() >> 10
}

/// The partial files that have a block or more.
fn begun(shared: &Path) -> usize {
    let Ok(entries) = fs::read_dir(shared.join(".linger")) else { return 0 };
    entries
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "part"))
        .filter(|entry| entry.metadata().is_ok_and(|meta| meta.len() >= BLOCK as u64))
        .count()
}

#[test]
fn a_server_with_64_sessions_has_a_block_for_each() {
    let top = tempfile::tempdir().unwrap();
    let (shared, keys) = (top.path().join("shared"), top.path().join("home/linger"));
    fs::create_dir(&shared).unwrap();
    fs::create_dir_all(&keys).unwrap();
    let server_key = Identity::load_or_create(&keys.join("key")).unwrap().public();
    let own = Arc::new(Identity::generate().unwrap());
    Keyring::new(keys.join("known_clients")).add("laptop", &own.public()).unwrap();
    let mut server = Command::new(env!("CARGO_BIN_EXE_linger"))
        .args(["share", "--writable", "--json", "--listen", "127.0.0.1:0"])
        .arg(&shared)
        .env("XDG_CONFIG_HOME", top.path().join("home"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map(Share)
        .unwrap();
    let mut out = BufReader::new(server.0.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    let address = crate::common::contract::line("share", &line)["address"].as_str().unwrap().to_owned();
    let port = address.rsplit(':').next().unwrap().parse().unwrap();
    std::thread::spawn(move || out.lines().for_each(drop));
    let hosts = Keyring::new(top.path().join("hosts"));
    hosts.add(&address, &server_key).unwrap();
    let alone = peak_mib(server.0.id());

    let content: Vec<u8> = (0..WHOLE).map(|place| (place / 4096) as u8).collect();
    let mut inlets = Vec::new();
    std::thread::scope(|scope| {
        let puts: Vec<_> = (0..SESSIONS)
            .map(|number| {
                let (outlet, inlet) = std::io::pipe().unwrap();
                inlets.push(File::from(OwnedFd::from(inlet)));
                let keys = ClientKeys::new(own.clone(), hosts.clone(), Arc::new(|_, _| None));
                scope.spawn(move || {
                    let mut options = ClientOptions::default();
                    options.security = Security::Always(keys);
                    options.retry.patience = Duration::ZERO;
                    let client = Client::new("127.0.0.1", port, options).unwrap();
                    let to = Destination::typed(format!("copy{number}").as_bytes()).unwrap();
                    let input = Input::Pipe(outlet.into());
                    let (summary, error) = client.put(input, &to, &PutOptions::default(), &mut |_| {});
                    assert_eq!(
                        summary.verdict(error.as_ref()),
                        ItemVerdict::Confirmed,
                        "{summary:?} {error:?}"
                    );
                })
            })
            .collect();
        let (first, rest) = content.split_at(BEGUN);
        // A pipe holds less than that, so each session reads its own.
        std::thread::scope(|scope| {
            for inlet in &mut inlets {
                scope.spawn(move || inlet.write_all(first).unwrap());
            }
        });
        // All of them are in the middle of a block, unless one has ended, which its test says.
        while begun(&shared) < SESSIONS && !puts.iter().any(|put| put.is_finished()) {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(begun(&shared), SESSIONS, "side by side");
        for mut inlet in inlets.drain(..) {
            scope.spawn(move || inlet.write_all(rest).unwrap());
        }
    });
    let peak = peak_mib(server.0.id());
    for number in 0..SESSIONS {
        assert!(fs::read(shared.join(format!("copy{number}"))).unwrap() == content, "{number}");
    }
    eprintln!("{alone} MiB without a session, {peak} MiB with {SESSIONS}");
    // A block for each is there at least: were it less, the sessions would not have been side by side.
    assert!((alone + SESSIONS as u64..=BOUND_MIB).contains(&peak), "{alone} MiB alone, {peak} MiB with all");
}
