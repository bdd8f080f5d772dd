//! What the two processes do: the client's one transfer, and what the server shares.

use std::path::{Path, PathBuf};

use super::world::world;
use super::{Scenario, Schedule};
use crate::client::Client;
use crate::error::Error;
use crate::message::{Durability, IfExists};
use crate::options::{ClientOptions, GetOptions, Input, Output, PutOptions, Security};
use crate::progress::{Progress, Summary};
use crate::remote::Destination;
use crate::serve::ShareOptions;
use crate::sink::StreamsConfig;

/// What the client reports, and the error that ended its transfer.
pub(super) type ClientResult = (Summary, Option<Error>);

pub(super) fn options() -> ClientOptions {
    ClientOptions { security: Security::Never, ..ClientOptions::default() }
}

/// What the client does in its process. With `anew`, a sink's command is to run although it may have run before.
pub(super) fn transfer(base: &Path, schedule: &Schedule, anew: bool) -> ClientResult {
    let client = match Client::new("simulated", 1, options()) {
        Ok(client) => client,
        Err(error) => return (Summary::default(), Some(error)),
    };
    if let Some(world) = world() {
        world.state.borrow_mut().canceller = Some(client.canceller());
    }
    let durability = if schedule.to_disk { Durability::Disk } else { Durability::Memory };
    let source = base.join("source");
    let (path, to): (PathBuf, &[u8]) = match schedule.scenario {
        Scenario::File | Scenario::Replace => (source.join("file"), b"file"),
        Scenario::Tree => (source.join("tree"), b"new/tree"),
        Scenario::Large => (source.join("large"), b"large"),
        Scenario::Sink => (source.join("file"), b"@print"),
        Scenario::Get => {
            let options = GetOptions { durability, ..GetOptions::default() };
            let from = match Destination::typed(b"tree") {
                Ok(from) => from,
                Err(bad) => return (Summary::default(), Some(Error::Usage(bad.to_string().into()))),
            };
            return client.get(&from, &Output::Path(base.join("shared/tree")), &options, &mut |progress| {
                tell(&progress, true)
            });
        }
    };
    let to = match Destination::typed(to) {
        Ok(to) => to,
        Err(bad) => return (Summary::default(), Some(Error::Usage(bad.to_string().into()))),
    };
    let if_exists = if schedule.scenario == Scenario::Replace { IfExists::Replace } else { IfExists::Fail };
    let options = PutOptions { durability, if_exists, anew, ..PutOptions::default() };
    client.put(Input::Path(path), &to, &options, &mut |progress| tell(&progress, false))
}

/// Tells the world what the client reports.
fn tell(progress: &Progress, is_get: bool) {
    if let Some(world) = world() {
        world.seen_by_client(progress, is_get);
    }
}

pub(super) fn share(base: &Path, schedule: &Schedule) -> ShareOptions {
    let is_get = schedule.scenario == Scenario::Get;
    let directory = base.join(if is_get { "source" } else { "shared" });
    let config = StreamsConfig::parse("[sink.print]\ncommand = ['lp', '-']").unwrap_or_default();
    ShareOptions {
        writable: !is_get,
        insecure: true,
        memory: (!is_get).then(|| base.join("memory")),
        config,
        ..ShareOptions::new(directory)
    }
}
