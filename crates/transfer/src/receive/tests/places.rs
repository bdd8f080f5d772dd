//! Where the content goes, and what a receipt says of that.

use std::os::unix::fs::MetadataExt as _;

use super::*;
use crate::store::Modes;

fn tempdir() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// A file that is sent to a directory gets its own name in it, as with `cp`: if it is a file, if its name is known, and if
/// there is a directory.
#[test]
fn a_file_that_is_sent_to_a_directory_lands_in_it() {
    let in_it = [("top/own", &b"x"[..])];
    for (own_name, kind, makes, lands) in [
        (&b"own"[..], Kind::File, true, &in_it[..]),
        (b"own", Kind::File, false, &[("top", b"x")]),
        (b"", Kind::File, true, &[]),
        (b"own", Kind::Pipe, true, &[]),
    ] {
        let to = tempdir();
        if makes {
            std::fs::create_dir(to.path().join("top")).unwrap();
        }
        let script =
            [Say(Message::Entry(entry(0, kind, "", Some(1)))), Data(b"x".to_vec()), end(0, b"x"), total(1)];
        let prepare = |receiver: &mut Receiver<'_>| receiver.own_name = own_name.to_vec();
        let with = With { from_the_start: true, ..with(VERIFIED) };
        let received = receive_after(To::Directory(to.path()), with, &prepare, &script);
        for (name, content) in lands {
            assert_eq!(read(&to, name), *content, "{received:?}");
        }
        assert_eq!(received.summary.confirmed, lands.len() as u64, "{kind:?} {makes} {received:?}");
        assert_eq!(to.path().join("top/own").exists(), lands == in_it, "{kind:?} {makes} {own_name:?}");
    }
    // A directory is one with what is there, and does not move into it.
    let to = tempdir();
    std::fs::create_dir(to.path().join("top")).unwrap();
    let prepare = |receiver: &mut Receiver<'_>| receiver.own_name = b"own".to_vec();
    let script = [directory(0, ""), leave(0), total(1)];
    receive_after(To::Directory(to.path()), with(VERIFIED), &prepare, &script).done(1, 0);
    assert!(!to.path().join("top/own").exists());
}

/// Where links follow one another, the kernel leaves the first by where it leads. So no link may leave by `..` what is no directory
/// here, whichever of the two comes first; what is one may be left.
#[test]
fn no_chain_of_links_leads_out() {
    let link = |index, path: &str, target: &str| {
        let mut link = entry(index, Kind::Link, path, None);
        link.target = target.as_bytes().to_vec();
        Say(Message::Entry(link))
    };
    let directories = || vec![directory(0, ""), directory(1, "a"), directory(2, "a/b")];
    for (links, refused) in [
        // By its text this one is `secret` at the top; `up` is the top itself, and `..` leaves it.
        (&[("a/b/up", "../.."), ("a/b/out", "up/../secret")][..], &[4][..]),
        (&[("a/b/out", "up/../secret"), ("a/b/up", "../..")], &[3]),
        (&[("a/b/out", "./missing/../secret")], &[3]),
        (&[("a/b/out", "../b/../secret"), ("a/up", "b")], &[]),
        (&[("a/up", "b"), ("a/out", "up/../x")], &[4]),
        (&[("a/b/up", "../.."), ("a/b/out", "up/secret")], &[]),
    ] {
        let to = tempdir();
        let mut script = directories();
        script.extend(links.iter().zip(3..).map(|((path, target), index)| link(index, path, target)));
        script.extend([leave(2), leave(1), leave(0), total(3 + links.len() as u64)]);
        let received = receive(To::Directory(to.path()), with(VERIFIED), &script);
        let failed: Vec<u64> = received
            .said
            .iter()
            .filter_map(|said| match said {
                Message::Failed { index, refusal: Refusal::Forbidden, .. } => Some(*index),
                _ => None,
            })
            .collect();
        assert_eq!(failed, refused, "{links:?}");
        for ((path, _), index) in links.iter().zip(3..) {
            let there = std::fs::symlink_metadata(to.path().join("top").join(path)).is_ok();
            assert_eq!(there, !refused.contains(&index), "{path} of {links:?}");
        }
    }
}

