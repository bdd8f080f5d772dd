//! Bodies that come while the gateway does not read: in memory up to the bound (100 bytes here), then in a file.

use super::*;

fn talk(spool: Option<&Path>, spooled: u64) -> Talk {
    let mut bounds = bounds();
    (bounds.spool, bounds.limits.spooled) = (spool.map(Into::into), spooled);
    Talk::with(bounds)
}

fn all(talk: &mut Talk, key: Key, which: Which) -> Vec<u8> {
    let mut all = Vec::new();
    while let Input::Got(bytes) = talk.read(key, which).unwrap() {
        all.extend(bytes);
    }
    all
}

/// Bytes that show their place.
fn pattern(from: usize, to: usize) -> Vec<u8> {
    (from..to).map(|at| (at % 251) as u8).collect()
}

#[test]
fn while_a_writer_waits_more_is_read_and_otherwise_not() {
    let folder = tempfile::tempdir().unwrap();
    let mut talk = talk(Some(folder.path()), 1000);
    let key = talk.begin(1, Role::Responder, true);
    talk.record(RecordType::Stdin, 1, &pattern(0, 101));
    assert_eq!(talk.next(), Step::Hold);
    assert!(!talk.conversation.reads_ahead());
    talk.conversation.blocked(true);
    talk.conversation.blocked(true);
    assert!(talk.conversation.reads_ahead());
    talk.record(RecordType::Stdin, 1, &pattern(101, 800));
    assert!(matches!(talk.next(), Step::Receive(_)));
    talk.conversation.blocked(false);
    assert!(matches!(talk.next(), Step::Receive(_)), "another one waits");
    talk.conversation.blocked(false);
    assert_eq!(talk.next(), Step::Hold, "nobody waits");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the file has no name");
    // What comes when there is memory again stays behind what is in the file.
    let mut first = [0; 50];
    assert_eq!(talk.conversation.read(key, Which::Stdin, &mut first), Ok(Input::Got(50)));
    talk.record(RecordType::Stdin, 1, &pattern(800, 900));
    talk.record(RecordType::Stdin, 1, b"");
    assert_eq!(all(&mut talk, key, Which::Stdin), pattern(50, 900));
    assert_eq!(talk.read(key, Which::Stdin), Ok(Input::End));
}

#[test]
fn a_file_that_was_read_is_used_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut talk = talk(Some(folder.path()), 200_000);
    let key = talk.begin(1, Role::Filter, true);
    talk.conversation.blocked(true);
    for round in 0..3 {
        for piece in 0..5 {
            talk.record(RecordType::Data, 1, &pattern(piece * 30_000, (piece + 1) * 30_000));
            assert!(matches!(talk.next(), Step::Receive(_)), "round {round}: what was read is gone");
        }
        talk.record(RecordType::Stdin, 1, b"beside");
        let mut got = Vec::new();
        while let Input::Got(bytes) = talk.conversation.piece(key, Which::Data).unwrap() {
            got.extend(bytes);
        }
        assert_eq!(got, pattern(0, 150_000));
        assert_eq!(all(&mut talk, key, Which::Stdin), b"beside");
    }
}

#[test]
fn files_are_bounded_for_a_whole_connection() {
    let folder = tempfile::tempdir().unwrap();
    for (limit, held) in [(198, true), (199, false)] {
        let mut talk = talk(Some(folder.path()), limit);
        talk.begin(1, Role::Responder, true);
        talk.begin(2, Role::Responder, true);
        talk.conversation.blocked(true);
        talk.record(RecordType::Stdin, 1, &[1; 101]);
        talk.record(RecordType::Stdin, 1, &[1; 99]);
        talk.record(RecordType::Stdin, 2, &[1; 99]);
        assert_eq!(talk.next() == Step::Hold, held, "198 bytes of two requests are in files");
    }
}

