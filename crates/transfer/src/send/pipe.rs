//! The content of a pipe, which cannot be read twice: blocks are kept until the receiver has them.

use std::os::fd::AsFd as _;
use std::time::Duration;

use super::Sender;
use crate::error::Error;
use crate::hash::{BLOCK, Sum, Tree};
use crate::host;
use crate::message::TreeEntry;
use crate::outgoing::Source;
use crate::reason::{Reason, Remedy};
use crate::sink::{finish, overdue};

/// Blocks of a pipe that are kept until the receiver has them.
const MAX_HELD: usize = 8;
/// How long to wait for bytes of the pipe before the receiver is told that this side is alive.
const PAUSE: Duration = Duration::from_secs(10);

/// The result of one read.
enum Reading {
    Goes,
    Ended,
    /// Reading failed, and the receiver has been told.
    Aborted,
}

impl Sender<'_, '_> {
    pub(super) fn pipe(&mut self, entry: TreeEntry, theirs: &Tree) -> Result<(), Error> {
        let index = entry.index;
        let Source::Pipe(pipe) = &self.outgoing.source else { return Ok(()) };
        let first_held = pipe.tree.blocks() - pipe.held.len() as u64;
        let Some(skip) =
            theirs.blocks().checked_sub(first_held).filter(|skip| *skip <= pipe.held.len() as u64)
        else {
            let text = "the receiver does not have what it confirmed, and a pipe cannot be read twice";
            return self.abort(&entry, text.into());
        };
        // Blocks that an earlier session sent and the receiver does not have.
        for place in skip as usize..pipe.held.len() {
            let Source::Pipe(pipe) = &mut self.outgoing.source else { return Ok(()) };
            let Some(block) = pipe.held.get_mut(place).map(std::mem::take) else { break };
            let value = Sum::of(first_held + place as u64, &block).value;
            let sent = self.content(&block).and_then(|()| self.sum(value));
            if let Source::Pipe(pipe) = &mut self.outgoing.source {
                pipe.held[place] = block;
            }
            sent?;
        }
        let Source::Pipe(pipe) = &self.outgoing.source else { return Ok(()) };
        let current = pipe.current.clone();
        self.content(&current)?;
        loop {
            match self.read_pipe(&entry)? {
                Reading::Goes if self.outgoing.waiting.contains_key(&index) => {}
                // The receiver has failed the entry.
                Reading::Goes => return self.end(index, 0, None),
                Reading::Ended => return self.end_pipe(&entry),
                Reading::Aborted => return Ok(()),
            }
        }
    }

    /// Reads the bytes that the pipe has, and sends them.
    fn read_pipe(&mut self, entry: &TreeEntry) -> Result<Reading, Error> {
        let Source::Pipe(pipe) = &mut self.outgoing.source else { return Ok(Reading::Ended) };
        if pipe.ended {
            return Ok(Reading::Ended);
        }
        if pipe.held.len() >= MAX_HELD {
            self.await_event()?;
            return Ok(Reading::Goes);
        }
        let left = pipe.child.as_ref().map(|producer| producer.end.saturating_duration_since(host::now()));
        let pause = left.map_or(PAUSE, |left| left.min(PAUSE));
        if !self.session.wait_for(pipe.input.as_fd(), pause)? {
            let is_over = pipe.child.as_ref().is_some_and(|producer| producer.end <= host::now());
            if is_over && let Some(mut producer) = pipe.child.take() {
                let told = overdue(&mut producer.launched, &producer.program);
                return self.give_up(entry, told);
            }
            self.session.ping()?;
            return self.look_around(u64::MAX).map(|()| Reading::Goes);
        }
        let most = pipe.buffer.len().min(BLOCK - pipe.current.len());
        let read = match rustix::io::read(&pipe.input, &mut pipe.buffer[..most]) {
            Ok(read) => read,
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => return Ok(Reading::Goes),
            Err(error) => {
                return self
                    .give_up(entry, format!("cannot read the pipe: {}", std::io::Error::from(error)).into());
            }
        };
        if read == 0 {
            pipe.ended = true;
            return Ok(Reading::Ended);
        }
        if pipe.current.is_empty() {
            pipe.current.reserve_exact(BLOCK);
        }
        pipe.current.extend_from_slice(&pipe.buffer[..read]);
        if pipe.length() > pipe.most {
            drop(pipe.child.take());
            let text = format!("the source gives more than {} bytes, which is its limit", pipe.most);
            return self.give_up(entry, Reason::from(text).with(Remedy::RaiseMaxBytes));
        }
        let full = (pipe.current.len() == BLOCK).then(|| {
            let block = std::mem::take(&mut pipe.current);
            let sum = Sum::of(pipe.tree.blocks(), &block);
            pipe.tree.push(sum);
            pipe.held.push_back(block);
            sum.value
        });
        let buffer = std::mem::take(&mut pipe.buffer);
        let sent = self.content(&buffer[..read]);
        if let Source::Pipe(pipe) = &mut self.outgoing.source {
            pipe.buffer = buffer;
        }
        sent?;
        if let Some(value) = full {
            self.sum(value)?;
        }
        self.look_around(BLOCK as u64)?;
        Ok(Reading::Goes)
    }

    /// Aborts the entry, for this session and later ones.
    fn give_up(&mut self, entry: &TreeEntry, text: Reason) -> Result<Reading, Error> {
        self.abort(entry, text)?;
        Ok(Reading::Aborted)
    }

    pub(super) fn end_pipe(&mut self, entry: &TreeEntry) -> Result<(), Error> {
        let Source::Pipe(pipe) = &mut self.outgoing.source else { return Ok(()) };
        if let Some(mut producer) = pipe.child.take()
            && let Err(fault) = finish(&mut producer.launched, &producer.program, producer.end)
        {
            return self.abort(entry, fault.1);
        }
        let (size, hash) = (pipe.length(), pipe.hash());
        // Recorded, so that a later session can ask whether the receiver has all of it.
        if let Some(sent) = self.outgoing.waiting.get_mut(&entry.index) {
            (sent.entry.size, sent.entry.hash) = (Some(size), Some(hash));
        }
        self.end(entry.index, size, self.options.verify.then_some(hash))
    }
}
