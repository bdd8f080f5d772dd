//! `linger lab` with scenarios of several hosts: the shipped ones, bad ones, and one that is killed.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use linger_testing::skip;

use crate::common::contract;
use crate::common::program::{has_networks, interrupt, linger, run};

const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scenarios");

/// The shipped scenarios with hosts, and the programs that each needs.
const SHIPPED: [(&str, &[&str]); 2] =
    [("upload-behind-nginx", &["uwsgi", "nginx", "curl"]), ("short-queue-of-uwsgi", &["uwsgi", "curl"])];

/// Runs a shipped scenario, and returns its lines of JSON.
fn shipped(name: &str, more: &[&str]) -> Option<Vec<serde_json::Value>> {
    let (_, needs) = SHIPPED.iter().find(|(shipped, _)| *shipped == name).unwrap();
    if !has_networks() {
        return None;
    }
    if let Some(lack) = needs.iter().find(|program| Command::new(program).arg("--version").output().is_err())
    {
        skip(lack, "not installed");
        return None;
    }
    let path = format!("{DIRECTORY}/{name}.toml");
    let output = run(&[&["lab", &path, "--json"], more].concat());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{text}{}", String::from_utf8_lossy(&output.stderr));
    Some(contract::lines("lab", &text))
}

#[test]
fn every_shipped_scenario_with_hosts_is_tested() {
    let mut names: Vec<String> = std::fs::read_dir(DIRECTORY)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| std::fs::read_to_string(path).unwrap().contains("[[host]]"))
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    names.sort();
    let mut tested: Vec<&str> = SHIPPED.iter().map(|(name, _)| *name).collect();
    tested.sort_unstable();
    assert_eq!(names, tested);
}

#[test]
fn an_upload_behind_nginx_is_lost_and_told_alike_by_packets_and_kernel() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().to_str().unwrap();
    let page = format!("{folder}/page.html");
    let more = ["--pcap", folder, "--decisions", folder, "--html", &page];
    let Some(lines) = shipped("upload-behind-nginx", &more) else { return };
    let network = &lines[0];
    assert_eq!((&network["type"], &network["trials"]), (&"network".into(), &20.into()), "{network}");
    let counted = &network["counters"]["application"];
    let aborts = counted["TCPAbortOnClose"].as_u64().unwrap() + counted["TCPAbortOnData"].as_u64().unwrap();
    assert_eq!(aborts, 20, "{network}");
    assert!(network["received_bytes"].as_u64() < network["expected_bytes"].as_u64(), "{network}");
    // The captures are whole, one for each link, and `why` reads the same in them.
    for link in ["client-gateway", "gateway-application"] {
        let capture = format!("{folder}/upload-behind-nginx-{link}.pcapng");
        let said = run(&["why", "--json", &capture]);
        let resets = String::from_utf8_lossy(&said.stdout)
            .lines()
            .filter(|line| line.contains("\"type\":\"reset\""))
            .count();
        assert!(resets >= 18, "{link}: {resets}");
        let decisions =
            std::fs::read_to_string(format!("{folder}/upload-behind-nginx-{link}.decisions")).unwrap();
        assert!(decisions.lines().count() > 100, "{link}");
    }
    let page = std::fs::read_to_string(&page).unwrap();
    assert!(
        page.contains("An upload that uWSGI does not read, behind nginx") && page.contains("20 lost"),
        "{page}"
    );
}

#[test]
fn a_short_queue_is_told_from_a_close() {
    let Some(lines) = shipped("short-queue-of-uwsgi", &[]) else { return };
    let network = &lines[0];
    assert!(network["counters"]["application"]["ListenOverflows"].as_u64() > Some(0), "{network}");
    assert!(network["checks"].as_array().unwrap().iter().all(|check| check["met"] == true), "{network}");
}

/// Two hosts, of which the server runs this.
fn pair(server: &str, client: &str) -> String {
    format!(
        "title = \"t\"\n[[host]]\nname = \"server\"\nrun = '''{server}'''\nready = {{ line = \"up\" }}\n[[host]]\nname = \"client\"\n\
         [[link]]\nbetween = [\"client\", \"server\"]\nbase = \"lan\"\n[client]\nrun = '''{client}'''\nresponse = 4\nrequests = 2\n"
    )
}

