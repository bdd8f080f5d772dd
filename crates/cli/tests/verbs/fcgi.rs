//! `linger fcgi get`, `ping` and `values` against `linger fcgi serve`, also over an inherited socket, and against peers that break
//! off. The exit status must be right.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use linger_fastcgi::gateway::{self, Client, GatewayRequest};
use linger_fastcgi::record::{EndRequest, ProtocolStatus, RecordType, push, push_end};
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
fn records_are_told_on_request() {
    let serving = Serving::start(&["--echo"]);
    let records = |arguments: &[&str]| {
        let output = serving.get(arguments, b"the body");
        let said = String::from_utf8(output.stderr).unwrap();
        let told = said.lines().filter(|line| line.contains("record="));
        told.filter_map(|line| Some(line.rsplit_once(": ")?.1.to_owned())).collect::<Vec<_>>()
    };
    let told = records(&["/srv/x.php", "--body", "-", "-v"]);
    let (sent, received): (Vec<_>, Vec<_>) = told.iter().partition(|line| line.starts_with("sent "));
    assert_eq!(sent.first().unwrap().as_str(), "sent record=BeginRequest bytes=8");
    assert!(sent.iter().any(|line| *line == "sent record=Stdin bytes=8"), "{told:?}");
    assert_eq!(sent.last().unwrap().as_str(), "sent record=Stdin bytes=0");
    assert!(received[0].starts_with("received record=Stdout "), "{told:?}");
    assert_eq!(received.last().unwrap().as_str(), "received record=EndRequest bytes=8");
    assert_eq!(records(&["/srv/x.php", "--body", "-"]), [""; 0]);
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

#[test]
fn with_fail_the_status_is_the_application_s() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("page"), "here").unwrap();
    let serving = Serving::start(&["--root", folder.path().to_str().unwrap()]);
    for (words, status) in [
        (&["/page", "--fail"][..], 0),
        (&["/nothing"], 0),
        (&["/nothing", "--fail"], 1),
        (&["/nothing", "--fail", "--json"], 1),
    ] {
        let output = serving.get(words, b"");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(status), "{words:?}: {said}");
        let names = said.contains("HTTP status 404") || said.contains("\"http_status\":404");
        assert_eq!(names, status == 1, "{words:?}: {said}");
    }
}

#[test]
fn a_body_may_come_from_a_pipe_and_parameters_from_the_environment() {
    let serving = Serving::start(&["--echo"]);
    let piped = Command::new("sh")
        .args(["-c", "printf 'the body' | \"$0\" fcgi get \"$1\" /x --body /dev/stdin --env --param SIZE=9"])
        .args([LINGER, &serving.address])
        .env("COLOUR", "blue")
        .env("SIZE", "8")
        .output()
        .unwrap();
    let text = String::from_utf8(piped.stdout).unwrap();
    assert_eq!(piped.status.code(), Some(0), "{text}");
    assert!(text.ends_with("\n\nthe body"), "{text}");
    for (line, is_there) in
        [("CONTENT_LENGTH=8", true), ("COLOUR=blue", true), ("SIZE=9", true), ("SIZE=8", false)]
    {
        assert_eq!(text.lines().any(|found| found == line), is_there, "{line} in {text}");
    }
    assert!(!String::from_utf8_lossy(&serving.get(&["/x"], b"").stdout).contains("\nPATH="));
}

