//! The types for what a system tells about a socket. They are the same on systems that tell less.

use std::time::Duration;

/// The protocol families for which closing is understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Family {
    /// TCP over IPv4 or IPv6, or Multipath TCP ([`is_multipath`](crate::is_multipath)): acknowledgements are known to the byte.
    Tcp,
    /// A local stream socket: bytes count as acknowledged when the peer has read them.
    Unix,
    /// Any other stream (vsock, SMC ...): the bounds of a lingering close hold, and what is acknowledged may be
    /// unknown.
    Other,
}

/// The states of RFC 9293 section 3.3.2, in the kernel's numbering (`tcp_states.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[allow(missing_docs)] // The names are the RFC's.
pub enum TcpState {
    Established,
    SynSent,
    SynReceived,
    FinWait1,
    FinWait2,
    TimeWait,
    Close,
    CloseWait,
    LastAck,
    Listen,
    Closing,
    Unknown(u8),
}

/// The fields of the kernel's `struct tcp_info` that tell a living peer from one that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TcpInfo {
    /// The connection's state (`tcpi_state`).
    pub state: TcpState,
    /// Probes of a closed window, or keepalives, since the last acknowledgement (`icsk_probes_out`).
    pub probes: u8,
    /// How often the retransmission timer has run out since the peer last acknowledged something new (`icsk_retransmits`).
    pub retransmits: u8,
    /// Time since the last ACK (`rcv_tstamp`): also one that answers a probe, or acknowledges nothing new.
    pub last_ack: Duration,
    /// The smoothed round-trip time. Time in the programs' own buffers is not included.
    pub round_trip: Duration,
    /// Segments with data that the peer has sent; 0 before Linux 4.6.
    pub data_segments: u32,
    /// Bytes that the peer has acknowledged, also when the connection is no more: of a connection that was accepted, all data, and one for an
    /// acknowledged FIN (`tcpi_bytes_acked`); 0 before Linux 4.1.
    pub bytes_acked: u64,
}

/// What has happened to one socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ready {
    /// The key with which the socket was added.
    pub key: u64,
    /// Both directions have ended, or there is an error. Always false where the system does not report it: the next read
    /// finds out.
    pub is_over: bool,
    /// The peer's direction is open, and later data raises a new event: a read that gets less than it asked for has
    /// got everything.
    pub is_fresh: bool,
}
