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
    let output = linger(&["lab", "story"]).env("PATH", folder.path()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("Missing for the whole story: nginx (Debian: nginx-light)."), "{text}");
    goes_as_told(&text, &["linger fcgi get"], 20, 1_340_000);
}
