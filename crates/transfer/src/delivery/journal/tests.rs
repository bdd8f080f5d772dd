//! What a journal believes of its file, and what it writes.

use std::fs;

use super::*;
use crate::message::{Durability, Refusal, Time};

fn receipt(size: u64) -> Receipt {
    Receipt {
        index: 0,
        size,
        hash: Some([1; 32]),
        durability: Durability::Handed,
        time: Time { seconds: 5, nanos: 6 },
        name: b"@print".to_vec(),
        present: false,
        mode: None,
    }
}

fn sizes(history: &History) -> Vec<(u8, Option<u64>)> {
    let of = |record: &DeliveryRecord| match record {
        DeliveryRecord::Started(_) => None,
        DeliveryRecord::Ended(Ok(receipt)) | DeliveryRecord::Unheard(receipt, _) => Some(receipt.size),
        DeliveryRecord::Ended(Err(_)) => Some(0),
    };
    history.iter().map(|(id, record)| (id[0], of(record))).collect()
}

/// Asserts that the file is damaged at this byte, and stays as it is.
fn refuses(path: &Path, at: usize) {
    let before = fs::read(path).unwrap();
    let told = Journal::open(path, 10).unwrap_err().to_string();
    let place = format!("it is damaged at byte {at},");
    assert!(told.contains(&place) && told.contains("move the file away"), "{at}: {told}");
    assert_eq!(fs::read(path).unwrap(), before);
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing was put beside it");
}

#[test]
fn a_damaged_file_is_neither_used_nor_changed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let (mut journal, memory, _) = Journal::open(&path, 10).unwrap();
    for id in 1..=3 {
        journal.append(&[id; 16], &DeliveryRecord::Started(Some([id; 32]))).unwrap();
    }
    drop(journal);
    let whole = fs::read(&path).unwrap();
    let size = (whole.len() - HEADER) / 3;
    // The name of the memory has no check. The length of the last record may make it look like a part of one.
    let last = HEADER + 2 * size;
    for at in (0..8).chain(HEADER..last).chain(last + 4..whole.len()) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0xa5;
        fs::write(&path, &damaged).unwrap();
        // Where the record begins that has the byte.
        refuses(&path, if at < 8 { 0 } else { HEADER + (at - HEADER) / size * size });
    }
    for (foreign, at) in
        [(b"[sink]\n".to_vec(), 0), (vec![0xa5; 500], 0), ([&whole[..], &[0xa5; 100]].concat(), whole.len())]
    {
        fs::write(&path, &foreign).unwrap();
        refuses(&path, at);
    }
    // A record that a power cut has torn: pages of it are missing at its end or at its beginning.
    for gap in [last + 40..whole.len(), last..last + 40] {
        let mut torn = whole.clone();
        torn[gap].fill(0);
        fs::write(&path, &torn).unwrap();
        let (_, name, history) = Journal::open(&path, 10).unwrap();
        assert_eq!((name, sizes(&history)), (memory, vec![(1, None), (2, None)]));
    }
}

#[test]
fn what_was_written_is_there_again_and_a_torn_end_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let (mut journal, memory, history) = Journal::open(&path, 10).unwrap();
    assert!(history.is_empty());
    let empty = fs::metadata(&path).unwrap().len() as usize;
    journal.append(&[1; 16], &DeliveryRecord::Started(Some([1; 32]))).unwrap();
    journal.append(&[1; 16], &DeliveryRecord::Ended(Ok(receipt(7)))).unwrap();
    journal.append(&[2; 16], &DeliveryRecord::Started(None)).unwrap();
    let failed = Fault(Refusal::Command, "no paper".into());
    journal.append(&[3; 16], &DeliveryRecord::Ended(Err(failed))).unwrap();
    let locked = Journal::open(&path, 10).unwrap_err().to_string();
    assert!(locked.contains("another server that shares this directory"), "{locked}");
    drop(journal);
    let whole = fs::read(&path).unwrap();
    let all = [(1, Some(7)), (2, None), (3, Some(0))];
    for end in 0..=whole.len() {
        fs::write(&path, &whole[..end]).unwrap();
        if (1..empty).contains(&end) {
            // It is written whole or not at all.
            refuses(&path, 0);
            continue;
        }
        let (_, name, history) = Journal::open(&path, 10).unwrap();
        let found = sizes(&history);
        if end == 0 {
            assert!(found.is_empty() && name != memory, "it remembers nothing, and says so");
            continue;
        }
        assert_eq!(name, memory);
        let started = found == [(1, None)];
        assert!(started || all.starts_with(&found), "{end}: {found:?}");
        assert_eq!(found == all, end == whole.len());
    }
}

