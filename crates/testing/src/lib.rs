//! What the tests of all crates share: private networks, real servers, sample programs, skips that are said aloud.
//!
//! For tests, benches and `cargo xtask` alone. It stands in for a test runner, so it prints, panics and reads the
//! environment, which the other libraries never do.

#[allow(unsafe_code)]
mod kernel;
#[cfg(feature = "samples")]
pub mod samples;
mod sandbox;
pub mod servers;
mod skip;

pub use kernel::{allocated, close_under_its_owner, refuse, run_last};
pub use linger_netns::{Counters, Isolation, Namespace, net};
pub use sandbox::{all_descriptors, sandboxed};
pub use skip::skip;
