//! `linger hunt`: finds what a server loses, writes it down, repeats it, and leaves nothing behind.

use std::fs;
use std::process::Stdio;

use crate::common::contract::line;
use crate::common::program::{has_networks, interrupt, linger, run};
use linger_testing::servers::{available, program};
use serde_json::Value;

/// Python's server with a file of 300,000 bytes, and the words of its command.
fn server(folder: &tempfile::TempDir) -> Option<Vec<String>> {
    let python = available(program("python3", "python3"))?;
    fs::write(folder.path().join("large"), vec![b'r'; 300_000]).unwrap();
    let words = ["-m", "http.server", "--directory", folder.path().to_str().unwrap(), "8000"];
    Some(std::iter::once(python.display().to_string()).chain(words.map(str::to_owned)).collect())
}

fn words<'w>(head: &[&'w str], command: &'w [String]) -> Vec<&'w str> {
    head.iter().copied().chain(["--"]).chain(command.iter().map(String::as_str)).collect()
}

/// The story that is found is lost again when it is repeated, and kept by the same server under `linger run`.
#[test]
fn a_loss_is_found_and_repeated_and_the_cured_server_keeps_it() {
    if !has_networks() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let Some(server) = server(&folder) else { return };
    let story = folder.path().join("story.toml");
    let story = story.to_str().unwrap();
    let output =
        run(&words(&["hunt", "--path", "/large", "--seed", "13", "--json", "--save", story], &server));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let found = line("hunt", String::from_utf8_lossy(&output.stdout).trim());
    assert_eq!((&found["type"], &found["ended"]), (&"hunt".into(), &"found".into()), "{found}");
    let loss = &found["found"];
    assert!(loss["story"]["steps"].as_array().unwrap().len() <= 3, "{loss}");
    assert!(loss["repeated"]["lost"].as_u64() > Some(0), "{loss}");
    assert_eq!(loss["lost"]["expected_bytes"], 300_000, "{loss}");
    assert!(found["again"].as_str().unwrap().contains("--seed 13"), "{found}");

    let text = fs::read_to_string(story).unwrap();
    let again = run(&words(&["hunt", "--replay", story, "--times", "5", "--json"], &server));
    let repeated = line("hunt", String::from_utf8_lossy(&again.stdout).trim());
    assert_eq!((again.status.code(), &repeated["type"]), (Some(1), &"replay".into()), "{text}{again:?}");
    assert!(repeated["repeated"]["lost"].as_u64() > Some(0), "{repeated}");

    let cured: Vec<String> =
        [env!("CARGO_BIN_EXE_linger"), "run", "--"].map(str::to_owned).into_iter().chain(server).collect();
    let kept = run(&words(&["hunt", "--replay", story, "--times", "5", "--at-risk-ok"], &cured));
    let said = String::from_utf8_lossy(&kept.stdout);
    assert_eq!(kept.status.code(), Some(0), "{text}{kept:?}");
    assert!(said.contains("nothing lost in 5 trials"), "{said}");
}

/// A capture holds the connection whose response was lost, over a link in the place of loopback; where nothing is lost, there is none.
#[test]
fn the_packets_of_a_loss_are_captured_and_explained() {
    if !has_networks() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let Some(server) = server(&folder) else { return };
    // Far more than the server has sent when it closes, right after its last write.
    fs::write(folder.path().join("large"), vec![b'r'; 2_000_000]).unwrap();
    let story = folder.path().join("story.toml");
    let steps = "[[step]]\ndo = \"request\"\n[[step]]\ndo = \"send\"\nbytes = 150000\n";
    fs::write(&story, format!("path = \"/large\"\n{steps}")).unwrap();
    let captures = ["lost", "kept"].map(|name| folder.path().join(name).display().to_string());
    let replay = ["hunt", "--replay", story.to_str().unwrap(), "--times", "2", "--at-risk-ok", "--json"];
    let play = |capture: &str, command: &[String]| {
        let output = run(&words(&[&replay[..], &["--pcap", capture]].concat(), command));
        line("hunt", String::from_utf8_lossy(&output.stdout).trim())
    };
    let lost = play(&captures[0], &server);
    let packets = &lost["packets"];
    assert_eq!(
        [&packets["link"], &packets["lost"], &packets["captured"]],
        [&Value::from("lan"), &true.into(), &true.into()],
        "{lost}"
    );
    assert_eq!(packets["counters"]["TCPAbortOnClose"], 1, "{packets}");
    let candidates = packets["finding"]["candidates"].as_array().unwrap();
    assert!(candidates.contains(&"closed-with-unread-data".into()), "{packets}");
    assert!(packets["finding"]["lost_response_bytes"].as_u64() > Some(0), "{packets}");

    let why = run(&["why", "--json", &captures[0]]);
    assert_eq!(why.status.code(), Some(1), "{why:?}");
    let text = String::from_utf8_lossy(&why.stdout).into_owned();
    let resets: Vec<Value> = text.lines().map(|text| line("why", text)).collect();
    let same = |reset: &&Value| reset["type"] == "reset" && reset["from"] == packets["finding"]["from"];
    let same = resets.iter().find(same).expect(&text);
    for key in ["to", "cause", "frame"] {
        assert_eq!(same[key], packets["finding"][key], "{key}");
    }

    let cured: Vec<String> =
        [env!("CARGO_BIN_EXE_linger"), "run", "--"].map(str::to_owned).into_iter().chain(server).collect();
    let kept = play(&captures[1], &cured);
    assert_eq!((&kept["packets"], &kept["repeated"]["lost"]), (&Value::Null, &0.into()), "{kept}");
    assert!(!fs::exists(&captures[1]).unwrap());
}

