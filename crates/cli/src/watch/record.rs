//! `linger watch --record`: which packets, where to, and what to do when that is not possible.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueHint};
use linger_untrusted::Untrusted;
use linger_watch::{
    Agreement, CannotRecord, PacketTap, RecordCounts, RecordOptions, Recorded, Recorder, Watcher,
};
use rustix::io::Errno;

use crate::exit;
use crate::output::say;
use crate::typed::Bytes;

/// The options of the flight recorder.
#[derive(Args, Debug)]
pub(super) struct RecordTo {
    /// Keep the last packets of each connection in memory, and write those of connections that are reset to pcapng files in this directory.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    record: Option<PathBuf>,
    /// Packets that are kept of a connection.
    #[arg(long, value_name = "N", default_value_t = 32, requires = "record", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    per_flow: u32,
    /// Bytes that are kept of a packet, from its IP header on.
    #[arg(long, value_name = "N", default_value_t = 128, requires = "record", value_parser = clap::value_parser!(u32).range(64..=65_535))]
    bytes: u32,
    /// Most bytes on disk; the oldest files are removed.
    #[arg(long, value_name = "SIZE", default_value = "1GiB", requires = "record")]
    keep: Bytes,
}

impl RecordTo {
    /// Opens the ring of packets, if packets are to be recorded.
    pub(super) fn tap(&self, ports: &[u16]) -> Result<Option<PacketTap>, CannotRecord> {
        let Some(directory) = &self.record else { return Ok(None) };
        let mut options = RecordOptions::new(directory);
        options.per_flow = self.per_flow;
        options.bytes = self.bytes;
        options.keep = self.keep.0;
        options.ports = ports.to_vec();
        PacketTap::open(options).map(Some)
    }

    /// Where packets are recorded.
    pub(super) fn directory(&self) -> Option<&Path> {
        self.record.as_deref()
    }

    /// Begins to record.
    pub(super) fn begin(&self, tap: PacketTap) -> Result<Recorder, ExitCode> {
        let ring = tap.ring_bytes();
        let recorder = Recorder::begin(tap).map_err(|error| self.refused(&error))?;
        if ring < RING {
            say!(
                "linger: the ring of packets has {} KiB instead of {}: there is too little memory",
                ring >> 10,
                RING >> 10
            );
        }
        tracing::info!(ring, "recording packets");
        let free = rustix::fs::statvfs(recorder.directory())
            .map(|found| found.f_bavail.saturating_mul(found.f_frsize));
        if let Some(free) = free.ok().filter(|free| *free < self.keep.0) {
            say!(
                "linger: {} has {} MiB free, less than --keep: resets are told without packets once it is full",
                shown(recorder.directory()),
                free >> 20
            );
        }
        Ok(recorder)
    }

    /// Says why nothing is recorded, and what to do.
    pub(super) fn refused(&self, error: &CannotRecord) -> ExitCode {
        let directory = self.record.as_deref().unwrap_or(Path::new(""));
        let code = match error {
            CannotRecord::TooManyPorts(_) | CannotRecord::TooLittle { .. } => exit::BAD_USAGE,
            CannotRecord::Refused(_) | CannotRecord::NoMemory(_) => exit::NOT_POSSIBLE_HERE,
            _ => exit::COULD_NOT_TELL,
        };
        exit::fail(code, format_args!("cannot record into {}: {error}{}", shown(directory), remedy(error)))
    }
}

/// Size of the ring where there is memory enough.
const RING: usize = 8 << 20;

fn shown(path: &Path) -> String {
    Untrusted::from(path).terminal().to_string()
}

