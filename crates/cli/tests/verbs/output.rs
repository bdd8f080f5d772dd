//! What the program does when nobody reads what it writes, when a disk is full, and with the files that it writes.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

const LINGER: &str = env!("CARGO_BIN_EXE_linger");
const SIGPIPE: i32 = 13;

fn capture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../why/captures").join(format!("{name}.pcap.gz"))
}

fn harmful() -> String {
    capture("unread-upload-window.client").display().to_string()
}

fn harmless() -> String {
    capture("health-check.server").display().to_string()
}

fn command(words: &[&str]) -> Command {
    let mut command = Command::new(LINGER);
    command.args(words).stdin(Stdio::null()).stderr(Stdio::piped()).env("XDG_CONFIG_HOME", "/dev/null/none");
    command
}

/// A pipe whose reader has gone.
fn unread() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn without_panic(words: &[&str], output: &Output) -> ExitStatus {
    assert!(!said(output).contains("panicked"), "linger {words:?}: {}", said(output));
    output.status
}

/// A web server on a thread of its own. Returns its URL.
fn web() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
        }
    });
    format!("http://{address}/")
}

#[test]
fn where_nobody_reads_the_status_is_the_verdict_or_sigpipe() {
    let (harmful, harmless, web) = (harmful(), harmless(), web());
    let probe = ["probe", &web, "--repeat", "1", "--only", "trailing-bytes"];
    for (words, with_json, verdict) in [
        (&["why", &harmful][..], true, Some(1)),
        (&["why", &harmless], true, Some(0)),
        (&["why", &harmful, &harmless], true, Some(1)),
        (&["why", "--causes"], true, None),
        (&["completions", "bash"], false, None),
        (&["completions", "zsh"], false, None),
        (&["--help"], false, None),
        (&["why", "--help"], false, None),
        (&["--version"], false, None),
        (&["schema"], false, None),
        (&["schema", "why"], false, None),
        (&["client", "127.0.0.1:1", "--count", "1"], true, Some(3)),
        (&probe, true, Some(0)),
        (
            &["lab", "--trials", "1", "--link", "loopback", "--ending", "close", "--peer", "unread"],
            false,
            Some(0),
        ),
        // Cells are printed one by one, and the lab ends at the first that nobody reads.
        (
            &[
                "lab", "--json", "--trials", "1", "--link", "loopback", "--ending", "close", "--peer",
                "unread",
            ],
            false,
            None,
        ),
    ] {
        for json in [false, true] {
            if json && !with_json {
                continue;
            }
            let words = [words, if json { &["--json"] } else { &[] }].concat();
            let normal = command(&words).stdout(Stdio::null()).output().unwrap();
            let closed = command(&words).stdout(unread()).output().unwrap();
            let status = without_panic(&words, &closed);
            match verdict {
                // After the first line of a capture's report the rest is unknown. That the reset is harmful is
                // known.
                Some(verdict) => {
                    assert_eq!(normal.status.code(), Some(verdict), "linger {words:?}: {}", said(&normal));
                    assert_eq!(status.code(), Some(verdict), "linger {words:?}: {status} {}", said(&closed));
                }
                None => {
                    assert_eq!(normal.status.code(), Some(0), "linger {words:?}");
                    assert_eq!(status.signal(), Some(SIGPIPE), "linger {words:?}: {status}");
                }
            }
        }
    }
}

/// A share prints lines while it serves. It ends once nobody reads them.
#[test]
fn a_share_whose_lines_nobody_reads_ends() {
    let home = tempfile::tempdir().unwrap();
    let words = ["share", "--json", "--listen", "127.0.0.1:0", home.path().to_str().unwrap()];
    let output = command(&words).env("XDG_CONFIG_HOME", home.path()).stdout(unread()).output().unwrap();
    assert_eq!(without_panic(&words, &output).signal(), Some(SIGPIPE), "{}", said(&output));
    // Without --json it prints nothing on standard output, so nothing can be unread.
    let words = ["share", "--listen", "127.0.0.1:0", "/dev/null/none"];
    let output = command(&words).env("XDG_CONFIG_HOME", home.path()).stdout(unread()).output().unwrap();
    assert_eq!(without_panic(&words, &output).code(), Some(3));
}

