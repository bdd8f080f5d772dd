//! The recorded sessions of docs/transfer-sessions.txt: the client and the server of this crate say them again, byte for byte,
//! and so does whoever sends the client's half of the record without knowing what it means.
//!
//! `LINGER_SESSIONS=overwrite` writes the record anew.

use std::fs::{self, File, FileTimes};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::ops::Range;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use crate::common::*;
use linger_transfer::*;
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps};
use tempfile::tempdir;

const RECORD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/transfer-sessions.txt");

/// Who says a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    Client,
    Server,
}

/// A frame, or a preface, and which of its bytes differ from session to session.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Said {
    from: From,
    bytes: Vec<u8>,
    varies: Vec<bool>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Recorded {
    name: String,
    said: Vec<Said>,
}

const OPEN: u8 = 1;
const MESSAGE: u8 = 2;
/// CREDIT, PING, PONG, WORK: they come when time has passed, and are in no record.
const TIMED: [u8; 4] = [6, 7, 8, 10];

/// Places in a payload.
struct Cursor<'a>(&'a [u8], usize);

impl Cursor<'_> {
    fn skip(&mut self, bytes: usize) -> &mut Self {
        self.1 += bytes;
        self
    }

    fn text(&mut self) -> &mut Self {
        let length = u16::from_be_bytes([self.0[self.1], self.0[self.1 + 1]]);
        self.skip(2 + usize::from(length))
    }

    /// An option whose value has so many bytes.
    fn option(&mut self, bytes: usize) -> &mut Self {
        let is_there = self.0[self.1] == 1;
        self.skip(1 + if is_there { bytes } else { 0 })
    }

    fn optional_text(&mut self) -> &mut Self {
        if self.0[self.1] == 1 { self.skip(1).text() } else { self.skip(1) }
    }

    fn next(&self, bytes: usize) -> Option<Range<usize>> {
        Some(self.1..self.1 + bytes)
    }
}

/// The field of a payload that differs from session to session: an id, a memory, a token, a time.
fn varying(kind: u8, payload: &[u8]) -> Option<Range<usize>> {
    let mut at = Cursor(payload, 1);
    let number = 8;
    match (kind, payload.first()?) {
        (OPEN, 1) => at.text().skip(1).text().optional_text().next(16),
        (OPEN, 4) => at.next(16),
        (MESSAGE, 2) => at.skip(1).next(16),
        (MESSAGE, 3) => {
            let from_mode = at.skip(number + 1).text().skip(number);
            from_mode.option(12).option(number).next(16)
        }
        (MESSAGE, 12) => at.skip(2 * number).option(32).skip(1).next(12),
        _ => None,
    }
}

impl Said {
    fn preface(from: From, bytes: Vec<u8>) -> Self {
        Self { from, varies: vec![false; bytes.len()], bytes }
    }

    fn frame(from: From, bytes: Vec<u8>) -> Self {
        let mut said = Self::preface(from, bytes);
        if let Some(range) = varying(said.bytes[4], &said.bytes[8..]) {
            said.varies[8 + range.start..8 + range.end].fill(true);
            // The checks of payload and header.
            (said.varies[0], said.varies[5]) = (true, true);
        }
        said
    }

    /// What is the same in each session; `None` stands for a byte that is not.
    fn fixed(&self) -> Vec<Option<u8>> {
        self.bytes.iter().zip(&self.varies).map(|(byte, varies)| (!varies).then_some(*byte)).collect()
    }

    fn line(&self) -> String {
        let mut line = String::from(if self.from == From::Client { "> " } else { "< " });
        let mut inside = false;
        for (byte, varies) in self.bytes.iter().zip(&self.varies) {
            if *varies != inside {
                line.push(if *varies { '[' } else { ']' });
                inside = *varies;
            }
            line.push_str(&format!("{byte:02x}"));
        }
        if inside {
            line.push(']');
        }
        line
    }

