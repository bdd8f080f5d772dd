//! The functions of the C library that this library replaces.
//!
//! Most of these functions do something of their own only for a tracked fd. Then they call the next definition of the same
//! name (`RTLD_NEXT`). The constructor looks up all next definitions. A function that is called earlier looks up its own.
//! If there is no next definition, the function fails with `ENOSYS`. As long as the next definition is not looked up, `close`
//! and `dup2` make the system call themselves; `close_range`, `closefrom`, `_exit`, `_Exit` and `syscall` always do.

use core::ffi::{c_char, c_int, c_long, c_uint, c_ulong, c_void};
use core::mem::transmute;
use core::sync::atomic::{AtomicPtr, Ordering::Relaxed};

use crate::message::{MMsgHdr, MsgHdr, rights};
use crate::state::{
    TABLE, is_this_process, is_tracked, program_lingers, program_shuts_read_side, program_waits_for_more,
};
use crate::{channel, ending, exit, sandbox, settings, sys};

/// One of the replaced functions.
struct Real(AtomicPtr<c_void>, &'static core::ffi::CStr);

impl Real {
    const fn new(name: &'static core::ffi::CStr) -> Self {
        Self(AtomicPtr::new(core::ptr::null_mut()), name)
    }

    /// The next definition. May be called before this library's constructor, from those of other libraries.
    fn get(&self) -> *mut c_void {
        match self.0.load(Relaxed) {
            found if !found.is_null() => found,
            _ => {
                let found = sys::next(self.1);
                self.0.store(found, Relaxed);
                found
            }
        }
    }
}

macro_rules! real {
    ($($place:ident $name:literal),* $(,)?) => {
        $(static $place: Real = Real::new($name);)*
        /// Looks up all next definitions, so that no later call has to: `dlsym` takes a lock.
        pub(crate) fn resolve() {
            $($place.get();)*
        }
    };
}

real! {
    CLOSE c"close", CLOSE_RANGE c"close_range", DUP c"dup", DUP2 c"dup2", DUP3 c"dup3", FCNTL c"fcntl",
    FCNTL64 c"fcntl64", SHUTDOWN c"shutdown", FCLOSE c"fclose", ACCEPT c"accept", ACCEPT4 c"accept4",
    CONNECT c"connect", SETSOCKOPT c"setsockopt", SENDMSG c"sendmsg", RECVMSG c"recvmsg",
    EPOLL_CREATE c"epoll_create", EPOLL_CREATE1 c"epoll_create1", EPOLL_CTL c"epoll_ctl",
    EXECVE c"execve", EXECV c"execv", EXECVP c"execvp", EXECVPE c"execvpe", FEXECVE c"fexecve",
    QUICK_EXIT c"quick_exit", PRCTL c"prctl", SENDMMSG c"sendmmsg", RECVMMSG c"recvmmsg",
}

/// Calls the real function with its C type.
macro_rules! call {
    ($place:ident as fn($($kind:ty),*) -> $result:ty, $($argument:expr),*) => {{
        let found = $place.get();
        if found.is_null() {
            // The C library is older than the function.
            sys::set_errno(sys::ENOSYS);
            -1
        } else {
            // SAFETY: the C library's function of this name has this type (POSIX, or its Linux man page).
            let real = unsafe { transmute::<*mut c_void, unsafe extern "C" fn($($kind),*) -> $result>(found) };
            // SAFETY: the arguments are the program's own, for the function it meant to call.
            unsafe { real($($argument),*) }
        }
    }};
}

#[cfg_attr(preloaded, unsafe(no_mangle))]
pub(crate) extern "C" fn close(fd: c_int) -> c_int {
    if channel::is(fd) {
        sys::set_errno(sys::EBADF);
        return -1;
    }
    if is_tracked(fd) {
        ending::end(fd);
    }
    let real = CLOSE.0.load(Relaxed);
    if real.is_null() {
        return sys::close(fd);
    }
    call!(CLOSE as fn(c_int) -> c_int, fd)
}

#[cfg_attr(preloaded, unsafe(no_mangle))]
pub(crate) extern "C" fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int {
    const CLOEXEC: c_int = 4;
    if flags & CLOEXEC != 0 || first > last || sandbox::is_entered() {
        return sys::close_range(first, last, flags);
    }
    let number = |fd: c_uint| c_int::try_from(fd).unwrap_or(c_int::MAX);
    for fd in TABLE.fds(number(first), number(last)) {
        ending::end(fd);
    }
    match channel::descriptor().map(|fd| fd as c_uint) {
        Some(channel) if (first..=last).contains(&channel) && is_this_process() => {
            let below = if first < channel { sys::close_range(first, channel - 1, flags) } else { 0 };
            let above = if channel < last { sys::close_range(channel + 1, last, flags) } else { 0 };
            below.min(above)
        }
        _ => sys::close_range(first, last, flags),
    }
}

#[cfg_attr(preloaded, unsafe(no_mangle))]
extern "C" fn closefrom(first: c_int) {
    close_range(first.max(0) as c_uint, c_uint::MAX, 0);
}

/// Shared by `dup2` and `dup3`: does what a close of `new` needs, and calls `real`, which makes `new` an fd of the file at `old`.
fn replace(old: c_int, new: c_int, real: impl FnOnce() -> c_int) -> c_int {
    if old == new {
        return real();
    }
    channel::make_way(new);
    // If `old` is not open, nothing is closed.
    if is_tracked(new) && sys::closes_on_exec(old).is_some() {
        ending::end(new);
    }
    copy(old, real())
}

fn copy(old: c_int, new: c_int) -> c_int {
    if new >= 0 && is_tracked(old) {
        ending::copied(old, new);
    }
    new
}

#[cfg_attr(preloaded, unsafe(no_mangle))]
pub(crate) extern "C" fn dup(old: c_int) -> c_int {
    copy(old, call!(DUP as fn(c_int) -> c_int, old))
}

#[cfg_attr(preloaded, unsafe(no_mangle))]
pub(crate) extern "C" fn dup2(old: c_int, new: c_int) -> c_int {
    replace(old, new, || match DUP2.0.load(Relaxed).is_null() {
        true => sys::dup2(old, new),
        false => call!(DUP2 as fn(c_int, c_int) -> c_int, old, new),
    })
}

#[cfg_attr(preloaded, unsafe(no_mangle))]
pub(crate) extern "C" fn dup3(old: c_int, new: c_int, flags: c_int) -> c_int {
    if old == new {
        sys::set_errno(sys::EINVAL);
        return -1;
    }
    replace(old, new, || call!(DUP3 as fn(c_int, c_int, c_int) -> c_int, old, new, flags))
}

/// Whether a command of `fcntl` makes another fd of the file.
const fn copies(command: c_int) -> bool {
    matches!(command, sys::F_DUPFD | sys::F_DUPFD_CLOEXEC)
}

// Variadic in C; on x86-64 and AArch64 a third argument is passed in the same register either way.
#[cfg_attr(preloaded, unsafe(no_mangle))]
pub(crate) extern "C" fn fcntl(fd: c_int, command: c_int, argument: c_ulong) -> c_int {
    let result = call!(FCNTL as fn(c_int, c_int, c_ulong) -> c_int, fd, command, argument);
    if copies(command) { copy(fd, result) } else { result }
}

#[cfg_attr(preloaded, unsafe(no_mangle))]
extern "C" fn fcntl64(fd: c_int, command: c_int, argument: c_ulong) -> c_int {
    let result = call!(FCNTL64 as fn(c_int, c_int, c_ulong) -> c_int, fd, command, argument);
    if copies(command) { copy(fd, result) } else { result }
}

#[cfg_attr(preloaded, unsafe(no_mangle))]
pub(crate) extern "C" fn shutdown(fd: c_int, how: c_int) -> c_int {
    if how != sys::SHUT_WR && is_tracked(fd) {
        match how {
            sys::SHUT_RD => program_shuts_read_side(),
            sys::SHUT_RDWR => {
                if let Some(done) = ending::shutdown(fd) {
                    return done;
                }
            }
            _ => {}
        }
    }
    call!(SHUTDOWN as fn(c_int, c_int) -> c_int, fd, how)
}

// `fclose` closes the fd without calling the exported `close`.
#[cfg_attr(preloaded, unsafe(no_mangle))]
extern "C" fn fclose(file: *mut c_void) -> c_int {
    // SAFETY: the program passes an open FILE, as `fclose` demands.
    let fd = unsafe { sys::fileno(file) };
    if is_tracked(fd) {
        // SAFETY: as above. What is buffered must be written before the half-close.
        unsafe { sys::fflush(file) };
        ending::end(fd);
    }
    call!(FCLOSE as fn(*mut c_void) -> c_int, file)
}

#[cfg_attr(preloaded, unsafe(no_mangle))]
pub(crate) extern "C" fn accept(fd: c_int, address: *mut c_void, length: *mut c_uint) -> c_int {
    let got = call!(ACCEPT as fn(c_int, *mut c_void, *mut c_uint) -> c_int, fd, address, length);
    if got >= 0 {
        ending::accepted(got);
    }
    got
}

#[cfg_attr(preloaded, unsafe(no_mangle))]
pub(crate) extern "C" fn accept4(
    fd: c_int,
    address: *mut c_void,
    length: *mut c_uint,
    flags: c_int,
) -> c_int {
    let got =
        call!(ACCEPT4 as fn(c_int, *mut c_void, *mut c_uint, c_int) -> c_int, fd, address, length, flags);
    if got >= 0 {
        ending::accepted(got);
    }
    got
}

#[cfg_attr(preloaded, unsafe(no_mangle))]
extern "C" fn connect(fd: c_int, address: *const c_void, length: c_uint) -> c_int {
    const EINPROGRESS: c_int = 115;
    let result = call!(CONNECT as fn(c_int, *const c_void, c_uint) -> c_int, fd, address, length);
    let outgoing = settings::settings().is_some_and(|settings| settings.outgoing);
    if outgoing && (result == 0 || sys::errno() == EINPROGRESS) {
        let _errno = sys::Errno::keep();
        if sys::is_tcp(fd) {
            ending::connected(fd);
        }
    }
    result
}

#[cfg_attr(preloaded, unsafe(no_mangle))]
pub(crate) extern "C" fn setsockopt(
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *const c_void,
    length: c_uint,
) -> c_int {
    match name {
        sys::SO_LINGER if level == sys::SOL_SOCKET => program_lingers(),
        sys::SO_RCVLOWAT if level == sys::SOL_SOCKET => program_waits_for_more(),
        _ => {}
    }
    call!(
        SETSOCKOPT as fn(c_int, c_int, c_int, *const c_void, c_uint) -> c_int,
        fd,
        level,
        name,
        value,
        length
    )
}

#[cfg_attr(preloaded, unsafe(no_mangle))]
extern "C" fn sendmsg(fd: c_int, message: *const MsgHdr, flags: c_int) -> isize {
    let sent = call!(SENDMSG as fn(c_int, *const MsgHdr, c_int) -> isize, fd, message, flags);
    if sent >= 0 {
        // SAFETY: the program's message, which the kernel has read.
        let passed = unsafe { rights(message) };
        passed.filter(|fd| is_tracked(*fd)).for_each(ending::given_away);
    }
    sent
}

#[cfg_attr(preloaded, unsafe(no_mangle))]
extern "C" fn recvmsg(fd: c_int, message: *mut MsgHdr, flags: c_int) -> isize {
    let got = call!(RECVMSG as fn(c_int, *mut MsgHdr, c_int) -> isize, fd, message, flags);
    if got >= 0 {
        // SAFETY: the kernel has filled the program's message.
        unsafe { rights(message) }.for_each(ending::received);
    }
    got
}

#[cfg_attr(preloaded, unsafe(no_mangle))]
extern "C" fn sendmmsg(fd: c_int, messages: *mut MMsgHdr, count: c_uint, flags: c_int) -> c_int {
    let sent = call!(SENDMMSG as fn(c_int, *mut MMsgHdr, c_uint, c_int) -> c_int, fd, messages, count, flags);
    for place in 0..usize::try_from(sent).unwrap_or(0) {
        // SAFETY: as many of the program's messages as the kernel has read.
        let passed = unsafe { rights(messages.wrapping_add(place).cast()) };
        passed.filter(|fd| is_tracked(*fd)).for_each(ending::given_away);
    }
    sent
}

#[cfg_attr(preloaded, unsafe(no_mangle))]
extern "C" fn recvmmsg(
    fd: c_int,
    messages: *mut MMsgHdr,
    count: c_uint,
    flags: c_int,
    timeout: *mut c_void,
) -> c_int {
    let got = call!(
        RECVMMSG as fn(c_int, *mut MMsgHdr, c_uint, c_int, *mut c_void) -> c_int,
        fd,
        messages,
        count,
        flags,
        timeout
    );
    for place in 0..usize::try_from(got).unwrap_or(0) {
        // SAFETY: as many of the program's messages as the kernel has filled.
        unsafe { rights(messages.wrapping_add(place).cast()) }.for_each(ending::received);
    }
    got
}

#[cfg_attr(preloaded, unsafe(no_mangle))]
extern "C" fn epoll_create(size: c_int) -> c_int {
    let epoll = call!(EPOLL_CREATE as fn(c_int) -> c_int, size);
    if epoll >= 0 {
        TABLE.made_epoll(epoll);
    }
    epoll
}

#[cfg_attr(preloaded, unsafe(no_mangle))]
pub(crate) extern "C" fn epoll_create1(flags: c_int) -> c_int {
    let epoll = call!(EPOLL_CREATE1 as fn(c_int) -> c_int, flags);
    if epoll >= 0 {
        TABLE.made_epoll(epoll);
    }
    epoll
}

#[cfg_attr(preloaded, unsafe(no_mangle))]
pub(crate) extern "C" fn epoll_ctl(epoll: c_int, operation: c_int, fd: c_int, event: *mut c_void) -> c_int {
    const ADD: c_int = 1;
    const DEL: c_int = 2;
    let result =
        call!(EPOLL_CTL as fn(c_int, c_int, c_int, *mut c_void) -> c_int, epoll, operation, fd, event);
    if result == 0 && is_tracked(fd) {
        match operation {
            ADD => TABLE.watched(fd, epoll),
            DEL => TABLE.unwatched(fd, epoll),
            _ => {}
        }
    }
    result
}

// Variadic in C, as `fcntl`.
#[cfg_attr(preloaded, unsafe(no_mangle))]
extern "C" fn prctl(option: c_int, a: c_ulong, b: c_ulong, c: c_ulong, d: c_ulong) -> c_int {
    let real = || call!(PRCTL as fn(c_int, c_ulong, c_ulong, c_ulong, c_ulong) -> c_int, option, a, b, c, d);
    if option == sys::PR_SET_SECCOMP { ending::entering_sandbox(real) } else { real() }
}

/// Announces the connections that an exec closes, and withdraws that if the exec fails and so returns.
fn executing(real: impl FnOnce() -> c_int) -> c_int {
    if settings::settings().is_none() {
        return real();
    }
    exit::before_exec();
    let result = real();
    exit::after_exec();
    result
}

type Strings = *const *const c_char;

#[cfg_attr(preloaded, unsafe(no_mangle))]
extern "C" fn execve(path: *const c_char, arguments: Strings, environment: Strings) -> c_int {
    executing(|| call!(EXECVE as fn(*const c_char, Strings, Strings) -> c_int, path, arguments, environment))
}

#[cfg_attr(preloaded, unsafe(no_mangle))]
extern "C" fn execv(path: *const c_char, arguments: Strings) -> c_int {
    executing(|| call!(EXECV as fn(*const c_char, Strings) -> c_int, path, arguments))
}

#[cfg_attr(preloaded, unsafe(no_mangle))]
extern "C" fn execvp(file: *const c_char, arguments: Strings) -> c_int {
    executing(|| call!(EXECVP as fn(*const c_char, Strings) -> c_int, file, arguments))
}

#[cfg_attr(preloaded, unsafe(no_mangle))]
extern "C" fn execvpe(file: *const c_char, arguments: Strings, environment: Strings) -> c_int {
    executing(|| call!(EXECVPE as fn(*const c_char, Strings, Strings) -> c_int, file, arguments, environment))
}

#[cfg_attr(preloaded, unsafe(no_mangle))]
extern "C" fn fexecve(fd: c_int, arguments: Strings, environment: Strings) -> c_int {
    executing(|| call!(FEXECVE as fn(c_int, Strings, Strings) -> c_int, fd, arguments, environment))
}

// Variadic in C: arguments that the caller did not pass have any value, and no call uses them. Some libraries (libuv) call
// `syscall(SYS_close, fd)` to avoid a cancellation point.
#[cfg_attr(preloaded, unsafe(no_mangle))]
pub(crate) extern "C" fn syscall(
    number: c_long,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    e: usize,
    f: usize,
) -> c_long {
    let fd = a as c_int;
    match number {
        sys::number::CLOSE => close(fd).into(),
        sys::number::CLOSE_RANGE => close_range(a as c_uint, b as c_uint, c as c_int).into(),
        sys::number::DUP => dup(fd).into(),
        sys::number::DUP3 => dup3(fd, b as c_int, c as c_int).into(),
        #[cfg(target_arch = "x86_64")]
        sys::number::DUP2 => dup2(fd, b as c_int).into(),
        sys::number::FCNTL if copies(b as c_int) => fcntl(fd, b as c_int, c as c_ulong).into(),
        sys::number::SHUTDOWN => shutdown(fd, b as c_int).into(),
        sys::number::ACCEPT => accept(fd, b as *mut c_void, c as *mut c_uint).into(),
        sys::number::ACCEPT4 => accept4(fd, b as *mut c_void, c as *mut c_uint, d as c_int).into(),
        sys::number::CONNECT => connect(fd, b as *const c_void, c as c_uint).into(),
        sys::number::EPOLL_CTL => epoll_ctl(fd, b as c_int, c as c_int, d as *mut c_void).into(),
        sys::number::SENDMSG => sendmsg(fd, b as *const MsgHdr, c as c_int) as c_long,
        sys::number::RECVMSG => recvmsg(fd, b as *mut MsgHdr, c as c_int) as c_long,
        sys::number::SENDMMSG => sendmmsg(fd, b as *mut MMsgHdr, c as c_uint, d as c_int).into(),
        sys::number::RECVMMSG => {
            recvmmsg(fd, b as *mut MMsgHdr, c as c_uint, d as c_int, e as *mut c_void).into()
        }
        sys::number::EXECVE => execve(a as *const c_char, b as Strings, c as Strings).into(),
        sys::number::EXIT_GROUP => leave(fd),
        sys::number::PRCTL => prctl(fd, b as c_ulong, c as c_ulong, d as c_ulong, e as c_ulong).into(),
        sys::number::SECCOMP if sandbox::is_filter(a) => {
            // SAFETY: the program's own call.
            ending::entering_sandbox(|| unsafe { sys::raw(number, [a, b, c, d, e, f]) })
        }
        // SAFETY: the program's own call.
        _ => unsafe { sys::raw(number, [a, b, c, d, e, f]) },
    }
}

fn leave(status: c_int) -> ! {
    if settings::settings().is_some() && is_this_process() {
        exit::exit();
    }
    sys::exit_group(status)
}

#[cfg_attr(preloaded, unsafe(no_mangle))]
extern "C" fn _exit(status: c_int) -> ! {
    leave(status)
}

#[cfg_attr(preloaded, unsafe(no_mangle))]
#[allow(non_snake_case)] // C's name.
extern "C" fn _Exit(status: c_int) -> ! {
    leave(status)
}

#[cfg_attr(preloaded, unsafe(no_mangle))]
extern "C" fn quick_exit(status: c_int) -> ! {
    if settings::settings().is_some() && is_this_process() {
        exit::exit();
    }
    call!(QUICK_EXIT as fn(c_int) -> c_int, status);
    sys::exit_group(status)
}
