//! The exporter: OpenMetrics over HTTP, for Prometheus to scrape.

mod labels;

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use linger_endpoint::{EndpointLimits, MetricsSource};
use linger_why::Cause;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::exemplar::CounterWithExemplar;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use self::labels::{
    BlindLabels, ByteLabels, CounterLabels, DirectionLabels, DroppedLabels, ListenerLabels, PlaceLabels,
    ResetExemplar, ResetLabels, SentLabels, WarningLabels, exemplar, process_label,
};
use crate::{
    Blind, Counted, CountedPlace, Direction, KnownPlace, LiveReset, NamedProcess, NamespaceId, Notice,
    Warning, Watcher,
};

/// Largest number of label sets. Further processes are counted as "other", so that the scraper's memory stays bounded.
const MAX_LABELS: usize = 2_000;
/// The metrics are out of date if nobody has recorded for so long; a watch does so twice a second.
const STALE: Duration = Duration::from_secs(10);
/// The causes that a server's own resets mostly have. Each listener has them at zero from the start: `rate()` of a series that
/// begins with its first burst would not see that burst.
const AT_ZERO: [Cause; 5] = [
    Cause::ClosedWithUnreadData,
    Cause::DataAfterClose,
    Cause::Aborted,
    Cause::AcceptQueueOverflow,
    Cause::ProcessGone,
];
/// The names of [`Warning`]s.
const WARNINGS: [&str; 3] = ["listener-near-limit", "unread-after-peer-closed", "accept-queue-overflowed"];

/// A listener, and the process that listens.
type AnnouncedListener = (NamespaceId, SocketAddr, u32);

