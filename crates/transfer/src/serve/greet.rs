//! What a server makes of a connection before its first request: encrypted or not, whose it is, or turned away.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::PollFlags;

use super::{Server, Serving, Visitor, is_local};
use crate::cancel::Cancel;
use crate::driver::Session;
use crate::error::Error;
use crate::machine::{Role, SessionLimits};
use crate::reason::{Reason, Remedy};
use crate::rights::Rights;
use crate::tls;
use crate::transport::{Plain, Transport};
use crate::unix;
use crate::wire::MAX_REASON;

impl Server {
    pub(super) fn transport(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        (number, cancel): (u64, &Cancel),
        observe: &(dyn Fn(Serving<'_>) + Sync),
    ) -> Result<(Box<dyn Transport>, Visitor), Error> {
        // The TLS handshake blocks. Linux does not inherit O_NONBLOCK over accept(2), other systems do.
        let set_up = |error| Error::io("set up", peer.to_string(), error);
        stream.set_nonblocking(false).map_err(set_up)?;
        let wants_tls = first_byte(&stream, cancel).map_err(tls::cut)? == TLS_HANDSHAKE;
        match &self.options.keys {
            Some(keys) if wants_tls => {
                let new_code = || {
                    let own = self.codes.of(peer.ip());
                    match self.codes.current() {
                        all if all == own => observe(Serving::Code(all)),
                        _ => observe(Serving::CodeFor(peer.ip(), own)),
                    }
                };
                let begun = || self.lobby.has_begun(number);
                let kept = stream.try_clone().map_err(set_up)?;
                match tls::accept(stream, peer.ip(), keys, &self.codes, &new_code, &begun, cancel) {
                    Ok((tls, rights)) => Ok((Box::new(tls), Visitor::Accepted(rights))),
                    Err(error) => {
                        // Linger: the peer may have sent more than was read, and a reset would destroy the reason.
                        linger::close(OwnedFd::from(kept), &self.options.policy);
                        Err(error)
                    }
                }
            }
            _ if wants_tls => {
                Err(Error::Identity(format!("{peer} wanted to encrypt, and this server has no key").into()))
            }
            _ if !self.options.insecure && !is_local(peer.ip()) => {
                let told = Reason::from("it accepts encrypted connections alone").with(Remedy::Encrypt);
                self.turn_away(Plain::new(stream).map_err(set_up)?, &told);
                Err(Error::Identity(format!("{peer} wanted to talk without encryption").into()))
            }
            _ => {
                let ours = stream.local_addr().map_err(set_up)?;
                let accepted =
                    self.options.insecure || (self.options.insecure_loopback && is_local(peer.ip()));
                let caller = if accepted {
                    Visitor::Accepted(Rights::default())
                } else {
                    Visitor::Unproven { ours, theirs: peer }
                };
                Ok((Box::new(Plain::new(stream).map_err(set_up)?), caller))
            }
        }
    }

    /// Over a unix socket, the kernel has said which user connects.
    pub(super) fn unix_transport(
        &self,
        stream: UnixStream,
        uid: u32,
    ) -> Result<(Box<dyn Transport>, Visitor), Error> {
        let plain = Plain::unix(stream).map_err(|error| Error::io("set up", "a unix socket", error))?;
        let everybody = self.options.insecure || self.options.insecure_loopback;
        if !everybody && !unix::is_own_user(uid) {
            self.turn_away(plain, &"it serves its own user and root alone on this socket".into());
            return Err(Error::Identity(format!("uid {uid} is another user").into()));
        }
        Ok((Box::new(plain), Visitor::Accepted(Rights::default())))
    }

    /// Tells a client why it is not served.
    fn turn_away(&self, plain: Plain, told: &Reason) {
        let (limits, deadlines) = (SessionLimits::default(), self.options.deadlines);
        let mut session =
            Session::with(Box::new(plain), Role::Responder, limits, deadlines, self.cancel.clone());
        let _ = session.goodbye(1, &told.to_wire(MAX_REASON));
        session.close(&self.options.policy);
    }
}

/// The first byte of a TLS connection: content type handshake (RFC 8446, section 5.1). This protocol's preface begins with
/// `L`.
const TLS_HANDSHAKE: u8 = 22;

/// Peeks at the client's first byte, for at most 10 s.
fn first_byte(stream: &TcpStream, cancel: &Cancel) -> io::Result<u8> {
    if !cancel.wait_beside(stream.as_fd(), PollFlags::IN, Duration::from_secs(10))? {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "it said nothing for 10 s"));
    }
    let mut first = [0];
    match stream.peek(&mut first)? {
        0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed before a word was said")),
        _ => Ok(first[0]),
    }
}
