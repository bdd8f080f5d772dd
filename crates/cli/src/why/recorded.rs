//! `linger why --reset ID DIR`: one reset that `linger watch --record` has recorded.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use linger_untrusted::Untrusted;
use linger_watch::{Agreement, IndexedReset};
use linger_why::{AnalyzerLimits, Examined, Finding, examine_reader, text};

use crate::exit;
use crate::lines::{self, line};
use crate::output::{Stdout, Stopped, say};

/// A recorded reset with its packets.
pub(super) struct RecordedSection {
    reset: IndexedReset,
    /// A pcapng capture of its own.
    packets: Vec<u8>,
    /// The capture that it is from.
    path: PathBuf,
}

impl RecordedSection {
    /// Reads the reset from the directory of the records, the only path given.
    pub(super) fn read(id: &str, paths: &[PathBuf]) -> Result<Self, ExitCode> {
        let [directory] = paths else {
            return Err(exit::fail(
                exit::BAD_USAGE,
                "--reset needs one directory: that which `linger watch --record` has written to",
            ));
        };
        let shown = Untrusted::from(&**directory);
        match IndexedReset::read(directory, id) {
            Ok((reset, packets)) => {
                // A name from the index: of a file beside it, whatever it says.
                let name = Path::new(&reset.file).file_name().unwrap_or_default();
                let path = directory.join(name);
                Ok(Self { reset, packets, path })
            }
            Err(error) => {
                let id = Untrusted::from(id);
                Err(exit::fail(
                    exit::COULD_NOT_TELL,
                    format_args!("{}: reset {}: {error}", shown.terminal(), id.terminal()),
                ))
            }
        }
    }

    /// Gives what the packets show to `on_finding`. Returns what was read, and whether anything was unreadable.
    pub(super) fn examine(
        &self,
        limits: AnalyzerLimits,
        on_finding: impl FnMut(Finding),
    ) -> (Vec<Examined>, bool) {
        let shown = Untrusted::from(&*self.path);
        let reader = match linger_packet::capture::CaptureReader::in_memory(&self.packets) {
            Ok(reader) => reader,
            Err(error) => {
                say!("linger: {}: {error}", shown.terminal());
                return (Vec::new(), true);
            }
        };
        let examined = examine_reader(reader, &self.path.display().to_string(), limits, on_finding);
        let problem = text::mostly_unread(&examined).or_else(|| examined.stopped.clone());
        if let Some(problem) = &problem {
            say!("linger: {}: {problem}", shown.terminal());
        }
        (vec![examined], problem.is_some())
    }

    /// Prints what the kernel said, and what the packets showed then.
    pub(super) fn write(&self, out: &mut Stdout, json: bool) -> Result<(), Stopped> {
        if json {
            return out.json(&line(lines::RecordedLine::from(&self.reset)));
        }
        out.text(format_args!("{}\n", self.words()))
    }

    fn words(&self) -> String {
        let IndexedReset { id, direction, local, remote, kernel, packets, frames, first_frame, .. } =
            &self.reset;
        let remote = remote.map_or("?".to_owned(), |remote| remote.to_string());
        let when = lines::rfc3339(self.reset.time_seconds).unwrap_or_default();
        let id = Untrusted::from(id.as_str());
        let mut words =
            format!("Reset {} of {when}, {} {local} -> {remote}\n", id.terminal(), direction.name());
        let mut says = |what: std::fmt::Arguments<'_>| {
            let _ = writeln!(words, "  {what}");
        };
        let reason = kernel
            .reason
            .as_deref()
            .map_or(String::new(), |reason| format!(", {}", Untrusted::from(reason).terminal()));
        says(format_args!("kernel:  {} ({}){reason}", kernel.cause, kernel.confidence.name()));
        if let Some((name, pid)) = kernel.process.as_ref().zip(kernel.pid) {
            says(format_args!("process: {}[{pid}]", name.terminal()));
        }
        match packets {
            Some(packets) => says(format_args!(
                "packets: {} ({}): {}",
                packets.cause,
                packets.confidence.name(),
                agreement(self.reset.agreement)
            )),
            None => says(format_args!("packets: they do not show this reset")),
        }
        says(format_args!(
            "frames {first_frame} to {} of {}; below they count from 1",
            first_frame + frames.saturating_sub(1),
            Untrusted::from(&*self.path).terminal()
        ));
        words
    }
}

fn agreement(agreement: Agreement) -> &'static str {
    match agreement {
        Agreement::Agree => "kernel and packets agree",
        Agreement::Compatible => "one of the two does not decide, and admits what the other says",
        Agreement::Differ => "kernel and packets differ",
        _ => "no verdict",
    }
}
