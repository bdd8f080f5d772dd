//! `linger hunt`: finds what a server loses, writes it down, repeats it, and leaves nothing behind.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};

use crate::browser::{Browser, colours, sizes};
use crate::common::contract::line;
use crate::common::junit::cases;
use crate::common::program::{has_networks, interrupt, linger, run};
use linger_testing::servers::{available, program};
use serde_json::{Value, json};

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

/// A server that loses nothing: it reads on until the client closes. It makes the file `count` when so many connections have come, and
/// `upload` when a request announces 12,345 bytes.
fn patient(folder: &Path, count: u32) -> Vec<String> {
    let source = format!(
        r"
import os, socket, threading
folder, count = {folder:?}, 0
def serve(s):
    try:
        head = b''
        while b'\r\n\r\n' not in head:
            more = s.recv(65536)
            if not more: return
            head += more
        if b'12345' in head: open(folder + '/upload', 'w')
        s.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 100000\r\nConnection: close\r\n\r\n' + b'r' * 100000)
        s.shutdown(socket.SHUT_WR)
        while s.recv(1 << 20): pass
    except OSError: pass
    finally: s.close()
listener = socket.create_server(('127.0.0.1', 8000), backlog=1000)
while True:
    s, _ = listener.accept()
    count += 1
    if count == {count}: open(folder + '/count', 'w')
    threading.Thread(target=serve, args=(s,), daemon=True).start()
",
        folder = folder.to_str().unwrap()
    );
    ["python3", "-c", &source].map(str::to_owned).to_vec()
}

