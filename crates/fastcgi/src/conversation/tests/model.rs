//! Random conversations against a model that keeps lists and does no arithmetic of its own.

use proptest::prelude::*;

use super::*;
use crate::record::{push, push_begin};

#[derive(Clone, Debug)]
enum Op {
    Begin { id: u16, role: u16, keep_conn: bool },
    Params(u16),
    Bytes(Which, u16, usize),
    End(Which, u16),
    Abort(u16),
    Close,
    Read(Which, u16, usize),
    Unwanted(u16),
    Finish(u16, Option<u32>, Said),
    Answered(bool),
    Pass(Duration),
}

fn op() -> impl Strategy<Value = Op> {
    let id = 1..4u16;
    let which = || prop_oneof![3 => Just(Which::Stdin), 1 => Just(Which::Data)];
    let said = prop_oneof![Just(Said::Nothing), Just(Said::Part), Just(Said::Torn)];
    let role = prop_oneof![6 => Just(1u16), 2 => Just(2), 2 => Just(3), 1 => Just(9)];
    prop_oneof![
        6 => (id.clone(), role, 0..10u8)
            .prop_map(|(id, role, keep)| Op::Begin { id, role, keep_conn: keep > 0 }),
        6 => id.clone().prop_map(Op::Params),
        6 => (which(), id.clone(), 1..150usize).prop_map(|(which, id, bytes)| Op::Bytes(which, id, bytes)),
        5 => (which(), id.clone()).prop_map(|(which, id)| Op::End(which, id)),
        1 => id.clone().prop_map(Op::Abort),
        1 => Just(Op::Close),
        5 => (which(), id.clone(), 1..200usize).prop_map(|(which, id, most)| Op::Read(which, id, most)),
        1 => id.clone().prop_map(Op::Unwanted),
        4 => (id, proptest::option::weighted(0.8, 0..5u32), said).prop_map(|(id, status, said)| Op::Finish(id, status, said)),
        5 => (0..20u8).prop_map(|sent| Op::Answered(sent > 0)),
        3 => (1..40_000u64).prop_map(|ms| Op::Pass(Duration::from_millis(ms))),
    ]
}

#[derive(Clone, Debug, Default)]
struct Stream {
    open: bool,
    unread: Vec<u8>,
    unwanted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Asking,
    Running(Key),
    Draining,
}

#[derive(Clone, Debug)]
struct Request {
    id: u16,
    role: u16,
    keep_conn: bool,
    stage: Stage,
    stdin: Stream,
    data: Stream,
    aborted: bool,
    waits_for: Option<Which>,
}

impl Request {
    fn stream(&mut self, which: Which) -> &mut Stream {
        if which == Which::Stdin { &mut self.stdin } else { &mut self.data }
    }

    fn is_running(&self) -> bool {
        matches!(self.stage, Stage::Running(_))
    }

    fn is_open(&self) -> bool {
        self.stdin.open || self.data.open
    }
}

struct Model {
    talk: Talk,
    requests: Vec<Request>,
    unsent: usize,
    served: u64,
    last: bool,
    deaf: bool,
    /// Since when nothing was received, and no request was answered.
    quiet: Option<Instant>,
    replies: Vec<(u16, [u8; 5])>,
    said: Vec<(u16, [u8; 5])>,
    counter: u8,
}

impl Model {
    fn new() -> Self {
        let mut bounds = bounds();
        // The bounds are so long that no drain is given up. `drains` tests that.
        (bounds.policy.idle, bounds.policy.total) = (Duration::from_secs(7200), Duration::from_secs(7200));
        Self {
            talk: Talk::with(bounds),
            requests: Vec::new(),
            unsent: 0,
            served: 0,
            last: false,
            deaf: false,
            quiet: None,
            replies: Vec::new(),
            said: Vec::new(),
            counter: 0,
        }
    }

    fn find(&mut self, id: u16) -> Option<&mut Request> {
        self.requests.iter_mut().find(|request| request.id == id)
    }

    fn hear(&mut self, bytes: &[u8]) {
        self.talk.hear(bytes);
        self.quiet = None;
    }

