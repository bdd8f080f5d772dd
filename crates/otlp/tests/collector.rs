//! What is handed over reaches a collector, and one that refuses, waits, hangs or dies costs no more than its own events.
//!
//! The collectors are Google's protobuf and gRPC in Python (`linger_testing::servers::Collector`), and sockets that say nothing.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use linger_otlp::{
    Endpoint, ExportCounts, ExportedEvent, Exporter, MetricNaming, OtlpProtocol, SendOptions, Severity,
    TrustedRoots, send,
};
use linger_testing::servers::{Collector, attribute, log_records, metrics};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);

fn naming() -> MetricNaming {
    MetricNaming::new(
        |name| Some(name.replace('_', ".")),
        |label, value| vec![(label.to_owned(), value.into())],
    )
}

fn options(url: &str) -> SendOptions {
    let endpoint = Endpoint::parse(url, None).unwrap();
    let mut options = SendOptions::new(endpoint, ("tests".into(), "1.2".into()), 1_000, naming());
    options.resource.insert("service.name".into(), "linger-tests".into());
    options.headers.push(("x-token".into(), "secret".into()));
    options.timeout = Duration::from_secs(20);
    options
}

/// An exporter, and the thread that sends.
fn exporter(options: SendOptions) -> (Exporter, JoinHandle<()>) {
    let (own, other) = UnixStream::pair().unwrap();
    let sender = std::thread::spawn(move || send(other, options).unwrap());
    (Exporter::new(own).unwrap(), sender)
}

fn event(number: u64) -> ExportedEvent {
    let mut event = ExportedEvent::new("linger.reset", number, Severity::Warning, format!("event {number}"));
    event.set("a.text", "x\"\n\u{1b}");
    event.set("a.number", u64::MAX >> 1);
    event.set("texts", vec!["one".to_owned(), "two".to_owned()]);
    event.set_known("left.out", None::<u32>);
    event
}

