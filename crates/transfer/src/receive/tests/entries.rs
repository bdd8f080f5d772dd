//! Announcements and the answers to them.

use std::os::unix::fs::symlink;

use super::*;

fn tempdir() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// The receiver asks the sender to wait for answers where a file may exist here already, or after an earlier session.
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
        let received = receive(To::Directory(to.path()), with, &[]);
        assert!(matches!(received.result, Err(Error::Cut(_))), "{received:?}");
        assert_eq!(received.asks(), expected, "case {number}");
    }
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
        let answers = received
            .said
            .iter()
            .filter(|said| matches!(said, Message::Answer { answer: EntryAnswer::Fresh, .. }));
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
    assert_eq!(MAX_DIRECTORIES, 2049);
}

/// A file that cannot be stored is refused in an answer, if the sender waits for answers. Otherwise its content is
/// dropped.
#[test]
fn a_refused_file_is_told_as_an_answer_or_as_a_failure() {
    let script = |more: &[Step]| {
        let start = [directory(9, ""), file(0, "none/a", 1)];
        [&start[..], more, &[leave(9), total(2)]].concat()
    };
    let to = tempdir();
    let received = receive(To::Directory(to.path()), again(VERIFIED), &script(&[]));
    let [
        Message::Answer { index: 0, answer: EntryAnswer::Refused(Refusal::NotFound, text) },
        Message::Receipt(_),
    ] = received.done(1, 1)
    else {
        panic!("{received:?}")
    };
    assert!(text.contains("none"), "{text}");
    let to = tempdir();
    let received =
        receive(To::Directory(to.path()), with(VERIFIED), &script(&[Data(b"x".to_vec()), end(0, b"x")]));
    received.done(1, 1);
    // The directory is needed at the start only where a partial file may be kept; this file is too small for one.
    assert_eq!(received.failures(), [(0, Refusal::NotFound)]);
    let reason = received.summary.first_failure.as_ref().unwrap();
    // Listing what is there would not help.
    assert!(reason.contains("the directory top/none is not there") && reason.remedy().is_none(), "{reason}");
}

/// A directory of this user's that is there and may not be written to is opened until it is complete. Root could write anyway,
/// so the mode is looked at.
#[test]
fn a_directory_that_is_there_can_be_written_into_until_it_is_left() {
    use std::os::unix::fs::PermissionsExt as _;
    for (script, mode) in [(vec![directory(0, "")], 0o700), (vec![directory(0, ""), leave(0)], 0o755)] {
        let to = tempdir();
        let top = to.path().join("top");
        std::fs::create_dir(&top).unwrap();
        std::fs::set_permissions(&top, std::fs::Permissions::from_mode(0o500)).unwrap();
        let received = receive(To::Directory(to.path()), again(VERIFIED), &script);
        assert!(matches!(received.result, Err(Error::Cut(_))), "{received:?}");
        let has = std::fs::metadata(&top).unwrap().permissions().mode();
        assert_eq!(has & 0o700, mode & 0o700);
        assert_eq!(has & 0o077 != 0, mode & 0o077 != 0, "{has:o}");
    }
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

/// A partial file belongs to a source *and* a destination.
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
            Message::Answer { answer: EntryAnswer::Partial(tree), .. } => Some(tree.blocks()),
            Message::Answer { answer: EntryAnswer::Fresh, .. } => Some(0),
            _ => None,
        });
        assert_eq!(found, Some(blocks), "{name}");
    }
}

/// A sink or stream takes one file, and nothing else.
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
    // The second is refused, though the first has ended.
    let two = [file(0, "", 0), end(0, b""), file(1, "", 0), end(1, b""), total(2)];
    let received = receive(To::Sink("['true']"), with(VERIFIED), &two);
    assert_eq!(received.violation(), &Violation::Unexpected("a second entry where one goes"));
    let (_reading, out) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let received = receive(To::Stream(&out, &mut Tree::new()), with(VERIFIED), &two);
    assert_eq!(received.violation(), &Violation::Unexpected("a second entry where one goes"));
}

/// A dry run answers every entry and writes nothing.
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
        Message::Answer { index, answer: EntryAnswer::Fresh } => (*index, "fresh"),
        Message::Answer { index, answer: EntryAnswer::Complete(_) } => (*index, "complete"),
        Message::Answer { index, answer: EntryAnswer::Refused(Refusal::Exists, _) } => (*index, "exists"),
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
    // A real run would make the missing directories; a dry run does not.
    let to = tempdir();
    for path in ["", "a"] {
        let script = [file(0, path, 3), total(1)];
        let received = receive(To::Below(to.path(), "none/top"), with(DRY), &script);
        received.done(0, 0);
    }
    assert!(!to.path().join("none").exists());
    std::fs::write(to.path().join("top"), b"taken").unwrap();
    let received = receive(To::Directory(to.path()), with(DRY), &[file(0, "", 3), total(1)]);
    received.done(0, 1);
    let received = receive(To::Sink("['true']"), with(DRY), &[file(0, "", 3_000_000), total(1)]);
    received.done(0, 0);
    let received = receive(To::Sink("['true']"), with(DRY), &[file(0, "", 3_000_001), total(1)]);
    received.done(0, 1);
}

/// A name that other content has is refused in the answer to its announcement.
#[test]
fn a_name_that_is_taken_when_it_lands_fails() {
    let to = tempdir();
    std::fs::write(to.path().join("top"), b"taken").unwrap();
    let received = receive(To::Directory(to.path()), again(VERIFIED), &[file(0, "", 3), total(0)]);
    assert!(matches!(
        &received.said[1],
        Message::Answer { answer: EntryAnswer::Refused(Refusal::Exists, _), .. }
    ));
    let to = tempdir();
    std::fs::create_dir(to.path().join("top")).unwrap();
    std::fs::create_dir(to.path().join("top/a")).unwrap();
    let script = [directory(0, ""), file(1, "a", 1), leave(0), total(2)];
    let received = receive(To::Directory(to.path()), with(VERIFIED), &script);
    let refused = |said: &Message| {
        matches!(said, Message::Answer { index: 1, answer: EntryAnswer::Refused(Refusal::Exists, _) })
    };
    assert!(received.said.iter().any(refused), "{received:?}");
    received.done(1, 1);
}
