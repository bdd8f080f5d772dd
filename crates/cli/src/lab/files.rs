//! The page that `lab --html` names.

use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use linger_lab::{Capture, CellPlan, OneReport};

use super::page::{self, DrawnCell};
use super::results::{Results, Show, Task, TaskReport};
use super::{LabArguments, capture_path};
use crate::captured::{NamelessCapture, failure_in};
use crate::exit;
use crate::output::{self, Content, NewFile, Refused};

/// Most cells of which packets are drawn.
const MOST_DRAWN: usize = 12;

/// The page, if one was asked for. Dropped before it is written, it leaves what was there before.
pub(super) struct LabPage(Option<NewFile>);

impl LabPage {
    /// Begins the page, before anything is tried.
    ///
    /// # Errors
    /// Returns the exit status after saying why it cannot be written.
    pub(super) fn begin(arguments: &LabArguments) -> Result<Self, ExitCode> {
        let options = [("--html", arguments.html.as_deref(), Content::Text)];
        let [html] = output::begin(options, arguments.files.iter().map(|file| &**file))?;
        Ok(Self(html))
    }

    /// Writes the page of an experiment. `pcap` is where the captures of its links are, if there are any.
    pub(super) fn write(self, results: &Results, pcap: Option<&Path>) -> Result<(), Refused> {
        let titles = if let Show::Grid { titles } = &results.show { &**titles } else { &[] };
        let drawn = pcap.map_or_else(Vec::new, |directory| drawn(results, directory));
        self.write_text(|| page::grid(results, titles, &drawn))
    }

    /// A capture for the page of one connection, if it needs one of its own.
    pub(super) fn capture(&self, plan: &CellPlan, has_capture: bool) -> std::io::Result<Option<OneCapture>> {
        let wanted = self.0.is_some() && !plan.link.loopback && !has_capture;
        wanted.then(OneCapture::begin).transpose()
    }

    /// Writes the page of one connection. `capture` is where its packets are, if there are any.
    pub(super) fn write_one(
        self,
        plan: &CellPlan,
        report: &OneReport,
        capture: Option<&Path>,
        again: &str,
    ) -> Result<(), Refused> {
        self.write_text(|| {
            let finding = capture.map(|capture| failure_in(capture, None, &plan.link.name));
            let packets = match &finding {
                Some(Ok(finding)) => Ok(finding.as_ref()),
                Some(Err(why)) => Err(&**why),
                None => Ok(None),
            };
            page::one(plan, report, packets, again)
        })
    }

    fn write_text(self, text: impl FnOnce() -> std::io::Result<String>) -> Result<(), Refused> {
        let Some(html) = self.0 else { return Ok(()) };
        match text() {
            Ok(text) => html.write_whole(&text),
            Err(error) => Err(html.failed(error)),
        }
    }
}

/// The status of a run whose page may not have been written. A loss that was found is told whatever was written.
pub(super) fn status(written: Result<(), Refused>, status: u8) -> ExitCode {
    match written {
        Ok(()) => ExitCode::from(status),
        Err(refused) => {
            let code = refused.end();
            if status == exit::LOSS_FOUND { ExitCode::from(status) } else { code }
        }
    }
}

/// The capture of one connection.
pub(super) struct OneCapture {
    nameless: NamelessCapture,
    pub(super) open: Arc<Mutex<Capture>>,
}

impl OneCapture {
    fn begin() -> std::io::Result<Self> {
        let nameless = NamelessCapture::create()?;
        let open = Arc::new(Mutex::new(nameless.begin()?));
        Ok(Self { nameless, open })
    }

    /// Ends the capture. It can be read by the path of what is returned, as long as that is there.
    pub(super) fn finish(self) -> std::io::Result<NamelessCapture> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).finish()?;
        Ok(self.nameless)
    }
}

/// Cells that did not keep everything, with the first failure in the capture of each.
fn drawn<'r>(results: &'r Results, directory: &Path) -> Vec<DrawnCell<'r>> {
    let draw = |(task, report): (&'r Task, &'r TaskReport)| {
        let TaskReport::Cell(cell) = report else { return None };
        if cell.tally.not_kept() == 0 || cell.plan.link.loopback {
            return None;
        }
        let path = capture_path(directory, &task.name);
        // A capture that cannot be read leaves the table as it is.
        let finding = failure_in(&path, None, &cell.plan.link.name).ok().flatten()?;
        Some(DrawnCell { cell, name: &task.name, finding })
    };
    results.done().filter_map(draw).take(MOST_DRAWN).collect()
}
