//! Makes a story that loses as short as it can be: fewest steps, simplest link and settings, smallest numbers. No I/O: whether a
//! story loses is asked of the caller, many stories at a time.
//!
//! A change is accepted only if the changed story loses. What is found for the numbers is their boundary too: the smallest
//! value that loses, and below it the largest that was tried and kept.

use std::collections::{BTreeSet, HashMap};

use crate::schedule::{HuntStep, Parameter, Schedule};
use crate::story::Story;

/// A story that cannot be made shorter, as far as was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShrunkStory {
    /// The story.
    pub story: Story,
    /// The boundary along each of its numbers, in the order of its steps.
    pub bounds: Vec<LossBound>,
    /// Whether everything was tried. Otherwise the time was over before.
    pub whole: bool,
    /// How many stories were asked for.
    pub asked: usize,
}

impl ShrunkStory {
    /// The same story with pauses that are longer by so many percent, and milliseconds.
    pub(crate) fn with_longer_pauses(&self, percent: u64, milliseconds: u64) -> Self {
        let mut longer = self.clone();
        for bound in longer.bounds.iter_mut().filter(|bound| bound.what == BoundedNumber::Pause) {
            let pause = bound.loses_from + (bound.loses_from * percent).div_ceil(100) + milliseconds;
            bound.loses_from = pause;
            let parameter = Parameter::Amount(bound.step - 1);
            longer.story.schedule = longer.story.schedule.with(parameter, pause);
        }
        longer
    }
}

/// From which value of a number on a story loses.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LossBound {
    /// The step, counted from 1.
    pub step: usize,
    /// Which of its numbers.
    pub what: BoundedNumber,
    /// The smallest value that loses.
    pub loses_from: u64,
    /// The largest smaller value that was tried and does not always lose; `None` if there is no smaller value, or none that was found
    /// to keep twice.
    pub keeps_at: Option<u64>,
}

/// A number of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BoundedNumber {
    /// The length of a pause, in milliseconds.
    Pause,
    /// Bytes that are sent.
    Sent,
    /// Bytes that are read.
    Read,
    /// The length of a body that is announced.
    Body,
    /// Bytes of a body that are sent with the head.
    BodySent,
}

/// Which of these stories lose; `None` if the time is over.
pub type Losers<'a> = dyn FnMut(&[Story]) -> Option<Vec<bool>> + 'a;

/// With so many steps or fewer, every part of a schedule is tried.
const FEW: usize = 6;
/// Values that are tried between one that loses and one that does not, at a time.
const BETWEEN: u64 = 6;
/// How often values between are tried: at most a fiftieth of the distance remains.
const ROUNDS: usize = 2;

/// Shrinks a story that loses. `links` are the links of the hunt, the simplest first.
///
/// A story that does not lose each time may be shorter and yet not lose when it is tried. So everything is tried so many `times`, until
/// nothing becomes shorter any more.
pub fn shrink(story: &Story, links: &[Option<String>], times: usize, lost: &mut Losers<'_>) -> ShrunkStory {
    let mut shrinker = Shrinker { story: story.clone(), kept: HashMap::new(), asked: 0, lost };
    let mut done = Some(());
    for _ in 0..times {
        let before = shrinker.story.clone();
        done = shrinker.all(links);
        if done.is_none() || shrinker.story == before {
            break;
        }
    }
    let (story, bounds) = (shrinker.story.clone(), shrinker.bounds());
    ShrunkStory { story, bounds, whole: done.is_some(), asked: shrinker.asked }
}

/// Makes a story simpler in one thing.
type StoryChange<'c> = Box<dyn Fn(&mut Story) + 'c>;

struct Shrinker<'l, 'f> {
    /// The shortest story so far. It loses.
    story: Story,
    /// For each number, by its place: the values that were tried and do not lose.
    kept: HashMap<(usize, bool), BTreeSet<u64>>,
    asked: usize,
    lost: &'l mut Losers<'f>,
}

/// The time is over: `None`.
type UntilOver<T> = Option<T>;