#[test]
fn what_follows_a_record_that_failed_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let (mut journal, memory, _) = Journal::open(&path, 10).unwrap();
    journal.append(&[1; 16], &DeliveryRecord::Started(Some([1; 32]))).unwrap();
    // No record fits, and only a part of it is written; nor can it be taken off.
    let half = encode(&[2; 16], &DeliveryRecord::Started(None));
    disk::append(&journal.file, &half[..half.len() / 2]).unwrap();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let whole = std::mem::replace(&mut journal.file, full);
    assert!(journal.append(&[2; 16], &DeliveryRecord::Started(None)).is_err());
    assert!(journal.append(&[3; 16], &DeliveryRecord::Started(None)).is_err());
    journal.file = whole;
    journal.append(&[4; 16], &DeliveryRecord::Started(Some([4; 32]))).unwrap();
    journal.append(&[5; 16], &DeliveryRecord::Ended(Ok(receipt(5)))).unwrap();
    drop(journal);
    let (_, same, history) = Journal::open(&path, 10).unwrap();
    assert_eq!((same, sizes(&history)), (memory, vec![(1, None), (4, None), (5, Some(5))]));
}

#[test]
fn a_delivery_is_known_by_its_content() {
    for content in [None, Some([7; 32])] {
        let record = encode(&[9; 16], &DeliveryRecord::Started(content));
        let Some((_, DeliveryRecord::Started(read), [])) = next(&record) else { panic!("{record:?}") };
        assert_eq!(read, content);
    }
}

#[test]
fn an_outcome_that_nobody_has_heard_is_known_by_its_content() {
    let record = encode(&[9; 16], &DeliveryRecord::Unheard(receipt(5), [7; 32]));
    let Some((_, DeliveryRecord::Unheard(read, content), [])) = next(&record) else { panic!("{record:?}") };
    assert_eq!((read, content), (receipt(5), [7; 32]));
    // With the bytes of another kind of record, or cut within the content, it is none.
    assert!(decode(4, &Message::Receipt(receipt(5)).encode()).is_none());
    assert!(decode(4, &[7; 31]).is_none() && decode(4, &[7; 32]).is_none());
}

#[test]
fn no_flipped_bit_makes_another_record() {
    let record = encode(&[9; 16], &DeliveryRecord::Unheard(receipt(1), [7; 32]));
    assert!(next(&record).is_some());
    for bit in 0..record.len() * 8 {
        let mut damaged = record.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(next(&damaged).is_none(), "{bit}");
    }
}

#[test]
fn whoever_forgets_gets_another_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let (mut journal, memory, _) = Journal::open(&path, 2).unwrap();
    for id in 1..=2 {
        journal.append(&[id; 16], &DeliveryRecord::Started(Some([id; 32]))).unwrap();
    }
    drop(journal);
    let (mut journal, same, history) = Journal::open(&path, 2).unwrap();
    assert_eq!((same, history.len()), (memory, 2));
    journal.append(&[3; 16], &DeliveryRecord::Started(Some([3; 32]))).unwrap();
    drop(journal);
    let (_, another, history) = Journal::open(&path, 2).unwrap();
    assert_ne!(another, memory);
    assert_eq!(sizes(&history), [(2, None), (3, None)], "the oldest is forgotten first");
}

/// A child that another thread has forked has copies of all fds until it executes its program.
#[test]
fn who_closes_a_journal_unlocks_it_for_others() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let (journal, memory, _) = Journal::open(&path, 10).unwrap();
    let childs = journal.file.try_clone().unwrap();
    let told = Journal::open(&path, 10).unwrap_err().to_string();
    assert!(told.contains("another server"), "{told}");
    drop(journal);
    assert_eq!(Journal::open(&path, 10).unwrap().1, memory);
    drop(childs);
}

#[test]
fn the_longest_record_is_read_and_no_longer_one() {
    for (length, is_read) in [(0, true), (LONGEST, true), (LONGEST + 1, false)] {
        let mut record = [&(length as u32).to_be_bytes()[..], &[1], &[9; 16], &vec![7; length]].concat();
        let check = check(&record);
        record.extend(&check[..CHECK]);
        assert_eq!(next(&record).is_some(), is_read, "{length}");
    }
}

#[test]
fn a_command_that_failed_is_known_by_its_reason() {
    let record = encode(&[9; 16], &DeliveryRecord::Ended(Err(Fault(Refusal::Command, "no paper".into()))));
    let Some((_, DeliveryRecord::Ended(Err(Fault(refusal, text))), [])) = next(&record) else {
        panic!("{record:?}")
    };
    assert_eq!((refusal, text.to_string().as_str()), (Refusal::Command, "no paper"));
}
