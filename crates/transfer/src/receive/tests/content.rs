//! The bytes of a file: what is written, verified, kept and refused.

use std::cell::Cell;
use std::fs::File;
use std::os::fd::AsFd as _;

use super::*;
use crate::conduit::Conduit;
use crate::receive::content::pour;

fn tempdir() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn content_lands_whatever_its_length_and_its_frames() {
    let all = bytes(2 * BLOCK + 5);
    for verify in [true, false] {
        let options = if verify { VERIFIED } else { UNVERIFIED };
        for size in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 5] {
            for portion in [BLOCK, 300_001] {
                let (to, whole) = (tempdir(), &all[..size]);
                let received =
                    receive(To::Directory(to.path()), with(options), &one_file(whole, portion, verify));
                let told = format!("{size} by {portion}, verified: {verify}");
                let [Message::Receipt(receipt)] = received.done(1, 0) else { panic!("{told}: {received:?}") };
                assert_eq!(
                    (receipt.size, receipt.hash),
                    (size as u64, hash(whole).filter(|_| verify)),
                    "{told}"
                );
                assert_eq!((&receipt.name[..], receipt.present), (&b"top"[..], false), "{told}");
                assert!(receipt.time > Time::default());
                assert!(read(&to, "top") == whole, "{told}");
                assert_eq!((received.moved(), received.summary.bytes), (size as u64, size as u64), "{told}");
                assert!(kept(&to).is_empty(), "{told}");
            }
        }
    }
}

#[test]
fn data_never_crosses_the_end_of_a_block() {
    let whole = bytes(BLOCK + 2);
    for (second, good) in [(BLOCK - 7, true), (BLOCK - 6, false)] {
        let to = tempdir();
        let script =
            [file(0, "", whole.len() as u64), Data(whole[..7].to_vec()), Data(whole[7..7 + second].to_vec())];
        let received = receive(To::Directory(to.path()), with(VERIFIED), &script);
        if good {
            assert!(matches!(received.result, Err(Error::Cut(_))), "{received:?}");
        } else {
            assert_eq!(received.violation(), &Violation::Unexpected("data across the end of a block"));
        }
    }
}

/// After a whole block its chaining value has to come: data, a hole and an end are refused.
#[test]
fn a_whole_block_is_followed_by_its_value() {
    let whole = bytes(BLOCK);
    for (next, expected) in [
        (Data(vec![1]), Some("data across the end of a block")),
        (Say(Message::Hole { bytes: SIZE }), Some("a hole inside a block")),
        (end(0, &whole), Some("an end instead of a block's value")),
        (sum(0, &whole), None),
    ] {
        let to = tempdir();
        let script = [file(0, "", 4 * SIZE), Data(whole.clone()), next];
        let received = receive(To::Directory(to.path()), with(VERIFIED), &script);
        match expected {
            Some(what) => assert_eq!(received.violation(), &Violation::Unexpected(what)),
            None => assert!(matches!(received.result, Err(Error::Cut(_))), "{received:?}"),
        }
    }
}

#[test]
fn a_value_comes_after_a_whole_block_alone() {
    for arrived in [0, 1, BLOCK - 1] {
        let to = tempdir();
        let block = bytes(BLOCK);
        let mut script = vec![file(0, "", 4 * SIZE)];
        script.extend(content(&block[..arrived], BLOCK, true));
        script.push(sum(0, &block));
        let received = receive(To::Directory(to.path()), with(VERIFIED), &script);
        assert_eq!(received.violation(), &Violation::Unexpected("the value of no block"), "{arrived}");
    }
    let to = tempdir();
    let script = [file(0, "", SIZE), Data(bytes(BLOCK)), sum(0, &bytes(BLOCK))];
    let received = receive(To::Directory(to.path()), with(UNVERIFIED), &script);
    assert_eq!(received.violation(), &Violation::Unexpected("the value of no block"), "nobody verifies");
}

#[test]
fn content_of_no_file_is_refused() {
    for step in [Data(vec![1]), Say(Message::Hole { bytes: SIZE }), sum(0, b"")] {
        let to = tempdir();
        let received = receive(To::Directory(to.path()), with(VERIFIED), &[step]);
        assert_eq!(received.violation(), &Violation::Unexpected("data of no file"));
    }
}