impl Shrinker<'_, '_> {
    fn all(&mut self, links: &[Option<String>]) -> UntilOver<()> {
        self.drop_steps()?;
        self.simplify(links)?;
        // Smaller numbers may make a step needless, and fewer steps other numbers smaller.
        while self.lower()? {
            if !self.drop_steps()? {
                break;
            }
        }
        for _ in 0..ROUNDS {
            self.refine()?;
        }
        self.confirm_bounds()
    }

    fn ask(&mut self, stories: &[Story]) -> UntilOver<Vec<bool>> {
        if stories.is_empty() {
            return Some(Vec::new());
        }
        self.asked += stories.len();
        let answers = (self.lost)(stories)?;
        debug_assert_eq!(answers.len(), stories.len());
        Some(answers)
    }

    fn with(&self, schedule: Schedule) -> Story {
        Story { schedule, ..self.story.clone() }
    }

    /// Leaves steps out until each is needed. Returns whether any was left out.
    fn drop_steps(&mut self) -> UntilOver<bool> {
        let mut any = false;
        loop {
            let mut parts: Vec<Schedule> = Vec::new();
            let schedule = &self.story.schedule;
            for part in parts_of(schedule).into_iter().chain(plainer(schedule)).chain(prompter(schedule)) {
                if part.check().is_ok() && !parts.contains(&part) {
                    parts.push(part);
                }
            }
            let stories: Vec<Story> = parts.into_iter().map(|part| self.with(part)).collect();
            let answers = self.ask(&stories)?;
            let losing = stories.into_iter().zip(answers).filter(|(_, lost)| *lost);
            let shortest = losing.map(|(story, _)| story).min_by_key(|story| weight(&story.schedule));
            let Some(shorter) = shortest else { return Some(any) };
            (self.story, any) = (shorter, true);
            self.kept.clear();
        }
    }

    /// The kernel's own buffers, a closed connection and the simplest link, where the loss does not need others.
    fn simplify(&mut self, links: &[Option<String>]) -> UntilOver<()> {
        let simpler: Vec<&Option<String>> =
            links.iter().take_while(|link| **link != self.story.link).collect();
        let mut settings: Vec<StoryChange<'_>> = Vec::new();
        if self.story.schedule.send_buffer.is_some() {
            settings.push(Box::new(|story| story.schedule.send_buffer = None));
        }
        if self.story.schedule.keep_alive {
            settings.push(Box::new(|story| story.schedule.keep_alive = false));
        }
        if self.story.schedule.receive_buffer.is_some() {
            settings.push(Box::new(|story| story.schedule.receive_buffer = None));
        }
        self.apply(&settings)?;
        let stories: Vec<Story> =
            simpler.iter().map(|link| Story { link: (*link).clone(), ..self.story.clone() }).collect();
        let answers = self.ask(&stories)?;
        if let Some((simplest, _)) = stories.into_iter().zip(answers).find(|(_, lost)| *lost) {
            self.story = simplest;
        }
        Some(())
    }

