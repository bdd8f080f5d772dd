//! `linger watch --otlp`: what a collector gets of a real reset, and from whom. Needs the right to watch, usually root.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use common::program::{interrupt, linger};
use linger_testing::servers::{Collector, attribute, log_records, metrics};
use linger_testing::skip;
use serde_json::Value;

const BOUND: Duration = Duration::from_secs(60);

/// A watcher of one port that sends to a collector.
struct Watch {
    child: Child,
    said: Receiver<String>,
    listener: TcpListener,
}

impl Watch {
    fn start(options: &[&str], variables: &[(&str, &str)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port().to_string();
        let mut command = linger(&["watch", "-v", "--port", &port]);
        command.args(options).envs(variables.iter().copied());
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, said) = channel();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        std::thread::spawn(move || lines.for_each(|line| drop(sender.send(line))));
        Self { child, said, listener }
    }

    /// The next line that it says with these words. `None`, after a skip, if it cannot watch.
    fn line(&mut self, words: &str) -> Option<String> {
        let mut all = String::new();
        loop {
            match self.said.recv_timeout(BOUND) {
                Ok(line) if line.contains(words) => return Some(line),
                Ok(line) => all.extend([&line, "\n"]),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("no line with {words:?}: {all}"),
            }
        }
        // Its standard error is closed; it is about to end, and may not have.
        let status = self.child.wait().unwrap().code();
        assert_eq!(status, Some(4), "no line with {words:?}: {all}");
        skip("live tracepoints", all.trim());
        None
    }

    /// A connection that is closed with six unread bytes; the client's address.
    fn reset(&self) -> SocketAddr {
        let mut client = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
        let (server, remote) = self.listener.accept().unwrap();
        client.write_all(b"unread").unwrap();
        server.peek(&mut [0]).unwrap();
        drop(server);
        remote
    }

