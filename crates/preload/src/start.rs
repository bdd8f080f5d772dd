//! Code that runs before `main`, and after it.

use core::ffi::c_int;

use crate::{exit, fork, hooks, settings, state, sys};

/// Runs once, before `main`.
extern "C" fn start(_: c_int, _: *const (), _: *const ()) {
    hooks::resolve();
    let Some(text) = sys::environment(c"LINGER_RUN") else { return };
    settings::read(text.to_bytes(), || {
        state::prepare();
        sys::at_fork(fork::child);
    });
}

/// Runs in `exit`, after what the program registered with `atexit`.
extern "C" fn stop() {
    if settings::settings().is_some() {
        exit::exit();
    }
}

#[cfg_attr(preloaded, used, unsafe(link_section = ".init_array"))]
static START: extern "C" fn(c_int, *const (), *const ()) = start;

#[cfg_attr(preloaded, used, unsafe(link_section = ".fini_array"))]
static STOP: extern "C" fn() = stop;
