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
    let exporter = metrics.serve(([127, 0, 0, 1], 0).into()).unwrap();

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
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(server) = server else {
        return linger_testing::skip("prometheus", "prometheus is not installed");
    };
    let _server = Server(server);

    for _ in 0..5 {
        let mut client = TcpStream::connect(local).unwrap();
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
        resets = ask("linger_resets_total");
        queue = ask("linger_listener_queue_limit");
        let counters = ask("linger_kernel_counter_total");
        if resets.contains("closed-with-unread-data")
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
    let bytes = ask("linger_reset_bytes_total");
    let _ = std::fs::remove_dir_all(&directory);
    let resets: serde_json::Value = serde_json::from_str(&resets).expect("an answer of Prometheus");
    let series = resets["data"]["result"].as_array().unwrap();
    let sent = series
        .iter()
        .find(|series| {
            series["metric"]["cause"] == "closed-with-unread-data" && series["metric"]["direction"] == "sent"
        })
        .unwrap_or_else(|| panic!("{resets}"));
    assert_eq!(sent["value"][1], "5");
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
fn only_metrics_are_served() {
    let metrics = Metrics::default();
    let exporter = metrics.serve(([127, 0, 0, 1], 0).into()).unwrap();
    let text = get(exporter, "/metrics").unwrap();
    assert!(text.ends_with("# EOF\n") && text.contains("linger_events_lost_total 0"), "{text}");
    assert_eq!(get(exporter, "/").unwrap(), "GET /metrics\n");
}
