//! How often connections in flight are looked for. Computed here a second time, independently of the world.

use std::time::Duration;

use super::Fault;

const SOON: Duration = Duration::from_millis(20);
const CERTAIN: Duration = Duration::from_millis(50);
const LATE: Duration = Duration::from_secs(1);

/// When the next look is due.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Since when something is looked for, or the time of the last look.
    since: Option<Duration>,
    /// The possible pauses before the next look. From outside it is not always known whether a look has to be
    /// confirmed.
    pauses: Vec<Duration>,
    /// What the last look took.
    took: Duration,
}

impl Pace {
    /// Checks when the world wants a tick; `now` is allowed if it may have begun to look just now.
    pub(super) fn check(&mut self, due: Option<Duration>, now: Duration) -> Result<(), Fault> {
        let Some(due) = due else {
            self.since = None;
            return Ok(());
        };
        let since = *self.since.get_or_insert_with(|| {
            self.pauses = vec![SOON];
            now
        });
        let least = self.took * 20;
        self.pauses.retain(|pause| since + least.max(*pause) == due);
        if self.pauses.is_empty() { Err(format!("looks at {due:?}, after {since:?}")) } else { Ok(()) }
    }

    /// Notes a look. `confirms` says whether a second look is to confirm that something is nowhere, if that is known.
    pub(super) fn looked(&mut self, took: Duration, confirms: Option<bool>, now: Duration) {
        (self.since, self.took) = (Some(now), took);
        self.pauses.iter_mut().for_each(|pause| *pause = (*pause * 2).min(LATE));
        match confirms {
            Some(true) => self.pauses = vec![CERTAIN],
            Some(false) => {}
            None => self.pauses.push(CERTAIN),
        }
    }
}