    fn of_line(line: &str) -> Option<Self> {
        let (from, hex) = line.split_once(' ')?;
        let from = match from {
            ">" => From::Client,
            "<" => From::Server,
            _ => return None,
        };
        let mut said = Self { from, bytes: Vec::new(), varies: Vec::new() };
        let (mut inside, mut digits) = (false, String::new());
        for character in hex.chars() {
            match character {
                '[' | ']' => inside = character == '[',
                digit => digits.push(digit),
            }
            if digits.len() == 2 {
                said.bytes.push(u8::from_str_radix(&digits, 16).ok()?);
                said.varies.push(inside);
                digits.clear();
            }
        }
        digits.is_empty().then_some(said)
    }
}

fn documented() -> Vec<Recorded> {
    let mut sessions: Vec<Recorded> = Vec::new();
    for line in fs::read_to_string(RECORD).unwrap().lines().filter(|line| !line.starts_with('#')) {
        match (line.strip_prefix("session "), sessions.last_mut()) {
            (Some(name), _) => sessions.push(Recorded { name: name.to_owned(), said: Vec::new() }),
            (None, Some(session)) => session.said.push(Said::of_line(line).expect("a line of the record")),
            (None, None) => panic!("{line}"),
        }
    }
    sessions
}

/// Reads a preface or a frame; `None` at the end.
fn read(mut from: &TcpStream, whose: From, is_first: bool) -> Option<Said> {
    let mut bytes = vec![0; 8];
    from.read_exact(&mut bytes).ok()?;
    if is_first {
        return Some(Said::preface(whose, bytes));
    }
    let length = u32::from_be_bytes([0, bytes[1], bytes[2], bytes[3]]) as usize;
    bytes.resize(8 + length, 0);
    from.read_exact(&mut bytes[8..]).ok()?;
    Some(Said::frame(whose, bytes))
}

/// Forwards one connection to a server, and records what is said.
struct Recorder {
    port: u16,
    said: std::thread::JoinHandle<Vec<Said>>,
}

impl Recorder {
    fn new(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let said = std::thread::spawn(move || {
            let client = listener.accept().unwrap().0;
            let server = TcpStream::connect(("127.0.0.1", server)).unwrap();
            let said = Mutex::new(Vec::new());
            std::thread::scope(|scope| {
                for (whose, from, to) in [(From::Client, &client, &server), (From::Server, &server, &client)]
                {
                    let said = &said;
                    scope.spawn(move || {
                        let (mut to, mut is_first) = (to, true);
                        while let Some(frame) = read(from, whose, is_first) {
                            // Recorded before it is forwarded: its answer comes behind it.
                            if is_first || !TIMED.contains(&frame.bytes[4]) {
                                said.lock().unwrap().push(frame.clone());
                            }
                            is_first = false;
                            let _ = to.write_all(&frame.bytes);
                        }
                        let _ = to.shutdown(Shutdown::Write);
                    });
                }
            });
            said.into_inner().unwrap()
        });
        Self { port, said }
    }
}

const MOMENT: Duration = Duration::new(1_700_000_000, 5);

/// Gives a file or directory the mode and the time that the record has. No umask takes anything from these modes.
fn as_recorded(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let times = FileTimes::new().set_modified(SystemTime::UNIX_EPOCH + MOMENT);
    File::open(path).unwrap().set_times(times).unwrap();
}

