//! `linger watch --otlp`: which collector, how the process is started that speaks to it, and what is said of what it loses.
//!
//! That process is a child that is forked before anything is open. It has no capability, and may do no more than connect to the
//! collector: what parses packets and events may not connect at all.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Args;
use linger_otlp::{
    Endpoint, Exporter, MetricNaming, OtlpProtocol, SendOptions, TrustedRoots, send, try_once,
};
use linger_untrusted::Untrusted;
use linger_watch::export::Metrics;
use linger_watch::{Apart, Notice, OwnClient, confine_client};
use percent_encoding::percent_decode_str;

use crate::exit;
use crate::output::say;

use super::events;

/// How often the counts are sent, unless OTEL_METRIC_EXPORT_INTERVAL says otherwise.
const EVERY: Duration = Duration::from_secs(60);
/// Longest wait at the end for a collector that does not answer; the child's own is shorter.
const AT_END: Duration = Duration::from_secs(6);
/// How many different troubles are told.
const TOLD: usize = 5;

/// Where events and counts are sent by OTLP.
#[derive(Args, Debug)]
pub(super) struct OtlpTo {
    /// Send each event, and the counts each minute, to the OpenTelemetry collector at this URL (http://HOST:4318, https, grpc://HOST:4317, grpcs), and to no other output unless asked for. The OTEL_EXPORTER_OTLP_... variables fill in what is left out, the URL too.
    #[arg(long, value_name = "URL", num_args = 0..=1, default_missing_value = "")]
    otlp: Option<String>,
    /// How a collector at an http or https URL is spoken to.
    #[arg(long, value_name = "PROTOCOL", requires = "otlp", value_parser = [HTTP, GRPC])]
    otlp_protocol: Option<String>,
}

const HTTP: &str = "http/protobuf";
const GRPC: &str = "grpc";

/// What the process says that asks a collector once, if all is well.
const TAKEN: &str = "taken";

/// A collector that was asked once.
#[derive(Debug)]
pub(super) struct TriedCollector {
    pub(super) name: String,
    /// What went wrong.
    pub(super) trouble: Option<String>,
}

/// What is wrong with an option or a variable.
struct BadSetting(String);

impl OtlpTo {
    pub(super) fn is_asked_for(&self) -> bool {
        self.otlp.is_some()
    }

    fn settings_of_user(&self) -> Result<Option<(SendOptions, Duration)>, ExitCode> {
        let settings = self.otlp.as_ref().map(|url| self.settings(url, &variable)).transpose();
        settings.map_err(|BadSetting(why)| exit::fail(exit::BAD_USAGE, format_args!("{why}")))
    }

    /// Sends the collector a request without events, from a process as confined as the one that sends later.
    pub(super) fn check(&self) -> Result<Option<TriedCollector>, ExitCode> {
        let Some((options, _)) = self.settings_of_user()? else { return Ok(None) };
        let (port, name) = (options.endpoint.port, options.endpoint.to_string());
        let started = Apart::start(c"linger-otlp", move |mut socket| {
            confine_client(port);
            let said = try_once(&options).map_or_else(|error| error.to_string(), |()| TAKEN.to_owned());
            // Whoever asked sees nothing of a process that cannot say it.
            let _ = socket.write_all(said.as_bytes());
        });
        let said = started.and_then(|(process, mut socket)| {
            let mut said = String::new();
            socket.read_to_string(&mut said)?;
            process.reap();
            Ok(said)
        });
        let said =
            said.map_err(|error| exit::io("cannot start the process that speaks to the collector", &error))?;
        let trouble = match said.as_str() {
            TAKEN => None,
            "" => Some("the process that speaks to it has ended".to_owned()),
            said => Some(Untrusted::from(said).terminal().to_string()),
        };
        Ok(Some(TriedCollector { name, trouble }))
    }

    /// Starts the process that sends. To be called first of all: it shall have nothing that is opened later.
    pub(super) fn start(&self) -> Result<Option<Otlp>, ExitCode> {
        let Some((options, every)) = self.settings_of_user()? else { return Ok(None) };
        let (port, name) = (options.endpoint.port, options.endpoint.to_string());
        let started = Apart::start(c"linger-otlp", move |socket| {
            confine_client(port);
            // What it cannot send it counts; that it has ended is seen at the socket.
            let _ = send(socket, options);
        });
        let started = started.and_then(|(process, socket)| Ok((process, Exporter::new(socket)?)));
        let (process, exporter) = started
            .map_err(|error| exit::io("cannot start the process that speaks to the collector", &error))?;
        tracing::info!(pid = process.pid(), endpoint = %name, "the process linger-otlp sends events and counts");
        Ok(Some(Otlp {
            exporter,
            process,
            name,
            port,
            every,
            next: Instant::now(),
            told: Vec::new(),
            is_full: false,
            missed: (0, 0),
        }))
    }

