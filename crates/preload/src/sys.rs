//! System calls without the C library's wrappers, and the few library functions that are needed.
//!
//! The C library's wrappers are cancellation points, and several are functions that this library itself replaces,
//! `syscall(2)` among them. So this file makes system calls by the processor's own instruction.

use core::ffi::{c_char, c_int, c_long, c_uint, c_void};
use core::mem::size_of;

unsafe extern "C" {
    safe fn __errno_location() -> *mut c_int;
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
    #[link_name = "abort"]
    safe fn c_abort() -> !;
    #[link_name = "fileno"]
    fn c_fileno(file: *mut c_void) -> c_int;
    #[link_name = "fflush"]
    fn c_fflush(file: *mut c_void) -> c_int;
    fn pthread_atfork(
        prepare: Option<extern "C" fn()>,
        parent: Option<extern "C" fn()>,
        child: Option<extern "C" fn()>,
    ) -> c_int;
    fn getenv(name: *const c_char) -> *const c_char;
    fn clock_gettime(clock: c_int, time: *mut i64) -> c_int;
}

// pthread_atfork lives in the static part of the C library, which the linker script of this name includes.
#[link(name = "c")]
unsafe extern "C" {}

/// Makes a system call, and returns its result as the C library does: -1 and errno for an error.
///
/// Not with the C library's `syscall`, which this library replaces as well.
///
/// # Safety
/// The requirements of the system call on its arguments.
pub(crate) unsafe fn raw(number: c_long, arguments: [usize; 6]) -> c_long {
    let [a, b, c, d, e, f] = arguments;
    let result: isize;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the kernel's calling convention: it changes rax, rcx and r11 alone.
    unsafe {
        core::arch::asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        )
    };
    #[cfg(target_arch = "aarch64")]
    // SAFETY: the kernel's calling convention: it changes x0 alone.
    unsafe {
        core::arch::asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") a as isize => result,
            in("x1") b, in("x2") c, in("x3") d, in("x4") e, in("x5") f,
            options(nostack),
        )
    };
    const MOST_ERRNO: isize = 4095;
    if (-MOST_ERRNO..0).contains(&result) {
        set_errno(-result as c_int);
        return -1;
    }
    result as c_long
}

/// A system call with up to six arguments of any integer or pointer type.
macro_rules! syscall {
    ($number:expr $(, $argument:expr)*) => {{
        let mut arguments = [0usize; 6];
        let given = [$($argument as usize),*];
        arguments[..given.len()].copy_from_slice(&given);
        raw($number, arguments)
    }};
}
pub(crate) use syscall;

#[cfg(target_arch = "x86_64")]
pub(crate) mod number {
    pub(crate) const READ: i64 = 0;
    pub(crate) const CLOSE: i64 = 3;
    pub(crate) const PRCTL: i64 = 157;
    pub(crate) const OPENAT: i64 = 257;
    pub(crate) const SECCOMP: i64 = 317;
    pub(crate) const IOCTL: i64 = 16;
    pub(crate) const DUP: i64 = 32;
    pub(crate) const DUP2: i64 = 33;
    pub(crate) const ACCEPT: i64 = 43;
    pub(crate) const ACCEPT4: i64 = 288;
    pub(crate) const DUP3: i64 = 292;
    pub(crate) const EXECVE: i64 = 59;
    pub(crate) const GETPID: i64 = 39;
    pub(crate) const SOCKET: i64 = 41;
    pub(crate) const CONNECT: i64 = 42;
    pub(crate) const SENDMSG: i64 = 46;
    pub(crate) const RECVMSG: i64 = 47;
    pub(crate) const RECVMMSG: i64 = 299;
    pub(crate) const SENDMMSG: i64 = 307;
    pub(crate) const SHUTDOWN: i64 = 48;
    pub(crate) const GETSOCKNAME: i64 = 51;
    pub(crate) const GETSOCKOPT: i64 = 55;
    pub(crate) const FCNTL: i64 = 72;
    pub(crate) const EXIT_GROUP: i64 = 231;
    pub(crate) const EPOLL_CTL: i64 = 233;
    pub(crate) const PPOLL: i64 = 271;
    pub(crate) const CLOSE_RANGE: i64 = 436;
}

