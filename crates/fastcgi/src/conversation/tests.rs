//! The conversation alone, without a driver: each rule with a case that differs in one field and must be decided
//! differently, and a model.

mod answers;
mod bodies;
mod drains;
mod life;
mod model;
mod paces;
mod settles;
mod spools;

use super::*;
use crate::record::{self, RecordType, Role};

const IO: Duration = Duration::from_secs(60);
const REST: Duration = Duration::from_secs(45);
const IDLE: Duration = Duration::from_secs(5);

fn bounds() -> Bounds {
    let mut policy = Policy::default();
    policy.idle = IDLE;
    let limits = Limits { buffered: 100, ..Limits::default() };
    Bounds::new(policy, limits, Capacity::new(10, 10, true), IO, REST)
}

/// A conversation, and a clock that a test turns.
struct Talk {
    conversation: Conversation,
    now: Instant,
}

impl Talk {
    fn new() -> Self {
        Self::with(bounds())
    }

    fn with(bounds: Bounds) -> Self {
        Self { conversation: Conversation::new(bounds), now: Instant::now() }
    }

    fn with_policy(change: impl FnOnce(&mut Policy)) -> Self {
        let mut bounds = bounds();
        change(&mut bounds.policy);
        Self::with(bounds)
    }

    /// The gateway sends these bytes.
    fn hear(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let before = bytes.len();
            self.conversation.take(&mut bytes, self.now);
            assert!(bytes.len() < before, "nothing was taken");
        }
    }

    fn record(&mut self, kind: RecordType, id: u16, content: &[u8]) {
        let mut bytes = Vec::new();
        record::push(&mut bytes, kind, id, content);
        self.hear(&bytes);
    }

    /// A request begins, its parameters are complete, and it is served.
    fn begin(&mut self, id: u16, role: Role, keep_conn: bool) -> Key {
        self.ask(id, role, keep_conn);
        self.conversation.request().expect("a request begins").0
    }

    fn ask(&mut self, id: u16, role: Role, keep_conn: bool) {
        let mut bytes = Vec::new();
        record::push_begin(&mut bytes, id, role, keep_conn);
        self.hear(&bytes);
        self.record(RecordType::Params, id, b"");
    }

    /// A whole request without a body, of a gateway that keeps the connection.
    fn whole(&mut self, id: u16) -> Key {
        let key = self.begin(id, Role::Responder, true);
        self.record(RecordType::Stdin, id, b"");
        key
    }

    fn next(&mut self) -> Step {
        self.conversation.next(self.now)
    }

    /// Answers what the drains ask, as a driver that finds nothing to read does, until there is something to wait for.
    fn settled(&mut self, unacknowledged: Option<u64>) -> Step {
        for _ in 0..100 {
            match self.next() {
                Step::Measure => {
                    let event = match unacknowledged {
                        Some(bytes) => linger::Event::Unacknowledged { bytes, fin: bytes == 0 },
                        None => linger::Event::Unknown,
                    };
                    self.conversation.measured(event, self.now);
                }
                Step::Receive(Some(until)) if until <= self.now => self.conversation.silent(self.now),
                step => return step,
            }
        }
        panic!("it asks for ever");
    }

    /// Time passes, and nothing comes.
    fn silence(&mut self, time: Duration) {
        self.now += time;
        self.conversation.silent(self.now);
    }

    fn finish(&mut self, key: Key, status: Option<u32>, said: Said) -> RequestEnd {
        self.conversation.finish(key, status, said, self.now)
    }

    /// A request is answered, and its last records sent.
    fn answer(&mut self, key: Key) {
        assert_eq!(self.finish(key, Some(0), Said::Part), RequestEnd::Complete(0));
        self.conversation.answered(true);
    }

    fn read(&mut self, key: Key, which: Which) -> Result<Input<Vec<u8>>, Gone> {
        let mut to = [0; 64];
        self.conversation.read(key, which, &mut to).map(|input| match input {
            Input::Got(got) => Input::Got(to[..got].to_vec()),
            Input::End => Input::End,
            Input::Later => Input::Later,
        })
    }
}

fn ends(step: Step) -> bool {
    matches!(step, Step::End(_))
}

/// The records in `bytes`: kind, id, content.
fn records(bytes: &[u8]) -> Vec<(u8, u16, Vec<u8>)> {
    let mut rest = bytes;
    let mut all = Vec::new();
    while let [_, kind, id1, id0, length1, length0, padding, _, after @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*length1, *length0]));
        all.push((*kind, u16::from_be_bytes([*id1, *id0]), after[..length].to_vec()));
        rest = &after[length + usize::from(*padding)..];
    }
    assert!(rest.is_empty(), "{rest:?} is left over");
    all
}