    /// What it said from here to its end, and its status.
    fn stop(mut self) -> (String, Option<i32>) {
        interrupt(&self.child);
        let said: Vec<String> = self.said.iter().collect();
        (said.join("\n"), self.child.wait().unwrap().code())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The pid that a line of `-v` ends with.
fn pid(line: &str) -> u32 {
    let words = line.split_once("pid=").unwrap().1;
    words.split(' ').next().unwrap().parse().unwrap()
}

fn status(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap()
}

fn arrives(kind: &str, url: impl Fn(u16) -> String) {
    let Some(collector) = Collector::start(kind, &[]) else { return };
    let url = url(collector.port);
    let variables =
        [("OTEL_RESOURCE_ATTRIBUTES", "k8s.node.name=n1"), ("OTEL_METRIC_EXPORT_INTERVAL", "500")];
    let mut watch = Watch::start(&["--otlp", &url], &variables);
    let Some(line) = watch.line("linger-otlp") else { return };
    let sender = pid(&line);
    if watch.line("has no capability").is_none() {
        return;
    }
    // What speaks to the collector has no capability, and is confined.
    let rights = status(sender);
    for line in [
        "Name:\tlinger-otlp",
        "CapPrm:\t0000000000000000",
        "CapEff:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
    ] {
        assert!(rights.lines().any(|found| found == line), "{line}: {rights}");
    }
    // The first counts are sent at once: the listener's at zero, before anything has happened.
    let (local, own) = (watch.listener.local_addr().unwrap(), std::process::id());
    let before = point(&collector, |point| point["as_int"] == "0" || point["as_int"].is_null());
    let remote = watch.reset();
    let (mut sent, mut received) = (None, None);
    let mut counted = None;
    while sent.is_none() || received.is_none() || counted.is_none() {
        let request = collector.next().expect("both ends and their count");
        let resource = match request["signal"].as_str() {
            Some("logs") => &request["request"]["resource_logs"][0]["resource"],
            _ => &request["request"]["resource_metrics"][0]["resource"],
        };
        let named = |name: &str| attribute(resource, "attributes", name);
        assert_eq!((named("service.name"), named("k8s.node.name")), ("linger-watch".into(), "n1".into()));
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        assert_eq!(named("host.name"), host.trim());
        for record in log_records(&request) {
            match attribute(&record, "attributes", "linger.direction").as_str() {
                Some("sent") => assert!(sent.replace(record).is_none(), "one reset, one record"),
                Some("received") => assert!(received.replace(record).is_none(), "one reset, one record"),
                _ => {}
            }
        }
        counted = counted.or_else(|| point_in(&request, |point| point["as_int"] == "1"));
    }
    let (sent, received, counted) = (sent.unwrap(), received.unwrap(), counted.unwrap());
    let name = std::fs::read_to_string("/proc/self/comm").unwrap();
    let namespace = std::fs::read_link("/proc/self/ns/net").unwrap().to_string_lossy().into_owned();
    let namespace = namespace.trim_start_matches("net:[").trim_end_matches(']').to_owned();
    for (record, here, there, role) in [(&sent, local, remote, "closed"), (&received, remote, local, "held")]
    {
        let value = |name: &str| attribute(record, "attributes", name);
        let port = |address: SocketAddr| Value::from(address.port().to_string());
        assert_eq!(record["event_name"], "linger.reset");
        assert_eq!(
            (value("network.local.address"), value("network.local.port")),
            ("127.0.0.1".into(), port(here))
        );
        assert_eq!(
            (value("network.peer.address"), value("network.peer.port")),
            ("127.0.0.1".into(), port(there))
        );
        assert_eq!((value("network.transport"), value("network.type")), ("tcp".into(), "ipv4".into()));
        assert_eq!(value("process.pid"), own.to_string());
        assert_eq!(value("process.executable.name"), name.trim_end());
        assert_eq!(
            (value("linger.cause"), value("linger.process_role")),
            ("closed-with-unread-data".into(), role.into())
        );
        assert_eq!(
            (value("linger.connections"), value("linger.network_namespace")),
            ("1".into(), namespace.clone().into())
        );
        let told = record["body"]["string_value"].as_str().unwrap();
        assert!(told.contains(&format!("{here} -> {there} closed-with-unread-data")), "{told}");
        let time: u64 = record["time_unix_nano"].as_str().unwrap().parse().unwrap();
        let seconds: f64 = told.split(' ').next().unwrap().parse().unwrap();
        assert!((time as f64 / 1e9 - seconds).abs() < 1e-5, "{time} {told}");
    }
    assert_eq!(attribute(&sent, "attributes", "linger.unread_bytes"), "6");
    // Only the end that closed is at fault.
    assert_eq!((&sent["severity_text"], &received["severity_text"]), (&"WARN".into(), &"INFO".into()));
    // The same series that was at zero, since the same start, with a way to the reset.
    assert_eq!(
        (&counted["attributes"], &counted["start_time_unix_nano"]),
        (&before["attributes"], &before["start_time_unix_nano"])
    );
    let exemplar = &counted["exemplars"][0];
    assert_eq!(attribute(exemplar, "filtered_attributes", "network.peer.port"), remote.port().to_string());
    assert_eq!(attribute(exemplar, "filtered_attributes", "process.pid"), own.to_string());
    assert_eq!(exemplar["as_int"], "1");
    // At its end the last counts are sent, and nothing is missing.
    let (said, status) = watch.stop();
    assert_eq!(status, Some(0), "{said}");
    assert!(!said.contains("the collector"), "{said}");
    assert!(!Path::new(&format!("/proc/{sender}")).exists(), "it ends with the watcher");
}

/// The point of this test's own resets that were sent, among the metrics of a request.
fn point_in(request: &Value, holds: impl Fn(&Value) -> bool) -> Option<Value> {
    let resets = metrics(request).into_iter().find(|metric| metric["name"] == "linger.resets")?;
    let name = std::fs::read_to_string("/proc/self/comm").unwrap();
    let own = [
        ("linger.cause", "closed-with-unread-data"),
        ("linger.direction", "sent"),
        ("process.executable.name", name.trim_end()),
    ];
    let points = resets["sum"]["data_points"].as_array()?.clone();
    let is_own =
        |point: &Value| own.iter().all(|(name, value)| attribute(point, "attributes", name) == *value);
    points.into_iter().find(|point| is_own(point) && holds(point))
}

fn point(collector: &Collector, holds: impl Fn(&Value) -> bool) -> Value {
    loop {
        if let Some(point) = point_in(&collector.next_of("metrics"), &holds) {
            return point;
        }
    }
}

#[test]
fn a_reset_arrives_over_http_with_what_the_kernel_said() {
    arrives("http", |port| format!("http://127.0.0.1:{port}"));
}

#[test]
fn a_reset_arrives_over_grpc_with_what_the_kernel_said() {
    arrives("grpc", |port| format!("grpc://127.0.0.1:{port}"));
}

/// A collector that takes connections and never answers: the watcher tells each reset all the same, no process grows, and what is lost
/// is counted and said.
#[test]
fn a_collector_that_hangs_delays_no_reset() {
    const RESETS: u64 = 4_000;
    let hanging = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", hanging.local_addr().unwrap());
    let mut watch = Watch::start(&["--otlp", &url, "--prometheus", "127.0.0.1:0"], &[]);
    let Some(line) = watch.line("linger-otlp") else { return };
    let sender = pid(&line);
    let Some(line) = watch.line("serving http://") else { return };
    let address = line.split_once("http://").unwrap().1.strip_suffix("/metrics").unwrap().to_owned();
    let scrape = || {
        let mut stream = TcpStream::connect(&address).unwrap();
        write!(stream, "GET /metrics HTTP/1.0\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    let count = |text: &str, labels: &str| -> u64 {
        let lines = text.lines().filter_map(|line| line.strip_prefix(labels));
        lines.filter_map(|rest| rest.split_once("} ")?.1.split(' ').next()?.parse::<u64>().ok()).sum()
    };
    for _ in 0..RESETS {
        watch.reset();
    }
    let sent = "linger_resets_total{cause=\"closed-with-unread-data\",direction=\"sent\"";
    let until = Instant::now() + BOUND;
    let text = loop {
        let text = scrape();
        // Events that the kernel lost, on a machine that is busy with others, are no matter of this test.
        let lost = text.lines().find_map(|line| line.strip_prefix("linger_events_lost_total "));
        let is_told = count(&text, sent) == RESETS || lost.is_some_and(|lost| lost != "0");
        if is_told && count(&text, "linger_otlp_dropped_total{why=\"queue-full\"") > 0 {
            break text;
        }
        assert!(Instant::now() < until, "{text}");
        std::thread::sleep(Duration::from_millis(100));
    };
    assert_eq!(count(&text, "linger_otlp_sent_total{what=\"events\""), 0);
    for pid in [sender, watch.child.id()] {
        let status = status(pid);
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
        assert!(peak < 96 << 10, "{pid}: {peak} KiB");
    }
    // At its end nothing is waited for but a moment.
    let (said, status) = watch.stop();
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("events do not reach the collector"), "{said}");
    assert!(said.contains("of the events 0 reached the collector at http://127.0.0.1:"), "{said}");
    assert!(said.contains("queue-full") && said.contains("given-up"), "{said}");
}

/// A client that is told of like any other.
const OTHERS: usize = 20;

/// Everything that is told of the collector's port while it resets each try to reach it: that of others alone. `others` makes one.
fn own_tries_are_not_told(collector: SocketAddr, other: impl Fn()) {
    let (url, port) = (format!("http://{collector}"), collector.port().to_string());
    let mut watch = Watch::start(&["--json", "--port", &port, "--otlp", &url], &[]);
    let out = BufReader::new(watch.child.stdout.take().unwrap());
    let told = std::thread::spawn(move || {
        let lines = out.lines().map_while(Result::ok);
        lines.map(|line| serde_json::from_str::<Value>(&line).unwrap()).collect::<Vec<_>>()
    });
    if watch.line("has no capability").is_none() {
        return;
    }
    // The counts at the start, and the event of a reset: two tries, and those that follow.
    watch.reset();
    assert!(watch.line(&format!("linger: the collector at {url}: ")).is_some());
    for _ in 0..OTHERS {
        other();
        std::thread::sleep(Duration::from_millis(50));
    }
    let (said, status) = watch.stop();
    assert_eq!(status, Some(0), "{said}");
    // By the client's end.
    let mut ends = std::collections::BTreeMap::<String, Vec<Value>>::new();
    for line in told.join().unwrap().into_iter().filter(|line| line["type"] == "reset") {
        let [local, remote] = ["local", "remote"].map(|end| line[end].as_str().unwrap().to_owned());
        let client = match () {
            () if remote == collector.to_string() => local,
            () if local == collector.to_string() => remote,
            () => continue,
        };
        ends.entry(client).or_default().push(line);
    }
    assert_eq!(ends.len(), OTHERS, "{ends:#?}");
    for (client, lines) in &ends {
        let directions: Vec<_> = lines.iter().map(|line| line["direction"].as_str().unwrap()).collect();
        assert_eq!(directions.len(), 2, "{client}: {lines:#?}");
        assert!(directions.contains(&"sent") && directions.contains(&"received"), "{client}: {lines:#?}");
        let received = lines.iter().find(|line| line["direction"] == "received").unwrap();
        assert_eq!(received["process"]["pid"], std::process::id(), "{received}");
    }
    // They are counted.
    let own =
        said.split_once(" received were seen, ").and_then(|(_, rest)| rest.split_once(" of them of conn"));
    let own: u64 = own.unwrap_or_else(|| panic!("{said}")).0.parse().unwrap();
    assert!(own >= 4, "both ends of two tries: {said}");
}

#[test]
fn tries_to_reach_a_collector_that_is_not_there_are_not_told() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    own_tries_are_not_told(closed, || {
        assert_eq!(TcpStream::connect(closed).unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    });
}

#[test]
fn what_a_collector_resets_is_not_told() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let collector = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            // With bytes unread.
            let _ = client.peek(&mut [0]);
        }
    });
    own_tries_are_not_told(collector, || {
        let mut client = TcpStream::connect(collector).unwrap();
        client.write_all(b"unread").unwrap();
        assert_eq!(client.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    });
}

