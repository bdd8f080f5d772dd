//! The state of a socket when its last fd is closed, and the control data of messages.

use linger_custody::{Count, Fate, fate};

use super::kernel::{Fault, World};

impl World {
    /// Decides as the driver does, and checks the decision. Returns the number of unread bytes, or why a plain close
    /// loses nothing.
    pub(super) fn settle(&mut self, cookie: u64) -> Result<u32, Count> {
        let socket = self.connection(cookie).socket;
        let settled = match fate(&socket) {
            Fate::Plain(reason) => Err(reason),
            Fate::Linger | Fate::Discard => Ok(socket.unread),
        };
        let ended = socket.peer_finished && socket.unread == 0;
        let right = match settled {
            Ok(_) => !socket.aborts && !ended && (socket.peer_finished || !socket.over),
            Err(Count::Aborted) => socket.aborts,
            Err(Count::Gone) => !socket.aborts && socket.over && !ended,
            Err(Count::Finished) => !socket.aborts && ended,
            Err(_) => false,
        };
        if !right {
            self.fail(Fault::Fate);
        }
        settled
    }
}

/// The control data of a message that carries an fd, in one of the ways that programs lay it out (`cmsg(3)`).
pub(super) fn control(fd: u8) -> Vec<u8> {
    const SOL_SOCKET: i32 = 1;
    const IPPROTO_IP: i32 = 0;
    const SCM_RIGHTS: i32 = 1;
    const SCM_CREDENTIALS: i32 = 2;
    let mut bytes = Vec::new();
    let mut put = |level: i32, kind: i32, ints: &[i32]| {
        let header = size_of::<usize>() + 8;
        bytes.extend((header + 4 * ints.len()).to_ne_bytes());
        bytes.extend([level, kind].map(i32::to_ne_bytes).as_flattened());
        ints.iter().for_each(|int| bytes.extend(int.to_ne_bytes()));
        bytes.resize(bytes.len().next_multiple_of(size_of::<usize>()), 0);
    };
    // The fds 0 to 7 belong to other files, unless they are passed.
    let strangers = [0, 1, 2, 3, 4, 5, 6, 7].map(|other| if other == i32::from(fd) { -1 } else { other });
    match fd % 4 {
        0 => put(SOL_SOCKET, SCM_RIGHTS, &[fd.into()]),
        1 => {
            put(SOL_SOCKET, SCM_CREDENTIALS, &strangers[..3]);
            put(SOL_SOCKET, SCM_RIGHTS, &[-1, fd.into()]);
        }
        2 => {
            put(SOL_SOCKET, SCM_RIGHTS, &[-1]);
            put(SOL_SOCKET, SCM_RIGHTS, &[fd.into()]);
        }
        _ => {
            put(SOL_SOCKET, SCM_RIGHTS, &[-1, -1, fd.into()]);
            put(IPPROTO_IP, SCM_RIGHTS, &strangers);
            // A length that the kernel refuses.
            bytes.extend(3usize.to_ne_bytes());
            bytes.extend([SOL_SOCKET, SCM_RIGHTS].map(i32::to_ne_bytes).as_flattened());
            strangers.iter().for_each(|int| bytes.extend(int.to_ne_bytes()));
        }
    }
    bytes
}
