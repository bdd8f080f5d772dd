//! The bytes of one file: received and hashed, verified, and only then written; or, without verifying, moved to the file by
//! the kernel.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;

use super::{OpenTarget, Receiver, Waiting, Waits};
use crate::conduit::Conduit;
use crate::driver::Session;
use crate::error::Error;
use crate::fault::Fault;
use crate::hash::{BLOCK, Hashing, Pieces, Sum, ZEROS};
use crate::message::{Kind, MOST_ZEROS, Message, Refusal};
use crate::progress::Progress;
use crate::root::write_full;
use crate::state::LogStep;
use crate::store::Landing;
use crate::wire::Violation;
use crate::zeros::TABLED;

/// Blocks of a hole that are hashed or written before the session is served again: a tenth of a second's work.
const PORTION: u64 = 256;

impl Receiver<'_> {
    /// The landing of the file whose data arrives; `None` if the data is dropped.
    pub(super) fn current(&mut self) -> Result<Option<&mut Landing>, Error> {
        let Some(waiting) = self.files.front_mut() else {
            return Err(Violation::Unexpected("data of no file").into());
        };
        waiting.state.differs(&mut self.place, self.options);
        match &mut waiting.state {
            Waits::Landing(landing) => Ok(Some(landing)),
            _ => Ok(None),
        }
    }

    pub(super) fn data(&mut self, length: usize) -> Result<(), Error> {
        if !self.arriving.takes(length) {
            return Err(Violation::Unexpected("data across the end of a block").into());
        }
        self.pay()?;
        // The file has failed: its content is read from the connection and dropped.
        let Some(landing) = self.current()? else { return Ok(()) };
        let number = landing.tree.place();
        if self.splices() {
            return self.splice(length);
        }
        let mut left = length;
        while left > 0 {
            let room = self.arriving.room(left);
            let bytes = room.len();
            self.session.read_data(room)?;
            self.arriving.arrived(bytes);
            left -= bytes;
            if self.options.verify {
                self.arriving.hash(number);
            }
        }
        (self.observe)(Progress::Moved { bytes: length as u64 });
        // With `verify`, a complete block waits for its chaining value; see `sum`.
        if !self.options.verify && self.arriving.bytes() == BLOCK {
            self.store_block(Sum::default())?;
        }
        Ok(())
    }

    /// Whether the kernel can move the data: it is not hashed, not encrypted, and goes into a file.
    fn splices(&self) -> bool {
        !self.options.verify && self.session.is_plain() && matches!(self.place, OpenTarget::Tree { .. })
    }

    /// Lets the kernel move the data from the socket to the file.
    fn splice(&mut self, length: usize) -> Result<(), Error> {
        let (OpenTarget::Tree { store, .. }, Some(Waiting { state: Waits::Landing(landing), .. })) =
            (&mut self.place, self.files.front_mut())
        else {
            return Ok(());
        };
        let at = landing.tree.bytes() + self.arriving.bytes() as u64;
        let opened = match store.open(landing) {
            Ok(opened) => opened.part.as_fd(),
            Err(fault) => return self.fail_current(fault),
        };
        let pipe = self.arriving.take_pipe().map_err(|error| Error::io("make", "a pipe", error))?;
        if let Err(error) = pour(self.session, length, &pipe, opened, at)? {
            let text = format!("cannot write {} at byte {at}: {error}", landing.dest());
            return self.fail_current(Fault::io(text, &error));
        }
        self.arriving.keep_pipe(pipe);
        (self.observe)(Progress::Moved { bytes: length as u64 });
        if self.arriving.moved(length) {
            let noted = store.note(landing, LogStep::Block(Sum::default()));
            return self.stored(noted);
        }
        Ok(())
    }

    pub(super) fn sum(&mut self, value: [u8; 32]) -> Result<(), Error> {
        self.allowance.earn();
        let Some(landing) = self.current()? else {
            self.arriving.clear();
            return Ok(());
        };
        let (number, block) = (landing.tree.place(), landing.tree.blocks());
        if !self.arriving.is_whole() {
            return Err(Violation::Unexpected("the value of no block").into());
        }
        let sum = self.arriving.sum(number);
        // A file of several blocks is worth a thread. With TLS on loopback both ends already keep two processors busy: a
        // further thread of one end would take time from the other.
        self.arriving.hire(if self.session.is_plain() { 2 } else { 3 });
        if sum.value != value {
            let text = format!("block {block} arrived damaged; what came before it is kept");
            return Err(Error::Refused(Refusal::Corrupt, text.into()));
        }
        self.store_block(sum)
    }

    fn store_block(&mut self, sum: Sum) -> Result<(), Error> {
        let arriving = std::mem::take(&mut self.arriving);
        let result = self.put_block(Some(arriving.pieces()), sum);
        self.arriving = arriving;
        self.arriving.clear();
        result
    }

    /// Writes a block at its place. `None` is a block of zeros.
    fn put_block(&mut self, block: Option<Pieces<'_>>, sum: Sum) -> Result<(), Error> {
        let Some(Waiting { state: Waits::Landing(landing), .. }) = self.files.front_mut() else {
            return Ok(());
        };
        let bytes = || block.unwrap_or([&ZEROS, &[], &[], &[]]);
        let stored = match &mut self.place {
            OpenTarget::Tree { store, .. } => store.block(landing, block, sum),
            OpenTarget::Sink { spool, .. } => spool.write(bytes()).map(|()| landing.tree.push(sum)),
            OpenTarget::Stream { out, so_far } => write_stream(out, bytes()).map(|()| {
                landing.tree.push(sum);
                so_far.push(sum);
            }),
        };
        self.stored(stored)
    }

    /// Handles the result of writing a block: gives the file up, or tells the sender of a pipe what it need not keep.
    fn stored(&mut self, stored: Result<(), Fault>) -> Result<(), Error> {
        if let Err(fault) = stored {
            return self.fail_current(fault);
        }
        match self.files.front() {
            Some(Waiting { index, state: Waits::Landing(landing) }) if landing.entry.kind == Kind::Pipe => {
                let progress = Message::Progress { index: *index, bytes: landing.tree.bytes() };
                self.say(&progress)?;
                self.session.flush()
            }
            _ => Ok(()),
        }
    }

    pub(super) fn hole(&mut self, bytes: u64) -> Result<(), Error> {
        if self.arriving.bytes() != 0 || bytes == 0 || !bytes.is_multiple_of(BLOCK as u64) {
            return Err(Violation::Unexpected("a hole inside a block").into());
        }
        let verify = self.options.verify;
        let Some(landing) = self.current()? else { return Ok(()) };
        let (first, blocks) = (landing.tree.blocks(), bytes / BLOCK as u64);
        // Zeros cost the sender nothing, so their number is checked: the file may not grow beyond its announced size.
        let end = landing.tree.bytes().checked_add(bytes);
        if end.is_none_or(|end| landing.entry.size.is_none_or(|size| end > size)) {
            return Err(Violation::Unexpected("a hole beyond the end").into());
        }
        let near = if Hashing::of(verify, landing.entry.by_blocks) == Hashing::Whole {
            landing.zeros = landing.zeros.saturating_add(bytes);
            if landing.zeros > MOST_ZEROS {
                return Err(
                    Violation::Unexpected("too many holes for a file that is not hashed by blocks").into()
                );
            }
            blocks.min(TABLED.saturating_sub(first))
        } else {
            blocks
        };
        self.hole_at_once(near)?;
        if near < blocks {
            self.pay()?;
        }
        for number in first + near..first + blocks {
            self.attend(number)?;
            if self.current()?.is_none() {
                return Ok(());
            }
            if !self.allowance.pay(1) {
                return self.unpaid();
            }
            self.put_block(None, Sum::of(number, &ZEROS))?;
            (self.observe)(Progress::Moved { bytes: BLOCK as u64 });
        }
        Ok(())
    }

    /// Adds a hole whose zeros need not be hashed one by one. In a file or for a sink it is one step, however long it is; to a
    /// stream the zeros are written.
    fn hole_at_once(&mut self, blocks: u64) -> Result<(), Error> {
        let Some(Waiting { state: Waits::Landing(landing), .. }) = self.files.front_mut() else {
            return Ok(());
        };
        if blocks == 0 {
            return Ok(());
        }
        let bytes = blocks * BLOCK as u64;
        let made = match &mut self.place {
            OpenTarget::Tree { store, .. } => store.hole(landing, blocks),
            OpenTarget::Sink { spool, .. } => spool.hole(bytes).map(|()| landing.tree.push_zeros(blocks)),
            OpenTarget::Stream { .. } => return self.write_zeros(blocks),
        };
        (self.observe)(Progress::Moved { bytes });
        self.stored(made)
    }

    /// Writes a hole to a stream.
    fn write_zeros(&mut self, blocks: u64) -> Result<(), Error> {
        for number in 0..blocks {
            self.attend(number)?;
            let (OpenTarget::Stream { out, so_far }, Some(Waiting { state: Waits::Landing(landing), .. })) =
                (&mut self.place, self.files.front_mut())
            else {
                return Ok(());
            };
            let written = write_stream(out, [&ZEROS, &[], &[], &[]]).map(|()| {
                so_far.push_zeros(1);
                landing.tree.push_zeros(1);
            });
            self.stored(written)?;
            (self.observe)(Progress::Moved { bytes: BLOCK as u64 });
        }
        Ok(())
    }

    /// Now and then in long work on a hole: the peer is sent a ping, and a request to stop is noticed.
    fn attend(&mut self, number: u64) -> Result<(), Error> {
        if number.is_multiple_of(PORTION) {
            self.session.ping()?;
            self.session.rest(Duration::ZERO)?;
        }
        Ok(())
    }

    /// Hashes what has to be hashed of a hole that is over, if the sender may have it hashed; otherwise the file fails.
    pub(super) fn pay(&mut self) -> Result<(), Error> {
        let Some(Waiting { state: Waits::Landing(landing), .. }) = self.files.front_mut() else {
            return Ok(());
        };
        if !self.allowance.pay(landing.tree.owes()) {
            return self.unpaid();
        }
        landing.tree.settle();
        Ok(())
    }

    fn unpaid(&mut self) -> Result<(), Error> {
        let text =
            "the sender has sent less data than it may for so many holes; they can be sent without verifying";
        self.fail_current(Fault(Refusal::Other, text.into()))
    }
}

/// Moves announced data from the socket into a file. What could not be written is still taken off the socket by the
/// session's next call.
pub(super) fn pour(
    session: &mut Session,
    length: usize,
    pipe: &Conduit,
    file: BorrowedFd<'_>,
    offset: u64,
) -> Result<io::Result<()>, Error> {
    let mut first = vec![0; session.read_already()];
    session.read_data(&mut first)?;
    if let Err(error) = write_full(file, &first, offset) {
        return Ok(Err(error));
    }
    let mut done = first.len();
    while done < length {
        let moved = session.data_to_pipe(pipe.inlet.as_fd())?;
        if let Err(error) = pipe.empty(file, offset + done as u64, moved) {
            return Ok(Err(error));
        }
        done += moved;
    }
    Ok(Ok(()))
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
