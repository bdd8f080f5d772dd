//! `linger run` under a real systemd, with the units in `deploy/`: what a service manager promises a program is kept.
//!
//! systemd runs as the first process of namespaces of its own, in which everything is read-only but a few file systems that
//! end with them. It needs root.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use common::host::{Host, LINGER, default_target, deployed, service};

const SERVER: &str = r#"
import os, socket
if os.environ.get('NOTIFY_SOCKET'):
    n = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); n.connect(os.environ['NOTIFY_SOCKET'].replace('@', '\0', 1)); n.send(b'READY=1')
l = socket.create_server(('127.0.0.1', 8000), backlog=64)
while True:
    c, _ = l.accept(); c.recv(10); c.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 21); c.sendall(b'x' * 600000); c.close()
"#;

/// Clients that read a byte now and then, and the rest when they are told to; then say how many answers were whole.
const CLIENTS: &str = r#"
import select, socket, sys
all = []
for _ in range(50):
    s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096); s.connect(('127.0.0.1', 8000)); s.sendall(b'y' * 20000)
    all.append(s)
for s in all: s.recv(1, socket.MSG_PEEK)
print('answered', flush=True)
begun = 0
while not select.select([sys.stdin], [], [], 0.1)[0]:
    for s in all: assert s.recv(1) == b'x'
    begun += 1
whole = 0
for s in all:
    got = begun
    try:
        while True:
            data = s.recv(65536)
            if not data: break
            got += len(data)
    except OSError: pass
    whole += got == 600000
print('whole', whole, flush=True)
"#;

/// Stops a unit, and says after how many milliseconds its port was free.
const STOPS: &str = r#"
import socket, subprocess, sys, time
started = time.monotonic()
stopping = subprocess.Popen(['systemctl', 'stop', sys.argv[1]])
while True:
    s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try: s.bind(('127.0.0.1', 8000)); s.listen(); break
    except OSError: s.close(); time.sleep(0.001)
print(f'port free after {(time.monotonic() - started) * 1000:.0f} ms', flush=True)
s.close()
sys.exit(stopping.wait())
"#;

/// A restart does not wait for lingering connections, and does not end them.
#[test]
fn a_restart_waits_for_no_client() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = directory.path().join("server.py");
    fs::write(&file, SERVER).unwrap();
    let app =
        |way: &str| service("Type=notify", &format!("{LINGER} run {way} -- {PYTHON} {}", file.display()));
    let (preload, seccomp) = (app("--via preload"), app("--via seccomp"));
    let (socket, lingerd) = (deployed("linger.socket"), deployed("linger@.service"));
    let impatient = lingerd.replace("TimeoutStopSec=45", "TimeoutStopSec=100ms");
    assert_ne!(lingerd, impatient);
    let units = [
        default_target(),
        ("linger.socket", &socket),
        ("linger@.service", &impatient),
        ("preload.service", &preload),
        ("seccomp.service", &seccomp),
    ];
    let Some(host) = Host::boot(&units) else { return };
    for (unit, supervisors) in [("preload", 1), ("seccomp", 2)] {
        host.systemctl(&["start", unit]);
        assert_eq!(
            host.processes(&format!("{unit}.service")),
            1 + supervisors,
            "without linger.socket the supervisor, and its guard, are in the program's unit"
        );
        host.systemctl(&["stop", unit]);
    }
    host.systemctl(&["start", "linger.socket"]);
    for unit in ["preload", "seccomp"] {
        restarts_while_clients_drip(&host, unit);
    }
    // Whoever stops the supervisors does not take their programs' calls away: this one's closes, and its end.
    host.systemctl(&["start", "seccomp"]);
    let _ = host.command(&["systemctl", "stop", "linger@*.service"]).status();
    assert_eq!(host.said(&[PYTHON, "-c", ASKS]), "answered twice");
    host.systemctl(&["stop", "seccomp"]);
}

/// Asks a server that answers one after the other: the second only once it has closed the first.
const ASKS: &str = r#"
import socket
for _ in range(2):
    s = socket.create_connection(('127.0.0.1', 8000)); s.sendall(b'y' * 10)
    got = 0
    while got < 600000: got += len(s.recv(65536))
print('answered twice')
"#;

const PYTHON: &str = "/usr/bin/python3";

