//! What is known of the server once it has answered a plain request, and the waiting that follows from it.

use std::time::Duration;

use socket2::SockAddr;

use crate::config::ProbeConfig;
use crate::counters::CounterSource;
use crate::dialect::Dialect;
use crate::witness::Witness;

/// What every trial needs.
#[derive(Debug)]
pub(crate) struct Prober {
    pub(crate) address: SockAddr,
    pub(crate) tls_host: Option<String>,
    pub(crate) dialect: Dialect,
    pub(crate) config: ProbeConfig,
    pub(crate) counters: CounterSource,
    pub(crate) witness: Option<Witness>,
    /// How long a plain request takes; everything that waits is a multiple of it.
    pub(crate) plain: Duration,
    /// The body's length in a plain answer.
    pub(crate) expected: Option<u64>,
    pub(crate) status: Option<u16>,
}

impl Prober {
    /// Long enough for a packet that follows another at once.
    pub(crate) fn moment(&self) -> Duration {
        (self.plain * 2).clamp(Duration::from_millis(50), Duration::from_secs(1))
    }

    /// How long after a complete response an end may come that belongs to it.
    pub(crate) fn settling(&self) -> Duration {
        (self.plain * 20).clamp(Duration::from_secs(1), self.config.patience)
    }

    /// How long a client that waits for the server waits before it gives in.
    pub(crate) fn holding(&self) -> Duration {
        (self.plain * 20).clamp(Duration::from_secs(3), self.config.patience)
    }
}
