//! What watching needs of this host and user: `linger watch --check`, and the remedies when it cannot start.

use std::borrow::Cow;
use std::process::ExitCode;

use linger_watch::{Blind, CannotRecord, CannotWatch, Filter, Needs, PacketTap, RecordOptions, Watcher};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use rustix::thread::{CapabilitySet, capabilities};

use super::otlp::{OtlpTo, TriedCollector};
use crate::exit;
use crate::lines::{self, NeedState};
use crate::output::{Stdout, Stopped};

/// One need: what it is for, how it is met, and what to do if it is not.
#[derive(Debug)]
struct Check {
    need: &'static str,
    state: NeedState,
    found: String,
    remedy: Option<String>,
}

impl Check {
    fn ok(need: &'static str, found: impl Into<String>) -> Self {
        Self { need, state: NeedState::Ok, found: found.into(), remedy: None }
    }

    fn new(
        need: &'static str,
        state: NeedState,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { need, state, found: found.into(), remedy: Some(remedy.into()) }
    }
}

/// Prints all checks. The status is that of watching itself.
pub(super) fn run(json: bool, otlp: &OtlpTo) -> ExitCode {
    // First: its process has nothing that is opened later.
    let collector = match otlp.check() {
        Ok(collector) => collector.map(reached),
        Err(status) => return status,
    };
    let checks: Vec<_> = all().into_iter().chain(collector).collect();
    let possible = checks.iter().all(|check| check.state != NeedState::Missing);
    let status = if possible { exit::NOTHING_LOST } else { exit::NOT_POSSIBLE_HERE };
    match write(&checks, json) {
        Ok(()) => ExitCode::from(status),
        Err(stopped) => stopped.end(None),
    }
}

fn write(checks: &[Check], json: bool) -> Result<(), Stopped> {
    let mut out = Stdout::new();
    for check in checks {
        let Check { need, state, found, remedy } = check;
        if json {
            lines::need(need, *state, found, remedy.as_deref(), &mut out)?;
        } else {
            out.text(format_args!("{:<9} {need}: {found}\n", state.name()))?;
            if let Some(remedy) = remedy {
                out.text(format_args!("{:<9} {remedy}\n", ""))?;
            }
        }
    }
    out.flush()
}

fn all() -> Vec<Check> {
    let effective = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    let mut checks = Vec::new();
    if let Ok(needs) = Needs::now() {
        checks.push(descriptors(needs, getrlimit(Resource::Nofile).maximum));
        checks.push(memory(needs));
    }
    let paranoid = std::fs::read_to_string("/proc/sys/kernel/perf_event_paranoid");
    checks.extend(paranoid.ok().map(|level| paranoia(level.trim(), effective)));
    match Watcher::open(Filter::default()) {
        Ok(watcher) => {
            checks.push(Check::ok("tracepoints", "the kernel's events of resets can be read"));
            checks.extend(watcher.blind().iter().map(|blind| unseen(*blind)));
        }
        Err(error) => {
            let remedy = remedy(&error);
            let remedy = remedy.trim_start_matches([':', ';', ' ']).to_owned();
            checks.push(Check::new("tracepoints", NeedState::Missing, error.to_string(), remedy));
        }
    }
    checks.extend(NEEDS.iter().map(|need| need.check(effective)));
    checks.push(recording(PacketTap::open(RecordOptions::new(""))));
    checks
}

/// Whether events would reach the collector.
fn reached(TriedCollector { name, trouble }: TriedCollector) -> Check {
    const NEED: &str = "collector (--otlp)";
    match trouble {
        None => Check::ok(NEED, format!("{name} takes events")),
        Some(trouble) => Check::new(
            NEED,
            NeedState::Degraded,
            format!("{name}: {trouble}"),
            "see that it is there, and the URL, the protocol and OTEL_EXPORTER_OTLP_HEADERS; until it takes them, events are tried again for five minutes each",
        ),
    }
}

