//! One request of a random conversation: what the gateway sends, and what the handler does.

use std::collections::VecDeque;
use std::time::Duration;

/// A short wait for bodies that these gateways send only after END_REQUEST: thousands of conversations have one.
pub(crate) const INPUT_IDLE: Duration = Duration::from_millis(1);

/// A small generator of numbers (splitmix64): the same seed, the same conversation, everywhere.
#[derive(Clone, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, most: usize) -> usize {
        (self.next() % most.max(1) as u64) as usize
    }

    pub(crate) fn one_in(&mut self, many: usize) -> bool {
        self.below(many) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// What a handler does, in this order, before it ends.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// Reads the body to its end.
    ReadAll,
    /// Reads so many bytes of it, or to its end.
    Read(usize),
    /// Reads a Filter's file to its end.
    ReadData,
    Write(usize),
    Flush,
    Log(usize),
}

/// How a handler ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Done {
    Status(u32),
    Error,
    Panic,
}

/// The message of the error with which a handler fails.
pub(crate) const REASON: &str = "no database";

/// One request, as the gateway sends it and the application answers it.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) id: u16,
    /// 1 to 3; a request for [`UNKNOWN`] is refused.
    pub(super) role: u16,
    pub(super) keep_conn: bool,
    pub(super) body: Vec<usize>,
    pub(super) data: Vec<usize>,
    /// The gateway aborts it in place of the end of the body.
    pub(super) aborted: bool,
    pub(crate) acts: Vec<Act>,
    pub(crate) done: Done,
}

pub(super) const UNKNOWN: u16 = 9;

impl Plan {
    pub(super) fn random(random: &mut Random, id: u16, only_good: bool) -> Self {
        let role = if random.one_in(20) { UNKNOWN } else { random.pick(&[1, 1, 1, 1, 2, 3]) };
        let lengths =
            |random: &mut Random| (0..random.below(4)).map(|_| 1 + length(random)).collect::<Vec<_>>();
        let (body, data) = (lengths(random), lengths(random));
        let mut acts: Vec<Act> = (0..random.below(6))
            .map(|_| match random.below(8) {
                0 | 1 => Act::ReadAll,
                2 => Act::Read(random.below(300)),
                3 => Act::ReadData,
                4 => Act::Flush,
                5 => Act::Log(1 + random.below(40)),
                _ => Act::Write(length(random)),
            })
            .collect();
        let aborted = role != 2 && role != UNKNOWN && random.one_in(6) && !only_good;
        let done = match random.below(5) {
            0 if !only_good => Done::Error,
            1 if !only_good => Done::Panic,
            _ => Done::Status(random.below(3) as u32),
        };
        if aborted && !matches!(done, Done::Status(_)) {
            // A handler that fails reads the whole body first, so that it always fails after the abort.
            // Otherwise the order would depend on timing.
            acts.insert(0, Act::ReadAll);
        }
        Self { id, role, keep_conn: only_good || !random.one_in(5), body, data, aborted, acts, done }
    }

    pub(super) fn is_served(&self) -> bool {
        self.role != UNKNOWN
    }

    pub(super) fn reads(&self) -> bool {
        self.acts.iter().any(|act| matches!(act, Act::ReadAll | Act::Read(_) | Act::ReadData))
    }

    pub(super) fn records(&self, index: usize) -> VecDeque<Vec<u8>> {
        let [role1, role0] = self.role.to_be_bytes();
        let begin = [role1, role0, u8::from(self.keep_conn), 0, 0, 0, 0, 0];
        let mut pair = vec![4, 1];
        pair.extend_from_slice(b"PLAN");
        pair.push(b'0' + index as u8);
        let mut records =
            VecDeque::from([record(1, self.id, &begin), record(4, self.id, &pair), record(4, self.id, b"")]);
        let streams = [(5, &self.body, self.role != 2), (8, &self.data, self.role == 3)];
        for (kind, lengths, _) in streams.into_iter().filter(|(.., has_one)| *has_one) {
            let mut at = 0;
            for length in lengths {
                records.push_back(record(kind, self.id, &pattern(at, *length)));
                at += length;
            }
            if self.aborted {
                records.push_back(record(2, self.id, b""));
                break;
            }
            records.push_back(record(kind, self.id, b""));
        }
        records
    }
}

/// How much of a request a gateway has sent.
#[derive(Clone, Debug, Default)]
pub(super) struct Sent {
    pub(super) begun: bool,
    pub(super) body: usize,
    pub(super) body_ended: bool,
    pub(super) data_ended: bool,
    pub(super) aborted: bool,
}

/// Lengths around the thresholds that matter: nothing, a few bytes, the gathered size, a record's size.
fn length(random: &mut Random) -> usize {
    match random.below(200) {
        0 => 65_519 + random.below(16),
        1..4 => 16_380 + random.below(10),
        4..10 => 4000 + random.below(9000),
        10..60 => 0,
        _ => random.below(200),
    }
}

/// Bytes that show their place in a stream.
pub(crate) fn pattern(at: usize, length: usize) -> Vec<u8> {
    (at..at + length).map(|at| (at % 251) as u8).collect()
}

pub(super) fn record(kind: u8, id: u16, content: &[u8]) -> Vec<u8> {
    let ([id1, id0], [length1, length0]) = (id.to_be_bytes(), (content.len() as u16).to_be_bytes());
    // Some gateways pad, and some do not.
    let padding = if id % 2 == 0 { (8 - content.len() % 8) % 8 } else { 0 };
    let mut record = vec![1, kind, id1, id0, length1, length0, padding as u8, 0];
    record.extend_from_slice(content);
    record.resize(record.len() + padding, 0);
    record
}
