//! What is asked of the opener and what it answers: JSON behind its length, with descriptors.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::kernel::ring::Subscription;
use crate::privileged::FoundNamespaces;

/// Longest message in bytes.
const LONGEST: u32 = 4 << 20;
/// Most descriptors of one message.
pub(super) const MOST_DESCRIPTORS: usize = 16;
/// Most inodes whose holders are sought at a time.
pub(super) const MOST_INODES: usize = 65_536;

/// What is asked of the opener.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum OpenerRequest {
    /// What is opened on each processor. It is said once, and no later request changes it.
    Begin(Vec<Subscription>),
    /// The events of a processor, with a ring of so many bytes.
    Processor { cpu: i32, size: usize },
    /// The network namespaces of this host.
    Namespaces,
    /// A source of destroyed sockets in a namespace.
    Leftovers(u64),
    /// What a look into a namespace needs.
    Survey(u64),
    /// The processes that hold the sockets with these inodes.
    Owners(Vec<u32>),
}

/// What the opener answers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum OpenerAnswer {
    /// It is done, and the descriptors are with this message.
    Done,
    /// The descriptors of a survey that could be opened, of all that there are.
    Some(Vec<bool>),
    /// The ring may not be locked in memory.
    Locked,
    Namespaces(FoundNamespaces),
    /// Inodes and pids.
    Owners(Vec<(u32, u32)>),
    /// The error's number.
    Failed(i32),
}

/// Sends a message with descriptors.
pub(super) fn send(
    mut socket: &UnixStream,
    message: &impl Serialize,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let body = serde_json::to_vec(message).map_err(io::Error::other)?;
    let length = u32::try_from(body.len()).ok().filter(|length| *length <= LONGEST);
    let length = length.ok_or(io::ErrorKind::InvalidInput)?.to_ne_bytes();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // The descriptors go with the first of these bytes.
    let sent = sendmsg(socket, &[IoSlice::new(&length)], &mut control, SendFlags::NOSIGNAL)?;
    socket.write_all(&length[sent..])?;
    socket.write_all(&body)
}

/// Waits for a message.
pub(super) fn receive<T: DeserializeOwned>(mut socket: &UnixStream) -> io::Result<(T, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut length = [0; 4];
    let received = loop {
        let mut into = [IoSliceMut::new(&mut length)];
        match recvmsg(socket, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(received) => break received.bytes,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    };
    if received == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    socket.read_exact(&mut length[received..])?;
    let length = u32::from_ne_bytes(length);
    if length > LONGEST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut body = vec![0; length as usize];
    socket.read_exact(&mut body)?;
    Ok((serde_json::from_slice(&body)?, descriptors))
}