/// Turns until this holds of the counts.
fn turn_until(exporter: &mut Exporter, holds: impl Fn(&ExportCounts) -> bool) -> ExportCounts {
    let bound = Instant::now() + Duration::from_secs(60);
    loop {
        exporter.turn();
        let counts = exporter.counts();
        if holds(&counts) {
            return counts;
        }
        assert!(Instant::now() < bound, "{counts:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn bodies(request: &Value) -> Vec<String> {
    let body = |record: &Value| record["body"]["string_value"].as_str().unwrap().to_owned();
    log_records(request).iter().map(body).collect()
}

fn all_arrives(kind: &str, url: impl Fn(u16) -> String) {
    let Some(collector) = Collector::start(kind, &[]) else { return };
    let (mut exporter, sender) = exporter(options(&url(collector.port)));
    (1..=2).for_each(|number| exporter.tell(&event(number)));
    let text = "# HELP resets Told.\n# TYPE resets counter\nresets_total{cause=\"aborted\"} 3 # {pid=\"7\"} 2 9.5\n# EOF\n";
    exporter.tell_metrics(text, 5_000);
    let counts = exporter.finish(PATIENCE);
    sender.join().unwrap();
    assert_eq!((counts.sent, counts.metrics_sent, counts.dropped().map(|(_, count)| count)), (2, 1, [0; 5]));
    assert_eq!((counts.trouble, counts.metrics_failed), (None, 0));

    let all = collector.first(2);
    assert_eq!(all.len(), 2, "{all:?}");
    let of = |signal: &str| all.iter().find(|request| request["signal"] == signal).unwrap();
    let (logs, sums) = (of("logs"), of("metrics"));
    for request in [logs, sums] {
        assert_eq!(request["headers"]["x-token"], "secret");
        assert!(request["headers"]["user-agent"].as_str().is_some(), "{request}");
    }
    assert_eq!(bodies(logs), ["event 1", "event 2"], "in order");
    let resource = &logs["request"]["resource_logs"][0]["resource"];
    assert_eq!(attribute(resource, "attributes", "service.name"), "linger-tests");
    let scope = &logs["request"]["resource_logs"][0]["scope_logs"][0]["scope"];
    assert_eq!((&scope["name"], &scope["version"]), (&"tests".into(), &"1.2".into()));
    let record = &log_records(logs)[1];
    assert_eq!((&record["time_unix_nano"], &record["event_name"]), (&"2".into(), &"linger.reset".into()));
    assert_eq!(
        (&record["severity_number"], &record["severity_text"]),
        (&"SEVERITY_NUMBER_WARN".into(), &"WARN".into())
    );
    let value = |name: &str| attribute(record, "attributes", name);
    assert_eq!((value("a.text"), value("a.number")), ("x\"\n\u{1b}".into(), i64::MAX.to_string().into()));
    let texts = serde_json::json!({"values": [{"string_value": "one"}, {"string_value": "two"}]});
    assert_eq!((value("texts"), value("left.out")), (texts, Value::Null));

    let metric = &metrics(sums)[0];
    assert_eq!((&metric["name"], &metric["description"]), (&"resets".into(), &"Told".into()));
    assert_eq!(metric["sum"]["aggregation_temporality"], "AGGREGATION_TEMPORALITY_CUMULATIVE");
    assert_eq!(metric["sum"]["is_monotonic"], true);
    let point = &metric["sum"]["data_points"][0];
    assert_eq!((&point["start_time_unix_nano"], &point["time_unix_nano"]), (&"1000".into(), &"5000".into()));
    assert_eq!((&point["as_int"], attribute(point, "attributes", "cause")), (&"3".into(), "aborted".into()));
    let exemplar = &point["exemplars"][0];
    assert_eq!((&exemplar["as_int"], &exemplar["time_unix_nano"]), (&"2".into(), &"9500000000".into()));
    assert_eq!(attribute(exemplar, "filtered_attributes", "pid"), "7");
}

#[test]
fn all_arrives_over_http() {
    all_arrives("http", |port| format!("http://127.0.0.1:{port}"));
}

#[test]
fn all_arrives_over_grpc() {
    all_arrives("grpc", |port| format!("grpc://127.0.0.1:{port}"));
}

/// What is refused for a while is sent again, the same, and not before the collector says so.
fn is_tried_again(kind: &str, url: impl Fn(u16) -> String, refusals: &[&str], asked: f64) {
    let Some(collector) = Collector::start(kind, refusals) else { return };
    let (mut exporter, sender) = exporter(options(&url(collector.port)));
    exporter.tell(&event(1));
    let counts = turn_until(&mut exporter, |counts| counts.sent == 1);
    assert_eq!(counts.troubles, refusals.len() as u64, "{counts:?}");
    assert_eq!(counts.dropped().map(|(_, count)| count), [0; 5], "{counts:?}");
    drop(exporter);
    sender.join().unwrap();
    let all = collector.first(refusals.len() + 1);
    assert_eq!(all.len(), refusals.len() + 1);
    assert!(all.iter().all(|request| request["request"] == all[0]["request"]));
    let at = |request: &Value| request["at"].as_f64().unwrap();
    assert!(
        at(&all[1]) - at(&all[0]) >= asked,
        "{} s, and {asked} were asked for",
        at(&all[1]) - at(&all[0])
    );
}

#[test]
fn a_busy_collector_is_asked_again_when_it_says() {
    // Without Retry-After the first wait is a second at most.
    is_tried_again("http", |port| format!("http://127.0.0.1:{port}"), &["429:3", "503", "502", "504"], 3.0);
}

#[test]
fn a_busy_grpc_collector_is_asked_again_when_it_says() {
    is_tried_again(
        "grpc",
        |port| format!("grpc://127.0.0.1:{port}"),
        &["RESOURCE_EXHAUSTED:3", "UNAVAILABLE"],
        3.0,
    );
}

#[test]
fn a_connection_that_breaks_is_made_anew() {
    is_tried_again("http", |port| format!("http://127.0.0.1:{port}"), &["cut", "cut"], 0.0);
}

/// How a connection of HTTP/2 ends before the answer.
#[derive(Clone, Copy)]
enum Broken {
    /// In order: the collector is stopped.
    Closed,
    /// By a reset: the collector is killed.
    Reset,
    /// By GOAWAY and NO_ERROR: it is restarted.
    GoAway,
    /// The stream alone, by REFUSED_STREAM.
    Stream,
}

/// A frame of HTTP/2 (RFC 9113 section 4.1).
fn frame(kind: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    [&[0, 0, payload.len() as u8, kind, 0, 0, 0, 0, stream], payload].concat()
}

/// Reads the preface and the frames of the first request.
fn read_request(client: &mut TcpStream) {
    const END_STREAM: u8 = 1;
    client.read_exact(&mut [0; 24]).unwrap();
    loop {
        let mut head = [0; 9];
        client.read_exact(&mut head).unwrap();
        let [_, high, low, kind, flags, ..] = head;
        client.read_exact(&mut vec![0; usize::from(high) << 8 | usize::from(low)]).unwrap();
        if kind <= 1 && flags & END_STREAM != 0 {
            return;
        }
    }
}

/// A way to the collector on which the first connections break so.
fn breaks_first(collector: u16, broken: &'static [Broken]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for how in broken {
            let (mut client, _) = listener.accept().unwrap();
            if let Broken::Reset = how {
                // With bytes unread.
                client.peek(&mut [0]).unwrap();
                continue;
            }
            read_request(&mut client);
            let last = match how {
                Broken::GoAway => frame(7, 0, &[0; 8]),
                Broken::Stream => frame(3, 1, &[0, 0, 0, 7]),
                _ => Vec::new(),
            };
            client.write_all(&[frame(4, 0, &[]), last].concat()).unwrap();
            client.shutdown(std::net::Shutdown::Write).unwrap();
            let _ = std::io::copy(&mut client, &mut std::io::sink());
        }
        for client in listener.incoming().map_while(Result::ok) {
            let server = TcpStream::connect(("127.0.0.1", collector)).unwrap();
            for (mut from, mut to) in
                [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)]
            {
                std::thread::spawn(move || std::io::copy(&mut from, &mut to));
            }
        }
    });
    port
}

