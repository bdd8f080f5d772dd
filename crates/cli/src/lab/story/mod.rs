//! `linger lab story`: the loss that this project began with, acted out with the programs that had it.

mod act;
mod cast;
mod told;

use std::process::ExitCode;

use clap::Args;
use linger_lab::{Link, Stop};

use crate::lines::{self, line};
use crate::options::{Chance, Json};
use crate::output::{Stdout, Stopped};
use crate::typed::links;
use crate::{exit, interrupt};

use act::{Backlogged, Uploads};
use cast::{Cast, Gateway};

/// Acts out the loss between a web server and its application: shown, explained, cured, and told from a full backlog.
///
/// uWSGI leaves the body of an upload unread and closes; nginx and httpd in front of it, and a slow
/// link between. Everything runs in private networks, and is gone afterwards. Without these
/// programs a sample application of this program plays, and what to install is said.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  linger lab story\n\n\
    Exit status: 0 if it went as the text says: responses lost, then none; 1 if responses were lost\n\
    with the cure, or none without; 3 if something could not be started; 4 if this machine has no\n\
    namespaces for the links.")]
pub(crate) struct StoryArguments {
    /// The network between gateway and application.
    #[arg(long, default_value = "wifi", value_parser = links())]
    link: Link,
    #[command(flatten)]
    chance: Chance,
    #[command(flatten)]
    output: Json,
}

pub(crate) fn run(arguments: StoryArguments) -> ExitCode {
    if arguments.link.loopback {
        let told =
            "--link: the story is about a link that takes time, which loopback does not; choose another";
        return exit::fail(exit::BAD_USAGE, told);
    }
    let cast = match Cast::gather() {
        Ok(cast) => cast,
        Err(error) => return exit::io("lab story", &error),
    };
    let stop = match interrupt::stop() {
        Ok(stop) => stop,
        Err(error) => return exit::io("cannot take signals", &error),
    };
    let stage = act::Theatre { link: arguments.link, seed: arguments.chance.seed(), cast, stop: &stop };
    let mut teller = Teller { out: Stdout::new(), json: arguments.output.json };
    match play(&stage, &mut teller, &stop) {
        Ok(went_well) if went_well => ExitCode::from(exit::NOTHING_LOST),
        Ok(_) => ExitCode::from(exit::LOSS_FOUND),
        Err(Interlude::Unread(stopped)) => stopped.end(None),
        // A program that was stopped in an act has said less than it should.
        Err(Interlude::Failed(error)) if !stop.requested() => exit::io("lab story", &error),
        Err(Interlude::Failed(_) | Interlude::Interrupted) => {
            exit::fail(exit::COULD_NOT_TELL, "lab story: stopped on request")
        }
    }
}

/// Why the story has no end.
enum Interlude {
    Unread(Stopped),
    Failed(std::io::Error),
    Interrupted,
}

impl From<Stopped> for Interlude {
    fn from(stopped: Stopped) -> Self {
        Self::Unread(stopped)
    }
}

impl From<std::io::Error> for Interlude {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(error)
    }
}

/// Tells it as text or as JSON.
struct Teller {
    out: Stdout,
    json: bool,
}

impl Teller {
    fn text(&mut self, text: String) -> Result<(), Stopped> {
        if !self.json {
            self.out.text(format_args!("{text}"))?;
        }
        self.out.flush()
    }

    fn line(&mut self, body: impl lines::LineBody) -> Result<(), Stopped> {
        if self.json {
            self.out.json(&line(body))?;
        }
        self.out.flush()
    }
}

/// All acts, each told as soon as it is over. Returns whether all went as told.
fn play(stage: &act::Theatre<'_>, teller: &mut Teller, stop: &Stop) -> Result<bool, Interlude> {
    let over = |stop: &Stop| if stop.requested() { Err(Interlude::Interrupted) } else { Ok(()) };
    teller.text(told::opening(stage))?;
    let mut bare: Vec<(Gateway, Uploads)> = Vec::new();
    for gateway in stage.cast.gateways() {
        let served = act::serve(stage, gateway, false)?;
        over(stop)?;
        teller.line(told::uploads(gateway, &served, false))?;
        bare.push((gateway, served));
    }
    teller.text(told::loss(&bare))?;
    teller.text(told::cause(&bare))?;
    let mut cured: Vec<(Gateway, Uploads)> = Vec::new();
    for gateway in stage.cast.gateways() {
        let served = act::serve(stage, gateway, true)?;
        over(stop)?;
        teller.line(told::uploads(gateway, &served, true))?;
        cured.push((gateway, served));
    }
    teller.text(told::cure(&bare, &cured))?;
    let queue: Backlogged = act::overflow(stage)?;
    over(stop)?;
    teller.text(told::backlog(&queue))?;
    teller.line(told::queue(&queue))?;
    let lost = |(_, served): &(Gateway, Uploads)| served.is_short();
    let as_told = bare.iter().all(lost) && !cured.iter().any(lost) && queue.overflows > 0;
    teller.line(lines::Story {
        as_told,
        real: stage.cast.is_real(),
        missing: stage.cast.lacks.clone(),
        link: stage.link.name.clone(),
        seed: stage.seed,
    })?;
    Ok(as_told)
}
