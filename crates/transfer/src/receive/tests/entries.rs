//! Announcements, answers, receipts and the account at the end.

use std::os::unix::fs::{MetadataExt as _, symlink};

use super::*;

fn tempdir() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// Answers are due where something may be here already, or when the sender has been here before.
#[test]
fn it_asks_where_something_may_be_here_already() {
    let unfinished = |to: &TempDir, name: &str| {
        std::fs::create_dir(to.path().join(".linger")).unwrap();
        std::fs::write(to.path().join(".linger").join(name), b"").unwrap();
    };
    let nothing = |_: &TempDir| {};
    type Prepare<'a> = &'a dyn Fn(&TempDir);
    for (number, (prepare, with, expected)) in [
        (&nothing as Prepare<'_>, with(VERIFIED), false),
        (&nothing, again(VERIFIED), true),
        (&nothing, with(DRY), true),
        (&|to| std::fs::create_dir(to.path().join("top")).unwrap(), with(VERIFIED), true),
        (&|to| std::fs::create_dir(to.path().join("other")).unwrap(), with(VERIFIED), false),
        (&|to| unfinished(to, "x.state"), with(VERIFIED), true),
        (&|to| unfinished(to, "x.part"), with(VERIFIED), false),
    ]
    .into_iter()
    .enumerate()
    {
        let to = tempdir();
        prepare(&to);
        let received = receive(To::Directory(to.path()), with, &[total(0)]);
        received.done(0, 0);
        assert_eq!(received.asks(), expected, "case {number}");
    }
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

/// A receipt does not wait for the end of the tree while nothing more comes.
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

/// A cut after a file is complete costs its receipt and not the file.
#[test]
fn what_was_complete_before_a_cut_is_there() {
    let to = tempdir();
    let script = [file(0, "", 1), Data(b"x".to_vec()), end(0, b"x")];
    let received = receive(To::Directory(to.path()), with(VERIFIED), &script);
    assert!(matches!(received.result, Err(Error::Cut(_))), "{received:?}");
    assert_eq!((received.receipts().len(), received.summary.confirmed, received.summary.unsent), (1, 1, 0));
    assert_eq!(read(&to, "top"), b"x");
}

#[test]
fn without_answers_one_file_is_under_way() {
    let to = tempdir();
    let two = [directory(9, ""), file(0, "a", 1), file(1, "b", 1)];
    let received = receive(To::Directory(to.path()), with(VERIFIED), &two);
    assert_eq!(received.violation(), &Violation::Unexpected("too many announcements"));
    assert_eq!(received.summary.unsent, 1);
}

#[test]
fn with_answers_64_files_are_announced_ahead() {
    for (count, good) in [(MAX_ANNOUNCED, true), (MAX_ANNOUNCED + 1, false)] {
        let to = tempdir();
        let mut script = vec![directory(1000, "")];
        script.extend((0..count as u64).map(|index| file(index, &index.to_string(), 1)));
        let received = receive(To::Directory(to.path()), again(VERIFIED), &script);
        let answers =
            received.said.iter().filter(|said| matches!(said, Message::Answer { answer: Answer::Fresh, .. }));
        assert_eq!(answers.count(), MAX_ANNOUNCED);
        assert_eq!(matches!(received.result, Err(Error::Cut(_))), good, "{count}");
        assert_eq!(received.summary.unsent, MAX_ANNOUNCED as u64);
    }
}

#[test]
fn as_many_directories_are_open_as_a_path_has_levels() {
    for (count, good) in [(MAX_DIRECTORIES, true), (MAX_DIRECTORIES + 1, false)] {
        let to = tempdir();
        let mut script = vec![directory(0, "")];
        script.extend((1..count as u64).map(|index| directory(index, &index.to_string())));
        let received = receive(To::Directory(to.path()), with(VERIFIED), &script);
        assert_eq!(matches!(received.result, Err(Error::Cut(_))), good, "{count}");
        if !good {
            assert_eq!(received.violation(), &Violation::Unexpected("too many open directories"));
        }
    }
    assert_eq!(MAX_DIRECTORIES, 129);
}

/// Whatever ends has to be the file that was announced first.
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
        Message::Accept { ask: false },
        Message::Done { confirmed: 0, failed: 0 },
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
        frame_of(Frame::Message, EARLIER, &Message::Total { entries: 0 }.encode()),
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

/// What is here is compared by the sender; it says *same*, or sends it as a new file.
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
        let [Message::Answer { index: 0, answer: Answer::Complete(answered) }, Message::Receipt(receipt)] =
            received.done(1, 0)
        else {
            panic!("{received:?}")
        };
        assert_eq!(*answered, told);
        assert_eq!(
            (receipt.present, receipt.size, receipt.hash, &receipt.name[..]),
            (true, 4, hash, &b"top"[..])
        );
    }
    let (to, with) = here(Options { replace: true, ..VERIFIED });
    let script = [file(0, "", 4), Data(b"anew".to_vec()), end(0, b"anew"), total(1)];
    let received = receive(To::Directory(to.path()), with, &script);
    let [Message::Answer { .. }, Message::Receipt(receipt)] = received.done(1, 0) else {
        panic!("{received:?}")
    };
    assert!(!receipt.present);
    assert_eq!(read(&to, "top"), b"anew");
    // An empty file is sent by its end alone.
    let to = tempdir();
    std::fs::write(to.path().join("top"), b"").unwrap();
    std::fs::File::options().write(true).open(to.path().join("top")).unwrap().set_modified(time).unwrap();
    let with = super::with(Options { replace: true, ..VERIFIED });
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

/// With answers a file that cannot land is not waited for; without, its content is dropped.
#[test]
fn a_refused_file_is_told_as_an_answer_or_as_a_failure() {
    let script = |more: &[Step]| {
        let start = [directory(9, ""), file(0, "none/a", 1)];
        [&start[..], more, &[leave(9), total(2)]].concat()
    };
    let to = tempdir();
    let received = receive(To::Directory(to.path()), again(VERIFIED), &script(&[]));
    let [Message::Answer { index: 0, answer: Answer::Refused(Refusal::NotFound, text) }, Message::Receipt(_)] =
        received.done(1, 1)
    else {
        panic!("{received:?}")
    };
    assert!(text.contains("none"), "{text}");
    let to = tempdir();
    let received =
        receive(To::Directory(to.path()), with(VERIFIED), &script(&[Data(b"x".to_vec()), end(0, b"x")]));
    received.done(1, 1);
    // Only where a part may be kept is a directory needed before the end.
    assert_eq!(received.failures(), [(0, Refusal::NotFound)]);
    let reason = received.summary.first_failure.as_ref().unwrap();
    assert_eq!(reason.remedy(), Some(&crate::reason::Remedy::ListFirst));
}

#[test]
fn a_directory_that_cannot_be_made_and_a_link_that_leads_out_fail() {
    let to = tempdir();
    std::fs::write(to.path().join("top"), b"a file").unwrap();
    let received = receive(To::Directory(to.path()), with(VERIFIED), &[directory(0, ""), leave(0), total(1)]);
    assert_eq!(received.failures(), [(0, Refusal::Exists)]);
    received.done(0, 1);
    for (target, good) in [("a", true), ("../a", false), ("/a", false)] {
        let to = tempdir();
        let mut link = entry(1, Kind::Link, "l", None);
        link.target = target.into();
        let script = [directory(0, ""), Say(Message::Entry(link)), leave(0), total(2)];
        let received = receive(To::Directory(to.path()), with(VERIFIED), &script);
        received.done(if good { 2 } else { 1 }, u64::from(!good));
        assert_eq!(to.path().join("top/l").is_symlink(), good, "{target}");
    }
}

/// A directory that has gone when it is left fails; one that was never there is passed over.
#[test]
fn leaving_a_directory_that_is_unknown_says_nothing() {
    let to = tempdir();
    let received = receive(To::Directory(to.path()), with(VERIFIED), &[leave(7), total(0)]);
    assert!(received.done(0, 0).is_empty());
}

/// What the sender gives up counts once, and what is kept of it depends on whose fault it is.
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

/// After an abort in the middle of a block the next file begins with nothing.
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
        let [Message::Answer { answer: Answer::Partial(tree), .. }, Message::Receipt(_)] =
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

/// A part belongs to what is sent *and* to where it goes.
#[test]
fn the_part_of_one_name_is_not_taken_for_another() {
    let (to, whole) = (tempdir(), bytes(2 * BLOCK + 9));
    let sent = |name| vec![directory(9, ""), file(0, name, 2 * SIZE + 9)];
    let mut script = sent("a");
    script.extend(content(&whole[..2 * BLOCK], BLOCK, true));
    receive(To::Directory(to.path()), with(VERIFIED), &script);
    for (name, blocks) in [("b", 0), ("a", 2)] {
        let received = receive(To::Directory(to.path()), with(VERIFIED), &sent(name));
        let found = received.said.iter().find_map(|said| match said {
            Message::Answer { answer: Answer::Partial(tree), .. } => Some(tree.blocks()),
            Message::Answer { answer: Answer::Fresh, .. } => Some(0),
            _ => None,
        });
        assert_eq!(found, Some(blocks), "{name}");
    }
}

/// Whatever is sent to one place has to be one file.
#[test]
fn sinks_and_streams_take_one_file() {
    let mut link = entry(0, Kind::Link, "", None);
    link.target = b"x".to_vec();
    for step in [directory(0, ""), Say(Message::Entry(link)), file(0, "below", 1)] {
        let is_file = matches!(&step, Say(Message::Entry(entry)) if entry.kind == Kind::File);
        let mut script = vec![step];
        if is_file {
            script.extend([Data(b"x".to_vec()), end(0, b"x")]);
        }
        script.push(total(1));
        let received = receive(To::Sink("['true']"), with(VERIFIED), &script);
        received.done(0, 1);
        assert_eq!(received.failures(), [(0, Refusal::Forbidden)], "{script:?}");
    }
    for kind in [Kind::File, Kind::Pipe] {
        let script =
            [Say(Message::Entry(entry(0, kind, "", None))), Data(b"x".to_vec()), end(0, b"x"), total(1)];
        receive(To::Sink("['true']"), with(VERIFIED), &script).done(1, 0);
    }
}

/// A dry run answers everything and leaves nothing.
#[test]
fn a_dry_run_answers_and_writes_nothing() {
    let to = tempdir();
    std::fs::create_dir(to.path().join("top")).unwrap();
    std::fs::write(to.path().join("top/old"), b"old").unwrap();
    let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 7);
    std::fs::write(to.path().join("top/same"), b"same").unwrap();
    std::fs::File::options()
        .write(true)
        .open(to.path().join("top/same"))
        .unwrap()
        .set_modified(time)
        .unwrap();
    symlink("nowhere", to.path().join("top/link")).unwrap();
    let script = [
        directory(0, ""),
        file(1, "new", 5),
        file(2, "old", 9),
        file(3, "same", 4),
        directory(4, "made/later"),
        file(5, "made/later/x", 2),
        Say(Message::Entry(entry(6, Kind::Pipe, "piped", None))),
        total(7),
    ];
    let received = receive(To::Directory(to.path()), with(DRY), &script);
    let said = received.done(0, 1);
    let answers = said.iter().map(|said| match said {
        Message::Answer { index, answer: Answer::Fresh } => (*index, "fresh"),
        Message::Answer { index, answer: Answer::Complete(_) } => (*index, "complete"),
        Message::Answer { index, answer: Answer::Refused(Refusal::Exists, _) } => (*index, "exists"),
        other => panic!("{other:?}"),
    });
    let answers: Vec<_> = answers.collect();
    assert_eq!(
        answers,
        [
            (0, "fresh"),
            (1, "fresh"),
            (2, "exists"),
            (3, "complete"),
            (4, "fresh"),
            (5, "fresh"),
            (6, "fresh")
        ]
    );
    let would = received.seen.iter().filter_map(|seen| match seen {
        Progress::WouldSend { path, bytes, .. } => Some((path.to_string(), *bytes)),
        _ => None,
    });
    let would: Vec<_> = would.collect();
    let expected = [(".", 0), ("new", 5), ("same", 0), ("made/later", 0), ("made/later/x", 2), ("piped", 0)];
    assert_eq!(would, expected.map(|(path, bytes)| (path.to_owned(), bytes)));
    assert_eq!(std::fs::read_dir(to.path().join("top")).unwrap().count(), 3);
    assert!(kept(&to).is_empty());
    // The top itself has to have a place.
    let to = tempdir();
    std::fs::write(to.path().join("top"), b"taken").unwrap();
    let received = receive(To::Directory(to.path()), with(DRY), &[file(0, "", 3), total(1)]);
    received.done(0, 1);
    let received = receive(To::Sink("['true']"), with(DRY), &[file(0, "", 3_000_000), total(1)]);
    received.done(0, 0);
    let received = receive(To::Sink("['true']"), with(DRY), &[file(0, "", 3_000_001), total(1)]);
    received.done(0, 1);
}

/// Of a file that other sessions wrote meanwhile the receiver's own word counts: it is refused when it gets its name.
#[test]
fn a_name_that_is_taken_when_it_lands_fails() {
    let to = tempdir();
    std::fs::write(to.path().join("top"), b"taken").unwrap();
    let received = receive(To::Directory(to.path()), again(VERIFIED), &[file(0, "", 3), total(0)]);
    assert!(matches!(&received.said[1], Message::Answer { answer: Answer::Refused(Refusal::Exists, _), .. }));
    let to = tempdir();
    std::fs::create_dir(to.path().join("top")).unwrap();
    std::fs::create_dir(to.path().join("top/a")).unwrap();
    let script = [directory(0, ""), file(1, "a", 1), leave(0), total(2)];
    let received = receive(To::Directory(to.path()), with(VERIFIED), &script);
    let refused = |said: &Message| {
        matches!(said, Message::Answer { index: 1, answer: Answer::Refused(Refusal::Exists, _) })
    };
    assert!(received.said.iter().any(refused), "{received:?}");
    received.done(1, 1);
}
