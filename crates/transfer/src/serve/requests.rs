//! Handles the requests of clients.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use linger_untrusted::Untrusted;
use rustix::fs::{Dir, FileType};

use super::{Served, Server, Serving, ShareEnding, Visitor, caller as callers};
use crate::claim::Claimant;
use crate::delivery::{AskedDelivery, Attendance};
use crate::driver::{Session, SessionEvent};
use crate::error::Error;
use crate::fault::Fault;
use crate::limit::Limiter;
use crate::message::{Get, Item, Kind, Message, Operation, Options, Put, Refusal, TransferId};
use crate::outgoing::{Outgoing, Pipe, Producer, Source};
use crate::path::{RelPath, WORK};
use crate::progress::{Progress, Summary};
use crate::reason::{Reason, Remedy};
use crate::receive::{Receiver, Target};
use crate::rights::Rights;
use crate::root::{Links, Root, mtime};
use crate::send::Sender;
use crate::sink::{Spool, start_source};
use crate::store::Modes;
use crate::walk::{Patterns, Walk};
use crate::wire::Violation;

/// What a client can reach.
struct World<'a> {
    root: &'a Root,
    /// The bytes that the client may still put.
    quota: Option<u64>,
    claimant: &'a Claimant,
}

impl Server {
    /// Answers requests until the peer says goodbye, or until a get is answered.
    pub(super) fn requests(
        &self,
        session: &mut Session,
        caller: &Visitor,
        claimant: &Claimant,
        served: &mut Served,
        observe: &(dyn Fn(Serving<'_>) + Sync),
    ) -> Result<(), Error> {
        let peer = served.peer;
        let mut rights = Rights::default();
        // The transfers to sinks whose outcome this session has told: the client's goodbye confirms that it knows.
        let mut attends = Vec::new();
        loop {
            match session.receive()? {
                SessionEvent::Opened { stream, request } => {
                    attends.iter_mut().for_each(Attendance::let_others_go_on);
                    let mut tell = |progress: Progress| observe(Serving::Progress(peer, &progress));
                    let operation = Operation::decode(&request)?;
                    if !served.has_asked() {
                        rights = self.authenticate(session, stream, caller)?;
                        self.admit(session, claimant, peer.group())?;
                    }
                    if let Err(fault) = callers::check(&operation, &rights) {
                        served.request = "what its key may not do".into();
                        return self.refuse(session, stream, fault);
                    }
                    let (root, quota) = match self.world(&rights) {
                        Ok(world) => world,
                        Err(fault) => return self.refuse(session, stream, fault),
                    };
                    let world = World { root: &root, quota, claimant };
                    match operation {
                        Operation::Put(put) => {
                            served.request = told(&put);
                            served.came_back = put.again;
                            if put.sink.is_some() && !put.options.dry_run {
                                attends.push(Attendance::new(&self.deliveries, put.id));
                            }
                            self.put(session, stream, put, &world, &mut served.summary, &mut tell)?;
                        }
                        Operation::Get(get) => {
                            served.request = format!("get {}", wanted(get.source.as_deref(), &get.path));
                            self.get(session, stream, get, &root, &mut served.summary, &mut tell)?;
                            // The side that received last says goodbye: it has the last receipts.
                            session.goodbye(0, "all receipts are here")?;
                            served.summary.peer_knows = true;
                            return Ok(());
                        }
                        Operation::List { path } => {
                            served.request = format!("ls {path}");
                            self.list(session, stream, &root, &path)?;
                        }
                        Operation::Ask { id } => {
                            served.request = "ask for a receipt".into();
                            self.answer(session, stream, id)?;
                            attends.push(Attendance::new(&self.deliveries, id));
                        }
                    }
                    if self.options.ending == ShareEnding::Close {
                        return Ok(());
                    }
                }
                SessionEvent::Bye { code, reason } => {
                    served.summary.peer_knows = code == 0;
                    if code != 0 {
                        return Err(Error::goodbye(code, reason));
                    }
                    attends.iter().for_each(Attendance::heard);
                    if session.answers_goodbyes() {
                        // A client that is gone by now reconnects to say goodbye again, and gets the answer then.
                        let _ = session.goodbye(0, "");
                    }
                    return Ok(());
                }
                SessionEvent::Finished { .. } | SessionEvent::Works(_) => {}
                _ => return Err(Violation::Unexpected("a frame outside of any request").into()),
            }
        }
    }

    /// Answers how a transfer to a sink ended, with its receipt or an error. Only the client that made the transfer knows its
    /// id.
    fn answer(&self, session: &mut Session, stream: u16, id: TransferId) -> Result<(), Error> {
        let fault = match self.deliveries.ask(id) {
            AskedDelivery::Delivered(receipt) => {
                session.message(stream, &Message::Receipt(receipt).encode())?;
                return session.finish(stream);
            }
            AskedDelivery::Failed(fault) => fault,
            AskedDelivery::Runs => Fault(Refusal::Busy, "its command is running".into()),
            AskedDelivery::Unknown => {
                let told = "it may have been done: the server ended before it could note what its command had come to";
                Fault(Refusal::Command, Reason::from(told).with(Remedy::LookBeforeSending))
            }
            AskedDelivery::Nothing => {
                Fault(Refusal::NotFound, "no command was started for it, as far as is remembered here".into())
            }
        };
        self.refuse(session, stream, fault)
    }

    /// Refuses the whole request, and returns the refusal as an error. The peer gets the reason before the end of the stream.
    pub(super) fn refuse(
        &self,
        session: &mut Session,
        stream: u16,
        Fault(refusal, text): Fault,
    ) -> Result<(), Error> {
        let message = Message::Error { refusal, text: text.clone() };
        session.message(stream, &message.encode())?;
        session.finish(stream)?;
        session.flush()?;
        Err(Error::Refused(refusal, text))
    }

    fn put(
        &self,
        session: &mut Session,
        stream: u16,
        put: Put,
        world: &World<'_>,
        summary: &mut Summary,
        tell: &mut dyn FnMut(Progress),
    ) -> Result<(), Error> {
        let durability = put.options.durability.max(self.options.durability);
        let options = Options { durability, ..put.options };
        let target = match &put.sink {
            Some(name) => {
                let found = self.options.config.sink.get(name).ok_or_else(|| no_port("sink", name));
                let spool = match found
                    .and_then(|port| Spool::new(name, port, self.options.displays, &self.launcher))
                {
                    Ok(made) => Box::new(made),
                    Err(fault) => return self.refuse(session, stream, fault),
                };
                if !put.options.dry_run
                    && let Err(fault) = self.deliveries.begin(put.id, put.sent)
                {
                    return self.refuse(session, stream, fault);
                }
                Target::Sink { spool, deliveries: self.deliveries.clone(), id: put.id, anew: put.anew }
            }
            None if !self.options.writable => {
                let told = Reason::from("this directory is shared for reading only");
                let fault = Fault(Refusal::ReadOnly, told.with(Remedy::ShareWritable));
                return self.refuse(session, stream, fault);
            }
            None => match base(&put.path, put.into, &put.name) {
                Ok(base) => Target::Tree { root: world.root, base },
                Err(fault) => return self.refuse(session, stream, fault),
            },
        };
        let before = session.received();
        let claimant = Claimant { transfer: put.id, ..world.claimant.clone() };
        let mut receiver = Receiver::new(session, stream, target, options, claimant, summary, tell);
        receiver.again = put.again;
        if let Some(left) = world.quota {
            receiver.take_at_most(left);
        }
        if !put.into {
            receiver.own_name = put.name;
        }
        if put.exact_modes {
            receiver.change_modes(Modes::Exact);
        }
        receiver.memory = self.deliveries.memory();
        receiver.signs = self.options.keys.as_ref().map(|keys| (&*keys.identity, put.id));
        let received = receiver.run();
        summary.wire += session.received() - before;
        received
    }

    fn get(
        &self,
        session: &mut Session,
        stream: u16,
        get: Get,
        root: &Root,
        summary: &mut Summary,
        tell: &mut dyn FnMut(Progress),
    ) -> Result<(), Error> {
        let source = match &get.source {
            Some(name) => {
                self.source(name).map(|pipe| (Source::Pipe(Box::new(pipe)), name.clone().into_bytes(), false))
            }
            None => tree(root, &get),
        };
        let (source, name, directory) = match source {
            Ok(source) => source,
            Err(fault) => return self.refuse(session, stream, fault),
        };
        session.message(stream, &Message::Offer { name, directory }.encode())?;
        let mut outgoing = Outgoing::new(source);
        let mut limiter = Limiter::new(get.limit);
        let sent = Sender::new(session, stream, get.options, &mut limiter, &mut outgoing, tell).run();
        outgoing.settle(false);
        *summary = outgoing.summary;
        sent
    }

    fn source(&self, name: &str) -> Result<Pipe, Fault> {
        let port = self.options.config.source.get(name).ok_or_else(|| no_port("source", name))?;
        let (mut launched, program) = start_source(port, self.options.displays, &self.launcher)?;
        let output =
            launched.child.stdout.take().ok_or_else(|| Fault(Refusal::Command, "no output".into()))?;
        let end = Instant::now() + Duration::from_secs(port.max_seconds);
        let producer = Producer { launched, program, end };
        Ok(Pipe::of_command(producer, OwnedFd::from(output), port.max_bytes))
    }

    fn list(&self, session: &mut Session, stream: u16, root: &Root, path: &RelPath) -> Result<(), Error> {
        let fault = |error| Fault::new("list", path, error);
        let stat = match root.stat(path, Links::Follow) {
            Ok(stat) => stat,
            Err(error) => return self.refuse(session, stream, fault(error)),
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            let name = path.split().map_or_else(Vec::new, |(_, name)| name.to_vec());
            let item = item(&name, &stat);
            session.message(stream, &Message::Item(item).encode())?;
            return session.finish(stream);
        }
        let dir = root.directory(path, Links::Follow).and_then(|fd| Dir::read_from(&fd));
        let dir = match dir {
            Ok(dir) => dir,
            Err(error) => return self.refuse(session, stream, fault(error)),
        };
        for entry in dir {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => return self.refuse(session, stream, fault(error)),
            };
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") || name == WORK.as_bytes() {
                continue;
            }
            // Skip an entry that was removed after the directory was read.
            let Some(stat) = path.child(name).ok().and_then(|path| root.stat(&path, Links::Refuse).ok())
            else {
                continue;
            };
            session.message(stream, &Message::Item(item(name, &stat)).encode())?;
        }
        session.finish(stream)
    }
}