/// What the user can do, as a continuation of the error's sentence.
pub(super) fn remedy(error: &CannotRecord) -> &'static str {
    match error {
        CannotRecord::TooManyPorts(_) => "; name fewer, or leave --port out",
        CannotRecord::TooLittle { .. } => "; raise --keep, or lower --per-flow or --bytes",
        CannotRecord::Refused(error) => match Errno::from_io_error(error) {
            Some(Errno::PERM | Errno::ACCESS) => {
                "; run as root, or with CAP_NET_RAW (systemd: AmbientCapabilities=CAP_NET_RAW and \
                 RestrictAddressFamilies=AF_PACKET; docker: --cap-add NET_RAW)"
            }
            Some(Errno::AFNOSUPPORT) => {
                "; `modprobe af_packet`, and allow AF_PACKET (RestrictAddressFamilies= of a systemd unit)"
            }
            _ => exit::machine_hint(error),
        },
        CannotRecord::NoMemory(_) => "; free some, or raise the cgroup's memory.max",
        CannotRecord::NotADirectory => "; name another, which is made if its parent is there",
        CannotRecord::Locked => "; give each watcher a directory of its own",
        CannotRecord::NotWritable(error) => match Errno::from_io_error(error) {
            Some(Errno::NOSPC | Errno::DQUOT) => "; free some space, or name a directory on another disk",
            Some(Errno::ACCESS | Errno::PERM) => {
                "; it must belong to the user that watches (root's right to write anywhere is given up at the start)"
            }
            Some(Errno::NOENT) => "; make its parent first",
            Some(Errno::ROFS) => "; name a directory on a disk that can be written to",
            _ => exit::machine_hint(error),
        },
        _ => "",
    }
}

/// Says what went wrong since the last call: each kind once, and the numbers at the end.
#[derive(Debug, Default)]
pub(super) struct RecordTrouble {
    not_written: bool,
    dropped: bool,
    overwritten: bool,
}

impl RecordTrouble {
    pub(super) fn tell(&mut self, watcher: &Watcher) {
        let Some(recorder) = watcher.recorder() else { return };
        let RecordCounts { not_written, dropped_packets, overwritten, .. } = recorder.counts();
        if not_written > 0 && !std::mem::replace(&mut self.not_written, true) {
            let why = recorder.error().map_or(String::new(), |error| format!(" ({error})"));
            say!(
                "linger: packets cannot be written to {}{why}: resets are told without them until that changes",
                shown(recorder.directory())
            );
        }
        if dropped_packets > 0 && !std::mem::replace(&mut self.dropped, true) {
            say!(
                "linger: the kernel drops packets, as they come faster than they are read: some records have gaps; name \
                 the ports with --port"
            );
        }
        if overwritten > 0 && !std::mem::replace(&mut self.overwritten, true) {
            say!("linger: --keep is reached: the oldest records are removed from now on");
        }
    }
}

/// The numbers at the end, if packets were recorded.
pub(super) fn summary(watcher: &Watcher) {
    let Some(recorder) = watcher.recorder() else { return };
    let counts = recorder.counts();
    say!(
        "linger: recorded {} resets in {}; {} had no packets here, {} could not be written, {} were removed to \
         make room; kernel and packets differ in {}; the kernel dropped {} packets",
        counts.recorded,
        shown(recorder.directory()),
        counts.without_packets,
        counts.not_written,
        counts.overwritten,
        counts.differ,
        counts.dropped_packets
    );
}

/// What a line says of a record.
pub(super) fn words(recorded: &Recorded) -> String {
    let mut words = format!("; recorded as {}", recorded.id);
    if recorded.connections > 1 {
        let _ = write!(words, " and {} more", recorded.connections - 1);
    }
    let _ = match (&recorded.packets, recorded.agreement) {
        (None, _) => write!(words, ", its packets do not show it"),
        (Some(packets), Agreement::Agree) => {
            write!(words, ", its packets agree ({})", packets.confidence.name())
        }
        (Some(packets), Agreement::Compatible) if packets.cause == linger_why::Cause::Unknown => {
            write!(words, ", its packets do not decide")
        }
        (Some(packets), Agreement::Compatible) => write!(words, ", {} by its packets", packets.cause),
        (Some(packets), _) => write!(
            words,
            ", but its packets say {} ({}), not {}",
            packets.cause,
            packets.confidence.name(),
            recorded.kernel
        ),
    };
    words
}
