//! A systemd of a test's own: the first process of namespaces in which everything is read-only but a few file systems that end
//! with them. It needs root.
#![allow(dead_code)] // Each test is compiled with a copy of this file, and uses a part of it.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;

use linger_testing::skip;
use rustix::process::{Pid, Signal, kill_process};

use super::ready::Readiness;

pub(crate) const LINGER: &str = env!("CARGO_BIN_EXE_linger");

/// Mounts the second version of control groups where only this process sees it. In the first, systemd would make groups in every
/// hierarchy of the host's.
const CONTROL_GROUPS: &str =
    "mount --make-rprivate / && mount -t cgroup2 cgroup2 /sys/fs/cgroup && cd /sys/fs/cgroup";

/// Moves itself to a control group of its own, `$2`, and makes the namespaces, in which `$1` runs.
const OUTSIDE: &str = r#" && mkdir "$2" && echo $$ > "$2/cgroup.procs" &&
exec unshare --mount --pid --net --uts --ipc --cgroup --fork --kill-child sh -c "$1""#;

pub(crate) struct Host {
    unshare: Child,
    /// The pid of systemd as the host sees it.
    systemd: String,
    group: String,
}

impl Host {
    /// Boots a systemd that knows these units. `None` where that cannot be.
    pub(crate) fn boot(units: &[(&str, &str)]) -> Option<Self> {
        Self::boot_with(units, "")
    }

    /// Does the same, after the shell commands `before`.
    pub(crate) fn boot_with(units: &[(&str, &str)], before: &str) -> Option<Self> {
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
            if let Some((folder, _)) = name.split_once('/') {
                script += &format!("mkdir -p /run/systemd/system/{folder}\n");
            }
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
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--all", "--target", &self.systemd]).args(words);
        command
    }

    pub(crate) fn said(&self, words: &[&str]) -> String {
        let Output { status, stdout, stderr } = self.command(words).output().unwrap();
        let text = String::from_utf8_lossy(&stdout).into_owned();
        assert!(status.success(), "{words:?}: {text}{}", String::from_utf8_lossy(&stderr));
        text.trim().to_owned()
    }

    pub(crate) fn systemctl(&self, words: &[&str]) -> String {
        self.said(&[&["systemctl"], words].concat())
    }

    /// How many processes a unit has.
    pub(crate) fn processes(&self, unit: &str) -> usize {
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
pub(crate) fn deployed(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(name);
    let text = fs::read_to_string(path).unwrap();
    // What the units wait for at a boot would clean and mount things in the namespaces.
    text.replace("/usr/bin/linger", LINGER).replacen("[Unit]", "[Unit]\nDefaultDependencies=no", 1)
}

pub(crate) fn service(lines: &str, command: &str) -> String {
    format!("[Unit]\nDefaultDependencies=no\n[Service]\n{lines}\nExecStart={command}\n")
}

pub(crate) fn default_target() -> (&'static str, &'static str) {
    ("default.target", "[Unit]\nDescription=nothing\n")
}
