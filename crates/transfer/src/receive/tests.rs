//! The receiver against a scripted sender: what it answers, stores and refuses, each with a case that differs in
//! one detail.
//!
//! A thread writes the sender's frames as bytes and reads every frame that comes back, so that nothing here depends
//! on this project's sender.

mod account;
mod content;
mod entries;
mod news;
mod places;

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::cancel::Cancel;
use crate::claim::Claims;
use crate::driver::Deadlines;
use crate::hash::{BLOCK, Sum};
use crate::launch::Launcher;
use crate::machine::{Role, SessionLimits};
use crate::message::IfExists;
use crate::message::Kind;
use crate::message::{Durability, EntryAnswer, Time, TreeEntry};
use crate::sink::{Displays, StreamsConfig};
use crate::transport::Plain;
use crate::wire::{self, FrameKind as Frame, HEADER, Header, PREFACE};

/// The stream of an earlier request that is still open.
const EARLIER: u16 = 1;
const STREAM: u16 = 3;
const SIZE: u64 = BLOCK as u64;

/// What the scripted sender does.
#[derive(Clone, Debug)]
enum Step {
    Say(Message),
    /// One DATA frame.
    Data(Vec<u8>),
    /// A frame of another kind.
    Frame(Frame, u16, Vec<u8>),
    /// Nothing until a receipt has come.
    AwaitReceipt,
}

use Step::{Data, Say};

/// Where a test receives.
enum To<'a> {
    Directory(&'a Path),
    /// Below the given path of a directory. The path may not exist.
    Below(&'a Path, &'a str),
    Sink(&'a str),
    /// To a sink's command, with the memory of earlier sessions.
    Remembered(&'a str, &'a Arc<Deliveries>),
    Stream(&'a OwnedFd, &'a mut Tree),
}

#[derive(Debug)]
struct Received {
    result: Result<(), Error>,
    said: Vec<Message>,
    summary: Summary,
    seen: Vec<Progress>,
}

/// The receiver's options.
#[derive(Clone, Copy)]
struct With {
    options: Options,
    again: bool,
    from_the_start: bool,
}

const VERIFIED: Options =
    Options { if_exists: IfExists::Fail, verify: true, dry_run: false, durability: Durability::Memory };
const UNVERIFIED: Options = Options { verify: false, ..VERIFIED };
const DRY: Options = Options { dry_run: true, ..VERIFIED };

fn with(options: Options) -> With {
    With { options, again: false, from_the_start: false }
}

fn again(options: Options) -> With {
    With { again: true, ..with(options) }
}

fn frame(kind: Frame, stream: u16, payload: &[u8]) -> Vec<u8> {
    [&Header { kind, stream, length: payload.len() as u32 }.encode(payload)[..], payload].concat()
}

/// The messages that have come back, and whether the connection has ended.
type Heard = Arc<(Mutex<(Vec<Message>, bool)>, Condvar)>;

/// Takes the frames that come back until the other side closes.
fn listen(mut socket: TcpStream, heard: &Heard) {
    let mut take = |length: usize| {
        let mut bytes = vec![0; length];
        socket.read_exact(&mut bytes).ok().map(|()| bytes)
    };
    let mut more = take(PREFACE).is_some();
    while more && let Some(header) = take(HEADER) {
        let header = Header::decode(*header.first_chunk().unwrap()).unwrap();
        let payload = take(header.length as usize);
        more = payload.is_some();
        if let (Frame::Message, Some(payload)) = (header.kind, payload) {
            heard.0.lock().unwrap().0.push(Message::decode(&payload).unwrap());
            heard.1.notify_all();
        }
    }
    heard.0.lock().unwrap().1 = true;
    heard.1.notify_all();
}

/// Waits until such a message has come, or the other side has closed.
fn await_message(heard: &Heard, is_it: impl Fn(&Message) -> bool) {
    let waits = |heard: &mut (Vec<Message>, bool)| !heard.1 && !heard.0.iter().any(&is_it);
    drop(heard.1.wait_while(heard.0.lock().unwrap(), waits).unwrap());
}

/// Writes the script and closes this half of the connection. Returns the messages that came back until the other
/// side closed.
fn sender(mut socket: TcpStream, script: &[Step]) -> Vec<Message> {
    let heard = Heard::default();
    let reading = socket.try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| listen(reading, &heard));
        let mut bytes = wire::preface().to_vec();
        bytes.extend(frame(Frame::Open, EARLIER, b"put"));
        bytes.extend(frame(Frame::Open, STREAM, b"put"));
        for step in script {
            match step {
                Say(message) => bytes.extend(frame(Frame::Message, STREAM, &message.encode())),
                Data(data) => bytes.extend(frame(Frame::Data, STREAM, data)),
                Step::Frame(kind, stream, payload) => bytes.extend(frame(*kind, *stream, payload)),
                Step::AwaitReceipt => {
                    let _ = socket.write_all(&std::mem::take(&mut bytes));
                    await_message(&heard, |said| matches!(said, Message::Receipt(_)));
                }
            }
        }
        // A receiver that refuses closes before the end of the script, so that this fails.
        let _ = socket.write_all(&bytes);
        // A sender that has sent its Total waits for Done. One that leaves while the receiver runs a command or waits for its
        // disk has cut the session.
        if matches!(script.last(), Some(Say(Message::Total { .. }))) {
            await_message(&heard, |said| matches!(said, Message::Done { .. }));
        }
        let _ = socket.shutdown(Shutdown::Write);
    });
    let (said, _) = std::mem::take(&mut *heard.0.lock().unwrap());
    said
}

