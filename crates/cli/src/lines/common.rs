//! What lines of several verbs have in common.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use linger_lab::MiddleboxCounts;
use linger_netns::Counters;
use linger_untrusted::to_json;
use linger_why::{Cause, Confidence};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Serialize;

use super::{LineBody, line};

/// A kind of line: its `type`, and the schema of its body.
pub(super) type LineKind = (&'static str, fn(&mut SchemaGenerator) -> Schema);

/// When something was.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct At {
    /// RFC 3339, in UTC; null outside of the years 1970 to 9999.
    #[schemars(schema_with = "date_time")]
    time: Option<String>,
    /// Seconds since 1970-01-01 00:00 UTC.
    time_seconds: f64,
}

impl At {
    pub(crate) fn seconds(seconds: f64) -> Self {
        Self { time: rfc3339(seconds), time_seconds: seconds }
    }
}

/// Returns `None` for a time that RFC 3339 cannot express.
pub(crate) fn rfc3339(seconds: f64) -> Option<String> {
    // To the nearest microsecond: a number of JSON is a little above or below it.
    let since = Duration::try_from_secs_f64(seconds).ok()?.checked_add(Duration::from_nanos(500))?;
    let mut text = String::new();
    let time: SystemTime = UNIX_EPOCH.checked_add(since)?;
    write!(text, "{}", humantime::format_rfc3339_micros(time)).ok()?;
    Some(text)
}

/// Lines that were left out here, since nobody read the output.
#[derive(Serialize, JsonSchema)]
pub(crate) struct LeftOut {
    /// How many.
    lines: u64,
}

impl LineBody for LeftOut {
    const KIND: &'static str = "left-out";
}

/// The line that stands where so many were left out, with its newline.
pub(crate) fn left_out(lines: u64) -> String {
    // Numbers can always be written.
    to_json(&line(LeftOut { lines })).map_or_else(|_| String::new(), |line| line + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_has_the_microsecond_of_the_number() {
        for micros in [0, 1, 5, 300_457, 999_999] {
            let seconds = (1_780_000_000_000_000_u64 + micros) as f64 / 1e6;
            let text = rfc3339(seconds).unwrap();
            assert_eq!(text, format!("2026-05-28T20:26:40.{micros:06}Z"), "{seconds}");
        }
        assert_eq!(rfc3339(0.999_999_4).unwrap(), "1970-01-01T00:00:00.999999Z");
    }
}

pub(super) fn date_time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": ["string", "null"], "format": "date-time" })
}

pub(super) fn names(causes: &[Cause]) -> Vec<&'static str> {
    causes.iter().map(|cause| cause.name()).collect()
}

pub(super) fn one_of(names: impl IntoIterator<Item = &'static str>) -> Schema {
    let names: Vec<_> = names.into_iter().collect();
    json_schema!({ "type": "string", "enum": names })
}

pub(super) fn cause(_: &mut SchemaGenerator) -> Schema {
    one_of(Cause::ALL.map(Cause::name))
}

pub(super) fn causes(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "array", "items": cause(generator) })
}

pub(super) fn confidence(_: &mut SchemaGenerator) -> Schema {
    one_of([Confidence::Possible, Confidence::Likely, Confidence::Certain].map(Confidence::name))
}

pub(super) fn perhaps_cause(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({ "anyOf": [cause(generator), { "type": "null" }] })
}

pub(super) fn perhaps_confidence(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({ "anyOf": [confidence(generator), { "type": "null" }] })
}

pub(super) fn owner(_: &mut SchemaGenerator) -> Schema {
    use linger_why::OwnerRole::{Between, Client, End, Server};
    one_of([Server, Client, End, Between].map(linger_why::OwnerRole::name))
}

pub(super) fn perhaps_owner(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({ "anyOf": [owner(generator), { "type": "null" }] })
}

/// A process.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Process {
    /// The process's pid.
    pid: u32,
    /// The name that the process gave itself.
    name: String,
}

impl From<&linger_watch::NamedProcess> for Process {
    fn from(process: &linger_watch::NamedProcess) -> Self {
        Self { pid: process.pid, name: process.name.json().into_owned() }
    }
}

/// What the kernel counted, by its own names.
pub(super) type Counted = BTreeMap<&'static str, u64>;

/// What a middlebox did.
#[derive(Serialize, JsonSchema)]
pub(super) struct MiddleboxCounted {
    /// Packets that it dropped because it knew no connection of theirs, or had forgotten it.
    without_state: u64,
    /// Packets that it dropped as INVALID.
    invalid: u64,
    /// Resets of its own.
    resets: u64,
    /// Connections that it picked up in their middle.
    picked_up: u64,
}

impl From<MiddleboxCounts> for MiddleboxCounted {
    fn from(counts: MiddleboxCounts) -> Self {
        let MiddleboxCounts { without_state, invalid, resets, picked_up } = counts;
        Self { without_state, invalid, resets, picked_up }
    }
}

pub(super) fn counted(counters: &Counters) -> Counted {
    linger_lab::COUNTERS.iter().map(|name| (*name, counters.of(name))).collect()
}
