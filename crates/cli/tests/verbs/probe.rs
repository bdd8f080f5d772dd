//! `linger probe`, run as a user runs it, against this program's own server.

use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use linger_testing::sandboxed;

use crate::common::junit::cases;

const LINGER: &str = env!("CARGO_BIN_EXE_linger");

/// A server that reads 100 bytes, answers a kilobyte and ends the connection.
struct Server {
    process: Child,
    address: String,
}

impl Server {
    fn start(ending: &str) -> Self {
        let mut process = Command::new(LINGER)
            .args(["server", "--listen", "127.0.0.1:0", "--response", "1000", "--consume", "100"])
            .args(["--ending", ending])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        BufReader::new(process.stderr.take().unwrap()).read_line(&mut said).unwrap();
        let address = said.split_whitespace().nth(2).unwrap().trim_end_matches(',').to_owned();
        Self { process, address }
    }

    /// Asks whether a late byte costs the response, in one trial.
    fn probe(&self, directory: &Path, more: &[&str]) -> Output {
        let payload = directory.join("payload");
        std::fs::write(&payload, [b'x'; 100]).unwrap();
        Command::new(LINGER)
            .args(["probe", &format!("tcp://{}", self.address), "--payload", payload.to_str().unwrap()])
            .args(["--expect", "1000", "--only", "late-byte", "--repeat", "1"])
            .args(more)
            .output()
            .unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The response has reached the client's kernel before the late byte meets a socket that no longer exists. Nothing
/// is lost, by luck.
#[test]
fn a_reset_after_all_bytes_is_at_risk_and_no_success() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start("close");
    let shown = server.probe(directory.path(), &[]);
    assert_eq!(shown.status.code(), Some(1), "{shown:?}");
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(text.contains("late-byte          at risk") && text.contains("all 1000 bytes arrived"), "{text}");
    let told = server.probe(directory.path(), &["--json", "--at-risk-ok"]);
    assert_eq!(told.status.code(), Some(0), "{told:?}");
    let lines = String::from_utf8(told.stdout).unwrap();
    let lines = crate::common::contract::lines("probe", &lines);
    assert_eq!((&lines[0]["type"], &lines[0]["answer"]), (&"finding".into(), &"at-risk".into()));
    assert_eq!((&lines[0]["verdict"], &lines[0]["got_bytes"]), (&"at_risk".into(), &1000.into()));
    assert_eq!((&lines[1]["type"], &lines[1]["answer"]), (&"probe".into(), &"at-risk".into()));
}

#[test]
fn one_field_away_the_response_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let told = Server::start("lingering").probe(directory.path(), &["--json"]);
    assert_eq!(told.status.code(), Some(0), "{told:?}");
    let lines = String::from_utf8(told.stdout).unwrap();
    let finding = crate::common::contract::lines("probe", &lines).remove(0);
    assert_eq!((&finding["answer"], &finding["verdict"]), (&"keeps".into(), &"kept".into()));
}

/// A server that answers every request so, and closes in order.
fn web(status: &'static str, body: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: {body}\r\nConnection: close\r\n\r\n");
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&vec![b'x'; body]));
            let _ = stream.shutdown(std::net::Shutdown::Write);
            while let Ok(1..) = stream.read(&mut [0; 4096]) {}
        }
    });
    url
}

/// That all users of the server may notice is said before anything is sent, and what became of requests is told in numbers.
#[test]
fn a_reload_is_said_before_and_told_in_numbers() {
    let url = web("200 OK", 100_000);
    let asks = |more: &[&str]| {
        let words = ["probe", &url, "--only", "reload", "--repeat", "1"];
        let shown = Command::new(LINGER).args(words).args(more).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (shown.status.code(), text(shown.stdout), text(shown.stderr))
    };
    let (status, planned, _) = asks(&["--dry-run", "--reload", "exit 9"]);
    assert_eq!(status, Some(0), "{planned}");
    assert!(planned.contains("; the server is told to reload"), "{planned}");
    let (_, planned, _) = asks(&["--dry-run", "--pid", "1:TERM", "--json"]);
    let planned = crate::common::contract::lines("probe", &planned);
    assert_eq!((&planned[0]["check"], &planned[0]["reloads"]), (&"reload".into(), &1.into()));
    // A question that sends megabytes is not what a visitor asks.
    let words = ["probe", &url, "--only", "websocket", "--repeat", "1"];
    let shown = Command::new(LINGER).args(words).output().unwrap();
    let said = String::from_utf8(shown.stderr).unwrap();
    assert!(said.contains("linger: GET, at most ") && said.contains(" 4.8 MB sent"), "{said}");
    let (status, shown, said) = asks(&["--reload", "echo the command"]);
    assert_eq!(status, Some(0), "{shown}{said}");
    assert!(said.contains("; the server is told to reload, which all its users may notice;"), "{said}");
    // What the command prints is no part of the report.
    assert!(said.contains("the command\n") && !shown.contains("the command\n"), "{shown}{said}");
    assert!(
        shown.contains("reload             keeps") && shown.contains("requests before the reload: "),
        "{shown}"
    );
    let (status, told, _) = asks(&["--reload", "exit 9", "--json"]);
    let told = crate::common::contract::lines("probe", &told);
    assert_eq!((status, &told[0]["answer"]), (Some(3), &"cannot-tell".into()), "{told:?}");
    let (_, told, _) = asks(&["--reload", "true", "--json"]);
    let told = crate::common::contract::lines("probe", &told);
    assert_eq!((&told[0]["answer"], &told[0]["reload"]["shown"]), (&"keeps".into(), &"command".into()));
    assert!(told[0]["reload"]["during"]["kept"].as_u64() > Some(0), "{told:?}");
}

