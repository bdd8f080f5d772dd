//! What is shown of a transfer: progress on a terminal, lines, or JSON; and the receipts that are kept.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal as _, Write as _};
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use linger_transfer::{
    Confirmation, Durability, Error, Kind, Line, Progress, Reason, Receipts, RelPath, Summary, Verdict, hex,
    printable,
};
use serde_json::{Value, json};

use super::hint::{error_with_hint, hint, with_hint};
use super::{unusable, word};

/// Shows one transfer.
pub(crate) struct Show {
    json: bool,
    host: String,
    /// What the top of the transfer is called here; its path below itself is empty.
    top: String,
    bar: ProgressBar,
    receipts: Option<Receipts<BufWriter<File>>>,
    /// Whether each receipt gets a line: that of a single file does, those of a tree would be too many.
    single: bool,
    quiet: bool,
    /// Hints shown so far: each is shown once, however many files fail for the same reason.
    hints: HashSet<String>,
    broken: Option<io::Error>,
}

impl Show {
    pub(crate) fn new(json: bool, host: &str, top: String, receipt: Option<&Path>) -> Result<Self, Error> {
        let receipts = match receipt {
            Some(path) => {
                let file = File::create(path).map_err(|error| unusable("write", path, &error))?;
                Some(Receipts::new(BufWriter::new(file), host))
            }
            None => None,
        };
        let bar = ProgressBar::no_length();
        if json || !io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        bar.set_style(style("{spinner} {msg}"));
        Ok(Self {
            json,
            host: host.to_owned(),
            top,
            bar,
            receipts,
            single: true,
            quiet: false,
            hints: HashSet::new(),
            broken: None,
        })
    }

    /// Standard output is the content's.
    pub(crate) fn keep_stdout(&mut self) {
        self.quiet = true;
    }

    /// Whether somebody watches, so that a total is worth counting.
    pub(crate) fn is_watched(&self) -> bool {
        !self.bar.is_hidden()
    }

    /// What there is to do, as far as it was counted.
    pub(crate) fn total(&self, bytes: u64) {
        self.bar.set_length(bytes);
        self.bar.set_style(style("{bar:24} {bytes}/{total_bytes} {bytes_per_sec} {eta} {msg}"));
    }

    pub(crate) fn see(&mut self, progress: Progress) {
        if self.json
            && let Some(value) = event(&progress, &self.host)
        {
            self.print(&value.to_string());
        }
        match progress {
            Progress::Scanning { entries, bytes } => {
                self.bar.set_message(format!("scanning: {entries} entries, {bytes} bytes"));
            }
            Progress::Connected { .. } => {
                // Not earlier: the code may have been asked for on the same terminal.
                self.bar.enable_steady_tick(Duration::from_millis(200));
                self.bar.set_message(format!("{} looks what it has", self.host));
            }
            Progress::Started { path, kind, size, resumed } => {
                self.single &= kind != Kind::Directory;
                if kind == Kind::File
                    && self.single
                    && let Some(size) = size
                {
                    self.total(size);
                } else if self.bar.length().is_none() {
                    self.bar.set_style(style("{spinner} {bytes} {bytes_per_sec} {msg}"));
                }
                self.bar.inc(resumed);
                self.bar.set_message(self.name(&path));
            }
            Progress::Moved { bytes } => self.bar.inc(bytes),
            Progress::Verifying { path } => self.bar.set_message(format!("verifying {}", self.name(&path))),
            Progress::Waiting { entries } => self.bar.set_message(format!("waiting for {entries} receipts")),
            Progress::Confirmed(confirmation) => self.confirmed(&confirmation),
            Progress::NotDelivered { path, text, .. } => {
                let told = self.hint_once(&text);
                let what = if names(&text, &path) { String::new() } else { format!("{path}: ") };
                self.bar.suspend(|| eprintln!("linger: {what}{told}"));
            }
            Progress::WouldSend { path, kind, bytes } if !self.json => {
                let what = if kind == Kind::Directory { "/" } else { "" };
                self.print(&format!("{bytes:>14}  {}{what}", self.name(&path)));
            }
            Progress::Retrying { error, pause } => {
                let what = error.lines().next().unwrap_or_default();
                self.bar.suspend(|| eprintln!("linger: {what}; trying again in {pause:.1} s"));
            }
            _ => {}
        }
    }

    fn name(&self, path: &RelPath) -> String {
        if path.is_root() { self.top.clone() } else { path.to_string() }
    }

