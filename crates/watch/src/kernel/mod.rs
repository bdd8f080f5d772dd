//! The kernel interfaces of this crate: perf rings, tracepoints, `sock_diag`, packets. The only unsafe code of the crate.
//!
//! This module returns raw events; their meaning is decided in `events` and `diagnose`.

pub(crate) mod fork;
pub(crate) mod leftovers;
pub(crate) mod locked;
pub(crate) mod perf;
pub(crate) mod ring;
pub(crate) mod seccomp;
pub(crate) mod sock_diag;
pub(crate) mod tap;
pub(crate) mod tracepoint;
