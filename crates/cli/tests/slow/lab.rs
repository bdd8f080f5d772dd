//! The program's main job, run as a user runs it.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use linger_testing::skip;
use serde_json::Value;

use crate::common::program::{has_networks, interrupt, linger, run};

fn lines(output: &std::process::Output) -> Vec<Value> {
    crate::common::contract::lines("lab", &String::from_utf8_lossy(&output.stdout))
}

#[test]
fn the_reset_overtakes_the_response_and_lingering_loses_none() {
    if !has_networks() {
        return;
    }
    let output = run(&[
        "lab",
        "--ending",
        "close,lingering",
        "--peer",
        "unread",
        "--link",
        "overtake",
        "--response",
        "1000",
        "--trials",
        "60",
        "--seed",
        "7",
        "--json",
    ]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let lines = lines(&output);
    let lost = |ending: &str| {
        let cell = lines.iter().find(|line| line["ending"] == ending).unwrap();
        (cell["lost"].as_u64().unwrap(), cell["trials"].as_u64().unwrap())
    };
    let ((close, of), lingering) = (lost("close"), lost("lingering"));
    // The preset holds the data for 40 ms, and a busy machine may stop a server longer than that.
    assert!(close >= 54 && of == 60, "{lines:?}");
    assert_eq!(lingering, (0, 60));
    let summary = lines.last().unwrap();
    assert_eq!((&summary["type"], &summary["seed"]), (&"lab".into(), &7.into()));
    assert_eq!(summary["outcome"], "as_expected");
}

#[test]
fn the_whole_grid_shows_the_loss_the_cure_and_the_backlog() {
    if !has_networks() {
        return;
    }
    let output = run(&["lab", "--all", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let lines = lines(&output);
    for ending in ["close", "shutdown-close", "so-linger=5", "exit", "lingering"] {
        for peer in ["reads-all", "unread", "late", "upload"] {
            for link in ["loopback", "wifi", "overtake"] {
                let cell = lines
                    .iter()
                    .find(|line| line["ending"] == ending && line["peer"] == peer && line["link"] == link)
                    .unwrap_or_else(|| panic!("{ending} {peer} {link} is missing"));
                let (lost, trials) = (cell["lost"].as_u64().unwrap(), cell["trials"].as_u64().unwrap());
                assert!(trials > 0);
                if ending == "lingering" || peer == "reads-all" {
                    assert_eq!(lost, 0, "{cell}");
                    assert_eq!(cell["kept"], cell["trials"], "{cell}");
                    assert_eq!(cell["counters"]["TCPAbortOnClose"], 0, "{cell}");
                } else if link != "loopback" {
                    // Nearly all; a machine that stops a server between its write() and its close() can save a few.
                    assert!(lost * 2 > trials, "{cell}");
                }
            }
        }
    }
    let burst = |backlog: u64, resets: bool| {
        let is_it = |line: &&Value| {
            line["type"] == "backlog" && line["backlog"] == backlog && line["abort_on_overflow"] == resets
        };
        lines.iter().find(is_it).unwrap_or_else(|| panic!("{backlog} {resets} is missing"))
    };
    let overflows = |burst: &Value| burst["counters"]["ListenOverflows"].as_u64().unwrap();
    let enough = burst(128, false);
    assert_eq!((&enough["blame"], &enough["lost"], overflows(enough)), (&"nobody".into(), &0.into(), 0));
    let reset = burst(8, true);
    assert!(reset["blame"] == "accept_queue" && reset["lost"].as_u64() > Some(0), "{reset}");
    // Who is dropped tries again after a second; on a busy machine, where the clients begin further apart, all may then be in time.
    let dropped = burst(8, false);
    let blame = if dropped["lost"] == 0 { "nobody" } else { "accept_queue" };
    assert!(overflows(dropped) > 0 && dropped["blame"] == blame, "{dropped}");
}

/// What anybody reads first: three rows, lost by two of them, and what to do next.
#[test]
fn the_default_run_is_three_rows_and_what_to_do_next() {
    if !has_networks() {
        return;
    }
    let output = run(&["lab"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let row =
        |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{text}"));
    for name in ["close()", "SO_LINGER of 5 s, close()"] {
        assert!(row(name).ends_with("no error") && !row(name).contains(" 0 of "), "{text}");
    }
    assert!(
        row("lingering close").contains(" 0 of ") && row("lingering close").ends_with("no error"),
        "{text}"
    );
    for verb in
        ["linger lab --one", "linger probe", "linger watch --port", "linger run --", "linger lab --all"]
    {
        assert!(text.contains(verb), "{text}");
    }
}

#[test]
fn one_connection_is_a_ladder() {
    if !has_networks() {
        return;
    }
    let output = run(&["lab", "--one"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let order = [
        "write() 108 bytes: ok",
        "read() 100 bytes",
        "write() 200000 bytes: ok",
        "close() with 8 bytes unread: ok",
        "RST sent behind",
        "RST arrives after",
        "read(): Connection reset by peer",
        "lost: the client has",
    ];
    let lines: Vec<usize> = order
        .iter()
        .map(|part| {
            text.lines().position(|line| line.contains(part)).unwrap_or_else(|| panic!("{part}: {text}"))
        })
        .collect();
    assert!(lines.is_sorted(), "{text}");
    assert!(text.contains("no call of the server's failed") && text.lines().count() <= 12, "{text}");
    let cured = lines_of_one(&["--ending", "lingering"]);
    assert_eq!((&cured["verdict"], &cured["received_bytes"]), (&"kept".into(), &200_000.into()), "{cured}");
    let lost = lines_of_one(&[]);
    assert_eq!((&lost["verdict"], &lost["server_error"]), (&"lost".into(), &Value::Null), "{lost}");
}

fn lines_of_one(more: &[&str]) -> Value {
    let mut arguments = vec!["lab", "--one", "--json"];
    arguments.extend(more);
    lines(&run(&arguments)).remove(0)
}

/// The response of a kilobyte is on its way before the reset: every byte arrives, and every connection is reset.
#[test]
fn at_risk_is_shown_apart_and_is_no_success() {
    if !has_networks() {
        return;
    }
    let cell = |more: &[&str]| {
        let mut arguments = vec!["lab", "--link", "lan", "--trials", "6", "--response", "1000"];
        arguments.extend(more);
        run(&arguments)
    };
    let shown = cell(&["--ending", "shutdown-close", "--peer", "unread"]);
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(text.contains(" 0+6/6 ") && text.contains("6 were at risk"), "{text}");
    let told = lines(&cell(&["--ending", "shutdown-close", "--peer", "unread", "--json"]));
    assert_eq!((&told[0]["kept"], &told[0]["at_risk"], &told[0]["lost"]), (&0.into(), &6.into(), &0.into()));
    assert_eq!(told[0]["blame"], "close");
    // One field away: the client sends nothing that is not read.
    let told = lines(&cell(&["--ending", "shutdown-close", "--peer", "reads-all", "--json"]));
    assert_eq!((&told[0]["kept"], &told[0]["at_risk"], &told[0]["lost"]), (&6.into(), &0.into(), &0.into()));
}

/// A scenario that wants every response kept is not met by one that is at risk, unless that is accepted.
#[test]
fn a_scenario_tells_at_risk_from_kept_and_from_lost() {
    if !has_networks() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let status = |expected: &str, more: &[&str]| {
        let path = directory.path().join("scenario.toml");
        let text = format!(
            "title = 't'\nending = 'shutdown-close'\npeer = 'unread'\nlink = 'lan'\nresponse = 1000\n\
             trials = 6\n[expect]\nshutdown-close = {expected}\n"
        );
        std::fs::write(&path, text).unwrap();
        let mut arguments = vec!["lab", path.to_str().unwrap()];
        arguments.extend(more);
        run(&arguments).status.code()
    };
    assert_eq!(status("'none'", &[]), Some(1));
    assert_eq!(status("'none'", &["--at-risk-ok"]), Some(0));
    assert_eq!(status("'all'", &[]), Some(0));
    assert_eq!(status("{ lost = 'none', at-risk = 'all' }", &[]), Some(0));
    assert_eq!(status("{ lost = 'some' }", &[]), Some(1));
}

#[test]
fn what_a_scenario_says_cannot_be_said_by_options() {
    let scenario = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scenarios/innocent.toml");
    for option in [
        &["--ending", "close"][..],
        &["--peer", "upload"],
        &["--link", "satellite"],
        &["--response", "77"],
        &["--request", "77"],
        &["--extra", "9"],
        &["--upload", "9"],
        &["--concurrency", "9"],
        &["--backlog", "9"],
        &["--congestion", "reno"],
        &["--recv-buffer", "9k"],
        &["--ipv6"],
        &["--all"],
    ] {
        let mut arguments = vec!["lab", scenario];
        arguments.extend(option);
        let output = run(&arguments);
        assert_eq!(output.status.code(), Some(2), "{option:?}: {output:?}");
        assert!(output.stdout.is_empty(), "{option:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(option[0]) && said.contains("FILE.toml"), "{said}");
    }
}

#[test]
fn what_goes_beside_a_scenario_counts() {
    if !has_networks() {
        return;
    }
    let scenario = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scenarios/late-close-notify.toml");
    let lines = lines(&run(&["lab", scenario, "--trials", "2", "--seed", "5", "--json"]));
    let (_, cells) = lines.split_last().unwrap();
    assert_eq!(cells.len(), 3);
    for cell in cells {
        assert_eq!((&cell["trials"], &cell["seed"]), (&2.into(), &5.into()));
    }
}

#[test]
fn one_seed_makes_the_same_decisions() {
    if !has_networks() {
        return;
    }
    let decisions = || {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_str().unwrap();
        let output = run(&[
            "lab",
            "--ending",
            "lingering",
            "--peer",
            "unread",
            "--link",
            "wifi-lossy",
            "--response",
            "30k",
            "--trials",
            "6",
            "--concurrency",
            "1",
            "--seed",
            "11",
            "--decisions",
            path,
        ]);
        assert!(output.status.success(), "{output:?}");
        let log = directory.path().join("lingering-unread-wifi-lossy.decisions");
        let text = std::fs::read_to_string(log).unwrap();
        // The last word is the verdict, what is before it the packet's identity.
        let pairs = text.lines().skip(1).map(|line| {
            let (packet, verdict) = line.rsplit_once(' ').unwrap();
            (packet.to_owned(), verdict.to_owned())
        });
        pairs.filter(|(_, verdict)| verdict != "QueueFull").collect::<std::collections::BTreeMap<_, _>>()
    };
    let (first, second) = (decisions(), decisions());
    let common = first.iter().filter_map(|(packet, verdict)| Some((packet, verdict, second.get(packet)?)));
    let mut lost = 0;
    let mut compared = 0;
    for (packet, one, other) in common {
        assert_eq!(one, other, "{packet}");
        compared += 1;
        lost += usize::from(one == "Lost");
    }
    assert!(compared > 100 && lost > 0, "{compared} packets in common, {lost} lost");
}

#[test]
fn a_capture_opens_in_tshark_with_both_ends_and_comments() {
    if !has_networks() {
        return;
    }
    if Command::new("tshark").arg("--version").output().is_err() {
        return skip("tshark", "not installed: apt-get install tshark");
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    let output = run(&[
        "lab",
        "--ending",
        "close",
        "--peer",
        "unread",
        "--link",
        "overtake",
        "--response",
        "1000",
        "--trials",
        "3",
        "--pcap",
        path,
    ]);
    assert!(output.status.success(), "{output:?}");
    let capture = directory.path().join("close-unread-overtake.pcapng");
    let read = |fields: &[&str]| {
        let mut tshark = Command::new("tshark");
        tshark.arg("-r").arg(&capture).args(["-T", "fields"]);
        for field in fields {
            tshark.args(["-e", field]);
        }
        let output = tshark.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        // Running as root is the only thing that it may remark upon.
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let said: Vec<&str> = said.lines().filter(|line| !line.starts_with("Running as user")).collect();
        assert!(said.is_empty(), "{said:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let interfaces = read(&["frame.interface_name"]);
    assert!(interfaces.contains("server") && interfaces.contains("client"), "{interfaces}");
    assert!(read(&["frame.comment"]).contains("held this packet"));
    assert_eq!(read(&["_ws.malformed"]).trim(), "");
    let resets = read(&["tcp.flags.reset"]);
    assert!(resets.lines().any(|line| line == "1" || line == "True"), "{resets}");
}

/// Two scenarios with links of their own have a cell of the same name each: both captures are there, and the lines say which is whose.
#[test]
fn cells_of_one_name_have_captures_of_their_own() {
    if !has_networks() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let scenario = |name: &str, trials: u64| {
        let path = folder.path().join(name);
        let text = format!(
            "title = \"{name}\"\nending = \"close\"\npeer = \"unread\"\nresponse = 30000\ntrials = {trials}\n\
             [link]\nbase = \"lan\"\n"
        );
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (first, second) = (scenario("one.toml", 2), scenario("two.toml", 5));
    let pcap = folder.path().join("pcap");
    std::fs::create_dir(&pcap).unwrap();
    let output = run(&["lab", &first, &second, "--json", "--pcap", pcap.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let lines = lines(&output);
    for (name, trials) in [("close-unread-custom", 2), ("close-unread-custom-2", 5)] {
        let cell = lines.iter().find(|line| line["trials"] == trials).unwrap();
        assert_eq!(cell["name"], name);
        let why = run(&["why", "--json", pcap.join(format!("{name}.pcapng")).to_str().unwrap()]);
        let said = String::from_utf8_lossy(&why.stdout).into_owned();
        let summary: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
        assert_eq!(summary["connections"], 2 * trials, "each as its two ends saw it: {said}");
    }
    assert_eq!(std::fs::read_dir(&pcap).unwrap().count(), 2);
}

#[test]
fn an_interrupted_lab_says_what_it_knows() {
    if !has_networks() {
        return;
    }
    let mut lab = linger(&[
        "lab",
        "--ending",
        "lingering",
        "--peer",
        "unread",
        "--link",
        "loopback,satellite",
        "--trials",
        "300",
        "--json",
    ])
    .stdout(Stdio::piped())
    .stderr(Stdio::null())
    .spawn()
    .unwrap();
    let mut out = BufReader::new(lab.stdout.take().unwrap());
    let mut first = String::new();
    out.read_line(&mut first).unwrap();
    let first = crate::common::contract::line("lab", &first);
    assert_eq!((&first["link"], &first["trials"]), (&"loopback".into(), &300.into()));
    interrupt(&lab);
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!(lab.wait().unwrap().code(), Some(3), "an interrupted run cannot tell: {rest}");
    let last = crate::common::contract::lines("lab", &rest).pop().unwrap();
    assert_eq!((&last["type"], &last["outcome"]), (&"lab".into(), &"interrupted".into()));
}

#[test]
fn man_pages_and_completions_come_from_the_same_definitions() {
    let directory = tempfile::tempdir().unwrap();
    assert!(run(&["man", directory.path().to_str().unwrap()]).status.success());
    let page = std::fs::read_to_string(directory.path().join("linger-lab.1")).unwrap();
    assert!(page.contains("\\-\\-ending"));
    assert!(String::from_utf8(run(&["completions", "bash"]).stdout).unwrap().contains("--ending"));
}

/// In a user namespace that allows no further ones, and without capabilities there.
#[test]
fn where_namespaces_are_refused_loopback_is_what_is_left() {
    let refused = |arguments: &[&str]| {
        let script = "echo 0 > /proc/sys/user/max_user_namespaces && \
                      exec setpriv --bounding-set=-all --inh-caps=-all \"$0\" \"$@\"";
        Command::new("unshare")
            .args([
                "--user",
                "--map-root-user",
                "sh",
                "-c",
                script,
                env!("CARGO_BIN_EXE_linger"),
                "lab",
                "--json",
            ])
            .args(arguments)
            .output()
    };
    let output = match refused(&["--all", "--trials", "8"]) {
        Ok(output) if !String::from_utf8_lossy(&output.stderr).contains("unshare:") => output,
        other => {
            return skip("mount namespaces", &format!("unshare and setpriv do not work here: {other:?}"));
        }
    };
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("user.max_user_namespaces") && said.contains("loopback part only"), "{said}");
    let lines = lines(&output);
    let (summary, cells) = lines.split_last().unwrap();
    assert_eq!(summary["namespaces"], false);
    assert_eq!(cells.len(), 20);
    for cell in cells {
        assert_eq!((&cell["link"], &cell["trials"]), (&"loopback".into(), &8.into()));
        if cell["ending"] == "lingering" || cell["peer"] == "reads-all" {
            assert_eq!(cell["lost"], 0, "{cell}");
        }
    }
    let wifi = refused(&["--link", "wifi"]).unwrap();
    assert_eq!(wifi.status.code(), Some(4), "{wifi:?}");
}
