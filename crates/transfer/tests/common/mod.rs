//! A server on loopback, a client for it, and trees to send.
#![allow(dead_code, reason = "each test file uses what it needs")]

pub(crate) mod frames;
pub(crate) mod mad;
pub(crate) mod proxy;

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use linger_transfer::*;

/// A server that runs until the test's closure returns, and the sessions that it has served.
pub(crate) struct Shared<'a> {
    pub(crate) port: u16,
    pub(crate) directory: &'a Path,
    pub(crate) server: &'a Server,
    served: &'a (Mutex<Vec<Served>>, Condvar),
}

impl Shared<'_> {
    /// Waits until `count` sessions have ended. Then everything they received is stored.
    pub(crate) fn wait_for_sessions(&self, count: usize) {
        let served = self.served.0.lock().unwrap();
        drop(self.served.1.wait_while(served, |served| served.len() < count).unwrap());
    }

    pub(crate) fn client(&self) -> Client {
        let mut options = ClientOptions::default();
        options.retry.patience = Duration::ZERO;
        Client::new("127.0.0.1", self.port, options).unwrap()
    }

    /// Puts, and expects everything to be confirmed.
    pub(crate) fn put(&self, input: impl Into<PathBuf>, to: &str) -> Summary {
        self.put_with(input, to, &PutOptions::default())
    }

    pub(crate) fn put_with(&self, input: impl Into<PathBuf>, to: &str, options: &PutOptions) -> Summary {
        let (summary, error) = self.try_put(input, to, options);
        assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::Confirmed, "{summary:?} {error:?}");
        summary
    }

    pub(crate) fn try_put(
        &self,
        input: impl Into<PathBuf>,
        to: &str,
        options: &PutOptions,
    ) -> (Summary, Option<Error>) {
        self.client().put(Input::Path(input.into()), &place(to), options, &mut |_| {})
    }

    pub(crate) fn get_with(
        &self,
        from: &str,
        to: impl Into<PathBuf>,
        options: &GetOptions,
    ) -> (Summary, Option<Error>) {
        self.client().get(&place(from), &Output::Path(to.into()), options, &mut |_| {})
    }

    pub(crate) fn get(&self, from: &str, to: impl Into<PathBuf>) -> Summary {
        let (summary, error) = self.get_with(from, to, &GetOptions::default());
        assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::Confirmed, "{summary:?} {error:?}");
        summary
    }
}

pub(crate) fn place(text: &str) -> Destination {
    Destination::typed(text.as_bytes()).unwrap()
}

/// A client that comes back for so long.
pub(crate) fn patient(port: u16, patience: Duration) -> Client {
    let mut options = ClientOptions::default();
    options.retry.first = Duration::from_millis(1);
    options.retry.patience = patience;
    Client::new("127.0.0.1", port, options).unwrap()
}

pub(crate) fn fifo(path: &Path) {
    assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
}

/// Serves `directory` while `test` runs; returns what was served.
pub(crate) fn share(
    directory: &Path,
    change: impl FnOnce(&mut ShareOptions),
    test: impl FnOnce(&Shared<'_>),
) -> Vec<Served> {
    let mut options = ShareOptions::new(directory);
    options.insecure_loopback = true;
    options.writable = true;
    change(&mut options);
    let server = Server::new(options).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let served = (Mutex::new(Vec::new()), Condvar::new());
    /// Ends the server even if the test panics: otherwise the panic would wait for the server for ever.
    struct End(session::Cancel);
    impl Drop for End {
        fn drop(&mut self) {
            self.0.cancel();
        }
    }
    std::thread::scope(|scope| {
        let end = End(server.canceller());
        let running = scope.spawn(|| {
            server.serve(&listener, None, &|serving| {
                if let Serving::Served(one) = serving {
                    served.0.lock().unwrap().push(*one);
                    served.1.notify_all();
                }
            })
        });
        test(&Shared { port, directory, server: &server, served: &served });
        drop(end);
        running.join().unwrap().unwrap();
    });
    served.0.into_inner().unwrap()
}

/// Bytes that look random and are the same every time.
pub(crate) fn bytes(length: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Everything that a transfer keeps of a tree, to compare.
pub(crate) fn picture(top: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(path) = todo.pop() {
        let full = top.join(&path);
        let meta = fs::symlink_metadata(&full).unwrap();
        let what = if meta.is_symlink() {
            format!("-> {}", fs::read_link(&full).unwrap().display())
        } else if meta.is_dir() {
            for entry in fs::read_dir(&full).unwrap() {
                todo.push(path.join(entry.unwrap().file_name()));
            }
            format!("dir {:o} {}.{:09}", meta.mode() & 0o777, meta.mtime(), meta.mtime_nsec())
        } else {
            let hash = blake3::hash(&fs::read(&full).unwrap());
            format!(
                "file {:o} {}.{:09} {} {hash}",
                meta.mode() & 0o777,
                meta.mtime(),
                meta.mtime_nsec(),
                meta.len()
            )
        };
        found.insert(path, what);
    }
    found
}

/// A tree with an entry of every kind.
pub(crate) fn make_tree(top: &Path) {
    fs::create_dir_all(top.join("sub/deep")).unwrap();
    fs::create_dir(top.join("empty")).unwrap();
    fs::write(top.join("zero"), b"").unwrap();
    fs::write(top.join("small"), bytes(4096, 1)).unwrap();
    fs::write(top.join("block"), bytes(BLOCK, 2)).unwrap();
    fs::write(top.join("sub/blocks"), bytes(3 * BLOCK, 3)).unwrap();
    fs::write(top.join("sub/odd"), bytes(5 * BLOCK + 12_345, 4)).unwrap();
    fs::write(top.join("sub/deep/new\nline"), b"x").unwrap();
    fs::set_permissions(top.join("small"), fs::Permissions::from_mode(0o750)).unwrap();
    symlink("../small", top.join("sub/link")).unwrap();
    symlink("nowhere", top.join("dangling")).unwrap();
    fs::set_permissions(top.join("empty"), fs::Permissions::from_mode(0o500)).unwrap();
}
