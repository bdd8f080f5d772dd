//! Transfers that must fail: every error says what happened, to what, and what to do, the exit statuses of both
//! sides are right, and nothing is left under the final name.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use linger_testing::skip;
use rustix::net::{self, AddressFamily, SocketType};
use serde_json::Value;

const LINGER: &str = env!("CARGO_BIN_EXE_linger");

struct Place {
    top: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let top = tempfile::tempdir().unwrap();
        for dir in ["to/dir", "tree/sub"] {
            fs::create_dir_all(top.path().join(dir)).unwrap();
        }
        for name in ["file", "to/there", "tree/a", "tree/sub/b"] {
            fs::write(top.path().join(name), name).unwrap();
        }
        fs::write(top.path().join("large"), vec![7; 3 << 20]).unwrap();
        symlink("/etc/passwd", top.path().join("tree/out")).unwrap();
        let config = "[sink.fails]\ncommand = ['false']\n[sink.gone]\ncommand = ['/none/program']\n\
                      [sink.small]\ncommand = ['cat']\nmax_bytes = 3\n[source.fails]\ncommand = ['false']\n";
        fs::write(top.path().join("share.toml"), config).unwrap();
        Self { top }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.top.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        self.prepared(Command::new(LINGER), arguments)
    }

    fn prepared(&self, mut command: Command, arguments: &[&str]) -> Command {
        command
            .args(arguments)
            .current_dir(self.top.path())
            .env("XDG_CONFIG_HOME", self.path("home"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// A share of `to` for one connection, and its port.
    fn share(&self, through: Option<Command>) -> (Child, String) {
        let command = through.unwrap_or_else(|| Command::new(LINGER));
        let flags = ["share", "--writable", "--once", "--json", "--listen", "127.0.0.1:0"];
        let mut command = self.prepared(command, &flags);
        let mut child = command.args(["--config", "share.toml", "to"]).stderr(Stdio::null()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
        let value: Value = crate::common::contract::line("share", &line);
        let port = value["address"].as_str().unwrap().rsplit(':').next().unwrap().to_owned();
        (child, port)
    }

    /// Everything below `to`, to see that nothing has come.
    fn names(&self) -> Vec<PathBuf> {
        let mut names = Vec::new();
        let mut todo = vec![self.path("to")];
        while let Some(dir) = todo.pop() {
            for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
                if entry.is_dir() {
                    todo.push(entry.clone());
                }
                // What is kept for another try is not under any final name.
                if !entry.starts_with(self.path("to/.linger")) {
                    names.push(entry);
                }
            }
        }
        names.sort();
        names
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn what_the_other_side_cannot_do_is_said_with_what_to_do() {
    let place = Place::new();
    let long = "n".repeat(256);
    let too_long = format!("127.0.0.1:{long}");
    let before = place.names();
    for (words, expected, hint) in [
        (
            "put file 127.0.0.1:there/x",
            "linger: cannot open the directory there: Not a dir",
            "a file stands where",
        ),
        ("put file 127.0.0.1:there", "linger: there exists already", "--replace overwrites it"),
        ("put --replace tree 127.0.0.1:there", "linger: there exists and is no directory", "remove it, or"),
        ("put file 127.0.0.1:.linger/x", "used by the receiver itself", ""),
        ("put file 127.0.0.1:@none", "linger: there is no sink `@none` here", "configuration"),
        (
            "put file 127.0.0.1:@fails",
            "linger: `false` ended with exit status: 1",
            "standard error of `linger share`",
        ),
        ("put file 127.0.0.1:@gone", "linger: cannot start `/none/program`: No such", "is it installed?"),
        ("put file 127.0.0.1:@small", "linger: @small takes at most 3 bytes", "max_bytes"),
        ("put --dry-run file 127.0.0.1:@small", "linger: @small takes at most 3 bytes", "max_bytes"),
        ("put --dry-run file 127.0.0.1:there", "linger: there exists already", "--replace overwrites it"),
        ("get 127.0.0.1:none", "linger: cannot find none: No such file", "`linger ls` shows"),
        ("get 127.0.0.1:@none -", "linger: there is no source `@none` here", "configuration"),
        (
            "get 127.0.0.1:@fails got",
            "linger: `false` ended with exit status: 1",
            "standard error of `linger share`",
        ),
        ("get 127.0.0.1:there file", "linger: file exists already", "--replace overwrites it"),
        ("get --dry-run 127.0.0.1:there file", "linger: file exists already", "--replace overwrites it"),
    ] {
        let (mut share, port) = place.share(None);
        let mut arguments: Vec<_> = words.split(' ').collect();
        arguments.extend(["--port", &port]);
        let output = place.command(&arguments).output().unwrap();
        let told = said(&output);
        assert!(told.contains(expected), "{words}: {told}");
        assert!(hint.is_empty() || told.contains("\nhint: ") && told.contains(hint), "{words}: {told}");
        assert_eq!(output.status.code(), Some(1), "{words}: {told}");
        assert_eq!(share.wait().unwrap().code(), Some(1), "the share, {words}");
        assert_eq!(place.names(), before, "{words}");
        assert!(!place.path("got").exists());
    }
    for (words, expected, status) in [
        ("put file 127.0.0.1:/absolute", "is absolute; name it relative", 2),
        ("put file 127.0.0.1:a/../b", "has a component", 2),
        ("put file ::1:a", "an IPv6 address goes in brackets, as [::1]:PATH", 2),
        ("put file", "where to is missing: HOST:PATH comes last", 2),
        ("put file nocolon", "has no `:`; write HOST:PATH", 2),
        (&format!("put file {too_long}"), "is too long: 255 bytes a name", 2),
        ("put tree 127.0.0.1:@print", "a directory cannot go to @print: it takes one file", 2),
        (
            "put none 127.0.0.1:",
            "cannot find none: No such file or directory (os error 2); is the path right?",
            1,
        ),
        ("put /dev/null 127.0.0.1:", "is neither file nor directory\nhint: `linger put - HOST:NAME`", 1),
        ("put file none.invalid:", "cannot connect to none.invalid, port 7117: ", 1),
        (
            "get 127.0.0.1:a file/x",
            "cannot open the directory file: Not a directory (os error 20); name a directory",
            1,
        ),
        ("ls none.invalid:", "hint: is the name right?", 3),
    ] {
        let output = place.command(&words.split(' ').collect::<Vec<_>>()).output().unwrap();
        assert!(said(&output).contains(expected), "{words}: {}", said(&output));
        assert_eq!(output.status.code(), Some(status), "{words}: {}", said(&output));
    }
}

#[test]
fn a_port_where_nobody_listens_is_named_with_what_to_do() {
    let place = Place::new();
    // The socket is bound and does not listen, so that connections are refused and nobody else can take the port.
    let taken = net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    net::bind(&taken, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = SocketAddrV4::try_from(net::getsockname(&taken).unwrap()).unwrap().port().to_string();
    for (verb, status) in [("put file 127.0.0.1:", 1), ("get 127.0.0.1:x", 1), ("ls 127.0.0.1:", 3)] {
        let mut arguments: Vec<_> = verb.split(' ').collect();
        arguments.extend(["--port", &port]);
        let output = place.command(&arguments).output().unwrap();
        let expected = format!(
            "linger: cannot connect to 127.0.0.1, port {port}: Connection refused (os error 111)\n\
             hint: is `linger share` running there, and does it listen on this port or path?\n"
        );
        assert_eq!(said(&output), expected, "{verb}");
        assert_eq!(output.status.code(), Some(status), "{verb}");
    }
}

/// The lines of all files of a tree would be too many, and a hint that applies to a thousand failures is needed
/// once.
#[test]
fn a_tree_is_summed_up_and_its_failures_are_named() {
    let place = Place::new();
    let (mut share, port) = place.share(None);
    let output = place.command(&["put", "tree", "127.0.0.1:copy", "--port", &port]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "4 entries, 16 bytes confirmed\n");
    assert_eq!(said(&output), "linger: out is a link to /etc/passwd, outside of what is sent\n");
    assert_eq!(share.wait().unwrap().code(), Some(1), "both ends say the same");
    let (mut share, port) = place.share(None);
    let output = place.command(&["put", "tree", "127.0.0.1:copy/a/", "--port", &port]).output().unwrap();
    assert_eq!((output.status.code(), share.wait().unwrap().code()), (Some(1), Some(1)));
    let told = said(&output);
    assert_eq!(told.matches("hint: ").count(), 1, "{told}");
    assert!(
        told.contains("linger: sub/b: cannot open the directory copy/a/tree/sub: Not a directory"),
        "{told}"
    );
    assert!(told.ends_with("linger: 5 entries were not delivered\n"), "{told}");
    let (mut share, port) = place.share(None);
    let output = place.command(&["get", "-n", "127.0.0.1:copy", "--port", &port]).output().unwrap();
    assert_eq!((output.status.code(), share.wait().unwrap().code()), (Some(0), Some(0)));
    let told = String::from_utf8_lossy(&output.stdout);
    let mut lines: Vec<_> = told.lines().map(str::trim_start).collect();
    lines.sort_unstable();
    assert_eq!(lines, ["0  copy/", "0  sub/", "10  sub/b", "6  a"], "{told}");
    assert!(!place.path("copy").exists());
}

/// A share in a mount namespace of its own, where `to` is mounted with these options.
fn mounted(place: &Place, options: &str) -> Option<Command> {
    let probe = Command::new("unshare").args(["-rm", "true"]).output();
    if !probe.as_ref().is_ok_and(|output| output.status.success()) {
        skip("mount namespaces", &format!("no mount namespace: {probe:?}"));
        return None;
    }
    let script =
        format!("mount -t tmpfs -o {options} none {} && exec {LINGER} \"$@\"", place.path("to").display());
    let mut command = Command::new("unshare");
    command.args(["-rm", "sh", "-c", &script, "linger"]);
    Some(command)
}

#[test]
fn a_file_system_that_is_full_or_read_only_is_said_with_what_to_do() {
    let place = Place::new();
    for (options, expected, hint) in [
        ("size=1m", "large needs 3145728 bytes more, and ", "make room where it is received"),
        ("ro", "Read-only file system", "has to be mounted for writing"),
    ] {
        let Some(command) = mounted(&place, options) else { return };
        let (mut share, port) = place.share(Some(command));
        let output = place.command(&["put", "large", "127.0.0.1:", "--port", &port]).output().unwrap();
        let told = said(&output);
        assert!(told.contains(expected) && told.contains("\nhint: ") && told.contains(hint), "{told}");
        assert_eq!((output.status.code(), share.wait().unwrap().code()), (Some(1), Some(1)), "{told}");
    }
}

/// The share reports the reason and closes in order. The client would take a reset for a lost connection, and
/// would try again for two minutes.
#[test]
fn a_client_that_does_not_encrypt_is_told_so() {
    let place = Place::new();
    let server = format!("{LINGER} share --writable --listen $LINGER_SERVER:7117 to");
    let client = format!("{LINGER} put --insecure file $LINGER_SERVER:copy");
    let flags = ["lab", "exec", "--link", "wifi", "--server", &server, "--client", &client];
    let output = place.command(&flags).output().unwrap();
    if output.status.code() == Some(4) {
        return skip("private networks", said(&output).trim());
    }
    let told = said(&output) + &String::from_utf8_lossy(&output.stdout);
    assert!(told.contains("accepts encrypted connections alone\nhint: leave out --insecure"), "{told}");
    assert!(!told.contains("trying again"), "{told}");
    assert!(!place.path("to/copy").exists());
}

fn snippet(language: &str) -> String {
    let manual = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/transfer.md"));
    let manual = manual.unwrap();
    let (_, rest) = manual.split_once(&format!("```{language}\n")).unwrap();
    rest.split_once("```").unwrap().0.to_owned()
}

/// The editors of the manual, with its own words; only the host is this one.
#[test]
fn the_editors_reach_the_clipboard_with_what_the_manual_says() {
    let place = Place::new();
    let clip = place.path("clip");
    let config = format!(
        "[sink.clipboard]\ncommand = ['tee', '{0}']\n[source.clipboard]\ncommand = ['cat', '{0}']\n",
        clip.display()
    );
    fs::write(place.path("share.toml"), config).unwrap();
    let found = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{found}", Path::new(LINGER).parent().unwrap().display());
    let run = |program: &str, arguments: &[&str]| {
        let (mut share, port) = place.share(None);
        let here =
            |text: String| text.replace("pc:@clipboard", &format!("--port {port} 127.0.0.1:@clipboard"));
        // The arguments of Emacs are strings of their own.
        let lisp = snippet("elisp")
            .replace("\"pc:@clipboard\"", &format!("\"--port\" \"{port}\" \"127.0.0.1:@clipboard\""));
        fs::write(place.path("snippet.vim"), here(snippet("vim"))).unwrap();
        fs::write(place.path("snippet.el"), lisp).unwrap();
        let mut command = place.prepared(Command::new(program), arguments);
        let output = command.env("PATH", &path).env("TERM", "dumb").output();
        // If the editor has not connected, this request ends the share, which would otherwise wait for ever.
        let _ = place.command(&["ls", "127.0.0.1:", "--port", &port]).output();
        let served = share.wait().unwrap().code();
        output.ok().map(|output| (output, served))
    };
    fs::write(place.path("text"), "one\ntwo\nthree\n").unwrap();
    let vim = ["-N", "-u", "snippet.vim", "-i", "NONE", "--not-a-term"];
    let keys = |keys: &'static str| [&vim[..], &["-c", keys, "-c", "wq", "text"]].concat();
    match run("vim", &keys("exe \"normal jV\\\\y\\<CR>\"")) {
        None => skip("vim", "it is not installed"),
        Some((output, served)) => {
            assert_eq!(served, Some(0), "{output:?}");
            assert_eq!(fs::read_to_string(&clip).unwrap(), "two\n");
            let (output, served) = run("vim", &keys("exe \"normal G\\\\p\\<CR>\"")).unwrap();
            assert_eq!(served, Some(0), "{output:?}");
            assert_eq!(fs::read_to_string(place.path("text")).unwrap(), "one\ntwo\nthree\ntwo\n");
        }
    }
    let emacs = |form: &'static str| ["--batch", "-Q", "-l", "snippet.el", "--eval", form];
    let copy = "(with-temp-buffer (insert \"from emacs\\n\") (linger-copy (point-min) (point-max)))";
    let paste = "(with-temp-buffer (linger-paste) (princ (buffer-string)))";
    match run("emacs", &emacs(copy)) {
        None => skip("emacs-nox", "it is not installed"),
        Some((output, served)) => {
            assert_eq!((served, output.status.code()), (Some(0), Some(0)), "{output:?}");
            assert_eq!(fs::read_to_string(&clip).unwrap(), "from emacs\n");
            let (output, served) = run("emacs", &emacs(paste)).unwrap();
            assert_eq!((served, &output.stdout[..]), (Some(0), &b"from emacs\n"[..]), "{output:?}");
            // A failed paste is an error in the editor, and no text of it gets into the buffer.
            fs::remove_file(&clip).unwrap();
            let (output, served) = run("emacs", &emacs(paste)).unwrap();
            assert_eq!(served, Some(1), "{output:?}");
            assert_ne!(output.status.code(), Some(0), "{output:?}");
            assert!(output.stdout.is_empty(), "{output:?}");
        }
    }
}