/// Makes what the sessions send.
fn sources(at: &Path) {
    let file = |name: &str, content: &str| {
        fs::write(at.join(name), content).unwrap();
        as_recorded(&at.join(name), 0o600);
    };
    for directory in ["holes", "links", "pipes"] {
        fs::create_dir(at.join(directory)).unwrap();
    }
    file("x", "abc");
    file("other", "abcd");
    let mut holes = File::create(at.join("holes/h")).unwrap();
    holes.seek(SeekFrom::Start(2 * BLOCK as u64)).unwrap();
    holes.write_all(b"abc").unwrap();
    as_recorded(&at.join("holes/h"), 0o600);
    symlink("nowhere", at.join("links/l")).unwrap();
    let moment = Timespec { tv_sec: MOMENT.as_secs() as i64, tv_nsec: MOMENT.subsec_nanos().into() };
    let times = Timestamps { last_access: moment, last_modification: moment };
    rustix::fs::utimensat(CWD, at.join("links/l"), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    rustix::fs::mknodat(CWD, at.join("pipes/p"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    for directory in ["holes", "links", "pipes"] {
        as_recorded(&at.join(directory), 0o700);
    }
}

/// Shares a directory with a sink, as the sessions need it.
fn with_sink(options: &mut ShareOptions) {
    options.config = StreamsConfig::parse("[sink.print]\ncommand = ['cat']\n").unwrap();
}

/// Holds the sessions, and records them.
fn recorded() -> Vec<Recorded> {
    let (from, to, back) = (tempdir().unwrap(), tempdir().unwrap(), tempdir().unwrap());
    sources(from.path());
    let sessions = Mutex::new(Vec::new());
    let told = Arc::new(Mutex::new([0; 16]));
    share(to.path(), with_sink, |shared| {
        let hold = |name: &str, session: &dyn Fn(&Client)| {
            let recorder = Recorder::new(shared.port);
            let mut options = ClientOptions::default();
            options.retry.patience = Duration::ZERO;
            session(&Client::new("127.0.0.1", recorder.port, options).unwrap());
            let said = recorder.said.join().unwrap();
            sessions.lock().unwrap().push(Recorded { name: name.to_owned(), said });
        };
        let put = |client: &Client, what: &str, to: &str, verdict| {
            let input = Input::Path(from.path().join(what));
            let (summary, error) = client.put(input, &place(to), &PutOptions::default(), &mut |_| {});
            assert_eq!(summary.verdict(error.as_ref()), verdict, "{what}: {summary:?} {error:?}");
            *told.lock().unwrap() = summary.transfer.unwrap();
        };
        use ItemVerdict::{Confirmed, NotDelivered};
        hold("put a file", &|client| put(client, "x", "x", Confirmed));
        hold("put it again: it is there", &|client| put(client, "x", "x", Confirmed));
        hold("put another one to its name: refused", &|client| put(client, "other", "x", NotDelivered));
        hold("list", &|client| client.list(&RelPath::root(), &mut |_| {}).unwrap());
        hold("get", &|client| {
            let output = Output::Path(back.path().join("x"));
            let (summary, error) = client.get(&place("x"), &output, &GetOptions::default(), &mut |_| {});
            assert_eq!(summary.verdict(error.as_ref()), Confirmed, "{summary:?} {error:?}");
        });
        hold("put a directory with a file of two blocks of zeros and abc", &|client| {
            put(client, "holes", "holes", Confirmed);
        });
        hold("put a directory with a link", &|client| put(client, "links", "links", Confirmed));
        hold("put a directory with a named pipe: not sent", &|client| {
            put(client, "pipes", "pipes", NotDelivered);
        });
        hold("put what comes through a pipe, with its mode whatever the umask is", &|client| {
            let (outlet, mut inlet) = std::io::pipe().unwrap();
            inlet.write_all(b"abc").unwrap();
            drop(inlet);
            let mut options = PutOptions::default();
            options.chmod = Some("644".parse().unwrap());
            let (summary, error) =
                client.put(Input::Pipe(outlet.into()), &place("piped"), &options, &mut |_| {});
            assert_eq!(summary.verdict(error.as_ref()), Confirmed, "{summary:?} {error:?}");
        });
        hold("print", &|client| put(client, "x", "@print", Confirmed));
        hold("ask what became of it", &|client| drop(client.ask(*told.lock().unwrap()).unwrap()));
        hold("print it once more, although it may have been done", &|client| {
            let mut options = PutOptions::default();
            options.anew = true;
            let input = Input::Path(from.path().join("x"));
            let (summary, error) = client.put(input, &place("@print"), &options, &mut |_| {});
            assert_eq!(summary.verdict(error.as_ref()), Confirmed, "{summary:?} {error:?}");
        });
    });
    sessions.into_inner().unwrap()
}

const HEAD: &str = "\
# Sessions of the transfer protocol (docs/transfer-protocol.md), frame by frame, without TLS. A line is a preface or a frame in
# hexadecimal; > is said by the client, < by the server. Bytes in brackets are others in each session: ids, memories, tokens,
# times, and the checks over them. CREDIT, PING, PONG and WORK are left out: time decides when they come.
";

#[test]
fn both_ends_say_what_is_recorded() {
    let now = recorded();
    if std::env::var_os("LINGER_SESSIONS").is_some_and(|value| value == "overwrite") {
        let mut text = HEAD.to_owned();
        for session in &now {
            text.push_str(&format!("session {}\n", session.name));
            session.said.iter().for_each(|said| text.push_str(&format!("{}\n", said.line())));
        }
        fs::write(RECORD, text).unwrap();
    }
    let documented = documented();
    let names = |sessions: &[Recorded]| -> Vec<String> {
        sessions.iter().map(|session| session.name.clone()).collect()
    };
    assert_eq!(names(&now), names(&documented));
    for (now, documented) in now.iter().zip(&documented) {
        for from in [From::Client, From::Server] {
            let of = |session: &Recorded| -> Vec<Vec<Option<u8>>> {
                session.said.iter().filter(|said| said.from == from).map(Said::fixed).collect()
            };
            let told = |said: &Recorded| said.said.iter().map(Said::line).collect::<Vec<_>>().join("\n");
            assert!(
                of(now) == of(documented),
                "{}, the {from:?}. Documented:\n{}\nand now:\n{}",
                now.name,
                told(documented),
                told(now)
            );
        }
    }
}

#[test]
fn a_server_answers_the_record_as_it_stands() {
    let to = tempdir().unwrap();
    let sessions = documented();
    let served = share(to.path(), with_sink, |shared| {
        for session in &sessions {
            let mut socket = TcpStream::connect(("127.0.0.1", shared.port)).unwrap();
            let mut is_first = true;
            for said in &session.said {
                if said.from == From::Client {
                    // A server that has refused may be gone already.
                    let _ = socket.write_all(&said.bytes);
                    continue;
                }
                let answer = loop {
                    let answer = read(&socket, From::Server, is_first);
                    let is_timed = |answer: &Said| !is_first && TIMED.contains(&answer.bytes[4]);
                    if !answer.as_ref().is_some_and(is_timed) {
                        break answer;
                    }
                };
                is_first = false;
                let answer = answer.map(|answer| answer.fixed());
                assert_eq!(answer, Some(said.fixed()), "{}: {}", session.name, said.line());
            }
        }
    });
    assert_eq!(served.len(), sessions.len());
    let known = served.iter().filter(|served| served.summary.peer_knows).count();
    // All but the two that failed, the list and the question end with a goodbye and something that is confirmed.
    assert!(known >= 8, "{known} of {}", served.len());
    assert_eq!(fs::read(to.path().join("x")).unwrap(), b"abc");
    assert_eq!(fs::metadata(to.path().join("holes/h")).unwrap().len(), 2 * BLOCK as u64 + 3);
    assert_eq!(fs::read_link(to.path().join("links/l")).unwrap(), Path::new("nowhere"));
    assert_eq!(fs::read(to.path().join("piped")).unwrap(), b"abc");
}

/// One byte that is said otherwise is another record.
#[test]
fn a_record_is_read_as_it_was_written() {
    for session in documented() {
        for said in session.said {
            let line = said.line();
            assert_eq!(Said::of_line(&line), Some(said.clone()), "{line}");
            let mut other = said.clone();
            let fixed = other.varies.iter().rposition(|varies| !varies).unwrap();
            other.bytes[fixed] ^= 1;
            assert_ne!(other.fixed(), said.fixed());
        }
    }
}
