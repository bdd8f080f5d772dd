//! A gateway in memory: it sends what a script says, in pieces of any size, and keeps what it receives.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::task::Waker;
use std::time::Instant;

use super::expected::Seen;
use super::plan::{Act, Done, REASON, Random};
use super::script::{Item, Leaving, Script};
use crate::params::Params;

/// One gateway, and what the handlers of its requests have seen.
#[derive(Debug)]
pub(crate) struct Gateway {
    pub(crate) script: Script,
    pipe: Mutex<Pipe>,
    news: Condvar,
    seen: Mutex<Vec<Option<Seen>>>,
    started: Mutex<usize>,
    all_started: Condvar,
    pub(crate) gate: tokio::sync::Notify,
}

#[derive(Debug)]
struct Pipe {
    items: VecDeque<Item>,
    random: Random,
    output: Vec<u8>,
    /// How much of the output was searched for END_REQUESTs.
    parsed: usize,
    ends: usize,
    is_gone: bool,
    woken: bool,
    is_full: bool,
    readers: Vec<Waker>,
}

impl Gateway {
    /// `salt` changes how the bytes are cut into pieces, and not the bytes.
    pub(crate) fn new(script: Script, salt: u64) -> Arc<Self> {
        let pipe = Pipe {
            items: script.items.clone().into(),
            random: Random(script.seed ^ salt),
            output: Vec::new(),
            parsed: 0,
            ends: 0,
            is_gone: false,
            woken: false,
            is_full: false,
            readers: Vec::new(),
        };
        Arc::new(Self {
            seen: Mutex::new(vec![None; script.plans.len()]),
            script,
            pipe: Mutex::new(pipe),
            news: Condvar::new(),
            started: Mutex::new(0),
            all_started: Condvar::new(),
            gate: tokio::sync::Notify::new(),
        })
    }

    fn pipe(&self) -> MutexGuard<'_, Pipe> {
        self.pipe.lock().unwrap()
    }

    /// What the gateway has received.
    pub(crate) fn output(&self) -> Vec<u8> {
        self.pipe().output.clone()
    }

    pub(crate) fn seen(&self) -> Vec<Option<Seen>> {
        self.seen.lock().unwrap().clone()
    }

    /// Receives what the gateway has sent. If there is nothing now, `waker` is woken when there is.
    pub(crate) fn receive(&self, to: &mut [u8], waker: Option<&Waker>) -> io::Result<usize> {
        let mut pipe = self.pipe();
        let result = pipe.receive(to);
        if let (Err(ErrorKind::WouldBlock), Some(waker)) = (result, waker) {
            pipe.readers.push(waker.clone());
        }
        result.map_err(Into::into)
    }

    pub(crate) fn send(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut pipe = self.pipe();
        let sent = pipe.send(parts, self.script.leaving);
        self.news.notify_all();
        pipe.readers.drain(..).for_each(Waker::wake);
        sent.map_err(Into::into)
    }

    /// Waits until there is something to receive. Returns `Some(false)` if it was woken first, and `None` at
    /// the time `until`.
    pub(crate) fn await_input(&self, until: Option<Instant>) -> Option<bool> {
        let mut pipe = self.pipe();
        loop {
            if std::mem::take(&mut pipe.woken) {
                return Some(false);
            }
            if pipe.has_input() {
                return Some(true);
            }
            let now = Instant::now();
            match until {
                Some(until) if until <= now => return None,
                Some(until) => pipe = self.news.wait_timeout(pipe, until - now).unwrap().0,
                None => pipe = self.news.wait(pipe).unwrap(),
            }
        }
    }

    pub(crate) fn wake(&self) {
        self.pipe().woken = true;
        self.news.notify_all();
    }

    /// Notes that a handler has started. Returns the index of its plan, which is in the parameters.
    pub(crate) fn start(&self, params: &Params) -> usize {
        let mut started = self.started.lock().unwrap();
        *started += 1;
        self.all_started.notify_all();
        self.gate.notify_waiters();
        params.text("PLAN").and_then(|plan| plan.parse().ok()).expect("a plan")
    }

    /// Whether handler `index` has to wait for [all to have started](Self::has_all).
    pub(crate) fn is_last(&self, index: usize) -> bool {
        let of = |expected: &super::expected::Expected| expected.is_last;
        self.script.multiplexed && self.script.expected[index].as_ref().is_some_and(of)
    }

    pub(crate) fn has_all(&self) -> bool {
        *self.started.lock().unwrap() >= self.script.starts()
    }

    pub(crate) fn await_all(&self) {
        let most = self.script.starts();
        drop(self.all_started.wait_while(self.started.lock().unwrap(), |started| *started < most).unwrap());
    }

    /// Notes that a handler is done, with how much of its body it has read. Returns how the handler is to
    /// end.
    pub(crate) fn note(&self, index: usize, read: usize, acted: &io::Result<()>) -> Done {
        let done = self.script.plans[index].done;
        let failure = match (acted, done) {
            (Err(error), _) => Some(error.to_string()),
            (Ok(()), Done::Status(_)) => None,
            (Ok(()), Done::Error) => Some(REASON.to_owned()),
            (Ok(()), Done::Panic) => Some("the handler panicked".to_owned()),
        };
        let before = self.seen.lock().unwrap()[index].replace(Seen { read, failure });
        assert_eq!(before, None, "handler {index} ran twice");
        done
    }

    pub(crate) fn acts(&self, index: usize) -> &[Act] {
        &self.script.plans[index].acts
    }
}

