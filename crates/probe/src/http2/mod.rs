//! The questions over HTTP/2. Crate `h2` speaks the protocol; what the server sent is read along frame by frame, because the
//! order of a response's end and of a reset of its stream decides whether the response was kept, and `h2` does not tell it.

mod exchange;
mod frames;
mod pipe;
mod plain;
mod questions;

pub(crate) use exchange::Exchange;
pub(crate) use pipe::Gate;
pub(crate) use plain::plain;
pub(crate) use questions::ask;
