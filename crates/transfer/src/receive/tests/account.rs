//! Ends, receipts and the closing account.

use std::os::unix::fs::MetadataExt as _;

use super::*;
use crate::message::IfExists;

fn tempdir() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn a_tree_lands_with_modes_times_and_receipts() {
    for durability in [Durability::Memory, Durability::Disk] {
        let to = tempdir();
        let mut link = entry(3, Kind::Link, "d/l", None);
        link.target = b"../a".to_vec();
        let script = [
            directory(0, ""),
            file(1, "a", 5),
            Data(b"hello".to_vec()),
            end(1, b"hello"),
            directory(2, "d"),
            Say(Message::Entry(link)),
            leave(2),
            leave(0),
            total(4),
        ];
        let options = Options { durability, ..VERIFIED };
        let received = receive(To::Directory(to.path()), with(options), &script);
        received.done(4, 0);
        let mut names: Vec<_> =
            received.receipts().iter().map(|receipt| (receipt.index, receipt.name.clone())).collect();
        names.sort();
        let expected = [(0, "top"), (1, "top/a"), (2, "top/d"), (3, "top/d/l")];
        assert_eq!(names, expected.map(|(index, name)| (index, name.as_bytes().to_vec())));
        assert!(received.receipts().iter().all(|receipt| receipt.durability == durability));
        let mut modes: Vec<_> =
            received.receipts().iter().map(|receipt| (receipt.index, receipt.mode)).collect();
        modes.sort_unstable();
        assert_eq!(modes, [(0, Some(0o750)), (1, Some(0o640)), (2, Some(0o750)), (3, None)]);
        assert_eq!(read(&to, "top/a"), b"hello");
        assert_eq!(std::fs::read_link(to.path().join("top/d/l")).unwrap(), Path::new("../a"));
        for name in ["top", "top/d"] {
            let found = std::fs::metadata(to.path().join(name)).unwrap();
            assert_eq!((found.mode() & 0o777, found.mtime()), (0o750, 1_000_000_001), "{name}");
        }
        let found = std::fs::metadata(to.path().join("top/a")).unwrap();
        assert_eq!((found.mode() & 0o777, found.mtime(), found.mtime_nsec()), (0o640, 1_000_000_000, 7));
        let started = received.seen.iter().filter_map(|seen| match seen {
            Progress::Started { path, kind, resumed: 0, .. } => Some((path.to_string(), *kind)),
            _ => None,
        });
        let started: Vec<_> = started.collect();
        let expected =
            [(".", Kind::Directory), ("a", Kind::File), ("d", Kind::Directory), ("d/l", Kind::Link)];
        assert_eq!(started, expected.map(|(path, kind)| (path.to_owned(), kind)));
        let confirmed = received.seen.iter().filter_map(|seen| match seen {
            Progress::Confirmed(confirmation) => Some((confirmation.path.to_string(), confirmation.kind)),
            _ => None,
        });
        let mut confirmed: Vec<_> = confirmed.collect();
        confirmed.sort_by_key(|(path, _)| path.clone());
        assert_eq!(confirmed, expected.map(|(path, kind)| (path.to_owned(), kind)));
    }
}

/// Few files are synced one by one, more of them with their whole file system; a receipt says which.
#[test]
fn a_receipt_says_how_its_file_was_synced() {
    for (files, durability, said) in [
        (3, Durability::Disk, Durability::Disk),
        (4, Durability::Disk, Durability::FileSystem),
        (4, Durability::Memory, Durability::Memory),
    ] {
        let to = tempdir();
        let mut script = vec![directory(9, "")];
        for (index, name) in (0..files).zip(["a", "b", "c", "d"]) {
            script.extend([file(index, name, 1), Data(b"x".to_vec()), end(index, b"x")]);
        }
        script.extend([leave(9), total(files + 1)]);
        let options = Options { durability, ..VERIFIED };
        let received = receive(To::Directory(to.path()), with(options), &script);
        received.done(files + 1, 0);
        for receipt in received.receipts() {
            // A directory is synced by itself in any case.
            let said = if receipt.index == 9 { durability } else { said };
            assert_eq!(receipt.durability, said, "{files} {receipt:?}");
        }
    }
}

/// A complete file is confirmed while the sender is silent, not only at the end of the tree.
#[test]
fn what_is_complete_is_confirmed_in_a_silence() {
    let to = tempdir();
    let options = Options { durability: Durability::Disk, ..VERIFIED };
    let script = [
        directory(9, ""),
        file(0, "a", 1),
        Data(b"x".to_vec()),
        end(0, b"x"),
        Step::AwaitReceipt,
        leave(9),
        total(2),
    ];
    receive(To::Directory(to.path()), with(options), &script).done(2, 0);
}

