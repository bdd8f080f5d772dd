//! The metrics endpoint of the program: `/metrics` for Prometheus, `/healthz` for whoever restarts services, `/` for people.
//!
//! hyper reads the requests, in one thread that has no capabilities. Peers are bounded as this project asks of servers: each in
//! total, all in number, and a new one is served before the oldest that has sent no request.
#![warn(clippy::exhaustive_enums, clippy::exhaustive_structs)]

mod answer;
mod peers;
mod process;
mod serve;

pub use answer::MetricsSource;
pub use process::registry;
pub use serve::{EndpointLimits, serve};
