//! From captured packets to the causes of TCP resets, with evidence.
//!
//! "Connection reset by peer" has a dozen causes, and one capture decides between some of them only. An
//! [`Analyzer`] takes the packets of a capture in one pass and gives a [`Finding`] for each connection that was
//! reset: what the wire proves ([`Class`]), why it was sent ([`Cause`]) and how sure that is ([`Confidence`]),
//! or which causes remain and what would decide between them. Connections that failed without a reset are findings too.
//!
//! [`examine`] does that for a file, [`compare`] sets several captures of the same connections against each other,
//! [`Groups`] joins the resets of one process, listener or firewall, and [`text`] and [`html`] write what an
//! operator reads.
#![warn(clippy::exhaustive_enums, clippy::exhaustive_structs)]

mod advice;
mod analyzer;
mod app;
mod boxes;
mod cause;
mod claim;
mod clock;
mod clusters;
mod connection;
mod counts;
mod facts;
mod filter;
mod finding;
mod flow;
mod group;
pub mod html;
mod key;
mod names;
mod opening;
mod overview;
mod owner;
mod pair;
mod places;
mod ports;
mod priors;
mod read;
mod record;
mod recorded_reset;
mod rules;
mod sacked;
mod select;
mod series;
mod service;
mod set;
mod side;
mod stop;
mod streams;
mod surroundings;
mod table;
pub mod text;
mod timeline;
mod timeouts;

pub use advice::{Alike, Capture, Host, NextEvidence, Remedy, Tools};
pub use analyzer::Analyzer;
pub use cause::{Cause, Class, Confidence};
pub use claim::{Asked, Claim, Farewell, Framed, Party, Repeated, StreamFate, StreamList};
pub use counts::{AnalyzerLimits, PacketCounts};
pub use filter::{FilterError, FindingFilter};
pub use finding::{Evidence, Finding, Rung};
pub use group::{Group, Groups, Member, Timing};
pub use owner::{Owner, OwnerRole};
pub use pair::{compare, compare_series};
pub use read::{ExamineEvent, ExamineOptions, Examined, examine, examine_reader, examine_set};
pub use rules::CauseRule;
pub use select::{HostRange, NoHostRange, Selection};
pub use set::{CaptureSet, SetFile};
pub use stop::ReadStop;
pub use surroundings::Drops;
pub use timeline::{Timeline, TimelineCount};
