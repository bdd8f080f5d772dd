//! The exporter, scraped by a real Prometheus.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use linger_watch::export::Metrics;
use linger_watch::{Filter, Watcher};

/// Ended by its number when the test ends, however it does.
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

#[test]
fn prometheus_scrapes_causes_and_queues() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let local = listener.local_addr().unwrap();
    let mut filter = Filter::default();
    filter.ports = vec![local.port()];
    let mut watcher = match Watcher::open(filter) {
        Ok(watcher) => watcher,
        Err(error) => {
            assert!(!rustix::process::geteuid().is_root(), "root may watch: {error}");
            return linger_host::testing::skip("live tracepoints", &error.to_string());
        }
    };
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
    // A free port, which nobody is likely to take in the meantime.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let server = Command::new("prometheus")
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.tsdb.path={}", directory.join("data").display()))
        .arg(format!("--web.listen-address={address}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(server) = server else {
        return linger_host::testing::skip("foreign peers", "prometheus is not installed");
    };
    let _server = Server(server);

    for _ in 0..5 {
        let mut client = TcpStream::connect(local).unwrap();
        client.write_all(b"unread").unwrap();
        drop(listener.accept().unwrap());
    }
    let bound = Instant::now() + Duration::from_secs(60);
    let (mut resets, mut queue) = (String::new(), String::new());
    while Instant::now() < bound {
        let notices = watcher.next(Duration::from_millis(200)).unwrap();
        metrics.record(&notices, &watcher);
        let ask = |query: &str| get(address, &format!("/api/v1/query?query={query}")).unwrap_or_default();
        resets = ask("linger_resets_total");
        queue = ask("linger_listener_queue_limit");
        if resets.contains("closed-with-unread-data") && queue.contains(&local.to_string()) {
            break;
        }
    }
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
}

#[test]
fn only_metrics_are_served() {
    let metrics = Metrics::default();
    let exporter = metrics.serve(([127, 0, 0, 1], 0).into()).unwrap();
    let text = get(exporter, "/metrics").unwrap();
    assert!(text.ends_with("# EOF\n") && text.contains("linger_events_lost_total 0"), "{text}");
    assert_eq!(get(exporter, "/").unwrap(), "GET /metrics\n");
}
