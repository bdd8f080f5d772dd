//! What `linger fcgi serve` tells: its access log, that descriptors have run out, and what its operator got wrong.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::ffi::OsStrExt as _;
use std::process::{Child, Command, Stdio};

use linger_fastcgi::gateway::{Client, Config, GatewayRequest};
use linger_fastcgi::record::{RecordType, Role, push, push_begin};
use rustix::process::{Pid, Signal, kill_process};

const LINGER: &str = env!("CARGO_BIN_EXE_linger");

/// Starts a server, and returns it with its address and what it says further.
fn serve(script: &str) -> (Child, String, impl BufRead + use<>) {
    let mut command = Command::new("sh");
    command.args(["-c", script, LINGER]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap());
    let mut first = String::new();
    said.read_line(&mut first).unwrap();
    let address = first.split_whitespace().nth(3).unwrap_or_else(|| panic!("{first}")).to_owned();
    (child, address, said)
}

fn stop(child: &Child) {
    kill_process(Pid::from_child(child), Signal::TERM).unwrap();
}

#[test]
fn the_access_log_has_a_line_of_nine_words_for_each_request() {
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("page"), "a page").unwrap();
    let script =
        format!("exec \"$0\" fcgi serve --listen 127.0.0.1:0 --access-log --root {}", root.path().display());
    let (mut child, address, _said) = serve(&script);
    let client = Client::new(address.parse().unwrap(), Config::default());
    let get = |target: &str| {
        let request = GatewayRequest::new("GET", "/page").param("SCRIPT_NAME", "/page");
        let request = request.param("REQUEST_URI", target).param("REMOTE_ADDR", "192.0.2.7");
        let mut response = client.send(request).unwrap();
        response.read_to_end(&mut Vec::new()).unwrap();
    };
    get("/page?a=1");
    get("/page?\n2026-11-28 a forged line\x1b[2J");
    stop(&child);
    let mut log = String::new();
    child.stdout.take().unwrap().read_to_string(&mut log).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let lines: Vec<Vec<&str>> = log.lines().map(|line| line.split(' ').collect()).collect();
    assert_eq!(lines.len(), 2, "{log}");
    for line in &lines {
        let [time, client, method, _target, status, response, body, seconds, end] = line[..] else {
            panic!("{log}")
        };
        assert!(time.starts_with("20") && time.ends_with('Z'), "{log}");
        assert_eq!(
            (client, method, status, body, end),
            ("192.0.2.7", "GET", "200", "0", "complete"),
            "{log}"
        );
        assert!(response.parse::<u64>().unwrap() > 6 && seconds.parse::<f64>().is_ok(), "{log}");
    }
    // Two threads may tell them in either order.
    assert_eq!(lines.iter().filter(|line| line[3] == "/page?a=1").count(), 1, "{log}");
    assert!(!log.contains('\x1b'), "{log}");
}

#[test]
fn whoever_does_not_read_the_access_log_keeps_no_request_waiting_and_no_stop() {
    for is_gone in [true, false] {
        let (mut child, address, mut said) =
            serve("exec \"$0\" fcgi serve --listen 127.0.0.1:0 --access-log --echo");
        let log = child.stdout.take().filter(|_| !is_gone);
        let client = Client::new(address.parse().unwrap(), Config::default());
        // More than a pipe holds.
        for _ in 0..20 {
            let request = GatewayRequest::new("GET", "/x").param("REQUEST_URI", "/x".repeat(10_000));
            client.send(request).unwrap().read_to_end(&mut Vec::new()).unwrap();
        }
        stop(&child);
        assert_eq!(child.wait().unwrap().code(), Some(0), "{is_gone}");
        let mut rest = String::new();
        said.read_to_string(&mut rest).unwrap();
        assert!(rest.contains("left out: standard output takes no more"), "{rest}");
        drop(log);
    }
}

/// Requests with long lines of the log, so that few of them fill a disk.
fn ask(client: &Client, numbers: std::ops::Range<u32>) {
    for number in numbers {
        let target = format!("/{number}/{}", "x".repeat(5000));
        let request = GatewayRequest::new("GET", "/x").param("REQUEST_URI", target);
        client.send(request).unwrap().read_to_end(&mut Vec::new()).unwrap();
    }
}