/// Whether `--record` would get packets.
fn recording(tap: Result<PacketTap, CannotRecord>) -> Check {
    const NEED: &str = "packets (--record)";
    match tap {
        Ok(tap) => Check::ok(NEED, format!("a ring of {} KiB", tap.ring_bytes() >> 10)),
        Err(error) => {
            let remedy = super::record::remedy(&error).trim_start_matches([';', ' ']).to_owned();
            Check::new(NEED, NeedState::Degraded, format!("{error}: only the rest works"), remedy)
        }
    }
}

fn descriptors(needs: Needs, limit: Option<u64>) -> Check {
    const NEED: &str = "open files";
    let Needs { descriptors, processors, .. } = needs;
    let found = |limit: &str| {
        format!("{descriptors} for {processors} processors, and two for each container, of {limit}")
    };
    match limit {
        None => Check::ok(NEED, found("any number")),
        Some(limit) if limit >= descriptors => Check::ok(NEED, found(&limit.to_string())),
        Some(limit) => Check::new(NEED, NeedState::Missing, found(&limit.to_string()), more_files(needs)),
    }
}

fn more_files(Needs { descriptors, .. }: Needs) -> String {
    format!(
        "ulimit -n {descriptors}   (systemd: LimitNOFILE={descriptors}; docker: --ulimit nofile={descriptors})"
    )
}

fn memory(needs: Needs) -> Check {
    const NEED: &str = "locked memory";
    let Needs { least_kib, most_kib, lockable_kib, .. } = needs;
    let found =
        |limit: &str| format!("{most_kib} KiB for full rings, {least_kib} for the smallest, of {limit}");
    let remedy = format!("ulimit -l {most_kib}   (systemd: LimitMEMLOCK={most_kib}K; or CAP_IPC_LOCK)");
    match lockable_kib {
        None => Check::ok(NEED, found("any amount")),
        Some(lockable) => {
            let state = match lockable {
                enough if enough >= most_kib => return Check::ok(NEED, found(&format!("{enough} KiB"))),
                some if some >= least_kib => NeedState::Degraded,
                _ => NeedState::Missing,
            };
            Check::new(NEED, state, found(&format!("{lockable} KiB")), remedy)
        }
    }
}

/// From this level on Debian's and Ubuntu's kernels refuse perf events to CAP_PERFMON.
const REFUSES_PERFMON: i32 = 3;

fn paranoia(level: &str, effective: CapabilitySet) -> Check {
    const NEED: &str = "sysctl kernel.perf_event_paranoid";
    let admin = effective.contains(CapabilitySet::SYS_ADMIN);
    match level.parse::<i32>() {
        Ok(number) if number >= REFUSES_PERFMON && !admin => Check::new(
            NEED,
            NeedState::Degraded,
            format!("{level}: Debian's and Ubuntu's kernels then ask for CAP_SYS_ADMIN"),
            "sysctl -w kernel.perf_event_paranoid=2   (for good: a line in /etc/sysctl.d/; or run with CAP_SYS_ADMIN)",
        ),
        _ => Check::ok(NEED, level),
    }
}

fn unseen(blind: Blind) -> Check {
    let remedy = match blind {
        Blind::NoNamespaces => "run as root, or with CAP_SYS_ADMIN (systemd: RestrictNamespaces=net)",
        Blind::NewProcessor => {
            "raise `ulimit -n` and `ulimit -l` (systemd: LimitNOFILE=, LimitMEMLOCK=), and start it again"
        }
        Blind::NoBytes => "modprobe tcp_diag inet_diag",
        Blind::NoOpener => "start it again",
        Blind::TooManyNamespaces => "raise `ulimit -n` (systemd: LimitNOFILE=) if it is below 4,096",
        _ => "a newer kernel has it",
    };
    Check::new("this kernel", NeedState::Degraded, blind.meaning(), remedy)
}

/// A capability, what it is for, and what is hidden without it.
struct NeededCapability {
    name: &'static str,
    capability: CapabilitySet,
    /// Any of these does as well.
    or: CapabilitySet,
    hidden: &'static str,
}

impl NeededCapability {
    fn is_met(&self, effective: CapabilitySet) -> bool {
        effective.contains(self.capability) || effective.intersects(self.or)
    }

