//! `linger watch` with exactly the rights that `deploy/` gives it: the unit under a real systemd, and the pod's capabilities.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use common::host::{Host, LINGER, default_target, deployed, service};
use linger_testing::{refuse, skip};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

const PYTHON: &str = "/usr/bin/python3";

/// Waits for the endpoint, makes a listener and waits for its series at zero, closes ten connections with unread bytes, and waits
/// for their count. Prints the series' labels, and what the endpoint says of its health.
const BURST: &str = r#"
import http.client, re, socket, time
def get(path):
    c = http.client.HTTPConnection('127.0.0.1', 9464, timeout=20); c.request('GET', path); return c.getresponse().read().decode()
def wait(value):
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try: text = get('/metrics')
        except OSError: text = ''
        for line in text.splitlines():
            found = re.match(r'linger_resets_total\{(cause="closed-with-unread-data",direction="sent",process="python3",.*)\} (\d+)$', line)
            if found and found[2] == value: return found[1]
        time.sleep(0.05)
    raise SystemExit(text or 'no endpoint')
l = socket.create_server(('127.0.0.1', 0))
before = wait('0')
for _ in range(10):
    c = socket.create_connection(l.getsockname()); c.sendall(b'unread'); s, _ = l.accept(); s.recv(1, socket.MSG_PEEK); s.close()
after = wait('10')
print(before == after, get('/healthz').strip(), re.search(r'unit="([^"]*)"', after)[1])
"#;

/// The unit as it is shipped starts with the rights that it has, counts the first burst, and a stop is no failure.
#[test]
fn the_unit_watches_with_the_rights_it_has() {
    // A user of the unit's own cannot enter the directory of the build.
    let unit = deployed("linger-watch.service").replace(LINGER, "/run/linger");
    assert!(unit.contains("ExecStart=/run/linger watch") && unit.contains("DynamicUser=yes"));
    let install = format!("install -m 755 {LINGER} /run/linger\n");
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let script = directory.path().join("burst.py");
    fs::write(&script, BURST).unwrap();
    let burst =
        service("Type=oneshot\nStandardOutput=file:/run/burst", &format!("{PYTHON} {}", script.display()));
    let units =
        [default_target(), ("linger-watch.service", unit.as_str()), ("burst.service", burst.as_str())];
    let Some(host) = Host::boot_with(&units, &install) else { return };
    host.systemctl(&["start", "linger-watch"]);
    host.systemctl(&["start", "burst"]);
    assert_eq!(host.said(&["cat", "/run/burst"]), "True ok burst.service");
    let show = |property: &str| {
        host.systemctl(&["show", "--value", &format!("--property={property}"), "linger-watch"])
    };
    // What reads strangers' requests has no rights, and the rest no more than the unit names.
    let pid = show("MainPID");
    let rights = |thread: &str| {
        let script = format!(
            "for t in /proc/{pid}/task/*; do grep -qx {thread} $t/comm && grep -h -e ^CapEff -e ^CapPrm $t/status; done; true"
        );
        host.said(&["sh", "-c", &script])
    };
    assert_eq!(rights("metrics"), "CapPrm:\t0000000000000000\nCapEff:\t0000000000000000");
    assert!(rights("linger").contains("CapEff:\t") && rights("linger") != rights("metrics"));
    host.systemctl(&["stop", "linger-watch"]);
    assert_eq!((show("Result").as_str(), show("ExecMainStatus").as_str()), ("success", "0"));
}

/// The capabilities that the DaemonSet adds, as `setpriv` names them.
fn pod_capabilities() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/linger-watch.daemonset.yaml");
    let pod = fs::read_to_string(path).unwrap();
    let added = pod.lines().find_map(|line| line.trim().strip_prefix("add: [")?.strip_suffix(']')).unwrap();
    let names: Vec<String> =
        added.split(", ").map(|name| format!("+{}", name.trim_matches('"').to_lowercase())).collect();
    names.join(",")
}

/// `linger watch` for no time, as root with these capabilities alone and limits of memory to lock and of files.
fn watch(capabilities: &str, memory: u64, files: u64) -> Command {
    let mut command = Command::new("prlimit");
    command.args([
        &format!("--memlock={memory}:{memory}"),
        &format!("--nofile={files}:{files}"),
        "setpriv",
        &format!("--bounding-set=-all,{capabilities}"),
        &format!("--inh-caps=-all,{capabilities}"),
        LINGER,
    ]);
    command.args(["watch", "--plain", "--for", "0", "--process", "nobody"]);
    command
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_pods_rights_are_enough_and_each_lack_has_its_line() {
    if !rustix::process::geteuid().is_root() {
        return skip("root", "it gives up capabilities");
    }
    let pod = pod_capabilities();
    let few_files = getrlimit(Resource::Nofile).maximum.unwrap_or(20_000).min(20_000);
    for memory in [8 << 20, 64 << 10] {
        let output = watch(&pod, memory, few_files).output().unwrap();
        let said = said(&output);
        assert_eq!(output.status.code(), Some(0), "{memory}: {said}");
        assert!(
            !said.contains("not known") && !said.contains("not named") && !said.contains("not seen"),
            "{said}"
        );
    }
    // Without the right to lock more, the smallest limit of systemd makes the rings smaller, and they still pass.
    let without = |name: &str| pod.split(',').filter(|one| *one != name).collect::<Vec<_>>().join(",");
    let output = watch(&without("+ipc_lock"), 64 << 10, few_files).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));

    let ends = |mut command: Command, lines: &[&str]| {
        let output = command.output().unwrap();
        let said = said(&output);
        assert_eq!(output.status.code(), Some(4), "{said}");
        assert!(lines.iter().all(|line| said.contains(line)) && said.lines().count() == 1, "{said}");
    };
    // No descriptors: EMFILE. Debian's and Ubuntu's kernel.perf_event_paranoid: EACCES. A seccomp profile: EPERM.
    ends(watch(&pod, 8 << 20, 12), &["perf events are refused", "ulimit -n ", "LimitNOFILE="]);
    let mut refused = watch(&without("+sys_admin"), 8 << 20, few_files);
    refuse(&mut refused, "perf_event_open", Errno::ACCESS);
    ends(refused, &["kernel.perf_event_paranoid"]);
    let mut refused = watch(&without("+sys_admin"), 8 << 20, few_files);
    refuse(&mut refused, "perf_event_open", Errno::PERM);
    ends(refused, &["seccomp"]);
    ends(watch(&without("+perfmon").replace("+sys_admin,", ""), 8 << 20, few_files), &["CAP_PERFMON"]);
}
