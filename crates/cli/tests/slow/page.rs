//! The page of `linger why --html` in a browser: it is read in light and in dark, on a narrow screen and on paper, its tables are
//! sorted, and nothing of a capture becomes markup or runs.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::browser::{Browser, colours, sizes};
use crate::wire::{ACK, Capture, PSH, RST, SYN, packet};

/// A name that would run if it became markup.
const HOSTILE: &str = "<script>window.ran=1</script>";
const HOSTILE_IMAGE: &str = "<img/src=x/onerror=window.ran=1>";

/// A capture of connections: so many of each name, the server answering a request with a reset; and one health check.
fn capture(path: &Path, names: &[(&str, u16)]) {
    let mut capture = Capture::create(path);
    let server = ([198, 51, 100, 20], 80);
    let mut client = ([192, 0, 2, 10], 40_000);
    let mut time = 0;
    let mut exchange = |request: &[u8]| {
        let after = 101 + request.len() as u32;
        capture.packet(time, &packet(client, server, (100, 0), SYN, b""));
        capture.packet(time + 1_000, &packet(server, client, (900, 101), SYN | ACK, b""));
        if request.is_empty() {
            capture.packet(time + 2_000, &packet(client, server, (101, 901), RST | ACK, b""));
        } else {
            capture.packet(time + 2_000, &packet(client, server, (101, 901), PSH | ACK, request));
            capture.packet(time + 3_000, &packet(server, client, (901, after), RST | ACK, b""));
        }
        (time, client.1) = (time + 1_000_000, client.1 + 1);
    };
    for (name, count) in names {
        for _ in 0..*count {
            exchange(format!("GET /a HTTP/1.1\r\nHost: {name}\r\n\r\n").as_bytes());
        }
    }
    exchange(b"");
}

#[test]
fn the_page_is_read_in_a_browser() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut browser) = Browser::start(folder.path()) else { return };
    let (file, page) = (folder.path().join("a<b>.pcap"), folder.path().join("page.html"));
    capture(&file, &[(HOSTILE, 2), (HOSTILE_IMAGE, 1), ("shop.example", 3)]);
    let why =
        Command::new(env!("CARGO_BIN_EXE_linger")).args(["why", "--html"]).args([&page, &file]).output();
    assert_eq!(why.unwrap().status.code(), Some(1));

    let wrong = browser.open(&page);
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(browser.eval("window.ran === undefined && document.scripts.length"), 1);
    assert_eq!(browser.eval("document.images.length"), 0);
    // The names stand there as text.
    for name in [HOSTILE, HOSTILE_IMAGE] {
        let is_shown = format!("document.body.innerText.includes({})", json!(name));
        assert_eq!(browser.eval(&is_shown), true, "{name}");
    }
    colours(&mut browser);
    assert!(sizes(&mut browser) > 0, "the harmless ones are folded on a screen");
    sorting(&mut browser);

    // What the checks above would see if a name had become markup: the page's policy stops it, and the browser says so.
    let tampered = fs::read_to_string(&page).unwrap().replace("<header>", &format!("<header>{HOSTILE}"));
    fs::write(&page, tampered).unwrap();
    let wrong = browser.open(&page);
    assert!(wrong.iter().any(|event| event.to_string().contains("Content Security Policy")), "{wrong:#?}");
    assert_eq!(browser.eval("window.ran === undefined && document.scripts.length"), 2);
}

/// A click on a head sorts by its column, a second one the other way round.
fn sorting(browser: &mut Browser) {
    let mut column = |name: &str, click: bool| {
        let expression = format!(
            "(() => {{
                const table = document.querySelector('table.sorted');
                const heads = [...table.tHead.rows[0].cells];
                const at = heads.findIndex(head => head.textContent === '{name}');
                if ({click}) heads[at].querySelector('button').click();
                return [...table.tBodies[0].rows].map(row => row.cells[at].textContent).join(' ');
            }})()"
        );
        browser.eval(&expression).as_str().unwrap().to_owned()
    };
    assert_eq!(column("Connections", false), "3 2 1 1");
    assert_eq!(column("Connections", true), "1 1 2 3");
    assert_eq!(column("Connections", true), "3 2 1 1");
    let services = column("Service", true);
    assert!(services.find("<script>") < services.find("shop.example"), "{services}");
    let services = column("Service", true);
    assert!(services.find("<script>") > services.find("shop.example"), "{services}");
}
