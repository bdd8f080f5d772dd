//! The lingering close: end a connection so that the peer gets every byte that was written.
//!
//! A server that calls `close()` while bytes of the request are unread, or before the last of them has
//! arrived, makes the kernel send a reset **and throw away the response it has not sent yet** (RFC 1122
//! section 4.2.2.13, RFC 2525 section 2.17, `tcp_close` in Linux). No call reports an error. The cure is
//! to half-close, to read and discard until the peer closes or a bound is reached, and only then to
//! close (RFC 9112 section 9.6):
//!
//! ```no_run
//! use std::io::{Read, Write};
//! use std::net::TcpListener;
//!
//! let listener = TcpListener::bind("127.0.0.1:8080")?;
//! let policy = linger::Policy::default();
//! for stream in listener.incoming() {
//!     let mut stream = stream?;
//!     let mut request = [0; 4096];
//!     let _ = stream.read(&mut request)?;
//!     stream.write_all(b"HTTP/1.0 413 Content Too Large\r\n\r\n")?;
//!     let outcome = linger::close(stream, &policy);
//!     if !outcome.delivered() {
//!         eprintln!("the peer may have lost the response: {outcome}");
//!     }
//! }
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! The decisions are made by [`Machine`], which owns no socket and reads no clock; [`close`] drives it for
//! a blocking caller, and [`Closer`] drives thousands in the background.
//! Features bring the same close to [tokio](manual::howto), hyper, axum and rustls; the [`manual`] says how, why,
//! and what goes wrong elsewhere.
#![warn(clippy::exhaustive_enums, clippy::exhaustive_structs)]

#[cfg(feature = "axum")]
pub mod axum;
mod blocking;
mod closer;
#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "hyper")]
pub mod hyper;
mod machine;
pub mod manual;
mod outcome;
mod policy;
#[cfg(feature = "rustls")]
pub mod rustls;
mod socket;
mod sync;
#[cfg(feature = "tokio")]
pub mod tokio;

pub use blocking::close;
pub use closer::{Budget, Closer, EndedCounts, InvalidBudget, Snapshot};
pub use machine::{Action, Event, Machine};
pub use outcome::{Bound, Ended, Outcome};
pub use policy::{AtLimit, InvalidPolicy, Mode, Policy, defaults};
