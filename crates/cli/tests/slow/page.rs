//! The page of `linger why --html` in a browser: it is read in light and in dark, on a narrow screen and on paper, its tables are
//! sorted, and nothing of a capture becomes markup or runs.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use linger_testing::skip;
use serde_json::{Value, json};

use crate::wire::{ACK, Capture, PSH, RST, SYN, packet};

/// A name that would run if it became markup.
const HOSTILE: &str = "<script>window.ran=1</script>";
const HOSTILE_IMAGE: &str = "<img/src=x/onerror=window.ran=1>";

/// Chromium, driven by its own protocol over two pipes.
struct Browser {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    latest: u64,
    session: Option<String>,
    /// What it has reported unasked.
    events: Vec<Value>,
}

impl Browser {
    fn start(home: &Path) -> Self {
        // The protocol wants its pipes as the descriptors 3 and 4.
        let script = "exec chromium --headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run \
            --remote-debugging-pipe --user-data-dir=\"$HOME/profile\" 3<&0 4>&1 </dev/null >/dev/null 2>&1";
        let mut command = Command::new("bash");
        command.args(["-c", script]).env("HOME", home).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut browser = Self { child, input, output, latest: 0, session: None, events: Vec::new() };
        let page = browser.call("Target.createTarget", json!({"url": "about:blank"}));
        let session = json!({"targetId": page["targetId"], "flatten": true});
        let session = browser.call("Target.attachToTarget", session);
        browser.session = Some(session["sessionId"].as_str().unwrap().to_owned());
        for domain in ["Page", "Runtime", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser
    }

    fn next(&mut self) -> Value {
        let mut message = Vec::new();
        self.output.read_until(0, &mut message).unwrap();
        assert_eq!(message.pop(), Some(0), "the browser has ended");
        serde_json::from_slice(&message).unwrap()
    }

    fn call(&mut self, method: &str, params: Value) -> Value {
        self.latest += 1;
        let mut message = json!({"id": self.latest, "method": method, "params": params});
        if let Some(session) = &self.session {
            message["sessionId"] = session.as_str().into();
        }
        self.input.write_all(format!("{message}\0").as_bytes()).unwrap();
        loop {
            let mut answer = self.next();
            if answer["id"] == self.latest {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].take();
            }
            self.events.push(answer);
        }
    }

    /// Opens a page, and returns what was wrong with it: exceptions, and errors of the page's policy.
    fn open(&mut self, page: &Path) -> Vec<Value> {
        self.events.clear();
        self.call("Page.navigate", json!({"url": format!("file://{}", page.display())}));
        while !self.events.iter().any(|event| event["method"] == "Page.loadEventFired") {
            let event = self.next();
            self.events.push(event);
        }
        self.eval("document.readyState");
        let wrong = |event: &&Value| {
            event["method"] == "Runtime.exceptionThrown"
                || event["method"] == "Log.entryAdded" && event["params"]["entry"]["level"] == "error"
        };
        self.events.iter().filter(wrong).cloned().collect()
    }

    fn eval(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true});
        let mut result = self.call("Runtime.evaluate", params);
        assert!(result["exceptionDetails"].is_null(), "{expression}: {result}");
        result["result"]["value"].take()
    }

    /// Shows the page on this medium and in this scheme, so many pixels wide.
    fn show(&mut self, media: &str, scheme: &str, width: u32) {
        let feature = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.call("Emulation.setEmulatedMedia", json!({"media": media, "features": feature}));
        let size = json!({"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", size);
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

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

fn channels(colour: &str) -> f64 {
    let numbers = colour.trim_start_matches(|letter: char| !letter.is_ascii_digit()).trim_end_matches(')');
    numbers.split(',').take(3).map(|number| number.trim().parse::<f64>().unwrap()).sum()
}

#[test]
fn the_page_is_read_in_a_browser() {
    if Command::new("chromium").arg("--version").output().is_err() {
        return skip("chromium", "it is not installed");
    }
    let folder = tempfile::tempdir().unwrap();
    let (file, page) = (folder.path().join("a<b>.pcap"), folder.path().join("page.html"));
    capture(&file, &[(HOSTILE, 2), (HOSTILE_IMAGE, 1), ("shop.example", 3)]);
    let why =
        Command::new(env!("CARGO_BIN_EXE_linger")).args(["why", "--html"]).args([&page, &file]).output();
    assert_eq!(why.unwrap().status.code(), Some(1));
    let mut browser = Browser::start(folder.path());

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
    sizes(&mut browser);
    sorting(&mut browser);

    // What the checks above would see if a name had become markup: the page's policy stops it, and the browser says so.
    let tampered = fs::read_to_string(&page).unwrap().replace("<header>", &format!("<header>{HOSTILE}"));
    fs::write(&page, tampered).unwrap();
    let wrong = browser.open(&page);
    assert!(wrong.iter().any(|event| event.to_string().contains("Content Security Policy")), "{wrong:#?}");
    assert_eq!(browser.eval("window.ran === undefined && document.scripts.length"), 2);
}

/// Light and dark follow the reader's system; text stands out in both.
fn colours(browser: &mut Browser) {
    let mut of = |scheme: &str, media: &str| {
        browser.show(media, scheme, 1_000);
        let mut colour = |property: &str| {
            let computed = browser.eval(&format!("getComputedStyle(document.body).{property}"));
            channels(computed.as_str().unwrap())
        };
        (colour("backgroundColor"), colour("color"))
    };
    let ((light, ink), (dark, chalk)) = (of("light", "screen"), of("dark", "screen"));
    assert!(light - ink > 400.0 && chalk - dark > 400.0, "{light} {ink}, {dark} {chalk}");
    let (paper, ink) = of("dark", "print");
    assert!(paper - ink > 400.0, "on paper also a dark page is light: {paper} {ink}");
}

/// Nothing needs more than the width of a telephone, and paper shows what is folded on a screen.
fn sizes(browser: &mut Browser) {
    for width in [320, 1_400] {
        browser.show("screen", "light", width);
        let needed = browser.eval("document.documentElement.scrollWidth").as_u64().unwrap();
        assert!(needed <= u64::from(width), "{needed} of {width} pixels");
    }
    let hidden = "[...document.querySelectorAll('details > :not(summary)')].filter(element => \
        !element.checkVisibility({contentVisibilityAuto: true})).length";
    let folded = browser.eval(hidden).as_u64().unwrap();
    assert!(folded > 0, "the harmless ones are folded on a screen");
    browser.show("print", "light", 800);
    assert_eq!(browser.eval(hidden), 0);
    let pdf = browser.call("Page.printToPDF", json!({}));
    // "%PDF-" in Base64.
    assert!(pdf["data"].as_str().unwrap().starts_with("JVBERi0"));
    browser.show("screen", "light", 1_000);
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