    /// Makes those of the changes that lose together.
    fn apply(&mut self, changes: &[StoryChange<'_>]) -> UntilOver<bool> {
        let alone: Vec<Story> = changes.iter().map(|change| changed(&self.story, [change])).collect();
        let answers = self.ask(&alone)?;
        let good: Vec<_> =
            changes.iter().zip(answers).filter(|(_, lost)| *lost).map(|(change, _)| change).collect();
        // Two changes that lose each may keep together: the longest row of them that loses is taken.
        let rows: Vec<Story> =
            (2..=good.len()).map(|count| changed(&self.story, good[..count].iter().copied())).collect();
        let answers = self.ask(&rows)?;
        let longest = rows.into_iter().zip(answers).rev().find(|(_, lost)| *lost).map(|(story, _)| story);
        let first = || good.first().map(|change| changed(&self.story, [*change]));
        let Some(better) = longest.or_else(first) else { return Some(false) };
        self.story = better;
        Some(true)
    }

    /// Halves numbers, many times at once. Returns whether any became smaller.
    fn lower(&mut self) -> UntilOver<bool> {
        self.each_number(|value, least, _| {
            let halves = (1..64).map(|times| value >> times).take_while(|half| *half > least);
            // Every half at first, then every fourth part: the rest is for `refine`.
            let halves =
                halves.enumerate().filter(|(index, _)| *index < 3 || index % 2 == 0).map(|(_, half)| half);
            halves.chain([least]).filter(|candidate| *candidate < value).collect()
        })
    }

    /// Tries values between the largest that keeps and the smallest that loses.
    fn refine(&mut self) -> UntilOver<bool> {
        self.each_number(|value, least, kept| {
            let low = kept.unwrap_or(least);
            let distance = value.saturating_sub(low);
            if distance <= (value / 200).max(1) {
                return Vec::new();
            }
            let between = (1..=BETWEEN).map(|part| low + distance * part / (BETWEEN + 1));
            let mut between: Vec<u64> =
                between.filter(|between| (low + 1..value).contains(between)).collect();
            between.dedup();
            between
        })
    }

    /// Asks for some smaller values of every number at once, and takes the smallest that lose.
    fn each_number(&mut self, values: impl Fn(u64, u64, Option<u64>) -> Vec<u64>) -> UntilOver<bool> {
        let mut candidates: Vec<(Parameter, u64)> = Vec::new();
        for parameter in self.story.schedule.parameters() {
            let value = self.story.schedule.value(parameter);
            let kept = self.kept_below(parameter, value).next();
            candidates
                .extend(values(value, least(parameter), kept).into_iter().map(|value| (parameter, value)));
        }
        candidates.retain(|(parameter, value)| self.story.schedule.with(*parameter, *value).check().is_ok());
        let stories: Vec<Story> = candidates
            .iter()
            .map(|(parameter, value)| self.with(self.story.schedule.with(*parameter, *value)))
            .collect();
        let answers = self.ask(&stories)?;
        let mut changes: Vec<StoryChange<'_>> = Vec::new();
        for parameter in self.story.schedule.parameters() {
            let of_it = candidates.iter().zip(&answers).filter(|((which, _), _)| *which == parameter);
            let smallest = of_it.clone().filter(|(_, lost)| **lost).map(|((_, value), _)| *value).min();
            let kept = of_it.filter(|(_, lost)| !**lost).map(|((_, value), _)| *value);
            self.kept.entry(key(parameter)).or_default().extend(kept);
            if let Some(smallest) = smallest {
                let set = move |story: &mut Story| story.schedule = story.schedule.with(parameter, smallest);
                changes.push(Box::new(set));
            }
        }
        self.apply(&changes)
    }

    /// Asks once more for the values that keep: other numbers have changed meanwhile, and just below its boundary a story may lose each
    /// time on a busy machine. Then a smaller value is the bound.
    fn confirm_bounds(&mut self) -> UntilOver<()> {
        let mut candidates = Vec::new();
        for parameter in self.story.schedule.parameters() {
            let kept = self.kept_below(parameter, self.story.schedule.value(parameter));
            candidates.extend(kept.map(|kept| (parameter, kept)));
        }
        let stories: Vec<Story> = candidates
            .iter()
            .map(|(parameter, value)| self.with(self.story.schedule.with(*parameter, *value)))
            .collect();
        let answers = self.ask(&stories)?;
        self.kept.clear();
        for ((parameter, kept), _) in candidates.into_iter().zip(answers).filter(|(_, lost)| !*lost) {
            self.kept.entry(key(parameter)).or_default().insert(kept);
        }
        Some(())
    }

    /// The values below this one that were tried and do not lose, the largest first.
    fn kept_below(&self, parameter: Parameter, value: u64) -> impl Iterator<Item = u64> {
        self.kept.get(&key(parameter)).into_iter().flat_map(move |kept| kept.range(..value).rev().copied())
    }

    fn bounds(&self) -> Vec<LossBound> {
        let of = |parameter: Parameter| {
            let (index, _) = key(parameter);
            let loses_from = self.story.schedule.value(parameter);
            let keeps_at = self.kept_below(parameter, loses_from).next();
            LossBound { step: index + 1, what: what(&self.story.schedule, parameter), loses_from, keeps_at }
        };
        self.story.schedule.parameters().into_iter().map(of).collect()
    }
}

fn changed<'c>(story: &Story, changes: impl IntoIterator<Item = &'c StoryChange<'c>>) -> Story {
    let mut story = story.clone();
    changes.into_iter().for_each(|change| change(&mut story));
    story
}

