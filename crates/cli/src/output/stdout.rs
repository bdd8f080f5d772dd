//! Standard output.

use std::fmt::Arguments;
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use linger_untrusted::to_json;
use serde::Serialize;
use signal_hook::consts::SIGPIPE;

use super::queue::{OutputQueue, count_lines};
use super::say;
use crate::exit;

/// Standard output. Colours are for terminals that support them.
pub(crate) struct Stdout {
    out: StdoutWay,
}

enum StdoutWay {
    Direct(BufWriter<anstream::Stdout>),
    Queued(QueuedLines),
}

/// Lines on their way to the thread that writes them.
struct QueuedLines {
    queue: OutputQueue,
    /// Whole lines since the last hand-over.
    lines: Vec<u8>,
    /// Until when room is waited for, of all lines until the next flush together.
    until: Option<Instant>,
    /// The line that stands where so many were left out.
    gap: fn(u64) -> String,
    /// Lines that were left out since the last such line.
    gone: u64,
    /// Lines that were left out in all.
    left_out: u64,
}

/// Most bytes that wait for whoever reads: some thousand lines.
const MOST: usize = 4 << 20;
/// Lines are handed over once they are so many bytes.
const BATCH: usize = 64 << 10;
/// Longest wait for a reader that is slow, from flush to flush: events are not to be lost for it.
const PATIENCE: Duration = Duration::from_secs(1);
/// Longest that a program which was asked to end waits for its reader, in all, and while that reads nothing.
const IN_ALL: Duration = Duration::from_secs(5);
const STILL: Duration = Duration::from_millis(500);

/// Why standard output failed.
#[derive(Debug)]
pub(crate) enum Stopped {
    /// Nobody reads it.
    Unread,
    /// The system refused.
    Failed(io::Error),
}

impl Stdout {
    pub(crate) fn new() -> Self {
        Self { out: StdoutWay::Direct(BufWriter::new(anstream::stdout())) }
    }

    /// Standard output for a program that must not wait for its reader: a thread writes it. Lines for which a reader that does not read
    /// leaves no room are left out and counted; once it reads again, the line that `gap` makes of their number stands in their place.
    /// Where no thread can be had it is written directly. Lines are written as they are: they have no colours.
    pub(crate) fn queued(gap: fn(u64) -> String) -> Self {
        let Ok(queue) = OutputQueue::start("stdout", MOST, io::stdout()) else { return Self::new() };
        let queued = QueuedLines { queue, lines: Vec::new(), until: None, gap, gone: 0, left_out: 0 };
        Self { out: StdoutWay::Queued(queued) }
    }

    /// Buffers text, newlines included, until the next [`flush`](Self::flush). If it is queued, whole lines.
    pub(crate) fn text(&mut self, text: Arguments<'_>) -> Result<(), Stopped> {
        match &mut self.out {
            StdoutWay::Direct(out) => Ok(out.write_fmt(text)?),
            StdoutWay::Queued(queued) => {
                queued.lines.write_fmt(text)?;
                if queued.lines.len() >= BATCH { queued.hand_over() } else { Ok(()) }
            }
        }
    }

    /// Buffers one line of JSON until the next [`flush`](Self::flush).
    pub(crate) fn json(&mut self, line: &impl Serialize) -> Result<(), Stopped> {
        let line = to_json(line).map_err(io::Error::from)?;
        self.text(format_args!("{line}\n"))
    }

    /// Writes the buffer to the pipe, terminal or file; if it is queued, hands it over.
    pub(crate) fn flush(&mut self) -> Result<(), Stopped> {
        match &mut self.out {
            StdoutWay::Direct(out) => Ok(out.flush()?),
            StdoutWay::Queued(queued) => {
                let result = queued.hand_over();
                queued.until = None;
                result
            }
        }
    }

    /// How many lines were left out.
    pub(crate) fn left_out(&self) -> u64 {
        match &self.out {
            StdoutWay::Direct(_) => 0,
            StdoutWay::Queued(queued) => queued.left_out,
        }
    }

    /// Waits until everything that was flushed is written, for as long as `go_on` returns true; it is told for how long nothing was
    /// written. Returns how many lines are missing at the end.
    pub(crate) fn settle(&self, go_on: impl FnMut(Duration) -> bool) -> Result<u64, Stopped> {
        match &self.out {
            StdoutWay::Direct(_) => Ok(0),
            StdoutWay::Queued(queued) if queued.queue.settle(go_on)? => Ok(queued.gone),
            StdoutWay::Queued(queued) => Ok(queued.gone + queued.queue.unwritten_lines()),
        }
    }
}