/// `--check` asks the collector, with a request that has nothing in it.
#[test]
fn a_collector_is_checked_before() {
    let checked = |url: &str| {
        let output = linger(&["watch", "--check", "--json", "--otlp", url]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let found: Vec<_> = lines.filter(|line| line["need"] == "collector (--otlp)").collect();
        let [need] = &found[..] else { panic!("{text}") };
        (need["state"].as_str().unwrap().to_owned(), need["found"].as_str().unwrap().to_owned())
    };
    for (kind, scheme) in [("http", "http"), ("grpc", "grpc")] {
        let Some(collector) = Collector::start(kind, &[]) else { return };
        let url = format!("{scheme}://127.0.0.1:{}", collector.port);
        assert_eq!(checked(&url), ("ok".to_owned(), format!("{url} takes events")));
        let request = collector.next_of("logs");
        assert!(log_records(&request).is_empty(), "{request}");
    }
    let Some(collector) = Collector::start("http", &["401"]) else { return };
    let url = format!("http://127.0.0.1:{}", collector.port);
    assert_eq!(checked(&url), ("degraded".to_owned(), format!("{url}: it answers 401 Unauthorized")));
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (state, found) = checked(&format!("http://{closed}"));
    assert_eq!(state, "degraded");
    assert!(found.contains("Connection refused"), "{found}");
    let wrong = linger(&["watch", "--check", "--otlp", "ftp://x"]).output().unwrap();
    assert_eq!(wrong.status.code(), Some(2));
}