/// The second block arrives damaged: the first is kept, and a later session is told so.
#[test]
fn a_damaged_block_is_not_kept_and_those_before_it_are() {
    let (to, whole) = (tempdir(), bytes(2 * BLOCK));
    let mut script = vec![file(0, "", 2 * SIZE), Data(whole[..BLOCK].to_vec()), sum(0, &whole[..BLOCK])];
    script.extend([Data(whole[BLOCK..].to_vec()), sum(1, &whole[..BLOCK])]);
    let received = receive(To::Directory(to.path()), with(VERIFIED), &script);
    assert!(received.is_corrupt(), "{received:?}");
    assert_eq!(received.summary.unsent, 1);
    let received = receive(To::Directory(to.path()), with(VERIFIED), &[file(0, "", 2 * SIZE)]);
    let [Message::Accept { ask: true, .. }, Message::Answer { index: 0, answer: EntryAnswer::Partial(tree) }] =
        &received.said[..]
    else {
        panic!("{received:?}")
    };
    assert_eq!(tree.blocks(), 1);
}

/// Both lengths and the hash have to be right. If they are wrong, the partial file is removed.
#[test]
fn an_end_that_does_not_fit_is_refused() {
    let whole = bytes(BLOCK + 10);
    let good = Message::End { index: 0, size: SIZE + 10, hash: hash(&whole) };
    for (announced, end, good, keeps) in [
        (Some(SIZE + 10), good.clone(), true, 0),
        (None, good, true, 0),
        (Some(SIZE + 11), Message::End { index: 0, size: SIZE + 10, hash: hash(&whole) }, false, 0),
        (None, Message::End { index: 0, size: SIZE + 9, hash: hash(&whole) }, false, 0),
        (None, Message::End { index: 0, size: SIZE + 11, hash: hash(&whole) }, false, 0),
        (None, Message::End { index: 0, size: SIZE + 10, hash: hash(b"") }, false, 0),
        // An End without a hash does not say that the content is wrong: the partial file is kept.
        (None, Message::End { index: 0, size: SIZE + 10, hash: None }, false, 2),
    ] {
        let to = tempdir();
        let mut script = vec![Say(Message::Entry(entry(0, Kind::File, "", announced)))];
        script.extend(content(&whole, BLOCK, true));
        script.extend([Say(end.clone()), total(1)]);
        let received = receive(To::Directory(to.path()), with(VERIFIED), &script);
        assert_eq!((received.result.is_ok(), received.is_corrupt()), (good, !good), "{end:?}: {received:?}");
        assert_eq!(to.path().join("top").exists(), good, "{end:?}");
        assert_eq!(kept(&to).len(), keeps, "{end:?}");
    }
}

#[test]
fn an_unverified_end_is_judged_by_its_length() {
    let whole = bytes(BLOCK + 10);
    for (size, good) in [(SIZE + 10, true), (SIZE + 9, false), (SIZE + 11, false)] {
        let to = tempdir();
        let mut script = vec![Say(Message::Entry(entry(0, Kind::File, "", None)))];
        script.extend(content(&whole, BLOCK, false));
        script.extend([Say(Message::End { index: 0, size, hash: None }), total(1)]);
        let received = receive(To::Directory(to.path()), with(UNVERIFIED), &script);
        assert_eq!((received.result.is_ok(), received.is_corrupt()), (good, !good), "{received:?}");
    }
}

fn hole(bytes: u64) -> Step {
    Say(Message::Hole { bytes })
}

#[test]
fn holes_are_zeros() {
    for (options, verify) in [(VERIFIED, true), (UNVERIFIED, false)] {
        let (to, block) = (tempdir(), bytes(BLOCK));
        let whole = [vec![0; 2 * BLOCK], block.clone(), vec![0; BLOCK], b"tail".to_vec()].concat();
        let mut script = vec![file(0, "", whole.len() as u64), hole(2 * SIZE), Data(block.clone())];
        script.extend(verify.then(|| sum(2, &block)));
        script.extend([hole(SIZE), Data(b"tail".to_vec())]);
        script.extend([if verify { end(0, &whole) } else { unverified_end(0, &whole) }, total(1)]);
        let received = receive(To::Directory(to.path()), with(options), &script);
        received.done(1, 0);
        assert!(read(&to, "top") == whole);
        assert_eq!(received.moved(), whole.len() as u64);
    }
}