#[test]
fn memory_is_bounded_for_a_whole_connection() {
    for (second, held) in [(50, false), (51, true)] {
        let mut talk = Talk::new();
        talk.begin(1, Role::Responder, true);
        talk.begin(2, Role::Responder, true);
        talk.record(RecordType::Stdin, 1, &[1; 50]);
        talk.record(RecordType::Stdin, 2, &vec![1; second]);
        assert_eq!(talk.next() == Step::Hold, held);
    }
}

#[test]
fn without_a_folder_the_connection_is_held_up_and_nothing_is_lost() {
    let missing = Path::new("/nonexistent/folder");
    for spool in [None, Some(missing)] {
        let mut talk = talk(spool, 1000);
        let key = talk.begin(1, Role::Responder, true);
        talk.conversation.blocked(true);
        talk.record(RecordType::Stdin, 1, &pattern(0, 101));
        assert_eq!(talk.next() == Step::Hold, spool.is_none(), "it is found out when it is needed");
        talk.record(RecordType::Stdin, 1, &pattern(101, 150));
        assert_eq!(talk.next(), Step::Hold);
        assert_eq!(all(&mut talk, key, Which::Stdin), pattern(0, 150));
    }
}

#[test]
fn nothing_is_read_ahead_of_what_is_to_be_sent_or_served() {
    let mut talk = Talk::new();
    assert!(talk.conversation.reads_ahead());
    talk.record(RecordType::from(77), 0, b"what is this");
    assert!(!talk.conversation.reads_ahead(), "an answer to that is to be sent");
    talk.next();
    assert!(talk.conversation.reads_ahead());
    talk.ask(1, Role::Responder, true);
    assert!(!talk.conversation.reads_ahead(), "a request is to be served");
    talk.conversation.request().unwrap();
    assert!(talk.conversation.reads_ahead());
    talk.conversation.closed();
    assert!(!talk.conversation.reads_ahead(), "nothing more comes");
}

/// A handler that takes the file by pieces has little in memory all the time.
#[test]
fn what_is_in_the_file_counts_until_all_of_it_was_read() {
    let folder = tempfile::tempdir().unwrap();
    let mut talk = talk(Some(folder.path()), 500_000);
    let key = talk.begin(1, Role::Responder, true);
    talk.conversation.blocked(true);
    let mut sent = 0;
    let mut send = |talk: &mut Talk, bytes: usize| {
        for _ in 0..bytes / 50_000 {
            talk.record(RecordType::Stdin, 1, &pattern(sent, sent + 50_000));
            sent += 50_000;
        }
    };
    send(&mut talk, 300_000);
    assert!(matches!(talk.next(), Step::Receive(_)));
    talk.conversation.blocked(false);
    assert_eq!(talk.next(), Step::Hold);
    let piece = |talk: &mut Talk| match talk.conversation.piece(key, Which::Stdin) {
        Ok(Input::Got(piece)) => piece,
        other => panic!("{other:?}"),
    };
    let mut got = piece(&mut talk);
    got.extend(piece(&mut talk));
    assert_eq!(talk.next(), Step::Hold, "no writer waits, and the file is not empty");
    talk.conversation.blocked(true);
    assert!(matches!(talk.next(), Step::Receive(_)));
    send(&mut talk, 250_000);
    assert_eq!(talk.next(), Step::Hold, "the file takes more than the bound, though a part of it was read");
    while got.len() < 550_000 {
        got.extend(piece(&mut talk));
    }
    assert!(got == pattern(0, 550_000));
    assert!(matches!(talk.next(), Step::Receive(_)), "the file is empty");
}

#[test]
fn all_connections_together_have_a_bound() {
    let folder = tempfile::tempdir().unwrap();
    for (in_all, reads) in [(u64::MAX, true), (0, false)] {
        let mut bounds = bounds();
        (bounds.spool, bounds.limits.spooled_in_all) = (Some(folder.path().into()), in_all);
        let mut talk = Talk::with(bounds);
        talk.begin(1, Role::Responder, true);
        talk.record(RecordType::Stdin, 1, &pattern(0, 101));
        talk.conversation.blocked(true);
        assert_eq!(matches!(talk.next(), Step::Receive(_)), reads, "{in_all}");
    }
}
