//! `linger hunt`: is there anything that a client can do, with which this server loses its response? Anything that a server can do, with
//! which this client does?

mod arguments;
mod ci;
mod files;
mod packets;
mod text;

use std::path::Path;
use std::process::ExitCode;

pub(crate) use arguments::HuntArguments;
use files::HuntFiles;
use linger_hunt::html::Replayed;
use linger_hunt::{
    HuntError, HuntPlan, HuntProgress, HuntReport, Quarry, SearchEnd, Story, StoryFile, hunt, replay,
};
use linger_lab::Stop;
use linger_netns::Isolation;
use linger_untrusted::message;
use packets::Packets;

use crate::lab::again;
use crate::lines::{self, line};
use crate::output::{NewFile, Stdout, Stopped, say};
use crate::{exit, interrupt, progress};

pub(crate) fn run(arguments: HuntArguments) -> ExitCode {
    // Before the first thread: unshare(CLONE_NEWUSER) refuses a process with several (unshare(2)).
    if arguments.url.is_none()
        && let Err(refused) = Isolation::prepare().enter()
    {
        return exit::fail(exit::NOT_POSSIBLE_HERE, refused);
    }
    let file = match arguments.replay.as_deref().map(read).transpose() {
        Ok(file) => file,
        Err(status) => return status,
    };
    let payload = match arguments.payload.as_deref().map(payload).transpose() {
        Ok(payload) => payload,
        Err(status) => return status,
    };
    let seed = arguments.chance.seed();
    let plan = match arguments.plan(seed, file.as_ref(), payload) {
        Ok(plan) => plan,
        Err(error) => return exit::fail(exit::BAD_USAGE, error),
    };
    let stop = match interrupt::stop() {
        Ok(stop) => stop,
        Err(error) => return exit::io("cannot take signals", &error),
    };
    match file {
        Some(file) => run_again(&arguments, &plan, &file, &stop),
        None => search(&arguments, &plan, &stop),
    }
}

fn read(path: &Path) -> Result<StoryFile, ExitCode> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| exit::file(format_args!("cannot read {}", path.display()), &error))?;
    StoryFile::parse(&text)
        .map_err(|error| exit::fail(exit::BAD_USAGE, format_args!("{}: {error}", path.display())))
}

/// Reads what is sent as each request.
fn payload(path: &Path) -> Result<Vec<u8>, ExitCode> {
    match crate::probe::payload(path) {
        Ok(payload) if payload.is_empty() => {
            Err(exit::fail(exit::BAD_USAGE, format_args!("--payload: {} is empty", path.display())))
        }
        Ok(payload) => Ok(payload),
        Err(error) => Err(exit::file(format_args!("cannot read {}", path.display()), &error)),
    }
}

fn refused(error: &HuntError) -> ExitCode {
    match error {
        HuntError::Machine { what, source } => exit::io(what, source),
        HuntError::NotYours { .. } => {
            let text = format_args!("{error}: if it is yours, say so with --i-own-this-server");
            exit::fail(exit::BAD_USAGE, text)
        }
        HuntError::Target { .. } => exit::fail(exit::BAD_USAGE, error),
        _ => exit::fail(exit::COULD_NOT_TELL, error),
    }
}

/// The packets of a story whose server this program has started; `None` for another. That there are none is said, and changes
/// nothing else.
fn packets(
    plan: &HuntPlan,
    story: &Story,
    pcap: Option<NewFile>,
    stop: &Stop,
) -> Option<Result<Packets, String>> {
    if matches!(plan.quarry, Quarry::Running { .. }) {
        return None;
    }
    let packets = if stop.requested() {
        Err("interrupted before they were captured".to_owned())
    } else {
        let bar = progress::spinner();
        bar.set_message("lost; capturing its packets");
        let packets = packets::packets(plan, story, pcap, stop);
        bar.finish_and_clear();
        packets
    };
    Some(packets.inspect_err(|why| say!("linger: no packets of the story: {}", message(why))))
}