/// A hole of a file or for a sink is one step, however long it is. To a stream its zeros are written.
#[test]
fn a_hole_of_a_file_is_one_step() {
    let null: OwnedFd = std::fs::File::create("/dev/null").unwrap().into();
    for (verify, by_blocks) in [(true, true), (false, false), (false, true), (true, false)] {
        for (to_what, steps) in
            [("file", vec![2 * SIZE]), ("sink", vec![2 * SIZE]), ("stream", vec![SIZE; 2])]
        {
            let (to, mut kept) = (tempdir(), Tree::new());
            let announced = TreeEntry { by_blocks, ..entry(0, Kind::File, "", Some(2 * SIZE)) };
            let script = [Say(Message::Entry(announced)), hole(2 * SIZE)];
            let place = match to_what {
                "file" => To::Directory(to.path()),
                "sink" => To::Sink("['true']"),
                _ => To::Stream(&null, &mut kept),
            };
            let received = receive(place, with(Options { verify, ..VERIFIED }), &script);
            assert!(matches!(received.result, Err(Error::Cut(_))), "{received:?}");
            let moved = received.seen.iter().filter_map(|progress| match progress {
                Progress::Moved { bytes } => Some(*bytes),
                _ => None,
            });
            assert_eq!(moved.collect::<Vec<_>>(), steps, "{verify} {by_blocks} {to_what}");
        }
    }
}

/// More zeros than there is a table for are not even looked at, whether they are one hole or several.
#[test]
fn more_zeros_than_are_ever_hashed_one_by_one_are_refused_before_the_first() {
    let one = &[(64 << 30) + SIZE][..];
    for (verify, by_blocks, holes, refused) in [
        (true, false, one, true),
        (true, false, &[64 << 30, SIZE], true),
        (true, false, &[32 << 30, 32 << 30], false),
        (true, true, one, false),
        (false, false, one, false),
    ] {
        let to = tempdir();
        let announced = TreeEntry { by_blocks, sparse: true, ..entry(0, Kind::File, "", Some(1 << 40)) };
        let mut script = vec![Say(Message::Entry(announced))];
        script.extend(holes.iter().map(|bytes| hole(*bytes)));
        let received = receive(To::Directory(to.path()), with(Options { verify, ..VERIFIED }), &script);
        let is_refused =
            matches!(&received.result, Err(error) if error.to_string().contains("too many holes"));
        assert_eq!(is_refused, refused, "{verify} {by_blocks} {holes:?}: {received:?}");
    }
}

/// Blocks of a hole that are written before the session is served again.
const PORTION: u64 = 256;

/// A receiver that writes the zeros of a long hole notices a request to stop after each portion, though nothing arrives meanwhile.
#[test]
fn writing_a_hole_can_be_stopped() {
    let null: OwnedFd = std::fs::File::create("/dev/null").unwrap().into();
    let mut kept = Tree::new();
    let script = [file(0, "", 3 * PORTION * SIZE), hole(3 * PORTION * SIZE)];
    let moved = Cell::new(0);
    let stops = |progress: &Progress, cancel: &Cancel| {
        if matches!(progress, Progress::Moved { .. }) {
            moved.set(moved.get() + 1);
        }
        if moved.get() == PORTION + 1 {
            cancel.cancel();
        }
    };
    let received = receive_watched(To::Stream(&null, &mut kept), with(VERIFIED), &|_| {}, &stops, &script);
    assert!(matches!(received.result, Err(Error::Cancelled)), "{:?}", received.result);
    assert_eq!(moved.get(), 2 * PORTION);
    assert_eq!(kept.blocks(), 2 * PORTION, "a later session goes on there");
}

