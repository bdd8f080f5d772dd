//! `linger run` in containers of a real Docker Engine, under its default profile as it is: no capability is added.
//!
//! The engine is this test's own: its files are in a temporary directory, and it has no network. It needs root.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use linger_testing::skip;
use rustix::process::{Pid, Signal, kill_process};

use common::ready::Readiness;

const LINGER: &str = env!("CARGO_BIN_EXE_linger");

/// Small servers: `acts early_close` answers one client of whose request it has read ten bytes.
const ACTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../run/tests/programs/acts.c");

/// A client that sends more than is read, reads late, and prints what came.
const CLIENT: &str = "
import socket, time
while True:
    try: c = socket.create_connection(('127.0.0.1', 8000)); break
    except ConnectionRefusedError: time.sleep(0.01)
c.sendall(b'y' * 20000)
time.sleep(0.2)
got = b''
while more := c.recv(65536): got += more
print(len(got), got[-3:])
";

/// The options of a container with a read-only root, no capability, no new privileges and another user.
const RESTRICTED: [&str; 8] = [
    "--read-only",
    "--cap-drop",
    "ALL",
    "--security-opt",
    "no-new-privileges",
    "--user",
    "65534:65534",
    "--env=TMPDIR=/no/such/place",
];

/// The system calls that containerd's default profile refuses to a container without capabilities, as far as they look
/// at other processes, make namespaces, or are newer than the profile (contrib/seccomp/seccomp_default.go, 1.6 and
/// later). All other calls are permitted here: a profile that refuses less is no harder to work under.
const REFUSED: &str = r#""bpf", "fanotify_init", "io_uring_enter", "io_uring_register", "io_uring_setup", "kcmp", "mount",
    "name_to_handle_at", "open_by_handle_at", "perf_event_open", "pidfd_getfd", "process_vm_readv", "process_vm_writev", "ptrace", "setns",
    "umount2", "unshare", "userfaultfd""#;

/// The calls that older versions of the profile (before 1.5) do not know, and so refuse.
const UNKNOWN: &str = r#", "close_range", "pidfd_open""#;

/// A profile in the form that a container's runtime reads. `clone3` is refused so that the C library uses `clone`,
/// whose flags a filter can examine.
fn profile(refused: &str) -> String {
    format!(
        r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {{"names": [{refused}], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}},
            {{"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}}]}}"#
    )
}

struct Engine {
    process: Child,
    directory: tempfile::TempDir,
}

impl Engine {
    /// Starts an engine with an image called `case`, made of `root`. `None` if that is not possible here.
    fn start(root: &Path) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            skip("root", "a Docker Engine of one's own needs it");
            return None;
        }
        if !Path::new("/usr/sbin/dockerd").exists() {
            skip("docker.io", "it is not installed");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name).display().to_string();
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "/usr/sbin/dockerd", "--storage-driver=vfs"]);
        command.args([
            "--bridge=none",
            "--iptables=false",
            "--data-root",
            &at("data"),
            "--exec-root",
            &at("exec"),
        ]);
        command.args(["--host", &format!("unix://{}", at("socket")), "--pidfile", &at("pid")]);
        let ready = Readiness::new();
        command.env("NOTIFY_SOCKET", ready.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(at("log")).unwrap());
        let engine = Self { process: command.spawn().unwrap(), directory };
        if !ready.wait() {
            skip("docker.io", "an engine of one's own does not start here");
            return None;
        }
        let image = engine.directory.path().join("image.tar").display().to_string();
        let mut pack = Command::new("tar");
        pack.args(["-C", &root.display().to_string(), "-cf", &image, "."]);
        assert!(pack.status().unwrap().success());
        engine.said(&["import", &image, "case"]);
        Some(engine)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command
            .arg("--host")
            .arg(format!("unix://{}", self.directory.path().join("socket").display()))
            .args(words);
        command
    }

    fn said(&self, words: &[&str]) -> String {
        let output = self.command(words).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {errors}");
        (String::from_utf8_lossy(&output.stdout).into_owned() + &errors).trim().to_owned()
    }

    /// Runs a server in a container, and one client in its network. Returns what the client got, the container's exit status
    /// and what was logged.
    fn serve(&self, options: &[&str], command: &[&str]) -> (String, String, String) {
        let run =
            [&["run", "--detach", "--net=none", "--volume", MOUNTED], options, &["case"], command].concat();
        let container = self.said(&run);
        let process = self.said(&["inspect", "--format", "{{.State.Pid}}", &container]);
        let client = ["--net", "--target", &process, "timeout", "20", "python3", "-c", CLIENT];
        let got = Command::new("nsenter").args(client).output().unwrap();
        let status = self.said(&["wait", &container]);
        let log = self.said(&["logs", &container]);
        self.said(&["rm", &container]);
        (String::from_utf8_lossy(&got.stdout).trim().to_owned(), status, log)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // The engine ends the runtime of its containers as well.
        let _ = kill_process(Pid::from_child(&self.process), Signal::TERM);
        let _ = self.process.wait();
    }
}