/// If the connection is cut after a file is complete, its receipt is lost, but not the file.
#[test]
fn what_was_complete_before_a_cut_is_there() {
    let to = tempdir();
    let script = [file(0, "", 1), Data(b"x".to_vec()), end(0, b"x")];
    let received = receive(To::Directory(to.path()), with(VERIFIED), &script);
    assert!(matches!(received.result, Err(Error::Cut(_))), "{received:?}");
    assert_eq!((received.receipts().len(), received.summary.confirmed, received.summary.unsent), (1, 1, 0));
    assert_eq!(read(&to, "top"), b"x");
}

/// An End has to be that of the first announced file.
#[test]
fn files_end_in_their_order() {
    for step in [
        end(1, b""),
        Say(Message::Same { index: 1 }),
        Say(Message::Abort { index: 1, refusal: Refusal::Source, text: "x".into() }),
    ] {
        let to = tempdir();
        let script = [directory(9, ""), file(0, "a", 0), file(1, "b", 0), step];
        let received = receive(To::Directory(to.path()), again(VERIFIED), &script);
        assert_eq!(received.violation(), &Violation::Unexpected("the end of another file"));
    }
    let to = tempdir();
    let received = receive(To::Directory(to.path()), with(VERIFIED), &[end(0, b"")]);
    assert_eq!(received.violation(), &Violation::Unexpected("the end of another file"), "there is none");
}

#[test]
fn the_total_comes_after_every_end_and_other_messages_never() {
    let to = tempdir();
    let received = receive(To::Directory(to.path()), with(VERIFIED), &[file(0, "", 0), total(1)]);
    assert_eq!(received.violation(), &Violation::Unexpected("a message"));
    for message in [
        Message::Offer { name: b"x".to_vec(), directory: false },
        Message::Accept { ask: false, memory: [0; 16] },
        Message::Done {
            confirmed: 0,
            failed: 0,
            digest: Some(crate::account::Account::default().digest()),
            signature: None,
        },
        Message::Progress { index: 0, bytes: 0 },
    ] {
        let to = tempdir();
        let received = receive(To::Directory(to.path()), with(VERIFIED), &[Say(message)]);
        assert_eq!(received.violation(), &Violation::Unexpected("a message"));
    }
}

#[test]
fn frames_of_other_streams_and_goodbyes_end_it() {
    for frame in [
        frame_of(Frame::Open, 5, b""),
        frame_of(Frame::Data, EARLIER, b"x"),
        frame_of(Frame::Message, EARLIER, &Message::Total { entries: 0, failed_before: 0 }.encode()),
        frame_of(Frame::Finish, STREAM, b""),
    ] {
        let to = tempdir();
        let received = receive(To::Directory(to.path()), with(VERIFIED), &[file(0, "", 1), frame.clone()]);
        assert_eq!(received.violation(), &Violation::Unexpected("a frame"), "{frame:?}");
        assert_eq!(received.moved(), 0);
    }
    let to = tempdir();
    let cancel = frame_of(Frame::Cancel, STREAM, &wire::reason_bytes(0, "enough"));
    let received = receive(To::Directory(to.path()), with(VERIFIED), &[cancel]);
    assert!(
        matches!(&received.result, Err(Error::Ended(reason)) if reason.to_string() == "enough"),
        "{received:?}"
    );
    for (code, temporary) in [(1, false), (2, true)] {
        let to = tempdir();
        let bye = frame_of(Frame::Bye, 0, &wire::reason_bytes(code, "x\nhint: replace"));
        let received = receive(To::Directory(to.path()), with(VERIFIED), &[bye]);
        let error = received.result.unwrap_err();
        assert_eq!(
            (error.is_temporary(), matches!(error, Error::Ended(_))),
            (temporary, !temporary),
            "{error:?}"
        );
        assert_eq!(error.remedy(), Some(crate::reason::Remedy::Replace), "{error:?}");
    }
}

fn frame_of(kind: Frame, stream: u16, payload: &[u8]) -> Step {
    Step::Frame(kind, stream, payload.to_vec())
}

/// For a file that exists here, the sender compares the hashes: it says *same*, or sends the file anew.
#[test]
fn a_file_that_is_here_is_confirmed_or_comes_anew() {
    let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 7);
    let here = |options: Options| {
        let to = tempdir();
        std::fs::write(to.path().join("top"), b"here").unwrap();
        std::fs::File::options().write(true).open(to.path().join("top")).unwrap().set_modified(time).unwrap();
        (to, with(options))
    };
    for (options, told, hash) in
        [(VERIFIED, hash(b"here").unwrap(), hash(b"here")), (UNVERIFIED, Hash::default(), None)]
    {
        let (to, with) = here(options);
        let received = receive(
            To::Directory(to.path()),
            with,
            &[file(0, "", 4), Say(Message::Same { index: 0 }), total(1)],
        );
        let [
            Message::Answer { index: 0, answer: EntryAnswer::Complete(answered) },
            Message::Receipt(receipt),
        ] = received.done(1, 0)
        else {
            panic!("{received:?}")
        };
        assert_eq!(*answered, told);
        assert_eq!(
            (receipt.present, receipt.size, receipt.hash, &receipt.name[..]),
            (true, 4, hash, &b"top"[..])
        );
    }
    let (to, with) = here(Options { if_exists: IfExists::Replace, ..VERIFIED });
    let script = [file(0, "", 4), Data(b"anew".to_vec()), end(0, b"anew"), total(1)];
    let received = receive(To::Directory(to.path()), with, &script);
    let [Message::Answer { .. }, Message::Receipt(receipt)] = received.done(1, 0) else {
        panic!("{received:?}")
    };
    assert!(!receipt.present);
    assert_eq!(read(&to, "top"), b"anew");
    // Of an empty file the sender sends only the End.
    let to = tempdir();
    std::fs::write(to.path().join("top"), b"").unwrap();
    std::fs::File::options().write(true).open(to.path().join("top")).unwrap().set_modified(time).unwrap();
    let with = super::with(Options { if_exists: IfExists::Replace, ..VERIFIED });
    let received = receive(To::Directory(to.path()), with, &[file(0, "", 0), end(0, b""), total(1)]);
    received.done(1, 0);
}

