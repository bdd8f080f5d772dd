//! A request between its parameters and its answer.

use std::path::Path;
use std::time::{Duration, Instant};

use super::body::{InputStream, Which};
use super::pace::Meter;
use super::settle::Settling;
use crate::incoming::Start;
use crate::record::Role;

/// Identifies a request in its conversation. Unlike the gateway's id, a key is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(u64);

impl Key {
    pub(super) fn new(number: u64) -> Self {
        Self(number)
    }
}

/// A request that was begun and is not finished.
#[derive(Debug)]
pub(super) struct OpenRequest {
    pub(super) key: Key,
    pub(super) id: u16,
    pub(super) keep_conn: bool,
    pub(super) is_aborted: bool,
    stdin: InputStream,
    data: InputStream,
    /// The stream that its handler waits for.
    pub(super) waits_for: Option<Which>,
    /// Set once the handler is done and END_REQUEST waits for the rest of the request.
    pub(super) settling: Option<Settling>,
    /// Bytes of its streams that came.
    pub(super) received: u64,
    /// The time spent on waiting for its body.
    pub(super) body: Meter,
    /// That was too long.
    pub(super) is_slow: bool,
}

impl OpenRequest {
    pub(super) fn new(key: Key, start: &Start) -> Self {
        Self {
            key,
            id: start.id,
            keep_conn: start.keep_conn,
            is_aborted: false,
            stdin: InputStream::new(start.role != Role::Authorizer),
            data: InputStream::new(start.role == Role::Filter),
            waits_for: None,
            settling: None,
            received: 0,
            body: Meter::default(),
            is_slow: false,
        }
    }

    pub(super) fn stream(&mut self, which: Which) -> &mut InputStream {
        match which {
            Which::Stdin => &mut self.stdin,
            Which::Data => &mut self.data,
        }
    }

    /// Keeps bytes for the handler, in a file of `spool` if a folder is given. Returns false if no file could be made there.
    pub(super) fn push(&mut self, which: Which, bytes: &[u8], spool: Option<&Path>) -> bool {
        self.note_arrival(which);
        self.stream(which).push(bytes, spool)
    }

    pub(super) fn end(&mut self, which: Which) {
        self.note_arrival(which);
        self.stream(which).end();
    }

    /// Notes that the request's handler reads no more.
    pub(super) fn unwanted(&mut self) {
        (self.stdin, self.data) = (InputStream::Unwanted, InputStream::Unwanted);
    }

    fn note_arrival(&mut self, which: Which) {
        self.waits_for = self.waits_for.filter(|awaited| *awaited != which);
    }

    /// Notes that bytes of the request came.
    pub(super) fn moved(&mut self, bytes: usize, idle: Duration, now: Instant) {
        self.received += bytes as u64;
        if let Some(settling) = &mut self.settling {
            settling.moved(bytes, idle, now);
        }
    }

    /// Whether the handler is done.
    pub(super) fn settles(&self) -> bool {
        self.settling.is_some()
    }

    /// How many unread bytes are held in memory. None while the handler waits for its other stream: it can go on only if the
    /// connection is read.
    pub(super) fn held(&self) -> usize {
        if self.waits_for.is_some() { 0 } else { self.stdin.waiting() + self.data.waiting() }
    }

    /// How many bytes its files take; none while the handler waits, as with [`held`](Self::held).
    pub(super) fn spooled(&self) -> u64 {
        if self.waits_for.is_some() { 0 } else { self.stdin.spooled() + self.data.spooled() }
    }
}
