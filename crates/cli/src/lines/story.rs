//! The lines of `--json` of `linger lab story`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use super::LineBody;

/// Uploads behind one gateway: without the cure, or with it.
#[derive(Serialize, JsonSchema)]
pub(crate) struct StoryUploads {
    /// `nginx`, `httpd`, or the client itself where there is none.
    pub(crate) gateway: &'static str,
    /// Whether the application ran under `linger run`.
    pub(crate) cured: bool,
    /// Requests.
    pub(crate) requests: u64,
    /// Bytes of all response bodies.
    pub(crate) expected_bytes: u64,
    /// Those that arrived.
    pub(crate) got_bytes: u64,
    /// Requests that the client itself called failed; null where it does not say.
    pub(crate) client_failed: Option<u64>,
    /// Lines of the gateway's log that speak of a reset; null without a gateway.
    pub(crate) gateway_log_resets: Option<u64>,
    /// The application's kernel: connections that were closed with unread data (`TCPAbortOnClose`).
    pub(crate) closed_with_unread_data: u64,
    /// The application's kernel: connections that met data after the close (`TCPAbortOnData`).
    pub(crate) data_after_close: u64,
    /// Failed connections by what `linger why` says of their packets, and how sure it is.
    pub(crate) why: BTreeMap<String, u64>,
    /// Resets by what `linger watch` told meanwhile; null where it did not watch.
    pub(crate) watch: Option<BTreeMap<String, u64>>,
    /// Why it did not.
    pub(crate) watch_refused: Option<String>,
}

impl LineBody for StoryUploads {
    const KIND: &'static str = "story_uploads";
}

/// A full accept queue.
#[derive(Serialize, JsonSchema)]
pub(crate) struct StoryBacklog {
    /// Clients at once.
    pub(crate) clients: u32,
    /// The accept queue's limit.
    pub(crate) backlog: u32,
    /// Clients by what they said.
    pub(crate) said: BTreeMap<String, u64>,
    /// Connections for which the queue had no room (`ListenOverflows`).
    pub(crate) overflows: u64,
    /// Failed connections by what `linger why` says; null where no packets were recorded.
    pub(crate) why: Option<BTreeMap<String, u64>>,
}

impl LineBody for StoryBacklog {
    const KIND: &'static str = "story_backlog";
}

/// The whole story.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Story {
    /// Whether responses were lost without the cure, none with it, and the queue overflowed.
    pub(crate) as_told: bool,
    /// Whether the programs acted that had the loss, and not this program's sample.
    pub(crate) real: bool,
    /// What would have to be installed for the whole story.
    pub(crate) missing: Vec<&'static str>,
    /// The link between gateway and application.
    pub(crate) link: String,
    /// The seed of the link's random decisions.
    pub(crate) seed: u64,
}

impl LineBody for Story {
    const KIND: &'static str = "story";
}