fn restarts_while_clients_drip(host: &Host, unit: &str) {
    let (app, python) = (unit, PYTHON);
    let service = format!("{unit}.service");
    host.systemctl(&["start", app]);
    assert_eq!(host.processes(&service), 1, "{app}: the supervisor has a unit of its own");
    let mut clients = host.command(&[python, "-c", CLIENTS]);
    let mut clients = clients.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut told = BufReader::new(clients.stdout.take().unwrap());
    let mut line = String::new();
    told.read_line(&mut line).unwrap();
    assert_eq!(line, "answered\n");
    let (first, started) = (host.systemctl(&["show", "--value", "--property=MainPID", app]), Instant::now());
    // The clients read the rest only after it has returned.
    host.systemctl(&["restart", app]);
    let took = started.elapsed();
    assert_ne!(first, host.systemctl(&["show", "--value", "--property=MainPID", app]));
    assert_eq!(host.processes(&service), 1);
    let stopped = host.said(&[python, "-c", STOPS, app]);
    eprintln!("{app}, 50 clients that drip: {took:?} for a restart; at a stop {stopped}");
    clients.stdin.take().unwrap().write_all(b"read\n").unwrap();
    let mut rest = String::new();
    told.read_to_string(&mut rest).unwrap();
    clients.wait().unwrap();
    assert_eq!(rest, "whole 50\n");
}

/// The program gets what systemd gives to the process that it starts, because it is that process.
#[test]
fn the_program_is_the_main_process() {
    let script = "grep SigIgn /proc/self/status; echo watchdog $((WATCHDOG_PID == $$)) listen $((LISTEN_PID == $$)) $LISTEN_FDS";
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = directory.path().join("server.py");
    fs::write(&file, SERVER).unwrap();
    let told = |name: &str, run: &str, more: &str| {
        let command = format!("{run} /bin/sh -c '{}; exec sleep 1000'", script.replace('$', "$$"));
        service(&format!("StandardOutput=file:/run/{name}\nWatchdogSec=100\n{more}"), &command)
    };
    let runs = [
        "",
        &format!("{LINGER} run --"),
        &format!("{LINGER} run --stay --"),
        &format!("{LINGER} run --via seccomp --"),
    ];
    let mut units = vec![(default_target().0.to_owned(), default_target().1.to_owned())];
    for (number, run) in runs.iter().enumerate() {
        for (name, more) in [("ignored", ""), ("default", "IgnoreSIGPIPE=no")] {
            let name = format!("{name}{number}");
            units.push((format!("{name}.service"), told(&name, run, more)));
            let port = 9_000 + units.len();
            units.push((
                format!("{name}.socket"),
                format!("[Unit]\nDefaultDependencies=no\n[Socket]\nListenStream=127.0.0.1:{port}\n"),
            ));
        }
        let notify =
            service("Type=notify\nTimeoutStartSec=3", &format!("{run} /usr/bin/python3 {}", file.display()));
        units.push((format!("notify{number}.service"), notify));
    }
    let units: Vec<(&str, &str)> = units.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let Some(host) = Host::boot(&units) else { return };
    for (number, run) in runs.iter().enumerate() {
        for (name, ignored) in [("ignored", true), ("default", false)] {
            let name = format!("{name}{number}");
            host.systemctl(&["start", &format!("{name}.socket"), &format!("{name}.service")]);
            let said = host.said(&[
                "sh",
                "-c",
                &format!("until grep listen /run/{name}; do sleep 0.01; done; cat /run/{name}"),
            ]);
            assert!(said.contains("watchdog 1 listen 1 1"), "{run}: {said}");
            let mask = said.lines().find_map(|line| line.strip_prefix("SigIgn:\t")).unwrap();
            let mask = u64::from_str_radix(mask.trim(), 16).unwrap();
            assert_eq!(mask >> 12 & 1 == 1, ignored, "{run}: SIGPIPE, {said}");
        }
        // systemd accepts notifications of the main process only (NotifyAccess=main). With `--stay` the program is a child,
        // so that this one must fail.
        let started = host.command(&["systemctl", "start", &format!("notify{number}")]).status().unwrap();
        assert_eq!(started.success(), number != 2, "{run}: Type=notify");
        let _ = host.command(&["systemctl", "stop", &format!("notify{number}")]).status();
    }
}

/// A server with a watchdog: reloads at SIGHUP, and from SIGUSR2 on it notifies nobody. Writes what happens to it to a file.
const WATCHED: &str = r#"
import os, signal, socket, sys, time
n = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); n.connect(os.environ['NOTIFY_SOCKET'].replace('@', '\0', 1))
out = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
say = lambda text: os.write(out, (text + '\n').encode())
silent = []
signal.signal(signal.SIGHUP, lambda *_: (say('reloads'), n.send(b'RELOADING=1'), n.send(b'READY=1')))
signal.signal(signal.SIGUSR2, lambda *_: (say('is silent'), silent.append(1)))
def abort(*_): say('is aborted'); signal.signal(signal.SIGABRT, signal.SIG_DFL); os.kill(os.getpid(), signal.SIGABRT)
signal.signal(signal.SIGABRT, abort)
l = socket.create_server(('127.0.0.1', int(sys.argv[2])))
say('starts')
n.send(b'READY=1')
while True:
    if not silent: n.send(b'WATCHDOG=1')
    time.sleep(0.1)