/// A hunt that is stopped says what it has searched, with a status that is no verdict, and its server ends with it.
#[test]
fn an_interrupted_hunt_tells_what_it_has_searched_and_leaves_nothing() {
    if !has_networks() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let request = folder.path().join("request");
    fs::write(&request, [b'x'; 100]).unwrap();
    // The kernel removes the lock with the last process that holds it.
    let lock = folder.path().join("lock");
    let ready = folder.path().join("ready");
    let server = format!(
        "exec 9>{}; flock 9; touch {}; exec {} server --listen 127.0.0.1:8000 --ending lingering --workers 200",
        lock.display(),
        ready.display(),
        env!("CARGO_BIN_EXE_linger")
    );
    let hunt =
        ["hunt", "--payload", request.to_str().unwrap(), "--expect", "200k", "--longest-pause", "200ms"];
    let mut child = linger(&[&hunt[..], &["--json", "--at-risk-ok", "--", "sh", "-c", &server]].concat())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    while !ready.exists() {
        assert!(child.try_wait().unwrap().is_none(), "{:?}", child.wait_with_output());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    std::thread::sleep(std::time::Duration::from_secs(3));
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let told: Value = line("hunt", String::from_utf8_lossy(&output.stdout).trim());
    assert_eq!(
        (&told["ended"], &told["found"], &told["lost"]),
        (&"stopped".into(), &Value::Null, &0.into()),
        "{told}"
    );
    // Blocks until the server is gone; if it were left behind, the test runner's time limit says so.
    fs::File::open(&lock).unwrap().lock().unwrap();
}

/// Whatever cannot be hunted is said with what and where.
#[test]
fn what_cannot_be_hunted_is_refused_with_the_place() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("story.toml");
    let story = file.to_str().unwrap();
    fs::write(&file, "path = \"/\"\n[[step]]\ndo = \"send\"\nbytes = 8\n").unwrap();
    let cases: [(&[&str], i32, &str); 8] = [
        (&["hunt", "http://127.0.0.1:1/", "--pcap", "x"], 2, "cannot be used with"),
        (&["hunt"], 2, "COMMAND"),
        (&["hunt", "http://127.0.0.1:1/", "--", "true"], 2, "cannot be used with"),
        (&["hunt", "http://192.0.2.1/"], 2, "--i-own-this-server"),
        (&["hunt", "https://127.0.0.1:1/"], 2, "HTTP/1.1"),
        (&["hunt", "http://127.0.0.1:1/", "--replay", story], 2, "step 1"),
        (&["hunt", "http://127.0.0.1:1/", "--replay", "/no/such/file"], 3, "/no/such/file"),
        (&["hunt", "http://127.0.0.1:1/"], 3, "gives no whole response"),
    ];
    for (arguments, status, told) in cases {
        let output = run(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {said}");
        assert!(said.contains(told), "{arguments:?}: {said}");
    }
    if !has_networks() {
        return;
    }
    for (script, told) in [("echo no room >&2; exit 7", "no room"), ("exec sleep 60", "listens nowhere")] {
        let output = run(&["hunt", "--ready", "1s", "--", "sh", "-c", script]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{script}: {said}");
        assert!(said.contains(told), "{script}: {said}");
    }
}
