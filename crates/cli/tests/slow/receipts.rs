//! The failure that this project is about, in its own transfer: a server that ends with a bare `close()` loses
//! receipts that it has written. With the lingering close it does not.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use linger_testing::skip;

const LINGER: &str = env!("CARGO_BIN_EXE_linger");
const FILES: usize = 1500;

/// Sends many empty files to a place with a very long name, which each receipt repeats: six megabytes of receipts
/// over 20 Mbit/s. When the server has written the last receipt, more than a megabyte of them still waits in its
/// send queue. The client sends CREDIT frames while it reads these. If the server has closed its socket by then,
/// they are late data, and the kernel answers with a reset.
///
/// On a machine with much else to do the server is slower than the link, and its queue may be empty by then. Then the
/// reset takes the client's last word instead: the client has every receipt, and the server never says that it knows.
fn transfer(place: &Path, ending: &str) -> Output {
    let long = ["d"; 19].map(|letter| letter.repeat(200)).join("/");
    fs::create_dir_all(place.join("to").join(&long)).unwrap();
    fs::create_dir(place.join("tree")).unwrap();
    for number in 0..FILES {
        fs::write(place.join(format!("tree/{number}")), b"").unwrap();
    }
    let server = format!(
        "{LINGER} share --writable --insecure --durability memory --ending {ending} --listen $LINGER_SERVER:7117 to"
    );
    let client =
        format!("{LINGER} put --insecure --durability memory --retry-for 0 tree $LINGER_SERVER:{long}/copy");
    let output = Command::new(LINGER)
        .args(["lab", "exec", "--link", "mobile", "--server", &server, "--client", &client])
        .current_dir(place)
        .env("XDG_CONFIG_HOME", place.join("config"))
        .output()
        .unwrap();
    if output.status.code() != Some(4) {
        let copies = fs::read_dir(place.join("to").join(&long).join("copy")).unwrap().count();
        assert_eq!(copies, FILES, "every file is in place, whatever the client knows");
    }
    output
}

#[test]
fn a_bare_close_loses_receipts_or_the_last_word_and_the_lingering_one_neither() {
    for ending in ["close", "lingering"] {
        let place = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let output = transfer(place.path(), ending);
        let told = String::from_utf8_lossy(&output.stderr);
        if output.status.code() == Some(4) {
            return skip("private networks", told.trim());
        }
        let lost = told.contains("Connection reset by peer");
        let unsure = told.contains("the other side never said that it knows");
        assert_eq!(output.status.code(), Some(if lost { 3 } else { 0 }), "{ending}: {told}");
        assert_eq!(lost || unsure, ending == "close", "{ending}: {told}");
        let no_resets = told.contains("the server's kernel counted: no resets");
        assert_eq!(no_resets, ending == "lingering", "{ending}: {told}");
    }
}
