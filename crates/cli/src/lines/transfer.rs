//! Lines of `linger put`, `get`, `ls` and `share`.

use linger_transfer as library;
use linger_transfer::{Confirmation, Error, Item, ItemVerdict, Progress, Refusal, Summary, hex};
use schemars::JsonSchema;
use serde::Serialize;

use super::common::{self, At};
use super::{LineBody, line};
use crate::output::{Stdout, Stopped};
use crate::transfer::hint::{error_with_hint, with_hint};

/// `share` listens.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Listening {
    /// The address at which it listens; `unix:` and the path of a unix socket.
    pub(crate) address: String,
    /// The pairing code, which a new machine needs; null over a unix socket, where the kernel says who connects.
    pub(crate) code: Option<String>,
}

impl LineBody for Listening {
    const KIND: &'static str = "listening";
}

/// There is a new pairing code.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Code {
    /// The code.
    pub(crate) code: String,
    /// The only address that may use the code, because it has used up another one; null if everybody may.
    pub(crate) address: Option<String>,
}

impl LineBody for Code {
    const KIND: &'static str = "code";
}

/// A connection is up, or up again.
#[derive(Serialize, JsonSchema)]
struct Connected<'a> {
    /// The other machine; over a unix socket its path, or at `share` the user.
    peer: &'a str,
    /// Whether the connection is encrypted, and each side knows the other's key.
    encrypted: bool,
}

impl LineBody for Connected<'_> {
    const KIND: &'static str = "connected";
}

/// A file, directory or link is next.
#[derive(Serialize, JsonSchema)]
struct Started {
    /// The entry's path.
    path: String,
    /// Whether `path` is in hexadecimal, because it is not UTF-8.
    path_is_hex: bool,
    /// The entry's kind.
    #[schemars(schema_with = "kinds")]
    kind: String,
    /// The entry's length in bytes, if it is known.
    size_bytes: Option<u64>,
    /// Bytes that the receiver has from an earlier session.
    resumed_bytes: u64,
}

impl LineBody for Started {
    const KIND: &'static str = "started";
}

/// All is sent; the receiver verifies, writes and confirms.
#[derive(Serialize, JsonSchema)]
struct Waiting {
    /// Entries without a receipt.
    entries: u64,
}

impl LineBody for Waiting {
    const KIND: &'static str = "waiting";
}

/// What is on disk is compared with a hash or made durable.
#[derive(Serialize, JsonSchema)]
struct Verifying {
    /// The entry's path.
    path: String,
    /// Whether `path` is in hexadecimal, because it is not UTF-8.
    path_is_hex: bool,
}

impl LineBody for Verifying {
    const KIND: &'static str = "verifying";
}

/// An entry is confirmed.
#[derive(Serialize, JsonSchema)]
struct Confirmed<'a> {
    /// The other machine.
    peer: &'a str,
    /// Path below what was sent, in hexadecimal where it is not UTF-8; empty for a single file.
    path: String,
    /// Whether `path` is in hexadecimal.
    path_is_hex: bool,
    /// The entry's kind.
    #[schemars(schema_with = "kinds")]
    kind: String,
    /// The entry's length in bytes.
    size_bytes: u64,
    /// BLAKE3 of the content, in hexadecimal; null for directories, links and unverified transfers.
    blake3: Option<String>,
    /// The name at the receiver, in hexadecimal where it is not UTF-8.
    name: String,
    /// Whether `name` is in hexadecimal.
    name_is_hex: bool,
    /// What the receiver had done when it wrote this: `fsync` of the file, `syncfs` of its file system, nothing but write to
    /// `memory`, or `handed` the content to the command or pipe that `name` says.
    durability: String,
    /// The entry's permission bits at the receiver, in octal; null if it is no file or directory there.
    mode: Option<String>,
    #[serde(flatten)]
    at: At,
    /// Whether the same content was there already.
    present: bool,
}

impl LineBody for Confirmed<'_> {
    const KIND: &'static str = "confirmed";
}

impl<'a> Confirmed<'a> {
    fn new(confirmation: &Confirmation, peer: &'a str) -> Self {
        let bytes = if confirmation.path.is_root() { &b""[..] } else { confirmation.path.as_bytes() };
        let (path, path_is_hex) = exact(bytes);
        let (name, name_is_hex) = exact(confirmation.name.raw());
        Self {
            peer,
            path,
            path_is_hex,
            kind: word(confirmation.kind),
            size_bytes: confirmation.size,
            blake3: confirmation.hash.map(|hash| hex(&hash)),
            name,
            name_is_hex,
            durability: word(confirmation.durability),
            mode: confirmation.mode.map(|mode| format!("{mode:04o}")),
            at: at(confirmation.time),
            present: confirmation.present,
        }
    }
}