#[cfg(target_arch = "aarch64")]
pub(crate) mod number {
    pub(crate) const EPOLL_CTL: i64 = 21;
    pub(crate) const DUP: i64 = 23;
    // This architecture has no dup2. dup3 without flags differs only for two equal fds, which it refuses with EINVAL.
    pub(crate) const DUP2: i64 = 24;
    pub(crate) const DUP3: i64 = 24;
    pub(crate) const ACCEPT: i64 = 202;
    pub(crate) const ACCEPT4: i64 = 242;
    pub(crate) const EXECVE: i64 = 221;
    pub(crate) const FCNTL: i64 = 25;
    pub(crate) const IOCTL: i64 = 29;
    pub(crate) const OPENAT: i64 = 56;
    pub(crate) const CLOSE: i64 = 57;
    pub(crate) const READ: i64 = 63;
    pub(crate) const PRCTL: i64 = 167;
    pub(crate) const SECCOMP: i64 = 277;
    pub(crate) const PPOLL: i64 = 73;
    pub(crate) const EXIT_GROUP: i64 = 94;
    pub(crate) const GETPID: i64 = 172;
    pub(crate) const SOCKET: i64 = 198;
    pub(crate) const CONNECT: i64 = 203;
    pub(crate) const GETSOCKNAME: i64 = 204;
    pub(crate) const GETSOCKOPT: i64 = 209;
    pub(crate) const SHUTDOWN: i64 = 210;
    pub(crate) const SENDMSG: i64 = 211;
    pub(crate) const RECVMSG: i64 = 212;
    pub(crate) const RECVMMSG: i64 = 243;
    pub(crate) const SENDMMSG: i64 = 269;
    pub(crate) const CLOSE_RANGE: i64 = 436;
}

pub(crate) const EINTR: c_int = 4;
pub(crate) const EBADF: c_int = 9;
pub(crate) const EAGAIN: c_int = 11;
pub(crate) const EFAULT: c_int = 14;
pub(crate) const EINVAL: c_int = 22;
pub(crate) const EPIPE: c_int = 32;
pub(crate) const ENOSYS: c_int = 38;
pub(crate) const ECONNRESET: c_int = 104;
pub(crate) const ENOTCONN: c_int = 107;
pub(crate) const ETOOMANYREFS: c_int = 109;

pub(crate) const SHUT_RD: c_int = 0;
pub(crate) const SHUT_WR: c_int = 1;
pub(crate) const SHUT_RDWR: c_int = 2;

pub(crate) const POLLIN: i16 = 0x1;
pub(crate) const POLLOUT: i16 = 0x4;
pub(crate) const POLLERR: i16 = 0x8;
pub(crate) const POLLHUP: i16 = 0x10;
pub(crate) const POLLRDHUP: i16 = 0x2000;

pub(crate) const SOL_SOCKET: c_int = 1;
pub(crate) const SO_LINGER: c_int = 13;
pub(crate) const SO_RCVLOWAT: c_int = 18;
const SO_ACCEPTCONN: c_int = 30;
const SO_DOMAIN: c_int = 39;
const SO_PROTOCOL: c_int = 38;
const SO_MEMINFO: c_int = 55;
const SO_COOKIE: c_int = 57;
const AF_UNIX: c_int = 1;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const SOCK_SEQPACKET: c_int = 5;
const SOCK_NONBLOCK: c_int = 0o4000;
const SOCK_CLOEXEC: c_int = 0o2000000;
pub(crate) const MSG_DONTWAIT: c_int = 0x40;
const FIONREAD: c_int = 0x541b;
pub(crate) const F_DUPFD: c_int = 0;
pub(crate) const PR_SET_SECCOMP: c_int = 22;
const F_GETFD: c_int = 1;
pub(crate) const F_DUPFD_CLOEXEC: c_int = 1030;
const FD_CLOEXEC: c_long = 1;
const EPOLL_CTL_DEL: c_int = 2;
const RTLD_NEXT: *mut c_void = -1isize as *mut c_void;

