//! What must be true at the end of a schedule, whatever has happened.

use std::collections::BTreeMap;

use super::disk::Disk;
use super::shadow::Image;
use super::sources::{changed, content};
use super::world::SimulatedWorld;
use super::{Scenario, Schedule};
use crate::error::Error;
use crate::message::Refusal;
use crate::path::WORK;
use crate::progress::{ItemVerdict, Summary};
use crate::reason::Remedy;
use crate::serve::Served;

/// The content of the file that is replaced.
pub(super) const OLD: &[u8] = b"what was there before";

/// The end of a run of the client.
pub(super) struct EndedClient {
    pub(super) summary: Summary,
    pub(super) error: Option<Error>,
    /// The number of this run's first connection.
    pub(super) first: usize,
    /// Its last two attempts met silence, so that the server may not know what it knows.
    pub(super) met_silence: bool,
    /// How many commands were started when it ended, if another client put the same at once.
    pub(super) second: Option<usize>,
}

impl EndedClient {
    /// The exit status with which `linger put` or `linger get` would end.
    pub(super) fn status(&self) -> u8 {
        status(&self.summary, self.error.as_ref())
    }
}

fn status(summary: &Summary, error: Option<&Error>) -> u8 {
    match summary.verdict(error) {
        ItemVerdict::Confirmed => 0,
        ItemVerdict::NotDelivered => 1,
        ItemVerdict::Unconfirmed => 3,
    }
}

/// The exit status with which `linger share --once` would end.
fn served_status(served: &Served) -> u8 {
    let summary = &served.summary;
    if summary.failed == 0 && summary.unsent == 0 && summary.confirmed > 0 && !summary.peer_knows {
        return 3;
    }
    status(summary, served.error.as_ref())
}

/// The files that have to be below the shared directory at the end.
fn wanted(scenario: Scenario) -> BTreeMap<Vec<u8>, Image> {
    let file = |name: &str| (name.as_bytes().to_vec(), Image::File(content(name)));
    match scenario {
        Scenario::File | Scenario::Replace => [file("file")].into(),
        Scenario::Large => [file("large")].into(),
        Scenario::Sink => BTreeMap::new(),
        Scenario::Tree | Scenario::Get => {
            let above = if scenario == Scenario::Tree { "new/" } else { "" };
            let at = |name: &str| [above, name].concat().into_bytes();
            let mut all: BTreeMap<_, _> = [
                (at("tree/a"), Image::File(content("tree/a"))),
                (at("tree/inner/b"), Image::File(content("tree/inner/b"))),
                (at("tree"), Image::Directory),
                (at("tree/inner"), Image::Directory),
                (at("tree/link"), Image::Link),
            ]
            .into();
            if scenario == Scenario::Tree {
                all.insert(b"new".to_vec(), Image::Directory);
            }
            all
        }
    }
}

fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

fn is_work(name: &[u8]) -> bool {
    name.starts_with(WORK.as_bytes())
}

/// Checks that every file with a final name is complete and as it was sent, or as the source became (`has_changed`). With
/// `needs`, all files have to exist.
fn names(
    schedule: &Schedule,
    found: &BTreeMap<Vec<u8>, Image>,
    (needs, has_changed): (bool, bool),
) -> Result<(), String> {
    let wanted = wanted(schedule.scenario);
    for (name, image) in found.iter().filter(|(name, _)| !is_work(name)) {
        if has_changed
            && let (Some(Image::File(content)), Image::File(new)) = (wanted.get(name), image)
            && changed(content) == *new
        {
            continue;
        }
        let old = schedule.scenario == Scenario::Replace && *image == Image::File(OLD.to_vec()) && !needs;
        if wanted.get(name) != Some(image) && !old {
            return Err(format!("{} is there, and is not what was sent", shown(name)));
        }
    }
    let missing = wanted.keys().find(|name| needs && !found.contains_key(*name));
    missing.map_or(Ok(()), |name| Err(format!("{} is missing", shown(name))))
}

/// Checks that a transfer has left nothing but what is needed to resume it.
fn leftovers(found: &BTreeMap<Vec<u8>, Image>, is_over: bool) -> Result<(), String> {
    let resumes =
        |name: &[u8]| name.ends_with(b".part") || name.ends_with(b".state") || name == WORK.as_bytes();
    let left = found.keys().filter(|name| is_work(name) && (is_over || !resumes(name)));
    let left: Vec<String> = left.map(|name| shown(name)).collect();
    if left.is_empty() { Ok(()) } else { Err(format!("{} stays", left.join(", "))) }
}

