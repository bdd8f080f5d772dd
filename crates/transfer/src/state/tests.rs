//! What a later session believes of an earlier session's log, each with a case that differs in one detail.

use super::*;
use crate::alive::Gauge;
use std::os::fd::AsFd;

fn block(number: u64) -> Vec<u8> {
    vec![number as u8 + 1; BLOCK]
}

fn dir() -> (tempfile::TempDir, OwnedFd) {
    let temp = tempfile::tempdir().unwrap();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let fd = rustix::fs::open(temp.path(), flags, Mode::empty()).unwrap();
    (temp, fd)
}

/// Receives three blocks. Then the session ends.
fn three_blocks(dir: &OwnedFd) {
    let (mut state, part) = PartLog::create(dir.as_fd(), [7; 16], Hashing::Whole, "p", "s").unwrap();
    for number in 0..3 {
        write_full(part.as_fd(), &block(number), number * BLOCK as u64).unwrap();
        state.append(part.as_fd(), LogStep::Block(Sum::of(number, &block(number)))).unwrap();
    }
}

fn resumed(dir: &OwnedFd) -> u64 {
    PartLog::resume(dir.as_fd(), [7; 16], Hashing::Whole, "p", "s", &Gauge::default()).unwrap().map_or(
        0,
        |found| {
            let mut whole = Tree::new();
            (0..found.tree.blocks()).for_each(|number| whole.push(Sum::of(number, &block(number))));
            assert_eq!(found.tree, whole);
            found.tree.blocks()
        },
    )
}

#[test]
fn what_was_written_is_found_again() {
    let (_temp, dir) = dir();
    assert_eq!(resumed(&dir), 0);
    three_blocks(&dir);
    assert_eq!(resumed(&dir), 3);
    assert_eq!(resumed(&dir), 3, "resuming changes nothing");
    assert!(
        PartLog::resume(dir.as_fd(), [8; 16], Hashing::Whole, "p", "s", &Gauge::default()).unwrap().is_none(),
        "another file's token"
    );
}

/// After a power cut a delivered file may have the name of its partial file as well.
#[test]
fn a_delivered_file_is_not_written_to() {
    let (temp, dir) = dir();
    three_blocks(&dir);
    let (part, delivered) = (temp.path().join("p"), temp.path().join("delivered"));
    std::fs::hard_link(&part, &delivered).unwrap();
    let length = || std::fs::metadata(&delivered).unwrap().len();
    assert_eq!(resumed(&dir), 0, "it is not gone on with");
    drop(PartLog::create(dir.as_fd(), [7; 16], Hashing::Whole, "p", "s").unwrap());
    assert_eq!(length(), 3 * BLOCK as u64, "another file is begun");
    three_blocks(&dir);
    let held = PartLog::create(dir.as_fd(), [7; 16], Hashing::Whole, "p", "s").unwrap();
    PartLog::discard(dir.as_fd(), "p", "s");
    assert!(part.exists(), "another session holds it");
    drop(held);
    PartLog::discard(dir.as_fd(), "p", "s");
    assert!(!part.exists() && !temp.path().join("s").exists() && length() == 3 * BLOCK as u64);
}

#[test]
fn one_session_at_a_time() {
    let (_temp, dir) = dir();
    let held = PartLog::create(dir.as_fd(), [7; 16], Hashing::Whole, "p", "s").unwrap();
    assert_eq!(
        PartLog::resume(dir.as_fd(), [7; 16], Hashing::Whole, "p", "s", &Gauge::default()).unwrap_err(),
        Errno::WOULDBLOCK
    );
    drop(held);
    assert_eq!(resumed(&dir), 0);
}

/// A child that is being made for another session's command has a copy of the log's fd, and no part in its lock.
#[test]
fn a_log_is_free_when_its_session_has_ended() {
    let (_temp, dir) = dir();
    three_blocks(&dir);
    let resume = || PartLog::resume(dir.as_fd(), [7; 16], Hashing::Whole, "p", "s", &Gauge::default());
    let found = resume().unwrap().unwrap();
    let of_a_child = rustix::io::dup(found.state.log.as_fd()).unwrap();
    assert_eq!(resume().unwrap_err(), Errno::WOULDBLOCK);
    drop(found);
    assert!(resume().unwrap().is_some());
    drop(of_a_child);
}

