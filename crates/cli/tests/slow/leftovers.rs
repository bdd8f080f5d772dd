//! What `linger run` unpacks is removed, whichever of its processes is killed.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use linger_testing::{secluded, skip};
use rustix::process::{Pid, Signal, kill_process};

const LINGER: &str = env!("CARGO_BIN_EXE_linger");

/// The program in the place of the process that was started, and as its child.
const PLACES: [&[&str]; 2] = [&[], &["--stay"]];

/// A shell that runs until its stdin ends.
struct Running {
    child: Child,
    /// The pid of the shell.
    program: u32,
    library: PathBuf,
    stdin: Option<ChildStdin>,
}

impl Running {
    fn start(options: &[&str], temporary: &Path) -> Self {
        let mut command = Command::new(LINGER);
        command.arg("run").args(options).args(["--", "sh", "-c", "echo $$ $LD_PRELOAD; read word; exit 0"]);
        command.env("TMPDIR", temporary).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let (pid, library) = line.trim().split_once(' ').unwrap();
        let stdin = child.stdin.take();
        let running = Self { child, program: pid.parse().unwrap(), library: library.into(), stdin };
        assert!(running.library.starts_with(temporary) && running.library.exists(), "{line}");
        running
    }

    fn directory(&self) -> &Path {
        self.library.parent().unwrap()
    }

    fn supervisor(&self) -> u32 {
        if self.child.id() != self.program {
            return self.child.id();
        }
        let mut all = processes();
        all.find(|pid| name(*pid) == "linger-run" && is_of(*pid, self.directory())).expect("a supervisor")
    }

    /// Ends the program.
    fn end(&mut self) {
        drop(self.stdin.take());
        await_that("the program's end", || {
            !Path::new(&format!("/proc/{}", self.program)).exists() || self.has_ended()
        });
    }

    fn has_ended(&self) -> bool {
        fs::read(format!("/proc/{}/maps", self.program)).is_ok_and(|maps| maps.is_empty())
    }
}

fn processes() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn name(process: u32) -> String {
    fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default().trim().to_owned()
}

/// Whether a process has a directory open.
fn is_of(process: u32, directory: &Path) -> bool {
    let fds = fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
    fds.into_iter().any(|fd| fs::read_link(fd.path()).is_ok_and(|path| path == directory))
}

fn kill(process: u32) {
    kill_process(Pid::from_raw(process as i32).unwrap(), Signal::KILL).unwrap();
    await_that("the end of what was killed", || !Path::new(&format!("/proc/{process}/exe")).exists());
}

/// No event tells what another process does, so this polls.
#[track_caller]
fn await_that(what: &str, is_so: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < Duration::from_secs(30), "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Makes something look as if it was changed long ago.
fn age(path: &Path) {
    let then = SystemTime::now() - Duration::from_secs(3_600);
    fs::File::open(path).unwrap().set_modified(then).unwrap();
}

/// Makes a directory as a starter leaves it that was killed before it had made more.
fn leftover(place: &Path, name: &str) -> PathBuf {
    let path = place.join(name);
    fs::create_dir(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    age(&path);
    path
}

/// Starts another program, and waits until its supervisor has swept.
fn sweep(options: &[&str], place: &Path) {
    let canary = leftover(place, "linger-run-canary");
    let mut running = Running::start(options, place);
    let supervisor = running.supervisor();
    await_that("a sweep", || !canary.exists());
    let threads = || fs::read_dir(format!("/proc/{supervisor}/task")).unwrap().flatten();
    let sweeps = || {
        threads().any(|task| {
            fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.trim() == "linger-sweep")
        })
    };
    await_that("the end of a sweep", || !sweeps());
    running.end();
    assert!(running.child.wait().unwrap().success());
    await_that("the supervisor's end", || !running.directory().exists());
}

#[test]
fn a_killed_program_leaves_nothing() {
    secluded(|| {
        let place = tempfile::tempdir().unwrap();
        for options in PLACES {
            let mut running = Running::start(options, place.path());
            kill(running.program);
            running.child.wait().unwrap();
            await_that("the supervisor's end", || !running.directory().exists());
        }
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    });
}

/// What a killed supervisor has left is removed by another, once its program does not use it any more. What is somebody else's, or may
/// be in use, stays.
#[test]
fn a_later_start_removes_what_a_killed_supervisor_has_left() {
    secluded(|| {
        let directory = tempfile::tempdir().unwrap();
        let plain = directory.path().join("plain");
        fs::create_dir(&plain).unwrap();
        survives_and_is_swept(&plain);
        // The kernel does not say there whether a file is mapped.
        let layers = ["lower", "upper", "work", "over"].map(|name| directory.path().join(name));
        layers.iter().for_each(|layer| fs::create_dir(layer).unwrap());
        let [lower, upper, work, over] = &layers;
        let (lower, upper, work) = (lower.display(), upper.display(), work.display());
        let mounted = Command::new("mount")
            .args([
                "-t",
                "overlay",
                "overlay",
                "-o",
                &format!("lowerdir={lower},upperdir={upper},workdir={work}"),
            ])
            .arg(over)
            .output()
            .unwrap();
        if !mounted.status.success() {
            return skip("mount namespaces", &String::from_utf8_lossy(&mounted.stderr));
        }
        survives_and_is_swept(over);
        assert!(Command::new("umount").arg(over).status().unwrap().success());
    });
}

fn survives_and_is_swept(place: &Path) {
    for options in PLACES {
        let mut abandoned = Running::start(options, place);
        kill(abandoned.supervisor());
        let (left, mut other) = (abandoned.directory().to_owned(), Running::start(options, place));
        age(&left);
        age(other.directory());
        let open_to_all = leftover(place, "linger-run-open");
        fs::set_permissions(&open_to_all, fs::Permissions::from_mode(0o777)).unwrap();
        let (filled, young) = (leftover(place, "linger-run-filled"), place.join("linger-run-young"));
        fs::write(filled.join("file"), "somebody's").unwrap();
        age(&filled);
        fs::create_dir(&young).unwrap();
        let (target, link) = (leftover(place, "target"), place.join("linger-run-link"));
        fs::write(target.join("liblinger_preload.so"), "somebody's").unwrap();
        symlink(&target, &link).unwrap();
        sweep(options, place);
        assert!(abandoned.library.exists(), "{options:?}: its program would print the loader's error");
        assert!(other.library.exists(), "{options:?}: it is supervised");
        for path in [&open_to_all, &filled.join("file"), &young, &target.join("liblinger_preload.so"), &link]
        {
            assert!(path.exists(), "{options:?}: {}", path.display());
        }
        abandoned.end();
        sweep(options, place);
        assert!(!left.exists(), "{options:?}: nobody uses it any more");
        assert!(other.library.exists(), "{options:?}: it is supervised");
        other.end();
        other.child.wait().unwrap();
        await_that("the supervisor's end", || !other.directory().exists());
        for path in [open_to_all, filled, young, target] {
            fs::remove_dir_all(path).unwrap();
        }
        fs::remove_file(link).unwrap();
        assert_eq!(fs::read_dir(place).unwrap().count(), 0, "{options:?}");
    }
}
