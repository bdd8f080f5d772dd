//! `linger lab exec`: foreign programs, over an emulated link.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use linger_testing::skip;

use crate::common::program::{has_networks, linger, run};

#[test]
fn other_programs_meet_over_a_link() {
    if !has_networks() {
        return;
    }
    let output = run(&[
        "lab",
        "exec",
        "--link",
        "lan",
        "--server",
        "exec python3 -m http.server --bind $LINGER_SERVER 8000",
        "--client",
        "exec python3 -c 'import os, urllib.request as r; r.urlopen(\"http://\" + \
         os.environ[\"LINGER_SERVER\"] + \":8000/\").read(); raise SystemExit(42)'",
        "--json",
    ]);
    assert_eq!(output.status.code(), Some(42), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    let object = crate::common::contract::line("lab", said.lines().last().unwrap());
    assert_eq!((&object["client_status"], &object["link_accidents"]), (&42.into(), &0.into()));
}

/// The examples of `lab exec --help`, word for word: the first loses a response, its twin does not.
#[test]
fn the_examples_of_exec_lose_and_keep() {
    if !has_networks() {
        return;
    }
    for (program, flag) in [("curl", "--version"), ("python3", "--version")] {
        if Command::new(program).arg(flag).output().is_err() {
            return skip(program, "not installed");
        }
    }
    let help = String::from_utf8(run(&["lab", "exec", "--help"]).stdout).unwrap();
    // A command goes on where its line ends in a backslash, and is indented.
    let joined = help.replace("\\\n", " ");
    let commands: Vec<&str> = joined
        .lines()
        .skip_while(|line| !line.starts_with("Examples"))
        .filter_map(|line| line.strip_prefix("  "))
        .collect();
    let [file, loses, keeps, among] = commands[..] else { panic!("{commands:?}") };
    // The example's file is replaced by the test's own.
    let directory = tempfile::tempdir().unwrap();
    let shell = |command: &str| {
        let own = command.replace("/tmp", directory.path().to_str().unwrap());
        let program = std::path::Path::new(env!("CARGO_BIN_EXE_linger")).parent().unwrap();
        let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
        Command::new("sh").args(["-c", &own]).env("PATH", path).output().unwrap()
    };
    assert!(shell(file).status.success());
    let lost = shell(loses);
    // CURLE_PARTIAL_FILE, or CURLE_RECV_ERROR.
    assert!(matches!(lost.status.code(), Some(18 | 56)), "{lost:?}");
    let kept = shell(keeps);
    assert_eq!(kept.status.code(), Some(0), "{kept:?}");
    if let Some(lack) =
        ["uwsgi", "nginx"].iter().find(|name| Command::new(name).arg("--version").output().is_err())
    {
        return skip(lack, "not installed");
    }
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let output = shell(&format!("cd '{root}' && {among}"));
    assert_eq!((output.status.code(), output.stdout.len()), (Some(0), 67_000), "{:?}", output.stderr);
}

/// The third story: a FastCGI application that has read all but the empty record behind the body. docs/fastcgi.md shows it.
#[test]
fn a_fastcgi_application_loses_its_response_and_is_cured() {
    if !has_networks() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let body = directory.path().join("body");
    std::fs::write(&body, vec![b'b'; 67_051]).unwrap();
    let get = |before: &str, ending: &str| {
        let program = env!("CARGO_BIN_EXE_linger");
        let before = before.replace("linger", program);
        let server =
            format!("exec {before}{program} fcgi serve --ending {ending} --listen $LINGER_SERVER:9000");
        let client = format!(
            "{program} fcgi get $LINGER_SERVER:9000 /srv/x --body {} >/dev/null; status=$?; sleep 1; exit $status",
            body.display()
        );
        let output =
            run(&["lab", "exec", "--link", "wifi", "--server", &server, "--client", &client, "--seed", "1"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let calls = String::from_utf8_lossy(&output.stdout).contains("socket errors  none");
        // The empty record has come by the close, or comes after it.
        let is_aborted = said.contains("TCPAbortOnClose 1") || said.contains("TCPAbortOnData 1");
        ((output.status.code(), said.contains("was cut after"), is_aborted, calls), format!("{output:?}"))
    };
    for ending in ["close", "shutdown-close", "shutdown-both", "so-linger"] {
        let (outcome, said) = get("", ending);
        assert_eq!(outcome, (Some(1), true, true, true), "{ending}: {said}");
    }
    for ending in ["drain-first", "drain-no-fin", "lingering"] {
        let (outcome, said) = get("", ending);
        assert_eq!(outcome, (Some(0), false, false, true), "{ending}: {said}");
    }
    let (outcome, said) = get("linger run -- ", "close");
    assert_eq!(outcome, (Some(0), false, false, true), "{said}");
}

/// A program that the lab ran, and what that program left running, end with a lab that is killed.
#[test]
fn nothing_is_left_behind_after_sigkill() {
    if !has_networks() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    // The kernel removes the lock with the last process that holds it.
    let lock = directory.path().join("lock");
    let hold = format!(
        "import fcntl, os, socket, time; f = open('{}', 'w'); fcntl.flock(f, fcntl.LOCK_EX); \
         s = socket.create_server(('', 9)); print('held', flush=True); time.sleep(600)",
        lock.display()
    );
    // The shell starts it in the background and in a session of its own, so that no signal to the process
    // group reaches it.
    let server = format!("setsid python3 -c \"{hold}\" & wait");
    let mut lab = linger(&["lab", "exec", "--link", "lan", "--server", &server, "--client", "sleep 600"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut said = String::new();
    BufReader::new(lab.stdout.take().unwrap()).read_line(&mut said).unwrap();
    assert_eq!(said, "held\n");
    lab.kill().unwrap();
    lab.wait().unwrap();
    let file = std::fs::File::open(&lock).unwrap();
    // Blocks until the holder is gone; if it were left behind, the test runner's time limit says so.
    file.lock().unwrap();
}

/// Two scenarios' worth of hosts in one file, for commands of one's own.
const HOSTS: &str = r#"
title = "t"
[[host]]
name = "application"
run = "exec python3 -m http.server --bind application 8000"
ready = { port = 8000 }
user = "1500"
[[host]]
name = "router"
[[host]]
name = "client"
[[link]]
between = ["client", "router"]
base = "lan"
[[link]]
between = ["router", "application"]
base = "lan"
[client]
run = "exit 9"
response = 1
"#;

#[test]
fn a_command_runs_among_the_hosts_of_a_scenario() {
    if !has_networks() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hosts.toml");
    std::fs::write(&file, HOSTS).unwrap();
    let file = file.to_str().unwrap();
    // Where it was started, with its own streams; the last of three fails.
    let run_of = "pwd; python3 -c 'import urllib.request as r; r.urlopen(\"http://application:8000/\").read()' && exit $((LINGER_REQUEST / 3 * 7))";
    let output =
        linger(&["lab", "exec", "--scenario", file, "--clients", "3", "--json", "--", "sh", "-c", run_of])
            .current_dir(folder.path())
            .output()
            .unwrap();
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let here = folder.path().canonicalize().unwrap();
    assert_eq!(said.lines().collect::<Vec<_>>(), [here.to_str().unwrap(); 3]);
    let errors = String::from_utf8_lossy(&output.stderr);
    let object = crate::common::contract::line("lab", errors.lines().last().unwrap());
    assert_eq!((&object["type"], &object["client_status"]), (&"exec_hosts".into(), &7.into()));
    let carried: Vec<bool> =
        object["links"].as_array().unwrap().iter().map(|link| link["carried"].as_u64() > Some(20)).collect();
    assert_eq!(carried, [true, true], "{object}");
    // A program of the scenario that dies is told, whatever the command says.
    std::fs::write(file, HOSTS.replace("exec python3 -m", "exit 5; x")).unwrap();
    let output = run(&["lab", "exec", "--scenario", file, "--", "true"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.code() == Some(3) && errors.contains("hosts.toml, line 4: host `application`"),
        "{errors}"
    );
}

/// As root it becomes that user; without root it has the user's number in a user namespace of its own.
#[test]
fn programs_run_as_another_user() {
    if !has_networks() {
        return;
    }
    let told = |user: &[&str]| {
        let show = "id -u; id -g; grep CapEff /proc/self/status";
        let server = format!("{{ {show}; }} > $OUT; exec python3 -m http.server --bind server 8000");
        let folder = tempfile::tempdir().unwrap();
        // Who it becomes may write here.
        std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        let out = folder.path().join("out");
        let words = [&["lab", "exec", "--link", "lan", "--server", &server, "--client", show], user].concat();
        let output = linger(&words).env("OUT", &out).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let own = |text: &str| -> Vec<String> {
            text.lines().filter(|line| !line.starts_with("Serving")).map(str::to_owned).collect()
        };
        let (server, client) =
            (own(&std::fs::read_to_string(&out).unwrap()), own(&String::from_utf8_lossy(&output.stdout)));
        assert_eq!(server, client, "both run as the same");
        client
    };
    assert_eq!(told(&["--user", "1500"]), ["1500", "1500", "CapEff:\t0000000000000000"]);
    assert_eq!(told(&[])[..2], ["0", "0"]);
}

#[test]
fn a_link_of_ones_own_stands_in_a_file() {
    if !has_networks() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gone.toml");
    let try_with = |link: &str| {
        std::fs::write(&file, link).unwrap();
        let client = "exec python3 -c 'import socket; s = socket.socket(); s.settimeout(2); s.connect((\"server\", 8000))' 2>/dev/null";
        let server = "exec python3 -m http.server --bind server 8000";
        run(&[
            "lab",
            "exec",
            "--link",
            file.to_str().unwrap(),
            "--server",
            server,
            "--client",
            client,
            "--json",
        ])
    };
    assert_eq!(try_with("base = \"lan\"").status.code(), Some(0));
    let lost = try_with("base = \"lan\"\nto-server = { loss = 1.0 }");
    assert_eq!(lost.status.code(), Some(1), "{lost:?}");
    let errors = String::from_utf8_lossy(&lost.stderr);
    let object = crate::common::contract::line("lab", errors.lines().last().unwrap());
    assert!(object["link_lost"].as_u64() > Some(0), "{object}");
    let bad = try_with("base = \"lan\"\nlos = 1.0");
    let errors = String::from_utf8_lossy(&bad.stderr).into_owned();
    assert!(
        bad.status.code() == Some(2) && errors.contains("gone.toml: TOML parse error at line 2"),
        "{errors}"
    );
}
