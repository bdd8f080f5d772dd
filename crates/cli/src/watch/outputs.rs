//! Where notices go beside the output of the program.

use linger_watch::export::Metrics;
use linger_watch::{Notice, Watcher};

use super::journal::SystemJournal;
use super::otlp::Otlp;

/// The metrics, the journal, and a collector.
pub(super) struct OtherOutputs<'a> {
    metrics: &'a Metrics,
    /// Whether anybody asks for the metrics.
    has_readers: bool,
    journal: Option<SystemJournal>,
    otlp: Option<Otlp>,
}

impl<'a> OtherOutputs<'a> {
    /// `are_served`: the metrics are.
    pub(super) fn new(
        metrics: &'a Metrics,
        are_served: bool,
        journal: Option<SystemJournal>,
        otlp: Option<Otlp>,
    ) -> Self {
        Self { metrics, has_readers: are_served || otlp.is_some(), journal, otlp }
    }

    pub(super) fn tell(&mut self, notices: &[Notice], watcher: &Watcher, is_last: bool) {
        if self.has_readers {
            self.metrics.record(notices, watcher);
        }
        if let Some(journal) = &mut self.journal {
            journal.tell(notices);
            journal.complain(is_last);
        }
        if let Some(otlp) = &mut self.otlp {
            otlp.tell(notices, self.metrics, is_last);
        }
    }

    /// Tells how many lines of standard output were left out.
    pub(super) fn left_out(&self, lines: u64) {
        self.metrics.left_out(lines);
    }

    /// Waits a bounded time for what is still on its way.
    pub(super) fn finish(self) {
        if let Some(otlp) = self.otlp {
            otlp.finish();
        }
    }
}
