//! `linger watch --journal`: each event in the systemd journal, by its native protocol, with fields that `journalctl` selects by.
//!
//! The protocol is <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>: a datagram an entry. Each field is in the form with a length, so
//! that no newline in a stranger's text begins another field.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use linger_watch::{Direction, KnownPlace, LiveReset, NamedProcess, Notice, Workload};
use linger_why::Cause;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::exit;
use crate::output::say;

/// Where journald listens.
const SOCKET: &str = "/run/systemd/journal/socket";
/// Longest wait for a journal that is slow, of all entries of one round together: events are not to be lost for it.
const PATIENCE: Duration = Duration::from_millis(200);

/// syslog's levels.
const WARNING: u8 = 4;
const INFO: u8 = 6;

/// A connection to journald.
#[derive(Debug)]
pub(super) struct SystemJournal {
    socket: UnixDatagram,
    lost: u64,
    /// Why the last entry was lost.
    error: Option<io::Error>,
    is_said: bool,
}

impl SystemJournal {
    /// Connects.
    pub(super) fn open() -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(SOCKET)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, lost: 0, error: None, is_said: false })
    }

    /// Writes an entry for each notice that has a line.
    pub(super) fn tell(&mut self, notices: &[Notice]) {
        let until = Instant::now() + PATIENCE;
        for notice in notices {
            if let Some(entry) = entry(notice)
                && let Err(error) = self.send(&entry.0, until)
            {
                self.lost += 1;
                self.error = Some(error);
            }
        }
    }

    fn send(&self, entry: &[u8], until: Instant) -> io::Result<()> {
        loop {
            match self.socket.send(entry) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(error);
                    }
                    let left = Timespec { tv_sec: 0, tv_nsec: left.subsec_nanos().into() };
                    let _ = poll(&mut [PollFd::new(&self.socket, PollFlags::OUT)], Some(&left));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result.map(drop),
            }
        }
    }

    /// Says at once that entries are lost, and at the end how many were.
    pub(super) fn complain(&mut self, at_end: bool) {
        let Some(error) = &self.error else { return };
        if at_end {
            say!("linger: {} entries did not reach the journal; the last: {error}", self.lost);
        } else if !std::mem::replace(&mut self.is_said, true) {
            say!(
                "linger: the journal does not take all entries ({error}): `systemctl status systemd-journald`"
            );
        }
    }
}

/// Says why there is no journal, and what to do.
pub(super) fn refused(error: &io::Error) -> ExitCode {
    let remedy = match Errno::from_io_error(error) {
        Some(Errno::NOENT | Errno::CONNREFUSED) => {
            "; no systemd-journald listens here: leave --journal out, or start it (in a container: mount that socket)"
        }
        Some(Errno::AFNOSUPPORT) => "; allow AF_UNIX (RestrictAddressFamilies= of a systemd unit)",
        _ => exit::machine_hint(error),
    };
    exit::fail(exit::COULD_NOT_TELL, format_args!("cannot write to the journal at {SOCKET}: {error}{remedy}"))
}

/// The fields of an entry, as they are sent.
#[derive(Debug, Default)]
struct JournalEntry(Vec<u8>);

impl JournalEntry {
    fn new(kind: &str, message: &str, priority: u8) -> Self {
        let mut entry = Self::default();
        entry.field("MESSAGE", message);
        entry.field("PRIORITY", &priority.to_string());
        entry.field("SYSLOG_IDENTIFIER", "linger");
        entry.field("LINGER_TYPE", kind);
        entry
    }

    fn field(&mut self, name: &str, value: &str) {
        self.0.extend_from_slice(name.as_bytes());
        self.0.push(b'\n');
        self.0.extend_from_slice(&(value.len() as u64).to_le_bytes());
        self.0.extend_from_slice(value.as_bytes());
        self.0.push(b'\n');
    }

    fn some(&mut self, name: &str, value: Option<impl ToString>) {
        if let Some(value) = value {
            self.field(name, &value.to_string());
        }
    }

    fn process(&mut self, process: Option<&NamedProcess>) {
        self.some("LINGER_PROCESS", process.map(|process| process.name.label()));
        self.some("LINGER_PID", process.map(|process| process.pid));
    }

    fn workload(&mut self, workload: Option<&Workload>) {
        self.some("LINGER_CONTAINER", workload.and_then(|workload| workload.container.as_deref()));
        self.some("LINGER_POD", workload.and_then(|workload| workload.pod.as_deref()));
        self.some(
            "LINGER_UNIT",
            workload.and_then(|workload| workload.unit.as_ref()).map(|unit| unit.label()),
        );
    }

