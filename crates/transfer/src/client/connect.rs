//! How a client reaches its server: addresses, encryption, several connections as one.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::io::Errno;
use socket2::{Domain, Socket, Type};

use super::Client;
use super::goodbye::ANSWER;
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
use crate::unix;

/// Where a server listens.
#[derive(Debug)]
pub(super) enum ServerAddress {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } => write!(f, "{host}, port {port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Client {
    /// Connects. A session that is to say a goodbye again is waited for `briefly`: nobody needs its result.
    pub(super) fn connect(&self, briefly: bool) -> Result<Session, Error> {
        let (mut deadlines, mut timeout) = (self.options.deadlines, self.options.connect_timeout);
        if briefly {
            (deadlines.stall, timeout) = (deadlines.stall.min(ANSWER), timeout.min(ANSWER));
        }
        let count = self.options.streams.clamp(1, bundle::MOST);
        let transport = if count == 1 {
            self.connection(timeout)?
        } else {
            let mut name = bundle::Name::default();
            rustix::rand::getrandom(&mut name, rustix::rand::GetRandomFlags::empty())
                .map_err(|error| Error::io("get", "random numbers", error))?;
            let mut members = Vec::new();
            for index in 0..count {
                let mut member = self.connection(timeout)?;
                bundle::write_all(&mut *member, &bundle::introduction(name, index, count))?;
                members.push(member);
            }
            Box::new(Bundle::new(members))
        };
        Ok(Session::with(
            transport,
            Role::Initiator,
            SessionLimits::default(),
            deadlines,
            self.cancel.clone(),
        ))
    }

    fn connection(&self, timeout: Duration) -> Result<Box<dyn Transport>, Error> {
        let unreachable = |source| Error::Unreachable { what: self.server.to_string(), source };
        if let Some(host) = host::simulated() {
            return host.connect().map_err(unreachable);
        }
        let (host, port) = match &self.server {
            ServerAddress::Tcp { host, port } => (host.as_str(), *port),
            ServerAddress::Unix(path) => return self.unix_connection(path, timeout),
        };
        let addresses = (host, port).to_socket_addrs();
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        match addresses {
            Ok(addresses) => {
                for address in addresses {
                    tracing::debug!(%address, "connects");
                    match connect(address, timeout, &self.cancel) {
                        Ok(stream) => return self.transport(stream, address, host, port),
                        Err(_) if self.cancel.is_cancelled() => return Err(Error::Cancelled),
                        Err(error) => last = error,
                    }
                }
            }
            Err(error) => last = error,
        }
        Err(unreachable(last))
    }

    fn unix_connection(&self, path: &Path, timeout: Duration) -> Result<Box<dyn Transport>, Error> {
        if matches!(self.options.security, Security::Always(_)) {
            return Err(Error::Usage("nothing is encrypted over a unix socket".into()));
        }
        let stream = match unix::connect(path, timeout, &self.cancel) {
            Ok(stream) => stream,
            Err(_) if self.cancel.is_cancelled() => return Err(Error::Cancelled),
            Err(source) => return Err(Error::Unreachable { what: self.server.to_string(), source }),
        };
        let set_up = |error| Error::io("set up", self.server.to_string(), error);
        let uid = unix::peer_user(&stream).map_err(set_up)?;
        if !matches!(self.options.security, Security::Never) && !unix::is_own_user(uid) {
            let told = format!("{} belongs to uid {uid}, who is neither this user nor root", self.server);
            return Err(Error::Identity(told.into()));
        }
        Ok(Box::new(Plain::unix(stream).map_err(set_up)?))
    }

    /// The error for a server that never sent this protocol's preface.
    pub(super) fn stranger(&self, error: &Error) -> Error {
        let why = match error {
            Error::Cut(error) => error.to_string(),
            error => error.to_string(),
        };
        Error::Identity(Reason::from(format!("{}: {why}", self.server)).with(Remedy::CheckService))
    }

    fn transport(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        host: &str,
        port: u16,
    ) -> Result<Box<dyn Transport>, Error> {
        let keys = match &self.options.security {
            Security::Always(keys) => Some(keys),
            Security::Remote(keys) if self.stranger.load(Ordering::Relaxed) => Some(keys),
            Security::Remote(keys) if !is_local(address.ip()) || !is_own_server(&stream, address) => {
                Some(keys)
            }
            Security::Local if !is_local(address.ip()) => {
                let told = format!("{host} is another machine, and there is no key to encrypt with");
                return Err(Error::Identity(told.into()));
            }
            _ => None,
        };
        if let Some(keys) = keys {
            // As in ssh's known_hosts. Without brackets the port could not be told from the address.
            let name = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
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