#[test]
fn a_block_that_was_changed_since_is_not_trusted() {
    let (temp, dir) = dir();
    three_blocks(&dir);
    let part = std::fs::OpenOptions::new().write(true).open(temp.path().join("p")).unwrap();
    write_full(part.as_fd(), b"!", BLOCK as u64 + 5).unwrap();
    assert_eq!(resumed(&dir), 1);
}

#[test]
fn a_longer_or_shorter_part_is_brought_back_to_whole_blocks() {
    let (temp, dir) = dir();
    three_blocks(&dir);
    let part = std::fs::OpenOptions::new().write(true).open(temp.path().join("p")).unwrap();
    write_full(part.as_fd(), b"tail", 3 * BLOCK as u64).unwrap();
    assert_eq!(resumed(&dir), 3);
    part.set_len(2 * BLOCK as u64 + 9).unwrap();
    assert_eq!(resumed(&dir), 2);
    assert_eq!(part.metadata().unwrap().len(), 2 * BLOCK as u64);
}

#[test]
fn a_torn_or_changed_record_ends_the_log() {
    let (temp, dir) = dir();
    three_blocks(&dir);
    let log = std::fs::OpenOptions::new().write(true).open(temp.path().join("s")).unwrap();
    log.set_len(RECORD as u64 * 3 + 50).unwrap();
    assert_eq!(resumed(&dir), 2);
    write_full(log.as_fd(), b"x", RECORD as u64 + 3).unwrap();
    assert_eq!(resumed(&dir), 0);
}

#[test]
fn an_unverified_log_is_not_taken_for_a_verified_one() {
    let (_temp, dir) = dir();
    let (mut state, part) = PartLog::create(dir.as_fd(), [7; 16], Hashing::None, "p", "s").unwrap();
    write_full(part.as_fd(), &block(0), 0).unwrap();
    state.append(part.as_fd(), LogStep::Block(Sum::default())).unwrap();
    // The process is killed before it writes the next record.
    write_full(part.as_fd(), &block(1), BLOCK as u64).unwrap();
    drop((state, part));
    let found =
        PartLog::resume(dir.as_fd(), [7; 16], Hashing::None, "p", "s", &Gauge::default()).unwrap().unwrap();
    assert_eq!((found.tree.blocks(), found.tree.alone().is_some()), (1, true));
    drop(found);
    assert_eq!(resumed(&dir), 0);
}

#[test]
fn the_part_of_another_name_is_not_taken() {
    let (temp, dir) = dir();
    three_blocks(&dir);
    std::fs::copy(temp.path().join("p"), temp.path().join("q")).unwrap();
    std::fs::rename(temp.path().join("q"), temp.path().join("p")).unwrap();
    assert_eq!(resumed(&dir), 0);
}

/// Opens the log or the partial file, and writes `bytes` to it.
fn change(temp: &tempfile::TempDir, name: &str, bytes: &[u8], offset: u64) {
    let file = std::fs::OpenOptions::new().write(true).open(temp.path().join(name)).unwrap();
    write_full(file.as_fd(), bytes, offset).unwrap();
}

/// Changes a byte of the second block, and sets the file's time back, so that the change leaves no trace.
fn change_unseen(temp: &tempfile::TempDir) {
    let part = std::fs::File::options().write(true).open(temp.path().join("p")).unwrap();
    let time = part.metadata().unwrap().modified().unwrap();
    write_full(part.as_fd(), b"!", BLOCK as u64 + 5).unwrap();
    part.set_modified(time).unwrap();
}

/// Receives three blocks, and makes the log that of another boot.
fn three_blocks_before_a_boot(dir: &OwnedFd, verified: bool) {
    let (state, part) =
        PartLog::create(dir.as_fd(), [7; 16], Hashing::of(verified, false), "p", "s").unwrap();
    let mut header = header([7; 16], Hashing::of(verified, false), &rustix::fs::fstat(&part).unwrap());
    header[BOOT..BOOT + 16].copy_from_slice(&named(b"another"));
    write_full(state.log.as_fd(), &header, 0).unwrap();
    let mut state = PartLog { key: key(&header), ..state };
    for number in 0..3 {
        write_full(part.as_fd(), &block(number), number * BLOCK as u64).unwrap();
        let sum = if verified { Sum::of(number, &block(number)) } else { Sum::default() };
        state.append(part.as_fd(), LogStep::Block(sum)).unwrap();
    }
}

