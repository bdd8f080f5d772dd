//! The system calls of this crate, and its only unsafe code; each block says why it is sound.

pub(crate) mod isolate;
pub(crate) mod namespace;
pub mod net;