/// Checks after a power cut that the files with final names are complete, if receipts were asked for once
/// files are on disk.
pub(super) fn after_cut(schedule: &Schedule, disk: &Disk, has_changed: bool) -> Result<(), String> {
    if !schedule.to_disk {
        return Ok(());
    }
    names(schedule, &disk.found(), (false, has_changed)).map_err(|told| format!("after a power cut, {told}"))
}

/// The exit status of the last session at the server, if the server lived long enough to report it.
pub(super) fn last_served(world: &SimulatedWorld, first: usize) -> Option<u8> {
    let state = world.state.borrow();
    let last = state.connections.len().checked_sub(1).filter(|last| *last >= first)?;
    let (_, served) = state.served.iter().find(|(number, _)| *number == last)?;
    served.has_asked().then(|| served_status(served))
}

/// Checks that a client gives up only once its patience is over. A client that has never heard the server's greeting does not
/// try again.
fn has_patience(world: &SimulatedWorld, ended: &EndedClient) -> Result<(), String> {
    let gave_up = ended.error.as_ref().is_some_and(Error::is_temporary) && ended.status() != 0;
    let state = world.state.borrow();
    state.timeline.gives_up(state.now).filter(|_| gave_up).map_or(Ok(()), Err)
}

fn agree(world: &SimulatedWorld, ended: &EndedClient) -> Result<(), String> {
    match (ended.status(), last_served(world, ended.first)) {
        (client @ 0, Some(server @ 1)) | (client @ 1, Some(server @ 0)) => {
            Err(format!("the client says {client} and the server {server}: {:?}", ended.error))
        }
        _ => Ok(()),
    }
}

/// Whether files may be missing: nobody asked for durability, and the power was cut.
fn may_be_lost(schedule: &Schedule, world: &SimulatedWorld) -> bool {
    let state = world.state.borrow();
    !schedule.to_disk && state.boots[state.disk.owner as usize] > 2
}

/// Checks that one cut alone does not make a transfer fail: it only makes it longer. More of them may use up the client's
/// patience, and a client that has never heard the server's greeting does not try again.
fn gets_through(world: &SimulatedWorld, ended: Option<&EndedClient>) -> Result<(), String> {
    let state = world.state.borrow();
    let command_failed = state.commands.iter().any(|command| command.outcome == Some(false));
    match ended {
        Some(EndedClient { error: Some(Error::Identity(_)), .. }) => Ok(()),
        Some(_) if state.gave_up || state.was_full || state.was_broken || state.has_changed => Ok(()),
        Some(ended) if state.happened < 2 && !state.fell && !command_failed && ended.status() != 0 => {
            let why = ended.summary.first_failure.as_ref().map(ToString::to_string);
            let status = ended.status();
            Err(format!("nothing but a cut, and the client says {status}: {:?}, {why:?}", ended.error))
        }
        _ => Ok(()),
    }
}

pub(super) fn after_first(
    schedule: &Schedule,
    world: &SimulatedWorld,
    ended: Option<&EndedClient>,
) -> Result<(), String> {
    if let Some(told) = world.state.borrow().fault.clone() {
        return Err(told);
    }
    if let Some(ended) = ended {
        if ended.second.is_none() {
            agree(world, ended)?;
        }
        has_patience(world, ended)?;
    }
    gets_through(world, ended)?;
    if schedule.scenario == Scenario::Sink {
        return after_sink(world, ended);
    }
    if may_be_lost(schedule, world) {
        return Ok(());
    }
    let found = world.state.borrow().disk.found();
    let is_done = ended.is_some_and(|ended| ended.status() == 0);
    let has_changed = world.state.borrow().has_changed;
    names(schedule, &found, (is_done, has_changed))
        .map_err(|told| format!("{told}; the client says {:?}", ended.map(EndedClient::status)))?;
    let (fell, was_broken) = (world.state.borrow().fell, world.state.borrow().was_broken);
    if !fell && !was_broken {
        // A process that ended in the middle leaves files behind, which the next session removes. What a disk that fails does not
        // remove stays for longer.
        leftovers(&found, false)?;
    }
    if is_done && schedule.to_disk {
        names(schedule, &world.state.borrow().disk.durable(), (true, has_changed))
            .map_err(|told| format!("all is confirmed as on disk, and {told} after a power cut"))?;
    }
    Ok(())
}

