//! Events and counts in the words of OpenTelemetry: its semantic conventions where they have a name, and `linger.` where not.

use std::net::{IpAddr, SocketAddr};
use std::time::{SystemTime, UNIX_EPOCH};

use linger_otlp::{AttributeValue, ExportedEvent, Severity};
use linger_watch::{FurtherResets, KnownPlace, LiveReset, NamedProcess, Notice, Warning, Workload};

use super::journal::is_fault;

/// The event of a notice; none for counters that say that nothing was missed.
pub(super) fn event(notice: &Notice) -> Option<ExportedEvent> {
    let body = super::line(notice)?;
    Some(match notice {
        Notice::Reset(reset) => of_reset(reset, body),
        Notice::Further(further) => of_further(further, body),
        Notice::Warning(warning) => of_warning(warning, body),
        Notice::Counters(counted) => {
            let mut event = ExportedEvent::new("linger.missed", now_ns(), Severity::Warning, body);
            event.set("linger.missed_resets", counted.missed);
            event.set("linger.events_lost", counted.events_lost);
            event
        }
        _ => return None,
    })
}

fn of_reset(reset: &LiveReset, body: String) -> ExportedEvent {
    let severity = if is_fault(reset) { Severity::Warning } else { Severity::Info };
    // To the microsecond, what the seconds hold.
    let time_ns = (reset.time_seconds * 1e6).round() as u64 * 1_000;
    let mut event = ExportedEvent::new("linger.reset", time_ns, severity, body);
    ends(&mut event, Some(reset.local), reset.remote);
    event.set("linger.cause", reset.cause.name());
    event.set("linger.confidence", reset.confidence.name());
    let candidates: Vec<String> = reset.candidates.iter().map(|cause| cause.name().to_owned()).collect();
    event.set("linger.candidates", candidates);
    event.set("linger.direction", reset.direction.name());
    event.set_known("linger.reason", reset.reason.clone());
    event.set_known("linger.tcp_state", reset.state);
    process(&mut event, reset.process.as_ref());
    event.set_known("linger.process_role", reset.role.map(|role| role.name()));
    event.set_known("linger.network_namespace", reset.namespace.map(|id| id.inode()));
    let name = reset.namespace_name.as_ref();
    event.set_known("linger.network_namespace_name", name.map(linger_untrusted::Untrusted::label));
    workload(&mut event, reset.workload.as_ref());
    event.set("linger.connections", reset.connections);
    event.set("linger.further_resets", reset.further_resets);
    event.set_known("linger.unread_bytes", reset.bytes.unread);
    event.set_known("linger.unacknowledged_bytes", reset.bytes.unacknowledged);
    event.set_known("linger.unsent_bytes", reset.bytes.unsent);
    event.set("linger.evidence", reset.evidence.clone());
    event.set_known("linger.record", reset.recorded.as_ref().map(|recorded| recorded.id.as_str()));
    let agreement = reset.recorded.as_ref().map(|recorded| recorded.agreement.name());
    event.set_known("linger.agreement", agreement);
    event
}

fn of_further(further: &FurtherResets, body: String) -> ExportedEvent {
    let mut event = ExportedEvent::new("linger.further_resets", now_ns(), Severity::Info, body);
    ends(&mut event, Some(further.local), further.remote);
    event.set("linger.cause", further.cause.name());
    event.set("linger.direction", "sent");
    process(&mut event, further.process.as_ref());
    further.place.iter().for_each(|known| place(&mut event, known));
    event.set("linger.resets", further.resets);
    event
}

fn of_warning(warning: &Warning, body: String) -> ExportedEvent {
    let mut event = ExportedEvent::new("linger.warning", now_ns(), Severity::Warning, body);
    let queue = match warning {
        Warning::ListenerNearLimit { local, queue, process: holder, .. } => {
            event.set("linger.warning", "listener-near-limit");
            ends(&mut event, Some(*local), None);
            process(&mut event, holder.as_ref());
            Some(*queue)
        }
        Warning::UnreadAfterPeerClosed { local, remote, unread, process: holder, .. } => {
            event.set("linger.warning", "unread-after-peer-closed");
            ends(&mut event, Some(*local), Some(*remote));
            event.set("linger.unread_bytes", *unread);
            process(&mut event, holder.as_ref());
            None
        }
        Warning::AcceptQueueOverflowed { local, queue, process: holder, overflows, .. } => {
            event.set("linger.warning", "accept-queue-overflowed");
            ends(&mut event, *local, None);
            event.set("linger.overflows", *overflows);
            process(&mut event, holder.as_ref());
            *queue
        }
        _ => None,
    };
    event.set_known("linger.listener_queue", queue.map(|queue| queue.waiting));
    event.set_known("linger.listener_queue_limit", queue.map(|queue| queue.limit));
    place(&mut event, warning.place());
    event
}

