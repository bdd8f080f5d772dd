//! Unix sockets by their path.

use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect, socket};

/// Whether the path is that of a unix stream socket on which nobody listens any more, so that a server may take its place: the kernel
/// leaves the path behind when a listener is closed. False of any other file, and of a link.
///
/// Asks by connecting, which a listener sees as a connection that is closed at once. Does not wait for one whose queue is full.
///
/// # Errors
/// Returns the error of `lstat(2)` if nothing is at the path, and of `socket(2)`; `InvalidInput` if the path is too long for an
/// address.
pub fn is_forsaken(path: &Path) -> io::Result<bool> {
    // connect(2) refuses a file that is no socket with the same error.
    if !std::fs::symlink_metadata(path)?.file_type().is_socket() {
        return Ok(false);
    }
    let address = SocketAddrUnix::new(path).map_err(|_| io::ErrorKind::InvalidInput)?;
    let probe = socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
    rustix::io::ioctl_fionbio(&probe, true)?;
    Ok(connect(&probe, &address) == Err(rustix::io::Errno::CONNREFUSED))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

    use super::*;

    #[test]
    fn only_a_socket_without_a_listener_is_forsaken() {
        let directory = std::env::temp_dir().join(format!("linger-path-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let path = directory.join("socket");
        assert_eq!(is_forsaken(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        let listener = UnixListener::bind(&path).unwrap();
        assert!(!is_forsaken(&path).unwrap());
        drop(listener);
        assert!(is_forsaken(&path).unwrap());
        let link = directory.join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(!is_forsaken(&link).unwrap());
        std::fs::write(directory.join("file"), "precious").unwrap();
        assert!(!is_forsaken(&directory.join("file")).unwrap());
        // Somebody's, though no stream can be connected to it.
        let datagrams = UnixDatagram::bind(directory.join("datagrams")).unwrap();
        assert!(!is_forsaken(&directory.join("datagrams")).unwrap());
        drop(datagrams);
        let long = directory.join("long".repeat(40));
        assert!(is_forsaken(&long).is_err());
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_full_queue_is_not_waited_for() {
        let path = std::env::temp_dir().join(format!("linger-path-full-{}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let _first = UnixStream::connect(&path).unwrap();
        assert!(!is_forsaken(&path).unwrap());
        std::fs::remove_file(&path).unwrap();
    }
}
