//! The exporter, scraped by a real Prometheus.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use linger_watch::Filter;
use linger_watch::export::Metrics;

/// A child process that is killed when the test ends, also by a panic.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn get(address: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").ok()?;
    let mut response = String::new();
    stream.read_to_string(&mut response).ok()?;
    Some(response.split_once("\r\n\r\n")?.1.to_owned())
}

fn percent_encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

/// Every expression of the shipped dashboard, its variables filled in as Grafana does.
fn dashboard_expressions() -> Vec<String> {
    let text = include_str!("../../../deploy/linger-watch.grafana.json");
    let dashboard: serde_json::Value = serde_json::from_str(text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let expressions: Vec<String> =
        targets.map(|target| target["expr"].as_str().unwrap().replace("$instance", ".*")).collect();
    assert!(expressions.len() >= panels.len() && panels.len() > 5);
    assert!(expressions.iter().all(|expression| !expression.contains('$')), "{expressions:?}");
    expressions
}

/// The words of an expression that name this exporter's metrics.
fn metric_names(expression: &str) -> impl Iterator<Item = &str> {
    expression
        .split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
        .filter(|word| word.starts_with("linger_"))
}

/// The value of the series of resets sent, in an answer of Prometheus.
fn value_of_sent(answer: &str) -> Option<String> {
    let answer: serde_json::Value = serde_json::from_str(answer).ok()?;
    let series = answer["data"]["result"].as_array()?;
    let sent = series.iter().find(|series| series["metric"]["direction"] == "sent")?;
    Some(sent["value"][1].as_str()?.to_owned())
}

#[test]
fn prometheus_scrapes_causes_and_queues() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let local = listener.local_addr().unwrap();
    // Cause a warning: a metric without a value is not exported.
    let crowded = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    crowded.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    crowded.listen(4).unwrap();
    let crowded_at = crowded.local_addr().unwrap().as_socket().unwrap();
    let _waiting: Vec<_> = (0..4).map(|_| TcpStream::connect(crowded_at).unwrap()).collect();
    let mut filter = Filter::default();
    filter.ports = vec![local.port(), crowded_at.port()];
    let Some(mut watcher) = common::watcher(filter) else { return };
    let metrics = Metrics::default();
    let exporter = metrics.serve(TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();

    let directory = std::env::temp_dir().join(format!("linger-watch-prometheus-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let config = directory.join("prometheus.yml");
    let text = format!(
        "global: {{scrape_interval: 1s}}\nscrape_configs: [{{job_name: linger, static_configs: \
         [{{targets: ['{exporter}']}}]}}]\n"
    );
    std::fs::write(&config, text).unwrap();
    // A free port, which is unlikely to be taken in the meantime.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let server = Command::new("prometheus")
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.tsdb.path={}", directory.join("data").display()))
        .arg(format!("--web.listen-address={address}"))
        .arg("--enable-feature=exemplar-storage")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(server) = server else {
        return linger_testing::skip("prometheus", "prometheus is not installed");
    };
    let _server = Server(server);

    let mut clients = Vec::new();
    for _ in 0..5 {
        let mut client = TcpStream::connect(local).unwrap();
        clients.push(client.local_addr().unwrap().to_string());
        client.write_all(b"unread").unwrap();
        drop(listener.accept().unwrap());
    }
    let ask = |query: &str| {
        get(address, &format!("/api/v1/query?query={}", percent_encoded(query))).unwrap_or_default()
    };
    let bound = Instant::now() + Duration::from_secs(60);
    let (mut resets, mut queue) = (String::new(), String::new());
    while Instant::now() < bound {
        let notices = watcher.next(Duration::from_millis(200)).unwrap();
        metrics.record(&notices, &watcher);
        // The filter leaves only this test's resets; other listeners have theirs at zero.
        resets = ask(r#"sum by (cause, direction) (linger_resets_total{cause="closed-with-unread-data"})"#);
        queue = ask("linger_listener_queue_limit");
        let counters = ask("linger_kernel_counter_total");
        if value_of_sent(&resets).as_deref() == Some("5")
            && queue.contains(&local.to_string())
            && counters.contains("OutRsts")
            && ask("linger_warnings_total").contains("listener-near-limit")
        {
            break;
        }
    }
    let metrics_known: Vec<String> = metrics
        .text()
        .lines()
        .filter_map(|line| Some(line.strip_prefix("# TYPE ")?.split(' ').next()?.to_owned()))
        .collect();
    for expression in dashboard_expressions() {
        let answer = ask(&expression);
        let answer: serde_json::Value = serde_json::from_str(&answer).expect("an answer of Prometheus");
        assert_eq!(answer["status"], "success", "{expression}: {answer}");
        for name in metric_names(&expression) {
            let family = name.trim_end_matches("_total");
            assert!(metrics_known.iter().any(|known| known == family), "{expression}: no metric {name}");
        }
    }
    // An exemplar leads from the count to one of its connections, and to who closed it.
    let sent = percent_encoded(r#"linger_resets_total{cause="closed-with-unread-data",direction="sent"}"#);
    let exemplars = format!("/api/v1/query_exemplars?query={sent}&start=0&end=99999999999");
    let exemplars = get(address, &exemplars).expect("an answer of Prometheus");
    let exemplars: serde_json::Value = serde_json::from_str(&exemplars).unwrap();
    let labels = &exemplars["data"][0]["exemplars"][0]["labels"];
    assert!(clients.iter().any(|client| labels["remote"] == client.as_str()), "{exemplars}");
    assert_eq!(labels["pid"], std::process::id().to_string(), "{exemplars}");
    let bytes = ask("linger_reset_bytes_total");
    let _ = std::fs::remove_dir_all(&directory);
    assert_eq!(value_of_sent(&resets).as_deref(), Some("5"), "{resets}");
    assert!(queue.contains(&local.to_string()), "{queue}");
    let bytes: serde_json::Value = serde_json::from_str(&bytes).expect("an answer of Prometheus");
    let series = bytes["data"]["result"].as_array().unwrap();
    let unread = series
        .iter()
        .find(|series| series["metric"]["bytes"] == "unread" && series["metric"]["direction"] == "sent")
        .unwrap_or_else(|| panic!("{bytes}"));
    assert_eq!(unread["value"][1], "30", "five times six bytes");
}

#[test]
fn what_never_happened_is_zero() {
    let metrics = Metrics::default();
    let exporter = metrics.serve(TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
    let text = get(exporter, "/metrics").unwrap();
    assert!(text.ends_with("# EOF\n") && text.contains("linger_events_lost_total 0"), "{text}");
    for line in [
        "linger_seen_resets_total{direction=\"sent\"} 0",
        "linger_seen_resets_total{direction=\"received\"} 0",
        "linger_warnings_total{warning=\"listener-near-limit\"} 0",
        "linger_warnings_total{warning=\"unread-after-peer-closed\"} 0",
        "linger_warnings_total{warning=\"accept-queue-overflowed\"} 0",
    ] {
        assert_eq!(text.lines().filter(|other| *other == line).count(), 1, "{line}: {text}");
    }
    assert!(text.contains("\nlinger_build_info{version=") && text.contains("\nprocess_open_fds "), "{text}");
    assert_eq!(get(exporter, "/healthz").unwrap(), "ok\n");
    assert!(get(exporter, "/metric").unwrap().starts_with("not found"));
}

/// The documented alert is `rate()` of a counter, which sees no burst that makes its series: it is there before, with the labels of
/// the resets to come.
#[test]
fn the_first_burst_of_a_listener_is_an_increase() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let local = listener.local_addr().unwrap();
    let mut filter = Filter::default();
    filter.ports = vec![local.port()];
    let Some(mut watcher) = common::watcher(filter) else { return };
    let metrics = Metrics::default();
    let own = std::fs::read_to_string("/proc/self/comm").unwrap();
    let series = |cause: &str| {
        let text = metrics.text();
        let mut all =
            text.lines().filter_map(|line| line.strip_prefix("linger_resets_total{")?.split_once("} "));
        let labels =
            [format!("cause=\"{cause}\",direction=\"sent\""), format!("process=\"{}\"", own.trim_end())];
        let found = all.find(|(found, _)| labels.iter().all(|label| found.contains(label)));
        // Behind the value there may be an exemplar.
        let value = |rest: &str| rest.split(" # ").next().unwrap_or_default().to_owned();
        found.map(|(labels, rest)| (labels.to_owned(), value(rest)))
    };
    let notices = watcher.next(Duration::from_millis(50)).unwrap();
    metrics.record(&notices, &watcher);
    let before = series("closed-with-unread-data").expect("a series at zero");
    assert_eq!(before.1, "0");
    assert_eq!(series("data-after-close").expect("the fault's other name").1, "0");
    let overflows = format!("listener=\"{local}\"");
    let of_listener =
        |line: &&str| line.starts_with("linger_listen_overflows_total{") && line.contains(&overflows);
    assert!(metrics.text().lines().filter(of_listener).all(|line| line.ends_with(" 0")));
    assert_eq!(metrics.text().lines().filter(of_listener).count(), 1);
    let mut client = TcpStream::connect(local).unwrap();
    client.write_all(b"unread").unwrap();
    let (server, _) = listener.accept().unwrap();
    server.peek(&mut [0]).unwrap();
    drop(server);
    let notices =
        common::until(&mut watcher, |resets| resets.iter().any(|reset| reset.direction.name() == "sent"));
    metrics.record(&notices, &watcher);
    assert_eq!(series("closed-with-unread-data"), Some((before.0, "1".to_owned())), "the same labels");
    // Listeners that come and go, as those of tests and of FTP do, leave no series each.
    drop(listener);
    while watcher.listeners().any(|(_, at, ..)| at == local) {
        let notices = watcher.next(Duration::from_millis(50)).unwrap();
        metrics.record(&notices, &watcher);
    }
    metrics.record(&[], &watcher);
    assert_eq!(metrics.text().lines().filter(of_listener).count(), 0);
}