"#;

/// A reload reaches the program, and one that stops its notifications is ended and started again, as without `linger run`.
#[test]
fn a_reload_and_a_watchdog_are_as_bare() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = directory.path().join("watched.py");
    fs::write(&file, WATCHED).unwrap();
    let runs = ["", "run --", "run --stay --", "run --via seccomp --"];
    let watched: Vec<(String, String)> = runs
        .iter()
        .enumerate()
        .map(|(number, run)| {
            // With `--stay` the program is no main process.
            let lines = "Type=notify\nNotifyAccess=all\nWatchdogSec=3\nRestart=on-watchdog\nRestartSec=0\n\
                         ExecReload=/bin/kill -HUP $MAINPID";
            let run = if run.is_empty() { String::new() } else { format!("{LINGER} {run} ") };
            let port = 9_100 + number;
            let command = format!("{run}{PYTHON} {} /run/told{number} {port}", file.display());
            (format!("watched{number}.service"), service(lines, &command))
        })
        .collect();
    let mut units = vec![default_target()];
    units.extend(watched.iter().map(|(name, text)| (name.as_str(), text.as_str())));
    let Some(host) = Host::boot(&units) else { return };
    let all: Vec<String> = (0..runs.len()).map(|number| reloads_and_fails(&host, number)).collect();
    assert_eq!(all[0], "starts\nreloads\nis silent\nis aborted\nstarts\nreloads");
    for (run, told) in runs.iter().zip(&all) {
        assert_eq!(told, &all[0], "{run}");
    }
}

/// What a watched unit says: it is reloaded, silenced, and reloaded once it has been started again.
fn reloads_and_fails(host: &Host, number: usize) -> String {
    let (unit, told) = (format!("watched{number}"), format!("/run/told{number}"));
    let show = |property: &str| {
        host.systemctl(&["show", "--value", &format!("--property={property}"), unit.as_str()])
    };
    let await_times = |times: usize, line: &str| {
        let waits = format!("until [ $(grep -cx '{line}' {told}) = {times} ]; do sleep 0.01; done");
        host.said(&["timeout", "60", "sh", "-c", &waits])
    };
    host.systemctl(&["start", &unit]);
    host.systemctl(&["reload", &unit]);
    await_times(1, "reloads");
    let first = show("MainPID");
    assert_eq!((show("NRestarts").as_str(), show("ActiveState").as_str()), ("0", "active"));
    host.said(&["systemctl", "kill", "--kill-who=main", "--signal=USR2", &unit]);
    await_times(2, "starts");
    // It is ready when systemd says so; a reload of what starts is refused.
    host.systemctl(&["start", &unit]);
    assert_eq!(show("NRestarts"), "1");
    assert_ne!(show("MainPID"), first);
    host.systemctl(&["reload", &unit]);
    await_times(2, "reloads");
    let all = host.said(&["cat", &told]);
    host.systemctl(&["stop", &unit]);
    all
}

/// Sends a request whose body the server does not read, reads late, and says whether the answer was whole.
const UPLOADS: &str = r#"
import socket, sys, time
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096); s.connect(('127.0.0.1', 8000))
s.sendall(b'POST / HTTP/1.0\r\nContent-Length: 20000\r\n\r\n' + b'y' * 20000)
s.recv(1, socket.MSG_PEEK); time.sleep(0.4); got = b''
try:
    while True:
        data = s.recv(65536)
        if not data: break
        got += data
except OSError: pass
print('whole' if len(got.split(b'\r\n\r\n', 1)[-1]) == 600000 else 'cut')
"#;

