//! What the kernel saw of the probe's own connections: the cause of each reset, and the process behind it.

use std::collections::HashSet;
use std::fmt;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use linger_watch::{Direction, Filter, Notice, Process, Reset, Watcher};
use linger_why::{Cause, Confidence};

/// How often the kernel's rings are emptied.
const EVERY: Duration = Duration::from_millis(200);
/// How long a reset's bytes are waited for.
const PATIENCE: Duration = Duration::from_millis(500);
/// Most resets of strangers that are kept until a question is answered.
const MOST: usize = 20_000;

/// Resets of the server's during one check that are alike.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Witnessed {
    /// How many.
    pub resets: u32,
    /// Why the kernel sent them.
    pub cause: Cause,
    /// How sure that is.
    pub confidence: Confidence,
    /// The kernel's own word for it.
    pub reason: Option<String>,
    /// Who closed, or listens.
    pub process: Option<Process>,
    /// Bytes that the process had not read, in all; `None` where that is not known of any.
    pub unread_bytes: Option<u64>,
    /// Bytes that it had written and the client had not acknowledged.
    pub unacknowledged_bytes: Option<u64>,
    /// Of those, bytes that never left: lost for certain.
    pub unsent_bytes: Option<u64>,
}

impl Witnessed {
    fn of(reset: &Reset) -> Self {
        Self {
            resets: 0,
            cause: reset.cause,
            confidence: reset.confidence,
            reason: reset.reason.clone(),
            process: reset.process.clone(),
            unread_bytes: None,
            unacknowledged_bytes: None,
            unsent_bytes: None,
        }
    }

    fn is_like(&self, reset: &Reset) -> bool {
        (self.cause, self.confidence, &self.reason, &self.process)
            == (reset.cause, reset.confidence, &reset.reason, &reset.process)
    }

    fn add(&mut self, reset: &Reset) {
        self.resets += 1;
        let add = |sum: &mut Option<u64>, bytes: Option<u32>| {
            if let Some(bytes) = bytes {
                *sum = Some(sum.unwrap_or(0) + u64::from(bytes));
            }
        };
        add(&mut self.unread_bytes, reset.bytes.unread);
        add(&mut self.unacknowledged_bytes, reset.bytes.unacknowledged);
        add(&mut self.unsent_bytes, reset.bytes.unsent);
    }
}

/// `python3[7] reset 2 connections: closed-with-unread-data (certain), 524288 bytes unread, ...`
impl fmt::Display for Witnessed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.process {
            Some(process) => f.write_str(&process.terminal())?,
            None => f.write_str("the kernel")?,
        }
        let times =
            if self.resets == 1 { "1 connection".to_owned() } else { format!("{} connections", self.resets) };
        write!(f, " reset {times}: {} ({})", self.cause, self.confidence)?;
        for (bytes, what) in [
            (self.unread_bytes, "bytes of requests unread"),
            (self.unacknowledged_bytes, "bytes of responses unacknowledged"),
            (self.unsent_bytes, "of them never sent"),
        ] {
            if let Some(bytes) = bytes.filter(|bytes| *bytes > 0) {
                write!(f, ", {bytes} {what}")?;
            }
        }
        Ok(())
    }
}

/// Watches the host while a server is probed; ends when dropped.
#[derive(Debug)]
pub(crate) struct Witness {
    questions: Sender<Sender<Vec<Reset>>>,
    /// The server's port; `None` where it may have another one behind a translation of addresses.
    server: Option<u16>,
    /// Ports of the probe's own connections.
    own: Mutex<HashSet<u16>>,
}

impl Witness {
    /// # Errors
    /// Why the kernel's events cannot be had, in words.
    pub(crate) fn open(server: Option<u16>) -> Result<Self, String> {
        let mut watcher = Watcher::open(Filter::default()).map_err(|error| error.to_string())?;
        let (questions, asked) = mpsc::channel::<Sender<Vec<Reset>>>();
        let watch = move || {
            let mut resets = Vec::new();
            loop {
                let answer = asked.recv_timeout(EVERY);
                let notices = match answer {
                    Ok(_) => watcher.finish(PATIENCE),
                    Err(RecvTimeoutError::Timeout) => watcher.next(Duration::ZERO),
                    Err(RecvTimeoutError::Disconnected) => return,
                };
                resets.extend(notices.unwrap_or_default().into_iter().filter_map(|notice| match notice {
                    Notice::Reset(reset) if reset.direction == Direction::Sent => Some(*reset),
                    _ => None,
                }));
                let strangers = resets.len().saturating_sub(MOST);
                resets.drain(..strangers);
                if let Ok(answer) = answer {
                    // Whoever asked has gone: then nobody asks again.
                    let _ = answer.send(std::mem::take(&mut resets));
                }
            }
        };
        let spawned = thread::Builder::new().name("witness".into()).spawn(watch);
        spawned.map_err(|error| format!("no thread can be had to watch them: {error}"))?;
        Ok(Self { questions, server, own: Mutex::default() })
    }

    /// Takes a connection for one of the probe's.
    pub(crate) fn note(&self, port: u16) {
        self.own.lock().unwrap_or_else(PoisonError::into_inner).insert(port);
    }

    /// The resets that the server sent to the probe's connections since the last call.
    pub(crate) fn seen(&self) -> Vec<Witnessed> {
        let (answer, answered) = mpsc::channel();
        let resets = self.questions.send(answer).ok().and_then(|()| answered.recv().ok()).unwrap_or_default();
        let own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        let is_ours = |reset: &&Reset| {
            let from_server = self.server.is_none_or(|port| port == reset.local.port());
            // A listener's reset has no peer that the kernel would name.
            let to_us = match reset.remote {
                Some(remote) => own.contains(&remote.port()),
                None => self.server.is_some(),
            };
            from_server && to_us
        };
        let mut all: Vec<Witnessed> = Vec::new();
        for reset in resets.iter().filter(is_ours) {
            let at = all.iter().position(|one| one.is_like(reset)).unwrap_or_else(|| {
                all.push(Witnessed::of(reset));
                all.len() - 1
            });
            all[at].add(reset);
        }
        all
    }
}
