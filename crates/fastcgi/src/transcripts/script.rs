//! Random conversations and their expected results, written from the specification alone, without code of this crate.

use std::collections::{BTreeMap, VecDeque};

use super::expected::{Expected, Seen, Transcript, transcripts};
use super::plan::{Act, Plan, Random, Sent, UNKNOWN, record};

/// How a gateway leaves the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaving {
    /// When everything was answered.
    Last,
    /// It sends no more from some point on, and still reads to the end.
    HalfClosed,
    /// It closes both directions after it has received this many bytes.
    Gone(usize),
}

/// What a gateway sends, in order.
#[derive(Clone)]
pub(crate) enum Item {
    Bytes(Vec<u8>),
    /// Sends nothing until this many END_REQUESTs have come.
    Await(usize),
    /// Sends nothing any more.
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
    /// The expected result of each plan; `None` for a request that does not begin.
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
            let mut plan = Plan::random(&mut random, id, kind == 5);
            // Where requests run at once, timing alone would decide which of them come before a refused one ends the connection.
            plan.keep_conn |= multiplexed && !plan.is_served();
            let all = Sent {
                begun: true,
                body: plan.body.iter().sum(),
                body_ended: plan.role == 2 || !plan.aborted,
                data_ended: plan.role != 3 || !plan.aborted,
                aborted: plan.aborted,
            };
            let of_all = if plan.is_served() { plan.expect(&all) } else { plan.refused() };
            let is_last = of_all.is_last;
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
                *expected = plan.refused();
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
        self.expected.iter().flatten().any(|expected| expected.is_last)
    }

    /// Sends each request after the end of the one before.
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

    /// Sends all requests at once, in a random order that keeps the order within each request.
    fn at_once(&self, random: &mut Random) -> Vec<Item> {
        let queues = self.plans.iter().enumerate().map(|(index, plan)| plan.records(index));
        let mut queues: Vec<VecDeque<Vec<u8>>> = queues.collect();
        let mut bytes = Vec::new();
        // Refused requests and unknown records come first, before any request can end the connection.
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

    /// Removes requests whose parameters are not sent to their end. Where another request ends the connection, timing alone
    /// would decide whether they are refused.
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
                // A refused request is refused at its BEGIN_REQUEST.
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

    /// How many bytes are answered, roughly.
    fn answer_bytes(&self) -> usize {
        let written = |act: &Act| if let Act::Write(bytes) = act { *bytes } else { 30 };
        self.plans.iter().flat_map(|plan| &plan.acts).map(written).sum::<usize>() + 40
    }
}

impl Script {
    /// Checks what the gateway received, and what the handlers saw, against the expected results.
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
