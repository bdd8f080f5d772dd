//! The pages of `why`, `probe` and `lab` in a browser (that of `hunt` stands in hunt.rs): each is read in light and in dark, on a narrow screen and on paper, its tables
//! are sorted, and nothing that a stranger wrote becomes markup or runs.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::browser::{Browser, colours, sizes};
use crate::common::program::has_networks;
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

/// Opens a page that a stranger's text is on: it stands there as text, and nothing runs or is loaded.
fn opened(browser: &mut Browser, page: &Path, texts: &[&str]) {
    let wrong = browser.open(page);
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(browser.eval("window.ran === undefined && document.scripts.length"), 1);
    assert_eq!(browser.eval("document.images.length"), 0);
    for text in texts {
        let is_shown = format!("document.body.innerText.includes({})", json!(text));
        assert_eq!(browser.eval(&is_shown), true, "{text}");
    }
    colours(browser);
    sizes(browser);
}

/// A server whose name would run if it became markup. It closes when it has read what had come, so that a late byte costs the response.
fn hostile_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let body = vec![b'r'; 300_000];
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let head =
                format!("HTTP/1.1 200 OK\r\nServer: {HOSTILE}\r\nContent-Length: {}\r\n\r\n", body.len());
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
        }
    });
    format!("http://{address}/{HOSTILE_IMAGE}")
}

#[test]
fn the_page_of_a_probe_is_read_in_a_browser() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut browser) = Browser::start(folder.path()) else { return };
    let page = folder.path().join("page.html");
    let mut probe = Command::new(env!("CARGO_BIN_EXE_linger"));
    probe
        .args([
            "probe",
            &hostile_server(),
            "--only",
            "unread-body,half-close,keep-alive",
            "--repeat",
            "1",
            "--html",
        ])
        .arg(&page);
    let output = probe.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    opened(&mut browser, &page, &[HOSTILE, "onerror"]);
    let first = browser.eval("document.querySelector('h1').innerText");
    assert!(first.as_str().unwrap().starts_with("Loses responses (unread-body"), "{first}");
    let answers = browser
        .eval("[...document.querySelectorAll('#answers tbody td:first-child')].map(cell => cell.innerText)");
    assert_eq!(answers, json!(["plain-response", "unread-body", "half-close", "keep-alive"]));
    assert!(browser.eval("document.querySelectorAll('article .bad').length").as_u64() >= Some(1));
}

#[test]
fn the_pages_of_the_lab_are_read_in_a_browser() {
    if !has_networks() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let Some(mut browser) = Browser::start(folder.path()) else { return };
    let [page, pcap] = ["page.html", "<img src=x onerror=window.ran=1>"].map(|name| folder.path().join(name));
    fs::create_dir(&pcap).unwrap();
    let lab = |words: &[&str], page: &Path| {
        let mut lab = Command::new(env!("CARGO_BIN_EXE_linger"));
        let output = lab.arg("lab").args(words).arg("--html").arg(page).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    };
    let grid =
        ["--ending", "close,lingering", "--peer", "unread,reads-all", "--link", "lan,wifi", "--trials", "3"];
    lab(&[&grid[..], &["--pcap", pcap.to_str().unwrap()]].concat(), &page);
    opened(&mut browser, &page, &["<img src=x onerror=window.ran=1>", "--seed "]);
    let first = browser.eval("document.querySelector('h1').innerText");
    assert!(first.as_str().unwrap().starts_with("As expected: "), "{first}");
    assert_eq!(browser.eval("document.querySelectorAll('table.heat').length"), 2, "one for each link");
    assert_eq!(
        browser.eval("document.querySelectorAll('table.heat td[title]').length"),
        8,
        "one for each cell"
    );
    let lost = browser.eval("document.querySelectorAll('table.heat td.lost').length").as_u64().unwrap();
    assert!(lost >= 1, "close, unread, wifi");
    assert_eq!(
        browser.eval("document.querySelectorAll('article .ladder svg').length"),
        lost,
        "each has its packets"
    );

    lab(&["--one"], &page);
    opened(
        &mut browser,
        &page,
        &["close() with 8 bytes unread: ok", "RST sent behind", "closed-with-unread-data"],
    );
    assert_eq!(browser.eval("document.querySelectorAll('.ladder svg').length"), 2, "calls and packets");
    lab(&["--one", "--ending", "lingering", "--link", "loopback"], &page);
    opened(&mut browser, &page, &["Kept: the client has 200000 of 200000 bytes", "loopback has no wire"]);
    assert_eq!(browser.eval("document.querySelector('h1').className"), "good");
}
