//! `linger run` under a real systemd, with the units in `deploy/`: what a service manager promises a program is kept.
//!
//! systemd runs as the first process of namespaces of its own, in which everything is read-only but a few file systems that
//! end with them. It needs root.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Instant;

use linger_testing::skip;
use rustix::process::{Pid, Signal, kill_process};

use common::ready::Readiness;

const LINGER: &str = env!("CARGO_BIN_EXE_linger");

/// Mounts the second version of control groups where only this process sees it. In the first, systemd would make groups in every
/// hierarchy of the host's.
const CONTROL_GROUPS: &str =
    "mount --make-rprivate / && mount -t cgroup2 cgroup2 /sys/fs/cgroup && cd /sys/fs/cgroup";

/// Moves itself to a control group of its own, `$2`, and makes the namespaces, in which `$1` runs.
const OUTSIDE: &str = r#" && mkdir "$2" && echo $$ > "$2/cgroup.procs" &&
exec unshare --mount --pid --net --uts --ipc --cgroup --fork --kill-child sh -c "$1""#;

struct Host {
    unshare: Child,
    /// The pid of systemd as the host sees it.
    systemd: String,
    group: String,
}

impl Host {
    /// Boots a systemd that knows these units. `None` where that cannot be.
    fn boot(units: &[(&str, &str)]) -> Option<Self> {
        Self::boot_with(units, "")
    }

    /// Does the same, after the shell commands `before`.
    fn boot_with(units: &[(&str, &str)], before: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            skip("root", "a systemd of one's own needs it");
            return None;
        }
        if !Path::new("/lib/systemd/systemd").exists() {
            skip("systemd", "it is not installed");
            return None;
        }
        // systemd removes what it finds in /tmp: nothing of the host may be writable before it starts.
        let mut script = String::from(
            "set -e\nmount --make-rprivate /\nmount -o remount,bind,ro /\n\
             for place in /tmp /var/tmp /run /var/log /var/lib; do mount -t tmpfs -o mode=1777 tmpfs $place; done\n",
        );
        script += "mount -t proc proc /proc\numount -l /sys/fs/cgroup\nmount -t cgroup2 cgroup2 /sys/fs/cgroup\nip link set lo up\n";
        script += "mkdir -p /run/systemd/system /run/lock\n";
        // Not the host's default target, which would start the services that are enabled there.
        script += "printf '[Unit]\\nDefaultDependencies=no\\n' > /run/systemd/system/nothing.target\n";
        for (name, text) in units {
            script += &format!("cat > /run/systemd/system/{name} <<'END-OF-UNIT'\n{text}\nEND-OF-UNIT\n");
        }
        script += before;
        let ready = Readiness::new();
        script += &format!("export NOTIFY_SOCKET={}\n", ready.path().display());
        script += "export container=lxc\nexec /lib/systemd/systemd --system --unit=nothing.target --log-target=null\n";
        let test = thread::current().name().unwrap_or_default().to_owned();
        let group = format!("linger-{test}-{}", std::process::id());
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "sh", "-c", &format!("{CONTROL_GROUPS}{OUTSIDE}"), "sh", &script, &group]);
        unshare.stdin(Stdio::null()).stdout(Stdio::null());
        let unshare = unshare.stderr(Stdio::null()).spawn().unwrap();
        let mut host = Self { unshare, systemd: String::new(), group };
        if !host.is_booted(&ready) {
            skip("systemd", "it does not start in namespaces of its own here");
            return None;
        }
        Some(host)
    }

    /// Waits until systemd has started its target: the first process of a container says so to `NOTIFY_SOCKET`.
    fn is_booted(&mut self, ready: &Readiness) -> bool {
        if !ready.wait() {
            return false;
        }
        let pid = self.unshare.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        children.trim().clone_into(&mut self.systemd);
        !self.systemd.is_empty()
    }

    /// A command in systemd's namespaces.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--all", "--target", &self.systemd]).args(words);
        command
    }

    fn said(&self, words: &[&str]) -> String {
        let Output { status, stdout, stderr } = self.command(words).output().unwrap();
        let text = String::from_utf8_lossy(&stdout).into_owned();
        assert!(status.success(), "{words:?}: {text}{}", String::from_utf8_lossy(&stderr));
        text.trim().to_owned()
    }

    fn systemctl(&self, words: &[&str]) -> String {
        self.said(&[&["systemctl"], words].concat())
    }

    /// How many processes a unit has.
    fn processes(&self, unit: &str) -> usize {
        let group = self.systemctl(&["show", "--value", "--property=ControlGroup", unit]);
        self.said(&["cat", &format!("/sys/fs/cgroup{group}/cgroup.procs")]).lines().count()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // With the first process of the pid namespace all others end, before it is reaped.
        match self.systemd.parse().ok().and_then(Pid::from_raw) {
            Some(systemd) => drop(kill_process(systemd, Signal::KILL)),
            None => drop(self.unshare.kill()),
        }
        let _ = self.unshare.wait();
        let remove = format!("{CONTROL_GROUPS} && find {} -depth -type d -exec rmdir {{}} +", self.group);
        let _ = Command::new("unshare").args(["--mount", "sh", "-c", &remove]).status();
    }
}

