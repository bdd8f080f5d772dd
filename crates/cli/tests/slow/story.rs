//! `linger lab story`: the programs that had the loss, and the sample that plays where they are missing.

use linger_testing::skip;

use crate::common::program::{has_networks, linger, run};

/// The numbers of a line.
fn numbers(line: &str) -> Vec<u64> {
    line.split(|letter: char| !letter.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect()
}

/// The text of an act: from its number to the next.
fn act(text: &str, number: u32) -> String {
    let start = text.find(&format!("\n{number}. ")).unwrap_or_else(|| panic!("no act {number}: {text}"));
    let end = text.find(&format!("\n{}. ", number + 1)).unwrap_or(text.len());
    text[start..end].to_owned()
}

/// What the acts have to show, of these requests and bytes behind each gateway.
fn goes_as_told(text: &str, gateways: &[&str], requests: u64, bytes: u64) {
    let row = |number: u32, gateway: &str| {
        let act = act(text, number);
        let line = act.lines().find_map(|line| line.trim_start().strip_prefix(gateway).map(str::to_owned));
        numbers(&line.unwrap_or_else(|| panic!("{gateway}: {act}")))
    };
    for gateway in gateways {
        let lost = row(1, gateway);
        assert!(lost[0] < bytes && lost[1] == bytes, "{gateway}: {text}");
        assert!(lost.ends_with(&[requests, requests]), "{gateway}: {text}");
        assert_eq!(row(3, gateway)[..2], [bytes, bytes], "{gateway}: {text}");
    }
    // The packets tell of as many connections as the kernel aborted.
    let cause = act(text, 2);
    let of = |name: &str| {
        let lines = cause.lines().filter_map(|line| line.trim_start().strip_prefix(name));
        let counts = lines.map(|line| {
            let pieces = line
                .split([';', ','])
                .filter_map(|piece| piece.trim().split(' ').next()?.parse::<u64>().ok());
            pieces.sum::<u64>()
        });
        counts.collect::<Vec<_>>()
    };
    assert_eq!(of("the kernel"), vec![requests; gateways.len()], "{text}");
    assert_eq!(of("linger why"), vec![requests; gateways.len()], "{text}");
    let queue = act(text, 4);
    let overflows = queue.lines().find_map(|line| line.trim_start().strip_prefix("the kernel"));
    assert!(numbers(overflows.unwrap())[0] > 0, "{text}");
}

#[test]
fn the_story_is_acted_out() {
    if !has_networks() {
        return;
    }
    let output = run(&["lab", "story"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{text}{}", String::from_utf8_lossy(&output.stderr));
    for (lack, package) in
        [("uWSGI", "uwsgi-core"), ("ab", "apache2-utils"), ("nginx", "nginx-light"), ("curl", "curl")]
    {
        if text.contains(&format!("Missing for the whole story: {lack} ")) {
            return skip(package, &text);
        }
    }
    // httpd has to change its user.
    let gateways: &[&str] = if text.contains("nginx, then httpd") { &["nginx", "httpd"] } else { &["nginx"] };
    goes_as_told(&text, gateways, 100, 6_700_000);
}

#[test]
fn a_sample_plays_where_the_programs_are_missing() {
    if !has_networks() {
        return;
    }
    // What the story's own commands need, and no server.
    let folder = tempfile::tempdir().unwrap();
    for name in ["sh", "seq", "sed", "wc"] {
        let program = ["/usr/bin", "/bin"].map(|place| std::path::Path::new(place).join(name));
        let program = program.iter().find(|path| path.exists()).unwrap();
        std::os::unix::fs::symlink(program, folder.path().join(name)).unwrap();
    }
    let (place, json) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let story = |arguments: &[&str], place: &std::path::Path| {
        let output = linger(arguments).env("PATH", folder.path()).env("TMPDIR", place).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(0), "{text}{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(std::fs::read_dir(place).unwrap().count(), 0, "something is left in TMPDIR");
        text
    };
    let text = story(&["lab", "story"], place.path());
    assert!(text.contains("Missing for the whole story: nginx (Debian: nginx-light)."), "{text}");
    goes_as_told(&text, &["linger fcgi get"], 20, 1_340_000);
    // The same as JSON.
    let lines = crate::common::contract::lines("lab", &story(&["lab", "story", "--json"], json.path()));
    let kinds: Vec<_> = lines.iter().map(|line| line["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["story_uploads", "story_uploads", "story_backlog", "story"]);
    assert!(lines[0]["got_bytes"].as_u64() < lines[0]["expected_bytes"].as_u64(), "{}", lines[0]);
    assert_eq!(lines[1]["got_bytes"], lines[1]["expected_bytes"]);
    assert_eq!((&lines[0]["cured"], &lines[1]["cured"]), (&false.into(), &true.into()));
    assert!(lines[2]["overflows"].as_u64() > Some(0), "{}", lines[2]);
    assert_eq!((&lines[3]["as_told"], &lines[3]["real"]), (&true.into(), &false.into()));
}

/// It cannot write into such a folder what nginx, httpd and the shell would read as one word.
#[test]
fn a_folder_that_cannot_be_used_is_named() {
    if !has_networks() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let odd = place.path().join("a b");
    std::fs::create_dir(&odd).unwrap();
    for (folder, said) in
        [(&odd, "set TMPDIR to one without spaces"), (&place.path().join("none"), "TMPDIR says where")]
    {
        let output = linger(&["lab", "story"]).env("TMPDIR", folder).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(3), 0), "{text}");
        assert!(text.contains(said) && text.contains(folder.to_str().unwrap()), "{text}");
        assert_eq!(std::fs::read_dir(&odd).unwrap().count(), 0);
    }
}

/// uWSGI's place is taken by a server that closes well: there is no loss to speak of.
#[test]
fn a_server_that_closes_well_is_not_accused() {
    if !has_networks() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let own = env!("CARGO_BIN_EXE_linger");
    let well = format!("#!/bin/sh\nPATH=${{PATH#*:}}\nexec '{own}' run --quiet -- uwsgi \"$@\"\n");
    let path = folder.path().join("uwsgi");
    std::fs::write(&path, well).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let search = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    let output = linger(&["lab", "story"]).env("PATH", search).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if text.contains("Missing for the whole story: uWSGI ") || !text.contains("The application: uWSGI") {
        return skip("uwsgi-core", &text);
    }
    assert_eq!(output.status.code(), Some(1), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let (first, second) = (act(&text, 1), act(&text, 2));
    assert!(first.starts_with("\n1. No loss here") && !first.contains("ab takes"), "{text}");
    assert!(second.starts_with("\n2. No cause to look for"), "{text}");
}
