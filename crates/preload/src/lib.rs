//! The library that `linger run` preloads, as bytes to unpack, and what it says to its supervisor.
//!
//! What runs in the foreign program is `preload.rs` and the modules below it: no standard library, no
//! allocator, no lock, system calls only. `build.rs` compiles it into a shared library of its own. Here it is
//! compiled for the lints' sake alone.
#![allow(unsafe_code)] // One of the three crates where it may live; each block says why it is sound.

pub mod protocol;

#[cfg(clippy)]
#[allow(dead_code)]
mod preload {
    pub(crate) mod channel;
    pub(crate) mod counts;
    pub(crate) mod ending;
    pub(crate) mod fork;
    pub(crate) mod hooks;
    pub(crate) mod message;
    pub(crate) mod setup;
    pub(crate) mod sys;
    pub(crate) mod table;
}

/// The shared library, for a file that `LD_PRELOAD` names.
pub const LIBRARY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/liblinger_shim.so"));
