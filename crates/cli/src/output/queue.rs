//! An output that keeps nobody waiting: a thread writes it, from a queue that is bounded.
//!
//! A pipe whose reader has stopped (a log collector that hangs, a terminal after Ctrl-S, `less`) holds whoever writes to it. A watcher
//! that is held reads no events, serves old numbers, and does not end when it is asked to.
//!
//! The thread writes to the descriptor itself, whole lines at a time: what it says is written has left the program, and a pipe whose
//! program ends while nobody reads has no half of a line.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

/// A queue of bytes, and the thread that writes them.
#[derive(Debug)]
pub(super) struct OutputQueue(Arc<QueueShared>);

/// Ends the thread once it has written everything.
impl Drop for OutputQueue {
    fn drop(&mut self) {
        self.0.lock().is_over = true;
        self.0.changed.notify_all();
    }
}

#[derive(Debug)]
struct QueueShared {
    state: Mutex<QueueState>,
    /// Some bytes came, were written, or failed.
    changed: Condvar,
    /// Most bytes that wait.
    most: usize,
}

#[derive(Debug, Default)]
struct QueueState {
    waiting: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Those of the lines which the thread is writing that are not written yet.
    writing: Option<u64>,
    /// How often some were written.
    written: u64,
    failed: Option<io::Error>,
    /// Nothing more will come.
    is_over: bool,
    /// The reader took nothing for as long as was waited: until there is room again nothing more is waited for.
    is_stuck: bool,
}

impl OutputQueue {
    /// Starts the thread that writes to `out`. At most `most` bytes wait for it, and 64 KiB that it is writing.
    pub(super) fn start(name: &str, most: usize, out: impl AsFd + Send + 'static) -> io::Result<Self> {
        let shared = Arc::new(QueueShared { state: Mutex::default(), changed: Condvar::new(), most });
        let own = shared.clone();
        thread::Builder::new().name(name.into()).spawn(move || write_all(&own, out.as_fd()))?;
        Ok(Self(shared))
    }

    /// Hands over some lines. Waits for room until `until`, and not if the reader took nothing during the last wait. Returns whether
    /// there was room.
    ///
    /// # Errors
    ///
    /// That of an earlier write, once.
    pub(super) fn push(&self, lines: Vec<u8>, until: Instant) -> io::Result<bool> {
        let mut state = self.0.lock();
        let (mut seen, mut since) = (state.written, Instant::now());
        loop {
            if let Some(error) = state.failed.take() {
                return Err(error);
            }
            // Lines that are longer than the queue find room when it is empty.
            if state.bytes == 0 || state.bytes + lines.len() <= self.0.most {
                state.is_stuck = false;
                state.bytes += lines.len();
                state.waiting.push_back(lines);
                self.0.changed.notify_all();
                return Ok(true);
            }
            if state.written != seen {
                (seen, since, state.is_stuck) = (state.written, Instant::now(), false);
            }
            if state.is_stuck || Instant::now() >= until {
                return Ok(false);
            }
            let left = until.saturating_duration_since(Instant::now());
            state = self.0.wait(state, left.min(STILL));
            state.is_stuck = since.elapsed() >= STILL && state.written == seen;
        }
    }

    /// # Errors
    ///
    /// That of an earlier write, once.
    pub(super) fn check(&self) -> io::Result<()> {
        self.0.lock().failed.take().map_or(Ok(()), Err)
    }

    /// Waits until everything is written, or for as long as `go_on` returns true. It is asked several times a second, and told for how
    /// long nothing was written. Returns whether everything is.
    ///
    /// # Errors
    ///
    /// That of an earlier write, once.
    pub(super) fn settle(&self, mut go_on: impl FnMut(Duration) -> bool) -> io::Result<bool> {
        let mut state = self.0.lock();
        let (mut seen, mut since) = (state.written, Instant::now());
        loop {
            if let Some(error) = state.failed.take() {
                return Err(error);
            }
            if state.waiting.is_empty() && state.writing.is_none() {
                return Ok(true);
            }
            if state.written != seen {
                (seen, since) = (state.written, Instant::now());
            }
            if !go_on(since.elapsed()) {
                return Ok(false);
            }
            state = self.0.wait(state, LOOK);
        }
    }

    /// Whether everything that was handed over is written, or failed.
    pub(super) fn is_empty(&self) -> bool {
        let state = self.0.lock();
        state.waiting.is_empty() && state.writing.is_none()
    }

