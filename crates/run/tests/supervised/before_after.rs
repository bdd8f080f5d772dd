//! Probes each server bare and supervised: bare it loses responses, supervised it keeps them. The kernel's counters agree.

use std::fs;
use std::path::Path;

use crate::support::{PORT, Server, aborts, gunicorn, nginx, program, script, uwsgi, words};
use linger_probe::{Check, CheckAnswer, ProbeConfig, probe};
use linger_testing::Counters;
use linger_testing::secluded;
use rustix::process::Signal;

/// Bytes of every response: more than the probe's window and its loopback segments hold.
const LENGTH: usize = 300_000;

/// Probes a server, bare and supervised, with the questions for which the bare one loses its response.
fn before_and_after(command: &[&str], checks: &[Check]) {
    for settings in [None, Some("")] {
        let server = Server::start_listening(settings, command, PORT);
        let mut config = ProbeConfig::default();
        config.only = checks.to_vec();
        let target = format!("http://127.0.0.1:{PORT}/large").parse().unwrap();
        let before = Counters::read().unwrap();
        let asked = probe(&target, &config, |_| {}).unwrap();
        let aborted = aborts(&before);
        let report = server.stop(Signal::TERM);
        let wanted = if settings.is_none() { CheckAnswer::Loses } else { CheckAnswer::Keeps };
        assert_eq!(asked.findings.len(), checks.len());
        for finding in &asked.findings {
            let said = format!("{command:?}, {settings:?}: {}: {}", finding.check, finding.sentence);
            eprintln!("{said} {:?}", finding.counters);
            assert_eq!(finding.answer, wanted, "{said}; {report:?}");
        }
        match settings {
            None => assert!(aborted > 0, "{command:?}: the kernel saw no abort"),
            Some(_) => {
                assert_eq!(aborted, 0, "{command:?}: {report:?}");
                assert!(report["lingered"].as_u64() > Some(0), "{report:?}");
            }
        }
    }
}

const EARLY: [Check; 2] = [Check::UnreadBody, Check::UploadInProgress];

fn wsgi(directory: &Path) -> String {
    let text = format!(
        "def app(e, s):\n    s('200 OK', [('Content-Length', '{LENGTH}')])\n    return [b'r' * {LENGTH}]\n"
    );
    script(directory, "early.py", &text)
}

#[test]
fn python_http_server() {
    const SERVER: &str = "import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header('Content-Length', '300000')
        self.end_headers()
        self.wfile.write(b'r' * 300000)
    do_POST = do_GET
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(('127.0.0.1', 8000), Handler).serve_forever()
";
    secluded(|| {
        let Some(python) = program("python3", "python3") else { return };
        let checks = [Check::UnreadBody, Check::UploadInProgress, Check::LateByte];
        before_and_after(&[&python, "-c", SERVER], &checks);
    });
}

#[test]
fn uwsgi_http_socket() {
    secluded(|| {
        let directory = tempfile::tempdir().unwrap();
        let Some(command) = uwsgi("--http-socket", &wsgi(directory.path())) else { return };
        before_and_after(&words(&command), &EARLY);
    });
}

#[test]
fn gunicorn_sync_and_gthread() {
    secluded(|| {
        let directory = tempfile::tempdir().unwrap();
        wsgi(directory.path());
        for class in ["sync", "gthread"] {
            let Some(command) = gunicorn(class, directory.path(), "early") else { return };
            before_and_after(&words(&command), &EARLY);
        }
    });
}

#[test]
fn node() {
    const SERVER: &str = "require('http').createServer((_, response) => {
  response.writeHead(200, { 'Content-Length': 300000 });
  response.end(Buffer.alloc(300000, 'r'));
}).listen(8000, '127.0.0.1');";
    secluded(|| {
        let Some(node) = program("node", "nodejs") else { return };
        before_and_after(&[&node, "-e", SERVER], &EARLY);
    });
}

#[test]
fn nginx_told_not_to_linger() {
    secluded(|| {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("large"), "r".repeat(LENGTH)).unwrap();
        let location = format!("location / {{ root {}; }}", directory.path().display());
        let Some(command) = nginx("127.0.0.1:8000", directory.path(), &location, "lingering_close off;")
        else {
            return;
        };
        before_and_after(&words(&command), &[Check::Pipelined, Check::LateByte]);
    });
}

#[test]
fn bare_axum() {
    secluded(|| {
        let axum = linger_testing::servers::sample_program("axum-bare").unwrap();
        before_and_after(&[axum.to_str().unwrap(), "8000"], &EARLY);
    });
}
