//! Where a FastCGI application listens.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::fs::FileTypeExt as _;
use std::path::PathBuf;
use std::str::FromStr;

use socket2::{Domain, SockAddr, Socket, Type};

/// A TCP address or the path of a unix socket.
///
/// Written `host:port`, `[::1]:9000`, `:9000` or `*:9000` (all addresses), `unix:/run/app.sock` or `/run/app.sock`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Address {
    /// Host and port, resolved when it is used.
    Tcp(String),
    /// A path in the file system.
    Unix(PathBuf),
}

/// The error for a text that is neither `host:port` nor a path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no address: write host:port, or unix:/path/of/a/socket")]
#[non_exhaustive]
pub struct InvalidAddress(pub String);

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        if let Some(path) = text.strip_prefix("unix:").or_else(|| text.starts_with('/').then_some(text)) {
            return Ok(Self::Unix(path.into()));
        }
        match text.rsplit_once(':') {
            Some((host, port)) if port.parse::<u16>().is_ok() => Ok(Self::Tcp(match host {
                "" | "*" => format!("[::]:{port}"),
                _ => text.to_owned(),
            })),
            _ => Err(InvalidAddress(text.to_owned())),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address.to_string())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Address {
    /// The socket addresses of its name.
    pub(crate) fn resolve(&self) -> io::Result<Vec<SockAddr>> {
        Ok(match self {
            Self::Tcp(address) => address.to_socket_addrs()?.map(SockAddr::from).collect(),
            Self::Unix(path) => vec![SockAddr::unix(path)?],
        })
    }

    /// Binds and listens. A unix socket that nobody listens on any more is replaced.
    pub(crate) fn listen(&self, backlog: i32) -> io::Result<Socket> {
        self.first(|address| {
            let socket = Socket::new(address.domain(), Type::STREAM, None)?;
            if address.domain() != Domain::UNIX {
                socket.set_reuse_address(true)?;
            }
            match (socket.bind(address), self) {
                (Err(error), Self::Unix(path)) if error.kind() == io::ErrorKind::AddrInUse => {
                    if !std::fs::symlink_metadata(path)?.file_type().is_socket() {
                        let text = "a file that is no socket is there: remove it, or name another path";
                        return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
                    }
                    if !linger_sys::is_forsaken(path)? {
                        return Err(error);
                    }
                    std::fs::remove_file(path)?;
                    socket.bind(address)?;
                }
                (result, _) => result?,
            }
            socket.listen(backlog)?;
            Ok(socket)
        })
    }

    /// Connects within `timeout` for each address tried.
    pub(crate) fn connect(&self, timeout: std::time::Duration) -> io::Result<Socket> {
        self.first(|address| {
            let socket = Socket::new(address.domain(), Type::STREAM, None)?;
            socket.connect_timeout(address, timeout)?;
            if address.domain() != Domain::UNIX {
                socket.set_tcp_nodelay(true)?;
            }
            Ok(socket)
        })
    }

    fn first<T>(&self, mut attempt: impl FnMut(&SockAddr) -> io::Result<T>) -> io::Result<T> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{self} has no address"));
        for address in self.resolve()? {
            match attempt(&address) {
                Ok(done) => return Ok(done),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_socket_without_a_listener_is_replaced() {
        let path = std::env::temp_dir().join(format!("linger-address-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let address = Address::Unix(path.clone());
        let first = address.listen(8).unwrap();
        assert_eq!(address.listen(8).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        drop(address.listen(8).unwrap());
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "precious").unwrap();
        assert_eq!(address.listen(8).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        std::fs::remove_file(&path).unwrap();
    }
}