    /// What is to be sent, where and how; and how often the counts.
    fn settings(
        &self,
        url: &str,
        variable: &impl Fn(&str) -> Option<String>,
    ) -> Result<(SendOptions, Duration), BadSetting> {
        let of = |name: &str, error: &dyn std::fmt::Display| BadSetting(format!("{name}: {error}"));
        let (source, url) = if url.is_empty() {
            let name = "OTEL_EXPORTER_OTLP_ENDPOINT";
            let missing = || BadSetting(format!("--otlp: give a URL, or set {name}"));
            (name, variable(name).ok_or_else(missing)?)
        } else {
            ("--otlp", url.to_owned())
        };
        // A scheme that says it needs no variable for it.
        let says_it = url.starts_with("grpc");
        let given = self.otlp_protocol.clone().map(|name| ("--otlp-protocol", name));
        let set = || Some(("OTEL_EXPORTER_OTLP_PROTOCOL", variable("OTEL_EXPORTER_OTLP_PROTOCOL")?));
        let protocol = match given.or_else(|| set().filter(|_| !says_it)) {
            None => None,
            Some((_, name)) if name == HTTP => Some(OtlpProtocol::HttpProtobuf),
            Some((_, name)) if name == GRPC => Some(OtlpProtocol::Grpc),
            Some((source, name)) => {
                return Err(of(source, &format_args!("{name:?} is not spoken; {HTTP} and {GRPC} are")));
            }
        };
        let endpoint = Endpoint::parse(&url, protocol).map_err(|error| of(source, &error))?;
        let naming = MetricNaming::new(events::metric_name, events::label_attributes);
        let scope = ("linger".to_owned(), env!("CARGO_PKG_VERSION").to_owned());
        let mut options = SendOptions::new(endpoint, scope, now_ns(), naming);
        options.resource = resource(variable).map_err(|error| of("OTEL_RESOURCE_ATTRIBUTES", &error))?;
        if let Some(headers) = variable("OTEL_EXPORTER_OTLP_HEADERS") {
            let bad = |error: &dyn std::fmt::Display| of("OTEL_EXPORTER_OTLP_HEADERS", error);
            let headers = pairs(&headers).map_err(|error| bad(&error))?;
            options.headers = headers.into_iter().collect();
            options.check_headers().map_err(|error| bad(&error))?;
        }
        if options.endpoint.is_encrypted {
            let roots = match variable("OTEL_EXPORTER_OTLP_CERTIFICATE") {
                Some(file) => TrustedRoots::of_file(Path::new(&file)),
                None => TrustedRoots::of_system(),
            };
            options.roots = Some(roots.map_err(|error| of("OTEL_EXPORTER_OTLP_CERTIFICATE", &error))?);
        }
        let milliseconds = |name: &str, usual: Duration| {
            let Some(text) = variable(name) else { return Ok(usual) };
            let count = u64::from_str(&text).ok().filter(|count| (1..=86_400_000).contains(count));
            let bad = || of(name, &format_args!("{text:?} is no number of milliseconds, 1 to 86400000"));
            count.map(Duration::from_millis).ok_or_else(bad)
        };
        options.timeout = milliseconds("OTEL_EXPORTER_OTLP_TIMEOUT", options.timeout)?;
        let every = milliseconds("OTEL_METRIC_EXPORT_INTERVAL", EVERY)?;
        Ok((options, every))
    }
}

/// A variable of the environment that says something.
fn variable(name: &str) -> Option<String> {
    let value = std::env::var_os(name)?.to_string_lossy().into_owned();
    (!value.is_empty()).then_some(value)
}

