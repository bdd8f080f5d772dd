//! Every message comes back as it was sent, and nothing else is taken for one.

use super::*;
use crate::hash::Sum;
use proptest::prelude::*;

fn examples() -> Vec<Message> {
    let mut tree = Tree::new();
    tree.push(Sum::of(0, b"x"));
    let time = Time { seconds: -1, nanos: 999_999_999 };
    let path = RelPath::new(*b"a/b").unwrap();
    vec![
        Message::Offer { name: b"n".to_vec(), directory: true },
        Message::Accept { ask: true, memory: [6; 16] },
        Message::Entry(TreeEntry {
            index: 7,
            kind: Kind::Link,
            path,
            mode: 0o7777,
            mtime: Some(time),
            size: Some(9),
            token: [3; 16],
            hash: Some([1; 32]),
            sparse: true,
            by_blocks: true,
            target: b"../x".to_vec(),
        }),
        Message::Answer { index: 1, answer: EntryAnswer::Partial(tree) },
        Message::Answer { index: 1, answer: EntryAnswer::Complete([2; 32]) },
        Message::Answer { index: 1, answer: EntryAnswer::Refused(Refusal::Exists, "é".into()) },
        Message::Answer { index: 1, answer: EntryAnswer::Fresh },
        Message::Hole { bytes: 1 << 20 },
        Message::Sum { value: [9; 32] },
        Message::End { index: 1, size: 2, hash: None },
        Message::Same { index: 1 },
        Message::Abort { index: 1, refusal: Refusal::Source, text: "gone".into() },
        Message::Leave { index: 1, mode: 0o755, mtime: time },
        Message::Progress { index: 1, bytes: 5 },
        Message::Receipt(Receipt {
            index: 1,
            size: 3,
            hash: Some([4; 32]),
            durability: Durability::Disk,
            time,
            name: b"x".to_vec(),
            present: false,
        }),
        Message::Failed { index: 1, refusal: Refusal::NoSpace, text: Reason::default() },
        Message::Total { entries: 4, failed_before: 1 },
        Message::Done { confirmed: 4, failed: 0, digest: [5; 32], signature: None },
        Message::Done {
            confirmed: 4,
            failed: 0,
            digest: [5; 32],
            signature: Some(Signature { key: [1; 32], bytes: [2; 64] }),
        },
        Message::Item(Item { name: "i".into(), kind: Kind::File, size: 1, mode: 0o644, mtime: time }),
        Message::Error { refusal: Refusal::NotFound, text: "no".into() },
    ]
}

#[test]
fn every_message_comes_back_as_it_was() {
    for message in examples() {
        assert_eq!(Message::decode(&message.encode()).as_ref(), Ok(&message));
    }
}

#[test]
fn a_cut_or_lengthened_message_is_refused() {
    for message in examples() {
        let bytes = message.encode();
        for end in 0..bytes.len() {
            assert!(Message::decode(&bytes[..end]).is_err(), "{message:?} cut at {end}");
        }
        assert!(Message::decode(&[&bytes[..], b"x"].concat()).is_err(), "{message:?} lengthened");
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(message) = Message::decode(&bytes) {
            prop_assert_eq!(message.encode(), bytes.clone());
        }
        let _ = Operation::decode(&bytes);
    }
}
