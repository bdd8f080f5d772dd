//! `linger fcgi get` against `linger fcgi serve`, also over an inherited socket. The exit status must be
//! right.

use std::io::Write;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

const LINGER: &str = env!("CARGO_BIN_EXE_linger");

/// `linger fcgi serve` on a socket that it inherits as descriptor 0, as spawn-fcgi and httpd start it.
struct Serving {
    child: Child,
    address: String,
}

impl Serving {
    fn start(arguments: &[&str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let child = Command::new(LINGER)
            .args(["fcgi", "serve"])
            .args(arguments)
            .stdin(Stdio::from(OwnedFd::from(listener)))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, address }
    }

    fn get(&self, arguments: &[&str], stdin: &[u8]) -> Output {
        let mut child = Command::new(LINGER)
            .args(["fcgi", "get", &self.address])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(stdin).unwrap();
        child.wait_with_output().unwrap()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let id = Pid::from_child(&self.child);
        let _ = kill_process(id, Signal::TERM);
        let status = self.child.wait().unwrap();
        if !std::thread::panicking() {
            assert_eq!(status.code(), Some(0), "SIGTERM ends it in order");
        }
    }
}

#[test]
fn an_echo_answers_with_parameters_and_body() {
    let serving = Serving::start(&["--echo"]);
    let output = serving.get(&["/srv/x.php?q=1", "--param", "COLOUR=blue", "--body", "-"], b"the body");
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.starts_with("Status: 200\r\n"), "{text}");
    for line in [
        "REQUEST_METHOD=POST",
        "SCRIPT_FILENAME=/srv/x.php",
        "QUERY_STRING=q=1",
        "CONTENT_LENGTH=8",
        "COLOUR=blue",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in {text}");
    }
    assert!(text.ends_with("\n\nthe body"), "{text}");
}

#[test]
fn files_are_served_and_nothing_outside_them() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("page.html"), "<p>hello").unwrap();
    let serving = Serving::start(&["--root", folder.path().to_str().unwrap()]);
    let page = String::from_utf8(serving.get(&["/page.html"], b"").stdout).unwrap();
    assert!(page.contains("text/html") && page.ends_with("<p>hello"), "{page}");
    for path in ["/../etc/passwd", "/nothing"] {
        let answer = String::from_utf8(serving.get(&[path], b"").stdout).unwrap();
        assert!(answer.starts_with("Status: 404"), "{path}: {answer}");
    }
}

#[test]
fn the_exit_status_is_true() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let refused = Command::new(LINGER).args(["fcgi", "get", &nobody, "/x"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(3), "{}", String::from_utf8_lossy(&refused.stderr));

    // An application that sends half of a record and closes.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let cutting = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(&[1, 6, 0, 1, 0, 20, 0, 0]).unwrap();
        stream.write_all(b"Status: 200").unwrap();
        linger::close(stream, &linger::Policy::default());
    });
    let cut = Command::new(LINGER).args(["fcgi", "get", &address, "/x"]).output().unwrap();
    let message = String::from_utf8_lossy(&cut.stderr).into_owned();
    assert_eq!(cut.status.code(), Some(1), "{message}");
    assert!(message.contains("cut after 11 bytes"), "{message}");
    cutting.join().unwrap();

    let usage = Command::new(LINGER).args(["fcgi", "get", "nonsense", "/x"]).output().unwrap();
    assert_eq!(usage.status.code(), Some(2));
}

/// Starts `linger fcgi serve --echo` as systemd does with these sockets: on descriptors 3, 4, ...
fn activated(sockets: Vec<OwnedFd>) -> Command {
    let mut command = Command::new("sh");
    // One socket is passed as descriptor 0 and then moved. A second name of it serves where two are wanted.
    let count = sockets.len();
    let moved = if count == 2 { "exec 3<&0 4<&0 </dev/null" } else { "exec 3<&0 </dev/null" };
    let script = format!("{moved}; LISTEN_PID=$$ LISTEN_FDS={count} exec \"$@\"");
    command.args(["-c", &script, "sh", LINGER, "fcgi", "serve", "--echo"]);
    command.stdin(Stdio::from(sockets.into_iter().next().unwrap())).stderr(Stdio::piped());
    command
}

#[test]
fn a_socket_from_a_service_manager_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app");
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let unix = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let addresses = [tcp.local_addr().unwrap().to_string(), format!("unix:{}", path.display())];
    for (address, socket) in addresses.into_iter().zip([OwnedFd::from(tcp), unix.into()]) {
        let child = activated(vec![socket]).spawn().unwrap();
        let serving = Serving { child, address };
        let output = serving.get(&["/srv/x.php"], b"");
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let two = vec![tcp.try_clone().unwrap().into(), tcp.into()];
    let refused = activated(two).output().unwrap();
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && message.contains("passes 2 sockets"), "{message}");
}