/// What a `get` of a path sends: the walk, the name, and whether it is a directory.
fn tree<'a>(root: &'a Root, get: &Get) -> Result<(Source<'a>, Vec<u8>, bool), Fault> {
    let lines: Vec<_> = get.patterns.iter().map(|line| String::from_utf8_lossy(line)).collect();
    let patterns = Patterns::new(&lines).map_err(|error| Fault(Refusal::Other, error.to_string().into()))?;
    let stat = root.stat(&get.path, Links::Follow).map_err(|error| Fault::new("find", &get.path, error))?;
    let directory = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => true,
        FileType::RegularFile => false,
        _ => {
            return Err(Fault(
                Refusal::Forbidden,
                format!("{} is neither file nor directory", get.path).into(),
            ));
        }
    };
    let name = get.path.split().map_or_else(Vec::new, |(_, name)| name.to_vec());
    Ok((Source::Tree(Walk::new(root, get.path.clone(), patterns, get.selection)), name, directory))
}

fn item(name: &[u8], stat: &rustix::fs::Stat) -> Item {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Link,
        FileType::RegularFile => Kind::File,
        _ => Kind::Pipe,
    };
    let size = if kind == Kind::File { stat.st_size as u64 } else { 0 };
    Item { name: name.into(), kind, size, mode: stat.st_mode & 0o7777, mtime: mtime(stat) }
}