    fn place(&mut self, place: &KnownPlace) {
        self.field("LINGER_NAMESPACE", &place.namespace.inode().to_string());
        self.workload(place.workload.as_ref());
    }
}

/// The entry of a notice; none for counters that say that nothing was missed.
fn entry(notice: &Notice) -> Option<JournalEntry> {
    let message = super::line(notice)?;
    Some(match notice {
        Notice::Reset(reset) => of_reset(reset, &message),
        Notice::Further(further) => {
            let mut entry = JournalEntry::new("further-resets", &message, INFO);
            entry.field("LINGER_CAUSE", further.cause.name());
            entry.field("LINGER_LOCAL", &further.local.to_string());
            entry.some("LINGER_REMOTE", further.remote);
            entry.process(further.process.as_ref());
            further.place.iter().for_each(|place| entry.place(place));
            entry.field("LINGER_RESETS", &further.resets.to_string());
            entry
        }
        Notice::Warning(warning) => {
            let mut entry = JournalEntry::new("warning", &message, WARNING);
            entry.place(warning.place());
            entry
        }
        Notice::Counters(counted) => {
            let mut entry = JournalEntry::new("counters", &message, WARNING);
            entry.field("LINGER_MISSED", &counted.missed.to_string());
            entry
        }
        _ => return None,
    })
}

/// Whether a program of this host is to be mended.
pub(super) fn is_fault(reset: &LiveReset) -> bool {
    use Cause::{Aborted, AcceptQueueOverflow, ClosedWithUnreadData, DataAfterClose, ProcessGone};
    let faults = [ClosedWithUnreadData, DataAfterClose, Aborted, AcceptQueueOverflow, ProcessGone];
    reset.direction == Direction::Sent && faults.contains(&reset.cause)
}

fn of_reset(reset: &LiveReset, message: &str) -> JournalEntry {
    let mut entry = JournalEntry::new("reset", message, if is_fault(reset) { WARNING } else { INFO });
    entry.field("LINGER_CAUSE", reset.cause.name());
    entry.field("LINGER_CONFIDENCE", reset.confidence.name());
    entry.field("LINGER_DIRECTION", reset.direction.name());
    entry.field("LINGER_LOCAL", &reset.local.to_string());
    entry.some("LINGER_REMOTE", reset.remote);
    entry.some("LINGER_REASON", reset.reason.as_deref());
    entry.process(reset.process.as_ref());
    entry.some("LINGER_PROCESS_ROLE", reset.role.map(|role| role.name()));
    entry.some("LINGER_NAMESPACE", reset.namespace.map(|id| id.inode()));
    entry.workload(reset.workload.as_ref());
    entry.field("LINGER_CONNECTIONS", &reset.connections.to_string());
    entry.some("LINGER_UNREAD_BYTES", reset.bytes.unread);
    entry.some("LINGER_UNACKNOWLEDGED_BYTES", reset.bytes.unacknowledged);
    entry.some("LINGER_UNSENT_BYTES", reset.bytes.unsent);
    entry.some("LINGER_RECORD", reset.recorded.as_ref().map(|recorded| &recorded.id));
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fields of an entry, read as journald reads them.
    fn fields(mut entry: &[u8]) -> Vec<(String, String)> {
        let mut fields = Vec::new();
        while !entry.is_empty() {
            let line = entry.iter().position(|byte| *byte == b'\n').unwrap();
            let (name, rest) = (&entry[..line], &entry[line + 1..]);
            assert!(!name.contains(&b'='), "the form with a length");
            let (length, rest) = rest.split_first_chunk().unwrap();
            let (value, rest) = rest.split_at(u64::from_le_bytes(*length) as usize);
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            fields.push((text(name), text(value)));
            entry = rest.strip_prefix(b"\n").unwrap();
        }
        fields
    }

    #[test]
    fn no_text_begins_another_field() {
        let mut entry = JournalEntry::new("reset", "one\nMESSAGE=two", WARNING);
        entry.field("LINGER_PROCESS", "x\nLINGER_CAUSE=none\n");
        entry.some("LINGER_PID", None::<u32>);
        let fields = fields(&entry.0);
        let names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER", "LINGER_TYPE", "LINGER_PROCESS"]);
        assert_eq!(
            (fields[0].1.as_str(), fields[4].1.as_str()),
            ("one\nMESSAGE=two", "x\nLINGER_CAUSE=none\n")
        );
    }
}
