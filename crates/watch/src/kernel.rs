//! The kernel's tracepoints, decoded by their own descriptions.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use linger_host::perf::{self, Perf, Sample, Source};
use linger_host::tracepoint::Format;

/// Pages of each processor's ring: 2 MiB, some 16,000 events.
const PAGES: usize = 512;

/// Why this machine or this user cannot watch.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CannotWatch {
    /// There is no tracefs, and it could not be mounted.
    #[error("no tracefs ({0}): run as root, or `mount -t tracefs tracefs /sys/kernel/tracing` first")]
    NoTracefs(io::Error),
    /// The tracepoint that everything rests on is missing.
    #[error("this kernel has no tracepoint tcp:tcp_send_reset ({0}); it came with Linux 4.15")]
    NoTracepoint(io::Error),
    /// The kernel refuses perf events.
    #[error("perf events are refused ({0}): run as root, or with CAP_PERFMON and a readable tracefs")]
    Refused(io::Error),
}

/// What this kernel cannot tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Blind {
    /// Before Linux 6.10 resets carry no reason: causes stay candidates.
    NoReason,
    /// Received resets are not seen.
    NoReceived,
    /// Who closed a connection before is not known.
    NoStates,
    /// What error a received reset became is not known.
    NoErrors,
}

impl Blind {
    /// What that means.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::NoReason => {
                "resets carry no reason on this kernel (6.10 and later have it): causes stay candidates"
            }
            Self::NoReceived => "received resets are not seen: no tracepoint tcp:tcp_receive_reset",
            Self::NoStates => "who had closed before is not known: no tracepoint sock:inet_sock_set_state",
            Self::NoErrors => {
                "what error a reset became is not known: no tracepoint sock:inet_sk_error_report"
            }
        }
    }
}

/// Something that happened to a TCP socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Happening {
    pub(crate) time: u64,
    /// On whose time; the cause of it only for what a system call did.
    pub(crate) pid: u32,
    pub(crate) local: SocketAddr,
    /// Port 0 where the kernel does not say.
    pub(crate) remote: SocketAddr,
    pub(crate) what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Sent { reason: Option<String>, state: u8, active: bool },
    Received,
    State { new: u8 },
    Error { number: i32 },
}

/// The tracepoints, open.
#[derive(Debug)]
pub(crate) struct Kernel {
    perf: Perf,
    sent: Format,
    received: Option<Format>,
    state: Option<Format>,
    error: Option<Format>,
}

impl Kernel {
    pub(crate) fn open() -> Result<Self, CannotWatch> {
        let tracefs: PathBuf = perf::tracefs().map_err(CannotWatch::NoTracefs)?;
        let sent = Format::read(&tracefs, "tcp", "tcp_send_reset").map_err(CannotWatch::NoTracepoint)?;
        let other = |group, name| Format::read(&tracefs, group, name).ok();
        let received = other("tcp", "tcp_receive_reset");
        let state = other("sock", "inet_sock_set_state");
        let error = other("sock", "inet_sk_error_report");
        let mut sources = vec![Source { id: sent.id, filter: None }];
        sources.extend(received.iter().map(|format| Source { id: format.id, filter: None }));
        // Only what tells who closed: FIN_WAIT1, LAST_ACK. A busy host's other changes would fill the ring.
        let closes = "protocol == 6 && (newstate == 4 || newstate == 9)";
        sources.extend(state.iter().map(|format| Source { id: format.id, filter: Some(closes) }));
        sources.extend(error.iter().map(|format| Source { id: format.id, filter: Some("protocol == 6") }));
        let perf = Perf::open(&sources, PAGES).map_err(CannotWatch::Refused)?;
        Ok(Self { perf, sent, received, state, error })
    }

    pub(crate) fn blind(&self) -> Vec<Blind> {
        let mut blind = Vec::new();
        for (missing, what) in [
            (!self.sent.has("reason"), Blind::NoReason),
            (self.received.is_none(), Blind::NoReceived),
            (self.state.is_none(), Blind::NoStates),
            (self.error.is_none(), Blind::NoErrors),
        ] {
            if missing {
                blind.push(what);
            }
        }
        blind
    }

    pub(crate) fn lost(&self) -> u64 {
        self.perf.lost()
    }

    pub(crate) fn wait(&self, timeout: std::time::Duration) -> io::Result<()> {
        self.perf.wait(timeout)
    }

    /// Everything that happened since the last call, in the order of time.
    pub(crate) fn drain(&mut self) -> Vec<Happening> {
        let mut all = Vec::new();
        let (sent, received, state, error) = (&self.sent, &self.received, &self.state, &self.error);
        self.perf.drain(|sample| all.extend(decode(sent, received, state, error, &sample)));
        all.sort_by_key(|happening| happening.time);
        all
    }
}

fn decode<'f>(
    sent: &'f Format,
    received: &'f Option<Format>,
    state: &'f Option<Format>,
    error: &'f Option<Format>,
    sample: &Sample<'_>,
) -> Option<Happening> {
    let raw = sample.raw;
    let id = u64::from(u16::from_ne_bytes(*raw.first_chunk()?));
    let is = |format: &'f Option<Format>| format.as_ref().filter(|format| format.id == id);
    let (format, what) = if id == sent.id {
        let what = What::Sent {
            reason: sent.symbol(raw, "reason").map(str::to_owned),
            state: sent.number(raw, "state").unwrap_or(0) as u8,
            active: sent.number(raw, "skbaddr") == Some(0),
        };
        (sent, what)
    } else if let Some(format) = is(received) {
        (format, What::Received)
    } else if let Some(format) = is(state) {
        let new = format.number(raw, "newstate")? as u8;
        (format, What::State { new })
    } else {
        let format = is(error)?;
        let number = format.number(raw, "error")? as i32;
        (format, What::Error { number })
    };
    let (local, remote) = ends(format, raw)?;
    Some(Happening { time: sample.time, pid: sample.pid, local, remote, what })
}

/// The two ends: as socket addresses, or in fields of their own.
fn ends(format: &Format, raw: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let (source, destination) = (format.bytes(raw, "saddr")?, format.bytes(raw, "daddr")?);
    if source.len() == 28 {
        return Some((socket_address(source)?, socket_address(destination)?));
    }
    let end = |v4: &[u8], v6: &str, port: &str| {
        let port = format.number(raw, port)? as u16;
        let ip = if format.number(raw, "family")? == 10 {
            let bytes: [u8; 16] = *format.bytes(raw, v6)?.first_chunk()?;
            Ipv6Addr::from(bytes).to_canonical()
        } else {
            IpAddr::V4(Ipv4Addr::from(*v4.first_chunk::<4>()?))
        };
        Some(SocketAddr::new(ip, port))
    };
    Some((end(source, "saddr_v6", "sport")?, end(destination, "daddr_v6", "dport")?))
}

/// A `struct sockaddr_in` or `sockaddr_in6`; all zero where the kernel knows no peer.
fn socket_address(bytes: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(*bytes.first_chunk()?);
    let port = u16::from_be_bytes([bytes[2], bytes[3]]);
    let ip = if family == 10 {
        let bytes: [u8; 16] = *bytes[8..].first_chunk()?;
        Ipv6Addr::from(bytes).to_canonical()
    } else {
        IpAddr::V4(Ipv4Addr::new(bytes[4], bytes[5], bytes[6], bytes[7]))
    };
    Some(SocketAddr::new(ip, port))
}
