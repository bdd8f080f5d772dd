//! Shared by the tests of all crates: private networks, real servers, sample programs, and counted skips.
//!
//! For tests, benches and `cargo xtask` only: as a part of the test runner it prints, panics and reads the environment.

mod hosts;
#[allow(unsafe_code)]
mod kernel;
#[cfg(feature = "samples")]
pub mod samples;
mod sandbox;
pub mod servers;
mod skip;

pub use hosts::{HOSTS, two_hosts};
pub use kernel::{allocated, close_under_its_owner, refuse, run_last, seclude};
pub use linger_netns::{Counters, Isolation, Namespace, net};
#[cfg(feature = "reqwest")]
pub use reqwest;
pub use sandbox::{all_descriptors, sandboxed, secluded};
pub use skip::skip;
