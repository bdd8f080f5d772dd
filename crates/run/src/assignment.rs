//! The assignment: the one message, of fds and settings, by which `linger run` gives a program to a supervisor that the
//! service manager has started.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use linger::{Budget, Policy};
use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use rustix::process::{Resource, getrlimit};

use crate::Options;
use crate::intake::Address;
use crate::job::{Parts, Way};
use crate::preload::Preload;
use crate::seccomp::Watch;
use crate::survey::Means;

#[cfg(test)]
mod tests;

/// Bytes of the longest message.
const LONGEST: usize = 4_096;

/// Most fds of a message. In this order: the program's pidfd, the listener for its processes, stderr, the library's two
/// directories or the socket of the seccomp handshake, and the listener for scrapers.
const MOST: usize = 8;

/// Everything of a message but its fds.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Words {
    /// Both sides must be of one version: the preloaded library comes from the sender, and speaks with the receiver.
    version: String,
    policy: Policy,
    budget: Budget,
    linger_at_exit: Duration,
    manner: String,
    name: String,
    token: [u8; 16],
    /// The path of the library, if one is preloaded.
    library: Option<String>,
    /// What the supervisor needs to know of the seccomp filter, if there is one instead.
    watch: Option<serde_json::Value>,
    scraped: bool,
    filters: u32,
    ports: Vec<u16>,
    exclude_ports: Vec<u16>,
}

/// An assignment that was received.
pub(crate) struct Assignment {
    /// A pidfd of the process that becomes the program.
    pub(crate) program: OwnedFd,
    /// Where reports go.
    pub(crate) stderr: OwnedFd,
    pub(crate) parts: Parts,
    pub(crate) options: Options,
}

/// Sends an assignment over a `SOCK_SEQPACKET` connection.
///
/// # Errors
/// The other side is gone, the program has neither a library nor a filter, or the settings are too long for one
/// message.
pub(crate) fn send(
    connection: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    parts: &Parts,
    options: &Options,
) -> io::Result<()> {
    let (library, watch) = (parts.way.preload(), parts.watch.as_ref().map(Watch::lend).transpose()?);
    if library.is_none() && watch.is_none() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let (handshake, watch) = watch.unzip();
    let words = Words {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        policy: options.policy,
        budget: options.budget,
        linger_at_exit: options.linger_at_exit,
        manner: options.manner.clone(),
        name: parts.address.name.clone(),
        token: parts.address.token,
        library: library.map(|library| library.name().to_owned()),
        watch,
        scraped: parts.metrics.is_some(),
        filters: parts.means.filters,
        ports: options.ports.clone(),
        exclude_ports: options.exclude_ports.clone(),
    };
    let text = serde_json::to_vec(&words)?;
    if text.len() > LONGEST {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let stderr = io::stderr();
    let files = library.map(Preload::lend).transpose()?;
    let mut fds = vec![program, parts.address.listener(), stderr.as_fd()];
    fds.extend(files.iter().flatten().map(AsFd::as_fd));
    fds.extend(handshake);
    fds.extend(parts.metrics.as_ref().map(AsFd::as_fd));
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    rustix::net::sendmsg(connection, &[IoSlice::new(&text)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives an assignment. The sender may be anybody.
///
/// # Errors
/// `InvalidData` for anything but an assignment by the same version.
pub(crate) fn receive(connection: BorrowedFd<'_>) -> io::Result<Assignment> {
    let mut text = [0; LONGEST];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = rustix::net::recvmsg(
        connection,
        &mut [IoSliceMut::new(&mut text)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let words: Words = serde_json::from_slice(text.get(..got.bytes).unwrap_or_default())?;
    if words.version != env!("CARGO_PKG_VERSION") {
        return Err(invalid("the program's starter is of another version"));
    }
    words.policy.validate().map_err(|error| invalid(&error.to_string()))?;
    words.budget.validate().map_err(|error| invalid(&error.to_string()))?;
    let mut fds = fds.into_iter();
    let mut next = || fds.next().ok_or_else(|| invalid("an fd is missing"));
    let (program, listener, stderr) = (next()?, next()?, next()?);
    // As seen from here: the sender may live in another pid namespace.
    let sender = socket_peercred(connection)?.pid.as_raw_nonzero().get().unsigned_abs();
    let (way, watch) = match (words.library, words.watch) {
        (Some(library), None) => (Way::Preload(Preload::borrowed(library, &words.name, &mut next)?), None),
        (None, Some(watch)) => {
            let watch = Watch::borrowed(next()?, serde_json::from_value(watch)?, sender, words.filters)?;
            (Way::Seccomp(Arc::default()), Some(watch))
        }
        _ => return Err(invalid("either a library or a filter is wanted")),
    };
    let metrics = if words.scraped { Some(TcpListener::from(next()?)) } else { None };
    let options = Options {
        policy: words.policy,
        budget: words.budget,
        linger_at_exit: words.linger_at_exit,
        manner: words.manner,
        ports: words.ports,
        exclude_ports: words.exclude_ports,
        ..Options::default()
    };
    let address = Address::received(words.name, words.token, listener, sender);
    let means = Means::new(sender, words.filters, way.mark(), &options);
    let parts =
        Parts { limit: getrlimit(Resource::Nofile), address, metrics, way: Arc::new(way), means, watch };
    Ok(Assignment { program, stderr, parts, options })
}