fn ends(event: &mut ExportedEvent, local: Option<SocketAddr>, remote: Option<SocketAddr>) {
    event.set("network.transport", "tcp");
    event.set_known("network.type", local.map(|local| network_type(local.ip())));
    event.set_known("network.local.address", local.map(|local| local.ip().to_string()));
    event.set_known("network.local.port", local.map(|local| local.port()));
    event.set_known("network.peer.address", remote.map(|remote| remote.ip().to_string()));
    event.set_known("network.peer.port", remote.map(|remote| remote.port()));
}

fn network_type(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "ipv4" } else { "ipv6" }
}

fn process(event: &mut ExportedEvent, process: Option<&NamedProcess>) {
    event.set_known("process.pid", process.map(|process| process.pid));
    event.set_known("process.executable.name", process.map(|process| process.name.label()));
}

fn workload(event: &mut ExportedEvent, workload: Option<&Workload>) {
    let Some(workload) = workload else { return };
    event.set_known("container.id", workload.container.as_deref());
    event.set_known("k8s.pod.uid", workload.pod.as_deref());
    event.set_known("linger.systemd_unit", workload.unit.as_ref().map(|unit| unit.label()));
}

fn place(event: &mut ExportedEvent, place: &KnownPlace) {
    event.set("linger.network_namespace", place.namespace.inode());
    event.set_known("linger.network_namespace_name", place.name.as_ref().map(|name| name.label()));
    workload(event, place.workload.as_ref());
}

fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_nanos().try_into().unwrap_or(u64::MAX)
}

/// What OpenTelemetry calls what every exporter says of its own process.
const PROCESS: [(&str, &str); 5] = [
    ("process_cpu_seconds", "process.cpu.time"),
    ("process_resident_memory_bytes", "process.memory.usage"),
    ("process_virtual_memory_bytes", "process.memory.virtual"),
    ("process_open_fds", "process.unix.file_descriptor.count"),
    ("process_threads", "process.thread.count"),
];

/// The name of a metric: `linger_resets` is `linger.resets`. What the resource says, or OpenTelemetry has no name for, is left out.
pub(super) fn metric_name(family: &str) -> Option<String> {
    match family.strip_prefix("linger_") {
        Some("build") => None,
        Some(own) => Some(format!("linger.{own}")),
        None => PROCESS.iter().find(|(name, _)| *name == family).map(|(_, name)| (*name).to_owned()),
    }
}

/// The attributes of a metric's label, or of an exemplar's. What is not known is empty there, and left out here.
pub(super) fn label_attributes(label: &str, value: &str) -> Vec<(String, AttributeValue)> {
    let one = |name: &str| vec![(name.to_owned(), value.into())];
    match label {
        _ if value.is_empty() => Vec::new(),
        "process" => one("process.executable.name"),
        "container" => one("container.id"),
        "pod" => one("k8s.pod.uid"),
        "unit" => one("linger.systemd_unit"),
        "namespace" => match value.parse::<u64>() {
            Ok(inode) => vec![("linger.network_namespace".to_owned(), inode.into())],
            Err(_) => one("linger.network_namespace"),
        },
        "pid" => match value.parse::<u64>() {
            Ok(pid) => vec![("process.pid".to_owned(), pid.into())],
            Err(_) => one("process.pid"),
        },
        "remote" => match value.parse::<SocketAddr>() {
            Ok(remote) => vec![
                ("network.peer.address".to_owned(), remote.ip().to_string().into()),
                ("network.peer.port".to_owned(), remote.port().into()),
            ],
            Err(_) => one("network.peer.address"),
        },
        other => one(&format!("linger.{other}")),
    }
}