#[test]
fn a_path_of_a_url_is_told_as_a_web_server_tells_it() {
    let serving = Serving::start(&["--echo"]);
    let site = ["--root", "/srv", "--split", ".php", "--index", "index.php"];
    let get = |words: &[&str]| serving.get(&[words, &site[..]].concat(), b"");
    let cookies = ["-H", "Cookie: a=1", "-H", "Host: example.org:8080", "-H", "cookie: b=2"];
    let output = get(&[&["/a%20b.php/in%2Ffo?x=1"], &cookies[..]].concat());
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    for line in [
        "SCRIPT_FILENAME=/srv/a b.php",
        "SCRIPT_NAME=/a b.php",
        "PATH_INFO=/in/fo",
        "QUERY_STRING=x=1",
        "REQUEST_URI=/a%20b.php/in%2Ffo?x=1",
        "HTTP_COOKIE=a=1; b=2",
        "SERVER_NAME=example.org",
        "SERVER_PORT=8080",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in {text}");
    }
    let folder = String::from_utf8(get(&["/a/"]).stdout).unwrap();
    assert!(folder.contains("SCRIPT_FILENAME=/srv/a/index.php\n"), "{folder}");
    // One field away: a file's name is taken as it is.
    let file = String::from_utf8(serving.get(&["/a%20b.php/.."], b"").stdout).unwrap();
    assert!(file.contains("SCRIPT_FILENAME=/a%20b.php/..\n"), "{file}");
    for (words, why) in [
        (&["/../x"][..], "names no file below the document root"),
        (&["/x", "-H", "X_User: root"], "has an underscore in its name"),
        (&["/x", "-H", "X User: root"], "is no name of a header"),
    ] {
        let output = get(words);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(why), "{output:?}");
    }
}

#[test]
fn what_an_application_does_with_an_aborted_request_is_told() {
    let abort = |address: &str, words: &[&str]| {
        let output =
            Command::new(LINGER).args(["fcgi", "abort", address, "/x"]).args(words).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(said).unwrap())
    };
    for words in [&["--echo"][..], &["--echo", "--multiplex"]] {
        let serving = Serving::start(words);
        let (status, said) = abort(&serving.address, &[]);
        assert!(status == Some(0) && said.starts_with("ended with status "), "{said}");
        assert!(said.contains("after ABORT_REQUEST"), "{said}");
    }
    let (address, peer) = answering(response("Status: 200\r\n\r\n"));
    let (status, said) = abort(&address, &["--after", "1h"]);
    assert!(status == Some(0) && said.starts_with("nothing to abort"), "{said}");
    peer.join().unwrap();
    let (address, peer) = answering(Vec::new());
    let (status, said) = abort(&address, &[]);
    assert!(status == Some(1) && said.contains("closed the connection without END_REQUEST"), "{said}");
    peer.join().unwrap();
    // Its connection waits in the accept queue, and nobody answers.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (status, said) = abort(&listener.local_addr().unwrap().to_string(), &["--timeout", "1"]);
    assert!(status == Some(1) && said.contains("silent"), "{said}");
}

#[test]
fn an_application_says_what_it_takes() {
    for (words, multiplexes) in [(&["--echo"][..], 0), (&["--echo", "--multiplex"], 1)] {
        let serving = Serving::start(&[words, &["--connections", "7"]].concat());
        let ask = |names: &[&str]| {
            let output =
                Command::new(LINGER).args(["fcgi", "values", &serving.address]).args(names).output().unwrap();
            assert_eq!(output.status.code(), Some(0), "{output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        let all = ask(&[]);
        for line in ["FCGI_MAX_CONNS=7".to_owned(), format!("FCGI_MPXS_CONNS={multiplexes}")] {
            assert!(all.lines().any(|found| found == line), "{line} in {all}");
        }
        assert_eq!(ask(&["FCGI_MAX_CONNS", "UNKNOWN"]), "FCGI_MAX_CONNS=7\n");
    }
}

#[test]
fn a_ping_is_answered_or_not() {
    let serving = Serving::start(&["--echo"]);
    let ping = |address: &str, words: &[&str]| {
        let output = Command::new(LINGER).args(["fcgi", "ping", address]).args(words).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(said).unwrap())
    };
    let (status, said) = ping(&serving.address, &[]);
    assert!(status == Some(0) && said.starts_with("answered with status 200 after "), "{said}");
    let (status, said) = ping(&serving.address, &["/x", "--repeat", "20"]);
    assert!(
        status == Some(0) && said.starts_with("20 answers, the last with status 200: fastest "),
        "{said}"
    );
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let (status, said) = ping(&nobody, &[]);
    assert!(status == Some(3) && said.contains("cannot connect"), "{said}");
}

/// Accepts once, reads the beginning of what is asked, answers with these bytes and ends in order. Returns the beginning.
fn answering(answer: Vec<u8>) -> (String, std::thread::JoinHandle<[u8; 16]>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let peer = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut begin = [0; 16];
        stream.read_exact(&mut begin).unwrap();
        stream.write_all(&answer).unwrap();
        linger::close(stream, &linger::Policy::default());
        begin
    });
    (address, peer)
}

