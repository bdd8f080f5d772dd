//! Random conversations, and what must come of them: written from the specification alone, with nothing of the crate.

use std::collections::{BTreeMap, VecDeque};

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

/// What a failing handler says.
pub(crate) const REASON: &str = "no database";

/// One request, as the gateway sends it and the application answers it.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) id: u16,
    /// 1 to 3; [`UNKNOWN`] is refused.
    role: u16,
    keep_conn: bool,
    body: Vec<usize>,
    data: Vec<usize>,
    /// The gateway aborts it in place of the end of the body.
    aborted: bool,
    pub(crate) acts: Vec<Act>,
    pub(crate) done: Done,
}

const UNKNOWN: u16 = 9;

impl Plan {
    fn random(random: &mut Random, id: u16, only_good: bool) -> Self {
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
            // Whether it fails before or after the abort must not be a matter of time.
            acts.insert(0, Act::ReadAll);
        }
        Self { id, role, keep_conn: only_good || !random.one_in(5), body, data, aborted, acts, done }
    }

    fn is_served(&self) -> bool {
        self.role != UNKNOWN
    }

    fn reads(&self) -> bool {
        self.acts.iter().any(|act| matches!(act, Act::ReadAll | Act::Read(_) | Act::ReadData))
    }

    fn records(&self, index: usize) -> VecDeque<Vec<u8>> {
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

    /// What must come of it when the gateway has sent this much.
    fn expect(&self, sent: &Sent) -> Expected {
        let mut expected = Expected::default();
        let mut failure = None;
        let (mut unread, mut gathered) = (sent.body, 0);
        let mut begun = false;
        for act in &self.acts {
            let missing = match act {
                Act::ReadAll => {
                    expected.read += std::mem::take(&mut unread);
                    !sent.body_ended
                }
                Act::Read(most) => {
                    let got = unread.min(*most);
                    expected.read += got;
                    unread -= got;
                    got < *most && !sent.body_ended
                }
                Act::ReadData => !sent.data_ended,
                Act::Write(bytes) => {
                    expected.stdout.extend(pattern(expected.stdout.len(), *bytes));
                    gathered += bytes;
                    begun |= gathered > 16_384;
                    false
                }
                Act::Flush => {
                    begun |= gathered > 0;
                    false
                }
                Act::Log(bytes) => {
                    expected.stderr.extend(pattern(0, *bytes));
                    false
                }
            };
            if missing {
                failure = Some(if sent.aborted { ABORTED } else { CLOSED });
                break;
            }
        }
        let failure = match self.done {
            Done::Status(_) => failure,
            Done::Error => failure.or(Some(REASON)),
            Done::Panic => failure.or(Some("the handler panicked")),
        };
        expected.failure = failure;
        let reason = failure.unwrap_or_default();
        match (failure, self.done) {
            (None, Done::Status(status)) => expected.end = Some((status, 0)),
            // What an aborted request said before is all that is known of it.
            _ if sent.aborted => {
                expected.end = Some((1, 0));
                expected.is_part = true;
            }
            _ if begun => {
                expected.is_part = true;
                expected.stderr.extend_from_slice(reason.as_bytes());
            }
            _ => {
                expected.end = Some((1, 0));
                expected.stdout = REFUSAL.to_vec();
                expected.stderr.extend_from_slice(reason.as_bytes());
            }
        }
        expected.is_last = !self.keep_conn || expected.end.is_none();
        expected
    }
}

const ABORTED: &str = "the gateway aborted the request";
const CLOSED: &str = "the gateway closed the connection before the request was complete";
const REFUSAL: &[u8] =
    b"Status: 500\r\nContent-Type: text/plain\r\n\r\nThe application failed; its log says why.\n";

/// What must come of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) stdout: Vec<u8>,
    /// Only some of `stdout` need have been sent.
    pub(crate) is_part: bool,
    pub(crate) stderr: Vec<u8>,
    /// The status of the application and that of the protocol; `None` without END_REQUEST.
    pub(crate) end: Option<(u32, u8)>,
    /// The connection ends with it.
    pub(crate) is_last: bool,
    /// Bytes of the body that its handler reads.
    pub(crate) read: usize,
    /// What its handler fails with.
    pub(crate) failure: Option<&'static str>,
}

/// How much of a request a gateway has sent.
#[derive(Clone, Debug, Default)]
struct Sent {
    begun: bool,
    body: usize,
    body_ended: bool,
    data_ended: bool,
    aborted: bool,
}

