//! The contract of `--json`: one type for each kind of line, and what all lines have in common.
//!
//! These types are separate from the libraries' types, which can change without breaking anybody's dashboard. `linger
//! schema` prints the JSON Schema made from them. [`SCHEMA`] is increased if a field gets another name, type or
//! meaning, or is no longer always there. It is not increased for a new field, a new kind of line or a new value of a
//! field.
//!
//! Names are in snake_case, with their unit where they have one: `_bytes`, `_seconds`. A time stands there twice, as
//! RFC 3339 in UTC and in seconds since 1970. What can be unknown is null, not left out.

mod common;
mod experiment;
mod fcgi;
mod hunt;
mod network;
mod peers;
mod probe;
mod receipt;
mod recorded;
mod reset;
mod run;
mod schema;
mod story;
mod transfer;
mod watch;
mod why;

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Serialize, Serializer};

pub(crate) use common::{left_out, rfc3339};
pub(crate) use experiment::{Backlog, Cell, ClientSummary, Exec, Hosting, Lab, One};
pub(crate) use fcgi::Fcgi;
pub(crate) use hunt::{Hunt, Replay, ToldPackets};
pub(crate) use network::{ExecHosts, Network};
pub(crate) use peers::{KnownPeer, OwnKey};
pub(crate) use probe::{Finding, Probe, WouldAsk};
pub(crate) use receipt::{CheckedEntry, VerifySummary};
pub(crate) use recorded::{RecordedLine, recording};
pub(crate) use reset::Reset;
pub(crate) use run::{Coverage, Refused, Report};
pub(crate) use schema::Schema;
pub(crate) use story::{Story, StoryBacklog, StoryUploads};
pub(crate) use transfer::{Code, ListedEntry, Listening, ServedLine, Transferred, progress};
pub(crate) use watch::{NeedState, need, notice};
pub(crate) use why::{CauseEntry, Group, Summary};

/// The version of the contract.
pub(crate) const SCHEMA: u32 = 1;

/// A verb that prints JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Verb {
    Client,
    Fcgi,
    Get,
    Hunt,
    Lab,
    Ls,
    Peers,
    Probe,
    Put,
    Receipt,
    Run,
    Server,
    Share,
    Watch,
    Why,
}

impl Verb {
    /// The verb's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Fcgi => "fcgi",
            Self::Get => "get",
            Self::Hunt => "hunt",
            Self::Lab => "lab",
            Self::Ls => "ls",
            Self::Peers => "peers",
            Self::Probe => "probe",
            Self::Put => "put",
            Self::Receipt => "receipt",
            Self::Run => "run",
            Self::Server => "server",
            Self::Share => "share",
            Self::Watch => "watch",
            Self::Why => "why",
        }
    }
}

/// A kind of line.
pub(crate) trait LineBody: Serialize + JsonSchema {
    /// The `type` of the lines. A type has one shape, whichever verb prints it. The summary of a verb has the verb's
    /// name as its type.
    const KIND: &'static str;
}

/// A line: `type`, then the body, then the origin.
pub(crate) struct Line<B>(B);

/// A line with this body.
pub(crate) fn line<B: LineBody>(body: B) -> Line<B> {
    Line(body)
}

impl<B: LineBody> Serialize for Line<B> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Flat<'a, B> {
            r#type: &'a str,
            #[serde(flatten)]
            body: &'a B,
            #[serde(flatten)]
            origin: Origin,
        }
        let flat = Flat { r#type: B::KIND, body: &self.0, origin: Origin::here() };
        flat.serialize(serializer)
    }
}

/// The origin of a line.
#[derive(Serialize, JsonSchema)]
struct Origin {
    /// The version of this schema.
    schema: u32,
    /// The version of the program.
    version: Cow<'static, str>,
    /// The name of the host on which the line was printed.
    host: String,
}

impl Origin {
    fn here() -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Self { schema: SCHEMA, version: env!("CARGO_PKG_VERSION").into(), host }
    }
}

impl<B: LineBody> LineBody for &B {
    const KIND: &'static str = B::KIND;
}
