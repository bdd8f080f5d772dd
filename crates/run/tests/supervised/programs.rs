//! Real programs, bare and supervised: bare they lose responses, supervised they keep them. The kernel's counters agree.
//!
//! Every test has a network of its own, so that the kernel's counters are exact.

use std::fs;

use crate::support::{
    PORT, Server, asked_once, compare, ended_well, late_reader, late_sender, nginx, program, script, words,
};
use linger_testing::secluded;
use rustix::process::Signal;

const HTTP_SERVER: &str = r#"
import http.server, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = b'x' * 600000
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()
        if 'exit' in sys.argv: os._exit(7)
        if 'kill' in sys.argv: os.kill(os.getpid(), 9)
    def log_message(self, *a): pass
http.server.ThreadingHTTPServer(('127.0.0.1', 8000), Handler).serve_forever()
"#;

#[test]
fn python_http_server() {
    secluded(|| {
        let Some(python) = program("python3", "python3") else { return };
        let directory = tempfile::tempdir().unwrap();
        let script = script(directory.path(), "server.py", HTTP_SERVER);
        let (lost, aborted, report) =
            compare(&[&python, &script], "", 10, |bare| late_reader(PORT, 20_000, bare));
        assert_eq!((lost, aborted), ([10, 0], [10, 0]), "{report:?}");
        assert_eq!(report["would_have_reset"], 10, "{report:?}");
        assert_eq!(ended_well(&report), 10, "{report:?}");
        assert_eq!(report["bytes_unacknowledged"], 0, "{report:?}");
    });
}

/// A raw server for the ways to end a connection that no framework uses; `END` ends every response.
const ENDINGS: &str = r#"
import os, signal, socket, subprocess, sys, threading
way = sys.argv[1]
RESPONSE = b'HTTP/1.0 200 OK\r\n\r\n' + b'x' * 600000 + b'END'
listener = socket.create_server(('127.0.0.1', 8000), backlog=64)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
def serve(c):
    c.recv(10)
    c.sendall(RESPONSE)
    if way == 'close': c.close()
    elif way == 'shutdown': c.shutdown(socket.SHUT_RDWR); c.close()
    elif way == 'shutdown-read': c.shutdown(socket.SHUT_RD); c.close()
    elif way == 'detach': os.close(c.detach())
    elif way == 'dup': d = c.dup(); c.close(); d.close()
    elif way == 'dup2': r, w = os.pipe(); os.dup2(r, c.fileno()); os.close(r); os.close(w); c.close()
    elif way == 'close_range': os.closerange(c.fileno(), c.fileno() + 1); c.detach()
    elif way == 'fork': pass
    elif way == 'exec': os.execv(sys.executable, [sys.executable, sys.argv[0], 'exec'])
    elif way == 'epoll':
        import select
        e = select.epoll(); e.register(c, select.EPOLLIN); c.close()
        assert e.poll(0) == [], 'the closed descriptor is still reported'
        e.close()
while True:
    c, _ = listener.accept()
    if way == 'fork':
        # The child's exit is no close: it must not come before its parent's, which is one of two.
        r, w = os.pipe()
        if os.fork() == 0:
            os.read(r, 1); serve(c); os._exit(0)
        c.close()
        os.write(w, b'.'); os.close(r); os.close(w)
    elif way == 'exec' :
        listener.close(); serve(c)
    else:
        serve(c)
"#;

#[test]
fn every_way_to_end_a_connection() {
    secluded(|| {
        let Some(python) = program("python3", "python3") else { return };
        let directory = tempfile::tempdir().unwrap();
        let script = script(directory.path(), "server.py", ENDINGS);
        let ways =
            ["close", "shutdown", "shutdown-read", "detach", "dup", "dup2", "close_range", "fork", "epoll"];
        for way in ways {
            let (lost, aborted, report) =
                compare(&[&python, &script, way], "", 3, |bare| late_reader(PORT, 20_000, bare));
            assert_eq!((lost, aborted[1]), ([3, 0], 0), "{way}: {report:?}");
            assert_eq!(ended_well(&report), 3, "{way}: {report:?}");
            assert_eq!(report["shared"], if way == "fork" { 3 } else { 0 }, "{way}: {report:?}");
        }
    });
}

/// The program calls `execve`, and the new one listens again. The connection of the first must still be ended.
#[test]
fn exec_closes_what_is_marked_so() {
    secluded(|| {
        let Some(python) = program("python3", "python3") else { return };
        let directory = tempfile::tempdir().unwrap();
        let script = script(directory.path(), "server.py", ENDINGS);
        for (settings, reset) in [(None, true), (Some(""), false)] {
            let server = asked_once(settings, &[&python, &script, "exec"], reset);
            let report = server.stop(Signal::TERM);
            assert!(reset || report["lingered"] == 1, "{report:?}");
        }
    });
}