/// A whole response with this header block.
fn response(head: &str) -> Vec<u8> {
    let mut answer = Vec::new();
    push(&mut answer, RecordType::Stdout, 1, head.as_bytes());
    push(&mut answer, RecordType::Stdout, 1, b"");
    push_end(&mut answer, 1, EndRequest::new(0, ProtocolStatus::RequestComplete));
    answer
}

#[test]
fn peers_that_fail_are_told_from_those_that_answer() {
    let gone = |verb: &str, answer: Vec<u8>| {
        let (address, peer) = answering(answer);
        let output = Command::new(LINGER).args(["fcgi", verb, &address]).output().unwrap();
        peer.join().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (status, said) = gone("ping", response("Status: 500\r\n\r\n"));
    assert!(status == Some(1) && said.contains("HTTP status 500"), "{said}");
    let (status, said) = gone("ping", response("Status: 404\r\n\r\n"));
    assert_eq!(status, Some(0), "{said}");
    for verb in ["ping", "values"] {
        let (status, said) = gone(verb, Vec::new());
        assert!(status == Some(1) && said.contains("closed the connection"), "{verb}: {said}");
        let (status, said) = gone(verb, b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec());
        assert!(status == Some(3), "{verb}: {said}");
    }
}

#[test]
fn roles_are_asked_for_by_their_numbers() {
    let data = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(data.path(), "what is filtered").unwrap();
    let file = data.path().to_str().unwrap();
    for (role, more, number) in
        [("responder", &[][..], 1), ("authorizer", &[], 2), ("filter", &["--data", file][..], 3)]
    {
        let (address, peer) = answering(response("Status: 200\r\n\r\n"));
        let words = ["fcgi", "get", &address, "/x", "--role", role];
        let output = Command::new(LINGER).args(words).args(more).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert_eq!(peer.join().unwrap()[8..10], [0, number], "{role}");
    }
    let words = ["fcgi", "get", "127.0.0.1:1", "/x", "--data", file];
    assert_eq!(Command::new(LINGER).args(words).output().unwrap().status.code(), Some(2));
}

/// What `get` got of `linger fcgi serve --ending lingering`, which reads the body as far as `consume` says, and what that printed.
fn lingering(consume: &str) -> (Output, String) {
    let mut child = Command::new(LINGER)
        .args(["fcgi", "serve", "--listen", "127.0.0.1:0", "--response", "3000000"])
        .args(["--ending", "lingering", "--consume", consume])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut said).unwrap();
    let address = said.split([' ', ',']).find(|word| word.starts_with("127.0.0.1:")).unwrap();
    let mut get = Command::new(LINGER)
        .args(["fcgi", "get", address, "/srv/x", "--body", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    get.stdin.take().unwrap().write_all(&[b'b'; 300_000]).unwrap();
    let got = get.wait_with_output().unwrap();
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let served = child.wait_with_output().unwrap();
    assert_eq!(served.status.code(), Some(0), "SIGTERM ends it in order");
    (got, String::from_utf8(served.stdout).unwrap())
}

#[test]
fn an_application_that_ends_as_it_should_loses_nothing() {
    for consume in ["0", "100", "all"] {
        let (got, served) = lingering(consume);
        assert_eq!(got.status.code(), Some(0), "{consume}: {got:?}");
        assert!(got.stdout.ends_with(&[b'r'; 3_000_000]), "{consume}");
        assert_eq!(served, "answered       1 requests\nsocket errors  none\n");
    }
}

const GATEWAYS: u32 = 8;

/// What becomes of the requests of many gateways, each on a connection of its own, when the application is told to end meanwhile:
/// how many were answered, and how many were cut.
fn under_load(arguments: &[&str]) -> (u32, u32) {
    let mut child = Command::new(LINGER)
        .args(["fcgi", "serve", "--listen", "127.0.0.1:0"])
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut said).unwrap();
    let address: std::net::SocketAddr =
        said.split([' ', ',']).find(|word| word.starts_with("127.0.0.1:")).unwrap().parse().unwrap();
    let (answered, cut) = (AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for _ in 0..GATEWAYS {
            scope.spawn(|| {
                let client = Client::new(address.into(), gateway::Config::default());
                loop {
                    let request = GatewayRequest::new("POST", "/x").body(vec![b'b'; 3000]);
                    let ended = client
                        .send(request)
                        .map(|mut response| std::io::copy(&mut response, &mut std::io::sink()));
                    match ended {
                        Ok(Ok(_)) => answered.fetch_add(1, Ordering::SeqCst),
                        Err(gateway::Error::Connect { .. }) => break,
                        _ => cut.fetch_add(1, Ordering::SeqCst),
                    };
                }
            });
        }
        while answered.load(Ordering::SeqCst) < 200 {
            std::thread::yield_now();
        }
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    });
    assert_eq!(child.wait().unwrap().code(), Some(0), "SIGTERM ends it in order");
    (answered.into_inner(), cut.into_inner())
}

