//! Reproduces the loss of responses at `close()`, and shows that a lingering close prevents it: servers and
//! clients on the real kernel, joined by an emulated link in private network namespaces.

mod backlog;
mod bed;
mod blame;
mod cable;
mod campaign;
mod cell;
mod client;
mod clock;
mod duration;
mod ending;
mod exec;
mod expectation;
mod fate;
mod host_names;
mod ip_version;
#[allow(unsafe_code)]
mod kernel;
mod last_word;
mod link;
mod listening;
mod model;
mod named;
mod network;
mod one;
mod patience;
pub mod payload;
mod peer;
mod program;
mod program_user;
mod real;
mod runner;
mod scenario;
mod server;
mod stats;
mod steps;
mod stop;
mod sweep;
mod units;

pub use backlog::{BacklogPlan, BacklogReport, burst};
pub use bed::{Bed, BedOptions, any_seed};
pub use blame::{Blame, COUNTERS};
pub use campaign::{Campaign, First, Hosting, Until, campaign, host};
pub use cell::{CellPlan, CellReport, Setting, Trials, run};
pub use client::{ClientPlan, attempt};
pub use clock::Nanos;
pub use duration::duration;
pub use ending::Ending;
pub use exec::{ExecPlan, ExecReport, Guests, exec, exec_in};
pub use expectation::{Expectation, Share};
pub use fate::{Attempt, Fate};
pub use host_names::HostNames;
pub use ip_version::IpVersion;
pub use linger_verdict::Verdict;
pub use link::capture::Capture;
pub use link::decision::{Decision, Departure};
pub use link::ecn::EcnHandling;
pub use link::emulator::Emulator;
pub use link::identity::{Chance, Identity, Names};
pub use link::loss::{GilbertElliott, Loss};
pub use link::middlebox::{
    Forgotten, Middlebox, MiddleboxCounts, MiddleboxEnd, MiddleboxKind, MiddleboxTimeouts, WithoutState,
};
pub use link::mtu::PathMtu;
pub use link::trace::Trace;
pub use link::wire::{Lateness, Wire, WireReport};
pub use link::{Direction, Link, LinkChange, LinkClock, LinkFault, PRESETS, Path};
pub use model::ClientModel;
pub use named::Named;
pub use network::{
    Amount, HostFile, HostPlan, HostProgram, HostReport, JoinedHosts, LiveNetwork, NetworkExpectation,
    NetworkPlan, NetworkReport, NetworkSetting, Readiness, Requests, SETTABLE, WhyExpectation, run_network,
};
pub use one::{OneReport, one};
pub use peer::Peer;
pub use program::Program;
pub use program_user::ProgramUser;
pub use real::{CellClient, RealClient};
pub use runner::{run_all, side_by_side};
pub use scenario::Scenario;
pub use server::{Consume, LARGEST_RESPONSE, ServerPlan, ServerReport, listen, work};
pub use stats::{Tally, wilson};
pub use steps::{Actor, Step, StepAction, Steps};
pub use stop::Stop;
pub use units::{Bytes, Rate};

/// Locks a mutex, poisoned or not: no panic leaves the data in it half changed.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