/// A hole has to be of whole blocks, begin between blocks, and stay within the announced size.
#[test]
fn a_hole_has_its_place_and_its_length() {
    for (announced, before, bytes, expected) in [
        (Some(2 * SIZE), 0, 2 * SIZE, None),
        (Some(2 * SIZE), 0, SIZE, None),
        (Some(2 * SIZE), 0, 0, Some("a hole inside a block")),
        (Some(2 * SIZE), 0, SIZE + 1, Some("a hole inside a block")),
        (Some(2 * SIZE), 0, SIZE - 1, Some("a hole inside a block")),
        (Some(2 * SIZE), 1, SIZE, Some("a hole inside a block")),
        (Some(2 * SIZE), 0, 3 * SIZE, Some("a hole beyond the end")),
        (Some(2 * SIZE - 1), 0, 2 * SIZE, Some("a hole beyond the end")),
        (None, 0, SIZE, Some("a hole beyond the end")),
    ] {
        for options in [VERIFIED, UNVERIFIED] {
            let to = tempdir();
            let mut script = vec![Say(Message::Entry(entry(0, Kind::File, "", announced)))];
            script.extend((before > 0).then(|| Data(vec![1; before])));
            script.push(hole(bytes));
            let received = receive(To::Directory(to.path()), with(options), &script);
            match expected {
                Some(what) => {
                    assert_eq!(received.violation(), &Violation::Unexpected(what), "{announced:?} {bytes}")
                }
                None => assert!(matches!(received.result, Err(Error::Cut(_))), "{received:?}"),
            }
        }
    }
}

/// If blocks cannot be written, the sender is told once, the rest of the file is dropped, and the next file
/// is stored.
#[test]
fn a_file_that_cannot_be_written_does_not_end_the_session() {
    for options in [VERIFIED, UNVERIFIED] {
        let (to, whole) = (tempdir(), bytes(2 * BLOCK + 3));
        std::fs::write(to.path().join(".linger"), b"in the way of the work directory").unwrap();
        let mut script = vec![directory(0, ""), file(1, "a", whole.len() as u64)];
        script.extend(content(&whole, BLOCK, options.verify));
        script.extend([end(1, &whole), file(2, "b", 3), Data(b"new".to_vec())]);
        script.extend([agreed_end(2, b"new", options)]);
        script.extend([leave(0), total(3)]);
        let received = receive(To::Directory(to.path()), with(options), &script);
        assert_eq!(received.failures(), [(1, Refusal::Forbidden)], "{received:?}");
        received.done(2, 1);
        assert!(!to.path().join("top/a").exists());
        assert!(
            received
                .seen
                .iter()
                .any(|seen| matches!(seen, Progress::NotDelivered { path, .. } if path.as_bytes() == b"a"))
        );
    }
}

#[test]
fn a_hole_that_cannot_be_made_fails_its_file() {
    for options in [VERIFIED, UNVERIFIED] {
        let to = tempdir();
        std::fs::write(to.path().join(".linger"), b"in the way of the work directory").unwrap();
        let whole = vec![0; 2 * BLOCK];
        let script = [
            directory(0, ""),
            file(1, "a", 2 * SIZE),
            hole(2 * SIZE),
            end(1, &whole),
            file(2, "b", 3),
            Data(b"new".to_vec()),
            agreed_end(2, b"new", options),
            leave(0),
            total(3),
        ];
        let received = receive(To::Directory(to.path()), with(options), &script);
        assert_eq!(received.failures(), [(1, Refusal::Forbidden)], "{received:?}");
        received.done(2, 1);
        assert!(!to.path().join("top/a").exists());
    }
}

#[test]
fn a_pipe_is_told_block_by_block_what_it_need_not_keep() {
    for (kind, expected) in [(Kind::Pipe, vec![SIZE, 2 * SIZE]), (Kind::File, vec![])] {
        for options in [VERIFIED, UNVERIFIED] {
            let (to, whole) = (tempdir(), bytes(2 * BLOCK + 3));
            let mut script = vec![Say(Message::Entry(entry(0, kind, "", None)))];
            script.extend(content(&whole, 400_000, options.verify));
            script.extend([agreed_end(0, &whole, options), total(1)]);
            let received = receive(To::Directory(to.path()), with(options), &script);
            let said = received.done(1, 0);
            let told = said.iter().filter_map(|message| match message {
                Message::Progress { index: 0, bytes } => Some(*bytes),
                _ => None,
            });
            assert_eq!(told.collect::<Vec<_>>(), expected, "{kind:?}");
            assert!(read(&to, "top") == whole);
        }
    }
}

fn pipe() -> (std::fs::File, OwnedFd) {
    let (reading, writing) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    (reading.into(), writing)
}