/// How a gateway leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaving {
    /// When everything was answered.
    Last,
    /// It sends no more at some point, and reads on to the end.
    HalfClosed,
    /// It is gone for good when so many bytes have reached it.
    Gone(usize),
}

/// What a gateway sends, in order.
#[derive(Clone)]
pub(crate) enum Item {
    Bytes(Vec<u8>),
    /// Nothing until so many END_REQUESTs have come.
    Await(usize),
    /// No more, ever.
    Close,
}

impl std::fmt::Debug for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "{} bytes", bytes.len()),
            Self::Await(ends) => write!(f, "until {ends} have ended"),
            Self::Close => write!(f, "close"),
        }
    }
}

/// One conversation.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub(crate) seed: u64,
    /// Whether requests run at once; otherwise each waits for the one before it.
    pub(crate) multiplexed: bool,
    pub(crate) plans: Vec<Plan>,
    pub(crate) items: Vec<Item>,
    pub(crate) leaving: Leaving,
    /// What must come of each plan; `None` for one that does not begin.
    pub(crate) expected: Vec<Option<Expected>>,
}

impl Script {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let multiplexed = random.one_in(3);
        let kind = random.below(6);
        let (mut plans, mut expected) = (Vec::new(), Vec::new());
        for index in 0..1 + random.below(if multiplexed { 5 } else { 3 }) {
            let id = if multiplexed { 1 + index as u16 * 7 } else { 1 + random.below(2) as u16 };
            let plan = Plan::random(&mut random, id, kind == 5);
            let all = Sent {
                begun: true,
                body: plan.body.iter().sum(),
                body_ended: plan.role == 2 || !plan.aborted,
                data_ended: plan.role != 3 || !plan.aborted,
                aborted: plan.aborted,
            };
            let of_all = plan.expect(&all);
            let is_last = plan.is_served() && of_all.is_last;
            expected.push(Some(of_all));
            plans.push(plan);
            if is_last && !multiplexed {
                break;
            }
        }
        let mut script =
            Self { seed, multiplexed, plans, items: Vec::new(), leaving: Leaving::Last, expected };
        script.items = if multiplexed { script.at_once(&mut random) } else { script.in_turn(&mut random) };
        match kind {
            4 => script.half_close(&mut random),
            5 => script.leaving = Leaving::Gone(random.below(script.answer_bytes())),
            _ => {}
        }
        let sent = script.sent();
        script.expected = script
            .plans
            .iter()
            .zip(&sent)
            .map(|(plan, sent)| sent.begun.then(|| plan.expect(sent)))
            .collect();
        for (plan, expected) in script.plans.iter().zip(&mut script.expected) {
            if let Some(expected) = expected.as_mut().filter(|_| !plan.is_served()) {
                *expected = Expected { end: Some((0, 3)), ..Expected::default() };
            }
        }
        script
    }

    /// How many handlers will start: those that end the connection wait for them.
    pub(crate) fn starts(&self) -> usize {
        self.plans
            .iter()
            .zip(&self.expected)
            .filter(|(plan, begun)| plan.is_served() && begun.is_some())
            .count()
    }

    fn ends_by_itself(&self) -> bool {
        let of = |(plan, expected): (&Plan, &Option<Expected>)| {
            plan.is_served() && expected.as_ref().is_some_and(|expected| expected.is_last)
        };
        self.plans.iter().zip(&self.expected).any(of)
    }

    /// Each request after the end of the one before.
    fn in_turn(&self, random: &mut Random) -> Vec<Item> {
        let mut items = Vec::new();
        for (index, plan) in self.plans.iter().enumerate() {
            let mut records = plan.records(index);
            // What a handler does not read may come after its answer.
            let is_late = !plan.reads() && plan.is_served() && !plan.aborted && random.one_in(2);
            let late = if is_late { records.split_off(3) } else { VecDeque::new() };
            if random.one_in(8) {
                records.push_front(record(77, 0, b"unknown"));
            }
            items.push(Item::Bytes(records.make_contiguous().concat()));
            let ends = self.expected[index].as_ref().is_some_and(|expected| expected.end.is_some());
            if !plan.is_served() || ends {
                items.push(Item::Await(index + 1));
                items.push(Item::Bytes(Vec::from(late).concat()));
            }
        }
        if !self.ends_by_itself() {
            items.push(Item::Close);
        }
        items
    }

    /// All at once, in any order that keeps the order of each.
    fn at_once(&self, random: &mut Random) -> Vec<Item> {
        let queues = self.plans.iter().enumerate().map(|(index, plan)| plan.records(index));
        let mut queues: Vec<VecDeque<Vec<u8>>> = queues.collect();
        let mut bytes = Vec::new();
        // What is refused, and what is unknown, is heard before the first request can end the connection.
        for (plan, queue) in self.plans.iter().zip(&mut queues).filter(|(plan, _)| !plan.is_served()) {
            debug_assert!(plan.role == UNKNOWN);
            bytes.extend(std::mem::take(queue).into_iter().flatten());
        }
        for _ in 0..random.below(3) {
            bytes.extend(record(77, 0, b"unknown"));
        }
        while !queues.is_empty() {
            let at = random.below(queues.len());
            match queues[at].pop_front() {
                Some(record) => bytes.extend(record),
                None => drop(queues.swap_remove(at)),
            }
        }
        let mut items = vec![Item::Bytes(bytes)];
        if !self.ends_by_itself() {
            if random.one_in(2) {
                items.push(Item::Await(self.plans.len()));
            }
            items.push(Item::Close);
        }
        items
    }

    /// Cuts the conversation somewhere.
    fn half_close(&mut self, random: &mut Random) {
        let length = |item: &Item| if let Item::Bytes(bytes) = item { bytes.len() } else { 0 };
        let mut left = random.below(self.items.iter().map(length).sum::<usize>() + 1);
        let mut items = Vec::new();
        for item in std::mem::take(&mut self.items) {
            match item {
                Item::Bytes(mut bytes) => {
                    let is_cut = bytes.len() > left;
                    bytes.truncate(left);
                    left -= bytes.len();
                    items.push(Item::Bytes(bytes));
                    if is_cut {
                        break;
                    }
                }
                other => items.push(other),
            }
        }
        items.push(Item::Close);
        (self.items, self.leaving) = (items, Leaving::HalfClosed);
        if self.multiplexed {
            self.leave_out_half_begun();
        }
    }

    /// Takes out the requests whose parameters are cut: whether they are refused would be a matter of time where another
    /// ends the connection.
    fn leave_out_half_begun(&mut self) {
        let sent = self.sent();
        let begun = |id: u16| self.plans.iter().zip(&sent).any(|(plan, sent)| plan.id == id && sent.begun);
        let Some(Item::Bytes(bytes)) = self.items.first() else { return };
        let mut kept = Vec::new();
        let mut rest = &bytes[..];
        while let [_, _, id1, id0, length1, length0, padding, _, ..] = rest {
            let id = u16::from_be_bytes([*id1, *id0]);
            let whole = 8 + usize::from(u16::from_be_bytes([*length1, *length0])) + usize::from(*padding);
            let (record, after) = rest.split_at(whole.min(rest.len()));
            if id == 0 || begun(id) {
                kept.extend_from_slice(record);
            }
            rest = after;
        }
        self.items[0] = Item::Bytes(kept);
    }

    /// How much of each request is sent, read off the bytes.
    fn sent(&self) -> Vec<Sent> {
        let bytes = |item: &Item| if let Item::Bytes(bytes) = item { bytes.clone() } else { Vec::new() };
        let bytes: Vec<u8> = self.items.iter().flat_map(bytes).collect();
        let mut sent = vec![Sent::default(); self.plans.len()];
        let mut names: BTreeMap<u16, usize> = BTreeMap::new();
        let mut rest = &bytes[..];
        while let [_, kind, id1, id0, length1, length0, padding, _, after @ ..] = rest {
            let (id, length) =
                (u16::from_be_bytes([*id1, *id0]), usize::from(u16::from_be_bytes([*length1, *length0])));
            let content = &after[..length.min(after.len())];
            if let (4, [4, 1, b'P', b'L', b'A', b'N', index]) = (*kind, content) {
                names.insert(id, usize::from(index - b'0'));
            }
            if let (1, [_, 9, _, _, _, _, _, _]) = (*kind, content) {
                // What is refused is refused at once.
                let refused =
                    |(plan, sent): &(&Plan, &mut Sent)| plan.id == id && !plan.is_served() && !sent.begun;
                self.plans
                    .iter()
                    .zip(&mut sent)
                    .find(refused)
                    .into_iter()
                    .for_each(|(_, sent)| sent.begun = true);
            }
            if let Some(sent) = names.get(&id).map(|index| &mut sent[*index]) {
                match (*kind, length) {
                    (4, 0) => {
                        let role = self.plans[names[&id]].role;
                        (sent.begun, sent.body_ended, sent.data_ended) = (true, role == 2, role != 3);
                    }
                    (5, 0) => sent.body_ended = true,
                    (5, _) => sent.body += content.len(),
                    (8, 0) => sent.data_ended = true,
                    (2, _) => sent.aborted = true,
                    _ => {}
                }
            }
            rest = after.get(length + usize::from(*padding)..).unwrap_or_default();
        }
        sent
    }

    /// How many bytes are answered, about.
    fn answer_bytes(&self) -> usize {
        let written = |act: &Act| if let Act::Write(bytes) = act { *bytes } else { 30 };
        self.plans.iter().flat_map(|plan| &plan.acts).map(written).sum::<usize>() + 40
    }
}