/// Both outputs of a share are pipes that nobody reads, of a page each: it serves all the same, and nothing of its lines is lost.
#[test]
fn a_share_whose_reader_stops_serves_on() {
    for flags in [&["--json"][..], &[]] {
        let (folder, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let shared = folder.path().join("shared");
        fs::create_dir(&shared).unwrap();
        fs::write(shared.join("file"), "text").unwrap();
        let words = ["share", "-vv", "--insecure", "--listen", "127.0.0.1:0", shared.to_str().unwrap()];
        let (out, out_end) = std::io::pipe().unwrap();
        let (said, said_end) = std::io::pipe().unwrap();
        for end in [&out_end, &said_end] {
            rustix::pipe::fcntl_setpipe_size(end, 4096).unwrap();
        }
        let mut start = command(&[&words, flags].concat());
        start.env("XDG_CONFIG_HOME", home.path()).stdout(out_end).stderr(said_end);
        let mut share = start.spawn().unwrap();
        // It has the writing ends.
        drop(start);
        let (mut out, mut said) = (BufReader::new(out), BufReader::new(said));
        let mut line = String::new();
        let first: &mut dyn BufRead = if flags.is_empty() { &mut said } else { &mut out };
        while !line.contains("127.0.0.1:") {
            assert!(first.read_line(&mut line).unwrap() > 0, "{line}");
        }
        let port = line
            .split_once("127.0.0.1:")
            .unwrap()
            .1
            .split(|byte: char| !byte.is_ascii_digit())
            .next()
            .unwrap();
        let from = format!("127.0.0.1:{port}:file");
        for number in 0..30 {
            let to = folder.path().join(number.to_string());
            let mut get = command(&["get", "--insecure", "--retry-for", "0", &from, to.to_str().unwrap()]);
            let got = get.env("XDG_CONFIG_HOME", home.path()).output().unwrap();
            assert_eq!(
                got.status.code(),
                Some(0),
                "{flags:?} {number}: {}",
                String::from_utf8_lossy(&got.stderr)
            );
            assert_eq!(fs::read(&to).unwrap(), b"text");
        }
        kill_process(Pid::from_child(&share), Signal::INT).unwrap();
        if !flags.is_empty() {
            let told =
                out.lines().map(|line| line.unwrap()).filter(|line| line.contains("\"served\"")).count();
            assert_eq!(told, 30);
        }
        assert_eq!(share.wait().unwrap().code(), Some(0), "{flags:?}");
    }
}

#[test]
fn a_full_disk_is_status_3_and_named() {
    let (harmful, web) = (harmful(), web());
    for words in [
        &["why", &harmful][..],
        &["why", "--json", &harmful],
        &["why", "--causes"],
        &["completions", "bash"],
        &["--version"],
        &["--help"],
        &["schema"],
        &["client", "127.0.0.1:1", "--count", "1"],
        &["client", "127.0.0.1:1", "--count", "1", "--json"],
        &["probe", &web, "--repeat", "1", "--only", "trailing-bytes"],
        &["lab", "--trials", "1", "--link", "loopback", "--ending", "close", "--peer", "unread"],
        &["lab", "--trials", "1", "--link", "loopback", "--ending", "close", "--peer", "unread", "--json"],
    ] {
        let output = command(words).stdout(File::create("/dev/full").unwrap()).output().unwrap();
        assert_eq!(without_panic(words, &output).code(), Some(3), "linger {words:?}: {}", said(&output));
        let expected = "cannot write to standard output (/dev/full): No space left on device";
        assert!(said(&output).contains(expected), "linger {words:?}: {}", said(&output));
    }
}

/// A failed write to standard error is reported nowhere, and changes no status.
#[test]
fn where_standard_error_is_full_or_unread_the_status_is_the_same() {
    let harmful = harmful();
    for words in [
        &["why", &harmful, "/dev/null/none"][..],
        &["why", "/dev/null/none"],
        &["client", "127.0.0.1:1", "--count", "1"],
        &["probe", "http://127.0.0.1:1/"],
        &["probe", "nonsense"],
        &["run", "--", "/dev/null/none"],
        &["run", "--", "true"],
        &["put", "/dev/null/none", "127.0.0.1:"],
        &["fcgi", "get", "127.0.0.1:1", "/x"],
        &["lab", "none.toml"],
        // Leaves out resets of other programs on this host.
        &["watch", "--for", "0", "--plain", "--process", "nobody"],
    ] {
        let normal = command(words).stdout(Stdio::null()).output().unwrap();
        for errors in [File::create("/dev/full").unwrap().into(), unread()] {
            let output = command(words).stdout(Stdio::null()).stderr(errors).output().unwrap();
            assert_eq!(output.status, normal.status, "linger {words:?}: {}", said(&normal));
        }
    }
}

fn why(folder: &Path, words: &[&str]) -> Output {
    command(&[&["why"], words].concat()).current_dir(folder).stdout(Stdio::null()).output().unwrap()
}

fn plain(folder: &Path) -> Vec<u8> {
    let output = Command::new("gzip").args(["-dc", &harmful()]).output().unwrap();
    for name in ["a.pcap", "b.pcap", "c.pcap"] {
        fs::write(folder.join(name), &output.stdout).unwrap();
    }
    output.stdout
}

/// `linger why --html *.pcap`: the shell gives the first capture for the page's name.
#[test]
fn a_page_takes_the_place_of_no_capture() {
    let folder = tempfile::tempdir().unwrap();
    let capture = plain(folder.path());
    fs::write(folder.path().join("d.gz"), fs::read(harmful()).unwrap()).unwrap();
    fs::hard_link(folder.path().join("a.pcap"), folder.path().join("hard")).unwrap();
    std::os::unix::fs::symlink("a.pcap", folder.path().join("soft")).unwrap();
    for (words, expected) in [
        (&["--html", "a.pcap", "b.pcap", "c.pcap"][..], "a.pcap is not a text, and would be lost"),
        (&["--html", "d.gz", "b.pcap"], "d.gz is not a text"),
        (&["a.pcap", "--html", "a.pcap"], "a.pcap is to be read and cannot be written as well"),
        (&["a.pcap", "--html", "./a.pcap"], "is to be read"),
        (&["a.pcap", "--html", "hard"], "is to be read"),
        (&["b.pcap", "soft", "--html", "a.pcap"], "is to be read"),
        (&["a.pcap", "--html", "soft"], "is to be read"),
    ] {
        let output = why(folder.path(), words);
        assert!(said(&output).contains(expected), "{words:?}: {}", said(&output));
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        assert_eq!(fs::read(folder.path().join("a.pcap")).unwrap(), capture, "{words:?}");
        assert_eq!(fs::read(folder.path().join("d.gz")).unwrap(), fs::read(harmful()).unwrap());
    }
}

#[test]
fn a_page_is_there_whole_or_the_old_one_is() {
    let folder = tempfile::tempdir().unwrap();
    plain(folder.path());
    let page = folder.path().join("page.html");
    fs::write(&page, "last week's").unwrap();
    assert_eq!(why(folder.path(), &["none", "--html", "page.html"]).status.code(), Some(3));
    assert_eq!(fs::read(&page).unwrap(), b"last week's", "nothing was read");
    assert_eq!(why(folder.path(), &["a.pcap", "--html", "page.html"]).status.code(), Some(1));
    assert!(fs::read_to_string(&page).unwrap().starts_with("<!doctype html>"));
    let output = why(folder.path(), &["a.pcap", "--html", "/dev/full"]);
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(said(&output).contains("cannot write /dev/full: No space left"), "{}", said(&output));
    // The page was asked for, and is complete although nobody reads the text on standard output.
    fs::write(&page, "").unwrap();
    let words = ["why", "a.pcap", "--html", "page.html"];
    let output = command(&words).current_dir(folder.path()).stdout(unread()).output().unwrap();
    assert_eq!(without_panic(&words, &output).code(), Some(1));
    assert!(fs::read_to_string(&page).unwrap().ends_with("</html>\n"));
    let names: Vec<_> =
        fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 4, "nothing is left beside: {names:?}");
}

