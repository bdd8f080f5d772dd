//! [`Collector`]: an OpenTelemetry collector that nobody here wrote the decoder of.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::Value;

use super::subjects::workspace;

/// How long is waited for what has to come.
const BOUND: Duration = Duration::from_secs(60);
/// The package from PyPI that decodes.
const PACKAGE: &str = "opentelemetry-proto";

/// A collector of the Python packages opentelemetry-proto, protobuf and grpcio; see `collector.py` for its answers.
#[derive(Debug)]
pub struct Collector {
    child: Child,
    lines: Receiver<Value>,
    /// Where it listens, on 127.0.0.1.
    pub port: u16,
}

impl Collector {
    /// Starts one that speaks `http` or `grpc`, and answers requests with logs so. `None`, after a skip, if its packages are missing.
    ///
    /// # Panics
    /// Panics if it does not start although they are there.
    pub fn start(kind: &str, answers: &[&str]) -> Option<Self> {
        Self::start_with(kind, answers, &[])
    }

    /// As [`start`](Self::start), with further variables of its environment.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub fn start_with(kind: &str, answers: &[&str], variables: &[(&str, &str)]) -> Option<Self> {
        let python = workspace().join("target/peers/python/bin/python3");
        let has_package = Command::new(&python)
            .args(["-c", "import grpc, opentelemetry.proto.collector.logs.v1.logs_service_pb2_grpc"])
            .output()
            .is_ok_and(|output| output.status.success());
        if !has_package {
            crate::skip(PACKAGE, "its packages are not installed");
            return None;
        }
        let mut child = Command::new(python)
            .args(["-c", include_str!("collector.py"), kind])
            .args(answers)
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3");
        let pipe = BufReader::new(child.stdout.take().expect("a pipe"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            let all = pipe.lines().map_while(Result::ok);
            all.for_each(|line| drop(sender.send(serde_json::from_str(&line).expect("a line of JSON"))));
        });
        let mut collector = Self { child, lines, port: 0 };
        let port = collector.next().expect("it listens")["port"].as_u64().expect("a port");
        collector.port = u16::try_from(port).expect("a port");
        Some(collector)
    }

    /// The next request; `None` if there is none within a minute.
    pub fn next(&self) -> Option<Value> {
        self.lines.recv_timeout(BOUND).ok()
    }

    /// The next request with `logs` or `metrics`; others are dropped.
    ///
    /// # Panics
    /// Panics if there is none within a minute.
    pub fn next_of(&self, signal: &str) -> Value {
        loop {
            let request = self.next().unwrap_or_else(|| panic!("no {signal}"));
            if request["signal"] == signal {
                return request;
            }
        }
    }

    /// The first `count` requests, waited for a minute each, and what else has come by then. Whoever has its answer may be told of it
    /// before the line about the request is read.
    pub fn first(&self, count: usize) -> Vec<Value> {
        let first: Vec<Value> = (0..count).map_while(|_| self.next()).collect();
        first.into_iter().chain(self.lines.try_iter()).collect()
    }

    /// Ends it.
    pub fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The log records of a request.
pub fn log_records(request: &Value) -> Vec<Value> {
    records(&request["request"]["resource_logs"], "scope_logs", "log_records")
}

/// The metrics of a request.
pub fn metrics(request: &Value) -> Vec<Value> {
    records(&request["request"]["resource_metrics"], "scope_metrics", "metrics")
}

fn records(resources: &Value, scopes: &str, records: &str) -> Vec<Value> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let scopes = list(resources).into_iter().flat_map(|resource| list(&resource[scopes]));
    scopes.flat_map(|scope| list(&scope[records])).collect()
}

/// The value of an attribute, as JSON has it: numbers of 64 bits are texts there. `Null` if there is none.
pub fn attribute(of: &Value, list: &str, name: &str) -> Value {
    let all = of[list].as_array().into_iter().flatten();
    let found = all.filter(|attribute| attribute["key"] == name).map(|attribute| &attribute["value"]);
    let value = found.filter_map(|value| value.as_object()?.values().next().cloned()).next();
    value.unwrap_or_default()
}
