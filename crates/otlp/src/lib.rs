//! Sends events and metrics to an OpenTelemetry collector by OTLP, over HTTP or gRPC, with protobuf.
//!
//! There are two ends. [`Exporter`] belongs to the process that watches: it never waits, and keeps a bounded number of bytes.
//! [`send`] runs in a process of its own, which alone talks to the collector: it queues, waits, tries again and counts what it had to
//! give up. Between them is a socket pair, so that whoever watches needs neither the right to connect nor a thread.
#![warn(clippy::exhaustive_enums, clippy::exhaustive_structs)]

mod counts;
mod endpoint;
mod event;
mod exporter;
mod frame;
mod sender;

pub use counts::ExportCounts;
pub use endpoint::{BadEndpoint, Endpoint, OtlpProtocol};
pub use event::{AttributeValue, ExportedEvent, Severity};
pub use exporter::Exporter;
pub use sender::{BadHeader, BadRoots, MetricNaming, SendOptions, TrustedRoots, send, try_once};
