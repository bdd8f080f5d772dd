//! The shrinker against planted losses, without a network.

use proptest::prelude::*;
use rand_chacha::rand_core::SeedableRng as _;

use super::generate::{Ranges, story};
use super::schedule::{HuntStep, Player, Schedule};
use super::shrink::{BoundedNumber, ShrunkStory, shrink};
use super::story::Story;

/// A server that exists only as a rule on what it loses.
#[derive(Clone, Copy, Debug)]
struct Planted {
    /// It loses if the client has paused for so long, in milliseconds, ...
    pause: u64,
    /// ... and sends so many bytes afterwards ...
    bytes: u64,
    /// ... after so many requests ...
    requests: usize,
    /// ... with a receive buffer of at most that.
    buffer: Option<u64>,
}

impl Planted {
    fn loses(&self, story: &Story) -> bool {
        let schedule = &story.schedule;
        if self.buffer.is_some_and(|most| schedule.receive_buffer.is_none_or(|buffer| buffer > most)) {
            return false;
        }
        let (mut paused, mut late, mut requests) = (0, 0, 0);
        for step in &schedule.steps {
            match *step {
                HuntStep::Request { .. } => requests += 1,
                HuntStep::Pause { milliseconds } if requests >= self.requests => paused += milliseconds,
                HuntStep::Send { bytes } if requests >= self.requests && paused >= self.pause => {
                    late += bytes
                }
                HuntStep::Close => break,
                _ => {}
            }
        }
        requests >= self.requests && paused >= self.pause && late >= self.bytes
    }
}

fn shrunk(planted: Planted, story: &Story, links: &[Option<String>]) -> ShrunkStory {
    shrink(story, links, 1, &mut |stories| {
        for story in stories {
            assert_eq!(story.schedule.check(), Ok(()), "it cannot be done, and was asked for: {story:?}");
        }
        Some(stories.iter().map(|story| planted.loses(story)).collect())
    })
}

