//! Every message comes back as it was sent, and nothing else is taken for one.

use super::*;
use crate::hash::Sum;
use crate::selection::Selection;
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
            mode: Some(0o600),
        }),
        Message::Failed { index: 1, refusal: Refusal::NoSpace, text: Reason::default() },
        Message::Total { entries: 4, failed_before: 1 },
        Message::Done { confirmed: 4, failed: 0, digest: None, signature: None },
        Message::Done {
            confirmed: 4,
            failed: 0,
            digest: Some([5; 32]),
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

/// Where the fields end that version 1 has, if version 2 has more.
fn of_version_1(message: &Message) -> Option<usize> {
    let length = message.encode().len();
    Some(match message {
        Message::Accept { .. } => 2,
        Message::Entry(_) => length - 1,
        Message::Receipt(Receipt { mode: Some(_), .. }) => length - 9,
        Message::Total { .. } => 9,
        Message::Done { .. } => 17,
        _ => return None,
    })
}

#[test]
fn a_message_of_version_1_is_read() {
    for message in examples() {
        if let Some(end) = of_version_1(&message) {
            assert!(Message::decode(&message.encode()[..end]).is_ok(), "{message:?}");
        }
    }
}

#[test]
fn a_cut_or_lengthened_message_is_refused() {
    for message in examples() {
        let bytes = message.encode();
        for end in 0..bytes.len() {
            if Some(end) != of_version_1(&message) {
                assert!(Message::decode(&bytes[..end]).is_err(), "{message:?} cut at {end}");
            }
        }
        assert!(Message::decode(&[&bytes[..], b"x"].concat()).is_err(), "{message:?} lengthened");
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(message) = Message::decode(&bytes) {
            prop_assert!(message.encode().starts_with(&bytes));
        }
        let _ = Operation::decode(&bytes);
    }
}

/// What docs/transfer-vectors.txt has: names and bytes.
fn vectors() -> Vec<(&'static str, Vec<u8>)> {
    use crate::account::{Account, ConfirmedEntry, to_sign};
    use crate::hash::{Hashing, ZEROS};
    use crate::wire::{FrameKind, Header, preface};
    let frame = |kind, stream, payload: &[u8]| {
        [&Header { kind, stream, length: payload.len() as u32 }.encode(payload)[..], payload].concat()
    };
    let options =
        Options { if_exists: IfExists::Fail, verify: true, dry_run: false, durability: Durability::Disk };
    let path = |path: &str| RelPath::new(path.as_bytes()).unwrap();
    let put = Put {
        path: path("a/b"),
        into: true,
        name: b"file".to_vec(),
        sink: None,
        id: [0x11; 16],
        again: true,
        sent: Some([0x22; 16]),
        options,
        exact_modes: false,
        anew: false,
    };
    let print = Put { sink: Some("print".into()), exact_modes: true, anew: true, ..put.clone() };
    let get = Get {
        path: path("a"),
        source: None,
        patterns: vec![b"*.o".to_vec()],
        limit: 5,
        options,
        selection: Selection::default(),
    };
    let entry = |by_blocks| TreeEntry {
        index: 1,
        kind: Kind::File,
        path: path("x"),
        mode: 0o644,
        mtime: Some(Time { seconds: 1_700_000_000, nanos: 5 }),
        size: Some(3),
        token: [0x33; 16],
        hash: None,
        sparse: by_blocks,
        by_blocks,
        target: Vec::new(),
    };
    let mut account = Account::default();
    account.confirm(&ConfirmedEntry {
        path: b"x",
        kind: Kind::File,
        target: b"",
        size: 3,
        hash: Some(blake3::hash(b"abc").as_bytes()),
        durability: Durability::Disk,
        present: false,
        mode: Some(0o640),
    });
    let one = account.digest();
    account.fail(7);
    account.unsent(b"fifo");
    let mut blocks = Tree::new().hashed(Hashing::Blocks);
    blocks.push(Sum::of(0, &[1; crate::hash::BLOCK]));
    blocks.push_zeros(5);
    let mut whole = Tree::new();
    whole.push(Sum::of(0, &ZEROS));
    let second = Sum::of(1, &ZEROS).value;
    whole.push(Sum::of(1, &ZEROS));
    let message = |message: Message| frame(FrameKind::Message, 1, &message.encode());
    let receipt = Receipt {
        index: 1,
        size: 3,
        hash: Some(*blake3::hash(b"abc").as_bytes()),
        durability: Durability::Disk,
        time: Time { seconds: 1_700_000_001, nanos: 6 },
        name: b"x".to_vec(),
        present: false,
        mode: Some(0o640),
    };
    let mut vectors = vec![
        ("preface", preface().to_vec()),
        ("open-put", frame(FrameKind::Open, 1, &Operation::Put(put).encode())),
        ("open-put-wishes", frame(FrameKind::Open, 1, &Operation::Put(print).encode())),
        ("open-get", frame(FrameKind::Open, 1, &Operation::Get(get).encode())),
        ("open-list", frame(FrameKind::Open, 3, &Operation::List { path: path("a") }.encode())),
        ("open-ask", frame(FrameKind::Open, 1, &Operation::Ask { id: [0x11; 16] }.encode())),
        ("accept", message(Message::Accept { ask: false, memory: [0x22; 16] })),
        ("entry", message(Message::Entry(entry(false)))),
        ("entry-by-blocks", message(Message::Entry(entry(true)))),
        (
            "answer-partial",
            message(Message::Answer { index: 1, answer: EntryAnswer::Partial(whole.clone()) }),
        ),
        ("data", frame(FrameKind::Data, 1, b"abc")),
        ("end", message(Message::End { index: 1, size: 3, hash: receipt.hash })),
        ("receipt", message(Message::Receipt(receipt))),
        ("total", message(Message::Total { entries: 2, failed_before: 0 })),
        ("done", message(Message::Done { confirmed: 1, failed: 0, digest: Some(one), signature: None })),
        ("finish", frame(FrameKind::Finish, 1, b"")),
        ("bye", frame(FrameKind::Bye, 0, &crate::wire::reason_bytes(0, "all receipts are here"))),
        ("credit", frame(FrameKind::Credit, 1, &(1u64 << 20).to_be_bytes())),
        (
            "work-verify-1-of-3",
            frame(FrameKind::Work, 0, &[&[1][..], &1u64.to_be_bytes(), &3u64.to_be_bytes()].concat()),
        ),
        ("chaining-value-of-zeros-at-block-1", second.to_vec()),
        ("hash-of-two-blocks-of-zeros-and-abc", whole.end(b"abc").to_vec()),
        ("hash-by-blocks-of-ones-five-of-zeros-and-abc", blocks.end(b"abc").to_vec()),
        ("digest-one-confirmed", one.to_vec()),
        ("digest-one-confirmed-two-failed", account.digest().to_vec()),
        ("what-is-signed", to_sign(&[0x11; 16], &one)),
        (
            "proof-of-the-same-user",
            crate::loopback::proof_by(b"a key pair", &[0x99; 32], &[0xaa; 32]).to_vec(),
        ),
    ];
    vectors.extend(crate::pair::tests::vectors());
    vectors
}

#[test]
fn the_documented_vectors_are_true() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/transfer-vectors.txt");
    let documented = std::fs::read_to_string(path).unwrap_or_default();
    let mut now = String::new();
    for (name, bytes) in vectors() {
        now.push_str(&format!("{name} {}\n", crate::hash::hex(&bytes)));
    }
    assert!(documented == now, "{path} should be:\n{now}");
}
