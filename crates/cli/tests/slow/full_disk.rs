//! A disk that is full, for each verb that keeps something: the file is named, the status is the right one and never 0, nothing has
//! its final name by half, what was there before stays, and with room the same command works.
//!
//! The disks are file systems of a few hundred kB in memory, in a mount namespace of the test's own.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use linger_testing::secluded;
use serde_json::Value;

const LINGER: &str = env!("CARGO_BIN_EXE_linger");

/// A place with two small disks: `small` is the one that gets full, and `home`, where keys and the journal are.
struct Place {
    top: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { top: tempfile::tempdir().unwrap() };
        for disk in ["small", "home"] {
            fs::create_dir(place.path(disk)).unwrap();
            let mut mount = Command::new("mount");
            mount.args(["-t", "tmpfs", "-o", "size=256k", "none"]).arg(place.path(disk));
            assert!(mount.status().unwrap().success());
        }
        fs::create_dir_all(place.path("tree/sub")).unwrap();
        fs::write(place.path("file"), vec![7; 100_000]).unwrap();
        fs::write(place.path("tree/a"), "a").unwrap();
        fs::write(place.path("tree/sub/b"), vec![8; 100_000]).unwrap();
        let config = format!("[sink.print]\ncommand = ['sh', '-c', 'cat >>{}']\n", place.shown("printed"));
        fs::write(place.path("share.toml"), config).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.top.path().join(name)
    }

    fn shown(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Fills a disk but for some bytes.
    fn fill(&self, disk: &str, but: u64) {
        let ballast = self.path(disk).join("ballast");
        let mut file = File::create(&ballast).unwrap();
        loop {
            match file.write(&[0; 4096]) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => panic!("{error}"),
            }
        }
        let length = file.metadata().unwrap().len();
        file.set_len(length - but).unwrap();
    }

    fn make_room(&self, disk: &str) {
        fs::remove_file(self.path(disk).join("ballast")).unwrap();
    }

    /// The names on a disk, but for what fills it.
    fn names(&self, disk: &str) -> Vec<String> {
        let mut names = Vec::new();
        let mut todo = vec![self.path(disk)];
        while let Some(directory) = todo.pop() {
            for entry in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
                let name = entry.strip_prefix(self.path(disk)).unwrap().display().to_string();
                if entry.is_dir() {
                    todo.push(entry);
                }
                if name != "ballast" {
                    names.push(name);
                }
            }
        }
        names.sort();
        names
    }

    fn linger(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(LINGER);
        command.args(arguments).current_dir(self.top.path()).env("XDG_CONFIG_HOME", self.path("home"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// The status of a command, and all that it has said.
    fn run(&self, arguments: &[&str]) -> (i32, String) {
        ended(&mut self.linger(arguments))
    }

    fn share(&self, directory: &str, flags: &[&str]) -> Share {
        let usual = ["share", "--writable", "--json", "--listen", "127.0.0.1:0", "--config", "share.toml"];
        let mut child =
            self.linger(&[&usual, flags, &[directory]].concat()).stderr(Stdio::null()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
        let listening: Value = crate::common::contract::line("share", &line);
        let code = listening["code"].as_str().unwrap_or_default().to_owned();
        Share { child, at: listening["address"].as_str().unwrap().to_owned(), code }
    }
}

fn ended(command: &mut Command) -> (i32, String) {
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8_lossy(&said).into_owned())
}

struct Share {
    child: Child,
    at: String,
    code: String,
}

impl Share {
    fn to(&self, place: &str) -> String {
        format!("{}:{place}", self.at)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn says(told: &str, wanted: &[&str]) {
    for wanted in wanted {
        assert!(told.contains(wanted), "no `{wanted}` in: {told}");
    }
}

#[test]
fn what_a_share_receives() {
    secluded(|| {
        let place = Place::new();
        let share = place.share("small", &[]);
        for flags in [&[][..], &["--no-verify"], &["--durability", "memory"], &["--replace"]] {
            place.fill("small", 40_000);
            let to = share.to("copy");
            let put = [&["put"], flags, &["file", &to]].concat();
            let (status, told) = place.run(&put);
            assert_eq!(status, 1, "{flags:?}: {told}");
            says(&told, &["copy", "No space left on device", "\nhint: make room where"]);
            assert_eq!(place.names("small"), [""; 0], "{flags:?}");
            place.make_room("small");
            assert_eq!(place.run(&put).0, 0, "{flags:?}");
            assert_eq!(fs::read(place.path("small/copy")).unwrap(), vec![7; 100_000]);
            fs::remove_file(place.path("small/copy")).unwrap();
        }
        // Of a tree arrives what has room. What is replaced stays until the other is whole.
        fs::create_dir_all(place.path("small/tree/sub")).unwrap();
        fs::write(place.path("small/tree/sub/b"), "before").unwrap();
        place.fill("small", 40_000);
        let tree = ["put", "--replace", "tree", &share.to("tree")];
        let (status, told) = place.run(&tree);
        assert_eq!(status, 1, "{told}");
        says(&told, &["sub/b", "No space left on device"]);
        assert_eq!(fs::read(place.path("small/tree/a")).unwrap(), b"a");
        assert_eq!(fs::read(place.path("small/tree/sub/b")).unwrap(), b"before");
        place.make_room("small");
        assert_eq!(place.run(&tree).0, 0);
        assert_eq!(fs::read(place.path("small/tree/sub/b")).unwrap(), vec![8; 100_000]);
    });
}

#[test]
fn what_a_get_receives() {
    secluded(|| {
        let place = Place::new();
        fs::create_dir(place.path("shared")).unwrap();
        fs::copy(place.path("file"), place.path("shared/file")).unwrap();
        let share = place.share("shared", &[]);
        let from = share.to("file");
        for flags in [&[][..], &["--no-verify"]] {
            place.fill("small", 40_000);
            let get = [&["get"], flags, &[&from, "small/copy"]].concat();
            let (status, told) = place.run(&get);
            assert_eq!(status, 1, "{flags:?}: {told}");
            says(&told, &["copy", "No space left on device"]);
            assert_eq!(place.names("small"), [""; 0], "{flags:?}");
            // Standard output is a file there.
            let out = File::create(place.path("small/out")).unwrap();
            let (status, told) = ended_into(&place, &["get", &from, "-"], out);
            assert_eq!(status, 1, "{told}");
            says(&told, &["No space left on device"]);
            fs::remove_file(place.path("small/out")).unwrap();
            place.make_room("small");
            assert_eq!(place.run(&get).0, 0);
            assert_eq!(fs::read(place.path("small/copy")).unwrap(), vec![7; 100_000]);
            fs::remove_file(place.path("small/copy")).unwrap();
        }
    });
}

fn ended_into(place: &Place, arguments: &[&str], out: File) -> (i32, String) {
    let output = place.linger(arguments).stdout(out).output().unwrap();
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn the_receipts_of_a_transfer() {
    secluded(|| {
        let place = Place::new();
        fs::create_dir(place.path("to")).unwrap();
        let share = place.share("to", &[]);
        let (to, receipts) = (share.to("copy"), place.path("small/r.json"));
        let put = |name: &str| {
            fs::write(place.path("file"), name).unwrap();
            place.run(&["put", "--replace", "--receipt", "small/r.json", "file", &to])
        };
        assert_eq!(put("first").0, 0);
        let first = fs::read(&receipts).unwrap();
        place.fill("small", 0);
        let (status, told) = put("second");
        assert_eq!(status, 3, "{told}");
        says(
            &told,
            &["everything is confirmed, but cannot write the receipts to small/r.json: No space left"],
        );
        assert_eq!(fs::read(place.path("to/copy")).unwrap(), b"second", "it was sent all the same");
        assert_eq!(fs::read(&receipts).unwrap(), first, "those of the last transfer stay");
        assert_eq!(place.names("small"), ["r.json"]);
        let get = ["get", "--replace", "--receipt", "small/r.json", &to, "fetched"];
        let (status, told) = place.run(&get);
        assert_eq!(status, 3, "{told}");
        says(&told, &["cannot write the receipts to small/r.json: No space left"]);
        place.make_room("small");
        assert_eq!(put("third").0, 0);
        assert_eq!(place.run(&["receipt", "verify", "small/r.json", "to/copy"]).0, 0);
    });
}

/// The journal of what was handed to sinks: nothing is run that could not be noted, and it can be read afterwards.
#[test]
fn the_journal_of_deliveries() {
    secluded(|| {
        let place = Place::new();
        fs::create_dir(place.path("to")).unwrap();
        let journal = || {
            let names = place.names("home").into_iter();
            names.filter(|name| name.contains("deliveries-")).collect::<Vec<_>>()
        };
        let put = |share: &Share, content: &str| {
            fs::write(place.path("file"), content).unwrap();
            place.run(&["put", "--retry-for", "0", "file", &share.to("@print")])
        };
        let printed = || fs::read_to_string(place.path("printed")).unwrap();
        let share = place.share("to", &[]);
        assert_eq!(put(&share, "first\n").0, 0);
        place.fill("home", 0);
        // A page of the journal has room still: at some print it has not.
        let full = (0..200).find_map(|number| {
            let content = format!("{number}\n");
            let (status, told) = put(&share, &content);
            (status != 0).then_some((content, status, told))
        });
        let (refused, status, told) = full.expect("200 prints need more than a page of notes");
        // What could be noted only in part is in doubt after a restart, and here it is known.
        let done = printed();
        assert_eq!(status, 1, "{told}");
        says(
            &told,
            &["cannot note the delivery in deliveries-", "so nothing was run: No space left on device"],
        );
        assert!(!done.contains(&refused), "{done}");
        let name = journal();
        assert_eq!(name.len(), 1, "{name:?}");
        // A server that starts now cannot write it anew, and leaves it as it is.
        drop(share);
        let before = fs::read(place.path("home").join(&name[0])).unwrap();
        let start = ["share", "--listen", "127.0.0.1:0", "--config", "share.toml", "to"];
        let (status, told) = place.run(&start);
        assert_eq!(status, 3, "{told}");
        says(&told, &[&name[0], "No space left on device"]);
        assert_eq!(fs::read(place.path("home").join(&name[0])).unwrap(), before);
        assert_eq!(journal(), name, "and nothing beside it");
        place.make_room("home");
        let share = place.share("to", &[]);
        assert_eq!(put(&share, &refused).0, 0);
        assert_eq!(put(&share, "last\n").0, 0);
        assert_eq!(printed(), format!("{done}{refused}last\n"), "each once");
    });
}

#[test]
fn keys_and_known_machines() {
    secluded(|| {
        let place = Place::new();
        fs::create_dir(place.path("to")).unwrap();
        // The first start makes a key.
        place.fill("home", 0);
        let start = ["share", "--listen", "127.0.0.1:0", "to"];
        let (status, told) = place.run(&start);
        assert_eq!(status, 3, "{told}");
        says(&told, &["home/linger/key", "No space left on device"]);
        assert!(!place.names("home").iter().any(|name| name.contains("key")), "{:?}", place.names("home"));
        let (status, told) = place.run(&["put", "file", "127.0.0.1:1:"]);
        assert_ne!(status, 0, "{told}");
        says(&told, &["home/linger/key", "No space left on device"]);
        place.make_room("home");
        let share = place.share("to", &[]);
        // The client has a home of its own, whose disk is full when it is to keep the server's key.
        let client =
            |arguments: &[&str]| ended(place.linger(arguments).env("XDG_CONFIG_HOME", place.path("small")));
        let known = place.path("small/linger/known_hosts");
        assert_ne!(client(&["ls", "127.0.0.1:1:"]).0, 0, "this makes its key");
        fs::write(&known, "# mine\n").unwrap();
        place.fill("small", 0);
        fs::write(place.path("code"), &share.code).unwrap();
        // The comment's page has room for some lines.
        let line = format!("192.0.2.1 ed25519:{}\n", "1".repeat(64));
        let filled = format!("# mine\n{}", line.repeat(4080 / line.len()));
        fs::write(&known, &filled).unwrap();
        let put = ["put", "--tls", "--code-file", "code", "file", &share.to("copy")];
        let (status, told) = client(&put);
        assert_eq!(status, 1, "{told}");
        says(&told, &["known_hosts", "No space left on device"]);
        assert_eq!(fs::read_to_string(&known).unwrap(), filled, "no half line");
        assert!(!Path::new(&place.path("to/copy")).exists());
        // A line that is changed is written beside the file first.
        let ring = place.path("small/linger/known_clients");
        fs::write(&known, "# mine\n").unwrap();
        fs::rename(&known, &ring).unwrap();
        fs::write(&ring, &line).unwrap();
        let (status, told) = client(&["peers", "rename", "192.0.2.1", "laptop"]);
        assert_ne!(status, 0, "{told}");
        says(&told, &["known_clients", "No space left on device"]);
        assert_eq!(fs::read_to_string(&ring).unwrap(), line);
        place.make_room("small");
        assert_eq!(client(&["peers", "rename", "192.0.2.1", "laptop"]).0, 0);
        // With room it pairs: the share's next code counts.
        drop(share);
        let share = place.share("to", &[]);
        fs::write(place.path("code"), &share.code).unwrap();
        let put = ["put", "--tls", "--code-file", "code", "file", &share.to("copy")];
        let (status, told) = client(&put);
        assert_eq!(status, 0, "{told}");
        assert_eq!(fs::read_to_string(&known).unwrap().lines().count(), 1);
        assert_eq!(client(&put).0, 0, "known from now on");
    });
}
