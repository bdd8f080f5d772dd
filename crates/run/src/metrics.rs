//! Serves the counts in OpenMetrics format over HTTP.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use linger::{Budget, Closer, Policy};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::{RunError, RunReport};

type ReportSource = Arc<dyn Fn() -> RunReport + Send + Sync>;

/// Listens at the address.
pub(crate) fn listen(address: SocketAddr) -> Result<TcpListener, RunError> {
    TcpListener::bind(address).map_err(|source| RunError::Metrics { address, source })
}

/// Scrapers that may linger at a time.
const SCRAPERS: usize = 16;

/// Starts a thread that serves the report until the process ends.
///
/// Scrapers have a closer of their own: they are not the program's clients, so they must not be in its counts.
pub(crate) fn serve(listener: TcpListener, source: ReportSource) -> io::Result<()> {
    let mut budget = Budget::default();
    budget.sockets = SCRAPERS;
    let closer = Closer::new(budget)?;
    let mut registry = Registry::with_prefix("linger");
    registry.register_collector(Box::new(Reports(source)));
    let task = move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            // A scraper that sends nothing must not delay the next one for long.
            let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
            let _ = stream.set_write_timeout(Some(Duration::from_secs(2)));
            // Every request gets the metrics. The rest of the request is drained by the lingering close.
            let _ = stream.read(&mut [0; 2048]);
            let mut body = String::new();
            let _ = text::encode(&mut body, &registry);
            let head = "HTTP/1.1 200 OK\r\nConnection: close\r\n\
                        Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n";
            let _ = write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len());
            closer.close(stream, &Policy::short());
        }
    };
    thread::Builder::new().name("linger-metrics".into()).spawn(task).map(drop)
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
