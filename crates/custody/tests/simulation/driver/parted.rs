//! What the supervisor has half-closed: it looks once more before the closer gets it, and closes plainly what is over.

use linger_custody::{HalfClosed, is_over};

use super::{Driver, Fault};
use crate::kernel::{Connection, Kernel};

impl Driver {
    /// Looks at what is half-closed. What is not over by then goes to the closer.
    pub(super) fn look_at_parted(&mut self, kernel: &Kernel) -> Result<(), Fault> {
        for index in std::mem::take(&mut self.parted) {
            let connection = &kernel.connections[index];
            match loss_by_closing(connection) {
                Some(loss) if is_over(&half_closed(connection)) => {
                    return Err(format!("half-closed connection {index} is closed plainly: {loss}"));
                }
                None if !is_over(&half_closed(connection)) => {
                    return Err(format!("connection {index} is over, and the closer gets it"));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// What would be lost if a half-closed connection were closed now, as the peer and the program would see it.
fn loss_by_closing(connection: &Connection) -> Option<&'static str> {
    let socket = &connection.socket;
    if socket.over {
        Some("its reset is not reported")
    } else if !socket.peer_finished {
        Some("what the peer sends is answered by a reset")
    } else if socket.unread > 0 {
        Some("bytes are unread, and the kernel resets")
    } else if !connection.acknowledged {
        Some("what was sent is not acknowledged, and nobody hears of a loss")
    } else {
        None
    }
}

/// What the socket says. The kernel has no connection any more when a reset has come, or both FINs and the last
/// acknowledgement.
fn half_closed(connection: &Connection) -> HalfClosed {
    let socket = &connection.socket;
    HalfClosed {
        closed: socket.over || socket.peer_finished && connection.acknowledged,
        failed: socket.over,
        unread: socket.unread,
    }
}