/// What was offered as a file does not come as a directory, nor the other way round. Only the top was offered.
#[test]
fn the_top_is_what_was_offered() {
    let a_file = || vec![file(0, "", 1), Data(b"x".to_vec()), end(0, b"x"), total(1)];
    let a_tree = || {
        let below = [file(1, "a", 1), Data(b"x".to_vec()), end(1, b"x")];
        [&[directory(0, "")][..], &below, &[leave(0), total(2)]].concat()
    };
    for (offered, script, entries) in [
        (None, a_file(), Some(1)),
        (None, a_tree(), Some(2)),
        (Some(false), a_file(), Some(1)),
        (Some(true), a_file(), None),
        (Some(true), a_tree(), Some(2)),
        (Some(false), a_tree(), None),
    ] {
        let to = tempdir();
        let prepare = |receiver: &mut Receiver<'_>| receiver.offered_directory = offered;
        let received = receive_after(To::Directory(to.path()), with(VERIFIED), &prepare, &script);
        match entries {
            Some(entries) => drop(received.done(entries, 0)),
            None => {
                assert_eq!(received.violation(), &Violation::Unexpected("something else than its offer"));
                assert_eq!(std::fs::read_dir(to.path()).unwrap().count(), 0);
            }
        }
    }
}

/// The receiver's modes are used, if it was given any.
#[test]
fn modes_are_changed_as_the_receiver_says() {
    for (modes, expected) in [(Modes::Exact, 0o646), (Modes::Changed("u=rw,go=".parse().unwrap()), 0o600)] {
        let to = tempdir();
        let mut announced = entry(0, Kind::File, "", Some(1));
        announced.mode = 0o646;
        let script = [Say(Message::Entry(announced)), Data(b"x".to_vec()), end(0, b"x"), total(1)];
        let prepare = |receiver: &mut Receiver<'_>| receiver.change_modes(modes.clone());
        receive_after(To::Directory(to.path()), with(VERIFIED), &prepare, &script).done(1, 0);
        assert_eq!(std::fs::metadata(to.path().join("top")).unwrap().mode() & 0o777, expected);
    }
}

/// One more byte than a key may store is refused, whether the length is announced or not. What has arrived of a file is kept, for
/// a session that may store more; nobody can go on with a pipe.
#[test]
fn no_more_is_taken_than_a_key_may_store() {
    let whole = bytes(2 * BLOCK);
    for (kind, size, most, good, keeps) in [
        (Kind::File, Some(2 * SIZE), 2 * SIZE, true, 0),
        (Kind::File, Some(2 * SIZE), 2 * SIZE - 1, false, 0),
        (Kind::Pipe, None, 2 * SIZE, true, 0),
        (Kind::Pipe, None, 2 * SIZE - 1, false, 0),
        (Kind::File, None, 2 * SIZE, true, 0),
        (Kind::File, None, 2 * SIZE - 1, false, 2),
    ] {
        for options in [VERIFIED, UNVERIFIED] {
            let to = tempdir();
            let mut script = vec![Say(Message::Entry(entry(0, kind, "", size)))];
            script.extend(content(&whole, BLOCK, options.verify));
            script.extend([agreed_end(0, &whole, options), total(1)]);
            let prepare = |receiver: &mut Receiver<'_>| receiver.take_at_most(most);
            let received = receive_after(To::Directory(to.path()), with(options), &prepare, &script);
            received.done(u64::from(good), u64::from(!good));
            if !good {
                assert_eq!(received.failures(), [(0, Refusal::NoSpace)], "{kind:?} {size:?}");
            }
            assert_eq!(kept(&to).len(), keeps, "{kind:?} {size:?} {most}");
        }
    }
}