#[test]
fn a_log_is_believed_if_it_was_verified_or_nothing_could_be_lost() {
    use Trust::{Content, Log, Nothing};
    for (verified, same_boot, untouched, expected) in [
        (true, true, true, Log),
        (true, true, false, Content),
        (true, false, true, Content),
        (true, false, false, Content),
        (false, true, true, Log),
        (false, true, false, Log),
        (false, false, true, Nothing),
        (false, false, false, Nothing),
    ] {
        assert_eq!(Trust::of(verified, same_boot, untouched), expected, "{verified} {same_boot} {untouched}");
    }
}

/// Within a boot, a change that leaves no trace is not noticed. Another time, another length or another boot
/// makes the file be read.
#[test]
fn a_trace_of_a_change_makes_it_read_the_file() {
    let (temp, dir) = dir();
    three_blocks(&dir);
    change_unseen(&temp);
    assert_eq!(resumed(&dir), 3, "same boot, length and time");

    let open = || std::fs::File::options().write(true).open(temp.path().join("p")).unwrap();
    let part = open();
    let time = part.metadata().unwrap().modified().unwrap();
    part.set_modified(time + std::time::Duration::from_nanos(1000)).unwrap();
    assert_eq!(resumed(&dir), 1, "another time");

    three_blocks(&dir);
    change_unseen(&temp);
    let part = open();
    let time = part.metadata().unwrap().modified().unwrap();
    write_full(part.as_fd(), b"tail", 3 * BLOCK as u64).unwrap();
    part.set_modified(time).unwrap();
    assert_eq!(resumed(&dir), 1, "another length");

    three_blocks_before_a_boot(&dir, true);
    change_unseen(&temp);
    assert_eq!(resumed(&dir), 1, "another boot");
}

#[test]
fn after_a_boot_verified_blocks_are_read_and_others_are_forgotten() {
    let (_temp, dir) = dir();
    three_blocks_before_a_boot(&dir, true);
    assert_eq!(resumed(&dir), 3);
    three_blocks_before_a_boot(&dir, false);
    let found =
        PartLog::resume(dir.as_fd(), [7; 16], Hashing::None, "p", "s", &Gauge::default()).unwrap().unwrap();
    assert_eq!(found.tree.blocks(), 0);
    assert_eq!(rustix::fs::fstat(&found.part).unwrap().st_size, 0, "and the part begins anew");
}

#[test]
fn this_boot_has_a_name_that_others_do_not_have() {
    let id = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap();
    assert_eq!(boot(), named(&id));
    assert_ne!(boot(), named(b""));
    assert_ne!(named(b"one"), named(b"another"));
}

#[test]
fn a_part_that_is_shorter_than_its_unverified_log_counts_by_its_length() {
    let (temp, dir) = dir();
    let (mut state, part) = PartLog::create(dir.as_fd(), [7; 16], Hashing::None, "p", "s").unwrap();
    rustix::fs::ftruncate(&part, 3 * BLOCK as u64).unwrap();
    for _ in 0..3 {
        state.append(part.as_fd(), LogStep::Block(Sum::default())).unwrap();
    }
    drop((state, part));
    for (length, blocks) in [(3 * BLOCK, 3), (2 * BLOCK + 1, 2), (BLOCK, 1), (BLOCK - 1, 0)] {
        std::fs::File::options()
            .write(true)
            .open(temp.path().join("p"))
            .unwrap()
            .set_len(length as u64)
            .unwrap();
        let found = PartLog::resume(dir.as_fd(), [7; 16], Hashing::None, "p", "s", &Gauge::default())
            .unwrap()
            .unwrap();
        assert_eq!((found.tree.blocks(), found.state.records), (blocks, blocks), "{length} bytes");
    }
}

