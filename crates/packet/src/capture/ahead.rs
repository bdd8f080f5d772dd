//! Reads a capture in blocks, ahead of the consumer that looks at the packets.
//!
//! A second thread reads a stream, so that decompression, or the kernel's copy, runs on another core. A file is read
//! by that thread, and by the consumer itself whenever it would wait: copying takes about as long as looking at the
//! packets, so neither core idles.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Bytes in a block: enough to make a system call and a lock cheap, few enough for a second-level cache.
const BLOCK: usize = 128 << 10;
/// The number of blocks, for two threads of uneven speed. With 4 blocks, one of the threads waits a tenth of the time.
const BLOCKS: usize = 12;
/// Space before a block for the beginning of a record that crosses from the previous block into this one. Only such
/// records are copied.
const HEADROOM: usize = 64 << 10;
/// Every page size of Linux is a multiple of it.
const PAGE: usize = 4 << 10;

/// A block of a capture.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) bytes: Vec<u8>,
    /// Where what is read begins: at a page boundary. read(2) copies page by page (`rep movsb`), and where each page's copy
    /// begins a few bytes further in its page, an AMD EPYC takes several times as long; malloc(3) begins large memory 16 bytes
    /// behind a page boundary.
    first: usize,
    /// The content is `bytes[start..end]`. The space before it takes the rest of the previous block.
    pub(super) start: usize,
    /// The end of the content.
    pub(super) end: usize,
}

impl Block {
    pub(super) fn empty() -> Self {
        let bytes = vec![0; HEADROOM + PAGE + BLOCK];
        // Without the bound, the answer of a machine that cannot tell would be no place in the memory.
        let first = HEADROOM + bytes[HEADROOM..].as_ptr().align_offset(PAGE).min(PAGE);
        Self { bytes, first, start: first, end: first }
    }

    /// Reads a file's block. Returns whether it is full; the last one is not.
    fn read_at(&mut self, file: &File, number: u64) -> io::Result<bool> {
        let full = self.first + BLOCK;
        (self.start, self.end) = (self.first, self.first);
        while self.end < full {
            let offset = number * BLOCK as u64 + (self.end - self.first) as u64;
            match file.read_at(&mut self.bytes[self.end..full], offset) {
                Ok(0) => break,
                Ok(read) => self.end += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self.end == full)
    }

    /// Reads once from a stream, and takes the bytes that one `read` returns, even if they do not fill the block: packets
    /// of a live pipe are shown without waiting for a full block. Returns `false` at the stream's end.
    fn read(&mut self, stream: &mut impl Read) -> io::Result<bool> {
        self.start = self.first;
        self.end = loop {
            match stream.read(&mut self.bytes[self.first..self.first + BLOCK]) {
                Ok(read) => break self.first + read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        };
        Ok(self.start < self.end)
    }
}

/// The state that both threads share.
#[derive(Debug)]
struct AheadShared {
    state: Mutex<AheadState>,
    /// A block was read or returned, or `over` was set.
    changed: Condvar,
}

#[derive(Debug)]
struct AheadState {
    /// The blocks, beginning with the consumer's next one. `None`: a thread is reading it.
    ahead: VecDeque<Option<io::Result<Block>>>,
    /// The number of the block at the front of `ahead`, counted from the beginning of the input.
    first: u64,
    spare: Vec<Block>,
    /// How many threads wait for a change.
    waiting: u32,
    /// No more is to be read: the input has ended or failed, a stop was requested, or the consumer is gone.
    over: bool,
    /// A stop was requested.
    stopped: bool,
}

impl AheadState {
    /// Claims the next block for reading.
    fn claim(&mut self) -> Option<(u64, Block)> {
        if self.over {
            return None;
        }
        let block = self.spare.pop()?;
        self.ahead.push_back(None);
        Some((self.first + self.ahead.len() as u64 - 1, block))
    }

    /// Stores a block that was read. `more` is false for the last one.
    fn deliver(&mut self, number: u64, block: Block, more: io::Result<bool>) {
        let Some(at) = number.checked_sub(self.first).map(|at| at as usize) else { return };
        if !matches!(more, Ok(true)) {
            self.over = true;
            // If the file grows meanwhile, the other thread may have read a later block. It is dropped: the bytes
            // between this block's end and that block were not read.
            self.ahead.truncate(at + 1);
        }
        if let Some(place) = self.ahead.get_mut(at) {
            *place = Some(more.map(|_| block));
        }
    }
}

impl AheadShared {
    fn lock(&self) -> MutexGuard<'_, AheadState> {
        // A poisoned lock is usable: no panic can leave the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, mut state: MutexGuard<'a, AheadState>) -> MutexGuard<'a, AheadState> {
        state.waiting += 1;
        let mut state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        state.waiting -= 1;
        state
    }

    /// Wakes the other thread if it waits. The system call is seldom needed.
    fn announce(&self, state: &AheadState) {
        if state.waiting > 0 {
            self.changed.notify_all();
        }
    }

    /// The reading thread: reads until `over`.
    fn serve(&self, mut read: impl FnMut(u64, &mut Block) -> io::Result<bool>) {
        let _report = PanicReport(self);
        let mut state = self.lock();
        loop {
            if let Some((number, mut block)) = state.claim() {
                drop(state);
                let result = read(number, &mut block);
                state = self.lock();
                state.deliver(number, block, result);
                self.announce(&state);
            } else if state.over {
                return;
            } else {
                state = self.wait(state);
            }
        }
    }
}

/// Reports to the consumer that the reading thread has panicked: without an error the consumer would wait for ever. A
/// decompressor may panic.
struct PanicReport<'a>(&'a AheadShared);

