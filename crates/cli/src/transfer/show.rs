//! What is shown of a transfer: progress on a terminal, lines, or JSON; and the receipts that are kept.

use std::collections::HashSet;
use std::io::{self, IsTerminal as _};
use std::path::Path;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use linger_transfer::{
    Confirmation, Durability, Error, Kind, Progress, Reason, Receipts, RelPath, Summary, hex,
};

use super::hint::{hint, with_hint};
use crate::lines::{self, line};
use crate::output::{Content, NewFile, Refused, Stdout, Stopped, say};
use crate::progress;

/// Shows one transfer.
pub(crate) struct Show {
    json: bool,
    host: String,
    /// The name under which the top of the transfer is shown. Its own path, relative to the top, is empty.
    top: String,
    /// The top's name as a directory of its own, if several are transferred.
    below: Option<RelPath>,
    bar: ProgressBar,
    receipts: Option<Receipts<NewFile>>,
    /// Where the receipts are kept, as the user named it.
    receipts_at: String,
    /// Whether any receipt was written; if none was, the old file stays.
    kept: bool,
    /// Whether each receipt is given a line: the receipt of a single file is, the receipts of a tree would be too many.
    single: bool,
    quiet: bool,
    /// Hints shown so far: each is shown once, however many files fail for the same reason.
    hints: HashSet<String>,
    out: Stdout,
    /// The first failed write. The transfer goes on, and its result is the verdict.
    broken: Option<Error>,
}

impl Show {
    /// `inputs` are the paths that are sent; the receipt file must be another one.
    pub(crate) fn new(
        json: bool,
        host: &str,
        top: String,
        receipt: Option<&Path>,
        inputs: &[&Path],
    ) -> Result<Self, Error> {
        let receipts =
            receipt.map(|path| NewFile::create(path, Content::Receipts, inputs.iter().copied())).transpose();
        let receipts = receipts.map_err(|refused| Error::Usage(refused.to_string().into()))?;
        let receipts = receipts.map(|file| Receipts::new(file, host));
        let bar = ProgressBar::no_length();
        if json || !io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        bar.set_style(style("{spinner} {msg}"));
        Ok(Self {
            json,
            host: host.to_owned(),
            top,
            below: None,
            bar,
            receipts,
            receipts_at: receipt.map_or_else(String::new, |path| path.display().to_string()),
            kept: false,
            single: true,
            quiet: false,
            hints: HashSet::new(),
            out: Stdout::new(),
            broken: None,
        })
    }

    /// Begins the next of several transfers. Its entries are named below its own name.
    pub(crate) fn next_top(&mut self, host: &str, top: String) {
        self.host = host.to_owned();
        self.below = RelPath::root().child(top.as_bytes()).ok();
        self.top = top;
        self.bar.set_position(0);
        self.bar.unset_length();
    }

    /// The same event with its path below the top's name, if there are several.
    fn placed(&self, mut progress: Progress) -> Progress {
        let Some(below) = &self.below else { return progress };
        let place = |path: &mut RelPath| {
            if let Ok(placed) = below.join(path) {
                *path = placed;
            }
        };
        match &mut progress {
            Progress::Started { path, .. }
            | Progress::Verifying { path }
            | Progress::NotDelivered { path, .. }
            | Progress::WouldSend { path, .. } => place(path),
            Progress::Confirmed(confirmation) => place(&mut confirmation.path),
            _ => {}
        }
        progress
    }

    /// Stops printing to stdout, which carries the content.
    pub(crate) fn keep_stdout(&mut self) {
        self.quiet = true;
    }

    /// Whether a progress bar is shown, so that counting a total is worth it.
    pub(crate) fn is_watched(&self) -> bool {
        !self.bar.is_hidden()
    }

    /// Sets the number of bytes that are to be transferred, as far as they have been counted.
    pub(crate) fn total(&self, bytes: u64) {
        self.bar.set_length(bytes);
        self.bar.set_style(style("{bar:24} {bytes}/{total_bytes} {bytes_per_sec} {eta} {msg}"));
    }