#[test]
fn a_disk_that_is_full_for_a_while_leaves_no_hole_in_the_access_log() {
    linger_testing::secluded(|| {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().display();
        let mount = ["-t", "tmpfs", "-o", "size=64k", "none"];
        assert!(Command::new("mount").args(mount).arg(folder.path()).status().unwrap().success());
        let ballast = folder.path().join("ballast");
        std::fs::write(&ballast, [0; 40 << 10]).unwrap();
        let script = format!("exec \"$0\" fcgi serve --listen 127.0.0.1:0 --access-log --echo > {place}/log");
        let (mut child, address, mut said) = serve(&script);
        let client = Client::new(address.parse().unwrap(), Config::default());
        let mut line = String::new();
        ask(&client, 0..7);
        said.read_line(&mut line).unwrap();
        assert!(line.contains("cannot write the access log: No space left on device"), "{line}");
        std::fs::remove_file(&ballast).unwrap();
        line.clear();
        said.read_line(&mut line).unwrap();
        assert!(line.contains("writes the access log again"), "{line}");
        ask(&client, 7..9);
        stop(&child);
        assert_eq!(child.wait().unwrap().code(), Some(0));
        let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
        let targets = log.lines().map(|line| line.split(' ').nth(3).unwrap().split('/').nth(1).unwrap());
        let mut numbers: Vec<&str> = targets.collect();
        // A request is told when its gateway has the answer, and the next may be on its way.
        numbers.sort_unstable();
        assert_eq!(numbers, ["0", "1", "2", "3", "4", "5", "6", "7", "8"]);
    });
}

#[test]
fn that_descriptors_run_out_is_said_and_nothing_is_lost() {
    let (mut child, address, mut said) =
        serve("ulimit -n 40; exec \"$0\" fcgi serve --listen 127.0.0.1:0 --echo");
    let mut bytes = Vec::new();
    push_begin(&mut bytes, 1, Role::Responder, false);
    push(&mut bytes, RecordType::Params, 1, b"");
    push(&mut bytes, RecordType::Stdin, 1, b"the body");
    // Each waits for the rest of its request, and holds a descriptor.
    let mut streams: Vec<TcpStream> = (0..60)
        .map(|_| {
            let mut stream = TcpStream::connect(&address).unwrap();
            stream.write_all(&bytes).unwrap();
            stream
        })
        .collect();
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert!(line.contains("cannot accept connections") && line.contains("ulimit -n"), "{line}");
    let mut end = Vec::new();
    push(&mut end, RecordType::Stdin, 1, b"");
    for stream in &mut streams {
        stream.write_all(&end).unwrap();
    }
    for mut stream in streams {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        assert!(String::from_utf8_lossy(&all).contains("the body"), "{all:?}");
    }
    line.clear();
    said.read_line(&mut line).unwrap();
    assert!(line.contains("accepts connections again, after"), "{line}");
    stop(&child);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn what_an_operator_got_wrong_is_refused_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    let at_file = format!("unix:{}", file.display());
    let at_length = format!("unix:{}/{}", folder.path().display(), "x".repeat(120));
    for (listen, addresses, status, why) in [
        (&*at_file, &b""[..], 3, "a file that is no socket is there"),
        (&*at_length, b"", 3, "SUN_LEN"),
        ("127.0.0.1:0", b"127.0.0.1,", 2, "`` is no IP address"),
        ("127.0.0.1:0", b"10.0.0.0/8", 2, "`10.0.0.0/8` is no IP address"),
        // What cannot be read must not let everybody in.
        ("127.0.0.1:0", b"\xff", 2, "is no IP address"),
    ] {
        let mut command = Command::new("timeout");
        command.args(["60", LINGER, "fcgi", "serve", "--echo", "--listen", listen]);
        command.env("FCGI_WEB_SERVER_ADDRS", std::ffi::OsStr::from_bytes(addresses));
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(status), "{listen}: {output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(why), "{listen}: {output:?}");
    }
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
}
