//! The bytes of a pipe, which cannot be read twice: blocks are held until the receiver has them.

use std::os::fd::AsFd as _;
use std::time::Duration;

use super::Sender;
use crate::error::Error;
use crate::hash::{BLOCK, Sum, Tree};
use crate::message::{Entry, Refusal};
use crate::outgoing::Source;
use crate::sink::finish;

/// Blocks of a pipe that are kept until the receiver has them.
const MAX_HELD: usize = 8;

impl Sender<'_, '_> {
    pub(super) fn pipe(&mut self, entry: Entry, theirs: &Tree) -> Result<(), Error> {
        let index = entry.index;
        let Source::Pipe(pipe) = &self.outgoing.source else { return Ok(()) };
        let first_held = pipe.tree.blocks() - pipe.held.len() as u64;
        let Some(skip) =
            theirs.blocks().checked_sub(first_held).filter(|skip| *skip <= pipe.held.len() as u64)
        else {
            let text =
                "the receiver does not have what it confirmed, and a pipe cannot be read twice".to_owned();
            return self.abort(&entry, text);
        };
        // What an earlier session sent in vain.
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
        while !self.read_pipe(&entry)? {
            if !self.outgoing.waiting.contains_key(&index) {
                return self.end(index, 0, None);
            }
        }
        self.end_pipe(&entry)
    }

    /// Reads what the pipe has and sends it; true at its end.
    pub(super) fn read_pipe(&mut self, entry: &Entry) -> Result<bool, Error> {
        let Source::Pipe(pipe) = &mut self.outgoing.source else { return Ok(true) };
        if pipe.ended {
            return Ok(true);
        }
        if pipe.held.len() >= MAX_HELD {
            self.await_event()?;
            return Ok(false);
        }
        if !self.session.wait_for(pipe.input.as_fd(), Duration::from_secs(10))? {
            self.session.ping()?;
            return self.look_around(u64::MAX).map(|()| false);
        }
        let from = pipe.current.len();
        pipe.current.resize(BLOCK, 0);
        let read = match rustix::io::read(&pipe.input, &mut pipe.current[from..]) {
            Ok(read) => read,
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {
                pipe.current.truncate(from);
                return Ok(false);
            }
            Err(error) => {
                pipe.current.truncate(from);
                let text = format!("cannot read the pipe: {}", std::io::Error::from(error));
                // The caller sees that it is gone, and tells the receiver.
                self.outgoing.waiting.remove(&entry.index);
                self.not_delivered(entry.path.clone(), Refusal::Source, text);
                return Ok(false);
            }
        };
        pipe.current.truncate(from + read);
        if read == 0 {
            pipe.ended = true;
            return Ok(true);
        }
        let bytes = pipe.current[from..].to_vec();
        let full = (pipe.current.len() == BLOCK).then(|| {
            let block = std::mem::take(&mut pipe.current);
            let sum = Sum::of(pipe.tree.blocks(), &block);
            pipe.tree.push(sum);
            pipe.held.push_back(block);
            sum.value
        });
        self.content(&bytes)?;
        if let Some(value) = full {
            self.sum(value)?;
        }
        self.look_around(BLOCK as u64)?;
        Ok(false)
    }

    pub(super) fn end_pipe(&mut self, entry: &Entry) -> Result<(), Error> {
        let Source::Pipe(pipe) = &mut self.outgoing.source else { return Ok(()) };
        if let Some((mut child, program, end)) = pipe.child.take()
            && let Err(fault) = finish(&mut child, &program, end)
        {
            return self.abort(entry, fault.1);
        }
        let (size, hash) = (pipe.length(), pipe.hash());
        // Another session can then ask whether the receiver has all of it.
        if let Some(sent) = self.outgoing.waiting.get_mut(&entry.index) {
            (sent.entry.size, sent.entry.hash) = (Some(size), Some(hash));
        }
        self.end(entry.index, size, self.options.verify.then_some(hash))
    }
}