    fn check(&self, effective: CapabilitySet) -> Check {
        if self.is_met(effective) {
            return Check::ok(self.name, "there");
        }
        let (found, remedy) = self.hidden.split_once(": ").unwrap_or((self.hidden, ""));
        Check::new(self.name, NeedState::Degraded, found, remedy)
    }
}

const NEEDS: [NeededCapability; 3] = [
    // ptrace(2), access to /proc/PID/fd of another user.
    NeededCapability {
        name: "CAP_SYS_PTRACE",
        capability: CapabilitySet::SYS_PTRACE,
        or: CapabilitySet::empty(),
        hidden: "other users' processes are not named: run as root, or with CAP_SYS_PTRACE as well",
    },
    // setns(2).
    NeededCapability {
        name: "CAP_SYS_ADMIN",
        capability: CapabilitySet::SYS_ADMIN,
        or: CapabilitySet::empty(),
        hidden: "listeners and overflows of containers are not seen: run as root, or with CAP_SYS_ADMIN as well",
    },
    // NETLINK_LISTEN_ALL_NSID, netlink(7): not needed where the other namespaces can be entered.
    NeededCapability {
        name: "CAP_NET_BROADCAST",
        capability: CapabilitySet::NET_BROADCAST,
        or: CapabilitySet::SYS_ADMIN,
        hidden: "bytes of containers' connections are not known: run as root, or with CAP_NET_BROADCAST as well",
    },
];

/// What the user can do about an error, as a continuation of the error's sentence.
pub(super) fn remedy(error: &CannotWatch) -> Cow<'static, str> {
    let remedy = match error {
        CannotWatch::Refused(error) if Errno::from_io_error(error) == Some(Errno::MFILE) => {
            if let Ok(needs) = Needs::now() {
                return format!(": {}", more_files(needs)).into();
            }
            exit::machine_hint(error)
        }
        CannotWatch::NoTracefs(_) if has_tracefs() => {
            ": tracefs is there, and not readable to this user; run as root, or with CAP_DAC_READ_SEARCH"
        }
        CannotWatch::NoTracefs(_) => ": run as root, or `mount -t tracefs tracefs /sys/kernel/tracing` first",
        CannotWatch::Refused(error) => {
            let effective = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
            refused(Errno::from_io_error(error), effective).unwrap_or_else(|| exit::machine_hint(error))
        }
        CannotWatch::LockedMemory { .. } => {
            ": raise `ulimit -l` (LimitMEMLOCK= of a systemd unit, --ulimit memlock= of a container), or have CAP_IPC_LOCK \
             (--cap-add IPC_LOCK)"
        }
        _ => "",
    };
    remedy.into()
}

/// What the user can do if `perf_event_open` fails for a process with these capabilities.
fn refused(error: Option<Errno>, effective: CapabilitySet) -> Option<&'static str> {
    match error? {
        Errno::ACCESS | Errno::PERM if effective.contains(CapabilitySet::SYS_ADMIN) => Some(
            ": not even CAP_SYS_ADMIN is enough here; allow perf_event_open in the seccomp profile (SystemCallFilter= of a \
             systemd unit) and in the security module, and watch from outside of containers with a user namespace",
        ),
        // Debian from a level of 3 on and Ubuntu of 4 ask for CAP_SYS_ADMIN, whatever else is there.
        Errno::ACCESS => Some(
            ": run as root or with CAP_SYS_ADMIN, or set sysctl kernel.perf_event_paranoid to 2 and have CAP_PERFMON \
             (Debian sets 3 and Ubuntu 4, where CAP_PERFMON alone does not count)",
        ),
        Errno::PERM if effective.contains(CapabilitySet::PERFMON) => {
            Some(": allow perf_event_open in the seccomp profile (SystemCallFilter= of a systemd unit)")
        }
        Errno::PERM => Some(": run as root, or with CAP_PERFMON and a readable tracefs"),
        _ => None,
    }
}

