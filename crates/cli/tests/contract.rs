//! `--json` is a contract: every line of every verb is valid against the schema that `linger schema` prints, and
//! that schema does not change unnoticed.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use common::contract::{self, lines};
use linger_testing::skip;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

const LINGER: &str = env!("CARGO_BIN_EXE_linger");
const VERBS: [&str; 15] = [
    "client", "fcgi", "get", "hunt", "lab", "ls", "peers", "probe", "put", "receipt", "run", "server",
    "share", "watch", "why",
];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}

fn linger(home: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(LINGER);
    command.args(arguments).env("XDG_CONFIG_HOME", home).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn capture(name: &str) -> String {
    let captures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../why/captures");
    captures.join(format!("{name}.pcap.gz")).display().to_string()
}

/// The files in `tests/schema` are the promise (`LINGER_SCHEMA=overwrite cargo test -p linger-cli --test contract`
/// renews them). A field that is removed, or gets another name or type, needs a new version in `src/lines/mod.rs`.
#[test]
fn a_change_of_the_schema_is_seen() {
    for verb in VERBS {
        let now = format!("{:#}\n", contract::schema(verb));
        let path = folder("schema").join(format!("{verb}.json"));
        if std::env::var_os("LINGER_SCHEMA").is_some_and(|how| how == "overwrite") {
            fs::write(&path, &now).unwrap();
        }
        let promised = fs::read_to_string(&path).unwrap_or_default();
        assert!(promised == now, "`linger schema {verb}` is not what {} promises", path.display());
    }
}

/// A program that reads the lines of several verbs needs to know only their `type`.
#[test]
fn a_type_has_one_shape_whichever_verb_prints_it() {
    let mut shapes = BTreeMap::<String, Value>::new();
    for verb in VERBS {
        for line in contract::schema(verb)["oneOf"].as_array().unwrap() {
            let name = line["properties"]["type"]["const"].as_str().unwrap().to_owned();
            let shape = shapes.entry(name).or_insert_with(|| line.clone());
            assert_eq!(shape, line, "linger {verb}");
        }
    }
    let shared = ["reset", "confirmed"].map(|name| shapes.contains_key(name));
    assert_eq!(
        (shared, shapes.len()),
        ([true; 2], contract::schema_of_all()["oneOf"].as_array().unwrap().len())
    );
}

/// The verbs that a help lists.
fn verbs_of(words: &[&str]) -> Vec<String> {
    let output = Command::new(LINGER).args(words).arg("--help").output().unwrap();
    let help = text(&output.stdout);
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let names = listed.take_while(|line| !line.is_empty()).filter_map(|line| line.strip_prefix("  "));
    // The further lines of a description are indented more.
    let names = names.filter(|line| !line.starts_with(' ')).filter_map(|line| line.split(' ').next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

/// Every verb with `--json` must be known to these tests, or nobody would check its lines.
#[test]
fn every_verb_with_json_has_a_schema() {
    let mut with_json = BTreeSet::new();
    for verb in verbs_of(&[]) {
        let below = verbs_of(&[&verb]);
        for words in std::iter::once(vec![verb.as_str()]).chain(below.iter().map(|name| vec![&*verb, name])) {
            let output = Command::new(LINGER).args(&words).arg("--help").output().unwrap();
            if text(&output.stdout).lines().any(|line| line.trim_start().starts_with("--json")) {
                with_json.insert(verb.clone());
            }
        }
    }
    assert_eq!(with_json, VERBS.iter().map(|verb| (*verb).to_owned()).collect());
}

#[test]
fn all_verbs_together_are_one_schema() {
    let all = contract::schema_of_all();
    let kinds = |schema: &Value| -> BTreeSet<String> {
        let lines = schema["oneOf"].as_array().unwrap();
        lines.iter().map(|line| line["properties"]["type"]["const"].as_str().unwrap().to_owned()).collect()
    };
    let each: BTreeSet<String> = VERBS.iter().flat_map(|verb| kinds(&contract::schema(verb))).collect();
    assert_eq!(kinds(&all), each);
    let unknown = Command::new(LINGER).args(["schema", "nothing"]).output().unwrap();
    assert_eq!(unknown.status.code(), Some(2), "{}", text(&unknown.stderr));
}

/// The kind of a line says what is in it, whichever verb printed it; a time stands there twice; a unit is in the name.
#[test]
fn names_say_what_they_are() {
    let all = contract::schema_of_all();
    for line in all["oneOf"].as_array().unwrap() {
        let fields = line["properties"].as_object().unwrap();
        for common in ["type", "schema", "version", "host"] {
            assert!(fields.contains_key(common), "{line}");
        }
        for (name, field) in fields {
            let snake = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
            assert!(snake, "{name}");
            assert_ne!(name, "event");
            if field["format"] == "date-time" {
                assert!(fields.contains_key(&format!("{name}_seconds")), "{name} without seconds: {line}");
            }
            let bare =
                ["size", "bytes", "length", "got", "expected", "pause", "written", "response", "request"];
            assert!(
                !bare.contains(&name.as_str()) || field["type"] == "string",
                "{name} has no unit: {line}"
            );
        }
    }
}

/// The check itself can fail.
#[test]
fn a_line_one_field_away_is_not_valid() {
    let home = tempfile::tempdir().unwrap();
    let output = linger(home.path(), &["why", "--json", &capture("data-after-close.server")]);
    let reset = lines("why", &text(&output.stdout)).remove(0);
    assert_eq!(reset["type"], "reset");
    let with = |field: &str, value: Value| {
        let mut line = reset.clone();
        line[field] = value;
        line
    };
    assert!(contract::invalid("why", &reset).is_none());
    for (field, value) in [
        ("type", json!("group")),
        ("schema", json!(0)),
        ("cause", json!("because")),
        ("time", json!("yesterday")),
        ("frame", json!("7")),
        ("new", json!(1)),
    ] {
        assert!(contract::invalid("why", &with(field, value)).is_some(), "{field}");
    }
    let mut without = reset.clone();
    without.as_object_mut().unwrap().shift_remove("remedy");
    assert!(contract::invalid("why", &without).is_some());
    assert!(contract::invalid("watch", &reset).is_none(), "a reset is a reset, live or in a capture");
    assert!(contract::invalid("lab", &reset).is_some(), "the lab prints none");
}

#[test]
fn why() {
    let home = tempfile::tempdir().unwrap();
    let why = |arguments: &[&str]| {
        let output = linger(home.path(), &[&["why", "--json"], arguments].concat());
        lines("why", &text(&output.stdout))
    };
    assert_eq!(why(&["--causes"]).len(), 23);
    for entry in fs::read_dir(Path::new(&capture("x")).parent().unwrap()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "gz") {
            why(&[path.to_str().unwrap()]);
        }
    }
    // Two captures of the same connection and a missing file; then a capture that is cut off.
    why(&[&capture("forged-perfect.client"), &capture("forged-perfect.server"), "none"]);
    let cut = home.path().join("cut\u{1b}[31m\u{202e}.gz");
    let whole = fs::read(capture("data-after-close.server")).unwrap();
    fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    why(&[cut.to_str().unwrap()]);
}

/// Starts a verb, and waits for a line of standard error or output that holds the address.
struct Serving {
    child: Child,
    address: String,
    rest: Box<dyn BufRead + Send>,
}

impl Serving {
    fn start(home: &Path, arguments: &[&str], on_stdout: bool, before: &str) -> Self {
        let mut command = Command::new(LINGER);
        command.args(arguments).env("XDG_CONFIG_HOME", home).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let err = BufReader::new(child.stderr.take().unwrap());
        let (mut said, mut rest): (Box<dyn BufRead + Send>, Box<dyn BufRead + Send>) =
            if on_stdout { (Box::new(out), Box::new(err)) } else { (Box::new(err), Box::new(out)) };
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        let (_, after) = line.split_once(before).unwrap_or_else(|| panic!("{arguments:?}: {line}"));
        let address = after.split([',', ' ', '"']).next().unwrap().trim().to_owned();
        if on_stdout {
            // The other stream is of no interest, but must not fill up.
            std::thread::spawn(move || std::io::copy(&mut rest, &mut std::io::sink()));
            contract::line("share", line.trim_end());
            rest = said;
        } else {
            std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        }
        Self { child, address, rest }
    }

    /// Asks the verb to end, and returns what it has printed since it was ready.
    fn end(mut self) -> String {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
        let mut rest = String::new();
        self.rest.read_to_string(&mut rest).unwrap();
        self.child.wait().unwrap();
        rest
    }
}

#[test]
fn client_and_server() {
    let home = tempfile::tempdir().unwrap();
    for (ending, late) in [("close", "8"), ("lingering", "0")] {
        let arguments = ["server", "--listen", "127.0.0.1:0", "--ending", ending, "--json"];
        let server = Serving::start(home.path(), &arguments, false, "listening on ");
        for further in [&["--count", "20", "--late", late][..], &["--count", "1", "--timeout", "0.001"]] {
            let client = [&["client", &server.address, "--json"], further].concat();
            assert_eq!(lines("client", &text(&linger(home.path(), &client).stdout)).len(), 1);
        }
        assert_eq!(lines("server", &server.end()).len(), 1);
    }
    let refused = linger(home.path(), &["client", "127.0.0.1:1", "--count", "2", "--json"]);
    assert_eq!(lines("client", &text(&refused.stdout)).len(), 1);
}

#[test]
fn probe() {
    let home = tempfile::tempdir().unwrap();
    // httparse refuses C0 controls in a header. C1 controls and characters that reorder text pass.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            let head = b"HTTP/1.1 200 OK\r\nServer: \xc2\x9b2J\xe2\x80\xae\xff\r\nContent-Length: 100000\r\nConnection: close\r\n\r\n";
            let _ = stream.write_all(head).and_then(|()| stream.write_all(&[b'x'; 100_000]));
        }
    });
    let output = linger(
        home.path(),
        &["probe", &url, "--json", "--repeat", "1", "--only", "unread-body,trailing-bytes,pipelined"],
    );
    let told = lines("probe", &text(&output.stdout));
    assert_eq!(told.len(), 4, "{told:?} {}", text(&output.stderr));
    assert_eq!(told[3]["server"], "\u{9b}2J\u{202e}\u{fffd}");
    let plain = linger(home.path(), &["probe", &url, "--repeat", "1", "--only", "trailing-bytes"]);
    assert!(text(&plain.stdout).contains("\\u{9b}2J\\u{202e}\\xff: "), "{}", text(&plain.stdout));
}

