//! What is known about the server after a plain request, and the waiting times that are derived from it.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use socket2::SockAddr;

use crate::budget::{QUIET, Spent};
use crate::config::ProbeConfig;
use crate::counters::CounterSource;
use crate::deadline::Deadline;
use crate::dial::{self, Dialed};
use crate::dialect::Dialect;
use crate::model::Model;
use crate::tunnel::Tunnel;
use crate::wire::{ClientStream, TlsName};
use crate::witness::Witness;

/// The shared state of all trials.
#[derive(Debug)]
pub(crate) struct Prober {
    pub(crate) address: SockAddr,
    pub(crate) tls_host: Option<String>,
    /// What to ask a proxy for on each connection, before anything else.
    pub(crate) tunnel: Option<Tunnel>,
    /// The connection with which the address was found, for the first that is asked for.
    pub(crate) first: Mutex<Option<Dialed>>,
    pub(crate) dialect: Dialect,
    pub(crate) config: ProbeConfig,
    pub(crate) counters: CounterSource,
    pub(crate) witness: Option<Witness>,
    /// How long it takes to connect, without TLS: a round trip.
    pub(crate) round_trip: Duration,
    /// Duration of a plain request. The waiting times are multiples of it.
    pub(crate) plain: Duration,
    /// Length of the body of the plain response.
    pub(crate) expected: Option<u64>,
    pub(crate) model: Model,
    /// Whether to ask more than a visitor does.
    pub(crate) active: bool,
    pub(crate) spent: Arc<Spent>,
    /// The end of the time in which something is asked.
    pub(crate) deadline: Deadline,
}

impl Prober {
    /// Connects, with such a receive buffer.
    pub(crate) fn connect(&self, receive_buffer: Option<usize>) -> io::Result<ClientStream> {
        let patience = self.config.patience;
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        let dialed = match first.take().filter(|_| receive_buffer.is_none()) {
            Some(dialed) => dialed,
            None => {
                let until = Instant::now() + patience;
                self.spent.connected();
                dial::connect(&self.address, receive_buffer, self.deadline.bounded(patience))
                    .inspect_err(|_| self.deadline.note(until))?
            }
        };
        drop(first);
        let mut wire = ClientStream::over(dialed, self.deadline.clone())?;
        if let (Some(witness), Some(port)) = (&self.witness, wire.local_port()) {
            witness.note(port);
        }
        if let Some(tunnel) = &self.tunnel {
            let (sent, received) = tunnel.open(&mut wire, patience)?;
            self.spent.sent(sent);
            self.spent.received(received);
        }
        if let Some(host) = self.tls_host.as_deref() {
            wire.begin_tls(TlsName { host, http2: self.config.http2 }, patience)?;
        }
        Ok(wire)
    }

    /// How many bytes may still be read. An announced or earlier length is not relied on: the next response may be
    /// longer.
    pub(crate) fn room(&self) -> u64 {
        if self.active { u64::MAX } else { QUIET.saturating_sub(self.spent.so_far().2) }
    }

    /// Whether a request of so many bytes may be sent.
    pub(crate) fn may_send(&self, bytes: usize) -> bool {
        self.active || self.spent.leaves(bytes as u64, 0)
    }

    /// Whether the time is over in which something may be asked.
    pub(crate) fn is_late(&self) -> bool {
        self.deadline.is_over()
    }

    /// How long a quiet probe keeps a connection that it could have done with. Others may wait for the worker behind it.
    fn polite(&self) -> Duration {
        Duration::from_millis(20) + self.round_trip
    }

    /// How long to wait before the response is read. `None`: as configured. Otherwise from when the response begins.
    pub(crate) fn late(&self) -> Option<Duration> {
        (!self.active).then(|| self.polite().min(self.config.delay))
    }

    /// Long enough for a packet that is sent right after another to arrive.
    pub(crate) fn moment(&self) -> Duration {
        if !self.active {
            return self.polite() / 2;
        }
        (self.plain * 2).clamp(Duration::from_millis(50), Duration::from_secs(1))
    }

    /// How long to wait after a complete response, without a further byte, for the connection to end. A connection that
    /// has not ended by then counts as left open.
    pub(crate) fn settling(&self) -> Duration {
        if !self.active {
            return self.polite() + self.round_trip;
        }
        (self.plain * 20).max(Duration::from_secs(1)).min(self.config.patience)
    }

    /// How long the client waits for the server to do something.
    pub(crate) fn holding(&self) -> Duration {
        (self.plain * 20).max(Duration::from_secs(3)).min(self.config.patience)
    }
}
