//! Application servers behind nginx: bare, every response is lost; supervised, none.
//!
//! Usually chance decides whether the gateway has read the response before the reset arrives. Here it never has: the
//! windows are small, nginx has few buffers, and the client reads only after the application server has closed.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{
    Got, PORT, Report, Server, aborts, connect, gunicorn, nginx, read, request, script, uwsgi, words,
};
use linger_testing::Counters;
use linger_testing::{secluded, skip};
use rustix::process::Signal;

const TRIALS: usize = 10;

/// Answers without reading the body, with 400,000 bytes: more than nginx buffers here.
const WSGI: &str =
    "def app(e, s):\n    s('200 OK', [('Content-Length', '400000')])\n    return [b'x' * 400000]\n";

/// Uploads through nginx. Reads once the kernel has counted an abort, or after a while without one.
fn upload(body: usize, abort_expected: bool) -> Got {
    let before = Counters::read().unwrap();
    let mut stream = connect(8_080, Some(4_096));
    // nginx reads the whole request before it connects to the application server.
    let _ = stream.write_all(&request(body));
    let patience = Duration::from_millis(if abort_expected { 10_000 } else { 300 });
    let started = Instant::now();
    while aborts(&before) == 0 && started.elapsed() < patience {
        // There is no event for a counter, and the aborted connection belongs to other processes: this has to poll.
        thread::sleep(Duration::from_millis(2));
    }
    read(stream)
}

/// Uploads to a server behind nginx, bare and supervised. Compares lost responses, the kernel's aborts and the report.
fn behind_nginx(command: &[&str], location: &str, body: usize, loses: bool) -> Report {
    // The smallest buffers that TCP allows, as the default of all sockets.
    linger_testing::net::sysctl("ipv4/tcp_rmem", "4096 16384 16384").unwrap();
    let mut report = Report::new();
    for settings in [None, Some("")] {
        let server = Server::start_listening(settings, command, PORT);
        let directory = tempfile::tempdir().unwrap();
        let few = "proxy_buffers 4 4k; proxy_busy_buffers_size 8k; proxy_max_temp_file_size 0; \
                   fastcgi_buffers 4 4k; fastcgi_busy_buffers_size 8k; fastcgi_max_temp_file_size 0; \
                   uwsgi_buffers 4 4k; uwsgi_busy_buffers_size 8k; uwsgi_max_temp_file_size 0;";
        let Some(nginx) = nginx("127.0.0.1:8080 sndbuf=8k", directory.path(), location, few) else {
            return report;
        };
        let gateway = Server::start_listening(None, &words(&nginx), 8_080);
        let before = Counters::read().unwrap();
        let bare = settings.is_none();
        let lost = (0..TRIALS).filter(|_| !upload(body, bare && loses).is_whole()).count();
        let aborted = aborts(&before);
        gateway.stop(Signal::TERM);
        report = server.stop(Signal::INT);
        eprintln!(
            "{}, {settings:?}: {body} unread bytes, {lost} of {TRIALS} lost, {aborted} aborts",
            command[0]
        );
        let wanted = if bare && loses { TRIALS } else { 0 };
        assert_eq!(lost, wanted, "{command:?}, {settings:?}: {aborted} aborts; {report:?}");
        assert!(
            if wanted > 0 { aborted >= TRIALS as u64 } else { aborted == 0 },
            "{command:?}: {aborted} aborts"
        );
    }
    report
}

const HTTP: &str = "location / { proxy_pass http://127.0.0.1:8000; }";

fn uwsgi_with(socket: &'static str, location: &'static str) {
    secluded(|| {
        let directory = tempfile::tempdir().unwrap();
        let Some(command) = uwsgi(socket, &script(directory.path(), "app.py", WSGI)) else { return };
        for body in [2_000_000, 8_000_000] {
            let report = behind_nginx(&words(&command), location, body, true);
            assert_eq!(report["lingered"], TRIALS, "{report:?}");
        }
    });
}

#[test]
fn uwsgi_http_socket() {
    uwsgi_with("--http-socket", HTTP);
}

#[test]
fn uwsgi_own_socket() {
    uwsgi_with("--socket", "location / { include /etc/nginx/uwsgi_params; uwsgi_pass 127.0.0.1:8000; }");
}

#[test]
fn gunicorn_sync_and_gthread() {
    secluded(|| {
        let directory = tempfile::tempdir().unwrap();
        // Answers when more of the body waits unread than the 64 KiB that gunicorn drains.
        let wait = "import socket\ndef app(e, s):\n    \
                    e['gunicorn.socket'].recv(150000, socket.MSG_PEEK | socket.MSG_WAITALL)\n";
        script(directory.path(), "lossy.py", &WSGI.replace("def app(e, s):\n", wait));
        let large = "import socket\ndef when_ready(server):\n    for one in server.LISTENERS:\n        \
                     one.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 200000)\n";
        let config = script(directory.path(), "config.py", large);
        for class in ["sync", "gthread"] {
            let Some(mut command) = gunicorn(class, directory.path(), "lossy") else { return };
            command.extend(["--config".to_owned(), config.clone()]);
            let report = behind_nginx(&words(&command), HTTP, 2_000_000, true);
            assert_eq!(report["lingered"], TRIALS, "{report:?}");
        }
    });
}

/// Debian puts the version into the program's name.
fn php_fpm() -> Option<PathBuf> {
    let found = fs::read_dir("/usr/sbin").into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found: Vec<PathBuf> = found
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("php-fpm")))
        .collect();
    found.sort();
    if found.is_empty() {
        skip("php-fpm", "it is not installed");
    }
    found.pop()
}

/// This server drains by itself, so nothing is lost either way. Supervised, its closes are seen, too.
#[test]
fn php_fpm_keeps_what_it_kept() {
    secluded(|| {
        let Some(php) = php_fpm() else { return };
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().display();
        let page = "<?php header('Content-Length: 400000'); echo str_repeat('x', 400000);";
        let page = script(directory.path(), "early.php", page);
        let pool = format!(
            "[global]\nerror_log = {path}/error.log\ndaemonize = no\n[www]\nuser = root\ngroup = root\n\
             listen = 127.0.0.1:8000\npm = static\npm.max_children = 2\n"
        );
        let pool = script(directory.path(), "pool.conf", &pool);
        let command =
            [php.to_str().unwrap(), "-n", "-F", "-R", "-y", &pool, "-d", "enable_post_data_reading=0"];
        let location = format!(
            "location / {{ include /etc/nginx/fastcgi_params; fastcgi_param SCRIPT_FILENAME {page}; \
             fastcgi_pass 127.0.0.1:8000; }}"
        );
        let report = behind_nginx(&command, &location, 2_000_000, false);
        assert_eq!(report["closes"], TRIALS, "{report:?}");
    });
}
