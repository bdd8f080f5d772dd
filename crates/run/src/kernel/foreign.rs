//! System calls on another process: pidfds of its threads, reading and writing its memory, accepting for it.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

use rustix::process::{Pid, PidfdFlags};

use super::trial::{KCMP, MEMORY, forbidden};

/// Opens a pidfd of a thread. Unlike the thread id, it never refers to a later thread.
///
/// # Errors
/// `EINVAL` before Linux 6.9, unless it is the first thread of its process.
pub(crate) fn open_thread(thread: u32) -> io::Result<OwnedFd> {
    /// `PIDFD_THREAD`.
    const THREAD: PidfdFlags = PidfdFlags::from_bits_retain(libc::O_EXCL as u32);
    let pid = i32::try_from(thread).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))?;
    match rustix::process::pidfd_open(pid, THREAD) {
        Err(rustix::io::Errno::INVAL) => Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?),
        other => Ok(other?),
    }
}

/// Id of the calling thread.
pub(crate) fn own_thread() -> u32 {
    rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned()
}

/// Whether fd `number` of a thread is of the same open file as `fd` of the calling thread, whose id is `own`
/// (`kcmp(2)`). `None` if the kernel does not tell, or the thread has no such fd.
pub(crate) fn is_same_file(own: u32, fd: BorrowedFd<'_>, thread: u32, number: RawFd) -> Option<bool> {
    /// `KCMP_FILE`.
    const FILE: libc::c_int = 0;
    static MAY: OnceLock<bool> = OnceLock::new();
    if !MAY.get_or_init(|| forbidden(&[KCMP]).is_empty()) {
        return None;
    }
    // SAFETY: five numbers.
    let order = unsafe { libc::syscall(libc::SYS_kcmp, own, thread, FILE, fd.as_raw_fd(), number) };
    // 1 to 3 say how two different files are sorted.
    (order >= 0).then_some(order == 0)
}

/// The process that made the other end of a unix connection, or that listens there (`SO_PEERCRED`).
///
/// `None` for a socket of another kind, or without a peer.
pub(crate) fn peer_process(socket: BorrowedFd<'_>) -> Option<u32> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = size_of_val(&peer) as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to a live ucred, and the length to a live socklen_t.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut length,
        )
    };
    u32::try_from(peer.pid).ok().filter(|pid| result == 0 && *pid != 0)
}

/// Reads another process's memory (`process_vm_readv(2)`) until `into` is full. If a container's profile refuses the
/// call, reads the process's `mem` file in `/proc`, which needs the same right.
///
/// # Errors
/// `EFAULT` for an invalid address, `EPERM`, `ESRCH`.
pub(crate) fn read_memory(thread: u32, address: u64, into: &mut [u8]) -> io::Result<()> {
    let local = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: into.len() };
    // SAFETY: writes at most the length of a live slice; the remote address is the kernel's to check.
    let got = permitted(|| unsafe {
        libc::process_vm_readv(thread as libc::pid_t, &raw const local, 1, &raw const remote, 1, 0)
    });
    match got.map(usize::try_from) {
        Err(error) => {
            or_by_file(error, || File::open(format!("/proc/{thread}/mem"))?.read_exact_at(into, address))
        }
        Ok(Ok(got)) if got == into.len() => Ok(()),
        Ok(_) => Err(io::Error::from_raw_os_error(libc::EFAULT)),
    }
}

/// Makes a call on another process's memory, unless a filter would kill this process for it.
fn permitted(call: impl FnOnce() -> isize) -> io::Result<isize> {
    static MAY: OnceLock<bool> = OnceLock::new();
    if !MAY.get_or_init(|| forbidden(MEMORY).is_empty()) {
        return Err(io::Error::from_raw_os_error(libc::EPERM));
    }
    match call() {
        -1 => Err(io::Error::last_os_error()),
        got => Ok(got),
    }
}

/// Uses the process's file in `/proc` if the call was not permitted.
fn or_by_file(refused: io::Error, file: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    match refused.raw_os_error() {
        Some(libc::EPERM | libc::ENOSYS) => file().map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound => refused,
            // At an invalid address the file is read or written only in part, or fails with EIO (`mem_rw` in Linux).
            _ => io::Error::from_raw_os_error(libc::EFAULT),
        }),
        _ => Err(refused),
    }
}

/// Writes all of `from` into another process's memory (`process_vm_writev(2)`, or as [`read_memory`]).
///
/// # Errors
/// As [`read_memory`].
pub(crate) fn write_memory(thread: u32, address: u64, from: &[u8]) -> io::Result<()> {
    let local = libc::iovec { iov_base: from.as_ptr().cast_mut().cast(), iov_len: from.len() };
    let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: from.len() };
    // SAFETY: reads a live slice of that length; the remote address is the kernel's to check.
    let got = permitted(|| unsafe {
        libc::process_vm_writev(thread as libc::pid_t, &raw const local, 1, &raw const remote, 1, 0)
    });
    match got.map(usize::try_from) {
        Err(error) => or_by_file(error, || {
            let memory = File::options().write(true).open(format!("/proc/{thread}/mem"))?;
            memory.write_all_at(from, address)
        }),
        Ok(Ok(got)) if got == from.len() => Ok(()),
        Ok(_) => Err(io::Error::from_raw_os_error(libc::EFAULT)),
    }
}

/// Makes a socket with the numbers that a program gave (`socket(2)`).
///
/// # Errors
/// Those of the call.
pub(crate) fn make_socket(domain: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: three numbers.
    let fd = unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new fd that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Accepts a connection. Also returns the peer's address in the kernel's format (`accept4(2)`).
///
/// # Errors
/// Those of the call.
pub(crate) fn accept(listener: BorrowedFd<'_>, flags: i32) -> io::Result<(OwnedFd, Vec<u8>)> {
    let mut address = [0u8; size_of::<libc::sockaddr_storage>()];
    let mut length = address.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to a live array (which it copies to without regard to
    // alignment), and the length to a live socklen_t.
    let fd =
        unsafe { libc::accept4(listener.as_raw_fd(), address.as_mut_ptr().cast(), &raw mut length, flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let length = (length as usize).min(address.len());
    // SAFETY: a new fd that nobody else owns.
    Ok((unsafe { OwnedFd::from_raw_fd(fd) }, address[..length].to_vec()))
}

/// Closes the fds of the calling thread's table from the first to the last (`close_range(2)`).
#[cfg(test)]
pub(crate) fn close_range_for_test(first: u32, last: u32) {
    // SAFETY: the caller owns them, and gives them up.
    assert_eq!(unsafe { libc::close_range(first, last, 0) }, 0);
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_copy_is_the_same_file_and_another_of_the_same_path_is_not() {
        let may = forbidden(&[KCMP]).is_empty();
        let own = own_thread();
        let (one, other) = (File::open("/dev/null").unwrap(), File::open("/dev/null").unwrap());
        let copy = one.try_clone().unwrap();
        let ask = |number: &File| is_same_file(own, one.as_fd(), own, number.as_raw_fd());
        assert_eq!((ask(&copy), ask(&other)), (may.then_some(true), may.then_some(false)));
        // Who has no such fd is not said to have another file.
        assert_eq!(is_same_file(own, one.as_fd(), own, RawFd::MAX), None);
    }
}
