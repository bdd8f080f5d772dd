//! What each exporter says of itself: its version, and its process by the names that Prometheus' client libraries agreed on.

use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use rustix::process::{Resource, getrlimit};

/// A registry with `linger_build_info` and `process_...`. Metrics of one's own belong into
/// `sub_registry_with_prefix("linger")`.
pub fn registry() -> Registry {
    let mut registry = Registry::default();
    let version = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
    registry.register("linger_build", "The version of this program", version);
    registry.register_collector(Box::new(OwnProcess));
    registry
}

#[derive(Debug)]
struct OwnProcess;

impl Collector for OwnProcess {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let Some(stat) = ProcessStat::parse(&stat) else { return Ok(()) };
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        let cpu = ConstCounter::new(stat.cpu_ticks as f64 / ticks);
        let help = "Processor time of this process, user and system";
        cpu.encode(encoder.encode_descriptor("process_cpu_seconds", help, None, cpu.metric_type())?)?;
        let boot = boot_seconds();
        let gauges = [
            ("process_open_fds", "File descriptors of this process", open_fds()),
            (
                "process_max_fds",
                "The limit of its file descriptors",
                getrlimit(Resource::Nofile).current.map(|max| max as f64),
            ),
            ("process_resident_memory_bytes", "Its resident memory", Some(stat.resident_bytes as f64)),
            ("process_virtual_memory_bytes", "Its virtual memory", Some(stat.virtual_bytes as f64)),
            ("process_threads", "Its threads", Some(stat.threads as f64)),
            (
                "process_start_time_seconds",
                "When it started, in seconds since 1970",
                boot.map(|boot| boot + stat.start_ticks as f64 / ticks),
            ),
        ];
        for (name, help, value) in gauges {
            let Some(value) = value else { continue };
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}

/// What is needed of `/proc/PID/stat`.
#[derive(Debug, PartialEq, Eq)]
struct ProcessStat {
    cpu_ticks: u64,
    threads: u64,
    /// Since boot.
    start_ticks: u64,
    virtual_bytes: u64,
    resident_bytes: u64,
}

impl ProcessStat {
    fn parse(text: &str) -> Option<Self> {
        // The name before the last parenthesis may have spaces and parentheses itself. The state, field 3, is the first after it.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(Self {
            cpu_ticks: number(14)? + number(15)?,
            threads: number(20)?,
            start_ticks: number(22)?,
            virtual_bytes: number(23)?,
            resident_bytes: number(24)?.saturating_mul(rustix::param::page_size() as u64),
        })
    }
}

/// The descriptor with which the directory itself is read does not count.
fn open_fds() -> Option<f64> {
    Some(fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1) as f64)
}

/// The time of the boot, in seconds since 1970.
fn boot_seconds() -> Option<f64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    #[test]
    fn a_name_with_parentheses_moves_no_field() {
        let text = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 50 60 7 8 20 0 9 0 1000 4096000 25 18446744073709551615";
        let stat = ProcessStat::parse(text).unwrap();
        let page = rustix::param::page_size() as u64;
        let (cpu_ticks, threads, start_ticks) = (110, 9, 1_000);
        let expected = ProcessStat {
            cpu_ticks,
            threads,
            start_ticks,
            virtual_bytes: 4_096_000,
            resident_bytes: 25 * page,
        };
        assert_eq!(stat, expected);
        assert_eq!(ProcessStat::parse("7 (a) S 1 7"), None);
    }

    #[test]
    fn it_tells_its_version_and_its_process() {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry()).unwrap();
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.unwrap_or_else(|| panic!("{name}: {text}")).parse::<f64>().unwrap()
        };
        assert!(
            text.contains(&format!("linger_build_info{{version=\"{}\"}} 1\n", env!("CARGO_PKG_VERSION"))),
            "{text}"
        );
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let started = value("process_start_time_seconds");
        assert!(started > now - 3_600.0 && started < now + 2.0, "{started} {now}");
        let before = value("process_open_fds");
        assert!(before >= 3.0 && value("process_max_fds") >= before && value("process_threads") >= 1.0);
        assert!(
            value("process_resident_memory_bytes") > 100_000.0 && value("process_cpu_seconds_total") >= 0.0
        );
        let _more = [fs::File::open("/dev/null").unwrap(), fs::File::open("/dev/null").unwrap()];
        assert!(open_fds().unwrap() >= before + 1.0);
    }
}
