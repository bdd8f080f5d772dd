//! Serves the counts in OpenMetrics format over HTTP.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use linger_endpoint::{EndpointLimits, MetricsSource};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::{Coverage, CoveredListener, RunError, RunReport};

type ReportSource = Arc<dyn Fn() -> RunReport + Send + Sync>;
type CoverageSource = Arc<dyn Fn() -> Coverage + Send + Sync>;

/// Listens at the address.
pub(crate) fn listen(address: SocketAddr) -> Result<TcpListener, RunError> {
    TcpListener::bind(address).map_err(|source| RunError::Metrics { address, source })
}

/// Scrapers that are served at a time, and that may linger: the descriptors are for the program's connections.
const SCRAPERS: usize = 16;

/// Starts a thread that serves the report and the coverage until the process ends.
///
/// Scrapers have a closer of their own: they are not the program's clients, so they must not be in its counts.
pub(crate) fn serve(listener: TcpListener, source: ReportSource, coverage: CoverageSource) -> io::Result<()> {
    let mut registry = linger_endpoint::registry();
    let own = registry.sub_registry_with_prefix("linger");
    own.register_collector(Box::new(Reports(source)));
    own.register_collector(Box::new(Listeners(coverage)));
    let mut limits = EndpointLimits::default();
    (limits.peers, limits.lingering) = (2 * SCRAPERS, SCRAPERS);
    linger_endpoint::serve(listener, limits, Scraped(registry))
}

/// What scrapers get. The collectors read the counts as they are then.
struct Scraped(Registry);

impl MetricsSource for Scraped {
    fn metrics(&self) -> String {
        let mut body = String::new();
        // Writing to a string cannot fail.
        let _ = text::encode(&mut body, &self.0);
        body
    }
}

/// The counts that can fall again.
const GAUGES: [&str; 3] = ["lingering", "listeners", "listeners_covered"];

struct Reports(ReportSource);

impl std::fmt::Debug for Reports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reports").finish_non_exhaustive()
    }
}

impl Collector for Reports {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        for (name, help, value) in (self.0)().named() {
            if GAUGES.contains(&name) {
                let gauge = ConstGauge::new(value as i64);
                gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
            } else {
                let counter = ConstCounter::new(value);
                counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
            }
        }
        Ok(())
    }
}

/// Which listeners are covered, and in which programs they are not.
struct Listeners(CoverageSource);

impl std::fmt::Debug for Listeners {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listeners").finish_non_exhaustive()
    }
}

impl Collector for Listeners {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let help =
            "Whether the closes of a program that has this listening socket are covered, by what, or why not";
        let mut family = encoder.encode_descriptor("listener_covered", help, None, MetricType::Gauge)?;
        for (labels, covered) in labelled(&(self.0)()) {
            ConstGauge::new(covered).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

type Labels = [(&'static str, String); 4];

/// One time series for each listener and program name, so that all workers of one server are one series.
fn labelled(coverage: &Coverage) -> BTreeMap<Labels, i64> {
    let label = |one: &CoveredListener| {
        let (by, reason) = match one.covered {
            Ok(via) => (via.name(), ""),
            Err(gap) => ("", gap.reason()),
        };
        let labels = [
            ("address", one.address.label()),
            ("program", one.name.label()),
            ("by", by.to_owned()),
            ("reason", reason.to_owned()),
        ];
        (labels, i64::from(one.covered.is_ok()))
    };
    coverage.listeners.iter().map(label).collect()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::time::Duration;

    use linger::Snapshot;
    use linger_untrusted::Untrusted;

    use super::*;
    use crate::tally::Tally;
    use crate::{Gap, ProgramKind, Via};

    fn scrape(address: SocketAddr) -> String {
        let mut scraper = TcpStream::connect(address).unwrap();
        scraper.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        scraper.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut answer = String::new();
        scraper.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn the_counts_are_served_as_they_are_at_that_moment() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let tally = Arc::new(Tally::default());
        let own = Arc::clone(&tally);
        let source = move || RunReport::new(own.all(), 0, &Snapshot::default(), &own).with_coverage((3, 2));
        let one = |process, name: &str, covered| CoveredListener {
            address: Untrusted::from(b"*:80".as_slice()),
            inode: 1,
            process,
            name: Untrusted::from(name.as_bytes()),
            covered,
        };
        let (ours, theirs) = (Ok(Via::Preload), Err(Gap::Kind(ProgramKind::Static)));
        let listeners = vec![one(7, "srv", ours), one(8, "srv", ours), one(9, "a\"b", theirs)];
        let coverage = Coverage { listeners };
        serve(listener, Arc::new(source), Arc::new(move || coverage.clone())).unwrap();
        for number in [1, 3] {
            tally.count(linger_preload::protocol::Count::Shared, number);
            let answer = scrape(address);
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("content-length: {}", body.len())), "{head}");
            let shared = if number == 1 { 1 } else { 4 };
            // What can fall is a gauge, and its name has no ending.
            for line in [
                format!("linger_shared_total {shared}"),
                format!("linger_closes_total {shared}"),
                "# TYPE linger_listeners gauge".to_owned(),
                "linger_listeners 3".to_owned(),
                "linger_listeners_covered 2".to_owned(),
                "# TYPE linger_lost counter".to_owned(),
                "# TYPE linger_listener_covered gauge".to_owned(),
                "linger_listener_covered{address=\"*:80\",program=\"srv\",by=\"preload\",reason=\"\"} 1".to_owned(),
                "linger_listener_covered{address=\"*:80\",program=\"a\\\"b\",by=\"\",reason=\"is linked statically\"} 0"
                    .to_owned(),
                "# EOF".to_owned(),
            ] {
                assert_eq!(body.lines().filter(|other| **other == line).count(), 1, "{line}: {body}");
            }
        }
        let error = listen(address).unwrap_err();
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }
}