/// A server of HTTP/2 without TLS, which begins with its settings: asked in HTTP/1.1 it is told how to ask, and asked in HTTP/2
/// without a response it is silent.
#[test]
fn a_server_of_http2_is_told_how_to_be_asked() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut held = Vec::new();
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]);
            held.push(stream);
        }
    });
    let asks = |url: &str, more: &[&str]| {
        let shown = Command::new(LINGER).args(["probe", url, "--patience", "1"]).args(more).output().unwrap();
        (shown.status.code(), String::from_utf8(shown.stderr).unwrap())
    };
    let (status, said) = asks(&format!("http://{address}/"), &[]);
    assert_eq!(status, Some(3), "{said}");
    assert!(said.contains("HTTP/2 without TLS") && said.contains("; --http2 asks in HTTP/2"), "{said}");
    let (status, said) = asks(&format!("http://{address}/"), &["--http2"]);
    assert!(status == Some(3) && said.contains("0 bytes of a response came"), "{status:?} {said}");
    let (status, said) = asks(&format!("fcgi://{address}/x"), &["--http2"]);
    assert!(status == Some(2) && said.contains("is not asked in HTTP/2"), "{status:?} {said}");
}

#[test]
fn the_last_sentence_says_what_to_do() {
    let asks = |url: &str| {
        let words = ["probe", url, "--only", "trailing-bytes,half-close", "--repeat", "1"];
        let shown = Command::new(LINGER).args(words).output().unwrap();
        (shown.status.code(), String::from_utf8(shown.stdout).unwrap())
    };
    let (status, text) = asks(&web("301 Moved\r\nLocation: https://example.org/page", 0));
    assert_eq!(status, Some(3), "{text}");
    assert!(
        text.contains("this server: cannot tell") && text.contains("probe https://example.org/page."),
        "{text}"
    );
    // A text of the server's cannot begin a line of its own, nor colour one.
    let (_, text) = asks(&web("302 Found\r\nLocation: /\u{9b}2J\u{202e}", 0));
    assert!(text.contains("probe /\\u{9b}2J\\u{202e}."), "{text}");
    let (status, text) = asks(&web("401 Unauthorized", 20));
    assert!(status == Some(3) && text.contains("It answers 401 to a plain request"), "{text}");
    let (status, text) = asks(&web("200 OK", 100_000));
    assert!(status == Some(0) && text.ends_with("this server: keeps\n"), "{text}");

    let directory = tempfile::tempdir().unwrap();
    let lost = Server::start("close").probe(directory.path(), &[]);
    let text = String::from_utf8(lost.stdout).unwrap();
    // Who may not watch the kernel gets another sentence, and another place of the line's end.
    let words: Vec<&str> = text.split_whitespace().collect();
    assert!(words.join(" ").contains("linger run -- COMMAND"), "{text}");
}

/// A probe with both reports: its status, the JUnit document and the SARIF document.
fn reported(url: &str, more: &[&str]) -> (Option<i32>, String, serde_json::Value) {
    let folder = tempfile::tempdir().unwrap();
    let (junit, sarif) = (folder.path().join("probe.xml"), folder.path().join("probe.sarif"));
    let shown = Command::new(LINGER)
        .args(["probe", url, "--repeat", "1", "--patience", "1"])
        .args(more)
        .args([std::ffi::OsStr::new("--junit"), junit.as_os_str()])
        .args([std::ffi::OsStr::new("--sarif"), sarif.as_os_str()])
        .output()
        .unwrap();
    let read = |path| std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{error}: {shown:?}"));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "nothing is left beside them");
    (shown.status.code(), read(&junit), serde_json::from_str(&read(&sarif)).unwrap())
}

