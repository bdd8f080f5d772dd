//! Plays stories again: all at once, often, or until it is known which of them lose.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use linger_lab::Stop;
use linger_verdict::Verdict;

use crate::crew::{Crew, PlayedStory};
use crate::judge::Unjudged;
use crate::report::{LostResponse, Repeats};
use crate::story::Story;

/// Plays stories with a crew until a user stops it.
#[derive(Clone, Copy)]
pub(crate) struct Repeater<'h> {
    pub(crate) crew: &'h Crew<'h>,
    pub(crate) stop: &'h Stop,
}

impl Repeater<'_> {
    /// Plays stories once each. Returns them in their order; `None` for one that was not played to its end.
    pub(crate) fn play_all(
        &self,
        stories: &[Story],
        until: Option<Instant>,
    ) -> io::Result<Vec<Option<PlayedStory>>> {
        let (halt, next) = (Stop::new()?, AtomicUsize::new(0));
        let source = || {
            let index = next.fetch_add(1, Ordering::Relaxed);
            Some((index as u64, stories.get(index)?.clone()))
        };
        let mut results: Vec<Option<PlayedStory>> = vec![None; stories.len()];
        let stop = self.stop;
        let told = |played: PlayedStory| {
            self.crew.repeated().count(&played.story.schedule, played.trial.verdict);
            let index = usize::try_from(played.index).unwrap_or(usize::MAX);
            if let Some(result) =
                results.get_mut(index).filter(|_| played.trial.verdict != Err(Unjudged::Halted))
            {
                *result = Some(played);
            }
        };
        let look = || {
            if stop.requested() || until.is_some_and(|until| Instant::now() >= until) {
                halt.request();
            }
        };
        self.crew.run(&source, stories.len(), &halt, told, look)?;
        Ok(results)
    }

    /// Plays a story so many times. Returns how often it lost, and one of the losses.
    pub(crate) fn repeat(&self, story: &Story, times: u64) -> io::Result<(Repeats, Option<LostResponse>)> {
        let stories = vec![story.clone(); usize::try_from(times).unwrap_or(usize::MAX)];
        let (mut repeats, mut lost) = (Repeats::default(), None);
        for played in self.play_all(&stories, None)?.into_iter().flatten() {
            repeats.count(played.trial.verdict);
            if played.trial.verdict == Ok(Verdict::Lost) && lost.is_none() {
                lost = Some(played.trial.lost);
            }
        }
        Ok((repeats, lost))
    }

    /// Which stories lose `need` times in `tries`; `None` if the time is over.
    pub(crate) fn which_lose(
        &self,
        stories: &[Story],
        need: u64,
        tries: u64,
        until: Instant,
    ) -> io::Result<Option<Vec<bool>>> {
        let (mut lost, mut done) = (vec![0u64; stories.len()], 0);
        while done < tries {
            let is_open = |lost: u64| lost < need && lost + (tries - done) >= need;
            let open: Vec<usize> = (0..stories.len()).filter(|index| is_open(lost[*index])).collect();
            // All tries at once where there are connections for them; otherwise the first decides about most stories.
            let all = done > 0 || open.len() as u64 * tries <= self.crew.may_be() as u64;
            let at_once = if all { tries - done } else { 1 };
            let indices: Vec<usize> = open.iter().flat_map(|index| (0..at_once).map(|_| *index)).collect();
            let these: Vec<Story> = indices.iter().map(|index| stories[*index].clone()).collect();
            if these.is_empty() {
                break;
            }
            for (index, played) in indices.into_iter().zip(self.play_all(&these, Some(until))?) {
                let Some(played) = played else { return Ok(None) };
                lost[index] += u64::from(played.trial.verdict == Ok(Verdict::Lost));
            }
            done += at_once;
        }
        Ok(Some(lost.into_iter().map(|lost| lost >= need).collect()))
    }
}