/// The log is read 512 records at a time.
#[test]
fn a_long_log_is_read_to_its_end() {
    for count in [511, 512, 513, 1100] {
        let (_temp, dir) = dir();
        let (mut state, part) = PartLog::create(dir.as_fd(), [7; 16], Hashing::None, "p", "s").unwrap();
        rustix::fs::ftruncate(&part, count * BLOCK as u64).unwrap();
        for _ in 0..count {
            state.append(part.as_fd(), LogStep::Block(Sum::default())).unwrap();
        }
        drop((state, part));
        let found = PartLog::resume(dir.as_fd(), [7; 16], Hashing::None, "p", "s", &Gauge::default())
            .unwrap()
            .unwrap();
        assert_eq!(found.tree.blocks(), count);
    }
}

#[test]
fn what_comes_after_a_resume_is_noted_behind_it() {
    let (temp, dir) = dir();
    three_blocks(&dir);
    change(&temp, "p", b"!", BLOCK as u64 + 5);
    let found =
        PartLog::resume(dir.as_fd(), [7; 16], Hashing::Whole, "p", "s", &Gauge::default()).unwrap().unwrap();
    let (mut state, part) = (found.state, found.part);
    assert_eq!(std::fs::metadata(temp.path().join("s")).unwrap().len(), 2 * RECORD as u64, "no stale record");
    for number in 1..5 {
        write_full(part.as_fd(), &block(number), number * BLOCK as u64).unwrap();
        state.append(part.as_fd(), LogStep::Block(Sum::of(number, &block(number)))).unwrap();
    }
    drop((state, part));
    assert_eq!(resumed(&dir), 5);
}

#[test]
fn a_new_log_forgets_the_old_one_and_its_part() {
    let (temp, dir) = dir();
    three_blocks(&dir);
    PartLog::create(dir.as_fd(), [9; 16], Hashing::Whole, "p", "s").unwrap();
    let length = |name: &str| std::fs::metadata(temp.path().join(name)).unwrap().len();
    assert_eq!((length("p"), length("s")), (0, RECORD as u64));
}

/// A header that differs in any byte is refused: it may be another format's.
#[test]
fn a_header_that_is_not_exactly_ours_is_refused() {
    let found = |dir: &OwnedFd| {
        PartLog::resume(dir.as_fd(), [7; 16], Hashing::Whole, "p", "s", &Gauge::default()).unwrap().is_some()
    };
    for at in [0, 7, 8, 24, 32, HASHING, HASHING + 1, BOOT - 1, BOOT + 16, RECORD - 1] {
        let (temp, dir) = dir();
        three_blocks(&dir);
        assert!(found(&dir));
        change(&temp, "s", b"?", at as u64);
        assert!(!found(&dir), "byte {at}");
    }
    let (temp, dir) = dir();
    three_blocks(&dir);
    let log = std::fs::File::options().write(true).open(temp.path().join("s")).unwrap();
    log.set_len(RECORD as u64 - 1).unwrap();
    assert!(!found(&dir), "a torn header");
}

/// A record is accepted only at its place in its log.
#[test]
fn records_of_another_place_or_another_log_are_refused() {
    let (temp, dir) = dir();
    three_blocks(&dir);
    let log = temp.path().join("s");
    let records = std::fs::read(&log).unwrap();
    change(&temp, "s", &records[RECORD..2 * RECORD], 2 * RECORD as u64);
    assert_eq!(resumed(&dir), 1, "the first record in the second place");

    let mut other = PartLog::create(dir.as_fd(), [8; 16], Hashing::Whole, "q", "t").unwrap();
    for number in 0..3 {
        write_full(other.1.as_fd(), &block(number), number * BLOCK as u64).unwrap();
        other.0.append(other.1.as_fd(), LogStep::Block(Sum::of(number, &block(number)))).unwrap();
    }
    three_blocks(&dir);
    change(&temp, "s", &std::fs::read(temp.path().join("t")).unwrap()[RECORD..], RECORD as u64);
    assert_eq!(resumed(&dir), 0, "the records of another log");
}

