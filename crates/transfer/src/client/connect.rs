//! How a client reaches its server: addresses, encryption, several connections as one.

use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::os::fd::AsFd as _;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::io::Errno;
use socket2::{Domain, Socket, Type};

use super::Client;
use crate::bundle::{self, Bundle};
use crate::cancel::Cancel;
use crate::driver::Session;
use crate::error::Error;
use crate::host;
use crate::loopback;
use crate::machine::{Role, SessionLimits};
use crate::options::Security;
use crate::reason::{Reason, Remedy};
use crate::serve::is_local;
use crate::tls;
use crate::transport::{Plain, Transport};

impl Client {
    pub(super) fn connect(&self) -> Result<Session, Error> {
        let count = self.options.streams.clamp(1, bundle::MOST);
        let transport = if count == 1 {
            self.connection()?
        } else {
            let mut name = bundle::Name::default();
            rustix::rand::getrandom(&mut name, rustix::rand::GetRandomFlags::empty())
                .map_err(|error| Error::io("get", "random numbers", error))?;
            let mut members = Vec::new();
            for index in 0..count {
                let mut member = self.connection()?;
                bundle::write_all(&mut *member, &bundle::introduction(name, index, count))?;
                members.push(member);
            }
            Box::new(Bundle::new(members))
        };
        let deadlines = self.options.deadlines;
        Ok(Session::with(
            transport,
            Role::Initiator,
            SessionLimits::default(),
            deadlines,
            self.cancel.clone(),
        ))
    }

    fn connection(&self) -> Result<Box<dyn Transport>, Error> {
        let name = format!("{}, port {}", self.host, self.port);
        if let Some(host) = host::simulated() {
            return host.connect().map_err(|source| Error::Unreachable { what: name, source });
        }
        let addresses = (self.host.as_str(), self.port).to_socket_addrs();
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        match addresses {
            Ok(addresses) => {
                for address in addresses {
                    tracing::debug!(%address, "connects");
                    match connect(address, self.options.connect_timeout, &self.cancel) {
                        Ok(stream) => return self.transport(stream, address),
                        Err(_) if self.cancel.is_cancelled() => return Err(Error::Cancelled),
                        Err(error) => last = error,
                    }
                }
            }
            Err(error) => last = error,
        }
        Err(Error::Unreachable { what: name, source: last })
    }

    /// The error for a server that never sent this protocol's preface.
    pub(super) fn stranger(&self, error: &Error) -> Error {
        let why = match error {
            Error::Cut(error) => error.to_string(),
            error => error.to_string(),
        };
        let Self { host, port, .. } = self;
        Error::Identity(Reason::from(format!("{host}, port {port}: {why}")).with(Remedy::CheckService))
    }

    fn transport(&self, stream: TcpStream, address: SocketAddr) -> Result<Box<dyn Transport>, Error> {
        let keys = match &self.options.security {
            Security::Always(keys) => Some(keys),
            Security::Remote(keys) if self.stranger.load(Ordering::Relaxed) => Some(keys),
            Security::Remote(keys) if !is_local(address.ip()) || !is_own_server(&stream, address) => {
                Some(keys)
            }
            Security::Local if !is_local(address.ip()) => {
                let told = format!("{} is another machine, and there is no key to encrypt with", self.host);
                return Err(Error::Identity(told.into()));
            }
            _ => None,
        };
        if let Some(keys) = keys {
            // As in ssh's known_hosts. Without brackets the port could not be told from the address.
            let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
            let name = format!("{host}:{}", self.port);
            return Ok(Box::new(tls::connect(stream, &name, keys, &self.cancel)?));
        }
        let plain = Plain::new(stream).map_err(|error| Error::io("set up", address.to_string(), error))?;
        Ok(Box::new(plain))
    }
}

/// Whether the server at the other end on this machine is this user's or root's.
fn is_own_server(stream: &TcpStream, address: SocketAddr) -> bool {
    stream.local_addr().is_ok_and(|ours| loopback::is_same_user(ours, address))
}

/// Whether a server of another protocol would cause this error: a violation before anything else, or silence.
pub(super) fn is_stranger(error: &Error) -> bool {
    match error {
        Error::Violation(_) => true,
        Error::Cut(error) => error.kind() == io::ErrorKind::TimedOut,
        _ => false,
    }
}

/// Connects within `timeout`; `cancel` ends the attempt.
fn connect(address: SocketAddr, timeout: Duration, cancel: &Cancel) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => return Err(error),
        _ => {}
    }
    if !cancel.wait_beside(socket.as_fd(), PollFlags::OUT, timeout)? {
        return Err(io::ErrorKind::TimedOut.into());
    }
    socket.take_error()?.map_or(Ok(()), Err)?;
    socket.set_nonblocking(false)?;
    Ok(socket.into())
}
