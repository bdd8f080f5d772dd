//! `linger why` as a program: exit codes, JSON, the page, and input that is no capture.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn linger(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_linger")).arg("why").args(arguments).output().unwrap()
}

fn capture(name: &str) -> String {
    let captures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../why/captures");
    captures.join(format!("{name}.pcap.gz")).display().to_string()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn harmful_resets_are_status_1_and_harmless_ones_0() {
    let output = linger(&[&capture("unread-upload-window.client")]);
    assert_eq!(output.status.code(), Some(1));
    let report = text(&output.stdout);
    assert!(
        report.contains("1. closed-with-unread-data (certain)") && report.contains("re-opens"),
        "{report}"
    );
    assert_eq!(linger(&[&capture("health-check.server")]).status.code(), Some(0));
    assert_eq!(linger(&[&capture("keepalive.client")]).status.code(), Some(0), "no reset passes there");
}

#[test]
fn failures_without_a_reset_are_harmful_and_can_be_left_out() {
    let capture = capture("cut-short-length.client");
    let output = linger(&[&capture]);
    assert_eq!(output.status.code(), Some(1));
    let report = text(&output.stdout);
    assert!(report.contains("No connection was reset. 1 failed without a reset."), "{report}");
    assert!(report.contains("1. cut-short (certain)") && report.contains("Host \"server\""), "{report}");
    let lines = crate::common::contract::lines("why", &text(&linger(&["--json", &capture]).stdout));
    assert_eq!((&lines[0]["cause"], &lines[0]["class"]), (&"cut-short".into(), &"closed-early".into()));
    assert_eq!(lines[0]["lost_response_bytes"], 200);
    let output = linger(&["--resets-only", &capture]);
    assert_eq!(output.status.code(), Some(0));
    assert!(!text(&output.stdout).contains("cut-short ("));
    assert!(text(&output.stdout).contains("No reset is told. 1 other finding is not told."));
}

#[test]
fn a_filter_tells_some_findings_and_its_errors_name_the_place() {
    let captures = [capture("cut-short-length.client"), capture("data-after-close.server")];
    let filtered = |filter: &str, more: &[&str]| {
        linger(&[&["--filter", filter, &captures[0], &captures[1]], more].concat())
    };
    let report = text(&filtered("cause data-after-close", &[]).stdout);
    assert!(
        report.contains("1 connection was reset harmfully, in 1 finding; 0 harmlessly. 1 other finding"),
        "{report}"
    );
    let none = filtered("cause forged", &[]);
    assert_eq!(none.status.code(), Some(0));
    assert!(text(&none.stdout).starts_with("None of the findings is told."), "{}", text(&none.stdout));
    assert!(text(&none.stdout).contains("2 other findings are not told."));
    let json = filtered("not reset and host 10.0.0.0/8", &["--json"]);
    let lines = crate::common::contract::lines("why", &text(&json.stdout));
    let causes: Vec<_> =
        lines.iter().filter(|line| line["type"] == "reset").map(|line| &line["cause"]).collect();
    assert_eq!((causes, json.status.code()), (vec![&"cut-short".into()], Some(1)));
    assert_eq!(text(&json.stderr), "linger: 1 other finding is not told\n");
    let wrong = filtered("cause cut-shrt and port 80", &[]);
    assert_eq!(wrong.status.code(), Some(2));
    let error = text(&wrong.stderr);
    assert!(
        error.contains("should be a cause: accept-queue-overflow, ")
            && error.contains("\n  cause cut-shrt and port 80\n        ^^^^^^^^\n"),
        "{error}"
    );
}

#[test]
fn json_has_the_promised_fields() {
    let output = linger(&["--json", &capture("data-after-close.server")]);
    let lines = crate::common::contract::lines("why", &text(&output.stdout));
    let kinds: Vec<_> = lines.iter().map(|line| line["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["reset", "group", "why"]);
    let reset = &lines[0];
    assert_eq!((&reset["cause"], &reset["confidence"]), (&"data-after-close".into(), &"certain".into()));
    assert_eq!((&reset["class"], &reset["harmless"]), (&"passive-after-fin".into(), &false.into()));
    for field in [
        "file",
        "frame",
        "time",
        "time_seconds",
        "from",
        "to",
        "candidates",
        "lost_response_bytes",
        "unread_request_bytes",
        "remedy",
    ] {
        assert!(!reset[field].is_null(), "{field} in {reset}");
    }
    assert_eq!(reset["unread_request_bytes"], 9, "nine bytes came after the close");
    for line in &lines[..2] {
        assert_eq!((&line["owner"], &line["owner_or_between"]), (&"server".into(), &false.into()), "{line}");
        assert_eq!((&line["owner_address"], &line["service"]), (&"10.77.2.1:8080".into(), &"http".into()));
    }
    assert!(reset["evidence"][0]["says"].is_string() && reset["evidence"][0]["frame"].is_u64());
}

#[test]
fn captures_are_compared_and_one_that_ends_too_early_proves_nothing() {
    let output = linger(&["--json", &capture("forged-perfect.client"), &capture("forged-perfect.server")]);
    let report = text(&output.stdout);
    let first = crate::common::contract::lines("why", &report).remove(0);
    assert_eq!(first["cause"], "unknown", "{report}");
    assert!(report.contains("forged-perfect.server.pcap.gz ends 401.814 ms before it"), "{report}");
    // A folder, and a pattern that the shell has left alone, are the same captures.
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    for place in ["client", "server"] {
        let name = format!("forged-perfect.{place}");
        std::fs::copy(capture(&name), path(&format!("{name}.pcap.gz"))).unwrap();
    }
    std::fs::write(path("notes.txt"), "nothing").unwrap();
    let told = |arguments: &[&str]| {
        let output = linger(arguments);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        text(&output.stdout)
    };
    let named = told(&[&path("forged-perfect.client.pcap.gz"), &path("forged-perfect.server.pcap.gz")]);
    assert!(named.contains("server.pcap.gz ends"), "{named}");
    assert_eq!(told(&[&path("")]), named);
    assert_eq!(told(&[&path("*.gz")]), named);
    assert_eq!(told(&[&path("*"), &path("")]), named);
    // A file that cannot be read is named, and hides nothing.
    std::fs::write(path("broken.pcap"), "nothing").unwrap();
    let output = linger(&[&path("")]);
    assert_eq!(text(&output.stdout), named);
    assert!(text(&output.stderr).contains("broken.pcap: not a pcap or pcapng capture"), "{output:?}");
}

#[test]
fn a_selection_is_made_by_time_host_and_port() {
    let capture = capture("data-after-close.client");
    let status = |arguments: &[&str]| {
        let output = linger(&[&[&*capture], arguments].concat());
        (output.status.code(), text(&output.stdout).contains("1 connection was reset"))
    };
    for (arguments, found) in [
        (&["--port", "8080"][..], true),
        (&["--port", "8081"], false),
        (&["--port", "8081", "--port", "8080"], true),
        (&["--host", "10.77.2.0/24"], true),
        (&["--host", "10.77.3.0/24"], false),
        (&["--since", "2001-01-01", "--until", "2200-01-01 00:00:00"], true),
        (&["--since", "2200-01-01T00:00:00Z"], false),
        (&["--until", "1000000000.5"], false),
    ] {
        assert_eq!(status(arguments), (Some(i32::from(found)), found), "{arguments:?}");
    }
    let beyond = text(&linger(&[&capture, "--since", "2200-01-01"]).stdout);
    assert!(beyond.contains("none of its 11 packets is of the time that was asked for"), "{beyond}");
    for (arguments, said) in
        [(["--port", "8081"], true), (["--host", "10.77.3.0/24"], true), (["--port", "8080"], false)]
    {
        let report = text(&linger(&[&[&*capture][..], &arguments].concat()).stdout);
        let note = "none of its 11 TCP segments is of a host or port that was asked for";
        assert_eq!(report.contains(note), said, "{arguments:?}: {report}");
    }
    for wrong in [["--since", "yesterday"], ["--host", "example.org"], ["--port", "0"], ["--until", "-1"]] {
        assert_eq!(linger(&[&[&*capture][..], &wrong].concat()).status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn the_page_needs_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let page = directory.path().join("report.html");
    linger(&["--html", page.to_str().unwrap(), &capture("process-killed-unread.middle")]);
    let html = std::fs::read_to_string(&page).unwrap();
    assert!(html.starts_with("<!doctype html>") && html.contains("<svg") && html.contains("process-gone"));
    assert!(!html.contains("http://") && !html.contains("https://") && !html.contains(" src="));
    assert_eq!(html.matches("<script").count(), 1, "the one that sorts the tables");
    assert!(html.contains("script-src 'sha256-"), "and the policy that lets no other run");
}

#[test]
fn a_page_on_stdout_is_refused() {
    let output = linger(&["--html", "-", &capture("health-check.server")]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{output:?}");
    assert!(text(&output.stderr).contains("--html needs a file"), "{output:?}");
    assert!(!Path::new("-").exists());
}

#[test]
fn verbose_tells_what_was_read() {
    let capture = capture("health-check.server");
    let told = |arguments: &[&str]| text(&linger(&[arguments, &[&*capture]].concat()).stderr);
    assert_eq!(told(&[]), "");
    let (read, judged) = (told(&["-v"]), told(&["-vv"]));
    assert!(read.contains("health-check.server.pcap.gz") && read.contains("connections="), "{read}");
    assert!(!read.contains("judged") && judged.contains("judged") && judged.contains("cause="), "{judged}");
}

#[test]
fn what_is_no_capture_is_status_3_and_said() {
    let output = linger(&["/etc/hostname", "/no/such/capture"]);
    assert_eq!(output.status.code(), Some(3));
    let complaints = text(&output.stderr);
    assert!(complaints.contains("/etc/hostname: not a pcap or pcapng capture"), "{complaints}");
    assert!(complaints.contains("/no/such/capture: cannot be opened: No such file"), "{complaints}");
    assert_eq!(linger(&[]).status.code(), Some(2));
}

#[test]
fn a_cut_capture_is_read_as_far_as_it_goes() {
    let plain =
        Command::new("gzip").args(["-dc", &capture("unread-upload-window.client")]).output().unwrap().stdout;
    let directory = tempfile::tempdir().unwrap();
    let path: PathBuf = directory.path().join("cut.pcap");
    std::fs::write(&path, &plain[..plain.len() - 20]).unwrap();
    let output = linger(&[path.to_str().unwrap()]);
    assert!(text(&output.stderr).contains("cut off at byte"), "{}", text(&output.stderr));
    assert_eq!(output.status.code(), Some(3), "the reset itself was cut off, and nobody can know that");
    let half = &plain[..plain.len() / 2];
    std::fs::write(&path, half).unwrap();
    let output = linger(&["--json", path.to_str().unwrap()]);
    assert!(text(&output.stderr).contains("cut off at byte"), "{output:?}");
    assert_eq!(output.status.code(), Some(3));
    let mut damaged = plain.clone();
    // The length of the second packet.
    let second = 24 + 16 + u32::from_le_bytes(plain[32..36].try_into().unwrap()) as usize;
    damaged[second + 8..second + 12].fill(0xff);
    std::fs::write(&path, &damaged).unwrap();
    let output = linger(&[path.to_str().unwrap()]);
    assert!(text(&output.stderr).contains(&format!("damaged at byte {second}")), "{output:?}");
    assert_eq!(output.status.code(), Some(3), "what follows the damage may be harmful");
    std::fs::write(&path, &plain).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_linger"))
        .args(["why", "-"])
        .stdin(std::fs::File::open(&path).unwrap())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1), "from standard input");
}

#[test]
fn every_cause_is_listed() {
    let listed = text(&linger(&["--causes"]).stdout);
    for cause in ["accept-queue-overflow", "closed-with-unread-data", "finwait2-expired", "unknown"] {
        assert!(listed.contains(&format!("\n{cause}\n")) || listed.starts_with(cause), "{cause}");
    }
    assert_eq!(text(&linger(&["--causes", "--json"]).stdout).lines().count(), 23);
}

/// Ten frames of a number that nobody knows, and a number of TCP segments: how much of the capture is not understood decides.
#[test]
fn a_capture_that_is_mostly_not_understood_is_status_3_and_said() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("capture.pcap");
    let ip = [
        &[0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2][..],
        &[0; 12],
        &[0x50, 2, 0, 9, 0, 0, 0, 0],
    ];
    let frame = |ether_type: [u8; 2]| [&[2; 12][..], &ether_type, &ip.concat()].concat();
    for (segments, status) in [(9, 3), (10, 0)] {
        let mut file: Vec<u8> =
            [0xa1b2_c3d4, 0x0004_0002, 0, 0, 65_535, 1].into_iter().flat_map(u32::to_le_bytes).collect();
        for number in 0..10 + segments {
            let frame = frame(if number < 10 { [0x12, 0x34] } else { [8, 0] });
            let length = u32::try_from(frame.len()).unwrap();
            file.extend([1, number, length, length].into_iter().flat_map(u32::to_le_bytes));
            file.extend(frame);
        }
        std::fs::write(&path, file).unwrap();
        let output = linger(&[path.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(status), "{output:?}");
        let said = format!(
            "10 of {} packets ({}%) were not understood: EtherType 1234",
            10 + segments,
            1000 / (10 + segments)
        );
        assert!(text(&output.stdout).contains(&said), "{said}: {output:?}");
        // The reason for a status is on stderr, whatever becomes of the report.
        let why = format!("most of its {} packets could not be read: 10 not understood", 10 + segments);
        assert_eq!(text(&output.stderr).contains(&why), status == 3, "{output:?}");
        let lines =
            crate::common::contract::lines("why", &text(&linger(&["--json", path.to_str().unwrap()]).stdout));
        let layers = &lines.last().unwrap()["not_understood_layers"];
        assert_eq!(layers, &serde_json::json!([{ "layer": "EtherType 1234", "packets": 10 }]));
    }
}