/// The metrics served at `/metrics`. Clones share the same values.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    resets: Family<ResetLabels, CounterWithExemplar<ResetExemplar>>,
    further: Family<ResetLabels, Counter>,
    warnings: Family<WarningLabels, Counter>,
    overflows: Family<ListenerLabels, Counter>,
    waiting: Family<ListenerLabels, Gauge<i64, AtomicI64>>,
    limit: Family<ListenerLabels, Gauge<i64, AtomicI64>>,
    lost: Counter<u64, AtomicU64>,
    ring: Gauge<i64, AtomicI64>,
    bytes: Family<ByteLabels, Counter>,
    kernel: Family<CounterLabels, Counter>,
    seen: Family<DirectionLabels, Counter>,
    missed: Gauge<i64, AtomicI64>,
    own: Counter<u64, AtomicU64>,
    left_out: Counter<u64, AtomicU64>,
    labels: Arc<Mutex<HashSet<ResetLabels>>>,
    /// Those of `overflows`.
    listeners: Arc<Mutex<HashSet<ListenerLabels>>>,
    /// The listeners, with their process, that have their series at zero.
    announced: Arc<Mutex<HashMap<AnnouncedListener, ListenerLabels>>>,
    blind: Family<BlindLabels, Gauge<i64, AtomicI64>>,
    /// Without a series unless something is sent elsewhere.
    exported: Family<SentLabels, Counter>,
    not_exported: Family<DroppedLabels, Counter>,
    /// When the last round was recorded, in milliseconds since `started`.
    recorded: Arc<AtomicU64>,
    started: Instant,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut whole = linger_endpoint::registry();
        let registry = whole.sub_registry_with_prefix("linger");
        let (resets, warnings) = (Family::default(), Family::<WarningLabels, Counter>::default());
        let (waiting, limit, lost) = (Family::default(), Family::default(), Counter::default());
        registry.register("resets", "TCP resets by cause, direction and process", resets.clone());
        let further = Family::default();
        let echoes = "Further resets for packets that a peer sent before it knew of the first reset";
        registry.register("further_resets", echoes, further.clone());
        let overflows = Family::default();
        let listeners =
            "Connections that found no room in an accept queue, by the listener with the fullest one";
        registry.register("listen_overflows", listeners, overflows.clone());
        registry.register("warnings", "Conditions that end in resets", warnings.clone());
        registry.register("listener_queue", "Connections that wait for accept", waiting.clone());
        registry.register("listener_queue_limit", "The listener's backlog", limit.clone());
        registry.register(
            "events_lost",
            "Kernel events dropped because they were not read in time",
            lost.clone(),
        );
        let ring = Gauge::default();
        registry.register("ring_bytes", "Size of each processor's ring for kernel events", ring.clone());
        let (bytes, kernel) = (Family::default(), Family::default());
        let (seen, missed) = (Family::<DirectionLabels, Counter>::default(), Gauge::default());
        let lost_bytes = "Bytes on their way when a connection was reset: unread here, unacknowledged by the peer, of those unsent";
        registry.register("reset_bytes", lost_bytes, bytes.clone());
        registry.register(
            "kernel_counter",
            "The kernel's own counters of each network namespace, since it was found",
            kernel.clone(),
        );
        registry.register("seen_resets", "Resets seen, whatever the filter", seen.clone());
        registry.register(
            "missed_resets",
            "Resets that the kernel counted as sent beyond those seen",
            missed.clone(),
        );
        let (own, left_out) = (own_resets(registry), left_out_lines(registry));
        let blind = Family::<BlindLabels, Gauge<i64, AtomicI64>>::default();
        registry.register("blind", "What cannot be seen on this host (1)", blind.clone());
        let (exported, not_exported) = (Family::default(), Family::default());
        registry.register("otlp_sent", "What the OpenTelemetry collector has taken", exported.clone());
        let dropped = "Events that did not reach the OpenTelemetry collector";
        registry.register("otlp_dropped", dropped, not_exported.clone());
        for what in Blind::ALL {
            drop(blind.get_or_create(&BlindLabels { what: what.name() }));
        }
        for warning in WARNINGS {
            drop(warnings.get_or_create(&WarningLabels { warning }));
        }
        for direction in [Direction::Sent, Direction::Received] {
            drop(seen.get_or_create(&DirectionLabels { direction: direction.name() }));
        }
        Self {
            registry: Arc::new(Mutex::new(whole)),
            resets,
            further,
            overflows,
            warnings,
            waiting,
            limit,
            lost,
            ring,
            bytes,
            kernel,
            seen,
            missed,
            own,
            left_out,
            labels: Arc::default(),
            listeners: Arc::default(),
            announced: Arc::default(),
            blind,
            exported,
            not_exported,
            recorded: Arc::default(),
            started: Instant::now(),
        }
    }
}

fn own_resets(registry: &mut Registry) -> Counter<u64, AtomicU64> {
    let (own, not_told) =
        (Counter::default(), "Resets of connections of the watcher's own, which are not told");
    registry.register("own_resets", not_told, own.clone());
    own
}

fn left_out_lines(registry: &mut Registry) -> Counter<u64, AtomicU64> {
    let (left_out, unread) =
        (Counter::default(), "Lines left out of standard output, which nobody read in time");
    registry.register("left_out_lines", unread, left_out.clone());
    left_out
}

impl Metrics {
    /// Sets how many lines were left out of the program's output.
    pub fn left_out(&self, lines: u64) {
        self.left_out.inner().store(lines, Ordering::Relaxed);
    }