/// The program of this build is mounted, because the engine would copy an image for each container.
const MOUNTED: &str = concat!(env!("CARGO_BIN_EXE_linger"), ":/linger:ro");

/// Puts a program's libraries into an image's root.
fn put_libraries(root: &Path, program: &str) {
    let libraries = Command::new("ldd").arg(program).output().unwrap();
    for word in
        String::from_utf8_lossy(&libraries.stdout).split_whitespace().filter(|word| word.starts_with('/'))
    {
        let to = root.join(word.trim_start_matches('/'));
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(word, to).unwrap();
    }
}

/// The root directory of an image: `linger` and its libraries, and the servers of `acts.c` twice, linked statically and
/// dynamically. `None` if gcc is not installed.
fn image() -> Option<tempfile::TempDir> {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    for (name, linked) in [("static", "-static"), ("dynamic", "-O1")] {
        let to = root.join(name).display().to_string();
        let mut build = Command::new("gcc");
        build.args(["-O1", "-w", "-pthread", linked, "-o", &to, ACTS]);
        let Ok(status) = build.status() else {
            skip("gcc", "it is not installed");
            return None;
        };
        assert!(status.success());
    }
    put_libraries(root, LINGER);
    put_libraries(root, &root.join("dynamic").display().to_string());
    fs::create_dir(root.join("tmp")).unwrap();
    Some(directory)
}

/// A pod that is restricted as in Kubernetes, under containerd's profile: no capability, a read-only root, a user that
/// is not root, and no file that can be written can be executed.
#[test]
fn in_a_restricted_pod_of_containerd() {
    let Some(directory) = image() else { return };
    let Some(engine) = Engine::start(directory.path()) else { return };
    let whole = "200022 b'END'";
    let at = |name: &str, text: String| {
        let path = engine.directory.path().join(name);
        fs::write(&path, text).unwrap();
        format!("seccomp={}", path.display())
    };
    let now = at("now.json", profile(REFUSED));
    let old = at("old.json", profile(&format!("{REFUSED}{UNKNOWN}")));
    for (program, profile, is_served) in [
        ("/dynamic", &now, true),
        ("/static", &now, true),
        ("/dynamic", &old, true),
        ("/static", &old, false),
    ] {
        let options =
            [&RESTRICTED[..], &["--tmpfs", "/tmp:noexec,mode=1777", "--security-opt", profile]].concat();
        let command = ["/linger", "run", "--", program, "early_close"];
        if is_served {
            let (got, status, log) = engine.serve(&options, &command);
            assert_eq!((got.as_str(), status.as_str()), (whole, "0"), "{program} {profile}: {log}");
            assert!(log.contains("1 closes: 1 lingered"), "{program} {profile}: {log}");
        } else {
            let run =
                [&["run", "--rm", "--net=none", "--volume", MOUNTED], &options[..], &["case"], &command]
                    .concat();
            let ended = engine.command(&run).output().unwrap();
            let said = String::from_utf8_lossy(&ended.stderr);
            assert!(said.contains("forbids close_range pidfd_open; permit it in"), "{said}");
            assert_eq!(ended.status.code(), Some(4), "{said}");
        }
    }
}

#[test]
fn under_the_default_profile_of_docker() {
    let Some(directory) = image() else { return };
    let Some(engine) = Engine::start(directory.path()) else { return };
    let whole = "200022 b'END'";
    for program in ["/dynamic", "/static"] {
        let (got, ..) = engine.serve(&[], &[program, "early_close"]);
        assert_ne!(got, whole, "{program} bare");
        for options in [&[][..], &RESTRICTED] {
            let command = ["/linger", "run", "--json", "--", program, "early_close"];
            let (got, status, log) = engine.serve(options, &command);
            assert_eq!((got.as_str(), status.as_str()), (whole, "0"), "{program} {options:?}: {log}");
            let report = log.lines().find(|line| line.starts_with("{\"type\":\"run\","));
            let report: serde_json::Value = serde_json::from_str(report.unwrap_or_default()).expect(&log);
            assert_eq!((&report["lingered"], &report["lost"]), (&1.into(), &0.into()), "{program}: {log}");
        }
    }
}
