//! FastCGI done so that nothing is lost at the end of a request.
//!
//! The protocol leaves the end of a connection to its implementors, and most get it wrong: a responder that closes
//! while so much as the empty STDIN record is unread makes the kernel reset the connection and throw away the part of
//! the response that was not sent yet. The order that works behind every gateway measured is **END_REQUEST,
//! half-close, bounded drain, close**; [`Responder`] keeps it, through crate `linger`.
//!
//! - [`record`], [`params`], [`incoming`], [`replies`]: the protocol, without sockets.
//! - [`conversation`]: what is read, what is answered and when a connection is over, without sockets, too. Threads and
//!   tokio only drive it, so that both answer the same.
//! - [`Responder`]: serves requests on blocking threads. Module `tokio` (with the feature of that name) serves them on
//!   a tokio runtime, and module `tower` serves any HTTP application.
//! - [`journal`]: an access log, and what keeps gateways waiting.
//! - [`environment`]: a request as the variables of a CGI program.
//! - [`Client`]: the gateway's side. It reads while it writes, takes a response for complete only with its
//!   END_REQUEST, and salvages what arrived before a reset.
//!
//! ```no_run
//! use std::io::Write;
//! use linger_fastcgi::{Responder, responder::Config};
//!
//! let responder = Responder::bind(&"127.0.0.1:9000".parse()?, Config::default())?;
//! responder.run(|request: &mut linger_fastcgi::Request, response: &mut linger_fastcgi::Response| {
//!     write!(response, "Content-Type: text/plain\r\n\r\nhello, {:?}", request.params().text("REMOTE_ADDR"))?;
//!     Ok(0)
//! })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![warn(clippy::exhaustive_enums, clippy::exhaustive_structs)]

mod address;
mod announced;
pub mod apps;
pub mod cgi;
pub mod conversation;
pub mod environment;
mod error;
pub mod gateway;
pub mod incoming;
pub mod journal;
mod leaving;
mod limits;
mod lobby;
pub mod params;
pub mod record;
mod record_type;
pub mod replies;
pub mod responder;
mod sending;
mod socket;
#[cfg(feature = "tokio")]
pub mod tokio;
#[cfg(feature = "tower")]
pub mod tower;
#[cfg(all(test, feature = "tokio"))]
mod transcripts;

pub use address::{Address, InvalidAddress};
pub use error::{Fault, ProtocolError};

pub use gateway::Client;
pub use limits::Limits;
pub use params::Params;
pub use responder::{Request, Responder, Response};