/// Lengths that cross what matters: nothing, a few bytes, what is gathered, what fits into a record.
fn length(random: &mut Random) -> usize {
    match random.below(200) {
        0 => 65_519 + random.below(16),
        1..4 => 16_380 + random.below(10),
        4..10 => 4000 + random.below(9000),
        10..60 => 0,
        _ => random.below(200),
    }
}

/// Bytes by which a place in a stream can be told.
pub(crate) fn pattern(at: usize, length: usize) -> Vec<u8> {
    (at..at + length).map(|at| (at % 251) as u8).collect()
}

fn record(kind: u8, id: u16, content: &[u8]) -> Vec<u8> {
    let ([id1, id0], [length1, length0]) = (id.to_be_bytes(), (content.len() as u16).to_be_bytes());
    // Some gateways pad, and some do not.
    let padding = if id % 2 == 0 { (8 - content.len() % 8) % 8 } else { 0 };
    let mut record = vec![1, kind, id1, id0, length1, length0, padding as u8, 0];
    record.extend_from_slice(content);
    record.resize(record.len() + padding, 0);
    record
}

/// What an application has said, request by request: raw bytes, and what they mean.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Transcript {
    pub(crate) raw: Vec<u8>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) ends: Vec<(u32, u8)>,
}

/// Sorts what came by request id. A record that was cut is left out.
pub(crate) fn transcripts(output: &[u8]) -> BTreeMap<u16, Transcript> {
    let mut all: BTreeMap<u16, Transcript> = BTreeMap::new();
    let mut rest = output;
    while let [version, kind, id1, id0, length1, length0, padding, _, after @ ..] = rest {
        assert_eq!(*version, 1, "no record begins where one has ended");
        let length = usize::from(u16::from_be_bytes([*length1, *length0]));
        let whole = 8 + length + usize::from(*padding);
        if rest.len() < whole {
            break;
        }
        let transcript = all.entry(u16::from_be_bytes([*id1, *id0])).or_default();
        transcript.raw.extend_from_slice(&rest[..whole]);
        let content = &after[..length];
        match kind {
            3 => transcript
                .ends
                .push((u32::from_be_bytes([content[0], content[1], content[2], content[3]]), content[4])),
            6 => transcript.stdout.extend_from_slice(content),
            7 => transcript.stderr.extend_from_slice(content),
            _ => {}
        }
        rest = &rest[whole..];
    }
    all
}