    /// Counts the notices of one round, and copies the listeners' queues if they may have changed.
    pub fn record(&self, notices: &[Notice], watcher: &Watcher) {
        for notice in notices {
            match notice {
                Notice::Reset(reset) => {
                    let process = process_label(reset.process.as_ref());
                    let (cause, direction) = (reset.cause.name(), reset.direction.name());
                    let place = PlaceLabels::of_reset(reset);
                    let labels = self.bounded(ResetLabels { cause, direction, process, place });
                    let when = SystemTime::UNIX_EPOCH + Duration::from_nanos(reset.time_ns());
                    let counter = self.resets.get_or_create(&labels);
                    counter.inc_by(reset.connections.into(), Some(exemplar(reset)), Some(when));
                    drop(counter);
                    self.record_further(&labels, reset.further_resets);
                    self.record_bytes(reset, labels);
                }
                Notice::Further(further) => {
                    let process = process_label(further.process.as_ref());
                    let (cause, direction) = (further.cause.name(), Direction::Sent.name());
                    let place = further.place.as_ref().map(PlaceLabels::from).unwrap_or_default();
                    let labels = self.bounded(ResetLabels { cause, direction, process, place });
                    self.record_further(&labels, further.resets);
                }
                Notice::Warning(warning) => self.record_warning(warning),
                Notice::Counters(counted) => self.record_counters(counted),
            }
        }
        self.record_listeners(watcher);
        self.record_places(watcher.counted(), &watcher.own_place());
        for what in Blind::ALL {
            let is_so = watcher.blind().contains(&what);
            self.blind.get_or_create(&BlindLabels { what: what.name() }).set(is_so.into());
        }
        self.recorded.store(self.milliseconds(), Ordering::Relaxed);
        self.lost.inner().store(watcher.lost(), Ordering::Relaxed);
        self.ring.set(watcher.ring_bytes().try_into().unwrap_or(i64::MAX));
    }

    /// Sets how much of what a collector has taken, and why how many events did not reach it.
    pub fn record_export(&self, sent: &[(&'static str, u64)], dropped: &[(&'static str, u64)]) {
        for (what, count) in sent {
            self.exported.get_or_create(&SentLabels { what }).inner().store(*count, Ordering::Relaxed);
        }
        for (why, count) in dropped {
            self.not_exported.get_or_create(&DroppedLabels { why }).inner().store(*count, Ordering::Relaxed);
        }
    }

    fn record_warning(&self, warning: &Warning) {
        let name = match warning {
            Warning::ListenerNearLimit { .. } => "listener-near-limit",
            Warning::UnreadAfterPeerClosed { .. } => "unread-after-peer-closed",
            Warning::AcceptQueueOverflowed { place, local, process, overflows, .. } => {
                let labels = ListenerLabels::new(place, *local, process.as_ref());
                self.overflowed(labels).inc_by(*overflows);
                "accept-queue-overflowed"
            }
        };
        self.warnings.get_or_create(&WarningLabels { warning: name }).inc();
    }

    /// The counter of a listener, or that of "other" if there are too many.
    fn overflowed(&self, labels: ListenerLabels) -> Counter {
        if let Some(counter) = self.overflows.get(&labels) {
            return counter.clone();
        }
        let mut known = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        let labels = if known.len() >= MAX_LABELS { ListenerLabels::other() } else { labels };
        known.insert(labels.clone());
        self.overflows.get_or_create(&labels).clone()
    }

