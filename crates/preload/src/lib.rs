//! The library that crate `linger-run` preloads, as bytes to unpack, and its protocol with the supervisor.
//!
//! This crate is compiled twice. Cargo compiles it like any other, with tests. `build.rs` compiles the same modules into
//! the shared library (`cfg(preloaded)`), which runs inside other programs: without the standard library, an allocator,
//! locks or unwinding, and with system calls of its own. Only there do the hooks have the names of the functions that they
//! replace.
//!
//! `hooks` are called by the program, [`linger_custody`] decides what the call means, and `channel` tells the supervisor.
#![cfg_attr(preloaded, no_std)]
#![allow(unsafe_code)] // One of the crates where it may live; each block says why it is sound.
#![cfg_attr(not(preloaded), allow(dead_code))] // The hooks are called by the program in which the library is.

mod channel;
mod counts;
mod ending;
mod exit;
mod fork;
mod hooks;
mod message;
mod patience;
pub mod protocol;
mod releases;
mod sandbox;
mod settings;
mod start;
mod state;
mod sys;
#[cfg(test)]
mod tests;

/// The shared library, for a file that `LD_PRELOAD` names.
#[cfg(not(preloaded))]
pub const LIBRARY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/liblinger_preload.so"));

#[cfg(preloaded)]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    sys::abort()
}
