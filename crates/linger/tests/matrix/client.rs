//! The peers: what they send, when they read, how they leave.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::net::{Shutdown, shutdown, sockopt};
use rustls::ClientConnection;
use rustls::pki_types::ServerName;

use super::server::Connect;
use super::{Peer, Server};
use crate::support::connect_small;

/// What a peer announces as its upload.
const UPLOAD: usize = 200_000;

/// How long a peer that stalls reads nothing. This and the next pause are the peer's own: a client does not know
/// the server's policy.
const STALL: Duration = Duration::from_millis(200);

/// How often a peer that drips sends a byte.
const DRIP: Duration = Duration::from_millis(100);

/// The result of a connection, as its client experiences it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Felt {
    /// The bytes of the answer, if it came to a clean end.
    pub(crate) got: Option<usize>,
    /// Bytes of the answer, whatever came after them.
    pub(crate) bytes: usize,
    /// Reading the answer has failed, or ended too early.
    pub(crate) read_failed: bool,
    /// The upload that was announced could not be written.
    pub(crate) write_failed: bool,
}

impl Felt {
    /// Whether another client's result is better, in any of the three.
    pub(crate) fn is_worse_than(&self, other: &Self) -> bool {
        self.bytes < other.bytes
            || self.read_failed && !other.read_failed
            || self.write_failed && !other.write_failed
    }
}

/// Plays a peer. Returns its result.
///
/// A peer that never leaves does so when `ended` says that the server has.
pub(crate) fn run(connect: Connect, server: Server, peer: Peer, size: usize, ended: &Receiver<()>) -> Felt {
    let (socket, tls) = match connect {
        Connect::Unix(stream) => (File::from(OwnedFd::from(stream)), None),
        Connect::Tcp(address, tls) => {
            let stream = File::from(OwnedFd::from(connect_small(address)));
            let name = ServerName::try_from("localhost").unwrap();
            let tls = tls.map(|config| ClientConnection::new(config, name).unwrap());
            (stream, tls)
        }
    };
    let mut line = Line {
        socket: Arc::new(socket),
        tls: tls.map(|tls| Arc::new(Mutex::new(tls))),
        writing: Arc::default(),
    };
    line.handshake();
    let complete = matches!(peer, Peer::HalfCloses | Peer::SaysGoodbye | Peer::NeverCloses | Peer::Drips);
    let head = head(server, if complete { 8 } else { UPLOAD });
    if line.send(&head).is_err() {
        return Felt { write_failed: true, ..Felt::default() };
    }
    let upload = Upload { server, sent: 0 };
    match peer {
        Peer::Resets => {
            sockopt::set_socket_linger(&*line.socket, Some(Duration::ZERO)).unwrap();
            return Felt::default();
        }
        Peer::Closes => return Felt::default(),
        Peer::NeverReads => {
            let _ = ended.recv();
            return Felt::default();
        }
        // TLS is half-closed without close_notify. If the bare server has reset the connection already, this
        // fails.
        Peer::HalfCloses => _ = shutdown(&*line.socket, Shutdown::Write),
        Peer::SaysGoodbye => line.say_goodbye(),
        Peer::ReadsAfterTheClose => _ = ended.recv(),
        _ => {}
    }
    let sending = {
        let mut line = line.clone();
        thread::spawn(move || upload.send(&mut line, peer))
    };
    if peer == Peer::Stalls {
        // The stall itself.
        thread::sleep(STALL);
    }
    let mut answer = Vec::new();
    let is_clean = line.receive(server, &mut answer).is_some();
    let bytes = payload(server, &answer).unwrap_or_default();
    let got = (is_clean && (server.is_axum() || answer == vec![b'r'; size])).then_some(bytes);
    if peer == Peer::NeverCloses {
        let _ = ended.recv();
    }
    let write_failed = sending.join().unwrap();
    let _ = shutdown(&*line.socket, Shutdown::Write);
    Felt { got, bytes, read_failed: !is_clean, write_failed }
}

fn head(server: Server, length: usize) -> Vec<u8> {
    match server {
        Server::AxumHttp2 => {
            let mut all = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
            // SETTINGS_INITIAL_WINDOW_SIZE, then the connection's window: the whole answer may come at once.
            all.extend(frame(4, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]));
            all.extend(frame(8, 0, 0, &[0x7f, 0xff, 0, 0]));
            // :method POST, :path /, :scheme http, :authority test; END_HEADERS.
            all.extend(frame(1, 4, 1, &[0x83, 0x84, 0x86, 0x01, 4, b't', b'e', b's', b't']));
            all
        }
        _ => {
            let head = format!(
                "POST / HTTP/1.1\r\nhost: t\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
            );
            let mut all = head.into_bytes();
            all.extend([b'u'; 8]);
            all
        }
    }
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, stream];
    frame.extend(payload);
    frame
}

struct Upload {
    server: Server,
    sent: usize,
}