/// An entry was not delivered.
#[derive(Serialize, JsonSchema)]
struct NotDelivered {
    /// The entry's path.
    path: String,
    /// Whether `path` is in hexadecimal, because it is not UTF-8.
    path_is_hex: bool,
    /// The reason, in one word.
    reason: String,
    /// The reason, in a sentence.
    text: String,
}

impl LineBody for NotDelivered {
    const KIND: &'static str = "not-delivered";
}

/// A rule left an entry out: that is no failure.
#[derive(Serialize, JsonSchema)]
struct Skipped {
    /// The entry's path.
    path: String,
    /// Whether `path` is in hexadecimal.
    path_is_hex: bool,
    /// The rule, in a sentence.
    text: String,
}

impl LineBody for Skipped {
    const KIND: &'static str = "skipped";
}

/// In a dry run: what would be done.
#[derive(Serialize, JsonSchema)]
struct WouldSend {
    /// The entry's path.
    path: String,
    /// Whether `path` is in hexadecimal, because it is not UTF-8.
    path_is_hex: bool,
    /// The entry's kind.
    #[schemars(schema_with = "kinds")]
    kind: String,
    /// The entry's length in bytes.
    size_bytes: u64,
}

impl LineBody for WouldSend {
    const KIND: &'static str = "would-send";
}

/// The connection was lost; another is made after a pause.
#[derive(Serialize, JsonSchema)]
struct Retrying {
    /// The error.
    error: String,
    /// How long the pause is.
    pause_seconds: f64,
}

impl LineBody for Retrying {
    const KIND: &'static str = "retrying";
}

/// The result of a transfer, as far as this side can know it.
#[derive(Serialize, JsonSchema)]
struct Account {
    /// Entries whose receipt was received, or sent.
    confirmed: u64,
    /// Bytes of content in them.
    confirmed_bytes: u64,
    /// Entries that are known not to be delivered.
    failed: u64,
    /// Entries that a rule left out.
    skipped: u64,
    /// Entries that were sent whole, without an answer.
    unconfirmed: u64,
    /// Entries that were announced and not sent whole; at the sender, one more for all that was never announced.
    unsent: u64,
    /// Bytes that crossed the network, all sessions together.
    wire_bytes: u64,
    /// Whether the session ended in order, so that the other side knows the same.
    peer_knows: bool,
    /// The error that ended the transfer early.
    error: Option<String>,
}

impl Account {
    fn new(summary: &Summary, error: Option<&Error>) -> Self {
        Self {
            confirmed: summary.confirmed,
            confirmed_bytes: summary.bytes,
            failed: summary.failed,
            skipped: summary.skipped,
            unconfirmed: summary.unconfirmed,
            unsent: summary.unsent,
            wire_bytes: summary.wire,
            peer_knows: summary.peer_knows,
            error: error.map(error_with_hint),
        }
    }
}

/// The end of `put` or `get`.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Transferred {
    /// `confirmed`, `not_delivered` or `unconfirmed`.
    verdict: &'static str,
    #[serde(flatten)]
    account: Account,
}

impl LineBody for Transferred {
    const KIND: &'static str = "transfer";
}

impl Transferred {
    pub(crate) fn new(summary: &Summary, error: Option<&Error>) -> Self {
        let verdict = match summary.verdict(error) {
            ItemVerdict::Confirmed => "confirmed",
            ItemVerdict::NotDelivered => "not_delivered",
            _ => "unconfirmed",
        };
        Self { verdict, account: Account::new(summary, error) }
    }
}

/// The end of one connection of `share`.
#[derive(Serialize, JsonSchema)]
pub(crate) struct ServedLine {
    /// The other machine's address and port; over a unix socket `uid` and the user's number.
    peer: String,
    /// What was asked for, in words; empty if it did not come to that.
    request: String,
    #[serde(flatten)]
    account: Account,
    /// How the connection itself ended.
    close: Option<String>,
}

impl LineBody for ServedLine {
    const KIND: &'static str = "served";
}

impl From<&library::Served> for ServedLine {
    fn from(served: &library::Served) -> Self {
        Self {
            peer: served.peer.to_string(),
            request: served.request.clone(),
            account: Account::new(&served.summary, served.error.as_ref()),
            close: served.outcome.as_ref().map(ToString::to_string),
        }
    }
}