/// A gRPC status that no collector has sent is none: what broke is sent again.
#[test]
fn a_grpc_connection_that_breaks_is_made_anew() {
    const BROKEN: &[Broken] = &[Broken::Closed, Broken::Reset, Broken::GoAway, Broken::Stream];
    let Some(collector) = Collector::start("grpc", &[]) else { return };
    let port = breaks_first(collector.port, BROKEN);
    let (mut exporter, sender) = exporter(options(&format!("grpc://127.0.0.1:{port}")));
    exporter.tell(&event(1));
    let counts = turn_until(&mut exporter, |counts| counts.sent + counts.refused == 1);
    assert_eq!((counts.refused, counts.troubles), (0, BROKEN.len() as u64), "{counts:?}");
    drop(exporter);
    sender.join().unwrap();
    assert_eq!(collector.first(1).iter().map(bodies).collect::<Vec<_>>(), [["event 1"]]);
}

/// What is refused for good is not sent again, and what comes after it is.
fn is_refused(kind: &str, url: impl Fn(u16) -> String, refusal: &str, words: &str) {
    let Some(collector) = Collector::start(kind, &[refusal]) else { return };
    let (mut exporter, sender) = exporter(options(&url(collector.port)));
    exporter.tell(&event(1));
    let counts = turn_until(&mut exporter, |counts| counts.refused == 1);
    assert!(counts.trouble.as_ref().is_some_and(|trouble| trouble.contains(words)), "{counts:?}");
    exporter.tell(&event(2));
    let counts = exporter.finish(PATIENCE);
    sender.join().unwrap();
    assert_eq!((counts.refused, counts.sent, counts.troubles), (1, 1, 1));
    let sent: Vec<_> = collector.first(2).iter().map(bodies).collect();
    assert_eq!(sent, [["event 1"], ["event 2"]]);
}

