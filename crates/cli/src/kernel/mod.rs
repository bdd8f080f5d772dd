//! Which standard streams were closed when the program was started.
//!
//! The standard library opens /dev/null in the place of a closed one, before `main`: a file that is sent from there would be
//! empty, and one that is written there would be lost, and nobody would be told.

use std::sync::atomic::{AtomicBool, Ordering};

static NO_STDIN: AtomicBool = AtomicBool::new(false);
static NO_STDOUT: AtomicBool = AtomicBool::new(false);

/// Whether there was no standard input when the program was started.
pub(crate) fn had_no_stdin() -> bool {
    NO_STDIN.load(Ordering::Relaxed)
}

/// Whether there was no standard output when the program was started.
pub(crate) fn had_no_stdout() -> bool {
    NO_STDOUT.load(Ordering::Relaxed)
}

extern "C" fn look() {
    let is_closed = |fd| rustix::io::fcntl_getfd(fd).is_err();
    NO_STDIN.store(is_closed(rustix::stdio::stdin()), Ordering::Relaxed);
    NO_STDOUT.store(is_closed(rustix::stdio::stdout()), Ordering::Relaxed);
}

/// The C library calls what this section names before the runtime of the standard library begins.
// SAFETY: the section holds pointers to functions of the C calling convention, which may take fewer arguments than they are
// given; `look` makes two system calls and stores two bytes, and needs nothing that `main` sets up.
#[used]
#[unsafe(link_section = ".init_array")]
static LOOK: extern "C" fn() = look;
