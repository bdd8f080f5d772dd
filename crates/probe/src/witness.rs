//! What the kernel saw of the probe's own connections: the cause of each reset, and the process behind it.

use std::collections::HashSet;
use std::fmt;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use linger_watch::{Direction, Filter, LiveReset, NamedProcess, Notice, Watcher};
use linger_why::{Cause, Confidence};

/// Interval at which the kernel's rings are read.
const EVERY: Duration = Duration::from_millis(200);
/// Longest wait for the byte counts of a reset.
const PATIENCE: Duration = Duration::from_millis(500);
/// Most resets of this host that are kept until a question is answered; the oldest are dropped.
const MOST: usize = 20_000;

/// Equal resets of the server during one check.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Witnessed {
    /// The number of these resets.
    pub resets: u32,
    /// Their cause.
    pub cause: Cause,
    /// How sure that is.
    pub confidence: Confidence,
    /// The kernel's name for why it sent the reset; `None` if it gives none.
    pub reason: Option<String>,
    /// The process that closed the connection, or that listens.
    pub process: Option<NamedProcess>,
    /// Sum of the bytes that the process had not read; `None` if it is not known for any of the resets.
    pub unread_bytes: Option<u64>,
    /// Sum of the bytes that the process had written and the client had not acknowledged.
    pub unacknowledged_bytes: Option<u64>,
    /// The part of `unacknowledged_bytes` that was never sent. These bytes are certainly lost.
    pub unsent_bytes: Option<u64>,
}

impl Witnessed {
    fn of(reset: &LiveReset) -> Self {
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

    fn is_like(&self, reset: &LiveReset) -> bool {
        (self.cause, self.confidence, &self.reason, &self.process)
            == (reset.cause, reset.confidence, &reset.reason, &reset.process)
    }

    fn add(&mut self, reset: &LiveReset) {
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

/// Watches the resets of this host while a server is probed. Dropping it ends the watch.
#[derive(Debug)]
pub(crate) struct Witness {
    questions: Sender<Sender<Vec<LiveReset>>>,
    /// The server's port; `None` if address translation may give the server another port.
    server: Option<u16>,
    /// Ports of the probe's own connections.
    own: Mutex<HashSet<u16>>,
}

impl Witness {
    /// # Errors
    /// Returns a text that says why the kernel's events cannot be read.
    pub(crate) fn open(server: Option<u16>) -> Result<Self, String> {
        let mut watcher = Watcher::open(Filter::default()).map_err(|error| error.to_string())?;
        let (questions, asked) = mpsc::channel::<Sender<Vec<LiveReset>>>();
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
                    // The receiver is gone, so nobody will ask again.
                    let _ = answer.send(std::mem::take(&mut resets));
                }
            }
        };
        let spawned = thread::Builder::new().name("witness".into()).spawn(watch);
        spawned.map_err(|error| format!("no thread can be had to watch them: {error}"))?;
        Ok(Self { questions, server, own: Mutex::default() })
    }

    /// Registers a local port as one of the probe's own connections.
    pub(crate) fn note(&self, port: u16) {
        self.own.lock().unwrap_or_else(PoisonError::into_inner).insert(port);
    }

    /// The resets of this host since the last call.
    pub(crate) fn seen(&self) -> SeenResets {
        let (answer, answered) = mpsc::channel();
        let resets = self.questions.send(answer).ok().and_then(|()| answered.recv().ok()).unwrap_or_default();
        let own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        let is_ours = |reset: &&LiveReset| {
            let from_server = self.server.is_none_or(|port| port == reset.local.port());
            // For a reset sent by a listener the kernel does not report the peer.
            let to_us = match reset.remote {
                Some(remote) => own.contains(&remote.port()),
                None => self.server.is_some(),
            };
            from_server && to_us
        };
        let own_client = |reset: &&LiveReset| own.contains(&reset.local.port());
        SeenResets {
            own: alike(resets.iter().filter(is_ours)),
            others: alike(resets.iter().filter(|reset| !is_ours(reset) && !own_client(reset))),
        }
    }
}

/// The resets of a host during a check.
#[derive(Debug, Default)]
pub(crate) struct SeenResets {
    /// Those of the server on the probe's connections.
    pub(crate) own: Vec<Witnessed>,
    /// Those on other connections: a gateway's to its application, or of somebody else.
    pub(crate) others: Vec<Witnessed>,
}

fn alike<'r>(resets: impl Iterator<Item = &'r LiveReset>) -> Vec<Witnessed> {
    let mut all: Vec<Witnessed> = Vec::new();
    for reset in resets {
        let at = all.iter().position(|one| one.is_like(reset)).unwrap_or_else(|| {
            all.push(Witnessed::of(reset));
            all.len() - 1
        });
        all[at].add(reset);
    }
    all
}