#[test]
fn a_refusal_is_final() {
    is_refused("http", |port| format!("http://127.0.0.1:{port}"), "400", "400 Bad Request");
    // No Retry-After makes a refusal another thing.
    is_refused("http", |port| format!("http://127.0.0.1:{port}"), "500:1", "500 Internal Server Error");
}

#[test]
fn a_grpc_refusal_is_final() {
    is_refused(
        "grpc",
        |port| format!("grpc://127.0.0.1:{port}"),
        "INVALID_ARGUMENT",
        "InvalidArgument: no room",
    );
    // Without a word when, a lack of room is none that passes.
    is_refused("grpc", |port| format!("grpc://127.0.0.1:{port}"), "RESOURCE_EXHAUSTED", "ResourceExhausted");
}

/// What a collector leaves out is counted, and nothing is sent again.
fn partial(kind: &str, url: impl Fn(u16) -> String) {
    let Some(collector) = Collector::start(kind, &["part:2"]) else { return };
    let (mut exporter, sender) = exporter(options(&url(collector.port)));
    (1..=3).for_each(|number| exporter.tell(&event(number)));
    let counts = exporter.finish(PATIENCE);
    sender.join().unwrap();
    assert_eq!((counts.sent, counts.rejected, counts.troubles), (1, 2, 1));
    let said = counts.trouble().unwrap().terminal().to_string();
    assert_eq!(said, "it takes a request but for 2 records: too\\u{1b}[31m old");
    assert_eq!(collector.first(1).len(), 1);
}

#[test]
fn what_is_left_out_is_counted_and_not_sent_again() {
    partial("http", |port| format!("http://127.0.0.1:{port}"));
    partial("grpc", |port| format!("grpc://127.0.0.1:{port}"));
}

#[test]
fn a_collector_that_hangs_is_left_for_another_connection() {
    for (kind, scheme) in [("http", "http"), ("grpc", "grpc")] {
        let Some(collector) = Collector::start(kind, &["hang"]) else { return };
        let mut options = options(&format!("{scheme}://127.0.0.1:{}", collector.port));
        options.timeout = Duration::from_secs(1);
        let (mut exporter, sender) = exporter(options);
        exporter.tell(&event(1));
        let counts = turn_until(&mut exporter, |counts| counts.sent == 1);
        assert_eq!(counts.trouble.as_deref(), Some("no answer within 1 s"));
        drop(exporter);
        sender.join().unwrap();
        assert_eq!(collector.first(2).len(), 2);
    }
}

#[test]
fn an_answer_without_end_is_not_read_to_its_end() {
    let Some(collector) = Collector::start("http", &["flood"]) else { return };
    let (mut exporter, sender) = exporter(options(&format!("http://127.0.0.1:{}", collector.port)));
    exporter.tell(&event(1));
    let counts = turn_until(&mut exporter, |counts| counts.sent == 1);
    assert_eq!(counts.troubles, 0, "its status says that it has the events: {counts:?}");
    exporter.tell(&event(2));
    assert_eq!(exporter.finish(PATIENCE).sent, 2);
    sender.join().unwrap();
}

/// Hands over more than there is room for, to a collector that never answers. Every event is counted, once.
fn too_many(url: &str) {
    const EVENTS: u64 = 120_000;
    let mut options = options(url);
    options.at_end = Duration::from_secs(1);
    let (mut exporter, sender) = exporter(options);
    // Whoever waits here for room waits for ever.
    for number in 0..EVENTS {
        exporter.tell(&event(number));
        exporter.turn();
    }
    let counts = exporter.finish(PATIENCE);
    sender.join().unwrap();
    assert_eq!(counts.sent, 0);
    let dropped: u64 = counts.dropped().iter().map(|(_, count)| count).sum();
    assert_eq!(dropped, EVENTS, "{counts:?}");
    assert!(counts.queue_full > 0 && counts.given_up > 1_000, "{counts:?}");
}

