//! The closer's numbers for Prometheus.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use super::Closer;

/// Exports the [snapshot](Closer::snapshot) at the time of each scrape, under names that begin with `linger_`.
///
/// ```
/// # let closer = linger::Closer::new(linger::Budget::default())?;
/// let mut registry = prometheus_client::registry::Registry::default();
/// registry.register_collector(Box::new(closer.clone()));
/// let mut text = String::new();
/// prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
/// assert!(text.contains("linger_ended_total{how=\"peer_closed\"} 0"));
/// # Ok::<(), std::io::Error>(())
/// ```
impl Collector for Closer {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let now = self.snapshot();
        let mut gauge = |name, help, value: u64| {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
        };
        gauge("linger_lingering", "Sockets whose close is under way", now.lingering)?;
        gauge(
            "linger_lingering_acknowledged",
            "Those of them whose peers have acknowledged everything",
            now.lingering_acknowledged,
        )?;
        gauge("linger_staying", "Sockets that are open behind a close that has ended", now.staying)?;
        let mut counter = |name, help, unit: Option<&Unit>, value: u64| {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, unit, counter.metric_type())?)
        };
        counter("linger_handed_over", "Sockets taken over", None, now.handed_over)?;
        counter(
            "linger_undelivered",
            "Closes after which not every byte was known to have arrived",
            None,
            now.undelivered,
        )?;
        let bytes = Some(&Unit::Bytes);
        counter("linger_discarded", "Received from peers and discarded", bytes, now.discarded)?;
        counter("linger_unacknowledged", "Written and never acknowledged", bytes, now.unacknowledged)?;
        let how = "Closes by how they ended";
        let none = ConstCounter::new(0u64);
        let mut family = encoder.encode_descriptor("linger_ended", how, None, none.metric_type())?;
        for (name, value) in now.ended.iter() {
            let labels = [("how", name)];
            ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::{Budget, Policy};

    #[test]
    fn each_number_of_a_snapshot_is_exported() {
        let closer = Closer::new(Budget::default()).unwrap();
        for _ in 0..3 {
            closer.close(std::net::UdpSocket::bind("127.0.0.1:0").unwrap(), &Policy::default());
        }
        let mut registry = prometheus_client::registry::Registry::default();
        registry.register_collector(Box::new(closer));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let numbers: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let ended = ["peer_closed", "acknowledged", "peer_reset", "timed_out_idle", "timed_out_total"]
            .into_iter()
            .chain(["timed_out_kernel", "limit", "unwaited", "aborted", "evicted", "gone", "failed"])
            .map(|how| {
                format!("linger_ended_total{{how=\"{how}\"}} {}", if how == "failed" { 3 } else { 0 })
            });
        let wanted: Vec<_> = [
            "linger_lingering 0",
            "linger_lingering_acknowledged 0",
            "linger_staying 0",
            "linger_handed_over_total 3",
            "linger_undelivered_total 3",
            "linger_discarded_bytes_total 0",
            "linger_unacknowledged_bytes_total 0",
        ]
        .into_iter()
        .map(str::to_owned)
        .chain(ended)
        .collect();
        assert_eq!(numbers, wanted);
    }
}