#[test]
fn fcgi() {
    let home = tempfile::tempdir().unwrap();
    let arguments = ["fcgi", "serve", "--echo", "--listen", "127.0.0.1:0"];
    let server = Serving::start(home.path(), &arguments, false, "FastCGI on ");
    let output = linger(home.path(), &["fcgi", "get", &server.address, "/x", "--json"]);
    assert_eq!(lines("fcgi", &text(&output.stderr)).len(), 1);
    server.end();
    // An application that closes in the middle of its response.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let (mut stream, _): (TcpStream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(b"\x01\x06\x00\x01\x00\x05\x00\x00\r\n\r\nx");
    });
    let cut = linger(home.path(), &["fcgi", "get", &address, "/x", "--json"]);
    let said = text(&cut.stderr);
    assert_eq!(lines("fcgi", &said).len(), 1, "{said}");
    assert_eq!(cut.status.code(), Some(1), "{said}");
    // An application whose log looks like a line of this program.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let (mut stream, _): (TcpStream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(b"\x01\x07\x00\x01\x00\x03\x00\x00{}\n");
        let _ = stream.write_all(b"\x01\x06\x00\x01\x00\x04\x00\x00\r\n\r\n");
        let _ = stream.write_all(b"\x01\x03\x00\x01\x00\x08\x00\x00\x00\x00\x00\x07\x00\x00\x00\x00");
    });
    let logged = linger(home.path(), &["fcgi", "get", &address, "/x", "--json"]);
    let told = lines("fcgi", &text(&logged.stderr));
    assert_eq!(
        (told.len(), &told[0]["log"], &told[0]["app_status"]),
        (1, &"{}".into(), &7.into()),
        "{told:?}"
    );
    assert_eq!(logged.status.code(), Some(1));
    let nobody = linger(home.path(), &["fcgi", "get", "127.0.0.1:1", "/x", "--json"]);
    let told = lines("fcgi", &text(&nobody.stderr));
    assert!(told.len() == 1 && told[0]["error"].as_str().unwrap().contains("cannot connect"), "{told:?}");
    assert_eq!(nobody.status.code(), Some(3));
}

