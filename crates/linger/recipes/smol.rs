//! smol, async-io: the closer takes the socket at the end, in place of the drop.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;

use linger::{Closer, Policy};
use smol::Async;

/// Ends a connection of which this is the only handle.
///
/// # Errors
/// Returns `ResourceBusy` if a clone of the stream lives; the connection then ends with the last clone, by a plain close.
pub fn close(stream: smol::net::TcpStream) -> io::Result<()> {
    let stream: Arc<Async<TcpStream>> = stream.into();
    let stream = Arc::try_unwrap(stream).map_err(|_| io::ErrorKind::ResourceBusy)?;
    Closer::global()?.close(stream.into_inner()?, &Policy::default());
    Ok(())
}
