//! An attacker that knows the token of the program's processes; and a server that it attacks.
#![allow(dead_code)] // Each test binary uses a part.

use std::fs;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use linger_preload::protocol::Message;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType,
};

use super::{PORT, Server, late_reader, program, script};

/// Answers each request, of which it reads 64 bytes, and closes.
pub(crate) const ANSWERS: &str = r"
import socket
l = socket.create_server(('127.0.0.1', 8000), backlog=512)
while True:
    c, _ = l.accept()
    c.recv(64)
    c.sendall(b'HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello')
    c.close()
";

/// Its answer.
pub(crate) const ANSWER: &[u8] = b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello";

/// That server, supervised.
pub(crate) fn server(settings: &str) -> Option<Server> {
    let python = program("python3", "python3")?;
    let directory = tempfile::tempdir().unwrap();
    let file = script(directory.path(), "server.py", ANSWERS);
    Some(Server::start_listening(Some(settings), &[&python, &file], PORT))
}

/// Asks with a body that the server does not read. A plain close resets the connection, though the small answer may have
/// arrived before.
pub(crate) fn is_cured() -> bool {
    let got = late_reader(PORT, 20_000, false);
    got.is_whole() && got.error.is_none()
}

/// An attacker that knows the address and the token of the program's processes.
pub(crate) struct Hostile {
    name: String,
    token: [u8; 16],
}

impl Hostile {
    pub(crate) fn new(server: &Server) -> Self {
        let environment = fs::read(format!("/proc/{}/environ", server.pid().as_raw_nonzero())).unwrap();
        let text = String::from_utf8_lossy(&environment).into_owned();
        let settings = text.split('\0').find_map(|one| one.strip_prefix("LINGER_RUN=")).unwrap();
        let value = |key| settings.split(';').find_map(|one| one.strip_prefix(key)).unwrap();
        let digits = value("token=").as_bytes().chunks(2);
        let bytes = digits.map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap());
        Self { name: value("name=").to_owned(), token: bytes.collect::<Vec<_>>().try_into().unwrap() }
    }

    /// Connects, and says nothing.
    pub(crate) fn stranger(&self) -> OwnedFd {
        let kind = SocketType::SEQPACKET;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
        rustix::net::connect(&socket, &SocketAddrUnix::new_abstract_name(self.name.as_bytes()).unwrap())
            .unwrap();
        socket
    }

    /// Connects, and says the token.
    pub(crate) fn worker(&self) -> OwnedFd {
        let socket = self.stranger();
        say(&socket, Message::hello(self.token), None);
        socket
    }
}

/// Whether the message was taken.
pub(crate) fn say(socket: &OwnedFd, message: Message, fd: Option<BorrowedFd<'_>>) -> bool {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&fds));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(&message.to_bytes())], &mut control, SendFlags::NOSIGNAL)
        .is_ok()
}

/// Waits until the other end has hung up.
pub(crate) fn await_hang_up(socket: &OwnedFd) {
    let patience = Timespec { tv_sec: 30, tv_nsec: 0 };
    assert_ne!(poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&patience)).unwrap(), 0, "it may stay");
}