    fn record_listeners(&self, watcher: &Watcher) {
        self.waiting.clear();
        self.limit.clear();
        let mut there = HashSet::new();
        for (namespace, local, queue, process) in watcher.listeners().take(MAX_LABELS) {
            let place = watcher.place(namespace, process);
            let labels = ListenerLabels::new(&place, Some(local), process);
            self.waiting.get_or_create(&labels).set(queue.waiting.into());
            self.limit.get_or_create(&labels).set(queue.limit.into());
            if let Some(process) = process {
                let key = (namespace, local, process.pid);
                self.announce(key, process, &place, labels);
                there.insert(key);
            }
        }
        // The zero of a listener that is gone: there may be any number of them, one after the other.
        let mut announced = self.announced.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, labels) in announced.extract_if(|key, _| !there.contains(key)) {
            if self.overflows.get(&labels).is_some_and(|counter| counter.get() == 0) {
                self.overflows.remove(&labels);
                self.listeners.lock().unwrap_or_else(PoisonError::into_inner).remove(&labels);
            }
        }
    }

    /// Makes the series of a listener that are to exist before anything has happened.
    fn announce(
        &self,
        key: AnnouncedListener,
        process: &NamedProcess,
        place: &KnownPlace,
        listener: ListenerLabels,
    ) {
        let mut announced = self.announced.lock().unwrap_or_else(PoisonError::into_inner);
        let labels = self.labels.lock().unwrap_or_else(PoisonError::into_inner).len();
        // Half of the label sets are left to resets that do happen.
        if announced.contains_key(&key) || labels + AT_ZERO.len() > MAX_LABELS / 2 {
            return;
        }
        drop(self.overflowed(listener.clone()));
        announced.insert(key, listener);
        for cause in AT_ZERO {
            let (direction, process) = (Direction::Sent.name(), process.name.label());
            let labels = ResetLabels { cause: cause.name(), direction, process, place: place.into() };
            drop(self.resets.get_or_create(&self.bounded(labels)));
        }
    }

    fn milliseconds(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// The labels, or those of "other" if there are too many already.
    fn bounded(&self, mut labels: ResetLabels) -> ResetLabels {
        let mut known = self.labels.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_LABELS && !known.contains(&labels) {
            labels.process = "other".into();
            labels.place = PlaceLabels::default();
        }
        known.insert(labels.clone());
        labels
    }

    fn record_further(&self, labels: &ResetLabels, resets: u32) {
        if resets > 0 {
            self.further.get_or_create(labels).inc_by(resets.into());
        }
    }

    fn record_bytes(&self, reset: &LiveReset, labels: ResetLabels) {
        let counts = [
            ("unread", reset.bytes.unread),
            ("unacknowledged", reset.bytes.unacknowledged),
            ("unsent", reset.bytes.unsent),
        ];
        for (bytes, count) in counts {
            if let Some(count) = count.filter(|count| *count > 0) {
                let labels = ByteLabels { bytes, reset: labels.clone() };
                self.bytes.get_or_create(&labels).inc_by(count.into());
            }
        }
    }

    fn record_counters(&self, counted: &Counted) {
        for (direction, seen) in [("sent", counted.seen_sent), ("received", counted.seen_received)] {
            self.seen.get_or_create(&DirectionLabels { direction }).inner().store(seen, Ordering::Relaxed);
        }
        self.own.inner().store(counted.own_resets, Ordering::Relaxed);
        self.missed.set(counted.missed.try_into().unwrap_or(i64::MAX));
    }

    /// The kernel's counters of the namespaces that there are.
    fn record_places(&self, counted: &Counted, own: &KnownPlace) {
        self.kernel.clear();
        let others = counted.places.iter().map(|CountedPlace { place, kernel }| (place, kernel));
        let all = std::iter::once((own, &counted.kernel)).chain(others);
        let all = all.flat_map(|(place, kernel)| kernel.iter().map(move |counter| (place, counter)));
        for (place, (&counter, &value)) in all.take(MAX_LABELS) {
            let labels = CounterLabels { counter, place: place.into() };
            self.kernel.get_or_create(&labels).inner().store(value, Ordering::Relaxed);
        }
    }

    /// The metrics as OpenMetrics text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &registry);
        text
    }

    /// Serves at `listener` from a thread until the process ends, as [`linger_endpoint::serve`] does: `/metrics`, `/healthz` and
    /// `/`. Returns its address, which tells the port if it was bound to port 0.
    ///
    /// # Errors
    /// Returns the errors of starting the thread.
    pub fn serve(&self, listener: TcpListener) -> io::Result<SocketAddr> {
        let bound = listener.local_addr()?;
        linger_endpoint::serve(listener, EndpointLimits::default(), self.clone())?;
        Ok(bound)
    }
}

impl MetricsSource for Metrics {
    fn metrics(&self) -> String {
        self.text()
    }

    fn is_current(&self) -> bool {
        let silent = self.milliseconds().saturating_sub(self.recorded.load(Ordering::Relaxed));
        Duration::from_millis(silent) < STALE
    }
}
