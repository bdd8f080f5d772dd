//! The bytes of one file: received and hashed, verified, and only then written; or moved by the kernel.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::io::Errno;

use super::{Receiver, Target, Waiting, Waits};
use crate::error::Error;
use crate::fault::Fault;
use crate::hash::{BLOCK, Pieces, Sum, ZEROS};
use crate::message::{Kind, Message, Refusal};
use crate::progress::Progress;
use crate::store::Landing;
use crate::wire::Violation;

impl Receiver<'_> {
    /// The landing of the file whose data arrives; `None` if it is dropped.
    pub(super) fn current(&mut self) -> Result<Option<&mut Landing>, Error> {
        let Some(waiting) = self.files.front_mut() else {
            return Err(Violation::Unexpected("data of no file").into());
        };
        waiting.state.differs();
        match &mut waiting.state {
            Waits::Landing(landing) => Ok(Some(landing)),
            _ => Ok(None),
        }
    }

    pub(super) fn data(&mut self, length: usize) -> Result<(), Error> {
        if self.sum_due || self.block.filled() + length > BLOCK {
            return Err(Violation::Unexpected("data across the end of a block").into());
        }
        // Failed: the session drops what is not taken.
        let Some(landing) = self.current()? else { return Ok(()) };
        let number = landing.tree.blocks();
        if self.splices() {
            return self.splice();
        }
        let mut left = length;
        while left > 0 {
            let room = self.block.room(left);
            let bytes = room.len();
            self.session.read_data(room)?;
            self.block.arrived(bytes);
            left -= bytes;
            if self.options.verify {
                self.block.hash_pieces(number);
            }
        }
        (self.observe)(Progress::Moved { bytes: length as u64 });
        if self.block.filled() == BLOCK {
            if self.options.verify {
                self.sum_due = true;
            } else {
                self.store_block(Sum::default())?;
            }
        }
        Ok(())
    }

    /// Nothing of a block is here.
    pub(super) fn empty(&mut self) {
        self.block.clear();
        self.sum_due = false;
    }

    /// Whether the kernel moves the data: it need not be seen here, and goes from a socket to a file as it is.
    pub(super) fn splices(&self) -> bool {
        !self.options.verify && self.session.is_plain() && matches!(self.target, Target::Tree { .. })
    }

    /// Lets the kernel move the data from the socket to the file.
    pub(super) fn splice(&mut self) -> Result<(), Error> {
        if self.pipe.is_none() {
            let pipe = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
                .map_err(|error| Error::io("make", "a pipe", error))?;
            // The default of 64 KiB works too, with more calls.
            let _ = rustix::pipe::fcntl_setpipe_size(&pipe.1, BLOCK);
            self.pipe = Some(pipe);
        }
        let (Some(store), Some(Waiting { index, state: Waits::Landing(landing) })) =
            (&mut self.store, self.files.front_mut())
        else {
            return Ok(());
        };
        let index = *index;
        let at = landing.tree.bytes() + self.block.filled() as u64;
        let opened = match store.open(landing) {
            Ok(opened) => opened.part.as_fd(),
            Err(fault) => return self.fail_current(index, fault),
        };
        let Some(pipe) = &self.pipe else { return Ok(()) };
        match self.session.data_into(pipe, opened, at) {
            Ok(bytes) => {
                self.block.arrived(bytes);
                (self.observe)(Progress::Moved { bytes: bytes as u64 });
                if self.block.filled() < BLOCK {
                    return Ok(());
                }
                self.block.clear();
                let noted = store.note(landing, Sum::default());
                self.stored(noted)
            }
            Err(Error::Io { source, .. }) => {
                let text = format!("cannot write at byte {at}: {source}");
                // What is left in the pipe belongs to the failed file.
                self.pipe = None;
                self.fail_current(index, Fault::io(text, &source))
            }
            Err(error) => Err(error),
        }
    }

    pub(super) fn sum(&mut self, value: [u8; 32]) -> Result<(), Error> {
        let Some(landing) = self.current()? else {
            self.empty();
            return Ok(());
        };
        let number = landing.tree.blocks();
        if !self.sum_due {
            return Err(Violation::Unexpected("the value of no block").into());
        }
        let sum = self.block.sum(number);
        // There are several blocks, so it is worth a thread. Encryption keeps two processors busy with both ends of a
        // transfer within one machine: what a thread more does for the one is missing to the other then.
        self.block.hire(if self.session.is_plain() { 2 } else { 3 });
        if sum.value != value {
            let text = format!("block {number} arrived damaged; what came before it is kept");
            return Err(Error::Refused(Refusal::Corrupt, text.into()));
        }
        self.store_block(sum)
    }

    pub(super) fn store_block(&mut self, sum: Sum) -> Result<(), Error> {
        let block = std::mem::take(&mut self.block);
        let result = self.put_block(Some(block.pieces()), sum);
        self.block = block;
        self.empty();
        result
    }

    pub(super) fn put_block(&mut self, block: Option<Pieces<'_>>, sum: Sum) -> Result<(), Error> {
        let Some(Waiting { state: Waits::Landing(landing), .. }) = self.files.front_mut() else {
            return Ok(());
        };
        let zeros: Pieces<'_> = [&ZEROS, &[], &[], &[]];
        let stored = match (&mut self.target, &mut self.store) {
            (Target::Tree { .. }, Some(store)) => store.block(landing, block, sum),
            (Target::Sink(spool), _) => spool.write(block.unwrap_or(zeros)).map(|()| landing.tree.push(sum)),
            (Target::Stream { out, so_far }, _) => write_stream(out, block.unwrap_or(zeros)).map(|()| {
                landing.tree.push(sum);
                so_far.push(sum);
            }),
            _ => Ok(()),
        };
        self.stored(stored)
    }

    /// A block is written, or could not be.
    pub(super) fn stored(&mut self, stored: Result<(), Fault>) -> Result<(), Error> {
        let Some(Waiting { index, state: Waits::Landing(landing) }) = self.files.front() else {
            return Ok(());
        };
        let (index, bytes) = (*index, landing.tree.bytes());
        match stored {
            Ok(()) if landing.entry.kind == Kind::Pipe => {
                self.say(&Message::Progress { index, bytes })?;
                self.session.flush()
            }
            Ok(()) => Ok(()),
            Err(fault) => self.fail_current(index, fault),
        }
    }

    pub(super) fn hole(&mut self, bytes: u64) -> Result<(), Error> {
        if self.sum_due || self.block.filled() != 0 || bytes == 0 || !bytes.is_multiple_of(BLOCK as u64) {
            return Err(Violation::Unexpected("a hole inside a block").into());
        }
        let verify = self.options.verify;
        for _ in 0..bytes / BLOCK as u64 {
            let Some(landing) = self.current()? else { return Ok(()) };
            // A file may not grow beyond what was announced, however cheap its zeros are to send.
            if landing.entry.size.is_none_or(|size| landing.tree.bytes() + BLOCK as u64 > size) {
                return Err(Violation::Unexpected("a hole beyond the end").into());
            }
            let sum = if verify { Sum::of(landing.tree.blocks(), &ZEROS) } else { Sum::default() };
            self.put_block(None, sum)?;
            (self.observe)(Progress::Moved { bytes: BLOCK as u64 });
        }
        Ok(())
    }
}

pub(super) fn write_stream(out: &OwnedFd, pieces: Pieces<'_>) -> Result<(), Fault> {
    pieces.iter().try_for_each(|bytes| write_all(out, bytes))
}

fn write_all(out: &OwnedFd, mut bytes: &[u8]) -> Result<(), Fault> {
    while !bytes.is_empty() {
        match rustix::io::write(out, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let mut fds = [rustix::event::PollFd::new(out, rustix::event::PollFlags::OUT)];
                let _ = rustix::event::poll(&mut fds, None);
            }
            Err(error) => {
                let error = io::Error::from(error);
                return Err(Fault::io(format!("cannot write to the output: {error}"), &error));
            }
        }
    }
    Ok(())
}
