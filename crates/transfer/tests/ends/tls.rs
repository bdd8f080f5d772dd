//! TLS between two ends on loopback: pairing by code, pinned keys, and what is refused.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::common::*;
use linger_transfer::*;
use tempfile::tempdir;

/// A client that gets its code from `code`, and the number of times that it was asked for one.
fn client(port: u16, home: &Path, code: Arc<Mutex<String>>) -> (Client, Arc<AtomicUsize>) {
    client_with(port, home, code, 1)
}

fn client_with(
    port: u16,
    home: &Path,
    code: Arc<Mutex<String>>,
    streams: usize,
) -> (Client, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = asked.clone();
    let ask: AskCode = Arc::new(move |_, _| {
        counter.fetch_add(1, Ordering::SeqCst);
        Some(code.lock().unwrap().clone())
    });
    let identity = Arc::new(Identity::load_or_create(&home.join("key")).unwrap());
    let mut options = ClientOptions::default();
    options.security =
        Security::Always(ClientKeys::new(identity, Keyring::new(home.join("known_hosts")), ask));
    options.retry.patience = Duration::ZERO;
    options.streams = streams;
    (Client::new("127.0.0.1", port, options).unwrap(), asked)
}

fn server_keys(home: &Path) -> ServerKeys {
    let identity = Arc::new(Identity::load_or_create(&home.join("key")).unwrap());
    ServerKeys::new(identity, Keyring::new(home.join("known_clients")))
}

#[test]
fn strangers_pair_once_by_code_and_know_each_other_afterwards() {
    let (to, mine, theirs) = (tempdir().unwrap(), tempdir().unwrap(), tempdir().unwrap());
    let file = mine.path().join("file");
    fs::write(&file, bytes(5 * BLOCK + 99, 1)).unwrap();
    let code = Arc::new(Mutex::new("0000-0000".to_owned()));
    let put = |client: &Client, name: &str| {
        let (summary, error) =
            client.put(Input::Path(file.clone()), &place(name), &PutOptions::default(), &mut |_| {});
        (summary.verdict(error.as_ref()), error)
    };
    let change = |options: &mut ShareOptions| options.keys = Some(server_keys(theirs.path()));
    share(to.path(), change, |shared| {
        let started = Instant::now();
        let (client, asked) = client(shared.port, mine.path(), code.clone());
        let first = shared.server.code_for(std::net::Ipv4Addr::LOCALHOST.into());
        let (verdict, error) = put(&client, "a");
        assert_eq!(verdict, ItemVerdict::NotDelivered);
        assert!(error.unwrap().to_string().contains("code is wrong"));
        assert_ne!(
            shared.server.code_for(std::net::Ipv4Addr::LOCALHOST.into()),
            first,
            "a code is good for one guess"
        );
        *code.lock().unwrap() = shared.server.code_for(std::net::Ipv4Addr::LOCALHOST.into());
        let (mut verdict, mut error) = put(&client, "a");
        // The pause after a wrong guess is a second. If both attempts took longer, it is over (pair.rs has the rule).
        if started.elapsed() < Duration::from_secs(1) {
            assert!(error.is_some(), "guesses are slow");
        }
        // A guess that comes too early uses nothing up, so that the same code is right once the pause is over.
        while let Some(early) = &error {
            assert!(early.to_string().contains("too many attempts"), "{early}");
            std::thread::sleep(Duration::from_millis(20));
            (verdict, error) = put(&client, "a");
        }
        assert_eq!(verdict, ItemVerdict::Confirmed, "{error:?}");
        let codes = asked.load(Ordering::SeqCst);
        let (verdict, error) = put(&client, "b");
        assert_eq!((verdict, asked.load(Ordering::SeqCst)), (ItemVerdict::Confirmed, codes), "{error:?}");
        let (several, asked) = client_with(shared.port, mine.path(), code.clone(), 3);
        let (verdict, error) = put(&several, "c");
        assert_eq!((verdict, asked.load(Ordering::SeqCst)), (ItemVerdict::Confirmed, 0), "{error:?}");
    });
    assert!(fs::read(to.path().join("b")).unwrap() == fs::read(&file).unwrap());
}