/// A put in words. A put into the shared directory itself is shown with the name that the content gets there, not as `.`.
fn told(put: &Put) -> String {
    let path = base(&put.path, put.into, &put.name).unwrap_or(put.path.clone());
    format!("put {}", wanted(put.sink.as_deref(), &path))
}

fn wanted(port: Option<&str>, path: &RelPath) -> String {
    port.map_or_else(|| path.to_string(), |name| format!("@{}", Untrusted::from(name).terminal()))
}

fn no_port(kind: &str, name: &str) -> Fault {
    let name = Untrusted::from(name);
    let told = Reason::from(format!("there is no {kind} `@{}` here", name.terminal()));
    Fault(Refusal::NotFound, told.with(Remedy::ConfigureName))
}

/// The path under which the top entry of a `put` is stored.
fn base(path: &RelPath, into: bool, name: &[u8]) -> Result<RelPath, Fault> {
    if !into && !path.is_root() {
        return Ok(path.clone());
    }
    if name.is_empty() {
        let told = Reason::from("what is sent has no name of its own: it is a pipe, or `/`");
        return Err(Fault(Refusal::Forbidden, told.with(Remedy::GiveName)));
    }
    path.child(name).map_err(|why| {
        let told = format!("the name {} {why}", Untrusted::from(name).terminal());
        Fault(Refusal::Forbidden, told.into())
    })
}