    /// Leaves the hint out if it was given before.
    fn hint_once(&mut self, reason: &Reason) -> String {
        let is_new = reason.remedy().and_then(hint).is_none_or(|hint| self.hints.insert(hint));
        if is_new { with_hint(reason) } else { reason.to_string() }
    }

    fn confirmed(&mut self, confirmation: &Confirmation) {
        if let Some(receipts) = &mut self.receipts
            && let Err(error) = receipts.keep(confirmation)
        {
            self.broken.get_or_insert(error);
        }
        if self.single && !self.json {
            let hash = confirmation
                .hash
                .map_or_else(|| "not verified".to_owned(), |hash| format!("blake3 {}", hex(&hash)));
            let where_to = match confirmation.durability {
                Durability::Disk => "on disk",
                _ => "in memory",
            };
            let present = if confirmation.present { ", was there already" } else { "" };
            let name = printable(&confirmation.name);
            self.print(&format!("{name}: {} bytes, {hash}, {where_to}{present}", confirmation.size));
        }
    }

    fn print(&mut self, line: &str) {
        if self.quiet {
            return;
        }
        let printed = self.bar.suspend(|| writeln!(anstream::stdout(), "{line}"));
        if let Err(error) = printed
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            self.broken.get_or_insert(error);
        }
    }

    /// Prints the summary. An error if a receipt file was asked for and could not be written.
    pub(crate) fn finish(mut self, summary: &Summary, error: Option<&Error>) -> Result<(), Error> {
        self.bar.finish_and_clear();
        if self.json {
            let verdict = match summary.verdict(error) {
                Verdict::Confirmed => "confirmed",
                Verdict::NotDelivered => "not_delivered",
                _ => "unconfirmed",
            };
            let value = json!({
                "event": "summary",
                "verdict": verdict,
                "confirmed": summary.confirmed,
                "bytes": summary.bytes,
                "failed": summary.failed,
                "unconfirmed": summary.unconfirmed,
                "unsent": summary.unsent,
                "wire_bytes": summary.wire,
                "peer_knows": summary.peer_knows,
                "error": error.map(error_with_hint),
            });
            self.print(&value.to_string());
        } else if !self.single {
            self.print(&format!("{} entries, {} bytes confirmed", summary.confirmed, summary.bytes));
        }
        let kept = self.receipts.take().map_or(Ok(()), |receipts| receipts.finish().map(drop));
        match self.broken.take().map_or(kept, Err) {
            Ok(()) => Ok(()),
            Err(source) => Err(Error::Io { doing: "write", what: "the receipts".into(), source }),
        }
    }
}

/// Whether the text names the path already; the top needs no name.
fn names(text: &str, path: &RelPath) -> bool {
    let path = path.to_string();
    let ends_with_it = |word: &str| {
        let before = word.trim_end_matches([':', ',', ';']).strip_suffix(&path);
        before.is_some_and(|before| before.is_empty() || before.ends_with('/'))
    };
    path == "." || text.split_whitespace().any(ends_with_it)
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// An event as JSON; `None` for those that come too often.
pub(crate) fn event(progress: &Progress, host: &str) -> Option<Value> {
    Some(match progress {
        Progress::Connected { secure } => json!({"event": "connected", "host": host, "encrypted": secure}),
        Progress::Started { path, kind, size, resumed } => {
            json!({"event": "started", "path": path.to_string(), "kind": kind, "size": size, "resumed": resumed})
        }
        Progress::Waiting { entries } => json!({"event": "waiting", "entries": entries}),
        Progress::Verifying { path } => json!({"event": "verifying", "path": path.to_string()}),
        Progress::Confirmed(confirmation) => {
            let mut value = serde_json::to_value(Line::new(confirmation, host)).unwrap_or_default();
            if let Value::Object(fields) = &mut value {
                fields.insert("event".into(), "confirmed".into());
            }
            value
        }
        Progress::NotDelivered { path, refusal, text } => {
            json!({"event": "not_delivered", "path": path.to_string(), "reason": word(*refusal), "text": with_hint(text)})
        }
        Progress::WouldSend { path, kind, bytes } => {
            json!({"event": "would_send", "path": path.to_string(), "kind": kind, "bytes": bytes})
        }
        Progress::Retrying { error, pause } => json!({"event": "retrying", "error": error, "pause": pause}),
        _ => return None,
    })
}