/// The unit that docs/run.md has for uWSGI, which takes SIGTERM for a reload: with its option, or with another signal, it stops.
#[test]
fn the_documented_unit_of_uwsgi_stops() {
    if !Path::new("/usr/bin/uwsgi").exists() {
        return linger_testing::skip("uwsgi-core", "uwsgi is not installed");
    }
    let documents = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/run.md");
    let documents = fs::read_to_string(documents).unwrap();
    let line = documents
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart=/usr/bin/linger run -- /usr/bin/uwsgi"));
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (settings, app) = (directory.path().join("app.ini"), directory.path().join("app.py"));
    let answers = "def application(environ, start):\n    start('200 OK', [])\n    return [b'x' * 600000]\n";
    fs::write(&app, answers).unwrap();
    let lines = "[uwsgi]\nplugins = python3\nhttp-socket = 127.0.0.1:8000\nmaster = true\nwsgi-file =";
    fs::write(&settings, format!("{lines} {}\n", app.display())).unwrap();
    let command = line.expect("the document has it").replace("/etc/app.ini", settings.to_str().unwrap());
    let plain = command.replace(" --die-on-term", "");
    assert_ne!(command, plain);
    let supervised = |words: &str| format!("{LINGER} run -- /usr/bin/uwsgi{words}");
    let unit = |more: &str, command: &str| service(&format!("Type=notify\n{more}"), command);
    let units = [
        ("bare.service", unit("TimeoutStopSec=30", &format!("/usr/bin/uwsgi{command}"))),
        ("documented.service", unit("TimeoutStopSec=30", &supervised(&command))),
        ("quit.service", unit("TimeoutStopSec=30\nKillSignal=SIGQUIT", &supervised(&plain))),
        ("plain.service", unit("TimeoutStopSec=2", &supervised(&plain))),
    ];
    let mut all = vec![default_target()];
    all.extend(units.iter().map(|(name, text)| (*name, text.as_str())));
    let Some(host) = Host::boot(&all) else { return };
    for (name, answer, result) in [
        ("bare", "cut", "success"),
        ("documented", "whole", "success"),
        ("quit", "whole", "success"),
        ("plain", "whole", "timeout"),
    ] {
        host.systemctl(&["start", name]);
        assert_eq!(host.said(&[PYTHON, "-c", UPLOADS]), answer, "{name}");
        host.systemctl(&["stop", name]);
        assert_eq!(host.systemctl(&["show", "--value", "--property=Result", name]), result, "{name}");
    }
}

/// `linger share` as the units start it: a user of its own, its keys kept, and what arrives is that user's.
#[test]
fn a_share_runs_as_a_user_of_its_own() {
    let (socket, share) = (deployed("linger-share.socket"), deployed("linger-share.service"));
    let units = [default_target(), ("linger-share.socket", &socket), ("linger-share.service", &share)];
    // The user that the file for systemd-sysusers makes, in a copy of the host's files.
    let users = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/linger-share.sysusers.conf");
    let make = format!(
        "mkdir -p /run/root/etc\ncp /etc/passwd /etc/group /run/root/etc\nsystemd-sysusers --root=/run/root - < {}\n\
         for file in passwd group; do mount --bind /run/root/etc/$file /etc/$file; done\n",
        users.display()
    );
    let Some(host) = Host::boot_with(&units, &make) else { return };
    host.systemctl(&["start", "linger-share.socket"]);
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (file, code) = (directory.path().join("file"), directory.path().join("code"));
    fs::write(&file, b"for the service").unwrap();
    let put = |code: &str| {
        let mut put = host.command(&[
            "env",
            "XDG_CONFIG_HOME=/run/client",
            LINGER,
            "put",
            "--code-file",
            code,
            "--retry-for",
            "0",
        ]);
        put.args([file.to_str().unwrap(), "127.0.0.1:new/"]).output().unwrap()
    };
    // The first connection starts the service. To the service root is a stranger, too, and has no code.
    fs::write(&code, "0000-0000").unwrap();
    let refused = put(code.to_str().unwrap());
    assert_eq!(refused.status.code(), Some(1), "{}", String::from_utf8_lossy(&refused.stderr));
    let pid = host.systemctl(&["show", "--value", "--property=MainPID", "linger-share"]);
    let status = host.said(&["cat", &format!("/proc/{pid}/status")]);
    let uid =
        status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap().split_whitespace().next().unwrap();
    assert_ne!(uid, "0", "{status}");
    assert!(status.contains("CapPrm:\t0000000000000000"), "{status}");
    let place = "/var/lib/linger-share";
    let keys = host.said(&["find", place, "-name", "key", "-printf", "%U %m"]);
    assert_eq!(keys, format!("{uid} 600"));
    // A machine that is known: what the pairing would write.
    let key = host.said(&["env", "XDG_CONFIG_HOME=/run/client", LINGER, "peers", "--own"]);
    let known = format!(
        "echo 'client {key}' >> {place}/keys/linger/known_clients && chown --reference={place}/keys {place}/keys/linger/known_clients"
    );
    host.said(&["sh", "-c", &known]);
    let server = host.said(&["env", &format!("XDG_CONFIG_HOME={place}/keys"), LINGER, "peers", "--own"]);
    host.said(&["sh", "-c", &format!("echo '127.0.0.1:7117 {server}' > /run/client/linger/known_hosts")]);
    let done = put(code.to_str().unwrap());
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let arrived = host.said(&["find", &format!("{place}/incoming"), "-type", "f", "-printf", "%U %P %m"]);
    assert_eq!(arrived, format!("{uid} new/file 640"));
    host.systemctl(&["stop", "linger-share.service"]);
}