/// Restores errno after the library's own system calls.
pub(crate) struct Errno(c_int);

impl Errno {
    pub(crate) fn keep() -> Self {
        Self(errno())
    }
}

impl Drop for Errno {
    fn drop(&mut self) {
        set_errno(self.0);
    }
}

pub(crate) fn errno() -> c_int {
    // SAFETY: the C library gives the address of this thread's errno, which lives as long as the thread.
    unsafe { *__errno_location() }
}

pub(crate) fn set_errno(value: c_int) {
    // SAFETY: as above; the int is this thread's alone.
    unsafe { *__errno_location() = value };
}

pub(crate) fn abort() -> ! {
    c_abort()
}

/// The next definition of a function after this library's own: the C library's, or that of another preloaded one.
pub(crate) fn next(name: &core::ffi::CStr) -> *mut c_void {
    // SAFETY: the name ends in a zero; RTLD_NEXT is a documented handle.
    unsafe { dlsym(RTLD_NEXT, name.as_ptr()) }
}

/// The value of an environment variable.
pub(crate) fn environment(name: &core::ffi::CStr) -> Option<&'static core::ffi::CStr> {
    // SAFETY: called from the constructor, before `main`: only a thread of another constructor could change it meanwhile.
    let value = unsafe { getenv(name.as_ptr()) };
    // SAFETY: not null, ends in a zero; read at once, before `main` can change it.
    (!value.is_null()).then(|| unsafe { core::ffi::CStr::from_ptr(value) })
}

/// Registers a function that is called in each forked child.
pub(crate) fn at_fork(child: extern "C" fn()) {
    // SAFETY: the function is of this library, which is never unloaded (`-z nodelete`).
    unsafe { pthread_atfork(None, None, Some(child)) };
}

/// The time since the machine's start, in milliseconds (`CLOCK_BOOTTIME`); without a system call where the kernel offers
/// that (vdso(7)).
pub(crate) fn since_start_ms() -> u64 {
    const BOOTTIME: c_int = 7;
    let mut time: [i64; 2] = [0; 2];
    // SAFETY: writes one timespec of two longs.
    let result = unsafe { clock_gettime(BOOTTIME, time.as_mut_ptr()) };
    let [seconds, nanoseconds] = time;
    if result == 0 { seconds as u64 * 1_000 + nanoseconds as u64 / 1_000_000 } else { 0 }
}

/// The fd of a `FILE`.
///
/// # Safety
/// `file` is what the program gave to a function that takes a `FILE *`.
pub(crate) unsafe fn fileno(file: *mut c_void) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { c_fileno(file) }
}

/// # Safety
/// As [`fileno`].
pub(crate) unsafe fn fflush(file: *mut c_void) {
    // SAFETY: the caller's promise.
    unsafe { c_fflush(file) };
}

pub(crate) fn pid() -> c_int {
    // SAFETY: takes nothing, changes nothing.
    unsafe { raw(number::GETPID, [0; 6]) as c_int }
}

pub(crate) fn close(fd: c_int) -> c_int {
    // SAFETY: by number; the caller owns it.
    unsafe { syscall!(number::CLOSE, fd) as c_int }
}

pub(crate) fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int {
    // SAFETY: as `close`.
    unsafe { syscall!(number::CLOSE_RANGE, first, last, flags) as c_int }
}

pub(crate) fn exit_group(status: c_int) -> ! {
    loop {
        // SAFETY: does not return.
        unsafe { syscall!(number::EXIT_GROUP, status) };
    }
}

pub(crate) fn shutdown(fd: c_int, how: c_int) -> c_int {
    // SAFETY: two numbers.
    unsafe { syscall!(number::SHUTDOWN, fd, how) as c_int }
}

/// Makes `new` another fd of the file at `old`, closed by an exec. Returns whether that was possible.
pub(crate) fn replace(old: c_int, new: c_int) -> bool {
    // SAFETY: three numbers.
    unsafe { syscall!(number::DUP3, old, new, SOCK_CLOEXEC) as c_int == new }
}

