//! What a key may do, asked of a server that runs: the limits of `linger peers` hold from the next connection on.

mod common;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::*;
use linger_transfer::*;
use tempfile::{TempDir, tempdir};

/// A server with keys that knows one client, and that client's home.
struct Known {
    to: TempDir,
    mine: TempDir,
    theirs: TempDir,
}

impl Known {
    fn new() -> Self {
        let known = Self { to: tempdir().unwrap(), mine: tempdir().unwrap(), theirs: tempdir().unwrap() };
        known.ring().add("laptop", &key(known.mine.path()).public()).unwrap();
        known
    }

    /// The server's file of known keys.
    fn ring(&self) -> Keyring {
        Keyring::new(self.theirs.path().join("known_clients"))
    }

    fn limit(&self, change: impl FnOnce(&mut Rights)) {
        let mut rights = Rights::default();
        change(&mut rights);
        assert_eq!(self.ring().change("laptop", &Change::Limit(rights)).unwrap(), 1);
    }

    fn share(&self, test: impl FnOnce(&Shared<'_>)) -> Vec<Served> {
        let configure = |options: &mut ShareOptions| {
            let keys = ServerKeys::new(Arc::new(key(self.theirs.path())), self.ring());
            options.keys = Some(keys);
            options.config =
                StreamsConfig::parse("[sink.a]\ncommand = ['cat']\n[sink.b]\ncommand = ['cat']\n").unwrap();
        };
        share(self.to.path(), configure, test)
    }

    fn client(&self, port: u16) -> Client {
        let hosts = Keyring::new(self.mine.path().join("known_hosts"));
        let name = format!("127.0.0.1:{port}");
        if !fs::read_to_string(hosts.path()).unwrap_or_default().contains(&name) {
            hosts.add(&name, &key(self.theirs.path()).public()).unwrap();
        }
        // It never has a code: a stranger is refused.
        let keys = ClientKeys::new(Arc::new(key(self.mine.path())), hosts, Arc::new(|_, _| None));
        let mut options = ClientOptions::default();
        options.security = Security::Always(keys);
        options.retry.patience = Duration::ZERO;
        Client::new("127.0.0.1", port, options).unwrap()
    }

    /// Puts a file of so many bytes; why not, if not.
    fn put(&self, port: u16, size: usize, to: &str) -> Result<(), String> {
        let file = self.mine.path().join("file");
        fs::write(&file, vec![7; size]).unwrap();
        let (summary, error) =
            self.client(port).put(Input::Path(file), &place(to), &PutOptions::default(), &mut |_| {});
        told(&summary, error)
    }

    fn get(&self, port: u16, from: &str) -> Result<(), String> {
        let output = Output::Path(self.mine.path().join("fetched"));
        let mut options = GetOptions::default();
        options.if_exists = IfExists::Replace;
        let (summary, error) = self.client(port).get(&place(from), &output, &options, &mut |_| {});
        told(&summary, error)
    }

    fn list(&self, port: u16) -> Result<Vec<String>, String> {
        let mut names = Vec::new();
        let listed = self
            .client(port)
            .list(&RelPath::root(), &mut |item| names.push(item.name.terminal().to_string()));
        names.sort();
        listed.map(|()| names).map_err(|error| error.to_string())
    }
}

fn key(home: &Path) -> Identity {
    Identity::load_or_create(&home.join("key")).unwrap()
}

fn told(summary: &Summary, error: Option<Error>) -> Result<(), String> {
    match summary.verdict(error.as_ref()) {
        ItemVerdict::Confirmed => Ok(()),
        _ => Err(error.map_or_else(|| format!("{:?}", summary.first_failure), |error| error.to_string())),
    }
}

fn refused<T: std::fmt::Debug>(result: Result<T, String>, why: &str) {
    let told = result.expect_err(why);
    assert!(told.contains(why), "{told}");
}

#[test]
fn a_key_that_may_only_read_writes_nothing_and_the_other_way_round() {
    let known = Known::new();
    fs::write(known.to.path().join("there"), "x").unwrap();
    known.share(|shared| {
        known.put(shared.port, 10, "before").unwrap();
        known.limit(|rights| rights.write = false);
        refused(known.put(shared.port, 10, "after"), "this key may not write here");
        known.get(shared.port, "there").unwrap();
        assert_eq!(known.list(shared.port).unwrap(), ["before", "there"]);
        known.limit(|rights| rights.read = false);
        known.put(shared.port, 10, "later").unwrap();
        refused(known.get(shared.port, "there"), "this key may not read here");
        refused(known.list(shared.port), "this key may not read here");
    });
    assert!(!known.to.path().join("after").exists());
}

#[test]
fn a_key_sees_its_directory_and_its_sinks_alone() {
    let known = Known::new();
    fs::create_dir(known.to.path().join("own")).unwrap();
    fs::write(known.to.path().join("secret"), "x").unwrap();
    std::os::unix::fs::symlink("../secret", known.to.path().join("own/link")).unwrap();
    known.limit(|rights| {
        rights.directory = RelPath::typed(b"own").unwrap();
        rights.sinks = Some(vec!["a".into()]);
    });
    known.share(|shared| {
        known.put(shared.port, 10, "mine").unwrap();
        assert_eq!(known.list(shared.port).unwrap(), ["link", "mine"]);
        refused(known.get(shared.port, "secret"), "No such file");
        assert!(known.get(shared.port, "link").is_err(), "its link leads out");
        known.put(shared.port, 10, "@a").unwrap();
        refused(known.put(shared.port, 10, "@b"), "this key may not use this sink");
    });
    assert!(known.to.path().join("own/mine").exists() && !known.to.path().join("mine").exists());
}

#[test]
fn a_quota_is_of_all_that_is_there() {
    let known = Known::new();
    known.limit(|rights| rights.quota = Some(1000));
    known.share(|shared| {
        known.put(shared.port, 600, "a").unwrap();
        refused(known.put(shared.port, 401, "b"), "400 are left of what this key may store");
        known.put(shared.port, 400, "b").unwrap();
        refused(known.put(shared.port, 1, "c"), "0 are left");
    });
    assert!(!known.to.path().join("c").exists());
}

/// The transfer under way is finished as it was begun; the next connection is a stranger's.
#[test]
fn a_key_that_is_revoked_during_a_session_comes_back_as_a_stranger() {
    let known = Known::new();
    let file = known.mine.path().join("large");
    fs::write(&file, bytes(4 * BLOCK, 1)).unwrap();
    known.share(|shared| {
        let mut revoked = 0;
        let (summary, error) = known.client(shared.port).put(
            Input::Path(file.clone()),
            &place("large"),
            &PutOptions::default(),
            &mut |progress| {
                if matches!(progress, Progress::Moved { .. }) && revoked == 0 {
                    revoked = known.ring().change("laptop", &Change::Revoke).unwrap();
                }
            },
        );
        assert_eq!((told(&summary, error), revoked), (Ok(()), 1));
        assert!(known.put(shared.port, 10, "after").is_err());
        assert!(known.list(shared.port).is_err());
    });
    assert!(!known.to.path().join("after").exists());
}
