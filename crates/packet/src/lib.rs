//! Views of TCP segments inside frames, and capture files in and out.
//!
//! [`Segment`] looks at a frame without copying or allocating and says where its TCP header is and what
//! stands in it. [`capture::open`] reads captures, [`pcapng::Writer`] writes them.
//!
//! Nothing here judges what it sees: that is the business of the crate `linger-why`.
#![warn(clippy::exhaustive_enums)]

pub mod capture;
mod link;
mod options;
pub mod pcapng;
mod segment;

pub use link::LinkType;
pub use options::Options;
pub use segment::{Flags, NotTcp, Segment};