    pub(crate) fn see(&mut self, progress: Progress) {
        let progress = self.placed(progress);
        if self.json {
            self.print(|show| lines::progress(&progress, &show.host, &mut show.out));
        }
        match progress {
            Progress::Scanning { entries, bytes } => {
                self.bar.set_message(format!("scanning: {entries} entries, {bytes} bytes"));
            }
            Progress::Connected { .. } => {
                if let Some(receipts) = &mut self.receipts {
                    receipts.begin_session();
                }
                // Start the spinner only now: the pairing code may have been asked for on the same terminal.
                progress::tick(&self.bar);
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
                self.bar.suspend(|| say!("linger: {what}{told}"));
            }
            Progress::WouldSend { path, kind, bytes } if !self.json => {
                let what = if kind == Kind::Directory { "/" } else { "" };
                let name = self.name(&path);
                self.text(&format!("{bytes:>14}  {name}{what}"));
            }
            Progress::Retrying { error, pause } => {
                let what = error.lines().next().unwrap_or_default();
                self.bar.suspend(|| say!("linger: {what}; trying again in {pause:.1} s"));
            }
            _ => {}
        }
    }

    fn name(&self, path: &RelPath) -> String {
        if path.is_root() { self.top.clone() } else { path.to_string() }
    }

    /// The reason with its hint, or without it if the hint was shown before.
    fn hint_once(&mut self, reason: &Reason) -> String {
        let is_new = reason.remedy().and_then(hint).is_none_or(|hint| self.hints.insert(hint));
        if is_new { with_hint(reason) } else { reason.to_string() }
    }

    fn confirmed(&mut self, confirmation: &Confirmation) {
        if let Some(receipts) = &mut self.receipts {
            self.kept = true;
            if let Err(source) = receipts.keep(confirmation) {
                self.broken.get_or_insert(receipts_lost(&self.receipts_at, source));
            }
        }
        if self.single && !self.json {
            let hash = confirmation
                .hash
                .map_or_else(|| "not verified".to_owned(), |hash| format!("blake3 {}", hex(&hash)));
            let where_to = match confirmation.durability {
                Durability::Disk | Durability::FileSystem => "on disk",
                Durability::Handed => "handed on",
                _ => "in memory",
            };
            let present = if confirmation.present { ", was there already" } else { "" };
            let name = confirmation.name.terminal();
            self.text(&format!("{name}: {} bytes, {hash}, {where_to}{present}", confirmation.size));
        }
    }

    fn text(&mut self, line: &str) {
        self.print(|show| {
            show.out.text(format_args!("{line}\n"))?;
            show.out.flush()
        });
    }

    fn print(&mut self, print: impl FnOnce(&mut Self) -> Result<(), Stopped>) {
        if self.quiet {
            return;
        }
        let bar = self.bar.clone();
        match bar.suspend(|| print(self)) {
            Ok(()) => {}
            // The transfer matters more than the report of it.
            Err(Stopped::Unread) => self.quiet = true,
            Err(Stopped::Failed(source)) => {
                let what = "standard output".to_owned();
                self.broken.get_or_insert(Error::Io { doing: "write to", what, source });
            }
        }
    }

    /// Prints the summary and ends the receipt file. Returns an error if standard output or that file could not be written.
    pub(crate) fn finish(mut self, summary: &Summary, error: Option<&Error>) -> Result<(), Error> {
        self.bar.finish_and_clear();
        if self.json {
            let end = lines::Transferred::new(summary, error);
            self.print(|show| {
                show.out.json(&line(end))?;
                show.out.flush()
            });
        } else if !self.single || self.below.is_some() {
            let skipped = match summary.skipped {
                0 => String::new(),
                some => format!(", {some} left out"),
            };
            self.text(&format!("{} entries, {} bytes confirmed{skipped}", summary.confirmed, summary.bytes));
        }
        if let Some(receipts) = self.receipts.take().filter(|_| self.kept) {
            let lost = |source| receipts_lost(&self.receipts_at, source);
            let kept = receipts.finish(summary.signed.as_ref()).map_err(lost);
            let kept = kept.and_then(|file| {
                file.finish().map_err(|refused| match refused {
                    Refused::System(path, source) => {
                        Error::Io { doing: "write", what: path.display().to_string(), source }
                    }
                    other => Error::Usage(other.to_string().into()),
                })
            });
            if let Err(error) = kept {
                self.broken.get_or_insert(error);
            }
        }
        self.broken.take().map_or(Ok(()), Err)
    }
}

fn receipts_lost(path: &str, source: io::Error) -> Error {
    Error::Io { doing: "write", what: format!("the receipts to {path}"), source }
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