#[test]
fn transfers() {
    let home = tempfile::tempdir().unwrap();
    let (to, from) = (home.path().join("to"), home.path().join("from"));
    fs::create_dir_all(&to).unwrap();
    fs::create_dir_all(from.join("sub")).unwrap();
    fs::write(from.join("sub/a\u{1b}[2J\u{202e}"), "text").unwrap();
    fs::write(from.join("b"), "text").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", from.join("out")).unwrap();
    let arguments = ["share", "--writable", "--json", "--listen", "127.0.0.1:0", to.to_str().unwrap()];
    let share = Serving::start(home.path(), &arguments, true, "\"address\":\"");
    let port = share.address.rsplit(':').next().unwrap();
    let mut kinds = BTreeSet::new();
    let got = home.path().join("got");
    let from = from.to_str().unwrap();
    for (verb, further) in [
        ("put", &["-n", from, "127.0.0.1:copy"][..]),
        ("put", &[from, "127.0.0.1:copy"]),
        ("put", &[from, "127.0.0.1:copy"]),
        ("put", &["/dev/null", "127.0.0.1:x"]),
        ("get", &["-n", "127.0.0.1:copy", got.to_str().unwrap()]),
        ("get", &["127.0.0.1:copy", got.to_str().unwrap()]),
        ("get", &["127.0.0.1:none", got.to_str().unwrap()]),
        ("ls", &["127.0.0.1:copy/sub"]),
        ("ls", &["127.0.0.1:none"]),
    ] {
        let words = [&[verb, "--json", "--port", port], further].concat();
        let output = linger(home.path(), &words);
        for line in lines(verb, &text(&output.stdout)) {
            kinds.insert((verb, line["type"].as_str().unwrap().to_owned()));
        }
    }
    for line in lines("share", &share.end()) {
        kinds.insert(("share", line["type"].as_str().unwrap().to_owned()));
    }
    for (verb, kind) in [
        ("put", "connected"),
        ("put", "started"),
        ("put", "confirmed"),
        ("put", "would-send"),
        ("put", "not-delivered"),
        ("put", "transfer"),
        ("get", "confirmed"),
        ("get", "transfer"),
        ("ls", "entry"),
        ("share", "confirmed"),
        ("share", "served"),
    ] {
        assert!(kinds.contains(&(verb, kind.to_owned())), "{verb}: {kind} among {kinds:?}");
    }
}