impl Upload {
    /// Returns whether the upload could not be written. A peer that sends for ever stops when it cannot write.
    fn send(mut self, line: &mut Line, peer: Peer) -> bool {
        match peer {
            Peer::FinishesUpload | Peer::Stalls => {
                while self.sent < UPLOAD - 8 {
                    if self.chunk(line, 4_000).is_err() {
                        return true;
                    }
                }
            }
            Peer::EndlessUpload => {
                // Some MB a second: the other cells need the processor, too.
                while self.chunk(line, 16_000).is_ok() {
                    thread::sleep(Duration::from_millis(2));
                }
            }
            Peer::Drips => {
                while self.chunk(line, 1).is_ok() {
                    // The drip itself.
                    thread::sleep(DRIP);
                }
            }
            _ => {}
        }
        false
    }

    /// Sends more of the upload. Over HTTP/2, where a window bounds it, it goes on in frames of a kind that
    /// nobody knows, and everybody must ignore (RFC 9113 section 4.1).
    fn chunk(&mut self, line: &mut Line, most: usize) -> std::io::Result<()> {
        let bytes = most.min(if self.sent < UPLOAD - 8 { UPLOAD - 8 - self.sent } else { most });
        self.sent += bytes;
        match self.server {
            Server::AxumHttp2 if self.sent <= 60_000 => line.send(&frame(0, 0, 1, &vec![b'u'; bytes])),
            Server::AxumHttp2 => line.send(&frame(0xee, 0, 0, &vec![b'u'; bytes])),
            _ => line.send(&vec![b'u'; bytes]),
        }
    }
}

/// A connection, with or without TLS, that one thread may write while another reads.
#[derive(Clone)]
struct Line {
    socket: Arc<File>,
    tls: Option<Arc<Mutex<ClientConnection>>>,
    /// Held from sealing to sending, so that records and frames stay whole and in order.
    writing: Arc<Mutex<()>>,
}

impl Line {
    fn handshake(&mut self) {
        if let Some(tls) = &self.tls {
            let mut tls = tls.lock().unwrap();
            while tls.is_handshaking() {
                tls.complete_io(&mut &*self.socket).unwrap();
            }
        }
    }

    fn say_goodbye(&mut self) {
        if let Some(tls) = &self.tls {
            tls.lock().unwrap().send_close_notify();
        }
        // If the bare server has reset the connection already, this fails.
        let _ = self.send(&[]);
    }

    fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let _alone = self.writing.lock().unwrap();
        let Some(tls) = &self.tls else { return (&*self.socket).write_all(bytes) };
        let mut sealed = Vec::new();
        let mut tls = tls.lock().unwrap();
        tls.writer().write_all(bytes)?;
        while tls.wants_write() {
            tls.write_tls(&mut sealed)?;
        }
        drop(tls);
        (&*self.socket).write_all(&sealed)
    }

    /// Reads the answer to its end; `None` if the end is not clean.
    fn receive(&mut self, server: Server, answer: &mut Vec<u8>) -> Option<()> {
        let mut answered = 0;
        let mut buffer = vec![0; 16 << 10];
        loop {
            let read = match (&*self.socket).read(&mut buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return None,
                Ok(read) => read,
            };
            match &self.tls {
                None if read == 0 => break,
                None => answer.extend_from_slice(&buffer[..read]),
                Some(tls) => {
                    let mut tls = tls.lock().unwrap();
                    // An end without close_notify is a truncation.
                    if read == 0 {
                        if tls.process_new_packets().ok()?.peer_has_closed() {
                            break;
                        }
                        return None;
                    }
                    let mut sealed = &buffer[..read];
                    while !sealed.is_empty() {
                        tls.read_tls(&mut sealed).ok()?;
                        let state = tls.process_new_packets().ok()?;
                        let at = answer.len();
                        answer.resize(at + state.plaintext_bytes_to_read(), 0);
                        tls.reader().read_exact(&mut answer[at..]).ok()?;
                    }
                }
            }
            if server == Server::AxumHttp2 {
                self.pong(answer, &mut answered);
            }
        }
        Some(())
    }

    /// Answers the PINGs after `answered` bytes: the server's graceful shutdown waits for that.
    fn pong(&mut self, answer: &[u8], answered: &mut usize) {
        let mut at = 0;
        let mut pings = Vec::new();
        for (kind, flags, payload) in frames(answer) {
            at += 9 + payload.len();
            if at > *answered && kind == 6 && flags == 0 {
                pings.push(payload.to_vec());
            }
        }
        *answered = (*answered).max(at);
        for ping in pings {
            let _ = self.send(&frame(6, 1, 0, &ping));
        }
    }
}

/// The complete frames at the beginning of what came: kind, flags, payload.
fn frames(mut bytes: &[u8]) -> impl Iterator<Item = (u8, u8, &[u8])> {
    std::iter::from_fn(move || {
        let [a, b, c, kind, flags, _, _, _, _, rest @ ..] = bytes else { return None };
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let payload = rest.get(..length)?;
        bytes = &rest[length..];
        Some((*kind, *flags, payload))
    })
}

/// The bytes of the answer, without the protocol's framing.
fn payload(server: Server, answer: &[u8]) -> Option<usize> {
    match server {
        Server::AxumHttp1 => {
            let head = answer.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
            Some(answer.len() - head)
        }
        Server::AxumHttp2 => {
            let data = frames(answer).filter(|(kind, ..)| *kind == 0).map(|(_, _, payload)| payload.len());
            Some(data.sum())
        }
        _ => Some(answer.len()),
    }
}