    fn record(&mut self, kind: u8, id: u16, content: &[u8]) {
        let mut bytes = Vec::new();
        push(&mut bytes, kind.into(), id, content);
        self.hear(&bytes);
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Begin { .. } | Op::Params(_) | Op::Bytes(..) | Op::End(..) | Op::Abort(_) | Op::Close
                if self.deaf => {}
            Op::Begin { id, role, keep_conn } => self.begin(id, role, keep_conn),
            Op::Params(id) => self.params(id),
            Op::Bytes(which, id, bytes) => self.bytes(which, id, bytes),
            Op::End(which, id) => self.stream_end(which, id),
            Op::Abort(id) => self.abort(id),
            Op::Close => {
                self.talk.conversation.closed();
                self.deaf = true;
            }
            Op::Read(which, id, most) => self.read(which, id, most),
            Op::Unwanted(id) => self.unwanted(id),
            Op::Finish(id, status, said) => self.finish(id, status, said),
            Op::Answered(sent) if self.unsent > 0 => {
                self.talk.conversation.answered(sent);
                self.unsent -= 1;
                if !sent {
                    self.last = true;
                }
            }
            Op::Answered(_) => {}
            Op::Pass(time) => self.talk.now += time,
        }
    }

    fn begin(&mut self, id: u16, role: u16, keep_conn: bool) {
        // An id that is in use is a fault, and has tests of its own.
        if self.find(id).is_some_and(|request| request.stage != Stage::Draining) {
            return;
        }
        self.requests.retain(|request| request.id != id);
        let mut bytes = Vec::new();
        push_begin(&mut bytes, id, Role::Responder, keep_conn);
        bytes[9] = role as u8;
        self.hear(&bytes);
        match role {
            9 => self.turned_down(id, 3, keep_conn),
            _ if self.last => self.turned_down(id, 2, keep_conn),
            _ => self.requests.push(Request {
                id,
                role,
                keep_conn,
                stage: Stage::Asking,
                stdin: Stream { open: role != 2, ..Stream::default() },
                data: Stream { open: role == 3, ..Stream::default() },
                aborted: false,
                waits_for: None,
            }),
        }
    }

    /// A request that no handler gets was answered.
    fn turned_down(&mut self, id: u16, status: u8, keep_conn: bool) {
        self.replies.push((id, [0, 0, 0, 0, status]));
        self.last |= !keep_conn;
    }

    fn params(&mut self, id: u16) {
        self.record(4, id, b"");
        let begins = self.find(id).is_some_and(|request| request.stage == Stage::Asking);
        let begun = self.talk.conversation.request();
        assert_eq!(begun.is_some(), begins);
        if let Some((key, start)) = begun {
            let request = self.find(id).unwrap();
            assert_eq!(
                (start.id, start.keep_conn, start.role.number()),
                (id, request.keep_conn, request.role)
            );
            request.stage = Stage::Running(key);
            self.served += 1;
        }
    }

    fn bytes(&mut self, which: Which, id: u16, bytes: usize) {
        // Bytes that come before the parameters have ended are out of order. The model leaves them out.
        if self.find(id).is_some_and(|request| request.stage == Stage::Asking) {
            return;
        }
        self.counter = self.counter.wrapping_add(1);
        let content = vec![self.counter; bytes];
        self.record(if which == Which::Stdin { 5 } else { 8 }, id, &content);
        // After an abort the handler gets no more bytes.
        if let Some(request) = self.find(id).filter(|request| request.is_running() && !request.aborted) {
            let stream = request.stream(which);
            if stream.open && !stream.unwanted {
                stream.unread.extend(content);
            }
            if request.stream(which).open && request.waits_for == Some(which) {
                request.waits_for = None;
            }
        }
    }

    fn stream_end(&mut self, which: Which, id: u16) {
        if self.find(id).is_some_and(|request| request.stage == Stage::Asking) {
            return;
        }
        self.record(if which == Which::Stdin { 5 } else { 8 }, id, b"");
        if let Some(request) = self.find(id).filter(|request| !request.aborted) {
            if request.stream(which).open && request.waits_for == Some(which) {
                request.waits_for = None;
            }
            request.stream(which).open = false;
        }
        self.requests.retain(|request| request.stage != Stage::Draining || request.is_open());
    }

    fn abort(&mut self, id: u16) {
        self.record(2, id, b"");
        match self.find(id).map(|request| (request.stage, request.keep_conn)) {
            Some((Stage::Running(_), _)) => self.find(id).unwrap().aborted = true,
            Some((Stage::Asking, keep_conn)) => self.turned_down(id, 0, keep_conn),
            Some((Stage::Draining, _)) | None => {}
        }
        self.requests.retain(|request| request.id != id || request.is_running());
    }

    fn read(&mut self, which: Which, id: u16, most: usize) {
        let deaf = self.deaf;
        let Some(request) = self.find(id).filter(|request| request.is_running()) else { return };
        let Stage::Running(key) = request.stage else { return };
        let aborted = request.aborted;
        let stream = request.stream(which);
        let want = if !stream.unread.is_empty() {
            let rest = stream.unread.split_off(most.min(stream.unread.len()));
            Ok(Input::Got(std::mem::replace(&mut stream.unread, rest)))
        } else if stream.unwanted || stream.open {
            match (aborted, deaf) {
                (true, _) => Err(Gone::Aborted),
                (_, true) => Err(Gone::Closed),
                _ => Ok(Input::Later),
            }
        } else {
            Ok(Input::End)
        };
        if want == Ok(Input::Later) {
            request.waits_for = Some(which);
        }
        let mut to = vec![0; most];
        let got = self.talk.conversation.read(key, which, &mut to);
        let got = got.map(|input| match input {
            Input::Got(got) => Input::Got(to[..got].to_vec()),
            Input::End => Input::End,
            Input::Later => Input::Later,
        });
        assert_eq!(got, want);
        assert_eq!(self.talk.conversation.is_aborted(key), aborted || deaf);
    }

    fn unwanted(&mut self, id: u16) {
        let Some(request) = self.find(id) else { return };
        let Stage::Running(key) = request.stage else { return };
        for which in [Which::Stdin, Which::Data] {
            let stream = request.stream(which);
            stream.unread.clear();
            stream.unwanted = true;
        }
        self.talk.conversation.unwanted(key);
    }

    fn finish(&mut self, id: u16, status: Option<u32>, said: Said) {
        let Some(request) = self.find(id).cloned() else { return };
        let Stage::Running(key) = request.stage else { return };
        let cut = said == Said::Torn || (status.is_none() && said == Said::Part && !request.aborted);
        let want = match status {
            _ if cut => RequestEnd::Cut,
            Some(status) => RequestEnd::Complete(status),
            None if request.aborted => RequestEnd::Bare,
            None => RequestEnd::Refused,
        };
        assert_eq!(self.talk.finish(key, status, said), want);
        self.unsent += 1;
        self.quiet = None;
        let drains = request.is_open() && !request.aborted;
        match self.find(id) {
            Some(request) if drains => request.stage = Stage::Draining,
            _ => self.requests.retain(|request| request.id != id),
        }
        if cut || !request.keep_conn {
            self.last = true;
        }
    }

    /// Asks the conversation for its next step, and compares it with the model's.
    fn check(&mut self) {
        let step = loop {
            match self.talk.settled(None) {
                Step::Send(bytes) => {
                    assert!(!bytes.is_empty(), "nothing to send");
                    for (kind, id, content) in records(&bytes) {
                        assert_eq!(kind, 3);
                        self.said.push((id, content[..5].try_into().unwrap()));
                    }
                }
                step => break step,
            }
        };
        assert_eq!(self.said, self.replies);
        let running = self.unsent + self.requests.iter().filter(|request| request.is_running()).count();
        let holding =
            self.requests.iter().filter(|request| request.is_running() && request.waits_for.is_none());
        let held: usize = holding.map(|request| request.stdin.unread.len() + request.data.unread.len()).sum();
        if (self.last || self.deaf) && running == 0 {
            let Step::End(end) = step else { panic!("{step:?}") };
            assert_eq!((end.requests, end.fault), (self.served, None));
            return;
        }
        if self.deaf || held > 100 {
            assert_eq!(step, Step::Hold);
            self.quiet = if self.deaf { self.quiet } else { None };
            return;
        }
        let now = self.talk.now;
        let owes = self.requests.iter().any(|request| match request.stage {
            Stage::Asking => true,
            Stage::Running(_) => request.is_open() && !request.aborted,
            Stage::Draining => false,
        });
        let draining = !self.last && self.requests.iter().any(|request| request.stage == Stage::Draining);
        let rests = !owes && !draining && running == 0 && self.served > 0;
        let patience = if rests {
            Some(REST)
        } else if owes || self.served == 0 {
            Some(IO)
        } else {
            None
        };
        let quiet = *self.quiet.get_or_insert(now);
        let deadline = patience.map(|patience| quiet + patience);
        if patience.is_none() {
            self.quiet = None;
        }
        match step {
            Step::Rest(until) => assert!(rests && until == deadline, "{until:?} {deadline:?}"),
            Step::Receive(until) if draining => {
                let until = until.expect("a drain is bounded");
                assert!(until > now && deadline.is_none_or(|deadline| until == deadline));
            }
            Step::Receive(until) => assert!(!rests && until == deadline, "{until:?} {deadline:?}"),
            step => panic!("{step:?}"),
        }
    }

    /// Returns whether the deadline of the present step has passed.
    fn expire(&mut self) -> bool {
        let (Step::Receive(Some(until)) | Step::Rest(Some(until))) = self.talk.next() else { return false };
        until <= self.talk.now
    }
}