/// Runs a receiver on what the script sends.
fn receive(to: To<'_>, with: With, script: &[Step]) -> Received {
    receive_after(to, with, &|_| {}, script)
}

/// The same, with a receiver that is changed before it runs.
fn receive_after(to: To<'_>, with: With, prepare: &dyn Fn(&mut Receiver<'_>), script: &[Step]) -> Received {
    receive_watched(to, with, prepare, &|_, _| {}, script)
}

/// The same. `watch` sees all progress, and can cancel the session.
fn receive_watched(
    to: To<'_>,
    with: With,
    prepare: &dyn Fn(&mut Receiver<'_>),
    watch: &dyn Fn(&Progress, &Cancel),
    script: &[Step],
) -> Received {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (accepted, _) = listener.accept().unwrap();
    let plain = Box::new(Plain::new(accepted).unwrap());
    // Both ends are in this process: a silence means that one of them waits for something that cannot come.
    let deadlines =
        Deadlines { ping: Duration::from_secs(5), stall: Duration::from_secs(10), ..Deadlines::default() };
    let cancel = Cancel::new().unwrap();
    let mut session =
        Session::with(plain, Role::Responder, SessionLimits::default(), deadlines, cancel.clone());
    let script = script.to_vec();
    let sending = std::thread::spawn(move || sender(socket, &script));
    for expected in [EARLIER, STREAM] {
        assert!(
            matches!(session.receive().unwrap(), SessionEvent::Opened { stream, .. } if stream == expected)
        );
    }
    let (mut summary, mut seen) = (Summary::default(), Vec::new());
    let watched = cancel.clone();
    let claims = Arc::new(Claims::default());
    let claimant = Claimant { claims, session: 1, transfer: [0; 16], cancel, activity: Arc::default() };
    let (root, spool);
    let target = match to {
        To::Directory(path) => {
            root = Root::open(path).unwrap();
            Target::Tree { root: &root, base: RelPath::new(*b"top").unwrap() }
        }
        To::Below(path, name) => {
            root = Root::open(path).unwrap();
            Target::Tree { root: &root, base: RelPath::new(name.as_bytes()).unwrap() }
        }
        To::Sink(command) => {
            spool = sink(command);
            Target::Sink { spool: Box::new(spool), deliveries: Arc::default(), id: [1; 16], anew: false }
        }
        To::Remembered(command, deliveries) => {
            spool = sink(command);
            Target::Sink { spool: Box::new(spool), deliveries: deliveries.clone(), id: [1; 16], anew: false }
        }
        To::Stream(out, so_far) => Target::Stream { out, so_far },
    };
    let mut observe = |progress| {
        watch(&progress, &watched);
        seen.push(progress);
    };
    let mut receiver =
        Receiver::new(&mut session, STREAM, target, with.options, claimant, &mut summary, &mut observe);
    receiver.again = with.again;
    receiver.from_the_start = with.from_the_start;
    prepare(&mut receiver);
    let result = receiver.run();
    let _ = session.flush();
    session.close(&linger::Policy::default());
    Received { result, said: sending.join().unwrap(), summary, seen }
}

fn sink(command: &str) -> Spool {
    let config =
        StreamsConfig::parse(&format!("[sink.x]\nmax_bytes = 3000000\ncommand = {command}")).unwrap();
    Spool::new("x", &config.sink["x"], Displays::default(), &Launcher::default()).unwrap()
}

impl Received {
    /// Checks that the session succeeded. Returns the messages between the acceptance and the closing account.
    fn done(&self, confirmed: u64, failed: u64) -> &[Message] {
        assert!(self.result.is_ok(), "{self:?}");
        assert_eq!(
            (self.summary.confirmed, self.summary.failed, self.summary.unsent),
            (confirmed, failed, 0)
        );
        let [Message::Accept { .. }, said @ .., Message::Done { confirmed: c, failed: f, .. }] =
            &self.said[..]
        else {
            panic!("{self:?}")
        };
        assert_eq!((*c, *f), (confirmed, failed), "{self:?}");
        said
    }

    fn asks(&self) -> bool {
        matches!(self.said.first(), Some(Message::Accept { ask: true, .. }))
    }

    fn violation(&self) -> &Violation {
        match &self.result {
            Err(Error::Violation(violation)) => violation,
            _ => panic!("{self:?}"),
        }
    }

    fn is_corrupt(&self) -> bool {
        matches!(self.result, Err(Error::Refused(Refusal::Corrupt, _)))
    }

    fn receipts(&self) -> Vec<&Receipt> {
        let receipts = self.said.iter().filter_map(|message| match message {
            Message::Receipt(receipt) => Some(receipt),
            _ => None,
        });
        receipts.collect()
    }

    fn failures(&self) -> Vec<(u64, Refusal)> {
        let failures = self.said.iter().filter_map(|message| match message {
            Message::Failed { index, refusal, .. } => Some((*index, *refusal)),
            _ => None,
        });
        failures.collect()
    }

    fn moved(&self) -> u64 {
        let moved = self.seen.iter().map(|progress| match progress {
            Progress::Moved { bytes } => *bytes,
            _ => 0,
        });
        moved.sum()
    }
}

fn bytes(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

fn hash(content: &[u8]) -> Option<Hash> {
    Some(*blake3::hash(content).as_bytes())
}

fn entry(index: u64, kind: Kind, path: &str, size: Option<u64>) -> TreeEntry {
    TreeEntry {
        index,
        kind,
        path: RelPath::new(path.as_bytes()).unwrap(),
        mode: 0o640,
        mtime: Some(Time { seconds: 1_000_000_000, nanos: 7 }),
        size,
        token: [index as u8; 16],
        hash: None,
        sparse: false,
        by_blocks: false,
        target: Vec::new(),
    }
}

fn file(index: u64, path: &str, size: u64) -> Step {
    Say(Message::Entry(entry(index, Kind::File, path, Some(size))))
}

fn directory(index: u64, path: &str) -> Step {
    Say(Message::Entry(entry(index, Kind::Directory, path, None)))
}

fn leave(index: u64) -> Step {
    Say(Message::Leave { index, mode: 0o750, mtime: Time { seconds: 1_000_000_001, nanos: 0 } })
}

fn end(index: u64, content: &[u8]) -> Step {
    Say(Message::End { index, size: content.len() as u64, hash: hash(content) })
}

fn unverified_end(index: u64, content: &[u8]) -> Step {
    Say(Message::End { index, size: content.len() as u64, hash: None })
}

/// The end of an entry, with its hash only if the options have hashes.
fn agreed_end(index: u64, content: &[u8], options: Options) -> Step {
    if options.verify { end(index, content) } else { unverified_end(index, content) }
}

fn total(entries: u64) -> Step {
    Say(Message::Total { entries, failed_before: 0 })
}

fn sum(number: u64, block: &[u8]) -> Step {
    Say(Message::Sum { value: Sum::of(number, block).value })
}

/// The content of one file: each block, and the rest, in DATA frames of at most `portion` bytes.
fn content(content: &[u8], portion: usize, verify: bool) -> Vec<Step> {
    let mut steps = Vec::new();
    for (number, block) in content.chunks(BLOCK).enumerate() {
        steps.extend(block.chunks(portion).map(|part| Data(part.to_vec())));
        if verify && block.len() == BLOCK {
            steps.push(sum(number as u64, block));
        }
    }
    steps
}

/// One file called `top`, from its announcement to the total.
fn one_file(whole: &[u8], portion: usize, verify: bool) -> Vec<Step> {
    let mut script = vec![file(0, "", whole.len() as u64)];
    script.extend(content(whole, portion, verify));
    script.push(if verify { end(0, whole) } else { unverified_end(0, whole) });
    script.push(total(1));
    script
}

/// The names in the work directory.
fn kept(to: &TempDir) -> Vec<String> {
    let Ok(dir) = std::fs::read_dir(to.path().join(".linger")) else { return Vec::new() };
    let mut names: Vec<_> = dir.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn read(to: &TempDir, name: &str) -> Vec<u8> {
    std::fs::read(to.path().join(name)).unwrap()
}

/// Receives two blocks of a longer file. Then the connection is cut.
fn two_blocks_and_a_cut(to: &TempDir, whole: &[u8], options: Options) {
    let mut script = vec![file(0, "", whole.len() as u64)];
    script.extend(content(&whole[..2 * BLOCK], BLOCK, options.verify));
    let received = receive(To::Directory(to.path()), with(options), &script);
    assert!(matches!(received.result, Err(Error::Cut(_))), "{received:?}");
    assert_eq!((received.summary.unsent, received.summary.confirmed), (1, 0));
    assert_eq!(kept(to).len(), 2, "the part and its log");
}