    /// The lines that wait, and those that are being written.
    pub(super) fn unwritten_lines(&self) -> u64 {
        let state = self.0.lock();
        state.writing.unwrap_or(0) + state.waiting.iter().map(|lines| count_lines(lines)).sum::<u64>()
    }
}

/// How long a reader may take nothing before it counts as one that does not read.
const STILL: Duration = Duration::from_millis(200);
/// How often an end that waits for its output looks whether it may go on waiting.
const LOOK: Duration = Duration::from_millis(50);

/// How many lines these bytes are.
pub(super) fn count_lines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|&&byte| byte == b'\n').count() as u64
}

impl QueueShared {
    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, QueueState>, time: Duration) -> MutexGuard<'a, QueueState> {
        self.changed.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner).0
    }
}

/// Writes what comes until a write fails.
fn write_all(shared: &QueueShared, out: BorrowedFd<'_>) {
    loop {
        let mut state = shared.lock();
        let lines = loop {
            if let Some(lines) = state.waiting.pop_front() {
                break lines;
            }
            if state.is_over {
                return;
            }
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        };
        state.bytes -= lines.len();
        state.writing = Some(count_lines(&lines));
        drop(state);
        let result = pieces(&lines).try_for_each(|piece| write(shared, out, piece));
        let mut state = shared.lock();
        state.writing = None;
        let failed = result.is_err();
        if let Err(error) = result {
            state.failed = Some(error);
            state.waiting.clear();
            state.bytes = 0;
        }
        shared.changed.notify_all();
        if failed {
            return;
        }
    }
}

/// `PIPE_BUF`: so many bytes a pipe takes whole, or none of them (pipe(7)).
const WHOLE: usize = 4096;

/// Whole lines, as many as a pipe takes at once. One that is longer is a piece by itself.
fn pieces(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let end = |line: &u8| *line == b'\n';
    std::iter::from_fn(move || {
        let last = bytes[..bytes.len().min(WHOLE)].iter().rposition(end);
        let first = || bytes.iter().position(end);
        let length = if bytes.len() <= WHOLE { None } else { last.or_else(first) };
        let (piece, rest) = bytes.split_at(length.map_or(bytes.len(), |at| at + 1));
        bytes = rest;
        (!piece.is_empty()).then_some(piece)
    })
}

