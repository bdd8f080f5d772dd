//! Views of TCP segments inside frames; reading and writing of capture files.
//!
//! [`Segment`] finds the TCP header of a frame and reads it, without copying or allocating. [`capture::open`] reads captures, [`pcapng::Writer`] writes them.
//!
//! This crate draws no conclusions from the packets: `linger-why` does that.
#![warn(clippy::exhaustive_enums)]

pub mod capture;
mod link;
mod options;
pub mod pcapng;
mod segment;

pub use link::LinkType;
pub use options::{MptcpEnd, TcpOptions};
pub use segment::{Flags, IcmpError, IcmpProblem, Layer, NotTcp, Path, Segment};