/// The kind and level of each result, by rule, where everything that SARIF requires is there.
fn results(sarif: &serde_json::Value) -> Vec<(String, String, String)> {
    assert_eq!(sarif["version"], "2.1.0");
    let run = &sarif["runs"][0];
    assert!(
        run["tool"]["driver"]["name"].is_string()
            && run["invocations"][0]["executionSuccessful"].is_boolean()
    );
    let rules = run["tool"]["driver"]["rules"].as_array().unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_else(|| panic!("{sarif}")).to_owned();
    let results = run["results"].as_array().into_iter().flatten();
    let result = |result: &serde_json::Value| {
        let rule = &rules[usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap()];
        assert_eq!(rule["id"], result["ruleId"]);
        assert!(result["message"]["text"].is_string());
        let uri = text(&result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]);
        assert!(!uri.contains(':') && !uri.is_empty(), "{uri}");
        (text(&result["ruleId"]), text(&result["kind"]), text(&result["level"]))
    };
    results.map(result).collect()
}

#[test]
fn each_check_is_a_test_case_and_a_result() {
    let kept = web("200 OK", 70_000);
    let asked = ["--only", "large-response,half-close,idle-open", "--hold", "1", "--except", "idle-open"];
    let (status, junit, sarif) = reported(&kept, &asked);
    let passes = |name: &str| (name.to_owned(), "pass".to_owned(), String::new());
    assert_eq!(cases(&junit), ["plain-response", "large-response", "half-close"].map(passes), "{junit}");
    let none = |name: &str| (name.to_owned(), "pass".to_owned(), "none".to_owned());
    assert_eq!((status, results(&sarif)), (Some(0), ["large-response", "half-close"].map(none).to_vec()));
    assert_eq!(sarif["runs"][0]["invocations"][0]["exitCode"], 0);

    // One field away: a page that is too short for the question, and a redirection, which is nobody's page.
    let (status, junit, sarif) = reported(&web("200 OK", 500), &["--only", "large-response"]);
    let found = cases(&junit);
    assert!(found[0].1 == "pass" && found[1].1 == "skipped" && found[1].2.contains("64 KB"), "{junit}");
    assert_eq!((status, results(&sarif)[0].1.as_str()), (Some(3), "open"));
    let (status, junit, sarif) = reported(&web("301 Moved", 70_000), &["--only", "large-response"]);
    let found = cases(&junit);
    assert!(found.iter().all(|case| case.1 == "skipped" && case.2.contains("301")), "{junit}");
    assert_eq!((status, results(&sarif)[0].1.as_str()), (Some(3), "open"));
}

#[test]
fn a_fault_is_a_failure_and_an_accepted_risk_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let payload = folder.path().join("payload");
    std::fs::write(&payload, [b'x'; 100]).unwrap();
    let server = Server::start("close");
    let url = format!("tcp://{}", server.address);
    let mut asked = vec!["--payload", payload.to_str().unwrap(), "--expect", "1000", "--only", "late-byte"];
    let (status, junit, sarif) = reported(&url, &asked);
    let found = cases(&junit);
    assert_eq!((status, found[1].1.as_str()), (Some(1), "failure"), "{junit}");
    assert!(found[1].2.contains("all 1000 bytes arrived, but the server then reset"), "{junit}");
    assert!(junit.contains("type=\"at risk\"") && junit.contains("\nasked: 2 times: "), "{junit}");
    let result = |kind: &str, level: &str| ("late-byte".to_owned(), kind.to_owned(), level.to_owned());
    assert_eq!(results(&sarif), [result("fail", "warning")]);
    assert_eq!(sarif["runs"][0]["results"][0]["properties"]["got_bytes"], 1000);
    asked.push("--at-risk-ok");
    let (status, junit, sarif) = reported(&url, &asked);
    assert_eq!((status, cases(&junit)[1].1.as_str()), (Some(0), "pass"), "{junit}");
    assert_eq!(sarif["runs"][0]["results"][0]["suppressions"][0]["status"], "accepted");
}

