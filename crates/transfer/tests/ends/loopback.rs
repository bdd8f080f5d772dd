//! Over loopback without encryption: only clients of the same user are served, even if somebody forwards the
//! connection.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::common::proxy::Proxy;
use crate::common::*;
use linger_testing::skip;
use linger_transfer::*;
use tempfile::tempdir;

/// A client that encrypts to other machines only; it has no code to give, and counts how often it was asked for one.
fn client(port: u16, home: &Path) -> (Client, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = asked.clone();
    let ask: AskCode = Arc::new(move |_, _| {
        counter.fetch_add(1, Ordering::SeqCst);
        None
    });
    let identity = Arc::new(Identity::load_or_create(&home.join("key")).unwrap());
    let mut options = ClientOptions::default();
    options.security =
        Security::Remote(ClientKeys::new(identity, Keyring::new(home.join("known_hosts")), ask));
    options.retry.patience = Duration::ZERO;
    (Client::new("127.0.0.1", port, options).unwrap(), asked)
}

fn with_keys(home: &Path) -> impl FnOnce(&mut ShareOptions) {
    let identity = Arc::new(Identity::load_or_create(&home.join("key")).unwrap());
    let keys = ServerKeys::new(identity, Keyring::new(home.join("known_clients")));
    move |options| {
        options.keys = Some(keys);
        options.insecure_loopback = false;
    }
}

fn put(client: &Client, file: &Path, name: &str) -> (ItemVerdict, Option<Error>, bool) {
    let mut secure = false;
    let (summary, error) =
        client.put(Input::Path(file.to_owned()), &place(name), &PutOptions::default(), &mut |progress| {
            if let Progress::Connected { secure: now } = progress {
                secure = now;
            }
        });
    (summary.verdict(error.as_ref()), error, secure)
}

#[test]
fn the_same_user_needs_no_code_and_a_stranger_behind_a_forward_does() {
    let (to, ours, other) = (tempdir().unwrap(), tempdir().unwrap(), tempdir().unwrap());
    let file = ours.path().join("file");
    fs::write(&file, bytes(3 * BLOCK, 1)).unwrap();
    share(to.path(), with_keys(ours.path()), |shared| {
        let forward = Proxy::new(shared.port, None);
        for (port, name) in [(shared.port, "direct"), (forward.port, "forwarded")] {
            let (client, asked) = client(port, ours.path());
            let (verdict, error, secure) = put(&client, &file, name);
            assert_eq!((verdict, secure), (ItemVerdict::Confirmed, false), "{name}: {error:?}");
            assert_eq!(asked.load(Ordering::SeqCst), 0);
        }
        for (port, name) in [(shared.port, "stranger"), (forward.port, "strangers-forward")] {
            let (client, asked) = client(port, other.path());
            let (verdict, error, _) = put(&client, &file, name);
            assert_eq!(verdict, ItemVerdict::NotDelivered, "{name}");
            assert!(
                error.unwrap().to_string().contains("not known yet"),
                "{name}: encrypted, and asked for a code"
            );
            assert_eq!(asked.load(Ordering::SeqCst), 1);
            let mut listed = 0;
            assert!(client.list(&RelPath::root(), &mut |_| listed += 1).is_err());
            assert_eq!(listed, 0, "{name}");
        }
        // A client without keys has no proof.
        let (verdict, error, _) = put(&shared.client(), &file, "keyless");
        assert_eq!(verdict, ItemVerdict::NotDelivered);
        assert_eq!(error.unwrap().remedy(), Some(Remedy::Encrypt));
    });
    let mut names: Vec<_> =
        fs::read_dir(to.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["direct", "forwarded"]);
}

#[test]
fn who_wants_everybody_on_loopback_says_so() {
    let (to, ours) = (tempdir().unwrap(), tempdir().unwrap());
    let file = ours.path().join("file");
    fs::write(&file, b"x").unwrap();
    let keys = with_keys(ours.path());
    let change = |options: &mut ShareOptions| {
        keys(options);
        options.insecure_loopback = true;
    };
    share(to.path(), change, |shared| {
        assert_eq!(put(&shared.client(), &file, "keyless").0, ItemVerdict::Confirmed);
    });
}

/// Another user may get this user's client to connect to a port of theirs, and could pass its proof on: it must not
/// be accepted over a connection of theirs.
#[test]
fn another_users_forward_is_not_this_user() {
    if !rustix::process::geteuid().is_root() {
        skip("root", "another user is needed");
        return;
    }
    let (to, ours) = (tempdir().unwrap(), tempdir().unwrap());
    let file = ours.path().join("file");
    fs::write(&file, b"x").unwrap();
    for (user, expected) in [(0, ItemVerdict::Confirmed), (23_997, ItemVerdict::NotDelivered)] {
        share(to.path(), with_keys(ours.path()), |shared| {
            // A listener that hands each connection to a program of the other user, which connects to the server on
            // its own.
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let port = listener.local_addr().unwrap().port();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let (accepted, _) = listener.accept().unwrap();
                    let both = "exec 3<>/dev/tcp/127.0.0.1/$0 || exit; cat <&3 & exec cat >&3";
                    let mut relay = Command::new("bash");
                    relay.args(["-c", both, &shared.port.to_string()]).uid(user).gid(user);
                    let input: std::os::fd::OwnedFd = accepted.try_clone().unwrap().into();
                    let output: std::os::fd::OwnedFd = accepted.into();
                    relay.stdin(Stdio::from(input)).stdout(Stdio::from(output)).stderr(Stdio::null());
                    drop(listener);
                    relay.status().unwrap();
                });
                let (client, _) = client(port, ours.path());
                let (verdict, error, _) = put(&client, &file, &format!("of-{user}"));
                assert_eq!(verdict, expected, "{error:?}");
            });
        });
    }
    assert!(to.path().join("of-0").exists() && !to.path().join("of-23997").exists());
}