/// Waits until a file is there. Whoever never makes it runs into the test runner's limit.
fn appears(file: &Path, child: &mut Child) {
    while !file.exists() {
        assert!(child.try_wait().unwrap().is_none(), "{file:?}: it has ended");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

fn start(arguments: &[&str]) -> Child {
    linger(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// A hunt that is stopped says what it has searched, also in its files, with a status that is no verdict; its server ends with it.
#[test]
fn an_interrupted_hunt_tells_what_it_has_searched_and_leaves_nothing() {
    if !has_networks() || available(program("python3", "python3")).is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // The kernel removes the lock with the last process that holds it.
    let lock = folder.path().join("lock");
    // The plain requests at the start are fewer.
    let server = patient(folder.path(), 100);
    let locked = format!("exec 9>{}; flock 9; exec \"$0\" \"$@\"", lock.display());
    let command: Vec<String> =
        ["sh", "-c", &locked].map(str::to_owned).into_iter().chain(server.iter().cloned()).collect();
    let files = ["page", "junit"].map(|name| folder.path().join(name).display().to_string());
    let hunt = ["hunt", "--json", "--at-risk-ok", "--html", &files[0], "--junit", &files[1]];
    let mut child = start(&words(&hunt, &command));
    appears(&folder.path().join("count"), &mut child);
    assert!(files.iter().all(|file| !Path::new(file).exists()), "not before it is whole");
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let told: Value = line("hunt", String::from_utf8_lossy(&output.stdout).trim());
    assert_eq!(
        (&told["ended"], &told["found"], &told["lost"]),
        (&"stopped".into(), &Value::Null, &0.into()),
        "{told}"
    );
    assert!(told["schedules"].as_u64() > Some(0), "{told}");
    let sum =
        |key| told["trials"].as_array().unwrap().iter().map(|cell| cell[key].as_u64().unwrap()).sum::<u64>();
    assert_eq!(
        (sum("kept") + sum("undecided") + sum("at_risk")),
        told["schedules"].as_u64().unwrap(),
        "{told}"
    );
    let page = fs::read_to_string(&files[0]).unwrap();
    let first = page.split_once("<h1 class=\"risk\">Nothing lost in ").expect(&page).1;
    assert!(first.split_once("</h1>").unwrap().0.contains(" s; interrupted. Server: sh -c "), "{page}");
    assert!(page.ends_with("</html>\n"));
    let suite = cases(&fs::read_to_string(&files[1]).unwrap());
    assert_eq!((suite[0].0.as_str(), suite[0].1.as_str()), ("plain-response", "pass"), "{suite:?}");
    let open = |case: &(String, String, String)| {
        case.1 == "skipped" && case.2.starts_with("the hunt was interrupted")
    };
    assert!(suite.len() == 7 && suite[1..].iter().all(open), "{suite:?}");
    // Blocks until the server is gone; if it were left behind, the test runner's time limit says so.
    fs::File::open(&lock).unwrap().lock().unwrap();
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 4, "{left:?}");
}

/// A replay that is stopped says how far it came: in words, as JSON, on its page and in its report.
#[test]
fn an_interrupted_replay_says_how_far_it_came() {
    if !has_networks() || available(program("python3", "python3")).is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let server = patient(folder.path(), 0);
    let at = |name: &str| folder.path().join(name).display().to_string();
    // Nobody waits for the end of that pause.
    let steps =
        "[[step]]\ndo = \"request\"\nbody = 12345\n[[step]]\ndo = \"pause\"\nmilliseconds = 3600000\n";
    fs::write(at("story"), format!("path = \"/\"\n{steps}")).unwrap();
    let (story, page, junit) = (at("story"), at("page"), at("junit"));
    let replay = ["hunt", "--replay", &story, "--times", "3", "--json", "--html", &page, "--junit", &junit];
    let mut child = start(&words(&replay, &server));
    appears(&folder.path().join("upload"), &mut child);
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        (output.status.code(), said.trim()),
        (Some(3), "linger: interrupted after 0 of 3 trials"),
        "{output:?}"
    );
    let told = line("hunt", String::from_utf8_lossy(&output.stdout).trim());
    assert_eq!((&told["interrupted"], &told["repeated"]["trials"]), (&true.into(), &0.into()), "{told}");
    let page = fs::read_to_string(page).unwrap();
    assert!(
        page.contains("<h1 class=\"risk\">Could not tell: 0 trials; interrupted after 0 of 3 trials."),
        "{page}"
    );
    let suite = cases(&fs::read_to_string(junit).unwrap());
    assert_eq!((suite.len(), suite[0].1.as_str()), (1, "skipped"), "{suite:?}");
    assert!(suite[0].2.ends_with("interrupted after 0 of 3 trials"), "{suite:?}");
}

/// Python's server with a word that would be markup, and one that would reach the terminal, in its command.
fn hostile(folder: &tempfile::TempDir) -> Option<Vec<String>> {
    let server = server(folder)?;
    let script = "exec \"$@\" # <script>window.ran=1</script>\u{1b}]0;x\u{7}<img/src=x/onerror=window.ran=1>";
    Some(["sh", "-c", script, "sh"].map(str::to_owned).into_iter().chain(server).collect())
}

/// The page of a loss in a browser: its story, its packets, and each trial; the command is text on it.
#[test]
fn the_page_of_a_hunt_is_read_in_a_browser() {
    if !has_networks() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let Some(mut browser) = Browser::start(folder.path()) else { return };
    let Some(server) = hostile(&folder) else { return };
    let [page, junit] = ["page.html", "junit"].map(|name| folder.path().join(name));
    let files = ["--html", page.to_str().unwrap(), "--junit", junit.to_str().unwrap()];
    let hunt = [&["hunt", "--path", "/large", "--seed", "13", "--json"], &files[..]].concat();
    let output = run(&words(&hunt, &server));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told = line("hunt", String::from_utf8_lossy(&output.stdout).trim());
    assert_eq!(told["command"], json!(server));

    let wrong = browser.open(&page);
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(browser.eval("window.ran === undefined && document.scripts.length"), 1);
    assert_eq!(browser.eval("document.images.length"), 0);
    for text in ["# <script>window.ran=1</script>\\u{1b}]0;x\\u{7}<img", "--seed 13"] {
        assert_eq!(
            browser.eval(&format!("document.body.innerText.includes({})", json!(text))),
            true,
            "{text}"
        );
    }
    assert!(browser.eval("document.querySelector('h1').innerText").as_str().unwrap().starts_with("Lost: "));
    let steps = browser
        .eval("[...document.querySelectorAll('[data-story=found] ol li')].map(item => item.innerText)");
    assert_eq!(steps, told["found"]["story"]["steps"]);
    // The ladder, if it was lost once more for it.
    let ladders = u64::from(!told["packets"]["finding"].is_null());
    assert_eq!(browser.eval("document.querySelectorAll('[data-story=found] .ladder svg').length"), ladders);
    let cells = "[...document.querySelectorAll('table.heat')].map(table => table.querySelectorAll('td[title]').length)";
    let trials = [&told["trials"], &told["found"]["trials"]].map(|trials| trials.as_array().unwrap().len());
    assert_eq!(browser.eval(cells), json!(trials));
    let decades = ["pause_ms_decades", "send_bytes_decades"].map(|key| told[key].as_array().unwrap().len());
    assert_eq!(
        browser.eval("document.querySelectorAll('#decades tbody tr').length"),
        decades[0] + decades[1]
    );
    colours(&mut browser);
    sizes(&mut browser);
    cells_stand_out(&mut browser);

    let suite = fs::read_to_string(junit).unwrap();
    let failed: Vec<_> = cases(&suite).into_iter().filter(|case| case.1 == "failure").collect();
    assert!(!failed.is_empty() && failed.iter().any(|case| case.2.starts_with("lost: ")), "{suite}");
    let document = roxmltree::Document::parse(&suite).unwrap();
    let text = document
        .descendants()
        .find(|node| node.has_tag_name("failure") && node.attribute("type") == Some("lost"));
    let text = text.unwrap().text().unwrap();
    assert!(
        text.contains("again: linger hunt ") && text.contains("--seed 13") && text.contains("request"),
        "{text}"
    );
    assert!(!suite.contains(['\u{1b}', '\u{7}']) && suite.contains("&lt;script&gt;"), "{suite}");
}

/// Letters on the coloured cells can be read in light and in dark.
fn cells_stand_out(browser: &mut Browser) {
    for scheme in ["light", "dark"] {
        browser.show("screen", scheme, 1_000);
        // Each colour is drawn, so that mixtures are numbers; the contrast is WCAG's.
        let least = browser.eval(
            "(() => {
                const context = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
                const light = (colour) => {
                    context.fillStyle = getComputedStyle(document.body).backgroundColor;
                    context.fillRect(0, 0, 1, 1);
                    context.fillStyle = colour;
                    context.fillRect(0, 0, 1, 1);
                    const part = (value) => value <= 10 ? value / 3294 : ((value / 255 + 0.055) / 1.055) ** 2.4;
                    const [red, green, blue] = context.getImageData(0, 0, 1, 1).data;
                    return 0.2126 * part(red) + 0.7152 * part(green) + 0.0722 * part(blue);
                };
                return Math.min(...[...document.querySelectorAll('.heat td[title], .key b')].map((cell) => {
                    const style = getComputedStyle(cell);
                    const [one, other] = [light(style.color), light(style.backgroundColor)].sort((a, b) => b - a);
                    return (one + 0.05) / (other + 0.05);
                }));
            })()",
        );
        assert!(least.as_f64().unwrap() >= 4.5, "{scheme}: {least}");
    }
}