pub(crate) fn dup2(old: c_int, new: c_int) -> c_int {
    // SAFETY: numbers; the third is read by dup3 only.
    unsafe { syscall!(number::DUP2, old, new, 0) as c_int }
}

/// `fcntl` with a number; `None` where it fails.
pub(crate) fn fcntl(fd: c_int, command: c_int, argument: c_int) -> Option<c_int> {
    // SAFETY: used with commands that take a number.
    let result = unsafe { syscall!(number::FCNTL, fd, command, c_long::from(argument)) as c_int };
    (result >= 0).then_some(result)
}

/// Whether an fd is open, and if so whether an `execve` closes it.
pub(crate) fn closes_on_exec(fd: c_int) -> Option<bool> {
    fcntl(fd, F_GETFD, 0).map(|flags| c_long::from(flags) & FD_CLOEXEC != 0)
}

fn option<T: Copy>(fd: c_int, name: c_int, mut value: T) -> Option<T> {
    let mut length = size_of::<T>() as c_uint;
    // SAFETY: the kernel writes at most `length` bytes to the live value, and any bytes make a T here (integers).
    let result = unsafe {
        syscall!(number::GETSOCKOPT, fd, SOL_SOCKET, name, &raw mut value, &raw mut length) as c_int
    };
    (result == 0).then_some(value)
}

/// The cookie of a socket (`SO_COOKIE`), which the kernel never reuses; `None` if the fd is no socket.
pub(crate) fn cookie(fd: c_int) -> Option<u64> {
    option(fd, SO_COOKIE, 0u64)
}

/// The memory of what was sent by a unix socket and is not received yet (`SO_MEMINFO`); 0 where the kernel does not tell.
///
/// Asked with `getsockopt`, as a cookie is, and not with `SIOCOUTQ`: a sandbox that permits [`cookie`] permits this, too.
pub(crate) fn queued(fd: c_int) -> u64 {
    // `SK_MEMINFO_WMEM_ALLOC` is the third of nine (linux/sock_diag.h).
    option(fd, SO_MEMINFO, [0u32; 9]).map_or(0, |[_, _, sent, ..]| sent.into())
}

/// Whether closing this socket resets it (`SO_LINGER` on, with timeout 0).
pub(crate) fn aborts(fd: c_int) -> bool {
    option(fd, SO_LINGER, [0 as c_int; 2]).is_some_and(|[on, seconds]| on != 0 && seconds == 0)
}

/// Whether this is a TCP socket, and no listener.
pub(crate) fn is_tcp(fd: c_int) -> bool {
    const TCP: c_int = 6;
    let family = option(fd, SO_DOMAIN, 0 as c_int);
    family.is_some_and(|family| family == c_int::from(AF_INET) || family == c_int::from(AF_INET6))
        && option(fd, SO_PROTOCOL, 0 as c_int) == Some(TCP)
        && option(fd, SO_ACCEPTCONN, 0 as c_int) == Some(0)
}

/// Whether this is a TCP connection of which neither side has sent or received a FIN.
pub(crate) fn is_established(fd: c_int) -> bool {
    const TCP: c_int = 6;
    const TCP_INFO: c_int = 11;
    const ESTABLISHED: u8 = 1;
    // `struct tcp_info` begins with the state.
    let mut state = 0u8;
    let mut length: c_uint = 1;
    // SAFETY: the kernel writes at most `length` bytes, one, to a live byte.
    let result =
        unsafe { syscall!(number::GETSOCKOPT, fd, TCP, TCP_INFO, &raw mut state, &raw mut length) as c_int };
    result == 0 && state == ESTABLISHED
}