#[test]
fn a_collector_that_is_not_there_delays_nobody() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    too_many(&format!("http://127.0.0.1:{port}"));
}

#[test]
fn a_collector_that_never_answers_delays_nobody() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    too_many(&format!("grpc://{}", listener.local_addr().unwrap()));
}

#[test]
fn the_end_of_the_sender_is_seen_and_what_waits_is_counted() {
    let (own, other) = UnixStream::pair().unwrap();
    let mut exporter = Exporter::new(own).unwrap();
    (0..5_000).for_each(|number| exporter.tell(&event(number)));
    exporter.turn();
    assert!(!exporter.has_ended());
    drop(other);
    exporter.tell(&event(5_000));
    exporter.turn();
    exporter.tell(&event(5_001));
    let whole = exporter.counts();
    assert!(exporter.has_ended());
    // Some are in the socket's buffer: nobody knows what became of them, and they are counted.
    let all: u64 = whole.dropped().iter().map(|(_, count)| count).sum();
    assert_eq!(all, 5_002, "{whole:?}");
    assert!(whole.unknown > 0 && whole.queue_full > 3_000, "{whole:?}");
}

/// A sender that is stopped says nothing of what it was given.
#[test]
fn a_sender_that_is_stopped_leaves_no_event_uncounted() {
    let (own, _stopped) = UnixStream::pair().unwrap();
    let mut exporter = Exporter::new(own).unwrap();
    (0..3_000).for_each(|number| exporter.tell(&event(number)));
    exporter.turn();
    let counts = exporter.finish(Duration::from_millis(50));
    assert_eq!(counts.unknown + counts.queue_full, 3_000, "{counts:?}");
    assert!(counts.unknown > 0 && counts.queue_full > 0, "{counts:?}");
}

/// A sender that has been taken over may say something again and again: nobody waits for it longer than for another.
#[test]
fn a_sender_that_goes_on_talking_holds_nobody() {
    let (own, mut other) = UnixStream::pair().unwrap();
    let exporter = Exporter::new(own).unwrap();
    let counts = serde_json::to_vec(&ExportCounts::default()).unwrap();
    let said = [b"C", &(counts.len() as u32).to_le_bytes()[..], &counts].concat();
    let talk = std::thread::spawn(move || {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until && other.write_all(&said).is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    // It ends long before the other does.
    exporter.finish(Duration::from_millis(200));
    assert!(!talk.is_finished());
    talk.join().unwrap();
}

#[test]
fn certificates_are_checked() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (certificate, key, other) = (path("own.pem"), path("own.key"), path("other.pem"));
    for (certificate, key) in [(&certificate, &key), (&other, &path("other.key"))] {
        let request =
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=collector";
        let made = Command::new("openssl")
            .args(request.split(' '))
            .args(["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"])
            .args(["-out", certificate, "-keyout", key])
            .output();
        match made {
            Ok(made) => assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr)),
            Err(error) => return linger_testing::skip("openssl", &error.to_string()),
        }
    }
    let variables = [("COLLECTOR_CERTIFICATE", certificate.as_str()), ("COLLECTOR_KEY", key.as_str())];
    let Some(collector) = Collector::start_with("http", &[], &variables) else { return };
    for (roots, is_trusted) in [(&certificate, true), (&other, false)] {
        let mut options = options(&format!("https://127.0.0.1:{}", collector.port));
        assert_eq!(options.endpoint.protocol, OtlpProtocol::HttpProtobuf);
        options.roots = Some(TrustedRoots::of_file(roots.as_ref()).unwrap());
        let (mut exporter, sender) = exporter(options);
        exporter.tell(&event(1));
        let counts = exporter.finish(PATIENCE);
        sender.join().unwrap();
        assert_eq!((counts.sent, counts.given_up), if is_trusted { (1, 0) } else { (0, 1) }, "{counts:?}");
        let trouble = counts.trouble.unwrap_or_default();
        assert_eq!(trouble.starts_with("TLS: "), !is_trusted, "{trouble}");
    }
    assert_eq!(collector.first(1).len(), 1);
}