#[test]
fn a_worker_that_exits_after_its_last_write() {
    secluded(|| {
        let Some(python) = program("python3", "python3") else { return };
        let directory = tempfile::tempdir().unwrap();
        let script = script(directory.path(), "server.py", HTTP_SERVER);
        for (settings, reset) in [(None, true), (Some(""), false)] {
            let mut server = asked_once(settings, &[&python, &script, "exit"], reset);
            assert_eq!(server.wait().code(), Some(7), "the program's own status");
            assert!(reset || server.report()["lingered"] == 1);
        }
    });
}

/// A daemon, as php-fpm is: the supervisor waits for it as well. The starter waits for the first process only, as without
/// one, unless the supervisor is the parent.
#[test]
fn a_program_that_leaves_the_process_group() {
    secluded(|| {
        let Some(python) = program("python3", "python3") else { return };
        for settings in ["", "stay"] {
            for leaving in ["os.setpgid(0, 0)", "os.fork() and os._exit(7); os.setsid()"] {
                let directory = tempfile::tempdir().unwrap();
                let done = directory.path().join("done");
                // Long enough that a supervisor which does not wait would have ended before.
                let end = "open(sys.argv[1], 'x').close(); os._exit(7)";
                let script = format!("import os, sys, time; {leaving}; time.sleep(0.3); {end}");
                let mut server =
                    Server::start(Some(settings), &[&python, "-c", &script, done.to_str().unwrap()]);
                assert_eq!(server.wait().code(), Some(7), "{leaving}: {}", server.log());
                let sooner = settings != "stay" && leaving.contains("fork");
                assert_eq!(done.exists(), !sooner, "{settings}, {leaving}: when the starter was told");
                assert!(
                    !server.has_reported() || done.exists(),
                    "{settings}, {leaving}: the report came too early"
                );
                server.wait_for_all();
                assert!(done.exists() && server.has_reported(), "{settings}, {leaving}: {}", server.log());
            }
        }
    });
}

#[test]
fn a_killed_worker_loses_nothing_that_is_held() {
    secluded(|| {
        let Some(python) = program("python3", "python3") else { return };
        let directory = tempfile::tempdir().unwrap();
        let script = script(directory.path(), "server.py", HTTP_SERVER);
        for (settings, reset) in [(None, true), (Some(""), true), (Some("hold"), false)] {
            let mut server = asked_once(settings, &[&python, &script, "kill"], reset);
            assert!(!server.wait().success());
        }
    });
}

#[test]
fn what_is_held_ends_as_without() {
    secluded(|| {
        let Some(python) = program("python3", "python3") else { return };
        let directory = tempfile::tempdir().unwrap();
        let script = script(directory.path(), "server.py", ENDINGS);
        for way in ["close", "shutdown", "dup", "fork", "epoll"] {
            let (lost, aborted, report) =
                compare(&[&python, &script, way], "hold", 3, |bare| late_reader(PORT, 20_000, bare));
            assert_eq!((lost, aborted[1]), ([3, 0], 0), "{way}: {report:?}");
            assert_eq!(ended_well(&report), 3, "{way}: {report:?}");
        }
    });
}

#[test]
fn excluded_ports_are_left_alone() {
    secluded(|| {
        let Some(python) = program("python3", "python3") else { return };
        let directory = tempfile::tempdir().unwrap();
        let script = script(directory.path(), "server.py", HTTP_SERVER);
        let server = Server::start_listening(Some("exclude=8000"), &[&python, &script], PORT);
        assert!(!late_reader(PORT, 20_000, true).is_whole());
        assert_eq!(server.stop(Signal::TERM)["closes"], 0);
    });
}

#[test]
fn node_answers_early() {
    secluded(|| {
        let Some(node) = program("node", "nodejs") else { return };
        let directory = tempfile::tempdir().unwrap();
        let text = "require('http').createServer((q, s) => { s.writeHead(413, {'Connection': 'close', \
                    'Content-Length': 300000}); s.end('x'.repeat(300000)); }).listen(8000, '127.0.0.1');";
        let script = script(directory.path(), "server.js", text);
        let (lost, aborted, report) =
            compare(&[&node, &script], "", 10, |bare| late_reader(PORT, 4_000_000, bare));
        assert!(lost[0] > 0 && aborted[0] > 0, "bare: {lost:?} lost, {aborted:?} aborts");
        assert_eq!((lost[1], aborted[1]), (0, 0), "{report:?}");
    });
}

#[test]
fn nginx_told_not_to_linger() {
    secluded(|| {
        let directory = tempfile::tempdir().unwrap();
        let page = "x".repeat(1_000_000);
        fs::write(directory.path().join("page"), page).unwrap();
        let location = format!(
            "error_page 405 =200 /page; location /page {{ root {}; default_type text/plain; }}",
            directory.path().display()
        );
        let Some(command) = nginx("127.0.0.1:8000", directory.path(), &location, "lingering_close off;")
        else {
            return;
        };
        let (lost, aborted, report) = compare(&words(&command), "", 5, |bare| late_sender(PORT, bare));
        assert_eq!((lost, aborted[1]), ([5, 0], 0), "{report:?}");
    });
}
