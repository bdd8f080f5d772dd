//! Plays a story once more, over a link from which it can be captured.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use linger_lab::{Capture, Link, Named as _, Stop};
use linger_netns::Counters;
use linger_verdict::Verdict;

use crate::arena::Quarry;
use crate::crew::Crew;
use crate::error::HuntError;
use crate::hunt::{HuntPlan, field};
use crate::repeat::Repeater;
use crate::report::LostResponse;
use crate::story::Story;

/// The link in place of loopback, which has no wire to capture from: the fastest of those that have one.
const IN_PLACE_OF_LOOPBACK: &str = "lan";
/// How often a story is played at most until its response is lost.
const TRIALS: u64 = 5;

/// A story that was played for a capture.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Retold {
    /// The name of the link.
    pub link: String,
    /// How often it was played. Only the last trial may have lost.
    pub trials: u64,
    /// The loss; `None` if no trial lost.
    pub lost: Option<LostResponse>,
    /// The client's address in the last trial, by which its connection is found in the capture.
    pub client: Option<SocketAddr>,
    /// What the kernel counted on the server's side in the last trial.
    pub counters: Option<Counters>,
    /// What it counted on the client's side; `None` where a server is hunted.
    pub client_counters: Option<Counters>,
    /// Whether the user stopped it before a trial lost: what no trial lost says little then.
    pub interrupted: bool,
}

/// Starts the server of `plan` again and plays a story until its response is lost, five times at most. `capture` gets all that
/// crosses the link, the plain requests at the start included: the story's own link, or `lan` in the place of loopback.
///
/// # Errors
/// As [`hunt`](crate::hunt()); and [`HuntError::Target`] for a server that was running before: there is no link between.
pub fn retell(
    plan: &HuntPlan,
    story: &Story,
    capture: &Arc<Mutex<Capture>>,
    stop: &Stop,
) -> Result<Retold, HuntError> {
    let mut plan = plan.clone();
    let link = match &mut plan.quarry {
        Quarry::Running { target, .. } => {
            let (target, reason) = (target.to_string(), "there is no link to capture from".to_owned());
            return Err(HuntError::Target { target, reason });
        }
        Quarry::Command { links, .. } | Quarry::Client { links, .. } => {
            let own = links.iter().find(|link| Some(&link.name) == story.link.as_ref() && !link.loopback);
            let link = match own {
                Some(link) => link.clone(),
                None => Link::named(IN_PLACE_OF_LOOPBACK).map_err(|reason| HuntError::Target {
                    target: IN_PLACE_OF_LOOPBACK.to_owned(),
                    reason,
                })?,
            };
            *links = vec![link.clone()];
            link
        }
    };
    let field = field(&plan, Some(capture), stop)?;
    let crew = Crew::new(&*field, 1);
    let story = Story::new(Some(link.name.clone()), story.schedule.clone());
    let mut retold = Retold {
        link: link.name,
        trials: 0,
        lost: None,
        client: None,
        counters: None,
        client_counters: None,
        interrupted: false,
    };
    let repeater = Repeater { crew: &crew, stop };
    let played = (0..TRIALS).try_for_each(|_| {
        if retold.lost.is_some() {
            return Ok(());
        }
        retold.interrupted = stop.requested();
        if retold.interrupted {
            return Ok(());
        }
        let before = field.counters(story.link.as_deref());
        for played in repeater.play_all(std::slice::from_ref(&story), None)?.into_iter().flatten() {
            retold.trials += 1;
            retold.client = played.trial.client;
            retold.lost = (played.trial.verdict == Ok(Verdict::Lost)).then_some(played.trial.lost);
        }
        let after = field.counters(story.link.as_deref()).zip(before);
        let counted = after.map(|(after, before)| after.since(&before));
        retold.client_counters = counted.as_ref().and_then(|counted| counted.client.clone());
        retold.counters = counted.map(|counted| counted.server);
        // A trial may have been halted in its middle.
        retold.interrupted = retold.lost.is_none() && stop.requested();
        Ok(())
    });
    field.end();
    played.map_err(|source| HuntError::Machine { what: "the client's thread", source })?;
    Ok(retold)
}
