//! A private network for a test, and a test's processes apart from all others.

use std::process::{Command, Stdio};
use std::thread;

use linger_netns::{Isolation, IsolationRefused, net};

use crate::kernel::seclude;
use crate::skip::skip;

/// Environment variable that is set in the process inside the sandbox.
const INSIDE: &str = "LINGER_SANDBOXED";

/// Runs the body of a `#[test]` in a process of its own, in a private, empty network namespace with `lo` up. The process
/// is root there, without being root outside.
///
/// The test binary starts itself again for the one test that calls this. If namespaces are refused, the test is skipped.
///
/// # Panics
/// Panics if the body panics; the message has the body's output.
pub fn sandboxed(body: impl FnOnce()) {
    inside("private networks", |_| (), body);
}

/// Does what [`sandboxed`] does, in a PID namespace of its own with its own `/proc`. The body sees no process of
/// another test, and none of its own outlives it. The test's parent is the namespace's first process, which reaps
/// orphans.
///
/// For tests of programs that look at processes that they have not started: `linger run` takes any orphan of its user for
/// one of its program's processes (docs/run.md).
///
/// # Panics
/// Panics if the body panics; the message has the body's output.
pub fn secluded(body: impl FnOnce()) {
    inside("pid namespaces", seclude, body);
}

/// Runs a body in a process of its own in a private network, prepared further by `prepare`, or skips the test for `need`.
fn inside(need: &str, prepare: impl FnOnce(&mut Command), body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        net::up("lo").expect("lo can be set up in a namespace of one's own");
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
    isolation.enter_before_exec(&mut again);
    prepare(&mut again);
    let child = match again.spawn() {
        Ok(child) => child,
        Err(error) => {
            return skip(need, &IsolationRefused::explain(error).to_string());
        }
    };
    let output = child.wait_with_output().expect("the sandboxed test can be waited for");
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    // Output of the test (a seed, a reason for skipping) is shown under --nocapture.
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    // If the name matched no test, the process would succeed without having run it.
    assert!(output.status.success() && text.contains("1 passed"), "in the sandbox:\n{text}");
}

/// Raises the soft limit of fds (usually 1,024) to the hard limit, for tests that hold thousands of sockets.
pub fn all_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // If this is refused, the test that needs it fails with EMFILE.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}
