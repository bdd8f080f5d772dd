//! The labels of the metrics.

use std::net::SocketAddr;

use prometheus_client::encoding::EncodeLabelSet;

use crate::{KnownPlace, LiveReset, NamedProcess};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ResetLabels {
    pub(super) cause: &'static str,
    pub(super) direction: &'static str,
    pub(super) process: String,
    #[prometheus(flatten)]
    pub(super) place: PlaceLabels,
}

/// Where on this host it is. A label is empty where it is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct PlaceLabels {
    namespace: String,
    container: String,
    pod: String,
    unit: String,
}

impl From<&KnownPlace> for PlaceLabels {
    fn from(place: &KnownPlace) -> Self {
        let workload = place.workload.clone().unwrap_or_default();
        Self {
            namespace: place.namespace.inode().to_string(),
            container: workload.container.unwrap_or_default(),
            pod: workload.pod.unwrap_or_default(),
            unit: workload.unit.map_or(String::new(), |unit| unit.label()),
        }
    }
}

impl PlaceLabels {
    /// The place of a reset, whose namespace may not be known.
    pub(super) fn of_reset(reset: &LiveReset) -> Self {
        let workload = reset.workload.clone().unwrap_or_default();
        Self {
            namespace: reset.namespace.map_or(String::new(), |id| id.inode().to_string()),
            container: workload.container.unwrap_or_default(),
            pod: workload.pod.unwrap_or_default(),
            unit: workload.unit.map_or(String::new(), |unit| unit.label()),
        }
    }
}

/// `bytes` is `unread`, `unacknowledged` or `unsent`, as in [`Bytes`](crate::Bytes).
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ByteLabels {
    pub(super) bytes: &'static str,
    #[prometheus(flatten)]
    pub(super) reset: ResetLabels,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct CounterLabels {
    pub(super) counter: &'static str,
    #[prometheus(flatten)]
    pub(super) place: PlaceLabels,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct DirectionLabels {
    pub(super) direction: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ListenerLabels {
    pub(super) listener: String,
    process: String,
    #[prometheus(flatten)]
    pub(super) place: PlaceLabels,
}

impl ListenerLabels {
    pub(super) fn new(place: &KnownPlace, local: Option<SocketAddr>, process: Option<&NamedProcess>) -> Self {
        Self {
            listener: local.map_or("unknown".to_owned(), |local| local.to_string()),
            process: process_label(process),
            place: place.into(),
        }
    }

    /// Stands for all that there is no room for.
    pub(super) fn other() -> Self {
        Self { listener: "other".into(), process: "other".into(), place: PlaceLabels::default() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct WarningLabels {
    pub(super) warning: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct BlindLabels {
    pub(super) what: &'static str,
}

/// What was sent to a collector: `events` or `metrics`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct SentLabels {
    pub(super) what: &'static str,
}

/// Why an event did not reach the collector.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct DroppedLabels {
    pub(super) why: &'static str,
}

/// What leads from a count to one of the resets in it.
pub(super) type ResetExemplar = Vec<(&'static str, String)>;

/// The exemplar of a reset. Its labels have 128 characters at most, with the longest addresses too: OpenMetrics allows no more.
pub(super) fn exemplar(reset: &LiveReset) -> ResetExemplar {
    let remote = reset.remote.map(|remote| ("remote", remote.to_string()));
    let pid = reset.process.as_ref().map(|process| ("pid", process.pid.to_string()));
    let record = reset.recorded.as_ref().map(|recorded| ("record", recorded.id.clone()));
    [remote, pid, record].into_iter().flatten().collect()
}

/// The name of a process.
pub(super) fn process_label(process: Option<&NamedProcess>) -> String {
    process.map_or("unknown".to_owned(), |process| process.name.label())
}
