//! Messages that carry descriptors (`SCM_RIGHTS`): those to the supervisor, and the program's own.

use core::ffi::{c_int, c_uint, c_void};
use core::mem::size_of;

use super::sys::{EINTR, MSG_DONTWAIT, SOL_SOCKET, errno, number, raw, syscall};

const SCM_RIGHTS: c_int = 1;
const MSG_NOSIGNAL: c_int = 0x4000;

#[repr(C)]
struct IoVec {
    base: *const u8,
    length: usize,
}

#[repr(C)]
struct Cmsg {
    length: usize,
    level: c_int,
    kind: c_int,
    fd: c_int,
    padding: c_int,
}

#[repr(C)]
pub(crate) struct MsgHdr {
    name: *const c_void,
    name_length: c_uint,
    iov: *const IoVec,
    iov_length: usize,
    control: *const c_void,
    control_length: usize,
    flags: c_int,
}

/// Sends a message, with a descriptor or without; the error's number where it fails.
pub(crate) fn send(channel: c_int, bytes: &[u8], fd: Option<c_int>) -> Result<(), c_int> {
    let iov = IoVec { base: bytes.as_ptr(), length: bytes.len() };
    let control = Cmsg {
        length: core::mem::offset_of!(Cmsg, padding),
        level: SOL_SOCKET,
        kind: SCM_RIGHTS,
        fd: fd.unwrap_or(-1),
        padding: 0,
    };
    let message = MsgHdr {
        name: core::ptr::null(),
        name_length: 0,
        iov: &raw const iov,
        iov_length: 1,
        control: (&raw const control).cast(),
        control_length: if fd.is_some() { size_of::<Cmsg>() } else { 0 },
        flags: 0,
    };
    loop {
        // SAFETY: the kernel only reads the message and what it points to, all of it live here.
        let sent = unsafe {
            syscall!(number::SENDMSG, channel, &raw const message, MSG_DONTWAIT | MSG_NOSIGNAL) as c_int
        };
        match sent {
            0.. => return Ok(()),
            _ if errno() == EINTR => {}
            _ => return Err(errno()),
        }
    }
}

/// Calls `each` for every descriptor in a message's control data.
///
/// # Safety
/// `message` is null or what `recvmsg` has filled, or `sendmsg` is to send, for this program.
pub(crate) unsafe fn passed(message: *const MsgHdr, mut each: impl FnMut(c_int)) {
    const HEADER: usize = core::mem::offset_of!(Cmsg, fd);
    if message.is_null() {
        return;
    }
    // SAFETY: the caller's promise: a readable msghdr.
    let MsgHdr { control, control_length: all, .. } = unsafe { message.read() };
    let start = control.cast::<u8>();
    let mut at = 0;
    while !start.is_null() && all - at >= HEADER {
        // SAFETY: a header lies within the control data; it may stand at any address.
        let header = unsafe { start.wrapping_add(at).cast::<[usize; 2]>().read_unaligned() };
        let length = header[0];
        if length < HEADER || length > all - at {
            return;
        }
        let rights = [SOL_SOCKET.to_ne_bytes(), SCM_RIGHTS.to_ne_bytes()];
        if header[1].to_ne_bytes() == *rights.as_flattened() {
            for place in (HEADER..length.saturating_sub(3)).step_by(4) {
                // SAFETY: an int lies within this control message.
                each(unsafe { start.wrapping_add(at + place).cast::<c_int>().read_unaligned() });
            }
        }
        at += length.next_multiple_of(size_of::<usize>());
        if at > all {
            return;
        }
    }
}

/// Whether a message has control data at all.
///
/// # Safety
/// As [`passed`].
pub(crate) unsafe fn has_control(message: *const MsgHdr) -> bool {
    // SAFETY: the caller's promise: a readable msghdr.
    !message.is_null() && unsafe { (*message).control_length } > 0
}