impl Stdout {
    /// Waits for whoever reads what was flushed: as long as it takes, or, once `is_asked` says that the program was asked to end, for
    /// a moment. Says how many lines are missing then.
    pub(crate) fn finish(&mut self, is_asked: impl Fn() -> bool) -> Result<(), Stopped> {
        let mut asked = None;
        let mut go_on =
            |still| !is_asked() || still < STILL && asked.get_or_insert_with(Instant::now).elapsed() < IN_ALL;
        let mut missing = self.settle(&mut go_on)?;
        if let StdoutWay::Queued(queued) = &mut self.out
            && queued.fill_gap()?
        {
            missing = self.settle(go_on)?;
        }
        if missing > 0 {
            say!("linger: the last {missing} lines were not written, as nobody read standard output");
        }
        Ok(())
    }
}

impl QueuedLines {
    fn hand_over(&mut self) -> Result<(), Stopped> {
        if self.lines.is_empty() {
            self.fill_gap()?;
            return Ok(self.queue.check()?);
        }
        let mut lines = std::mem::take(&mut self.lines);
        let count = count_lines(&lines);
        if self.gone > 0 {
            lines.splice(..0, (self.gap)(self.gone).into_bytes());
        }
        let until = *self.until.get_or_insert_with(|| Instant::now() + PATIENCE);
        if self.queue.push(lines, until)? {
            self.gone = 0;
        } else {
            self.gone += count;
            self.left_out += count;
        }
        Ok(())
    }
}

impl QueuedLines {
    /// Says where lines were left out, once the reader has all that is before that. Returns whether there was something to say.
    fn fill_gap(&mut self) -> Result<bool, Stopped> {
        if self.gone == 0 || !self.queue.is_empty() {
            return Ok(false);
        }
        let is_told = self.queue.push((self.gap)(self.gone).into_bytes(), Instant::now())?;
        if is_told {
            self.gone = 0;
        }
        Ok(is_told)
    }
}

/// Lets libraries write to standard output.
impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.out {
            StdoutWay::Direct(out) => out.write(bytes),
            StdoutWay::Queued(queued) => queued.lines.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.out {
            StdoutWay::Direct(out) => out.flush(),
            StdoutWay::Queued(_) => Ok(()),
        }
    }
}

impl From<io::Error> for Stopped {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe { Self::Unread } else { Self::Failed(error) }
    }
}

impl Stopped {
    /// Ends the program. `known` is the verdict, if no output that is missing could change it.
    pub(crate) fn end(self, known: Option<u8>) -> ExitCode {
        match (self, known) {
            (Self::Unread, Some(known)) => ExitCode::from(known),
            (Self::Unread, None) => {
                // Returns only if SIGPIPE is blocked.
                let _ = signal_hook::low_level::emulate_default_handler(SIGPIPE);
                ExitCode::from(exit::UNREAD)
            }
            (Self::Failed(error), _) => {
                let file = match std::fs::read_link("/proc/self/fd/1") {
                    Ok(path) => format!(" ({})", path.display()),
                    Err(_) => String::new(),
                };
                exit::file(format_args!("cannot write to standard output{file}"), &error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, pipe};

    use super::*;

    /// What was left out is told where it is missing as soon as the reader has caught up, and not only when something else comes: that
    /// may be hours later, or never.
    #[test]
    fn what_was_left_out_is_told_without_a_further_line() {
        let (reader, writer) = pipe().unwrap();
        let queue = OutputQueue::start("output", 64 << 10, writer).unwrap();
        let gap = |lines| format!("gap {lines}\n");
        let queued = QueuedLines { queue, lines: Vec::new(), until: None, gap, gone: 0, left_out: 0 };
        let mut out = Stdout { out: StdoutWay::Queued(queued) };
        let line = "x".repeat(999);
        let mut told = 0;
        // The pipe is full, and then the queue.
        while out.left_out() == 0 {
            out.text(format_args!("{line}\n")).unwrap();
            out.flush().unwrap();
            told += 1;
        }
        let mut read = BufReader::new(reader).lines().map(Result::unwrap);
        for _ in 1..told {
            assert_eq!(read.next().unwrap(), line);
        }
        // Nothing is flushed but what is missing.
        assert_eq!(out.settle(|_| true).unwrap(), 1);
        out.flush().unwrap();
        assert_eq!(out.settle(|_| true).unwrap(), 0);
        assert_eq!(read.next().unwrap(), "gap 1");
        // At the end as well.
        let StdoutWay::Queued(queued) = &mut out.out else { unreachable!() };
        (queued.gone, queued.left_out) = (7, 8);
        out.finish(|| true).unwrap();
        assert_eq!(out.settle(|_| true).unwrap(), 0);
        assert_eq!(read.next().unwrap(), "gap 7");
    }
}
