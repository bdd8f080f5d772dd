//! [`Exporter`]: the end of the process that watches. Nothing here waits, but for [`Exporter::finish`].

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::counts::ExportCounts;
use crate::event::ExportedEvent;
use crate::frame::{FrameKind, HEAD, frame, head};

/// Most bytes of events that wait here until the other process takes them. It takes them at once, unless the processors are busy.
const MOST: usize = 4 << 20;

/// Most reads of what the other process says, at a time.
const READS: usize = 16;

/// Hands events and metrics to the process that sends them.
#[derive(Debug)]
pub struct Exporter {
    socket: UnixStream,
    outbox: VecDeque<Vec<u8>>,
    /// Bytes of the first frame that are written.
    written: usize,
    /// Bytes in `outbox`.
    bytes: usize,
    /// How many frames of `outbox` are metrics.
    metrics: usize,
    inbox: Vec<u8>,
    /// What the other process has said last.
    counts: ExportCounts,
    /// Events that found no room here.
    dropped: u64,
    /// Events that the other process has been given.
    given: u64,
    has_ended: bool,
}

impl Exporter {
    /// An exporter over `socket`, at whose other end [`send`](crate::send) runs.
    ///
    /// # Errors
    /// Returns the error of making the socket non-blocking.
    pub fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            outbox: VecDeque::new(),
            written: 0,
            bytes: 0,
            metrics: 0,
            inbox: Vec::new(),
            counts: ExportCounts::default(),
            dropped: 0,
            given: 0,
            has_ended: false,
        })
    }

    /// Hands over an event. Where there is no room it is dropped, and counted.
    pub fn tell(&mut self, event: &ExportedEvent) {
        let json = serde_json::to_vec(event).ok();
        let frame = json.and_then(|json| frame(FrameKind::Event, &[&json]));
        match frame {
            Some(frame) if !self.has_ended && self.bytes + frame.len() <= MOST => self.put(frame),
            _ => self.dropped += 1,
        }
    }

    /// Hands over all metrics, as OpenMetrics text. While the ones before still wait, these are left out: the next say the same.
    pub fn tell_metrics(&mut self, text: &str, time_ns: u64) {
        if self.metrics == 0
            && !self.has_ended
            && let Some(frame) = frame(FrameKind::Metrics, &[&time_ns.to_le_bytes(), text.as_bytes()])
        {
            self.metrics += 1;
            self.put(frame);
        }
    }

    fn put(&mut self, frame: Vec<u8>) {
        self.bytes += frame.len();
        self.outbox.push_back(frame);
    }

    /// Writes what the socket takes now, and reads what the other process says. To be called again and again.
    pub fn turn(&mut self) {
        self.write();
        self.read();
    }

    fn write(&mut self) {
        while self.write_once() {}
    }

    /// Returns whether more can be written at once.
    fn write_once(&mut self) -> bool {
        let Some(first) = self.outbox.front() else { return false };
        match self.socket.write(&first[self.written..]) {
            Ok(count) => self.written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Err(_) => {
                self.end();
                return false;
            }
        }
        if self.written == first.len() {
            let is_metrics = is_metrics(first);
            self.metrics -= usize::from(is_metrics);
            self.given += u64::from(!is_metrics);
            self.bytes -= first.len();
            self.written = 0;
            self.outbox.pop_front();
        }
        true
    }

    fn read(&mut self) {
        // It says little; what it says without end is read at the next turn.
        for _ in 0..READS {
            if !self.read_once() {
                return;
            }
        }
    }

    /// Returns whether there may be more.
    fn read_once(&mut self) -> bool {
        let mut part = [0; 4096];
        match self.socket.read(&mut part) {
            Ok(0) => self.end(),
            Ok(count) => {
                self.inbox.extend_from_slice(&part[..count]);
                self.take();
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Err(_) => self.end(),
        }
        !self.has_ended
    }

    /// Takes what is complete in `inbox`.
    fn take(&mut self) {
        while let Some((start, rest)) = self.inbox.split_first_chunk::<HEAD>() {
            let Some((FrameKind::Counts, length)) = head(*start) else { return self.end() };
            let Some(content) = rest.get(..length) else { return };
            match serde_json::from_slice(content) {
                Ok(counts) => self.counts = counts,
                Err(_) => return self.end(),
            }
            self.inbox.drain(..HEAD + length);
        }
    }

    /// The other process is gone, or says what it should not.
    fn end(&mut self) {
        self.has_ended = true;
        let events = self.outbox.iter().filter(|frame| !is_metrics(frame)).count();
        self.dropped += events as u64;
        self.outbox.clear();
        (self.bytes, self.metrics, self.written) = (0, 0, 0);
    }

    /// Whether the other process has ended, although nobody told it to. Then nothing is sent any more.
    pub fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// What became of the events so far.
    pub fn counts(&self) -> ExportCounts {
        let mut counts = self.counts.clone();
        if self.has_ended {
            counts.unknown = self.given.saturating_sub(counts.all());
        }
        counts.queue_full += self.dropped;
        counts
    }

    /// Hands over what is left, and waits until the other process has sent it or given it up, but no longer than `patience`.
    pub fn finish(mut self, patience: Duration) -> ExportCounts {
        let until = Instant::now() + patience;
        let mut has_said = false;
        while !self.has_ended {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || self.socket.set_nonblocking(false).is_err() {
                break;
            }
            if self.outbox.is_empty() && !std::mem::replace(&mut has_said, true) {
                let _ = self.socket.shutdown(Shutdown::Write);
            }
            // One of both at a time, each once, until there is something or the time is over: a process that says something again and
            // again holds nobody.
            if self.outbox.is_empty() {
                let _ = self.socket.set_read_timeout(Some(left));
                self.read_once();
            } else {
                let _ = self.socket.set_write_timeout(Some(left));
                self.write_once();
            }
        }
        // What it has said until now is the last that is known of it.
        self.end();
        self.counts()
    }
}

fn is_metrics(frame: &[u8]) -> bool {
    frame.first_chunk().and_then(|start| head(*start)).is_some_and(|(kind, _)| kind == FrameKind::Metrics)
}