/// What the program says of a scenario, and its status.
fn told(text: &str, more: &[&str]) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.toml");
    std::fs::write(&path, text).unwrap();
    let output = linger(&[&["lab", path.to_str().unwrap()], more].concat()).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn what_is_wrong_is_said_with_file_line_and_key() {
    if !has_networks() {
        return;
    }
    let good = pair("echo up; exec sleep 600", "printf 1234");
    assert_eq!(told(&good, &[]).0, Some(0));
    for (from, to, status, parts) in [
        (
            "\"client\", \"server\"",
            "\"client\", \"sever\"",
            2,
            ["line 9", "`between`: no host is called `sever`"],
        ),
        (
            "[client]",
            "[expect]\nwhy = { causes = [\"magic\"] }\n[client]",
            2,
            ["`magic` is no cause", "accept-queue-overflow"],
        ),
        ("exec sleep 600", "exit 3", 3, ["line 3: host `server`", "ended with status 3"]),
        ("echo up", "no-such-program", 3, ["line 3: host `server`", "no-such-program"]),
        ("printf 1234", "printf 123", 1, ["2 lost", "none lost or at risk: 2 lost, 0 at risk of 2: NOT MET"]),
        ("printf 1234", "printf 1234; exit 1", 1, ["2 at risk", "NOT MET"]),
    ] {
        let bad = good.replace(from, to);
        assert_ne!(bad, good);
        let bad = if to == "no-such-program" { bad.replace("exec sleep 600", "exit 4") } else { bad };
        let (code, said) = told(&bad, &[]);
        assert_eq!(code, Some(status), "{said}");
        assert!(parts.iter().all(|part| said.contains(part)), "{parts:?}: {said}");
    }
    let at_risk = good.replace("printf 1234", "printf 1234; exit 1");
    assert_eq!(told(&at_risk, &["--at-risk-ok"]).0, Some(0));
    let more = told(&good, &["--trials", "5"]);
    assert!(more.1.contains("5 requests of `client`: 0 lost"), "{}", more.1);
}

/// Two scenarios, of which one has hosts and one has none, and two of the same name.
#[test]
fn scenarios_of_both_kinds_run_together() {
    if !has_networks() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let network = pair("echo up; exec sleep 600", "printf 1234");
    std::fs::create_dir(path("other")).unwrap();
    std::fs::write(path("s.toml"), &network).unwrap();
    std::fs::write(path("other/s.toml"), &network).unwrap();
    let cell = "title = \"c\"\nending = \"lingering\"\npeer = \"unread\"\nlink = \"lan\"\ntrials = 2\n[expect]\nlingering = \"none\"\n";
    std::fs::write(path("cell.toml"), cell).unwrap();
    let output =
        run(&["lab", &path("s.toml"), &path("cell.toml"), &path("other/s.toml"), "--pcap", &path("")]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    for name in ["s-client-server", "s-2-client-server", "lingering-unread-lan"] {
        assert!(std::path::Path::new(&path(&format!("{name}.pcapng"))).exists(), "{name}");
    }
}

/// All that the lab has started ends with it, whatever ends it: the kernel gives the lock to the test once its last holder is gone.
fn leaves_nothing(end: impl FnOnce(&mut std::process::Child)) -> std::process::ExitStatus {
    let folder = tempfile::tempdir().unwrap();
    let lock = folder.path().join("lock");
    let hold = format!(
        "import fcntl, os, time; f = open(\"{}\", \"w\"); fcntl.flock(f, fcntl.LOCK_SH); print(\"up\", flush=True); time.sleep(600)",
        lock.display()
    );
    // In the background and in a session of its own, so that no signal to the process group reaches it.
    let server = format!("setsid python3 -c '{hold}' & wait");
    let held = folder.path().join("held");
    let tell = format!("open(\"{}\", \"w\").write(\"held\")", held.display());
    let client = format!("exec python3 -c '{}'", hold.replace("print(\"up\", flush=True)", &tell));
    let scenario = folder.path().join("s.toml");
    let text = format!(
        "title = \"t\"\n[[host]]\nname = \"server\"\nrun = \"\"\"{}\"\"\"\nready = {{ line = \"up\" }}\n[[host]]\nname = \"client\"\n\
         [[link]]\nbetween = [\"client\", \"server\"]\n[client]\nrun = \"\"\"{}\"\"\"\nresponse = 4\nrequests = 1\ntimeout = \"10m\"\n",
        server.replace('"', "\\\""),
        client.replace('"', "\\\"")
    );
    std::fs::write(&scenario, text).unwrap();
    assert!(Command::new("mkfifo").arg(&held).status().unwrap().success());
    let mut lab = linger(&["lab", scenario.to_str().unwrap()])
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .env("TMPDIR", folder.path())
        .spawn()
        .unwrap();
    let mut said = String::new();
    BufReader::new(std::fs::File::open(&held).unwrap()).read_line(&mut said).unwrap();
    assert_eq!(said, "held");
    end(&mut lab);
    let status = lab.wait().unwrap();
    // Blocks until the holders are gone; if one were left behind, the test runner's time limit says so.
    std::fs::File::open(&lock).unwrap().lock().unwrap();
    let left: Vec<_> =
        std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "lock, held and s.toml: {left:?}");
    status
}

#[test]
fn nothing_is_left_after_sigkill() {
    if has_networks() {
        leaves_nothing(|lab| lab.kill().unwrap());
    }
}

#[test]
fn nothing_is_left_after_an_interrupt() {
    if has_networks() {
        let status = leaves_nothing(|lab| interrupt(lab));
        assert_eq!(status.code(), Some(3), "interrupted");
    }
}

/// The scenario that docs/lab.md shows, word for word.
#[test]
fn the_scenario_of_the_documentation_runs() {
    if !has_networks() {
        return;
    }
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/lab.md")).unwrap();
    let mut blocks = text.split("```toml\n").filter_map(|block| block.split("```").next());
    let (code, said) = told(blocks.find(|block| block.contains("[[host]]")).unwrap(), &[]);
    assert_eq!(code, Some(0), "{said}");
}
