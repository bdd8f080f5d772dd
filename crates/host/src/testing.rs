//! For tests: a private network for each, and skipping that is said aloud.
//!
//! The one module of the libraries that prints and reads the environment, because it stands in for a test runner.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread;

use crate::isolate::{Isolation, Refused};

/// Set in the process that runs inside the sandbox.
const INSIDE: &str = "LINGER_SANDBOXED";
/// Names a file to which reasons for skipping are appended; `cargo xtask test` prints them at the end.
const SKIPS: &str = "LINGER_SKIPS";

/// Runs the body of a `#[test]` in a process of its own with a private, empty network namespace (`lo` up),
/// as root there and without being root here.
///
/// The test binary runs itself again for the one test that calls this. Where namespaces are refused
/// the test is skipped, and says so.
///
/// # Panics
/// Where the body panics, with its output.
pub fn sandboxed(body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        crate::net::up("lo").expect("lo can be set up in a namespace of one's own");
        all_descriptors();
        return body();
    }
    let current = thread::current();
    let name = current.name().expect("libtest names the thread after the test");
    let isolation = Isolation::prepare();
    let mut again = Command::new(std::env::current_exe().expect("the test binary has a path"));
    again
        .args([name, "--exact", "--nocapture", "--include-ignored"])
        .env(INSIDE, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // SAFETY: `enter_raw` makes system calls only: no allocation and no lock between fork and exec.
    unsafe { again.pre_exec(move || Ok(isolation.enter_raw()?)) };
    let child = match again.spawn() {
        Ok(child) => child,
        Err(error) => {
            let errno = rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::PERM);
            return skip("private networks", &Refused::explain(errno, false).to_string());
        }
    };
    let output = child.wait_with_output().expect("the sandboxed test can be waited for");
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    // What the test says about itself, a seed or a reason for skipping, is shown under --nocapture.
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    // A name that matched no test would pass without having run.
    assert!(output.status.success() && text.contains("1 passed"), "in the sandbox:\n{text}");
}

/// Raises the soft limit of descriptors, commonly 1,024, to the hard one: some tests hold thousands of sockets.
pub fn all_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // What is refused here shows as EMFILE in the test that needs it.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

/// Closes a descriptor under the feet of whoever owns it, as a program with a double close does.
///
/// Only for a test that is alone in its process ([`sandboxed`]) and opens nothing before the owner has noticed:
/// the number may be given out again.
pub fn close_under_its_owner(descriptor: i32) {
    // SAFETY: the kernel checks the number. That the owner's next call gets EBADF is what is tested.
    unsafe { libc::close(descriptor) };
}

/// Bytes that the C library's allocator has given out and not got back, for benches that count them without
/// slowing every allocation down.
pub fn allocated() -> usize {
    // SAFETY: it takes no arguments and returns numbers by value; each arena is locked while it is counted.
    let info = unsafe { libc::mallinfo2() };
    info.uordblks + info.hblkhd
}

/// Makes a system call fail for a command and all it starts, as a container's profile or a machine without resources
/// does: `seccomp` (with flags only), those that create files (`create`) and the stacks of threads (`stack`), those
/// that make threads and processes (`clone`), and others by their names.
pub fn refuse(command: &mut Command, call: &str, error: rustix::io::Errno) {
    use crate::seccomp::{Filter, Rule, When};
    // The C library reserves the stack of a thread without access, then opens all of it but the guard.
    const NO_ACCESS: u32 = libc::PROT_NONE as u32;
    // As std and tempfile create files.
    const TRUNCATED: u32 = (libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC | libc::O_CLOEXEC) as u32;
    const EXCLUSIVE: u32 = (libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_CLOEXEC) as u32;
    let always = |call| Rule { call, when: When::Always };
    let rules = match call {
        "seccomp" => vec![Rule { call: libc::SYS_seccomp, when: When::IsNot(1, 0) }],
        "stack" => vec![Rule { call: libc::SYS_mmap, when: When::Is(2, &[NO_ACCESS]) }],
        "create" => vec![Rule { call: libc::SYS_openat, when: When::Is(2, &[TRUNCATED, EXCLUSIVE]) }],
        "clone" => vec![always(libc::SYS_clone), always(libc::SYS_clone3)],
        "pidfd_open" => vec![always(libc::SYS_pidfd_open)],
        "pidfd_getfd" => vec![always(libc::SYS_pidfd_getfd)],
        "process_vm_readv" => vec![always(libc::SYS_process_vm_readv)],
        "socket" => vec![always(libc::SYS_socket)],
        "socketpair" => vec![always(libc::SYS_socketpair)],
        "bind" => vec![always(libc::SYS_bind)],
        "listen" => vec![always(libc::SYS_listen)],
        "epoll_create1" => vec![always(libc::SYS_epoll_create1)],
        "eventfd2" => vec![always(libc::SYS_eventfd2)],
        "pipe2" => vec![always(libc::SYS_pipe2)],
        "perf_event_open" => vec![always(libc::SYS_perf_event_open)],
        "unshare" => vec![always(libc::SYS_unshare)],
        other => panic!("{other} is not among the calls"),
    };
    let filter = Filter::refusing(&rules, error.raw_os_error() as u16);
    // SAFETY: it makes system calls only: no allocation and no lock between fork and exec.
    unsafe { command.pre_exec(move || filter.install_with(0).map(drop)) };
}

/// Says that a group of tests is skipped here, and why.
pub fn skip(group: &str, why: &str) {
    eprintln!("skipped: {group}: {why}");
    if let Some(path) = std::env::var_os(SKIPS) {
        let line = format!("{group}: {why}\n");
        let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
        let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
    }
}