impl Drop for PanicReport<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut state = self.0.lock();
            state.over = true;
            for place in state.ahead.iter_mut().filter(|place| place.is_none()) {
                *place = Some(Err(io::Error::other("the thread that reads it has panicked")));
            }
            self.0.announce(&state);
        }
    }
}

/// Ends a [`CaptureReader`](super::CaptureReader)'s input from another thread, as if the capture ended there.
#[derive(Clone, Debug)]
pub struct Stopper(Arc<AheadShared>);

impl Stopper {
    /// Ends the input. The reader still returns the packets it has in memory. A thread that waits for a silent pipe
    /// keeps waiting.
    pub fn stop(&self) {
        let mut state = self.0.lock();
        (state.over, state.stopped) = (true, true);
        self.0.announce(&state);
    }
}

/// The consumer's end. The thread ends with its input, or when this is dropped.
#[derive(Debug)]
pub(super) struct Ahead {
    shared: Arc<AheadShared>,
    /// The file, if the consumer helps to read it.
    file: Option<Arc<File>>,
}

impl Ahead {
    pub(super) fn of_stream(mut stream: impl Read + Send + 'static) -> io::Result<Self> {
        let ahead = Self::new(None, BLOCKS - 1);
        ahead.serve(move |_, block| block.read(&mut stream))?;
        Ok(ahead)
    }

    /// `file` must support reads at an offset. It is read from its beginning.
    pub(super) fn of_file(file: File) -> io::Result<Self> {
        let is_small = file.metadata()?.len() < BLOCK as u64;
        let file = Arc::new(file);
        // A small file is read by the consumer alone: thousands of captures are often small ones, and a thread and two megabytes
        // for each cost more than its packets do.
        let ahead = Self::new(Some(file.clone()), if is_small { 2 } else { BLOCKS - 1 });
        if !is_small {
            ahead.serve(move |number, block| block.read_at(&file, number))?;
        }
        Ok(ahead)
    }

    fn new(file: Option<Arc<File>>, blocks: usize) -> Self {
        let state = AheadState {
            ahead: VecDeque::with_capacity(BLOCKS),
            first: 0,
            spare: (0..blocks).map(|_| Block::empty()).collect(),
            waiting: 0,
            over: false,
            stopped: false,
        };
        Self { shared: Arc::new(AheadShared { state: Mutex::new(state), changed: Condvar::new() }), file }
    }

    /// Starts the reading thread.
    fn serve(
        &self,
        read: impl FnMut(u64, &mut Block) -> io::Result<bool> + Send + 'static,
    ) -> io::Result<()> {
        let theirs = self.shared.clone();
        std::thread::Builder::new().name("read-ahead".into()).spawn(move || theirs.serve(read))?;
        Ok(())
    }

    /// Returns the next block, which is never empty, or `None` at the end.
    pub(super) fn next(&self) -> Option<io::Result<Block>> {
        let mut state = self.shared.lock();
        loop {
            if state.stopped {
                return None;
            }
            if state.ahead.front().is_some_and(Option::is_some) {
                state.first += 1;
                let block = state.ahead.pop_front().flatten();
                return block.filter(|block| !matches!(block, Ok(block) if block.start == block.end));
            }
            if state.over && state.ahead.is_empty() {
                return None;
            }
            let claimed = if self.file.is_some() { state.claim() } else { None };
            match (&self.file, claimed) {
                (Some(file), Some((number, mut block))) => {
                    drop(state);
                    let result = block.read_at(file, number);
                    state = self.shared.lock();
                    state.deliver(number, block, result);
                    self.shared.announce(&state);
                }
                _ => state = self.shared.wait(state),
            }
        }
    }

    pub(super) fn stopper(&self) -> Stopper {
        Stopper(self.shared.clone())
    }

    /// Returns a block to be filled again. A block whose buffer was resized for a long record is replaced.
    pub(super) fn give_back(&self, mut block: Block) {
        if block.bytes.len() != HEADROOM + PAGE + BLOCK {
            block = Block::empty();
        }
        let mut state = self.shared.lock();
        state.spare.push(block);
        self.shared.announce(&state);
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.over = true;
        self.shared.announce(&state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_begins_at_a_page() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(BLOCK as u64 + 5).unwrap();
        let mut block = Block::empty();
        for (number, length, is_full) in [(0, BLOCK, true), (1, 5, false)] {
            assert_eq!(block.read_at(&file, number).unwrap(), is_full);
            assert_eq!(
                (block.end - block.start, block.bytes[block.start..].as_ptr() as usize % PAGE),
                (length, 0)
            );
        }
        assert!(block.read(&mut io::repeat(7)).unwrap());
        assert_eq!(
            (block.end - block.start, block.bytes[block.start..].as_ptr() as usize % PAGE),
            (BLOCK, 0)
        );
        assert!(block.first >= HEADROOM && block.bytes.len() >= block.first + BLOCK);
    }
}
