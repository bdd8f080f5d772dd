//! Early answers as clients feel them: the answer, the write side, and the next request on the same pool.
//!
//! The bare server is the judge: the layer must never be worse than it in what arrives, in errors, or in what comes
//! next.

mod clients;
mod hostile;
mod keep;
mod server;
#[path = "../support/mod.rs"]
mod support;
mod two;