/// Reads the start of a file; `None` if it cannot be opened or read.
pub(crate) fn read_file<'a>(path: &core::ffi::CStr, into: &'a mut [u8]) -> Option<&'a [u8]> {
    const AT_FDCWD: c_int = -100;
    // SAFETY: a path that ends in a zero.
    let fd = unsafe { syscall!(number::OPENAT, AT_FDCWD, path.as_ptr(), SOCK_CLOEXEC, 0) as c_int };
    if fd < 0 {
        return None;
    }
    // SAFETY: writes at most the length of a live slice.
    let got = unsafe { syscall!(number::READ, fd, into.as_mut_ptr(), into.len()) };
    close(fd);
    into.get(..usize::try_from(got).ok()?)
}

/// The local port; `None` for a socket without one.
pub(crate) fn local_port(fd: c_int) -> Option<u16> {
    let mut address = [0u16; 64];
    let mut length = size_of::<[u16; 64]>() as c_uint;
    // SAFETY: the kernel writes at most `length` bytes to the live array, which is longer than any address here.
    let result = unsafe { syscall!(number::GETSOCKNAME, fd, address.as_mut_ptr(), &raw mut length) as c_int };
    let [family, port, ..] = address;
    (result == 0 && (family == AF_INET || family == AF_INET6)).then(|| u16::from_be(port))
}

/// The number of received and unread bytes (FIONREAD).
pub(crate) fn unread(fd: c_int) -> u32 {
    let mut bytes: c_int = 0;
    // SAFETY: the request writes one int through the pointer.
    let result = unsafe { syscall!(number::IOCTL, fd, c_long::from(FIONREAD), &raw mut bytes) as c_int };
    if result == 0 { u32::try_from(bytes).unwrap_or(0) } else { 0 }
}

#[repr(C)]
struct PollFd {
    fd: c_int,
    events: i16,
    revents: i16,
}

/// Polls an fd for events, for at most `microseconds`. Returns the events that came; 0 if none did.
pub(crate) fn poll(fd: c_int, events: i16, microseconds: i64) -> i16 {
    let mut one = PollFd { fd, events, revents: 0 };
    let timeout = [microseconds / 1_000_000, microseconds % 1_000_000 * 1_000];
    let no_mask = core::ptr::null::<c_void>();
    let size: c_long = 8;
    // SAFETY: one live pollfd, a live timespec of two longs, no signal mask.
    unsafe { syscall!(number::PPOLL, &raw mut one, c_long::from(1), timeout.as_ptr(), no_mask, size) };
    one.revents
}

/// Sleeps for 50 microseconds.
pub(crate) fn pause() {
    let time: [i64; 2] = [0, 50_000];
    let (nothing, size) = (core::ptr::null::<c_void>(), 8);
    // SAFETY: no fds, a live timespec, no signal mask.
    unsafe { syscall!(number::PPOLL, nothing, 0, time.as_ptr(), nothing, size) };
}

/// Removes an fd from an epoll, as the close of its file's last fd would.
pub(crate) fn forget(epoll: c_int, fd: c_int) {
    // SAFETY: numbers; the event is not read when removing.
    unsafe { syscall!(number::EPOLL_CTL, epoll, EPOLL_CTL_DEL, fd, core::ptr::null::<c_void>()) };
}

/// Connects a new non-blocking, close-on-exec `SOCK_SEQPACKET` socket to an abstract address.
pub(crate) fn connect(name: &[u8]) -> Option<c_int> {
    const ROOM: usize = 108;
    let kind = c_long::from(SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK);
    // SAFETY: three numbers.
    let fd = unsafe { syscall!(number::SOCKET, c_long::from(AF_UNIX), kind, c_long::from(0)) as c_int };
    if fd < 0 {
        return None;
    }
    // The family, a zero byte that makes the name abstract, the name.
    let mut address = [0u8; 2 + ROOM];
    address[..2].copy_from_slice(&(AF_UNIX as u16).to_ne_bytes());
    address.get_mut(3..3 + name.len())?.copy_from_slice(name);
    let length = 3 + name.len() as c_long;
    // SAFETY: reads `length` bytes of the live array.
    let result = unsafe { syscall!(number::CONNECT, fd, address.as_ptr(), length) as c_int };
    if result < 0 {
        close(fd);
        return None;
    }
    Some(fd)
}