/// A unit of `deploy/`, with the program of this build.
fn deployed(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(name);
    let text = fs::read_to_string(path).unwrap();
    // What the units wait for at a boot would clean and mount things in the namespaces.
    text.replace("/usr/bin/linger", LINGER).replacen("[Unit]", "[Unit]\nDefaultDependencies=no", 1)
}

fn service(lines: &str, command: &str) -> String {
    format!("[Unit]\nDefaultDependencies=no\n[Service]\n{lines}\nExecStart={command}\n")
}

const SERVER: &str = r#"
import os, socket
if os.environ.get('NOTIFY_SOCKET'):
    n = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); n.connect(os.environ['NOTIFY_SOCKET'].replace('@', '\0', 1)); n.send(b'READY=1')
l = socket.create_server(('127.0.0.1', 8000), backlog=64)
while True:
    c, _ = l.accept(); c.recv(10); c.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 21); c.sendall(b'x' * 600000); c.close()
"#;

/// Clients that read only when they are told to, and then say how many answers were whole.
const CLIENTS: &str = r#"
import socket, sys
all = []
for _ in range(50):
    s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096); s.connect(('127.0.0.1', 8000)); s.sendall(b'y' * 20000)
    all.append(s)
for s in all: s.recv(1, socket.MSG_PEEK)
print('answered', flush=True)
sys.stdin.readline()
whole = 0
for s in all:
    got = 0
    try:
        while True:
            data = s.recv(65536)
            if not data: break
            got += len(data)
    except OSError: pass
    whole += got == 600000
print('whole', whole, flush=True)
"#;

fn default_target() -> (&'static str, &'static str) {
    ("default.target", "[Unit]\nDescription=nothing\n")
}

/// A restart does not wait for lingering connections, and does not end them.
#[test]
fn a_restart_waits_for_no_client() {
    let python = "/usr/bin/python3";
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = directory.path().join("server.py");
    fs::write(&file, SERVER).unwrap();
    let command = format!("{LINGER} run -- {python} {}", file.display());
    let (socket, lingerd) = (deployed("linger.socket"), deployed("linger@.service"));
    let app = service("Type=notify", &command);
    let units =
        [default_target(), ("linger.socket", &socket), ("linger@.service", &lingerd), ("app.service", &app)];
    let Some(host) = Host::boot(&units) else { return };
    host.systemctl(&["start", "app"]);
    assert_eq!(
        host.processes("app.service"),
        2,
        "without linger.socket the supervisor is in the program's unit"
    );
    host.systemctl(&["stop", "app"]);
    host.systemctl(&["start", "linger.socket"]);
    host.systemctl(&["start", "app"]);
    assert_eq!(host.processes("app.service"), 1, "the supervisor has a unit of its own");
    let mut clients = host.command(&[python, "-c", CLIENTS]);
    let mut clients = clients.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut told = BufReader::new(clients.stdout.take().unwrap());
    let mut line = String::new();
    told.read_line(&mut line).unwrap();
    assert_eq!(line, "answered\n");
    let (first, started) =
        (host.systemctl(&["show", "--value", "--property=MainPID", "app"]), Instant::now());
    // The clients read only after it has returned.
    host.systemctl(&["restart", "app"]);
    let took = started.elapsed();
    assert_ne!(first, host.systemctl(&["show", "--value", "--property=MainPID", "app"]));
    assert_eq!(host.processes("app.service"), 1);
    let started = Instant::now();
    host.systemctl(&["stop", "app"]);
    eprintln!("50 clients that read nothing: {took:?} for a restart, {:?} for a stop", started.elapsed());
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
        // systemd accepts notifications of the main process only (NotifyAccess=main). With `--stay` and with seccomp
        // the program is a child, so that the last two must fail.
        let started = host.command(&["systemctl", "start", &format!("notify{number}")]).status().unwrap();
        assert_eq!(started.success(), number < 2, "{run}: Type=notify");
        let _ = host.command(&["systemctl", "stop", &format!("notify{number}")]).status();
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