fn key(parameter: Parameter) -> (usize, bool) {
    match parameter {
        Parameter::Body(index) => (index, true),
        Parameter::Sent(index) | Parameter::Amount(index) => (index, false),
    }
}

/// A step that sends, reads or pauses for nothing is no step; a body may be none.
fn least(parameter: Parameter) -> u64 {
    u64::from(matches!(parameter, Parameter::Amount(_)))
}

fn what(schedule: &Schedule, parameter: Parameter) -> BoundedNumber {
    match parameter {
        Parameter::Body(_) => BoundedNumber::Body,
        Parameter::Sent(_) => BoundedNumber::BodySent,
        Parameter::Amount(index) => match schedule.steps.get(index) {
            Some(HuntStep::Pause { .. }) => BoundedNumber::Pause,
            Some(HuntStep::Read { .. }) => BoundedNumber::Read,
            _ => BoundedNumber::Sent,
        },
    }
}

/// The shorter of two schedules has fewer steps; of equally many, smaller numbers.
fn weight(schedule: &Schedule) -> (usize, u64) {
    let numbers = schedule.parameters().into_iter().map(|parameter| schedule.value(parameter));
    (schedule.steps.len(), numbers.fold(0, u64::saturating_add))
}

/// The schedule with one of its POSTs as a GET each, without what else was sent of the body.
fn plainer(schedule: &Schedule) -> Vec<Schedule> {
    let plain = |at: usize| {
        let Some(HuntStep::Request { body: body @ 1.., sent }) = schedule.steps.get(at).copied() else {
            return None;
        };
        let mut left = body - sent;
        let mut steps = schedule.steps[..at].to_vec();
        steps.push(HuntStep::Request { body: 0, sent: 0 });
        for step in &schedule.steps[at + 1..] {
            match *step {
                HuntStep::Send { bytes } if left > 0 => {
                    let of_body = left.min(bytes);
                    left -= of_body;
                    if bytes > of_body {
                        steps.push(HuntStep::Send { bytes: bytes - of_body });
                    }
                }
                step => steps.push(step),
            }
        }
        Some(Schedule { steps, ..schedule.clone() }.merged())
    };
    (0..schedule.steps.len()).filter_map(plain).collect()
}

/// The schedule of a server with one of its responses whole at once, without what else was sent of the body.
fn prompter(schedule: &Schedule) -> Vec<Schedule> {
    let prompt = |at: usize| {
        let Some(HuntStep::Respond { body, sent }) = schedule.steps.get(at).copied() else { return None };
        let mut left = body - sent;
        let mut steps = schedule.steps[..at].to_vec();
        steps.push(HuntStep::Respond { body, sent: body });
        for step in &schedule.steps[at + 1..] {
            match *step {
                HuntStep::Send { bytes } if left > 0 => left = left.saturating_sub(bytes),
                step => steps.push(step),
            }
        }
        (steps.len() < schedule.steps.len()).then(|| Schedule { steps, ..schedule.clone() }.merged())
    };
    (0..schedule.steps.len()).filter_map(prompt).collect()
}

/// Parts of a schedule with at least one step less: all of a short one; of a long one those that lack one or two steps, and those of
/// three steps or fewer.
fn parts_of(schedule: &Schedule) -> Vec<Schedule> {
    let steps = &schedule.steps;
    let all = (1u64 << steps.len().min(63)) - 1;
    let take = |mask: u64| {
        let kept = steps.iter().enumerate().filter(|(index, _)| mask >> index & 1 == 1);
        Schedule { steps: kept.map(|(_, step)| *step).collect(), ..schedule.clone() }.merged()
    };
    if steps.len() <= FEW {
        return (1..all).map(take).collect();
    }
    let bits: Vec<u64> = (0..steps.len()).map(|index| 1 << index).collect();
    let mut masks = Vec::new();
    for (first, a) in bits.iter().enumerate() {
        masks.extend([*a, all ^ a]);
        for (second, b) in bits.iter().enumerate().skip(first + 1) {
            masks.extend([a | b, all ^ (a | b)]);
            masks.extend(bits.iter().skip(second + 1).map(|c| a | b | c));
        }
    }
    masks.into_iter().map(take).collect()
}