/// SIGKILL leaves no time to remove anything: the file has no name until it is whole.
#[test]
fn a_killed_process_leaves_no_part_of_a_file_and_the_old_one_stays() {
    for old in [None, Some("<!doctype html>old")] {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let (page, inputs) = (folder.path().join("page.html"), tempfile::tempdir().unwrap());
        if let Some(old) = old {
            fs::write(&page, old).unwrap();
        }
        let fifo = inputs.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RWXU).unwrap();
        let words = ["why", "--html", page.to_str().unwrap(), fifo.to_str().unwrap()];
        let mut why = command(&words).stdout(Stdio::null()).spawn().unwrap();
        let fds = format!("/proc/{}/fd", why.id());
        let has_begun = || {
            let links = fs::read_dir(&fds).unwrap().flatten().filter_map(|fd| fs::read_link(fd.path()).ok());
            links.into_iter().any(|file| file.starts_with(folder.path()))
        };
        let long = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while !has_begun() {
            assert!(
                why.try_wait().unwrap().is_none() && std::time::Instant::now() < long,
                "it begins no file"
            );
            std::thread::yield_now();
        }
        why.kill().unwrap();
        why.wait().unwrap();
        let left: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left.len(), usize::from(old.is_some()), "{left:?}");
        assert_eq!(fs::read_to_string(&page).ok().as_deref(), old);
    }
}