fn planted() -> impl Strategy<Value = Planted> {
    let buffer = prop_oneof![Just(None), (16_384u64..200_000).prop_map(Some)];
    (1u64..4_000, 1u64..20_000, 1usize..=3, buffer).prop_map(|(pause, bytes, requests, buffer)| Planted {
        pause,
        bytes,
        requests,
        buffer,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the generator finds is shrunk to the rule itself: no step can be left out, and the numbers are at its boundary.
    #[test]
    fn a_planted_loss_is_shrunk_to_its_rule(planted in planted(), seed in 0u64..50) {
        let links = vec![Some("loopback".to_owned()), Some("lan".to_owned()), Some("wifi".to_owned())];
        let ranges = Ranges { links: links.clone(), ..Ranges::default() };
        let found = (0..60_000).map(|index| story(seed, index, &ranges)).find(|story| planted.loses(story));
        let found = found.expect("the distribution reaches every one of these rules");
        let short = shrunk(planted, &found, &links);
        prop_assert!(planted.loses(&short.story), "{short:?}");
        prop_assert!(short.whole);
        prop_assert_eq!(&short.story.link, &links[0]);
        let schedule = &short.story.schedule;
        // The requests, a pause and the late bytes.
        prop_assert_eq!(schedule.steps.len(), planted.requests + 2, "{:?}", schedule);
        for index in 0..schedule.steps.len() {
            let mut fewer = schedule.clone();
            fewer.steps.remove(index);
            prop_assert!(!planted.loses(&Story { schedule: fewer, ..short.story.clone() }), "{:?}", schedule);
        }
        prop_assert_eq!(schedule.receive_buffer.is_some(), planted.buffer.is_some());
        prop_assert!(!schedule.keep_alive && schedule.send_buffer.is_none());
        for bound in &short.bounds {
            let truth = match bound.what {
                BoundedNumber::Pause => planted.pause,
                BoundedNumber::Sent => planted.bytes,
                other => panic!("{other:?} in {schedule:?}"),
            };
            prop_assert!(bound.loses_from >= truth, "{bound:?}");
            // Two values that are tried first differ fourfold at most, and a fiftieth of the distance remains.
            prop_assert!(bound.loses_from - truth <= 3 * truth / 49 + 1, "{bound:?} of {planted:?}");
            prop_assert!(bound.keeps_at.is_none_or(|keeps| keeps < truth), "{bound:?} of {planted:?}");
            prop_assert!(truth == 1 || bound.keeps_at.is_some(), "{bound:?} of {planted:?}");
        }
    }

    /// The same where a server plays: a client that loses a response of so many bytes, all of which it has, if the server closes without having
    /// read the request. In two steps, at its boundary, however many pieces it was drawn in.
    #[test]
    fn a_loss_by_a_server_is_shrunk_to_a_response_and_a_close(bytes in 1u64..20_000, seed in 0u64..50) {
        let loses = |story: &Story| {
            let (mut body, mut sent) = (0, 0);
            for step in &story.schedule.steps {
                match *step {
                    HuntStep::Respond { body: announced, sent: first } => (body, sent) = (announced, first),
                    HuntStep::Send { bytes } => sent += bytes,
                    HuntStep::ReadRequest => return false,
                    HuntStep::Close => return body >= bytes && sent >= body,
                    _ => {}
                }
            }
            false
        };
        let ranges = Ranges { plays: Player::Server, ..Ranges::default() };
        let found = (0..60_000).map(|index| story(seed, index, &ranges)).find(loses);
        let found = found.expect("the distribution reaches every one of these rules");
        let short = shrink(&found, &[None], 1, &mut |stories| {
            for story in stories {
                assert_eq!(story.schedule.check(), Ok(()), "it cannot be done, and was asked for: {story:?}");
            }
            Some(stories.iter().map(loses).collect())
        });
        prop_assert!(loses(&short.story) && short.whole, "{short:?}");
        let [HuntStep::Respond { body, sent }, HuntStep::Close] = short.story.schedule.steps[..] else {
            panic!("{short:?} of {found:?}");
        };
        prop_assert!(sent == body && body >= bytes && body - bytes <= 3 * bytes / 49 + 1, "{short:?} of {bytes}");
        prop_assert!(!short.story.schedule.keep_alive && short.story.schedule.receive_buffer.is_none());
    }

    /// A rule that is no rule: whether a story loses depends on its digest alone. The result loses all the same.
    #[test]
    fn what_has_no_reason_still_loses(seed in 0u64..500) {
        use std::hash::{DefaultHasher, Hash as _, Hasher as _};
        let found = story(seed, 1, &Ranges::default());
        let loses = |story: &Story| {
            let mut hasher = DefaultHasher::new();
            (seed, story).hash(&mut hasher);
            *story == found || hasher.finish().is_multiple_of(3)
        };
        let short = shrink(&found, &[None], 1, &mut |stories| Some(stories.iter().map(loses).collect()));
        prop_assert!(loses(&short.story), "{short:?}");
        prop_assert!(short.story.schedule.steps.len() <= found.schedule.steps.len());
    }
}

const GET: HuntStep = HuntStep::Request { body: 0, sent: 0 };

fn late_byte() -> Story {
    let steps = [
        GET,
        HuntStep::Read { bytes: 9 },
        HuntStep::Pause { milliseconds: 9_000 },
        HuntStep::Send { bytes: 800 },
    ];
    Story::new(None, Schedule::of(steps))
}

#[test]
fn a_boundary_has_both_of_its_sides() {
    let planted = Planted { pause: 5_000, bytes: 1, requests: 1, buffer: None };
    let short = shrunk(planted, &late_byte(), &[None]);
    let [pause, sent] = &short.bounds[..] else { panic!("{short:?}") };
    assert!((5_000..5_100).contains(&pause.loses_from), "{pause:?}");
    assert!((4_900..5_000).contains(&pause.keeps_at.unwrap()), "{pause:?}");
    assert_eq!((pause.step, pause.what), (2, BoundedNumber::Pause));
    assert_eq!((sent.loses_from, sent.keeps_at), (1, None), "no smaller number of bytes can be sent");
}

/// When it is asked again, the machine is busy: what kept just below the boundary loses now, and smaller values still keep.
#[test]
fn a_bound_that_loses_when_it_is_asked_again_gives_way_to_a_smaller_one() {
    let steps = [GET, HuntStep::Pause { milliseconds: 9_000 }, HuntStep::Send { bytes: 1 }];
    let story = Story::new(None, Schedule::of(steps));
    let pause = |story: &Story| match story.schedule.steps[..] {
        [GET, HuntStep::Pause { milliseconds }, HuntStep::Send { .. }] => milliseconds,
        _ => 0,
    };
    let mut asked: Vec<u64> = Vec::new();
    let short = shrink(&story, &[None], 1, &mut |stories| {
        let loses = |story: &Story| {
            let pause = pause(story);
            let from = if asked.contains(&pause) { 4_700 } else { 5_000 };
            pause >= from
        };
        let answers = stories.iter().map(loses).collect();
        asked.extend(stories.iter().map(pause));
        Some(answers)
    });
    let [bound, _] = &short.bounds[..] else { panic!("{short:?}") };
    assert!((5_000..5_100).contains(&bound.loses_from), "{bound:?}");
    assert!((4_000..4_700).contains(&bound.keeps_at.unwrap()), "{bound:?}");
}

#[test]
fn when_the_time_is_over_the_shortest_so_far_is_the_answer() {
    let planted = Planted { pause: 5_000, bytes: 1, requests: 1, buffer: None };
    let mut batches = 0;
    let short = shrink(&late_byte(), &[None], 1, &mut |stories| {
        batches += 1;
        (batches <= 2).then(|| stories.iter().map(|story| planted.loses(story)).collect())
    });
    assert!(!short.whole && planted.loses(&short.story), "{short:?}");
    assert_eq!(short.story.schedule.steps.len(), 3, "the first batch has left a step out");
}

/// A body that is sent in two parts is needed whole before the next request: neither part can be left out alone.
#[test]
fn a_post_in_parts_becomes_a_get() {
    let planted = |story: &Story| story.schedule.requests() == 2;
    let steps = [
        HuntStep::Request { body: 90, sent: 10 },
        HuntStep::Send { bytes: 80 },
        GET,
        HuntStep::Send { bytes: 5 },
    ];
    let short = shrink(&Story::new(None, Schedule::of(steps)), &[None], 1, &mut |stories| {
        Some(stories.iter().map(planted).collect())
    });
    assert_eq!(short.story.schedule.steps, [GET, GET]);
}

#[test]
fn what_loses_always_is_one_request() {
    let short = shrink(&late_byte(), &[None], 1, &mut |stories| Some(vec![true; stories.len()]));
    assert_eq!((short.story.schedule.steps, short.bounds), (vec![GET], vec![]));
}

/// A story that is tried loses in seven of ten tries, and is long enough for several passes to be needed.
#[test]
fn what_kept_by_chance_is_tried_again() {
    let drawn = Schedule {
        receive_buffer: Some(20_000),
        send_buffer: Some(20_000),
        keep_alive: true,
        ..Schedule::of(vec![
            HuntStep::Request { body: 50_000, sent: 100 },
            HuntStep::Send { bytes: 2_000 },
            HuntStep::Pause { milliseconds: 30 },
            HuntStep::Read { bytes: 300 },
            HuntStep::Send { bytes: 900 },
        ])
    };
    let planted = Planted { pause: 0, bytes: 1, requests: 1, buffer: None };
    let short = |times: usize, seed: u64| {
        let mut chance = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let shrunk = shrink(&Story::new(None, drawn.clone()), &[None], times, &mut |stories| {
            let loses = |story| planted.loses(story) && chance.next_u32() % 10 < 7;
            Some(stories.iter().map(loses).collect())
        });
        assert!(planted.loses(&shrunk.story), "{shrunk:?}");
        let schedule = &shrunk.story.schedule;
        let is_plain =
            schedule.receive_buffer.is_none() && schedule.send_buffer.is_none() && !schedule.keep_alive;
        is_plain && schedule.steps == [HuntStep::Request { body: 0, sent: 0 }, HuntStep::Send { bytes: 1 }]
    };
    let shortest = |times| (0..100).filter(|seed| short(times, *seed)).count();
    let (once, thrice) = (shortest(1), shortest(3));
    assert!(once < 15 && thrice > 45, "{once} and {thrice} of 100 are as short as they can be");
}
