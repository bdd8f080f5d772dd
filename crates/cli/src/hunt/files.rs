//! The files of a hunt: the story, its packets, the page, and the report for CI.

use std::path::Path;
use std::process::ExitCode;
use std::time::SystemTime;

use linger_hunt::html::{Hunted, PageFacts, PagePackets, Replayed};
use linger_hunt::{HuntPlan, HuntReport, Quarry, html};

use super::HuntArguments;
use super::ci::{self, HuntRun};
use super::packets::Packets;
use crate::exit;
use crate::junit::Suite;
use crate::output::{self, Content, NewFile, Refused};
use crate::tools::tools;

/// The files that options name. Dropped before they are written, they leave what was there before.
pub(super) struct HuntFiles {
    save: Option<NewFile>,
    pcap: Option<NewFile>,
    html: Option<NewFile>,
    junit: Option<NewFile>,
    run: HuntRun,
    refused: Vec<String>,
}

impl HuntFiles {
    /// Begins the files, before anything is searched.
    ///
    /// # Errors
    /// Returns the exit status after saying why a file cannot be written.
    pub(super) fn begin(arguments: &HuntArguments, plan: &HuntPlan, again: String) -> Result<Self, ExitCode> {
        let options = [
            ("--save", arguments.save.as_deref(), Content::Text),
            ("--pcap", arguments.pcap.as_deref(), Content::Capture),
            ("--html", arguments.html.as_deref(), Content::Text),
            ("--junit", arguments.junit.as_deref(), Content::Text),
        ];
        // A word of the command that is a file is its program, or its configuration.
        let words = arguments.command.iter().map(Path::new).filter(|word| word.is_file());
        let inputs = [&arguments.replay, &arguments.payload].into_iter().flatten().map(|path| &**path);
        let [save, pcap, html, junit] = output::begin(options, inputs.chain(words))?;
        let is_client = matches!(plan.quarry, Quarry::Client { .. });
        let hunted = if is_client { Hunted::Client } else { Hunted::Server };
        let run = HuntRun { server: server(plan), hunted, again, started: SystemTime::now() };
        Ok(Self { save, pcap, html, junit, run, refused: Vec::new() })
    }

    pub(super) fn take_pcap(&mut self) -> Option<NewFile> {
        self.pcap.take()
    }

    fn note(&mut self, written: Result<(), Refused>) {
        self.refused.extend(written.err().map(|refused| refused.to_string()));
    }

    /// Writes the story that was found.
    pub(super) fn write_story(&mut self, text: impl FnOnce() -> String) {
        if let Some(save) = self.save.take() {
            let written = save.write_whole(&text());
            self.note(written);
        }
    }

    /// Writes the page and the report for CI of a hunt.
    pub(super) fn write_report(
        &mut self,
        report: &HuntReport,
        packets: Option<&Result<Packets, String>>,
        plan: &HuntPlan,
        status: u8,
        at_risk_ok: bool,
    ) {
        self.write_page(packets, |out, facts| html::report(out, report, facts));
        self.write_suite(|run| ci::searched(run, report, plan, status, at_risk_ok));
    }

    /// Writes the page and the report for CI of a story that was repeated.
    pub(super) fn write_replay(
        &mut self,
        replayed: &Replayed<'_>,
        packets: Option<&Result<Packets, String>>,
        status: u8,
        at_risk_ok: bool,
    ) {
        self.write_page(packets, |out, facts| html::replay(out, replayed, facts));
        self.write_suite(|run| ci::replayed(run, replayed, status, at_risk_ok));
    }

    /// Writes the report for CI of a hunt that could not begin.
    pub(super) fn write_failure(&mut self, error: &str) {
        self.write_suite(|run| ci::failed(run, error));
    }

    fn write_page(
        &mut self,
        packets: Option<&Result<Packets, String>>,
        write: impl FnOnce(&mut Vec<u8>, &PageFacts<'_>) -> std::io::Result<()>,
    ) {
        let Some(html) = self.html.take() else { return };
        let mut facts = PageFacts::new(&self.run.server, &self.run.again, tools());
        facts.hunted = self.run.hunted;
        match packets {
            Some(Ok(packets)) => {
                facts.packets = Some(PagePackets::new(&packets.retold, packets.finding.as_ref()));
            }
            Some(Err(why)) => facts.no_packets = Some(why),
            None => {}
        }
        let mut page = Vec::new();
        // A vector takes every byte.
        let _ = write(&mut page, &facts);
        let written = html.write_whole(&String::from_utf8_lossy(&page));
        self.note(written);
    }

    fn write_suite(&mut self, suite: impl FnOnce(&HuntRun) -> Suite) {
        if let Some(junit) = self.junit.take() {
            let written = junit.write_whole(&suite(&self.run).text());
            self.note(written);
        }
    }

    /// Says which files could not be written. Returns the exit status: a loss that was found is one, whatever was written.
    pub(super) fn end(mut self, packets: Option<&Packets>, status: u8) -> u8 {
        self.refused.extend(packets.and_then(|packets| packets.refused.clone()));
        for refused in &self.refused {
            exit::fail(exit::COULD_NOT_TELL, refused);
        }
        if self.refused.is_empty() || status == exit::LOSS_FOUND { status } else { exit::COULD_NOT_TELL }
    }
}

/// The command that is hunted as one line, or the server's URL.
fn server(plan: &HuntPlan) -> String {
    match &plan.quarry {
        Quarry::Command { words, .. } => {
            words.iter().map(|word| crate::lab::quoted(&word.to_string_lossy())).collect::<Vec<_>>().join(" ")
        }
        Quarry::Client { hunted, .. } => hunted.command.clone(),
        Quarry::Running { target, .. } => target.to_string(),
        _ => String::new(),
    }
}
