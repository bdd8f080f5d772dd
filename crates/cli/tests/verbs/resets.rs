//! A link that resets connections between two frames: a print is made once, and both ends know it.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

#[path = "../../../transfer/tests/common/frames.rs"]
mod frames;

use frames::{FrameProxy, Resets, places};

const LINGER: &str = env!("CARGO_BIN_EXE_linger");

/// Prints over a link that resets connections. Checks that there is one print and one receipt, and that both statuses are 0.
/// Returns the frames in both directions of a connection that was not reset, and how many were.
fn prints(resets: Resets) -> ([usize; 2], usize) {
    let top = tempfile::tempdir().unwrap();
    let path = |name: &str| top.path().join(name);
    fs::create_dir(path("to")).unwrap();
    fs::write(path("letter"), "one cheque\n").unwrap();
    let config = format!("[sink.print]\ncommand = ['sh', '-c', 'cat >>{}']\n", path("printed").display());
    fs::write(path("share.toml"), config).unwrap();
    let linger = |arguments: &[&str]| {
        let mut command = Command::new(LINGER);
        command.args(arguments).current_dir(top.path()).env("XDG_CONFIG_HOME", path("home"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let flags = ["--insecure", "--once", "--json", "--listen", "127.0.0.1:0", "--config", "share.toml", "to"];
    let mut server = linger(&[&["share"], &flags[..]].concat()).stderr(Stdio::null()).spawn().unwrap();
    let mut out = BufReader::new(server.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    let listening: Value = crate::common::contract::line("share", &line);
    let port = listening["address"].as_str().unwrap().rsplit(':').next().unwrap().parse().unwrap();
    let reader = std::thread::spawn(move || out.lines().map_while(Result::ok).collect::<Vec<_>>());
    let proxy = FrameProxy::start(port, resets.clone());
    let to = format!("127.0.0.1:{}:@print", proxy.port);
    let put = linger(&["put", "--insecure", "--receipt", "r.json", "letter", &to]).output().unwrap();
    // An end that has nothing to say would leave the other one waiting.
    if !put.status.success() {
        let _ = server.kill();
    }
    let served = server.wait().unwrap();
    let told = format!("{resets:?}: {put:?}; the server: {:?}", reader.join().unwrap());
    assert_eq!((put.status.code(), served.code()), (Some(0), Some(0)), "{told}");
    assert_eq!(fs::read_to_string(path("printed")).unwrap(), "one cheque\n", "{told}");
    assert_eq!(receipts(&path("r.json")), 1, "{told}");
    (proxy.frames(), proxy.resets())
}

/// The receipts in a file, without the line that counts them.
fn receipts(file: &Path) -> usize {
    let text = fs::read_to_string(file).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line.get("receipts").is_none()).count()
}

#[test]
fn a_reset_between_any_two_frames_prints_once_and_both_ends_know() {
    let (frames, _) = prints(Resets::None);
    assert!(frames[0] >= 7 && frames[1] >= 4, "{frames:?}");
    std::thread::scope(|scope| {
        for place in places(frames) {
            scope.spawn(move || prints(Resets::Once(place)));
        }
    });
}

#[test]
#[ignore = "ten seconds of pauses; crates/transfer/tests/ends/resets.rs does the same without them: cargo nextest run -p linger-cli --test verbs resets:: --run-ignored all"]
fn a_link_that_resets_one_connection_after_the_other_prints_once() {
    let (_, resets) = prints(Resets::EachPlaceOnce);
    assert!(resets >= 11, "{resets}");
}