/// A file that cannot be written, or that is another one of the hunt's, is refused before the server is started.
#[test]
fn a_file_that_cannot_be_written_is_refused_before_the_server_starts() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let (story, started, one) = (at("story"), at("started"), at("one"));
    fs::write(&story, "path = \"/\"\n[[step]]\ndo = \"request\"\n").unwrap();
    fs::write(at("config"), "port = 1").unwrap();
    fs::create_dir(at("folder")).unwrap();
    std::os::unix::fs::symlink(&one, at("link")).unwrap();
    let (link, config, inside) = (at("link"), at("config"), at("folder"));
    let there = fs::read_dir(folder.path()).unwrap().count();
    let cases: [(&[&str], i32, &str); 8] = [
        (&["--html", &one, "--pcap", &one], 2, "--pcap and --html need a file each"),
        (&["--html", &link, "--junit", &one], 2, "--html and --junit need a file each"),
        (&["--save", &one, "--junit", &one], 2, "--save and --junit need a file each"),
        (&["--html", "-"], 2, "--html needs a file"),
        (&["--replay", &story, "--html", &story], 2, "is to be read"),
        (&["--junit", &config], 2, "is to be read"),
        (&["--html", &inside], 3, "is a directory; name a file"),
        (&["--junit", "/nowhere/at/all"], 3, "cannot write /nowhere/at/all"),
    ];
    for (options, status, told) in cases {
        let output = run(&[&["hunt"], options, &["--", "touch", &started, &config]].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        if output.status.code() == Some(4) {
            return linger_testing::skip("private networks", said.trim());
        }
        assert_eq!(output.status.code(), Some(status), "{options:?}: {said}");
        assert!(said.contains(told), "{options:?}: {said}");
        assert!(!Path::new(&started).exists(), "{options:?}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), there, "{options:?}");
    }
}

/// A server that does not answer is a report for CI, too; there is no page of it, and an old one stays.
#[test]
fn a_server_that_does_not_answer_is_an_error_in_the_report() {
    let folder = tempfile::tempdir().unwrap();
    let [page, junit] = ["page", "junit"].map(|name| folder.path().join(name));
    fs::write(&page, "old").unwrap();
    let files = ["--html", page.to_str().unwrap(), "--junit", junit.to_str().unwrap()];
    let output = run(&[&["hunt", "http://127.0.0.1:1/"], &files[..]].concat());
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let suite = cases(&fs::read_to_string(junit).unwrap());
    assert_eq!((suite[0].0.as_str(), suite[0].1.as_str()), ("plain-response", "error"), "{suite:?}");
    assert!(suite[0].2.contains("gives no whole response"), "{suite:?}");
    assert_eq!(fs::read_to_string(page).unwrap(), "old");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

/// A client that stops at a write error: the loss is found, repeated from its file, and told with both kernels' counters and its packets.
#[test]
fn a_client_that_loses_its_response_is_found_and_repeated() {
    if !has_networks() || available(program("wget", "wget")).is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let [story, page, junit] =
        ["story", "page", "junit"].map(|name| folder.path().join(name).display().to_string());
    let wget = "wget -q -O - --tries=1 --post-file=$LINGER_UPLOAD http://server/";
    let client = ["hunt", "--client", wget, "--longest-pause", "1s"];
    let files = ["--seed", "3", "--json", "--save", &story, "--html", &page, "--junit", &junit];
    let output = run(&[&client[..], &files].concat());
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told = line("hunt", String::from_utf8_lossy(&output.stdout).trim());
    assert_eq!((&told["command"], &told["client"]["output"]), (&json!([wget]), &"bodies".into()), "{told}");
    let found = &told["found"];
    assert_eq!(
        (&found["story"]["plays"], &found["lost"]["by_client"]["what"]),
        (&"server".into(), &"response".into())
    );
    assert!(found["story"]["steps"].as_array().unwrap().len() <= 3, "{found}");
    assert!(found["lost"]["by_client"]["exit"].as_i64() > Some(0), "{found}");
    assert!(found["counters"]["OutRsts"].as_u64() > Some(0), "{found}");
    assert!(found["client_counters"]["TCPAbortOnClose"].is_u64(), "{found}");
    assert_eq!((&told["packets"]["lost"], &told["packets"]["link"]), (&true.into(), &"lan".into()), "{told}");
    let page = fs::read_to_string(page).unwrap();
    assert!(
        page.contains("Client: wget -q -O - --tries=1") && page.contains("<h1>Lost: a response of "),
        "{page}"
    );
    let suite = fs::read_to_string(junit).unwrap();
    assert!(
        suite.contains("name=\"client\"") && cases(&suite).iter().any(|case| case.1 == "failure"),
        "{suite}"
    );

    let text = fs::read_to_string(&story).unwrap();
    assert!(text.contains("plays = \"server\"") && text.contains("--client CMD"), "{text}");
    let again = ["hunt", "--replay", &story, "--times", "5", "--json"];
    let lost = run(&[&again[..], &["--client", wget]].concat());
    let repeated = line("hunt", String::from_utf8_lossy(&lost.stdout).trim());
    assert_eq!((lost.status.code(), &repeated["type"]), (Some(1), &"replay".into()), "{text}{lost:?}");
    // The same story is none of a server's.
    let other = run(&[&again[..], &["--", "true"]].concat());
    assert_eq!(other.status.code(), Some(2), "{other:?}");
    assert!(String::from_utf8_lossy(&other.stderr).contains("it is for --client"), "{other:?}");
}

/// Whatever cannot be hunted is said with what and where.
#[test]
fn what_cannot_be_hunted_is_refused_with_the_place() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("story.toml");
    let story = file.to_str().unwrap();
    fs::write(&file, "path = \"/\"\n[[step]]\ndo = \"send\"\nbytes = 8\n").unwrap();
    let hash = format!("sha256:{}", "0".repeat(64));
    let cases: [(&[&str], i32, &str); 16] = [
        (&["hunt", "--client", "true", "--", "true"], 2, "cannot be used with"),
        (&["hunt", "--client", "true", "http://127.0.0.1:1/"], 2, "cannot be used with"),
        (&["hunt", "--client", "true", "--path", "/x"], 2, "cannot be used with"),
        (&["hunt", "--upload", "5", "--", "true"], 2, "--client"),
        (&["hunt", "--status", "404", "http://127.0.0.1:1/"], 2, "--client"),
        (&["hunt", "--client", "true", "--expect", "sha256:12"], 2, "64 hexadecimal digits"),
        (&["hunt", "--expect", &hash, "--", "true"], 2, "--client"),
        (&["hunt", "--client", "true", "--upload", "1G"], 2, "the most are"),
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