/// Writes these bytes, and tells of each part that was taken.
fn write(shared: &QueueShared, out: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let (taken, rest) = match rustix::io::write(out, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes.split_at(count),
            Err(Errno::INTR) => continue,
            // Whoever has the same open file may have made it non-blocking: a shell's other programs, or the one that reads.
            Err(Errno::AGAIN) => match poll(&mut [PollFd::from_borrowed_fd(out, PollFlags::OUT)], None) {
                Ok(_) | Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            },
            Err(error) => return Err(error.into()),
        };
        bytes = rest;
        let mut state = shared.lock();
        state.written += 1;
        state.writing = state.writing.map(|lines| lines.saturating_sub(count_lines(taken)));
        drop(state);
        shared.changed.notify_all();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{PipeReader, Read, pipe};

    use rustix::fs::{OFlags, fcntl_setfl};

    use super::*;

    /// A queue of 256 KiB before a pipe that nobody reads yet (64 KiB, pipe(7)).
    fn before_a_pipe() -> (OutputQueue, PipeReader) {
        let (reader, writer) = pipe().unwrap();
        (OutputQueue::start("output", 256 << 10, writer).unwrap(), reader)
    }

    fn batch(number: u8) -> Vec<u8> {
        let mut lines = [number; 32 << 10];
        lines[(32 << 10) - 1] = b'\n';
        lines.to_vec()
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    /// How many batches are taken before a reader reads anything: the pipe's two, the one that is being written, and the queue's eight.
    fn fill(queue: &OutputQueue) -> u64 {
        let taken = (0..100).take_while(|_| queue.push(batch(b'a'), soon()).unwrap()).count();
        taken as u64
    }

    #[test]
    fn nobody_waits_for_a_reader_that_does_not_read_and_what_it_gets_is_whole() {
        let (queue, mut reader) = before_a_pipe();
        let taken = fill(&queue);
        assert!((10..=11).contains(&taken), "{taken}");
        // It took nothing: the next one is refused without a wait.
        let before = Instant::now();
        for _ in 0..1_000 {
            assert!(!queue.push(batch(b'b'), soon()).unwrap());
        }
        assert!(before.elapsed() < STILL * 100, "they waited one after the other");
        assert_eq!(queue.unwritten_lines(), taken - 2);
        // An end that does not wait for ever.
        assert!(!queue.settle(|still| still < STILL).unwrap());
        // It reads again: everything that was taken comes, and new lines are taken.
        let wanted = (taken as usize + 1) * (32 << 10);
        let read = thread::spawn(move || {
            let mut all = vec![0; wanted];
            reader.read_exact(&mut all).unwrap();
            (all, reader)
        });
        assert!(queue.settle(|_| true).unwrap());
        assert!(queue.push(batch(b'c'), soon()).unwrap());
        assert!(queue.settle(|_| true).unwrap());
        let (all, _reader) = read.join().unwrap();
        let kinds = |kind| all.iter().filter(|&&byte| byte == kind).count();
        assert_eq!((kinds(b'b'), kinds(b'c')), (0, (32 << 10) - 1));
        assert_eq!((count_lines(&all), kinds(b'a') as u64), (taken + 1, taken * ((32 << 10) - 1)));
    }

    #[test]
    fn a_reader_that_reads_gets_every_line_however_many_come_at_once() {
        let (queue, mut reader) = before_a_pipe();
        let read = thread::spawn(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).map(|_| count_lines(&all)).unwrap()
        });
        for number in 0..200 {
            assert!(queue.push(batch(b'a'), soon()).unwrap(), "{number}");
        }
        assert!(queue.settle(|_| true).unwrap());
        // Longer than the queue.
        assert!(queue.push(batch(1).repeat(20), soon()).unwrap());
        assert!(queue.settle(|_| true).unwrap());
        // Ends the thread, and with it the pipe.
        drop(queue);
        assert_eq!(read.join().unwrap(), 220);
    }

    /// So many lines of about a kilobyte, each with its number.
    fn numbered(lines: usize) -> Vec<u8> {
        (0..lines).flat_map(|number| format!("{number:04} {}\n", "x".repeat(1_000)).into_bytes()).collect()
    }

    /// What is said to be missing is what is missing, and a line is there or not.
    #[test]
    fn a_program_that_ends_leaves_whole_lines_and_knows_how_many() {
        let (queue, mut reader) = before_a_pipe();
        let lines = numbered(120);
        for half in lines.chunks(lines.len() / 2) {
            assert!(queue.push(half.to_vec(), soon()).unwrap());
        }
        assert!(!queue.settle(|still| still < STILL).unwrap(), "nobody reads");
        let missing = queue.unwritten_lines();
        // What the pipe has is what a reader gets if the program ends now.
        let mut got = vec![0; rustix::io::ioctl_fionread(&reader).unwrap() as usize];
        reader.read_exact(&mut got).unwrap();
        assert!(got.ends_with(b"\n"), "{:?}", String::from_utf8_lossy(&got[got.len() - 30..]));
        assert!(lines.starts_with(&got));
        assert_eq!(count_lines(&got) + missing, 120);
        // Not so many lines that it would be chance.
        assert!((30..=64).contains(&(120 - missing)), "{missing}");
    }

    #[test]
    fn pieces_are_whole_lines_that_a_pipe_takes_at_once() {
        let lines = [numbered(9), b"y".repeat(10_000), b"\nshort\nwithout an end".to_vec()].concat();
        let all: Vec<&[u8]> = pieces(&lines).collect();
        assert_eq!(all.concat(), lines);
        let lengths: Vec<usize> = all.iter().map(|piece| piece.len()).collect();
        assert_eq!(lengths, [4 * 1006, 4 * 1006, 1006, 10_001, 20]);
        assert_eq!(pieces(b"").count(), 0);
        assert_eq!(pieces(&b"\n".repeat(WHOLE + 1)).map(<[u8]>::len).collect::<Vec<_>>(), [WHOLE, 1]);
    }

    #[test]
    fn a_pipe_that_does_not_block_is_waited_for() {
        let (mut reader, writer) = pipe().unwrap();
        fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
        let queue = OutputQueue::start("output", 256 << 10, writer).unwrap();
        let lines = numbered(200);
        assert!(queue.push(lines.clone(), soon()).unwrap());
        assert!(!queue.settle(|still| still < STILL).unwrap(), "a pipe has room for a third");
        let mut all = vec![0; lines.len()];
        reader.read_exact(&mut all).unwrap();
        assert!(all == lines && queue.settle(|_| true).unwrap());
    }

    #[test]
    fn a_closed_pipe_is_an_error_of_the_next_push() {
        let (queue, reader) = before_a_pipe();
        drop(reader);
        assert!(queue.push(batch(1), soon()).unwrap());
        let failed = queue.settle(|_| true).unwrap_err();
        assert_eq!(failed.kind(), io::ErrorKind::BrokenPipe);
    }
}