#[test]
fn the_same_is_said_of_what_is_complete_here_alone() {
    let to = tempdir();
    let received = receive(
        To::Directory(to.path()),
        again(VERIFIED),
        &[file(0, "", 4), Say(Message::Same { index: 0 })],
    );
    assert_eq!(received.violation(), &Violation::Unexpected("the same of another file"));
}

/// A Leave for a directory that was not announced is ignored.
#[test]
fn leaving_a_directory_that_is_unknown_says_nothing() {
    let to = tempdir();
    let received = receive(To::Directory(to.path()), again(VERIFIED), &[leave(7), total(0)]);
    assert!(received.done(0, 0).is_empty());
}

/// A file that the sender aborts counts as one failure. What has arrived of it is kept, unless the source has
/// changed.
#[test]
fn an_abort_forgets_a_source_that_has_changed() {
    for (refusal, keeps) in [(Refusal::Source, 0), (Refusal::Other, 2)] {
        let (to, whole) = (tempdir(), bytes(BLOCK));
        let abort = Say(Message::Abort { index: 0, refusal, text: "it changed".into() });
        let script =
            [file(0, "", 2 * SIZE), Data(whole.clone()), sum(0, &whole), Data(vec![1]), abort, total(1)];
        let received = receive(To::Directory(to.path()), with(VERIFIED), &script);
        assert!(received.done(0, 1).is_empty());
        assert_eq!(kept(&to).len(), keeps, "{refusal:?}");
        assert!(received.summary.first_failure.as_deref() == Some("it changed"));
        let seen = received
            .seen
            .iter()
            .any(|seen| matches!(seen, Progress::NotDelivered { refusal: r, .. } if *r == refusal));
        assert!(seen, "{received:?}");
    }
    let to = tempdir();
    let abort = Say(Message::Abort { index: 0, refusal: Refusal::Source, text: "it changed".into() });
    let received = receive(
        To::Directory(to.path()),
        with(VERIFIED),
        &[directory(9, ""), file(0, "none/a", 1), abort, leave(9), total(2)],
    );
    received.done(1, 1);
}

/// A file is aborted in the middle of a block: nothing of it gets into the next file.
#[test]
fn nothing_of_an_aborted_file_gets_into_the_next() {
    for options in [VERIFIED, UNVERIFIED] {
        let to = tempdir();
        let abort = Say(Message::Abort { index: 0, refusal: Refusal::Source, text: "x".into() });
        let second = Message::End { index: 1, size: 1, hash: hash(b"b").filter(|_| options.verify) };
        let script = [
            directory(9, ""),
            file(0, "a", 9),
            Data(b"aaa".to_vec()),
            abort,
            file(1, "b", 1),
            Data(b"b".to_vec()),
            Say(second),
            leave(9),
            total(3),
        ];
        let received = receive(To::Directory(to.path()), with(options), &script);
        received.done(2, 1);
        assert_eq!(read(&to, "top/b"), b"b");
    }
}

#[test]
fn what_was_cut_goes_on_behind_its_last_block() {
    for options in [VERIFIED, UNVERIFIED] {
        let (to, whole) = (tempdir(), bytes(2 * BLOCK + 9));
        two_blocks_and_a_cut(&to, &whole, options);
        let tail =
            Message::End { index: 0, size: 2 * SIZE + 9, hash: hash(&whole).filter(|_| options.verify) };
        let script = [file(0, "", 2 * SIZE + 9), Data(whole[2 * BLOCK..].to_vec()), Say(tail), total(1)];
        let received = receive(To::Directory(to.path()), with(options), &script);
        let [Message::Answer { answer: EntryAnswer::Partial(tree), .. }, Message::Receipt(_)] =
            received.done(1, 0)
        else {
            panic!("{received:?}")
        };
        assert_eq!(tree.blocks(), 2);
        assert!(read(&to, "top") == whole && kept(&to).is_empty());
        let started =
            |seen: &Progress| matches!(seen, Progress::Started { resumed, .. } if *resumed == 2 * SIZE);
        assert!(received.seen.iter().any(started));
    }
}