/// One entry of a shared directory.
#[derive(Serialize, JsonSchema)]
pub(crate) struct ListedEntry {
    /// The entry's name, in hexadecimal where it is not UTF-8.
    name: String,
    /// Whether `name` is in hexadecimal.
    name_is_hex: bool,
    /// The entry's kind.
    #[schemars(schema_with = "kinds")]
    kind: String,
    /// Bytes of a file.
    size_bytes: u64,
    /// Permission bits.
    mode: u32,
    /// The entry's last modification, RFC 3339; null outside of the years 1970 to 9999.
    #[schemars(schema_with = "common::date_time")]
    modified: Option<String>,
    /// The entry's last modification, in seconds since 1970.
    modified_seconds: f64,
}

impl LineBody for ListedEntry {
    const KIND: &'static str = "entry";
}

impl From<&Item> for ListedEntry {
    fn from(item: &Item) -> Self {
        let modified_seconds = seconds(item.mtime);
        let (name, name_is_hex) = exact(item.name.raw());
        Self {
            name,
            name_is_hex,
            kind: word(item.kind),
            size_bytes: item.size,
            mode: item.mode,
            modified: common::rfc3339(modified_seconds),
            modified_seconds,
        }
    }
}

/// Prints an event, unless it is one that comes too often.
pub(crate) fn progress(event: &Progress, peer: &str, out: &mut Stdout) -> Result<(), Stopped> {
    match event {
        Progress::Connected { secure } => out.json(&line(Connected { peer, encrypted: *secure })),
        Progress::Started { path, kind, size, resumed } => {
            let (path, path_is_hex) = shown(path);
            let (kind, size_bytes, resumed_bytes) = (word(*kind), *size, *resumed);
            out.json(&line(Started { path, path_is_hex, kind, size_bytes, resumed_bytes }))
        }
        Progress::Waiting { entries } => out.json(&line(Waiting { entries: *entries })),
        Progress::Verifying { path } => {
            let (path, path_is_hex) = shown(path);
            out.json(&line(Verifying { path, path_is_hex }))
        }
        Progress::Confirmed(confirmation) => out.json(&line(Confirmed::new(confirmation, peer))),
        Progress::NotDelivered { path, refusal, text } => {
            let (path, path_is_hex) = shown(path);
            match refusal {
                Refusal::Skipped => out.json(&line(Skipped { path, path_is_hex, text: text.to_string() })),
                _ => {
                    let (reason, text) = (word(*refusal), with_hint(text));
                    out.json(&line(NotDelivered { path, path_is_hex, reason, text }))
                }
            }
        }
        Progress::WouldSend { path, kind, bytes } => {
            let (path, path_is_hex) = shown(path);
            out.json(&line(WouldSend { path, path_is_hex, kind: word(*kind), size_bytes: *bytes }))
        }
        Progress::Retrying { error, pause } => {
            out.json(&line(Retrying { error: error.clone(), pause_seconds: *pause }))
        }
        _ => return Ok(()),
    }?;
    out.flush()
}

/// Bytes as text from which they can be read back, and whether it is in hexadecimal, as for bytes that are not
/// UTF-8.
fn exact(bytes: &[u8]) -> (String, bool) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (text.to_owned(), false),
        Err(_) => (hex(bytes), true),
    }
}

/// A path below the top; the top itself is `.`.
fn shown(path: &library::RelPath) -> (String, bool) {
    exact(if path.is_root() { b"." } else { path.as_bytes() })
}

/// The identifier as which the library serialises a value.
fn word(value: impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        other => other.unwrap_or_default().to_string(),
    }
}

fn kinds(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    common::one_of(["file", "directory", "link", "pipe"])
}

fn seconds(time: library::Time) -> f64 {
    time.seconds as f64 + f64::from(time.nanos) / 1e9
}

fn at(time: library::Time) -> At {
    At::seconds(seconds(time))
}

/// The kinds of lines that [`progress`] prints.
pub(super) fn kinds_of_progress() -> Vec<common::LineKind> {
    macro_rules! kinds {
        ($($body:ty),* $(,)?) => { vec![$((<$body>::KIND, <$body as JsonSchema>::json_schema as _)),*] };
    }
    kinds![
        Connected<'_>,
        Started,
        Waiting,
        Verifying,
        Confirmed<'_>,
        NotDelivered,
        Skipped,
        WouldSend,
        Retrying
    ]
}