/// What is said of this program and its host.
fn resource(variable: &impl Fn(&str) -> Option<String>) -> Result<BTreeMap<String, String>, String> {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let mut resource = BTreeMap::from([
        ("service.name".to_owned(), "linger-watch".to_owned()),
        ("service.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ("host.name".to_owned(), host),
        ("os.type".to_owned(), "linux".to_owned()),
    ]);
    resource.extend(
        variable("OTEL_RESOURCE_ATTRIBUTES").map(|text| pairs(&text)).transpose()?.unwrap_or_default(),
    );
    resource.extend(variable("OTEL_SERVICE_NAME").map(|name| ("service.name".to_owned(), name)));
    Ok(resource)
}

/// `name=value,name=value`, with percent escapes in the values. Errors do not repeat them: they may be secret.
fn pairs(text: &str) -> Result<BTreeMap<String, String>, String> {
    let pair = |(at, pair): (usize, &str)| {
        let bad = || format!("part {} is not NAME=VALUE", at + 1);
        let (name, value) = pair.split_once('=').ok_or_else(bad)?;
        let value = percent_decode_str(value.trim()).decode_utf8().map_err(|_| bad())?;
        let name = name.trim();
        let is_bad = name.is_empty() || value.contains(['\r', '\n', '\0']);
        if is_bad { Err(bad()) } else { Ok((name.to_owned(), value.into_owned())) }
    };
    text.split(',').enumerate().filter(|(_, part)| !part.trim().is_empty()).map(pair).collect()
}

fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_nanos().try_into().unwrap_or(u64::MAX)
}

/// The process that sends, and what is handed to it.
#[derive(Debug)]
pub(super) struct Otlp {
    exporter: Exporter,
    process: Apart,
    /// The collector, and its port.
    name: String,
    port: u16,
    /// How often the counts are sent, and when next.
    every: Duration,
    next: Instant,
    /// Troubles that were told.
    told: Vec<String>,
    /// Whether was told that events are dropped.
    is_full: bool,
    /// What was missed by the last event that said so: resets, and events of the kernel.
    missed: (u64, u64),
}

impl Otlp {
    /// Whose connections are not told: to tell of a collector that is not there would be the next try to tell it.
    pub(super) fn own(&self) -> OwnClient {
        OwnClient::new(self.process.pid().unsigned_abs(), self.port)
    }

    /// Hands over an event for each notice that has a line, and from time to time the counts. Never waits.
    pub(super) fn tell(&mut self, notices: &[Notice], metrics: &Metrics, is_last: bool) {
        for event in
            notices.iter().filter(|notice| says_more(&mut self.missed, notice)).filter_map(events::event)
        {
            self.exporter.tell(&event);
        }
        self.exporter.turn();
        self.count(metrics);
        if is_last || Instant::now() >= self.next {
            self.next = Instant::now() + self.every;
            self.exporter.tell_metrics(&metrics.text(), now_ns());
            self.exporter.turn();
        }
        self.complain();
    }

    fn count(&self, metrics: &Metrics) {
        let counts = self.exporter.counts();
        metrics
            .record_export(&[("events", counts.sent), ("metrics", counts.metrics_sent)], &counts.dropped());
    }

    /// Says what is wrong: each trouble once, and at once that events are dropped.
    fn complain(&mut self) {
        let counts = self.exporter.counts();
        let name = &self.name;
        if self.exporter.has_ended() && !self.told.iter().any(String::is_empty) {
            self.told.push(String::new());
            say!(
                "linger: the process that speaks to the collector (linger-otlp) has ended: nothing is sent any more; start it again"
            );
        }
        let trouble = counts.trouble().map(|trouble| trouble.terminal().to_string());
        if let Some(trouble) = trouble.filter(|new| self.told.len() < TOLD && !self.told.contains(new)) {
            say!("linger: the collector at {name}: {trouble}");
            self.told.push(trouble);
        }
        let dropped: u64 = counts.dropped().iter().map(|(_, count)| count).sum();
        if dropped > 0 && !std::mem::replace(&mut self.is_full, true) {
            say!("linger: events do not reach the collector at {name}: they are counted, and dropped");
        }
    }

    /// Waits a bounded time for what is left, and says what did not reach the collector.
    pub(super) fn finish(self) {
        let counts = self.exporter.finish(AT_END);
        self.process.reap();
        let dropped: Vec<String> = counts
            .dropped()
            .iter()
            .filter(|(_, count)| *count > 0)
            .map(|(why, count)| format!("{count} {why}"))
            .collect();
        if dropped.is_empty() {
            return;
        }
        let last = counts
            .trouble()
            .map_or(String::new(), |trouble| format!("; the last trouble: {}", trouble.terminal()));
        say!(
            "linger: of the events {} reached the collector at {}, and not {}{last}",
            counts.sent,
            self.name,
            dropped.join(", ")
        );
    }
}

/// Whether a notice says what no event has said before. Counters come with every change, of which tries to send make some.
fn says_more(told: &mut (u64, u64), notice: &Notice) -> bool {
    let Notice::Counters(counted) = notice else { return true };
    let now = (counted.missed, counted.events_lost);
    std::mem::replace(told, now) != now
}

#[cfg(test)]
#[path = "otlp_tests.rs"]
mod tests;