proptest! {
    #[test]
    fn any_order_of_events_does_what_the_model_does(ops in proptest::collection::vec(op(), 1..60)) {
        let mut model = Model::new();
        model.check();
        for op in &ops {
            model.apply(op);
            if let Op::Pass(_) = op
                && model.expire()
            {
                // The drains of this model never run out.
                model.talk.conversation.silent(model.talk.now);
                let step = model.talk.next();
                assert!(step == Step::Hold || ends(step));
                return Ok(());
            }
            model.check();
        }
    }

    /// However the bytes are cut, the same is served, read, and answered.
    #[test]
    fn any_split_is_the_same_conversation(
        requests in proptest::collection::vec((1..4u16, 0..300usize, any::<bool>()), 1..5),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..30),
    ) {
        let mut wire = Vec::new();
        for (id, body, abort) in &requests {
            push_begin(&mut wire, *id, Role::Responder, true);
            push(&mut wire, RecordType::Params, *id, &[]);
            record::push_stream(&mut wire, RecordType::Stdin, *id, &vec![*id as u8; *body]);
            let last = if *abort { RecordType::AbortRequest } else { RecordType::Stdin };
            push(&mut wire, last, *id, &[]);
        }
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(wire.len())).chain([wire.len()]).collect();
        at.sort_unstable();
        let (mut talk, mut open, mut done) = (Talk::new(), Vec::new(), Vec::new());
        let mut from = 0;
        for to in at {
            let mut input = &wire[from..to];
            from = to;
            while !input.is_empty() {
                talk.conversation.take(&mut input, talk.now);
                open.extend(talk.conversation.request().map(|(key, start)| (key, start.id, Vec::new())));
                open.retain_mut(|(key, id, body)| loop {
                    match talk.read(*key, Which::Stdin) {
                        Ok(Input::Got(bytes)) => body.extend(bytes),
                        Ok(Input::Later) => break true,
                        ending => {
                            done.push((*id, body.len(), ending == Ok(Input::End)));
                            talk.conversation.finish(*key, Some(0), Said::Nothing, talk.now);
                            talk.conversation.answered(true);
                            break false;
                        }
                    }
                });
            }
        }
        let want: Vec<_> = requests.iter().map(|(id, body, abort)| (*id, *body, !abort)).collect();
        prop_assert_eq!(done, want);
        prop_assert!(matches!(talk.next(), Step::Rest(_)));
    }
}