/// What a command or a stream got is handed on: this side does not know whether it is on a disk. The receipt is of the moment at
/// which the command was done.
#[test]
fn what_is_handed_on_is_not_called_stored() {
    let to = tempdir();
    let out = to.path().join("time");
    let command = format!("['sh', '-c', 'date +%s%N > {}']", out.display());
    let (reading, stream) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    for durability in [Durability::Memory, Durability::Disk] {
        let options = Options { durability, ..VERIFIED };
        let received = receive(To::Sink(&command), with(options), &one_file(b"x", 1, true));
        let [Message::Receipt(receipt)] = received.done(1, 0) else { panic!("{received:?}") };
        assert_eq!((&receipt.name[..], receipt.durability), (&b"@x"[..], Durability::Handed));
        let ran: i128 = String::from_utf8(std::fs::read(&out).unwrap()).unwrap().trim().parse().unwrap();
        let told = i128::from(receipt.time.seconds) * 1_000_000_000 + i128::from(receipt.time.nanos);
        assert!(told >= ran, "{told} is before the command's {ran}");
        let mut so_far = Tree::new();
        let received = receive(To::Stream(&stream, &mut so_far), with(options), &one_file(b"x", 1, true));
        let [Message::Receipt(receipt)] = received.done(1, 0) else { panic!("{received:?}") };
        assert_eq!((&receipt.name[..], receipt.durability), (&b""[..], Durability::Handed));
    }
    drop(reading);
}

/// A command that has run does not run again: the next session is told what it came to, under its own index, and the sender has
/// to have the same content.
#[test]
fn a_command_runs_once_over_two_sessions() {
    let to = tempdir();
    let out = to.path().join("out");
    let command = format!("['tee', '-a', '{}']", out.display());
    let deliveries = Arc::<Deliveries>::default();
    let to_it = || To::Remembered(&command, &deliveries);
    let first = receive(to_it(), with(VERIFIED), &one_file(b"x", 1, true));
    let [Message::Receipt(of_first)] = first.done(1, 0) else { panic!("{first:?}") };
    assert!(!first.asks());
    let again = [file(7, "", 1), Say(Message::Same { index: 7 }), total(1)];
    let second = receive(to_it(), with(VERIFIED), &again);
    let [Message::Answer { index: 7, answer: EntryAnswer::Complete(answered) }, Message::Receipt(receipt)] =
        second.done(1, 0)
    else {
        panic!("{second:?}")
    };
    assert_eq!((Some(*answered), second.asks()), (hash(b"x"), true));
    assert_eq!(receipt, &Receipt { index: 7, ..of_first.clone() });
    assert_eq!(std::fs::read(&out).unwrap(), b"x");
    // A command that failed is not run again either, and its failure is told again.
    let deliveries = Arc::<Deliveries>::default();
    let fails = "['false']";
    receive(To::Remembered(fails, &deliveries), with(VERIFIED), &one_file(b"x", 1, true)).done(0, 1);
    let second = receive(To::Remembered(fails, &deliveries), with(VERIFIED), &[file(7, "", 1), total(1)]);
    let [Message::Answer { index: 7, answer: EntryAnswer::Refused(Refusal::Command, _) }] = second.done(0, 1)
    else {
        panic!("{second:?}")
    };
}

/// In a dry run a name that is taken is refused, unless the file would get another name.
#[test]
fn a_dry_run_knows_that_both_are_kept() {
    for (if_exists, refused) in [(IfExists::Fail, 1), (IfExists::KeepBoth, 0), (IfExists::Skip, 1)] {
        let to = tempdir();
        std::fs::write(to.path().join("top"), b"taken").unwrap();
        let with = with(Options { if_exists, ..DRY });
        let received = receive(To::Directory(to.path()), with, &[file(0, "", 3), total(1)]);
        let fresh = |said: &Message| matches!(said, Message::Answer { answer: EntryAnswer::Fresh, .. });
        assert_eq!(received.said.iter().filter(|said| fresh(said)).count(), 1 - refused, "{if_exists:?}");
    }
}