fn search(arguments: &HuntArguments, plan: &HuntPlan, stop: &Stop) -> ExitCode {
    let again = again(plan.seed);
    let mut files = match HuntFiles::begin(arguments, plan, again.clone()) {
        Ok(files) => files,
        Err(status) => return status,
    };
    let bar = progress::spinner();
    let mut told = |progress: HuntProgress| match progress {
        HuntProgress::Searching(schedules) => bar.set_message(format!("{schedules} schedules")),
        HuntProgress::Repeating => bar.set_message("lost; does it repeat?"),
        HuntProgress::Shrinking(trials) => bar.set_message(format!("lost; shrinking it, {trials} trials")),
        _ => {}
    };
    let report = hunt(plan, stop, &mut told);
    bar.finish_and_clear();
    let report = match report {
        Ok(report) => report,
        Err(error) => return not_begun(files, &error),
    };
    let packets =
        report.found.as_ref().and_then(|found| packets(plan, &found.story, files.take_pcap(), stop));
    if let Some(found) = &report.found {
        files.write_story(|| text::file(&found.story, plan, arguments.port));
    }
    let at_risk_ok = arguments.at_risk.at_risk_ok;
    let status = status(&report, at_risk_ok);
    files.write_report(&report, packets.as_ref(), plan, status, at_risk_ok);
    let packets = packets.as_ref().and_then(|packets| packets.as_ref().ok());
    let mut out = Stdout::new();
    let printed = if arguments.output.json {
        out.json(&line(lines::Hunt::new(&report, packets.map(Packets::told), plan, again)))
    } else {
        text::report(&mut out, &report, packets, &again)
    };
    end(printed.and_then(|()| out.flush()), files.end(packets, status))
}

/// A hunt that could not begin is a report for CI, too.
fn not_begun(mut files: HuntFiles, error: &HuntError) -> ExitCode {
    files.write_failure(&error.to_string());
    let status = refused(error);
    files.end(None, exit::COULD_NOT_TELL);
    status
}

fn end(printed: Result<(), Stopped>, status: u8) -> ExitCode {
    match printed {
        Ok(()) => ExitCode::from(status),
        Err(stopped) => stopped.end(Some(status)),
    }
}

/// What was found counts however the hunt ended.
fn status(report: &HuntReport, at_risk_ok: bool) -> u8 {
    let at_risk = report.at_risk.is_some() && !at_risk_ok;
    if report.found.is_some() || !report.unrepeated.is_empty() || at_risk {
        exit::LOSS_FOUND
    } else if report.ended == SearchEnd::Time {
        exit::NOTHING_LOST
    } else {
        exit::COULD_NOT_TELL
    }
}

fn run_again(arguments: &HuntArguments, plan: &HuntPlan, file: &StoryFile, stop: &Stop) -> ExitCode {
    let mut files = match HuntFiles::begin(arguments, plan, again(plan.seed)) {
        Ok(files) => files,
        Err(status) => return status,
    };
    let mut story: Story = file.story();
    if arguments.url.is_some() {
        story.link = None;
    } else if story.link.is_none() {
        let usual = if arguments.client.is_some() { "lan" } else { "loopback" };
        story.link = Some(usual.to_owned());
    }
    let (repeats, lost, _) = match replay(plan, &story, arguments.times, stop) {
        Ok(repeated) => repeated,
        Err(error) => return not_begun(files, &error),
    };
    let replayed = Replayed::new(&story, repeats, arguments.times, lost.as_ref());
    if let Some(so_far) = replayed.interrupted() {
        say!("linger: {so_far}");
    }
    let packets = lost.as_ref().and_then(|_| packets(plan, &story, files.take_pcap(), stop));
    let at_risk_ok = arguments.at_risk.at_risk_ok;
    let status = if repeats.lost > 0 || (repeats.at_risk > 0 && !at_risk_ok) {
        exit::LOSS_FOUND
    } else if repeats.judged < arguments.times {
        exit::COULD_NOT_TELL
    } else {
        exit::NOTHING_LOST
    };
    files.write_replay(&replayed, packets.as_ref(), status, at_risk_ok);
    let packets = packets.as_ref().and_then(|packets| packets.as_ref().ok());
    let mut out = Stdout::new();
    let printed = if arguments.output.json {
        out.json(&line(lines::Replay::new(&replayed, packets.map(Packets::told), plan)))
    } else {
        text::repeated(&mut out, &replayed, packets)
    };
    end(printed.and_then(|()| out.flush()), files.end(packets, status))
}
