//! Messages with fds (`SCM_RIGHTS`): those to the supervisor, and those of the program.

use core::ffi::{c_int, c_uint, c_void};
use core::mem::size_of;

use linger_custody::Rights;

use crate::sys::{EINTR, MSG_DONTWAIT, SOL_SOCKET, errno, number, raw, syscall};

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

/// One of several messages, with its length (`struct mmsghdr`).
#[repr(C)]
pub(crate) struct MMsgHdr {
    message: MsgHdr,
    length: c_uint,
}

/// Sends a message, with or without an fd. The error is an errno.
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

/// The fds that a message carries.
///
/// # Safety
/// `message` is null or what `recvmsg` has filled, or `sendmsg` has sent, for this program.
pub(crate) unsafe fn rights<'a>(message: *const MsgHdr) -> Rights<'a> {
    let none = Rights::new(&[]);
    if message.is_null() {
        return none;
    }
    // SAFETY: the caller's promise: a readable msghdr.
    let MsgHdr { control, control_length, .. } = unsafe { message.read() };
    if control.is_null() || control_length == 0 {
        return none;
    }
    // SAFETY: as above: this many bytes of control data, which nobody changes during the call.
    Rights::new(unsafe { core::slice::from_raw_parts(control.cast(), control_length) })
}