/// Text that a server chose can neither break a report nor forge a part of it.
#[test]
fn no_text_of_a_server_breaks_a_report() {
    let redirects =
        web("302 Found\r\nServer: <a&\"'>\u{9b}]]>\r\nLocation: /\u{9b}2J\u{202e}<b/>[x](y){0}", 0);
    let (_, junit, sarif) = reported(&redirects, &["--only", "trailing-bytes"]);
    let found = cases(&junit);
    assert!(found[1].2.contains(r"probe /\u{9b}2J\u{202e}<b/>[x](y){0}."), "{junit}");
    let message = sarif["runs"][0]["results"][0]["message"]["text"].as_str().unwrap();
    assert!(message.contains(r"<b/>\[x\](y){{0}}."), "{message}");
    let document = roxmltree::Document::parse(&junit).unwrap();
    let server = document.descendants().find(|node| node.attribute("name") == Some("server")).unwrap();
    assert_eq!(server.attribute("value"), Some(r#"<a&"'>\u{9b}]]>"#));

    // What is no response at all, with controls and bytes that are not UTF-8.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"\x1b[31m\0\xff<!--]]></testsuites>&#0;\r\n\r\n");
        }
    });
    let (status, junit, sarif) = reported(&url, &[]);
    let found = cases(&junit);
    assert_eq!((status, found[0].1.as_str()), (Some(3), "error"), "{junit}");
    assert!(found[0].2.contains(r"\u{0}\xff<!--]]></testsuites>"), "{junit}");
    assert!(found.len() > 8 && found[1..].iter().all(|case| case.1 == "skipped"), "{junit}");
    assert!(sarif["runs"][0]["results"].is_null() && results(&sarif).is_empty());
    assert_eq!(sarif["runs"][0]["invocations"][0]["executionSuccessful"], false);
    let told = &sarif["runs"][0]["invocations"][0]["toolExecutionNotifications"][0];
    assert_eq!(told["level"], "error", "{told}");
}

#[test]
fn a_report_replaces_nothing_else_and_is_whole_or_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report");
    let asks = |more: &[&str]| {
        let shown = Command::new(LINGER).args(["probe", "http://127.0.0.1:1/"]).args(more).output().unwrap();
        (shown.status.code(), String::from_utf8(shown.stderr).unwrap())
    };
    let name = path.to_str().unwrap();
    std::fs::write(&path, [0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0]).unwrap();
    let (status, said) = asks(&["--junit", name]);
    assert!(status == Some(2) && said.contains("is not a text, and would be lost"), "{said}");
    std::fs::write(&path, "old").unwrap();
    for same in
        [&["--junit", name, "--sarif", name][..], &["--junit", "-"], &["--payload", name, "--sarif", name]]
    {
        let (status, said) = asks(same);
        assert_eq!(status, Some(2), "{same:?}: {said}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "old", "{same:?}");
    }
    let (status, said) = asks(&["--sarif", "/nowhere/at/all"]);
    assert!(status == Some(3) && said.contains("cannot write /nowhere/at/all"), "{said}");
    // Nobody listens there: that is a report, too.
    let (status, said) = asks(&["--junit", name]);
    let junit = std::fs::read_to_string(&path).unwrap();
    assert!(status == Some(3) && cases(&junit)[0].2.contains("cannot connect"), "{said}{junit}");
}

/// The system would ask it again and again, for a minute and a half.
#[test]
fn a_name_server_that_never_answers_does_not_hold_the_probe() {
    sandboxed(|| {
        let server = UdpSocket::bind("127.0.0.1:53").unwrap();
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("resolv.conf");
        std::fs::write(&file, "nameserver 127.0.0.1\noptions timeout:30 attempts:3\n").unwrap();
        let ask = |more: &[&str]| {
            let mut command = Command::new("unshare");
            command.args(["--mount", "sh", "-c", "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\""]);
            command.arg(&file).args([LINGER, "probe", "http://nobody.example:8080/", "--within", "1s"]);
            command.args(more).output().unwrap()
        };
        for more in [&[][..], &["--dry-run"]] {
            let shown = ask(more);
            let said = String::from_utf8_lossy(&shown.stderr);
            assert_eq!(shown.status.code(), Some(3), "{shown:?}");
            assert!(
                said.contains(
                    "cannot find http://nobody.example:8080/: no name server has answered in the 1.0 s"
                ),
                "{said}"
            );
            assert!(said.contains("--within"), "{said}");
            let mut query = [0; 512];
            let asked = server.recv(&mut query).unwrap();
            assert!(query[..asked].windows(6).any(|part| part == b"nobody"), "{query:?}");
        }
        // One field away: nobody need be asked for the address, and what is wrong is another thing.
        let shown = ask(&["--resolve", "nobody.example:8080:127.0.0.1"]);
        let said = String::from_utf8_lossy(&shown.stderr);
        assert_eq!(shown.status.code(), Some(3), "{shown:?}");
        assert!(said.contains("Connection refused"), "{said}");
    });
}
