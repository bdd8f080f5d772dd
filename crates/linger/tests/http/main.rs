//! Early answers as clients experience them: the answer, the client's writes, and the next request on the same
//! pool.
//!
//! The bare server is the standard: with the layer no client may get less, meet more errors, or do worse at its
//! next request.

mod clients;
mod hostile;
mod keep;
mod server;
mod short_end;
mod streams;
#[path = "../support/mod.rs"]
mod support;
mod two;