#[test]
fn a_stream_gets_verified_blocks_and_the_end() {
    for options in [VERIFIED, UNVERIFIED] {
        let (mut reading, out) = pipe();
        // If the descriptor takes nothing now, the receiver waits for it.
        rustix::io::ioctl_fionbio(&out, true).unwrap();
        let whole = [bytes(BLOCK), vec![0; BLOCK], bytes(77)].concat();
        let copy = std::thread::spawn(move || {
            let mut copy = Vec::new();
            reading.read_to_end(&mut copy).unwrap();
            copy
        });
        let mut script = vec![file(0, "", whole.len() as u64)];
        script.extend(content(&whole[..BLOCK], BLOCK, options.verify));
        script.extend([hole(SIZE), Data(bytes(77))]);
        script.extend([agreed_end(0, &whole, options), total(1)]);
        let mut so_far = Tree::new();
        let received = receive(To::Stream(&out, &mut so_far), with(options), &script);
        drop(out);
        let [Message::Receipt(receipt)] = received.done(1, 0) else { panic!("{received:?}") };
        assert_eq!(
            (receipt.size, receipt.hash),
            (whole.len() as u64, hash(&whole).filter(|_| options.verify))
        );
        assert!(receipt.name.is_empty() && copy.join().unwrap() == whole);
        assert_eq!(so_far, Tree::new(), "nothing to go on with");
        assert!(!received.asks());
    }
}

/// Blocks that the stream has taken are not sent again in the next session.
#[test]
fn a_stream_that_was_cut_goes_on_behind_what_it_has() {
    let (mut reading, out) = pipe();
    let whole = bytes(BLOCK + 5);
    let copy = std::thread::spawn(move || {
        let mut copy = Vec::new();
        reading.read_to_end(&mut copy).unwrap();
        copy
    });
    let mut so_far = Tree::new();
    let script =
        [file(0, "", SIZE + 5), Data(whole[..BLOCK].to_vec()), sum(0, &whole[..BLOCK]), Data(vec![1])];
    let received = receive(To::Stream(&out, &mut so_far), with(VERIFIED), &script);
    assert!(matches!(received.result, Err(Error::Cut(_))), "{received:?}");
    assert_eq!(so_far.blocks(), 1);
    let script = [file(0, "", SIZE + 5), Data(whole[BLOCK..].to_vec()), end(0, &whole), total(1)];
    let received = receive(To::Stream(&out, &mut so_far), with(VERIFIED), &script);
    drop(out);
    let [Message::Answer { index: 0, answer: EntryAnswer::Partial(tree) }, Message::Receipt(_)] =
        received.done(1, 0)
    else {
        panic!("{received:?}")
    };
    assert_eq!(tree.blocks(), 1);
    assert!(copy.join().unwrap() == whole);
    assert!(received.seen.iter().any(|seen| matches!(seen, Progress::Started { resumed: SIZE, .. })));
}

#[test]
fn a_stream_that_cannot_be_written_fails() {
    let (reading, _writing) = pipe();
    let out = OwnedFd::from(reading);
    for size in [3, BLOCK] {
        let mut so_far = Tree::new();
        let received =
            receive(To::Stream(&out, &mut so_far), with(VERIFIED), &one_file(&bytes(size), BLOCK, true));
        received.done(0, 1);
        assert_eq!(received.failures(), [(0, Refusal::Other)], "{size}");
    }
}

/// The command runs once everything is verified, and with all of it.
#[test]
fn a_sink_gets_everything_at_once() {
    let to = tempdir();
    let out = to.path().join("out");
    let command = format!("['tee', '-a', '{}']", out.display());
    let whole = [bytes(BLOCK), vec![0; BLOCK], b"tail".to_vec()].concat();
    let mut script = vec![file(0, "", whole.len() as u64)];
    script.extend(content(&whole[..BLOCK], BLOCK, true));
    script.extend([hole(SIZE), Data(b"tail".to_vec())]);
    let cut = receive(To::Sink(&command), with(VERIFIED), &script);
    assert!(matches!(cut.result, Err(Error::Cut(_))) && !out.exists(), "{cut:?}");
    script.extend([end(0, &whole), total(1)]);
    let received = receive(To::Sink(&command), with(VERIFIED), &script);
    let [Message::Receipt(receipt)] = received.done(1, 0) else { panic!("{received:?}") };
    assert_eq!(
        (&receipt.name[..], receipt.size, receipt.hash),
        (&b"@x"[..], whole.len() as u64, hash(&whole))
    );
    assert!(std::fs::read(&out).unwrap() == whole);
    assert!(!received.asks());
}