/// What the kernel hides from a process that has only these capabilities, except what [`Blind`] says.
pub(super) fn hidden(effective: CapabilitySet) -> impl Iterator<Item = &'static str> {
    let needs = NEEDS.iter().filter(|need| need.capability != CapabilitySet::SYS_ADMIN);
    needs.filter(move |need| !need.is_met(effective)).map(|need| need.hidden)
}

fn has_tracefs() -> bool {
    /// `TRACEFS_MAGIC` of `linux/magic.h`.
    const MAGIC: rustix::fs::FsWord = 0x7472_6163;
    rustix::fs::statfs("/sys/kernel/tracing").is_ok_and(|found| found.f_type == MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_missing_capability_is_said() {
        let said = |effective| hidden(effective).collect::<Vec<_>>();
        assert!(said(CapabilitySet::SYS_PTRACE | CapabilitySet::NET_BROADCAST).is_empty());
        assert!(
            said(CapabilitySet::SYS_PTRACE | CapabilitySet::SYS_ADMIN).is_empty(),
            "it enters the namespaces"
        );
        assert!(said(CapabilitySet::SYS_PTRACE)[0].contains("CAP_NET_BROADCAST"));
        assert!(said(CapabilitySet::NET_BROADCAST)[0].contains("CAP_SYS_PTRACE"));
        assert_eq!(said(CapabilitySet::empty()).len(), 2);
    }

    #[test]
    fn limits_are_met_or_have_their_line() {
        let Ok(mut needs) = Needs::now() else { return };
        (needs.processors, needs.descriptors) = (64, 576);
        assert_eq!(descriptors(needs, Some(576)).state, NeedState::Ok);
        let few = descriptors(needs, Some(575));
        assert!(few.state == NeedState::Missing && few.remedy.unwrap().starts_with("ulimit -n 576 "));
        assert_eq!(descriptors(needs, None).state, NeedState::Ok);
        (needs.least_kib, needs.most_kib) = (100, 3_000);
        let mut with = |lockable_kib| {
            needs.lockable_kib = lockable_kib;
            memory(needs)
        };
        let states =
            [None, Some(3_000), Some(2_999), Some(100), Some(99)].map(&mut with).map(|check| check.state);
        let (ok, degraded, missing) = (NeedState::Ok, NeedState::Degraded, NeedState::Missing);
        assert_eq!(states, [ok, ok, degraded, degraded, missing]);
    }

    #[test]
    fn perf_is_refused_to_perfmon_from_level_three_on() {
        let state = |level, effective| paranoia(level, effective).state;
        let (perfmon, admin) = (CapabilitySet::PERFMON, CapabilitySet::SYS_ADMIN);
        assert_eq!((state("2", perfmon), state("3", perfmon)), (NeedState::Ok, NeedState::Degraded));
        assert_eq!((state("4", admin), state("odd", perfmon)), (NeedState::Ok, NeedState::Ok));
    }

    #[test]
    fn recording_is_refused_with_a_remedy_and_watching_is_not() {
        let refused = |errno: Errno| recording(Err(CannotRecord::Refused(errno.into())));
        let check = refused(Errno::PERM);
        assert_eq!(check.state, NeedState::Degraded);
        assert!(check.remedy.unwrap().starts_with("run as root, or with CAP_NET_RAW"));
        assert!(refused(Errno::AFNOSUPPORT).remedy.unwrap().contains("modprobe"));
    }

    #[test]
    fn each_refusal_has_its_remedy() {
        let perfmon = CapabilitySet::PERFMON;
        let told = |error, effective| refused(Some(error), effective).unwrap();
        assert!(told(Errno::ACCESS, perfmon).contains("perf_event_paranoid"));
        assert!(told(Errno::ACCESS, perfmon | CapabilitySet::SYS_ADMIN).contains("security module"));
        assert!(told(Errno::PERM, perfmon).contains("seccomp") && told(Errno::PERM, perfmon).len() < 100);
        assert!(told(Errno::PERM, CapabilitySet::empty()).contains("with CAP_PERFMON"));
        assert_eq!(refused(Some(Errno::MFILE), perfmon), None);
    }
}
