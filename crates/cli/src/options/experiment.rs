//! The two sides of the experiment, by hand or in the lab.

use clap::Args;
use linger_lab::{Bytes, IpVersion, any_seed};

/// What the server of an experiment is like.
#[derive(Args, Clone, Debug)]
pub(crate) struct ServerSide {
    /// Size of the response.
    #[arg(long, value_name = "BYTES", default_value = "200k")]
    pub(crate) response: Bytes,
    /// How many connections may wait to be accepted.
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub(crate) backlog: u32,
}

/// What the clients of an experiment are like.
#[derive(Args, Clone, Debug)]
pub(crate) struct ClientSide {
    /// Connections at a time.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    pub(crate) concurrency: u64,
    /// Size of the clients' receive buffer (SO_RCVBUF): a small one shows the loss on fast links.
    #[arg(long, value_name = "BYTES")]
    recv_buffer: Option<Bytes>,
}

impl ClientSide {
    /// Size of the receive buffer in bytes.
    pub(crate) fn receive_buffer(&self) -> Option<usize> {
        self.recv_buffer.map(|Bytes(bytes)| bytes as usize)
    }
}

/// What a link does by chance.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Chance {
    /// Seed of the links' random decisions; the same seed decides the same for the same packet.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

impl Chance {
    /// The seed that was typed.
    pub(crate) fn typed(self) -> Option<u64> {
        self.seed
    }

    /// The seed that was given, or a random one.
    pub(crate) fn seed(self) -> u64 {
        self.seed.unwrap_or_else(any_seed)
    }
}

/// The version of IP.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Family {
    /// IPv6 instead of IPv4.
    #[arg(long)]
    ipv6: bool,
}

impl Family {
    pub(crate) fn version(self) -> IpVersion {
        if self.ipv6 { IpVersion::V6 } else { IpVersion::V4 }
    }
}