/// What a handler came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) read: usize,
    pub(crate) failure: Option<String>,
}

impl Script {
    /// Checks what the gateway got, and what the handlers saw, against what must come.
    pub(crate) fn check(&self, output: &[u8], seen: &[Option<Seen>]) {
        let got = transcripts(output);
        let mut want: BTreeMap<u16, Transcript> = BTreeMap::new();
        let mut parts = Vec::new();
        for (index, (plan, expected)) in self.plans.iter().zip(&self.expected).enumerate() {
            let Some(expected) = expected else {
                assert_eq!(seen[index], None);
                continue;
            };
            let transcript = want.entry(plan.id).or_default();
            transcript.stdout.extend_from_slice(&expected.stdout);
            transcript.stderr.extend_from_slice(&expected.stderr);
            transcript.ends.extend(expected.end);
            if expected.is_part {
                parts.push(plan.id);
            }
            let handler = Seen { read: expected.read, failure: expected.failure.map(str::to_owned) };
            assert_eq!(seen[index], plan.is_served().then_some(handler), "what handler {index} saw");
        }
        for (id, want) in &want {
            let empty = Transcript::default();
            let got = got.get(id).unwrap_or(&empty);
            assert_eq!((&got.stderr, &got.ends), (&want.stderr, &want.ends), "request {id}");
            if !parts.contains(id) {
                assert!(got.stdout == want.stdout, "STDOUT of request {id}");
            } else if self.multiplexed {
                assert!(want.stdout.starts_with(&got.stdout), "STDOUT of request {id}");
            }
        }
        assert!(got.keys().all(|id| *id == 0 || want.contains_key(id)));
    }
}
