//! Experiments with several hosts: who runs what, which links join them, what their clients do, and what became of the
//! responses.
//!
//! The hosts and links are a tree, so that there is one way from each host to each other. A plan is plain data ([`plan`]), read
//! from a scenario ([`file`]); [`stage`] builds it and starts its programs, [`trials`] lets the clients loose and judges.

mod file;
mod plan;
mod program;
mod stage;
mod tree;
mod trials;

pub use plan::{
    Amount, HostFile, HostPlan, HostProgram, JoinedHosts, NetworkExpectation, NetworkPlan, Readiness,
    Requests, SETTABLE, WhyExpectation,
};
pub use stage::{LiveNetwork, NetworkSetting};
pub use trials::{HostReport, NetworkReport, run_network};