/// Somebody may have written into the hole of a file that has changed. What stands before and behind it is not in it.
#[test]
fn a_hole_is_one_record_and_is_proved_by_having_no_data() {
    const HOLE_BLOCKS: u64 = 1 << 20;
    let (begin, end) = (BLOCK as u64, (1 + HOLE_BLOCKS) * BLOCK as u64);
    for (goes_on, data, blocks) in [
        (true, None, 2 + HOLE_BLOCKS),
        (true, Some(begin), 1),
        (true, Some(1 << 39), 1),
        (true, Some(end - BLOCK as u64), 1),
        (true, Some(end - 1), 1),
        // The file ends with the hole.
        (false, None, 1 + HOLE_BLOCKS),
        (false, Some(end - 1), 1),
    ] {
        let (_keep, dir) = dir();
        let (mut state, part) = PartLog::create(dir.as_fd(), [7; 16], Hashing::Blocks, "p", "s").unwrap();
        let (first, last) = (vec![3; BLOCK], vec![4; BLOCK]);
        write_full(part.as_fd(), &first, 0).unwrap();
        state.append(part.as_fd(), LogStep::Block(Sum::of(0, &first))).unwrap();
        rustix::fs::ftruncate(&part, end).unwrap();
        state.append(part.as_fd(), LogStep::Hole(HOLE_BLOCKS)).unwrap();
        let place = Hashing::Blocks.place(1 + HOLE_BLOCKS);
        if goes_on {
            write_full(part.as_fd(), &last, end).unwrap();
            state.append(part.as_fd(), LogStep::Block(Sum::of(place, &last))).unwrap();
        }
        if let Some(data) = data {
            write_full(part.as_fd(), b"x", data).unwrap();
        }
        // The file's time has changed, so its content is read.
        crate::root::set_mtime(part.as_fd(), Time { seconds: 1, nanos: 0 }).unwrap();
        drop((state, part));
        let again = |hashing| PartLog::resume(dir.as_fd(), [7; 16], hashing, "p", "s", &Gauge::default());
        assert!(again(Hashing::Whole).unwrap().is_none(), "hashed in another way");
        let found = again(Hashing::Blocks).unwrap().unwrap();
        assert_eq!(found.tree.blocks(), blocks, "{data:?}");
        let mut expected = Tree::new().hashed(Hashing::Blocks);
        expected.push(Sum::of(0, &first));
        if blocks > 1 {
            expected.push_zeros(HOLE_BLOCKS);
        }
        if blocks > 1 + HOLE_BLOCKS {
            expected.push(Sum::of(place, &last));
        }
        assert_eq!(found.tree.end(b"tail"), expected.end(b"tail"));
    }
}

/// If nobody waits for the comparison any more, it ends behind the block that it has read, and the log with it.
#[test]
fn a_comparison_that_nobody_waits_for_ends() {
    for (gauge, blocks) in [(Gauge::default(), 3), (Gauge::unwanted(), 1)] {
        let (temp, dir) = dir();
        three_blocks_before_a_boot(&dir, true);
        let found = PartLog::resume(dir.as_fd(), [7; 16], Hashing::Whole, "p", "s", &gauge).unwrap().unwrap();
        assert_eq!((found.tree.blocks(), found.state.records), (blocks, blocks));
        let length = |name: &str| std::fs::metadata(temp.path().join(name)).unwrap().len();
        assert_eq!((length("p"), length("s")), (blocks * BLOCK as u64, (1 + blocks) * RECORD as u64));
    }
}

#[test]
fn a_log_is_known_by_its_first_bytes() {
    let (temp, dir) = dir();
    three_blocks(&dir);
    let log = std::fs::read(temp.path().join("s")).unwrap();
    let (mut first, mut last) = (log.clone(), log.clone());
    first[0] ^= 1;
    last[7] ^= 1;
    for (content, expected) in [
        (&log[..], true),
        (&log[..8], true),
        (&log[..7], false),
        (&[], false),
        (&first[..], false),
        (&last[..], false),
    ] {
        let path = temp.path().join("other");
        std::fs::write(&path, content).unwrap();
        assert_eq!(is_log(std::fs::File::open(&path).unwrap().as_fd()), expected, "{} bytes", content.len());
    }
}
