//! How often what is in flight is looked for: said here once more, apart from the world's own reckoning.

use std::time::Duration;

use super::Fault;

const SOON: Duration = Duration::from_millis(20);
const CERTAIN: Duration = Duration::from_millis(50);
const LATE: Duration = Duration::from_secs(1);

/// When the next look is due.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Something is looked for, since the last look or since it began.
    since: Option<Duration>,
    /// What may be the pause before the next look: it is not always known outside whether a look has to be confirmed.
    pauses: Vec<Duration>,
    /// What the last look took.
    took: Duration,
}

impl Pace {
    /// Checks when the world wants to be told that time has passed; `now` if it may have begun to look just now.
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

    /// Notes a look; whether something was found nowhere, so that a second look is to confirm it, if that is known.
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