impl Pipe {
    fn has_input(&self) -> bool {
        let awaited = |item: &Item| matches!(item, Item::Await(ends) if *ends > self.ends);
        self.is_gone || self.items.front().is_some_and(|item| !awaited(item))
    }

    fn receive(&mut self, to: &mut [u8]) -> Result<usize, ErrorKind> {
        if self.is_gone {
            return Err(ErrorKind::ConnectionReset);
        }
        loop {
            let ends = self.ends;
            match self.items.front_mut() {
                Some(Item::Await(awaited)) if *awaited > ends => return Err(ErrorKind::WouldBlock),
                None => return Err(ErrorKind::WouldBlock),
                Some(Item::Close) => return Ok(0),
                Some(Item::Bytes(bytes)) if !bytes.is_empty() => {
                    let most = bytes.len().min(to.len());
                    let taken =
                        if self.random.one_in(3) { most } else { 1 + self.random.below(most.min(90)) };
                    let taken = taken.min(most);
                    to[..taken].copy_from_slice(&bytes[..taken]);
                    bytes.drain(..taken);
                    return Ok(taken);
                }
                Some(Item::Await(_) | Item::Bytes(_)) => self.items.pop_front(),
            };
        }
    }

    fn send(&mut self, parts: &[IoSlice<'_>], leaving: Leaving) -> Result<usize, ErrorKind> {
        if self.is_gone {
            return Err(ErrorKind::BrokenPipe);
        }
        // Now and then there is no room. The next try finds some.
        self.is_full = !self.is_full && self.random.one_in(4);
        if self.is_full {
            return Err(ErrorKind::WouldBlock);
        }
        let all: usize = parts.iter().map(|part| part.len()).sum();
        let mut most = if self.random.one_in(3) { 1 + self.random.below(all) } else { all };
        if let Leaving::Gone(at) = leaving {
            most = most.min(at - self.output.len());
            self.is_gone = self.output.len() + most == at;
            if most == 0 {
                return Err(ErrorKind::BrokenPipe);
            }
        }
        let mut left = most;
        for part in parts {
            let taken = part.len().min(left);
            self.output.extend_from_slice(&part[..taken]);
            left -= taken;
        }
        while let [_, kind, _, _, length1, length0, padding, _, ..] = &self.output[self.parsed..] {
            let whole = 8 + usize::from(u16::from_be_bytes([*length1, *length0])) + usize::from(*padding);
            if self.output.len() < self.parsed + whole {
                break;
            }
            self.ends += usize::from(*kind == 3);
            self.parsed += whole;
        }
        Ok(most)
    }
}
