//! Makes a loss that was found as short as it can be, and says how often it comes and where its boundaries are.

use std::io;
use std::time::{Duration, Instant};

use crate::crew::PlayedStory;
use crate::field::SideCounters;
use crate::repeat::Repeater;
use crate::report::{FoundLoss, LostResponse, Repeats};
use crate::schedule::HuntStep;
use crate::shrink::{ShrunkStory, shrink};
use crate::story::Story;

/// How often a loss is repeated when it was seen, and again when it is short.
pub(crate) const REPEATS: u64 = 10;
/// How often the shortest story is repeated.
const LAST_REPEATS: u64 = 20;
/// By how many percent, and how many milliseconds, pauses are lengthened, one after another, while a story loses in fewer than nine
/// of ten trials.
const LONGER: [(u64, u64); 5] = [(0, 0), (1, 5), (3, 20), (10, 60), (50, 200)];
/// How often in a row a shorter story has to lose. Of many that lose in two of three trials, some lose three times in a row.
const ALWAYS: u64 = 6;
/// A story whose pauses are shorter in all is shrunk up to so many times: others would take longer than a hunt.
const QUICK: Duration = Duration::from_secs(1);
const TIMES: usize = 3;
/// Into how many parts a response is divided to find how much of it must be unread; each part once more.
const PARTS: u64 = 8;

/// A loss, as often as it came when it was repeated.
pub(crate) struct Candidate {
    pub(crate) played: PlayedStory,
    pub(crate) after: Duration,
    pub(crate) repeats: Repeats,
}

/// The shortest story, and what came of its repetitions.
struct LastRepeats {
    short: ShrunkStory,
    repeats: Repeats,
    lost: Option<LostResponse>,
    counters: Option<SideCounters>,
}

/// Makes losses short.
pub(crate) struct Shortener<'h> {
    pub(crate) repeater: Repeater<'h>,
    /// When it has to end.
    pub(crate) until: Instant,
    /// Called with the number of trials so far.
    pub(crate) told: &'h mut dyn FnMut(u64),
}

impl Shortener<'_> {
    pub(crate) fn shorten(&mut self, best: Candidate) -> io::Result<FoundLoss> {
        let drawn = best.played.story.clone();
        // What always loses has to lose each time; a race once, in more trials.
        let (need, tries) = match best.repeats.lost.max(1) {
            lost if !best.repeats.is_race() || lost * 2 > best.repeats.tried => (ALWAYS, ALWAYS),
            lost => (1, (2 * best.repeats.tried / lost).clamp(2, 12)),
        };
        let mut failed = None;
        let mut trials = 0;
        let links = self.repeater.crew.field.links();
        let times = if drawn.schedule.pauses() < QUICK { TIMES } else { 1 };
        let short = shrink(&drawn, &links, times, &mut |stories| {
            trials += stories.len() as u64;
            (self.told)(trials);
            match self.repeater.which_lose(stories, need, tries, self.until) {
                Ok(answers) => answers,
                Err(error) => {
                    failed = Some(error);
                    None
                }
            }
        });
        if let Some(error) = failed {
            return Err(error);
        }
        self.conclude(best, drawn, short, trials)
    }

    fn conclude(
        &mut self,
        best: Candidate,
        drawn: Story,
        short: ShrunkStory,
        shrinking: u64,
    ) -> io::Result<FoundLoss> {
        let mut last = self.steadied(short, &drawn, best.repeats.is_race())?;
        let (few, before) = (last.repeats, best.repeats);
        // The user was in a hurry: the repetitions of the story that was drawn say more than two or three of the shortest.
        if few.tried < LAST_REPEATS && (few.lost == 0 || few.tried < before.tried) {
            last.repeats = before;
        }
        let lost = last.lost.unwrap_or(best.played.trial.lost);
        let unread_from =
            if last.short.whole { self.unread(&last.short.story, lost.expected)? } else { None };
        Ok(FoundLoss {
            story: last.short.story,
            drawn,
            index: best.played.index,
            after: best.after,
            repeats: last.repeats,
            lost,
            bounds: last.short.bounds,
            unread_from,
            whole: last.short.whole,
            shrinking,
            client_counters: last.counters.as_ref().and_then(|counters| counters.client.clone()),
            counters: last.counters.map(|counters| counters.server),
            map: self.repeater.crew.repeated().clone(),
        })
    }

    /// Repeats the shortest story. A pause just at its boundary, or a buffer of another size, loses now and then: then it gets longer
    /// pauses and the buffer that was drawn, until it loses as often as the story that was drawn. If that does not help, it stays as short
    /// as it was.
    fn steadied(&self, short: ShrunkStory, drawn: &Story, is_race: bool) -> io::Result<LastRepeats> {
        let mut first: Option<LastRepeats> = None;
        let mut tried: Vec<Story> = Vec::new();
        for (percent, milliseconds) in LONGER {
            for buffer in [short.story.schedule.receive_buffer, drawn.schedule.receive_buffer] {
                let mut longer = short.with_longer_pauses(percent, milliseconds);
                longer.story.schedule.receive_buffer = buffer;
                if longer.story.schedule.check().is_err() || tried.contains(&longer.story) {
                    continue;
                }
                tried.push(longer.story.clone());
                let last = self.last_repeats(longer)?;
                if is_race || last.repeats.tried == 0 || !last.repeats.is_race() {
                    return Ok(last);
                }
                first = first.or(Some(last));
            }
        }
        first.map_or_else(|| self.last_repeats(short), Ok)
    }

    fn last_repeats(&self, short: ShrunkStory) -> io::Result<LastRepeats> {
        let counters = || self.repeater.crew.field.counters(short.story.link.as_deref());
        let before = counters();
        let (repeats, lost) = self.repeater.repeat(&short.story, LAST_REPEATS)?;
        let counters = counters().zip(before).map(|(after, before)| after.since(&before));
        Ok(LastRepeats { short, repeats, lost, counters })
    }

    /// How many bytes of the response must be unread at the least when the client goes on: the story with a reading before its last pause,
    /// as long as it loses. `None` for a story in which that says nothing, and if the time is over.
    fn unread(&self, story: &Story, expected: Option<u64>) -> io::Result<Option<u64>> {
        let steps = &story.schedule.steps;
        let last = steps.iter().rposition(|step| matches!(step, HuntStep::Pause { .. }));
        let reads = steps.iter().any(|step| matches!(step, HuntStep::Read { .. }));
        let is_other = !story.schedule.plays.is_client() || reads || story.schedule.requests() > 1;
        let (Some(last), Some(expected), false) = (last, expected, is_other) else {
            return Ok(None);
        };
        let reading = |bytes: u64| {
            let mut story = story.clone();
            story.schedule.steps.insert(last, HuntStep::Read { bytes });
            story
        };
        let (mut loses, mut step) = (0, expected);
        for _ in 0..2 {
            step /= PARTS;
            if step == 0 {
                break;
            }
            let candidates: Vec<u64> = (1..PARTS).map(|part| loses + step * part).collect();
            let stories: Vec<Story> = candidates.iter().map(|bytes| reading(*bytes)).collect();
            let Some(answers) = self.repeater.which_lose(&stories, 3, 3, self.until)? else {
                return Ok(None);
            };
            let lost = candidates.into_iter().zip(answers).take_while(|(_, lost)| *lost);
            loses = lost.map(|(bytes, _)| bytes).last().unwrap_or(loses);
        }
        Ok(Some(expected - loses))
    }
}
