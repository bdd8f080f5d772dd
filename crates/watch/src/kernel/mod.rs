//! Where the events come from: perf rings, tracepoints, `sock_diag`; this crate's only unsafe code.
//!
//! Each block says why it is sound. What the events mean is not known here.

pub(crate) mod leftovers;
pub(crate) mod perf;
pub(crate) mod sock_diag;
pub(crate) mod tracepoint;
