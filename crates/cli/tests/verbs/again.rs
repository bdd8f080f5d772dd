//! A server that was killed while a sink's command ran: nobody knows whether it printed. Nothing but `put --again` prints anew.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};
use serde_json::Value;

const LINGER: &str = env!("CARGO_BIN_EXE_linger");

fn linger(place: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(LINGER);
    command.args(arguments).current_dir(place).env("XDG_CONFIG_HOME", place.join("home"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A server whose printer is this shell script, and the sink's address.
fn share(place: &Path, script: &str) -> (Child, String) {
    fs::write(place.join("share.toml"), format!("[sink.print]\ncommand = ['sh', '-c', '{script}']\n"))
        .unwrap();
    let flags = ["share", "--json", "--listen", "127.0.0.1:0", "--config", "share.toml", "to"];
    let mut server = linger(place, &flags).stderr(Stdio::null()).spawn().unwrap();
    let mut out = BufReader::new(server.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
    let listening: Value = crate::common::contract::line("share", &line);
    let address = listening["address"].as_str().unwrap();
    (server, format!("{address}:@print"))
}

#[test]
fn what_may_have_been_printed_is_printed_anew_by_the_users_word_alone() {
    let top = tempfile::tempdir().unwrap();
    let place = top.path();
    fs::create_dir(place.join("to")).unwrap();
    fs::write(place.join("letter"), "a letter\n").unwrap();
    fs::write(place.join("other"), "another\n").unwrap();
    let prints = format!("cat >> {}", place.join("printed").display());
    let printed = || fs::read_to_string(place.join("printed")).unwrap();
    mknodat(CWD, place.join("started"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let jammed = format!("{prints}; echo $$ > {}; exec sleep 600", place.join("started").display());
    let (mut server, to) = share(place, &jammed);
    let put = linger(place, &["put", "--retry-for", "0", "letter", &to]).spawn().unwrap();
    let command = fs::read_to_string(place.join("started")).unwrap();
    server.kill().unwrap();
    server.wait().unwrap();
    // It outlives the server, as docs/transfer.md says.
    kill_process(Pid::from_raw(command.trim().parse().unwrap()).unwrap(), Signal::KILL).unwrap();
    let put = put.wait_with_output().unwrap();
    assert_eq!(put.status.code(), Some(3));
    let told = String::from_utf8(put.stderr).unwrap();
    let (_, asks) = told.split_once("to ask later: linger receipt ask ").expect(&told);
    let (asked, id) = asks.trim().split_once(' ').unwrap();
    assert_eq!((asked, id.len()), (&*to, 32));
    assert_eq!(printed(), "a letter\n");

    let (mut server, to) = share(place, &prints);
    for (id, known) in [(id, "it may have been done"), (&"0".repeat(32), "no command was started for it")] {
        let answer = linger(place, &["receipt", "ask", &to, id]).output().unwrap();
        let told = String::from_utf8_lossy(&answer.stderr).into_owned();
        assert!(answer.status.code() == Some(3) && told.contains(known), "{told}");
    }
    let put = |arguments: &[&str], status: i32| {
        let output = linger(place, &[&["put"], arguments].concat()).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {told}");
        told
    };
    let told = put(&["letter", &to], 3);
    assert!(told.contains("may have been done") && told.contains("put --again"), "{told}");
    put(&["--no-verify", "letter", &to], 3);
    assert_eq!(printed(), "a letter\n", "nobody has said that it is to be printed");
    put(&["other", &to], 0);
    assert_eq!(printed(), "a letter\nanother\n", "other content is not concerned");
    put(&["--again", "letter", &to], 0);
    put(&["letter", &to], 0);
    assert_eq!(printed(), "a letter\nanother\na letter\na letter\n");
    let told = put(&["--again", "letter", &to.replace("@print", "letter")], 2);
    assert!(told.contains("--again is for sinks"), "{told}");
    server.kill().unwrap();
    server.wait().unwrap();
}

/// An entry of the journal that does not fit on the disk is written only in part. The entries after it must still be found.
#[test]
fn a_full_disk_does_not_make_the_journal_forget() {
    let top = tempfile::tempdir().unwrap();
    let place = top.path();
    fs::create_dir(place.join("to")).unwrap();
    for name in ["first", "second", "third"] {
        fs::write(place.join(name), format!("{name}\n")).unwrap();
    }
    mknodat(CWD, place.join("started"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let at = |name: &str| place.join(name).display().to_string();
    let script = format!(
        "cat >> {}; test -e {} || exit 0; echo $$ > {}; exec sleep 600",
        at("printed"),
        at("jam"),
        at("started")
    );
    let (mut server, to) = share(place, &script);
    let put = |name: &str, to: &str| {
        let output = linger(place, &["put", "--retry-for", "0", name, to]).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(put("first", &to).0, Some(0));
    let journal = fs::read_dir(place.join("home/linger")).unwrap().map(|entry| entry.unwrap().path());
    let journal = journal.into_iter().find(|path| path.to_string_lossy().contains("deliveries-")).unwrap();
    let length = fs::metadata(&journal).unwrap().len();
    let process = Pid::from_child(&server);
    let usual = getrlimit(Resource::Fsize);
    prlimit(Some(process), Resource::Fsize, Rlimit { current: Some(length + 20), ..usual }).unwrap();
    let (status, told) = put("second", &to);
    assert_eq!(status, Some(1), "{told}");
    assert!(told.contains("nothing was run"), "{told}");
    prlimit(Some(process), Resource::Fsize, usual).unwrap();

    fs::write(place.join("jam"), "").unwrap();
    let third = linger(place, &["put", "--retry-for", "0", "third", &to]).spawn().unwrap();
    let command = fs::read_to_string(place.join("started")).unwrap();
    server.kill().unwrap();
    server.wait().unwrap();
    kill_process(Pid::from_raw(command.trim().parse().unwrap()).unwrap(), Signal::KILL).unwrap();
    assert_eq!(third.wait_with_output().unwrap().status.code(), Some(3));
    fs::remove_file(place.join("jam")).unwrap();
    let (mut server, to) = share(place, &script);
    let (status, told) = put("third", &to);
    assert_eq!(status, Some(3), "{told}");
    assert!(told.contains("may have been done"), "{told}");
    assert_eq!(put("second", &to).0, Some(0), "it was never begun");
    assert_eq!(fs::read_to_string(place.join("printed")).unwrap(), "first\nthird\nsecond\n");
    server.kill().unwrap();
    server.wait().unwrap();
}

/// A server that has sinks does not start on a damaged journal, and does not change it. A server without sinks starts.
#[test]
fn a_damaged_journal_is_told_and_left_alone() {
    let top = tempfile::tempdir().unwrap();
    let place = top.path();
    fs::create_dir(place.join("to")).unwrap();
    fs::write(place.join("letter"), "a letter\n").unwrap();
    let (mut server, to) = share(place, "cat > /dev/null");
    let put = linger(place, &["put", "letter", &to]).output().unwrap();
    assert_eq!(put.status.code(), Some(0));
    server.kill().unwrap();
    server.wait().unwrap();
    let mut entries = fs::read_dir(place.join("home/linger")).unwrap().map(|entry| entry.unwrap().path());
    let journal = entries.find(|path| path.to_string_lossy().contains("deliveries-")).unwrap();
    let mut damaged = fs::read(&journal).unwrap();
    damaged[30] ^= 0xa5;
    fs::write(&journal, &damaged).unwrap();
    let flags = ["share", "--listen", "127.0.0.1:0", "--config", "share.toml", "to"];
    let refused = linger(place, &flags).output().unwrap();
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(3), "{told}");
    let named = told.contains(&*journal.to_string_lossy()) && told.contains("damaged at byte 24");
    assert!(named && told.contains("move the file away, and start again\n"), "{told}");
    assert_eq!(fs::read(&journal).unwrap(), damaged);
    // Without sinks nothing depends on it.
    fs::write(place.join("share.toml"), "").unwrap();
    let flags = ["share", "--json", "--listen", "127.0.0.1:0", "--config", "share.toml", "to"];
    let mut server = linger(place, &flags).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("listening"), "{line}");
    server.kill().unwrap();
    server.wait().unwrap();
    assert_eq!(fs::read(&journal).unwrap(), damaged);
}

/// A client that gives up while its command runs at a server that lives on: the same content is not printed again by itself.
#[test]
fn what_nobody_heard_of_is_printed_anew_by_the_users_word_alone() {
    let top = tempfile::tempdir().unwrap();
    let place = top.path();
    fs::create_dir(place.join("to")).unwrap();
    fs::write(place.join("letter"), "a letter\n").unwrap();
    for fifo in ["started", "go"] {
        mknodat(CWD, place.join(fifo), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    }
    let at = |name: &str| place.join(name).display().to_string();
    let script = format!(
        "cat >> {}; test -e {} || exit 0; echo x > {}; cat {}",
        at("printed"),
        at("jam"),
        at("started"),
        at("go")
    );
    fs::write(place.join("jam"), "").unwrap();
    let (mut server, to) = share(place, &script);
    let first = linger(place, &["put", "letter", &to]).spawn().unwrap();
    fs::read_to_string(place.join("started")).unwrap();
    kill_process(Pid::from_child(&first), Signal::INT).unwrap();
    let first = first.wait_with_output().unwrap();
    let told = String::from_utf8(first.stderr).unwrap();
    assert_eq!(first.status.code(), Some(3), "{told}");
    let (_, asks) = told.split_once("to ask later: linger receipt ask ").expect(&told);
    let (_, id) = asks.trim().split_once(' ').unwrap();

    // The same again while it runs waits for what it comes to.
    let second = linger(place, &["put", "letter", &to]).spawn().unwrap();
    fs::remove_file(place.join("jam")).unwrap();
    fs::write(place.join("go"), "").unwrap();
    let second = second.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(3), "{told}");
    assert!(told.contains("its client has not heard so") && told.contains("put --again"), "{told}");
    let printed = || fs::read_to_string(place.join("printed")).unwrap();
    let put =
        |arguments: &[&str]| linger(place, &[&["put"], arguments].concat()).output().unwrap().status.code();
    assert_eq!((put(&["letter", &to]), printed().lines().count()), (Some(3), 1));
    assert_eq!((put(&["--again", "letter", &to]), printed().lines().count()), (Some(0), 2));
    assert_eq!((put(&["letter", &to]), printed().lines().count()), (Some(0), 3), "its client knows");
    let answer = linger(place, &["receipt", "ask", &to, id]).output().unwrap();
    assert_eq!(answer.status.code(), Some(0), "of the first, too, it is known that it was printed");
    server.kill().unwrap();
    server.wait().unwrap();
}