#[test]
fn a_sink_whose_command_fails_or_that_is_too_small_says_so() {
    for (command, size, expected) in
        [("['false']", 3, Refusal::Command), ("['true']", 3_000_001, Refusal::NoSpace)]
    {
        let received = receive(To::Sink(command), with(VERIFIED), &one_file(&bytes(size), BLOCK, true));
        received.done(0, 1);
        assert_eq!(received.failures(), [(0, expected)]);
    }
    // The length is not announced, and the last bytes exceed the sink's bound.
    let mut script = vec![Say(Message::Entry(entry(0, Kind::Pipe, "", None)))];
    let whole = bytes(3_000_001);
    script.extend(content(&whole, BLOCK, true));
    script.extend([end(0, &whole), total(1)]);
    let received = receive(To::Sink("['true']"), with(VERIFIED), &script);
    received.done(0, 1);
    assert_eq!(received.failures(), [(0, Refusal::NoSpace)]);
    received.done(0, 1);
}

/// A disk that is full in the middle of a frame must not make the rest of the frame look like another one.
#[test]
fn frames_after_one_that_cannot_be_written_are_still_frames() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    let session = |stream, role| Session::new(Box::new(Plain::new(stream).unwrap()), role).unwrap();
    let sending = std::thread::spawn(move || {
        let mut session = session(client, Role::Initiator);
        let stream = session.open(b"").unwrap();
        for _ in 0..6 {
            session.data(stream, &[b'x'; 1 << 19]).unwrap();
            session.message(stream, b"after").unwrap();
        }
        session.flush().unwrap();
        session.receive()
    });
    let mut session = session(server, Role::Responder);
    assert!(matches!(session.receive().unwrap(), SessionEvent::Opened { .. }));
    // splice(2) does not write to a file that appends; pwrite(2) does.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    let appends = File::options().append(true).create(true).open(path).unwrap();
    for round in 0..6 {
        let event = session.receive().unwrap();
        assert_eq!(event, SessionEvent::Data { stream: 1, length: 1 << 19 }, "{round}");
        let pipe = Conduit::new(BLOCK).unwrap();
        let written = pour(&mut session, 1 << 19, &pipe, appends.as_fd(), 0).unwrap();
        assert!(written.is_err(), "{written:?}");
        let event = session.receive().unwrap();
        assert_eq!(event, SessionEvent::Message { stream: 1, bytes: b"after".to_vec() }, "{round}");
    }
    session.goodbye(0, "").unwrap();
    assert!(matches!(sending.join().unwrap(), Ok(SessionEvent::Bye { code: 0, .. })));
}

/// Of a hole of 272 blocks, the last 16 have to be hashed. A sender may have 1,024 hashed in a session, and 32 more for each block
/// of data; then the next file fails, and what comes behind it is received.
#[test]
fn zeros_that_have_to_be_hashed_are_paid_for_by_data() {
    const HOLE: u64 = 272 * SIZE;
    let mut zeros = Tree::new();
    zeros.push_zeros(272);
    let hash = Some(zeros.finish(None));
    let hole = |index: u64| {
        let end = Message::End { index, size: HOLE, hash };
        [file(index, &index.to_string(), HOLE), Say(Message::Hole { bytes: HOLE }), Say(end)]
    };
    let data = bytes(BLOCK);
    let mut script = vec![directory(0, "")];
    script.extend((1..=66).flat_map(hole));
    script.push(file(67, "67", SIZE));
    script.extend(content(&data, BLOCK, true));
    script.push(end(67, &data));
    script.extend((68..=70).flat_map(hole));
    script.extend([leave(0), total(71)]);
    let to = tempdir();
    let received = receive(To::Directory(to.path()), with(VERIFIED), &script);
    assert_eq!(received.failures(), [65, 66, 70].map(|index| (index, Refusal::Other)));
    received.done(71 - 3, 3);
    assert_eq!(std::fs::metadata(to.path().join("top/69")).unwrap().len(), HOLE);
    assert!(!to.path().join("top/70").exists());
}
