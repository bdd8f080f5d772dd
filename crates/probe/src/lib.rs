//! Tests from outside how an unknown server closes its connections.
//!
//! The client keeps its own receive window small and reads late, so that most of a response still waits in
//! the server when the server closes: what is lost then shows on loopback and on any network, without an
//! emulated link. Answers about losses stand on bytes, on their order and on how the connection ended. Durations are
//! reported, and decide only the questions that are about time.
//!
//! ```no_run
//! let target = "http://127.0.0.1:8080/large".parse()?;
//! let report = linger_probe::probe(&target, &linger_probe::ProbeConfig::default(), |_| {})?;
//! for finding in &report.findings {
//!     println!("{}: {} - {}", finding.check, finding.answer, finding.sentence);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![warn(clippy::exhaustive_enums, clippy::exhaustive_structs)]

mod budget;
mod check;
mod checks;
mod config;
mod counters;
mod deadline;
mod dial;
mod dialect;
mod direction;
mod error;
mod finding;
mod framing;
mod hostile;
mod http2;
mod judge;
mod keep_alive;
mod late;
mod learn;
mod model;
mod no_response;
mod often;
mod probe;
mod prober;
mod proxy;
mod reload;
mod request;
mod route;
mod seen;
mod target;
mod tls;
mod trial;
mod tunnel;
mod uploads;
mod websocket;
mod wire;
mod witness;

pub use budget::{AFFORDABLE, Cost, QUIET};
pub use check::Check;
pub use config::{ProbeConfig, defaults};
pub use direction::{ConnectRule, ResolveRule};
pub use error::ProbeError;
pub use finding::{
    CheckAnswer, CheckFinding, Doubt, IdleLimit, LeftOut, ProbeReport, Unlike, UnreachedAddress,
};
pub use framing::Framing;
pub use linger_verdict::Verdict;
pub use model::{Amount, Lengths};
pub use no_response::NoResponse;
pub use probe::{ProbePlan, probe, will_ask};
pub use proxy::Proxy;
pub use reload::by::{ReloadBy, ReloadSignal};
pub use reload::counted::{ReloadFound, ReloadShown, RequestCounts};
pub use request::{AskedMethod, HeaderField};
pub use seen::ConnectionEnd;
pub use target::{InvalidTarget, Scheme, Target};
pub use witness::Witnessed;
