//! `share` on a unix socket: the kernel says who connects, and nobody else is served.

use std::fs::{self, Permissions};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use linger_testing::skip;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const LINGER: &str = env!("CARGO_BIN_EXE_linger");
/// A user that owns nothing.
const OTHER: u32 = 23_997;

fn linger(place: &Path, home: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(LINGER);
    command.args(arguments).current_dir(place).env("XDG_CONFIG_HOME", place.join(home));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A server on `place/socket`, and the line in which it says so.
fn share(mut command: Command) -> (Child, Value) {
    let mut server = command.stderr(Stdio::null()).spawn().unwrap();
    let mut out = BufReader::new(server.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
    (server, crate::common::contract::line("share", &line))
}

fn sharing(place: &Path, home: &str, flags: &[&str]) -> Command {
    let all = ["share", "--writable", "--json", "--listen", "unix:socket", "to"];
    linger(place, home, &[&all, flags].concat())
}

#[track_caller]
fn ends(output: Output, status: i32, told: &str) -> Output {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{said}");
    assert!(said.contains(told), "{said}");
    output
}

fn stop(mut server: Child, signal: Signal) -> Option<i32> {
    kill_process(Pid::from_child(&server), signal).unwrap();
    server.wait().unwrap().code()
}

#[test]
fn a_socket_serves_as_a_port_does() {
    let top = tempfile::tempdir().unwrap();
    let place = top.path();
    fs::create_dir_all(place.join("to")).unwrap();
    fs::create_dir_all(place.join("tree/sub")).unwrap();
    let content: Vec<u8> = (0..3_000_000u32).map(|number| (number % 251) as u8).collect();
    fs::write(place.join("tree/sub/file"), &content).unwrap();
    let (server, listening) = share(sharing(place, "home", &[]));
    let address = format!("unix:{}", place.join("socket").display());
    assert_eq!(listening["address"], "unix:socket");
    assert_eq!(listening["code"], Value::Null, "there is nothing to pair");
    let do_it = |arguments: &[&str]| linger(place, "other-keys", arguments).output().unwrap();
    ends(do_it(&["put", "tree", &format!("{address}:")]), 0, "");
    ends(do_it(&["put", "--streams", "4", "tree/sub/file", &format!("{address}:four")]), 0, "");
    ends(do_it(&["put", "--no-verify", "tree/sub/file", &format!("{address}:dir/bare")]), 0, "");
    for copy in ["to/tree/sub/file", "to/four", "to/dir/bare"] {
        assert!(fs::read(place.join(copy)).unwrap() == content, "{copy}");
    }
    for flags in [&["get"][..], &["get", "--no-verify"]] {
        let got = ends(do_it(&[flags, &[&format!("{address}:four"), "-"]].concat()), 0, "");
        assert!(got.stdout == content, "{flags:?}");
    }
    let listed = ends(do_it(&["ls", &address]), 0, "");
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert_eq!(
        listed.lines().filter_map(|line| line.split(' ').next_back()).collect::<Vec<_>>(),
        ["dir/", "four", "tree/"]
    );
    ends(do_it(&["get", &format!("{address}:none"), "-"]), 1, "No such file");
    ends(do_it(&["put", "--tls", "tree", &format!("{address}:")]), 2, "leave out --tls");
    ends(do_it(&["put", "--port", "7117", "tree", &format!("{address}:")]), 2, "leave out --port");
    ends(sharing(place, "home", &[]).output().unwrap(), 3, "cannot listen on unix:socket");
    assert_eq!(stop(server, Signal::TERM), Some(0));
    assert!(!place.join("socket").exists(), "it goes with its server, which Landlock keeps out of there");
    ends(do_it(&["ls", &address]), 3, "is `linger share` running there");
}

#[test]
fn what_a_killed_server_has_left_is_replaced_and_a_file_is_not() {
    let top = tempfile::tempdir().unwrap();
    let place = top.path();
    fs::create_dir_all(place.join("to")).unwrap();
    let (server, _) = share(sharing(place, "home", &[]));
    assert_eq!(stop(server, Signal::KILL), None);
    assert!(place.join("socket").exists());
    let (server, _) = share(sharing(place, "home", &[]));
    assert_eq!(stop(server, Signal::INT), Some(0));
    fs::write(place.join("socket"), "precious").unwrap();
    ends(sharing(place, "home", &[]).output().unwrap(), 3, "cannot listen on unix:socket");
    assert_eq!(fs::read(place.join("socket")).unwrap(), b"precious");
}

#[test]
fn another_user_is_neither_served_nor_sent_to() {
    if !rustix::process::geteuid().is_root() {
        return skip("root", "another user is needed");
    }
    let top = tempfile::tempdir().unwrap();
    let place = top.path();
    let open = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    open(place, 0o777);
    fs::create_dir_all(place.join("to")).unwrap();
    open(&place.join("to"), 0o777);
    fs::write(place.join("file"), "x").unwrap();
    let address = |name: &str| format!("unix:{}:{name}", place.join("socket").display());
    let put = |user: u32, name: &str, flags: &[&str]| {
        let to = address(name);
        let arguments = [&["put", "--retry-for", "0", "file", &*to][..], flags].concat();
        linger(place, &format!("home-{user}"), &arguments).uid(user).gid(user).output().unwrap()
    };
    let (server, _) = share(sharing(place, "home", &[]));
    ends(put(OTHER, "closed", &[]), 1, "Permission denied");
    // Whoever loosens the file's mode does not let anybody in.
    open(&place.join("socket"), 0o666);
    ends(put(OTHER, "stranger", &["--insecure"]), 1, "it serves its own user and root alone");
    ends(put(OTHER, "of-root", &[]), 1, "it serves its own user and root alone");
    ends(put(0, "own", &[]), 0, "");
    stop(server, Signal::TERM);
    let (server, _) = share(sharing(place, "home", &["--insecure-loopback"]));
    ends(put(OTHER, "everybody", &[]), 0, "");
    stop(server, Signal::TERM);
    let mut theirs = sharing(place, "home-theirs", &[]);
    theirs.uid(OTHER).gid(OTHER);
    let (server, _) = share(theirs);
    ends(put(0, "to-another", &[]), 1, &format!("belongs to uid {OTHER}"));
    ends(put(0, "to-another-on-purpose", &["--insecure"]), 0, "");
    ends(put(OTHER, "to-oneself", &[]), 0, "");
    stop(server, Signal::TERM);
    let mut names: Vec<_> =
        fs::read_dir(place.join("to")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["everybody", "own", "to-another-on-purpose", "to-oneself"]);
}
