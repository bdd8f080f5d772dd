//! Pages in a browser.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use linger_testing::skip;
use serde_json::{Value, json};

/// Chromium, driven by its own protocol over two pipes.
pub(crate) struct Browser {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    latest: u64,
    session: Option<String>,
    /// What it has reported unasked.
    events: Vec<Value>,
}

impl Browser {
    /// Starts it, with this home; `None` if there is none here, which is said.
    pub(crate) fn start(home: &Path) -> Option<Self> {
        if Command::new("chromium").arg("--version").output().is_err() {
            skip("chromium", "it is not installed");
            return None;
        }
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
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        Some(browser)
    }

    fn next(&mut self) -> Value {
        let mut message = Vec::new();
        self.output.read_until(0, &mut message).unwrap();
        assert_eq!(message.pop(), Some(0), "the browser has ended");
        serde_json::from_slice(&message).unwrap()
    }

    pub(crate) fn call(&mut self, method: &str, params: Value) -> Value {
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

    /// Opens a page, and returns what was wrong with it: exceptions, errors of the page's policy, and whatever else it loads.
    pub(crate) fn open(&mut self, page: &Path) -> Vec<Value> {
        self.events.clear();
        self.call("Page.navigate", json!({"url": format!("file://{}", page.display())}));
        while !self.events.iter().any(|event| event["method"] == "Page.loadEventFired") {
            let event = self.next();
            self.events.push(event);
        }
        self.eval("document.readyState");
        let url = format!("file://{}", page.display());
        let wrong = |event: &&Value| {
            event["method"] == "Runtime.exceptionThrown"
                || event["method"] == "Network.requestWillBeSent" && event["params"]["request"]["url"] != *url
                || event["method"] == "Log.entryAdded" && event["params"]["entry"]["level"] == "error"
        };
        self.events.iter().filter(wrong).cloned().collect()
    }

    pub(crate) fn eval(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true});
        let mut result = self.call("Runtime.evaluate", params);
        assert!(result["exceptionDetails"].is_null(), "{expression}: {result}");
        result["result"]["value"].take()
    }

    /// Shows the page on this medium and in this scheme, so many pixels wide.
    pub(crate) fn show(&mut self, media: &str, scheme: &str, width: u32) {
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

fn channels(colour: &str) -> f64 {
    let numbers = colour.trim_start_matches(|letter: char| !letter.is_ascii_digit()).trim_end_matches(')');
    numbers.split(',').take(3).map(|number| number.trim().parse::<f64>().unwrap()).sum()
}

/// Light and dark follow the reader's system; text stands out in both.
pub(crate) fn colours(browser: &mut Browser) {
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

/// Nothing needs more than the width of a telephone, and paper shows what is folded on a screen. Returns how many parts are folded.
pub(crate) fn sizes(browser: &mut Browser) -> u64 {
    for width in [320, 1_400] {
        browser.show("screen", "light", width);
        let needed = browser.eval("document.documentElement.scrollWidth").as_u64().unwrap();
        assert!(needed <= u64::from(width), "{needed} of {width} pixels");
    }
    let hidden = "[...document.querySelectorAll('details > :not(summary)')].filter(element => \
        !element.checkVisibility({contentVisibilityAuto: true})).length";
    let folded = browser.eval(hidden).as_u64().unwrap();
    browser.show("print", "light", 800);
    assert_eq!(browser.eval(hidden), 0);
    let pdf = browser.call("Page.printToPDF", json!({}));
    // "%PDF-" in Base64.
    assert!(pdf["data"].as_str().unwrap().starts_with("JVBERi0"));
    browser.show("screen", "light", 1_000);
    folded
}
