//! What is refused over loopback TCP, and what is followed: links by name, links that lead out, servers of another kind.

mod common;

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;

use common::*;
use linger_transfer::*;
use tempfile::tempdir;

/// For a link that the user names, its target is sent, wherever that is. The copy has the name of the link.
#[test]
fn a_link_that_is_put_by_name_is_followed() {
    let (elsewhere, from, to) = (tempdir().unwrap(), tempdir().unwrap(), tempdir().unwrap());
    fs::write(elsewhere.path().join("file"), b"content").unwrap();
    fs::create_dir(elsewhere.path().join("dir")).unwrap();
    fs::write(elsewhere.path().join("dir/inside"), b"inside").unwrap();
    for name in ["file", "dir"] {
        symlink(elsewhere.path().join(name), from.path().join(format!("to-{name}"))).unwrap();
    }
    share(
        to.path(),
        |_| {},
        |shared| {
            shared.put(from.path().join("to-file"), "");
            shared.put(from.path().join("to-dir"), "");
        },
    );
    assert_eq!(fs::read(to.path().join("to-file")).unwrap(), b"content");
    assert_eq!(fs::read(to.path().join("to-dir/inside")).unwrap(), b"inside");
    assert!(!fs::symlink_metadata(to.path().join("to-file")).unwrap().is_symlink());
}

/// Any program may listen on the port: the client must not wait for two minutes until it notices that the server
/// speaks another protocol.
#[test]
fn a_server_of_another_kind_is_told_at_once() {
    use std::io::Read as _;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let answering = std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        client.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let _ = client.read_to_end(&mut Vec::new());
        listener.set_nonblocking(true).unwrap();
        listener.accept().is_err()
    });
    let from = tempdir().unwrap();
    let client = Client::new("127.0.0.1", port, ClientOptions::default()).unwrap();
    let input = Input::Path(from.path().into());
    let (summary, error) = client.put(input, &place(""), &PutOptions::default(), &mut |_| {});
    assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::NotDelivered);
    let error = error.unwrap();
    assert!(error.to_string().ends_with("does not speak this protocol"), "{error}");
    assert_eq!(error.remedy(), Some(Remedy::CheckService));
    assert!(answering.join().unwrap(), "it was tried once");
}

#[test]
fn what_is_refused_is_said_and_nothing_is_written() {
    let (from, to) = (tempdir().unwrap(), tempdir().unwrap());
    let file = from.path().join("file");
    fs::write(&file, bytes(3 * BLOCK, 1)).unwrap();
    fs::write(to.path().join("there"), b"old").unwrap();
    let refused = |shared: &Shared<'_>, to: &str, expected: &str| {
        let (summary, error) = shared.try_put(&file, to, &PutOptions::default());
        assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::NotDelivered);
        let said = summary
            .first_failure
            .as_ref()
            .map(ToString::to_string)
            .or(error.map(|error| error.to_string()))
            .unwrap();
        assert!(said.contains(expected), "{to}: {said}");
    };
    share(
        to.path(),
        |_| {},
        |shared| {
            refused(shared, "there", "exists already");
            refused(shared, "there/dir", "Not a directory");
            refused(shared, ".linger/x", "used by the receiver");
            refused(shared, ".LINGER/x", "used by the receiver");
            refused(shared, "@print", "no sink `@print`");
        },
    );
    share(
        to.path(),
        |options| options.writable = false,
        |shared| {
            refused(shared, "new", "reading only");
            let (_, error) = shared.get_with("missing", from.path().join("x"), &GetOptions::default());
            assert!(matches!(error, Some(Error::Refused(Refusal::NotFound, _))), "{error:?}");
        },
    );
    assert_eq!(fs::read(to.path().join("there")).unwrap(), b"old");
    assert_eq!(fs::read_dir(to.path()).unwrap().count(), 1);
}

#[test]
fn links_out_of_the_directory_lead_nowhere() {
    let (outside, to) = (tempdir().unwrap(), tempdir().unwrap());
    fs::write(outside.path().join("secret"), b"secret").unwrap();
    symlink(outside.path(), to.path().join("out")).unwrap();
    symlink(outside.path().join("secret"), to.path().join("file")).unwrap();
    symlink("/dev/zero", to.path().join("zero")).unwrap();
    let fifo = std::process::Command::new("mkfifo").arg(to.path().join("fifo")).status();
    assert!(fifo.unwrap().success());
    let back = tempdir().unwrap();
    share(
        to.path(),
        |_| {},
        |shared| {
            for from in ["out/secret", "file", "zero", "out", "fifo"] {
                let (summary, error) = shared.get_with(from, back.path().join("got"), &GetOptions::default());
                assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::NotDelivered, "{from}");
            }
            let file = back.path().join("mine");
            fs::write(&file, b"mine").unwrap();
            for into in ["out/new", "file", "zero"] {
                let mut options = PutOptions::default();
                options.if_exists = IfExists::Replace;
                let (summary, error) = shared.try_put(&file, into, &options);
                let delivered = summary.verdict(error.as_ref()) == ItemVerdict::Confirmed;
                assert!(!delivered, "{into} {summary:?} {error:?}");
            }
            // For a tree, the entries that cannot be sent are named, and the rest is sent.
            fs::write(to.path().join("plain"), b"plain").unwrap();
            let (summary, _) = shared.get_with("", back.path().join("all"), &GetOptions::default());
            assert_eq!((summary.confirmed, summary.failed), (2, 4), "the receiver gets what could be sent");
        },
    );
    assert_eq!(fs::read(outside.path().join("secret")).unwrap(), b"secret");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
    assert!(!back.path().join("got").exists());
}