#[test]
fn receipts() {
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
    let hash = "\"blake3\":\"0000000000000000000000000000000000000000000000000000000000000000\",";
    let line = |path: &str, kind: &str, hash: &str| {
        format!(
            "{{\"path\":\"{path}\",\"kind\":\"{kind}\",\"length\":4,{hash}\"name\":\"n\",\"durability\":\"disk\",\
             \"time\":0.5,\"present\":false,\"receiver\":\"h\"}}\n"
        )
    };
    fs::create_dir(at("tree")).unwrap();
    fs::write(at("tree/same"), "text").unwrap();
    let lines_of = |receipt: &str, status: i32| {
        let (count, hash) = (receipt.lines().count(), blake3::hash(receipt.as_bytes()).to_hex());
        let last = format!("{{\"receipts\":{count},\"blake3\":\"{hash}\"}}\n");
        fs::write(at("r.json"), receipt.to_owned() + &last).unwrap();
        let output = linger(home.path(), &["receipt", "verify", "--json", &at("r.json"), &at("tree")]);
        assert_eq!(output.status.code(), Some(status), "{}", text(&output.stderr));
        lines("receipt", &text(&output.stdout))
    };
    let told = lines_of(&[line("same", "file", ""), line("", "directory", "")].concat(), 0);
    let checks: Vec<_> = told.iter().map(|line| line["check"].as_str()).collect();
    assert_eq!(checks, [Some("unverified"), Some("unverified"), None], "{told:?}");
    assert_eq!((&told[2]["checked"], &told[2]["different"]), (&json!(2), &json!(0)));
    let told = lines_of(&[line("same", "file", hash), line("gone\\u001b", "file", hash)].concat(), 1);
    let checks: Vec<_> = told.iter().map(|line| line["check"].as_str()).collect();
    assert_eq!(checks, [Some("differs"), Some("differs"), None], "{told:?}");
    assert_eq!((&told[2]["checked"], &told[2]["different"]), (&json!(2), &json!(2)));
    // The first of the lines is no receipt, or there is none.
    assert!(lines_of("x", 2).is_empty() && lines_of("", 2).is_empty());
}