/// Checks the second run, without faults: everything has arrived, and both ends report so.
pub(super) fn after_second(
    schedule: &Schedule,
    world: &SimulatedWorld,
    ended: Option<&EndedClient>,
) -> Result<(), String> {
    if let Some(told) = world.state.borrow().fault.clone() {
        return Err(told);
    }
    let Some(ended) = ended else { return Err("the second client was not killed, and has not ended".into()) };
    let both = (ended.status(), last_served(world, ended.first));
    let lost = may_be_lost(schedule, world);
    // What the first client has sent may have the name, and the second one has other content.
    let has_changed = world.state.borrow().has_changed;
    let is_refused = has_changed && schedule.scenario != Scenario::Replace && both == (1, Some(1));
    if both != (0, Some(0)) && !is_refused && !lost {
        let why = ended.summary.first_failure.as_ref().map(ToString::to_string);
        return Err(format!("in peace the two ends say {both:?}: {:?}, {why:?}", ended.error));
    }
    if lost {
        return Ok(());
    }
    let found = world.state.borrow().disk.found();
    names(schedule, &found, (!is_refused, has_changed))?;
    // What the first client left of a file that has changed since is of no use to the second one, and stays for two weeks.
    if world.state.borrow().was_broken || has_changed { Ok(()) } else { leftovers(&found, true) }
}

/// Checks that a sink's command was started at most once and with all bytes, and that the client's result is
/// true.
fn after_sink(world: &SimulatedWorld, ended: Option<&EndedClient>) -> Result<(), String> {
    let state = world.state.borrow();
    let all = &state.commands;
    let commands = &all[..ended.and_then(|ended| ended.second).unwrap_or(all.len())];
    if commands.len() > 1 {
        return Err(format!("the command was started {} times", commands.len()));
    }
    if all.iter().any(|command| command.content != content("file")) {
        return Err("the command got something else than was sent".into());
    }
    let outcome = commands.first().map(|command| command.outcome);
    match (ended.map(EndedClient::status), outcome) {
        (Some(0), Some(Some(true))) | (Some(3) | None, _) => Ok(()),
        (Some(1), None | Some(Some(false))) => Ok(()),
        (status, outcome) => {
            Err(format!("the client says {status:?}, and the command's outcome is {outcome:?}"))
        }
    }
}

/// Checks that a client that asks later gets the same answer.
pub(super) fn after_asking(
    world: &SimulatedWorld,
    ended: Option<&EndedClient>,
    answer: &Result<(), Error>,
    commands: usize,
) -> Result<(), String> {
    let state = world.state.borrow();
    if ended.is_some_and(|ended| ended.second.is_some()) {
        // It is not known here which client's command it was.
        return Ok(());
    }
    let outcome = state.commands[..commands].first().map(|command| command.outcome);
    let status = ended.map(EndedClient::status);
    let is_true = match answer {
        Ok(()) => outcome == Some(Some(true)) && status != Some(1),
        Err(Error::Refused(Refusal::NotFound, _)) => outcome.is_none() && status != Some(0),
        // Nobody can know: the command may even have been noted and then not started. A server is in doubt only after a
        // restart; about a transfer whose receipt a client has, only if the disk had no room to note the command's end.
        Err(Error::Refused(Refusal::Command, why)) if why.remedy() == Some(&Remedy::LookBeforeSending) => {
            state.fell && (status != Some(0) || state.was_full || state.was_broken)
        }
        Err(Error::Refused(Refusal::Command, _)) => outcome == Some(Some(false)) && status != Some(0),
        Err(_) => false,
    };
    if is_true {
        return Ok(());
    }
    Err(format!(
        "asked later, the server says {answer:?}; the client said {status:?}, the command {outcome:?}"
    ))
}

/// Checks a put of the same content to the same sink, without faults: it starts the command once if the user says so (`anew`),
/// not at all if the command may have run and nobody knows (`open`), and at most once otherwise.
pub(super) fn after_printing_again(
    world: &SimulatedWorld,
    (first, ended): (Option<&EndedClient>, Option<&EndedClient>),
    before: usize,
    (open, anew): (bool, bool),
) -> Result<(), String> {
    let state = world.state.borrow();
    if let Some(told) = &state.fault {
        return Err(told.clone());
    }
    let started = &state.commands[before..];
    let status = ended.map(EndedClient::status);
    // A server is in doubt if it has forgotten the result, or if no client has confirmed the receipt. A client that has the
    // receipt repeats its goodbye until that arrives: two cuts do not keep the server from knowing, but a second silence does.
    let has_heard = first.is_some_and(|first| first.status() == 0 && !first.met_silence)
        && state.happened <= 2
        && !state.gave_up;
    let may_doubt =
        state.fell || state.was_full || state.was_broken || (before > 0 && state.happened > 0 && !has_heard);
    let is_right = match (anew, started) {
        (false, []) => status == Some(3) && (open || may_doubt),
        (_, [command]) if anew || !open => status == Some(if command.outcome == Some(true) { 0 } else { 1 }),
        _ => false,
    };
    if is_right && started.iter().all(|command| command.content == content("file")) {
        return Ok(());
    }
    let times = started.len();
    Err(format!(
        "put again (with the user's word: {anew}; open: {open}), it was started {times} times: {status:?}"
    ))
}
