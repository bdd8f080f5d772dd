//! A server that offers other things than the client asked for.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use super::*;
use crate::driver::Deadlines;
use crate::hash::{BLOCK, Sum, Tree};
use crate::machine::{Role, SessionLimits};
use crate::message::{EntryAnswer, IfExists};
use crate::message::{Kind, Time, Token, TreeEntry};
use crate::progress::ItemVerdict;
use crate::transport::Plain;

/// What a server sends, in order.
enum Said {
    Message(Message),
    Data(&'static [u8]),
}

fn entry(index: u64, kind: Kind, path: RelPath) -> Said {
    Said::Message(Message::Entry(TreeEntry {
        index,
        kind,
        path,
        mode: 0o644,
        mtime: Some(Time::default()),
        size: (kind == Kind::File).then_some(4),
        token: Token::default(),
        hash: None,
        sparse: false,
        by_blocks: false,
        target: Vec::new(),
    }))
}

fn content() -> [Said; 2] {
    let hash = Some(Tree::new().end(b"evil"));
    [Said::Data(b"evil"), Said::Message(Message::End { index: 0, size: 4, hash })]
}

fn offer_of(name: &[u8], directory: bool) -> Said {
    Said::Message(Message::Offer { name: name.to_vec(), directory })
}

fn total(entries: u64) -> Said {
    Said::Message(Message::Total { entries, failed_before: 0 })
}

/// Serves one `get` by a script.
fn serve(listener: &TcpListener, script: Vec<Said>) {
    let (accepted, _) = listener.accept().unwrap();
    let plain = Box::new(Plain::new(accepted).unwrap());
    let cancel = Cancel::new().unwrap();
    let mut session =
        Session::with(plain, Role::Responder, SessionLimits::default(), Deadlines::default(), cancel);
    let SessionEvent::Opened { stream, .. } = session.receive().unwrap() else { panic!("no request") };
    for said in script {
        match said {
            Said::Message(message) => session.message(stream, &message.encode()).unwrap(),
            Said::Data(bytes) => session.data(stream, bytes).unwrap(),
        }
    }
    session.finish(stream).unwrap();
    session.flush().unwrap();
    while session.receive().is_ok_and(|event| !matches!(event, SessionEvent::Finished { .. })) {}
    let _ = session.goodbye(0, "");
    session.close(&linger::Policy::default());
}

/// The verdict on a `get` from a server that follows a script.
fn get(asked: &str, script: Vec<Said>, replace: bool, here: &Path) -> ItemVerdict {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut client = ClientOptions::default();
    client.retry.patience = std::time::Duration::ZERO;
    let client = Client::new("127.0.0.1", port, client).unwrap();
    let options = GetOptions {
        if_exists: if replace { IfExists::Replace } else { IfExists::Fail },
        ..GetOptions::default()
    };
    std::thread::scope(|scope| {
        scope.spawn(|| serve(&listener, script));
        let from = Destination::typed(asked.as_bytes()).unwrap();
        let (summary, error) = client.get(&from, &Output::Path(here.join("")), &options, &mut |_| {});
        summary.verdict(error.as_ref())
    })
}

/// The names in a directory after `get host:ASKED DIRECTORY/`.
fn got(asked: &str, offered: &[u8], path: RelPath, replace: bool, here: &Path) -> Vec<String> {
    let mut script = vec![offer_of(offered, false), entry(0, Kind::File, path)];
    script.extend(content());
    script.push(total(1));
    get(asked, script, replace, here);
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
    // A path below the requested name is refused, too: what was asked for is a file.
    let below = RelPath::new(*b".bashrc").unwrap();
    assert_eq!(got("other", b"other", below, true, here.path()), [".bashrc", "disk.img"]);
    assert_eq!(fs::read(here.path().join(".bashrc")).unwrap(), b"mine");
}

/// The announced totals must be those of the entries that came: no more, no less, and nothing else.
#[test]
fn an_account_that_does_not_add_up_is_no_success() {
    let file = || entry(0, Kind::File, RelPath::root());
    let directory = || entry(0, Kind::Directory, RelPath::root());
    let leave = || Said::Message(Message::Leave { index: 0, mode: 0o755, mtime: Time::default() });
    let [data, end] = content();
    let honest = vec![offer_of(b"x", false), file(), data, end, total(1)];
    let here = tempfile::tempdir().unwrap();
    assert_eq!(get("x", honest, false, here.path()), ItemVerdict::Confirmed);
    let honest = vec![offer_of(b"y", true), directory(), leave(), total(1)];
    assert_eq!(get("y", honest, false, here.path()), ItemVerdict::Confirmed);
    for (what, script) in [
        ("nothing", vec![offer_of(b"z", false), total(0)]),
        ("a directory that is never left", vec![offer_of(b"z", true), directory(), total(1)]),
        ("less than it counts", vec![offer_of(b"z", true), directory(), leave(), total(7)]),
        ("more than it counts", vec![offer_of(b"z", true), directory(), leave(), total(0)]),
        ("a directory offered as a file", vec![offer_of(b"z", false), directory(), leave(), total(1)]),
    ] {
        assert_eq!(get("z", script, false, here.path()), ItemVerdict::NotDelivered, "{what}");
    }
}

/// Puts a file of two blocks to a receiver that says it has the first one, full of the byte `theirs`. Returns whether the client
/// sends more; false if it aborts the file.
fn goes_on(theirs: u8, change: impl FnOnce(&mut PutOptions)) -> bool {
    let from = tempfile::tempdir().unwrap();
    let file = from.path().join("file");
    fs::write(&file, vec![7; 2 * BLOCK]).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut options = ClientOptions::default();
    options.retry.patience = std::time::Duration::ZERO;
    let client = Client::new("127.0.0.1", listener.local_addr().unwrap().port(), options).unwrap();
    let mut options = PutOptions::default();
    change(&mut options);
    std::thread::scope(|scope| {
        let put = || client.put(Input::Path(file), &Destination::typed(b"x").unwrap(), &options, &mut |_| {});
        scope.spawn(put);
        let (accepted, _) = listener.accept().unwrap();
        let (role, limits) = (Role::Responder, SessionLimits::default());
        let plain = Box::new(Plain::new(accepted).unwrap());
        let mut session = Session::with(plain, role, limits, Deadlines::default(), Cancel::new().unwrap());
        let SessionEvent::Opened { stream, .. } = session.receive().unwrap() else { panic!("no request") };
        let say =
            |session: &mut Session, message: Message| session.message(stream, &message.encode()).unwrap();
        say(&mut session, Message::Accept { ask: true, memory: [0; 16] });
        loop {
            let bytes = match session.receive().unwrap() {
                SessionEvent::Message { bytes, .. } => bytes,
                SessionEvent::Data { .. } => return true,
                SessionEvent::Works(_) => continue,
                event => panic!("{event:?}"),
            };
            match Message::decode(&bytes).unwrap() {
                Message::Entry(entry) => {
                    let mut tree = Tree::new();
                    tree.push(Sum::of(0, &vec![theirs; BLOCK]));
                    let answer = EntryAnswer::Partial(tree);
                    say(&mut session, Message::Answer { index: entry.index, answer });
                }
                Message::Abort { refusal, text, .. } => {
                    assert_eq!(refusal, crate::message::Refusal::Source);
                    assert!(
                        text.to_string().contains("does not begin any more with what was sent"),
                        "{text}"
                    );
                    return false;
                }
                Message::Total { .. } => {}
                message => panic!("{message:?}"),
            }
        }
    })
}

/// What a receiver has is compared with the file if that was asked for, and otherwise believed.
#[test]
fn what_was_sent_before_is_read_again_if_asked_for() {
    assert!(goes_on(8, |_| {}), "not asked for");
    assert!(!goes_on(8, |options| options.selection.reread = true), "another block");
    assert!(goes_on(7, |options| options.selection.reread = true), "the same block");
}