#[test]
fn run() {
    let home = tempfile::tempdir().unwrap();
    for words in [&["run", "--json", "--", "true"][..], &["run", "--json", "--via", "seccomp", "--", "true"]]
    {
        let output = linger(home.path(), words);
        let said = text(&output.stderr);
        if output.status.code() == Some(4) {
            skip("seccomp notifications", said.trim());
            continue;
        }
        assert_eq!(lines("run", &said).len(), 1, "{said}");
    }
}

/// What `linger watch` with these options says of a close with unread data, and its status after SIGINT. `None` if this user
/// cannot watch.
fn watched(options: &[&str]) -> Option<(String, Option<i32>)> {
    let home = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut command = Command::new(LINGER);
    command
        .args(["watch", "--json", "--port", &port.to_string()])
        .args(options)
        .env("XDG_CONFIG_HOME", home.path());
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    // `watch` sees resets only once it has opened the kernel's tracepoints. Until then each reset is one more attempt.
    let (first, told) = std::sync::mpsc::channel();
    let reading = std::thread::spawn(move || {
        let mut all = String::new();
        loop {
            let before = all.len();
            if out.read_line(&mut all).unwrap_or(0) == 0 {
                return all;
            }
            if all[before..].contains("reset") {
                let _ = first.send(());
            }
        }
    });
    let mut seen = false;
    while !seen && child.try_wait().unwrap().is_none() {
        let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (server, _) = listener.accept().unwrap();
        client.write_all(b"unread").unwrap();
        server.peek(&mut [0]).unwrap();
        drop(server);
        seen = told.recv_timeout(std::time::Duration::from_millis(200)).is_ok();
    }
    if !seen {
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(4), "{said}");
        skip("live tracepoints", said.trim());
        return None;
    }
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let status = child.wait().unwrap().code();
    Some((reading.join().unwrap(), status))
}

#[test]
fn watch() {
    let Some((told, status)) = watched(&[]) else { return };
    let told = lines("watch", &told);
    assert!(told.iter().any(|line| line["type"] == "reset"), "{told:?}");
    assert!(told.iter().any(|line| line["type"] == "counters"), "{told:?}");
    assert_eq!(status, Some(0), "a normal stop, whatever was seen");
    for (cause, expected) in [("closed-with-unread-data", 1), ("keepalive-timeout", 0), ("any", 1)] {
        let status = watched(&["--fail-on", cause]).and_then(|(_, status)| status);
        assert_eq!(status, Some(expected), "{cause}");
    }
}
