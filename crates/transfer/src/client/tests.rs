//! A server that offers something else than was asked for.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use super::*;
use crate::driver::Deadlines;
use crate::hash::Tree;
use crate::machine::{Role, SessionLimits};
use crate::message::{Time, Token, TreeEntry};
use crate::transport::Plain;

/// Serves one `get`: a file under a name of the server's choice.
fn serve(listener: &TcpListener, offered: &[u8], path: RelPath) {
    let (accepted, _) = listener.accept().unwrap();
    let plain = Box::new(Plain::new(accepted).unwrap());
    let cancel = Cancel::new().unwrap();
    let mut session =
        Session::with(plain, Role::Responder, SessionLimits::default(), Deadlines::default(), cancel);
    let SessionEvent::Opened { stream, .. } = session.receive().unwrap() else { panic!("no request") };
    let mut say = |message: Message| session.message(stream, &message.encode()).unwrap();
    say(Message::Offer { name: offered.to_vec(), directory: false });
    say(Message::Entry(TreeEntry {
        index: 0,
        kind: Kind::File,
        path,
        mode: 0o644,
        mtime: Some(Time::default()),
        size: Some(4),
        token: Token::default(),
        hash: None,
        sparse: false,
        target: Vec::new(),
    }));
    session.data(stream, b"evil").unwrap();
    let mut say = |message: Message| session.message(stream, &message.encode()).unwrap();
    say(Message::End { index: 0, size: 4, hash: Some(Tree::new().end(b"evil")) });
    say(Message::Total { entries: 1 });
    session.finish(stream).unwrap();
    session.flush().unwrap();
    while session.receive().is_ok_and(|event| !matches!(event, SessionEvent::Finished { .. })) {}
    let _ = session.goodbye(0, "");
    session.close(&linger::Policy::default());
}

/// The names in a directory after `get host:ASKED DIRECTORY/`.
fn got(asked: &str, offered: &[u8], path: RelPath, replace: bool, here: &Path) -> Vec<String> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut client = ClientOptions::default();
    client.retry.patience = std::time::Duration::ZERO;
    let client = Client::new("127.0.0.1", port, client).unwrap();
    let options = GetOptions { replace, ..GetOptions::default() };
    std::thread::scope(|scope| {
        scope.spawn(|| serve(&listener, offered, path));
        let from = Destination::typed(asked.as_bytes()).unwrap();
        client.get(&from, &Output::Path(here.join("")), &options, &mut |_| {});
    });
    let mut names: Vec<_> = fs::read_dir(here)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != crate::path::WORK)
        .collect();
    names.sort();
    names
}

#[test]
fn a_name_comes_from_the_request_alone() {
    let top = RelPath::root;
    for (asked, offered, named) in [
        ("disk.img", &b"disk.img"[..], "disk.img"),
        ("disk.img", b".bashrc", "disk.img"),
        ("sub/disk.img", b".bashrc", "disk.img"),
        ("disk.img", b"", "disk.img"),
        ("disk.img", b"a/b", "disk.img"),
        ("@clipboard", b".bashrc", "clipboard"),
    ] {
        let here = tempfile::tempdir().unwrap();
        let names = got(asked, offered, top(), false, here.path());
        assert_eq!(names, [named], "{asked} offered as {offered:?}");
        assert_eq!(fs::read(here.path().join(named)).unwrap(), b"evil");
    }
}

#[test]
fn what_is_overwritten_was_asked_for() {
    let here = tempfile::tempdir().unwrap();
    fs::write(here.path().join(".bashrc"), "mine").unwrap();
    assert_eq!(got("disk.img", b".bashrc", RelPath::root(), true, here.path()), [".bashrc", "disk.img"]);
    assert_eq!(fs::read(here.path().join(".bashrc")).unwrap(), b"mine");
    // Nor is it what lies below what was asked for, which is a file.
    let below = RelPath::new(*b".bashrc").unwrap();
    assert_eq!(got("other", b"other", below, true, here.path()), [".bashrc", "disk.img"]);
    assert_eq!(fs::read(here.path().join(".bashrc")).unwrap(), b"mine");
}