#[test]
fn a_stop_under_load_ends_and_cuts_no_request() {
    for arguments in
        [&["--echo"][..], &["--echo", "--multiplex"], &["--ending", "lingering", "--response", "20000"]]
    {
        let (answered, cut) = under_load(arguments);
        // The program to show losses with has no means against a gateway that connects between its last look at the queue and its close.
        let most = if arguments[0] == "--ending" { GATEWAYS } else { 0 };
        assert!(cut <= most, "{arguments:?}: {answered} were answered, {cut} cut");
    }
}

#[test]
fn an_ending_wants_a_tcp_address_and_nothing_else_to_serve() {
    for (arguments, why) in [
        (&["--ending", "close"][..], "listens on TCP alone"),
        (&["--ending", "close", "--listen", "unix:/nowhere"], "listens on TCP alone"),
        (&["--ending", "close", "--echo"], "cannot be used with"),
        (&["--ending", "close", "--multiplex", "--listen", "127.0.0.1:0"], "cannot be used with"),
        (&["--echo", "--response", "5"], "cannot be used with"),
        (&["--root", "/", "--consume", "5"], "cannot be used with"),
        (&[], "--ending <ENDING>"),
    ] {
        let output = Command::new(LINGER).args(["fcgi", "serve"]).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(why), "{arguments:?}: {output:?}");
    }
}

#[test]
fn processes_that_share_a_socket_end_when_they_are_told() {
    for _ in 0..5 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let children: Vec<Child> = (0..3)
            .map(|_| {
                let stdin = Stdio::from(OwnedFd::from(listener.try_clone().unwrap()));
                let words = ["fcgi", "serve", "--echo"];
                let mut child =
                    Command::new(LINGER).args(words).stdin(stdin).stderr(Stdio::piped()).spawn().unwrap();
                BufReader::new(child.stderr.take().unwrap()).read_line(&mut String::new()).unwrap();
                child
            })
            .collect();
        // Each connection wakes all that wait, and one gets it.
        for _ in 0..50 {
            let client = Client::new(address.into(), gateway::Config::default());
            let mut response = client.send(GatewayRequest::new("GET", "/x")).unwrap();
            std::io::copy(&mut response, &mut std::io::sink()).unwrap();
        }
        for mut child in children {
            kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
            assert_eq!(child.wait().unwrap().code(), Some(0));
        }
    }
}