#[test]
fn a_changed_key_is_refused_before_anything_is_sent() {
    let (to, mine, theirs) = (tempdir().unwrap(), tempdir().unwrap(), tempdir().unwrap());
    let change = |options: &mut ShareOptions| options.keys = Some(server_keys(theirs.path()));
    share(to.path(), change, |shared| {
        let name = format!("127.0.0.1:{}", shared.port);
        Keyring::new(mine.path().join("known_hosts")).add(&name, &[7; 32]).unwrap();
        let (client, asked) = client(shared.port, mine.path(), Arc::default());
        let error = client.list(&RelPath::root(), &mut |_| {}).unwrap_err();
        assert!(matches!(&error, Error::KeyChanged { .. }), "{error}");
        let file = mine.path().join("known_hosts").display().to_string();
        assert_eq!(error.remedy(), Some(Remedy::ForgetKey { host: name, file }));
        assert_eq!(asked.load(Ordering::SeqCst), 0);
    });
}

#[test]
fn a_server_whose_client_forgot_it_asks_for_a_code_again() {
    let (to, mine, theirs) = (tempdir().unwrap(), tempdir().unwrap(), tempdir().unwrap());
    let change = |options: &mut ShareOptions| options.keys = Some(server_keys(theirs.path()));
    share(to.path(), change, |shared| {
        let code = Arc::new(Mutex::new(shared.server.code_for(std::net::Ipv4Addr::LOCALHOST.into())));
        let (client, asked) = client(shared.port, mine.path(), code.clone());
        client.list(&RelPath::root(), &mut |_| {}).unwrap();
        fs::remove_file(mine.path().join("known_hosts")).unwrap();
        *code.lock().unwrap() = shared.server.code_for(std::net::Ipv4Addr::LOCALHOST.into());
        client.list(&RelPath::root(), &mut |_| {}).unwrap();
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    });
    let known = fs::read_to_string(theirs.path().join("known_clients")).unwrap();
    assert_eq!(known.lines().count(), 1, "the server knew the client all the time");
}

/// Both ends with the same home directory are the same user: no code is needed. Another home directory on the
/// same machine is another user's.
#[test]
fn the_same_users_ends_know_each_other_and_other_users_do_not() {
    let (to, mine, theirs) = (tempdir().unwrap(), tempdir().unwrap(), tempdir().unwrap());
    let change = |options: &mut ShareOptions| options.keys = Some(server_keys(mine.path()));
    share(to.path(), change, |shared| {
        let (own, asked) = client(shared.port, mine.path(), Arc::default());
        own.list(&RelPath::root(), &mut |_| {}).unwrap();
        assert_eq!(asked.load(Ordering::SeqCst), 0);
        // Even if another server had this port before.
        let name = format!("127.0.0.1:{}", shared.port);
        Keyring::new(mine.path().join("known_hosts")).add(&name, &[7; 32]).unwrap();
        own.list(&RelPath::root(), &mut |_| {}).unwrap();
        let (other, asked) = client(shared.port, theirs.path(), Arc::default());
        let error = other.list(&RelPath::root(), &mut |_| {}).unwrap_err();
        assert!(matches!(&error, Error::Identity(_)), "{error}");
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    });
    assert!(!mine.path().join("known_clients").exists(), "nobody was added");
}

/// Without verifying, the kernel moves content by itself, which it cannot decrypt: over TLS it is received as any other.
#[test]
fn unverified_content_is_decrypted() {
    let (to, mine, theirs) = (tempdir().unwrap(), tempdir().unwrap(), tempdir().unwrap());
    let (file, content) = (mine.path().join("file"), bytes(3 * BLOCK + 99, 1));
    fs::write(&file, &content).unwrap();
    let code = Arc::new(Mutex::new(String::new()));
    let change = |options: &mut ShareOptions| options.keys = Some(server_keys(theirs.path()));
    share(to.path(), change, |shared| {
        *code.lock().unwrap() = shared.server.code_for(std::net::Ipv4Addr::LOCALHOST.into());
        let (client, _) = client(shared.port, mine.path(), code.clone());
        let mut options = PutOptions::default();
        options.verify = false;
        let (summary, error) = client.put(Input::Path(file.clone()), &place("copy"), &options, &mut |_| {});
        assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::Confirmed, "{error:?}");
        assert!(fs::read(to.path().join("copy")).unwrap() == content);
        let mut options = GetOptions::default();
        options.verify = false;
        let back = mine.path().join("back");
        let (summary, error) = client.get(&place("copy"), &Output::Path(back.clone()), &options, &mut |_| {});
        assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::Confirmed, "{error:?}");
        assert!(fs::read(back).unwrap() == content);
    });
}