#[test]
fn receipts_survive_a_put_that_confirms_nothing() {
    let home = tempfile::tempdir().unwrap();
    let receipts = home.path().join("r.json");
    fs::write(home.path().join("data.csv"), "a,b").unwrap();
    let put = |words: &[&str]| {
        let words = [&["put"], words].concat();
        command(&words).current_dir(home.path()).env("XDG_CONFIG_HOME", home.path()).output().unwrap()
    };
    fs::write(&receipts, "{\"path\":\"\"}\n").unwrap();
    let output = put(&["data.csv", "127.0.0.1:", "--port", "1", "--retry-for", "0", "--receipt", "r.json"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert_eq!(fs::read(&receipts).unwrap(), b"{\"path\":\"\"}\n");
    for name in ["data.csv", "./data.csv"] {
        let output = put(&["data.csv", "127.0.0.1:", "--receipt", name]);
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        assert_eq!(fs::read(home.path().join("data.csv")).unwrap(), b"a,b");
    }
}

/// What the libraries decide is told on request, to standard error, and changes nothing else.
#[test]
fn decisions_are_told_on_request() {
    let web = web();
    for (words, once, twice) in [
        (
            &["run", "--quiet", "--", "true"][..],
            "how closes are to be seen via=Preload",
            "unpacked the library",
        ),
        (
            &["probe", &web, "--repeat", "1", "--only", "trailing-bytes"],
            "asks check=\"trailing-bytes\"",
            "asks",
        ),
        (&["fcgi", "get", "127.0.0.1:1", "/x"], "linger: ", "linger: "),
    ] {
        let told = |flags: &[&str]| {
            let output = command(&[flags, words].concat()).stdout(Stdio::null()).output().unwrap();
            (output.status, said(&output))
        };
        let (status, silent) = told(&[]);
        let (status_once, info) = told(&["-v"]);
        let (status_twice, debug) = told(&["-vv"]);
        assert_eq!((status, status), (status_once, status_twice), "linger {words:?}");
        assert!(!silent.contains(" INFO ") && !silent.contains("DEBUG"), "{silent}");
        assert!(info.contains(once) && !info.contains("DEBUG"), "linger -v {words:?}: {info}");
        assert!(debug.contains(once) && debug.contains(twice), "linger -vv {words:?}: {debug}");
    }
}

/// Man pages replace those that were there, one by one.
#[test]
fn man_pages_are_whole() {
    let folder = tempfile::tempdir().unwrap();
    let words = ["man", folder.path().to_str().unwrap()];
    for _ in 0..2 {
        assert_eq!(command(&words).stdout(unread()).output().unwrap().status.code(), Some(0));
    }
    let names: Vec<_> =
        fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.len() > 15 && names.iter().all(|name| name.to_str().unwrap().ends_with(".1")), "{names:?}");
}
