//! The lane against a slow and obvious reckoning, and against mahimahi's rules.

use super::*;
use crate::link::LinkChange;
use crate::units::{Bytes, Rate};
use proptest::prelude::*;

const MS: Nanos = 1_000_000;
const WAY: Direction = Direction::ToClient;

fn path(bits: Option<u64>) -> Path {
    Path { rate: bits.map(Rate), ..Path::default() }
}

fn link(first: Path, later: &[(u64, Path)]) -> Link {
    let both = |path: &Path| [path.clone(), path.clone()];
    let change =
        |(ms, path): &(u64, Path)| LinkChange { time: Duration::from_millis(*ms), paths: both(path) };
    Link { paths: both(&first), changes: later.iter().map(change).collect(), ..Link::default() }
}

#[test]
fn a_packet_under_way_feels_the_new_rate() {
    // A thousand bytes at 8 Mbit/s take a millisecond.
    let link = link(path(Some(8_000_000)), &[(2, path(Some(800_000))), (40, path(None))]);
    let mut lane = Lane::default();
    let start = 1_000 * MS;
    let due: Vec<Nanos> = (0..8).map(|_| lane.due(&link, WAY, start, 1_000, 0.0).unwrap() - start).collect();
    // Two at the old rate, three at a tenth of it; the fourth would take until 42 ms, but from 40 ms on nothing waits.
    assert_eq!(due, [MS, 2 * MS, 12 * MS, 22 * MS, 32 * MS, 40 * MS, 40 * MS, 40 * MS]);
    let half = lane.due(&link, WAY, start + 50 * MS, 1_000, 0.0).unwrap() - start;
    assert_eq!(half, 50 * MS);
}

#[test]
fn the_queue_is_measured_in_what_still_has_to_be_sent() {
    let narrow = Path { queue: Some(Bytes(3_000)), ..path(Some(800_000)) };
    let link = link(Path { queue: Some(Bytes(3_000)), ..path(Some(8_000_000)) }, &[(2, narrow)]);
    let mut lane = Lane::default();
    assert!((0..3).all(|_| lane.due(&link, WAY, 0, 1_000, 0.0).is_some()));
    assert_eq!(lane.due(&link, WAY, 0, 1_000, 0.0), None, "3,000 bytes wait");
    // After 7 ms the third is half sent: 2 of 10 ms... at a tenth of the rate.
    assert_eq!(lane.due(&link, WAY, 7 * MS, 2_501, 0.0), None);
    assert_eq!(lane.due(&link, WAY, 7 * MS, 2_500, 0.0), Some(37 * MS));
}

#[test]
fn a_delay_that_becomes_shorter_reorders_nothing() {
    let slow = Path { delay: Duration::from_millis(50), ..Path::default() };
    let link = link(slow, &[(10, Path::default())]);
    let mut lane = Lane::default();
    assert_eq!(lane.due(&link, WAY, 0, 100, 0.0), Some(50 * MS));
    assert_eq!(lane.due(&link, WAY, 20 * MS, 100, 0.0), Some(50 * MS));
    assert_eq!(lane.due(&link, WAY, 60 * MS, 100, 0.0), Some(60 * MS));
}

fn traced(times: &str, queue: Option<u64>) -> Link {
    let trace = Some(Trace::of(times));
    link(Path { trace, queue: queue.map(Bytes), ..Path::default() }, &[])
}

/// A frame of this many bytes of IP.
fn frame(bytes: usize) -> usize {
    bytes + ETHERNET
}

#[test]
fn an_opportunity_carries_1500_bytes_and_passes_unused() {
    let link = traced("1\n5\n6\n10\n", None);
    let mut lane = Lane::default();
    let mut due = |at: Nanos, bytes| lane.due(&link, WAY, at, frame(bytes), 0.0).unwrap() / MS;
    assert_eq!(due(0, 700), 1);
    assert_eq!(due(0, 800), 1, "two small ones share one");
    assert_eq!(due(0, 1_500), 5);
    assert_eq!(due(0, 100), 6);
    assert_eq!(due(0, 1_500), 10, "a packet may need the rest of one and the beginning of another");
    assert_eq!(due(10 * MS + 1, 100), 11, "what was left at 10 has passed; the trace begins again");
    assert_eq!(due(30 * MS, 40), 30, "an opportunity at this very time is caught");
}

#[test]
fn the_queue_before_a_trace_has_an_end() {
    let link = traced("10\n", Some(3_000));
    let mut lane = Lane::default();
    let mut due = |at: Nanos, bytes| lane.due(&link, WAY, at * MS, frame(bytes), 0.0).map(|due| due / MS);
    assert_eq!(due(0, 1_500), Some(10));
    assert_eq!(due(0, 1_500), Some(20));
    assert_eq!(due(0, 1), None);
    assert_eq!(due(11, 1_500), Some(30));
}

/// A second reckoning of the rates: nanobit by nanobit would be too slow, so by steps of a microsecond.
fn slowly(link: &Link, arrivals: &[(Nanos, usize)]) -> Vec<f64> {
    let step = 1_000;
    let mut out = Vec::new();
    let (mut at, mut waiting, mut next) = (0u64, std::collections::VecDeque::new(), 0);
    while out.len() < arrivals.len() {
        while next < arrivals.len() && arrivals[next].0 <= at {
            waiting.push_back(arrivals[next].1 as f64 * 8.0);
            next += 1;
        }
        let rate = link.paths_at(Duration::from_nanos(at))[0].rate;
        let mut possible = rate.map_or(f64::INFINITY, |rate| rate.0 as f64 * step as f64 / 1e9);
        while let Some(bits) = waiting.front_mut() {
            if *bits > possible {
                *bits -= possible;
                break;
            }
            possible -= *bits;
            waiting.pop_front();
            out.push(at as f64);
        }
        at += step;
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn rates_over_time_are_as_reckoned_slowly(
        rates in proptest::collection::vec(proptest::option::weighted(0.8, 100_000u64..100_000_000), 1..5),
        gaps in proptest::collection::vec((0u64..4_000, 60usize..1_514), 1..30),
    ) {
        let later: Vec<_> = rates[1..].iter().zip(1..).map(|(rate, number)| (7 * number, path(*rate))).collect();
        let link = link(path(rates[0]), &later);
        let mut at = 0;
        let arrivals: Vec<_> = gaps.into_iter().map(|(gap, len)| { at += gap * 1_000; (at, len) }).collect();
        let mut lane = Lane::default();
        // The clock begins with the first packet.
        lane.due(&link, Direction::ToServer, 0, 0, 0.0);
        let quick: Vec<_> =
            arrivals.iter().map(|(at, len)| lane.due(&link, WAY, *at, *len, 0.0).unwrap() as f64).collect();
        for (number, (quick, slow)) in quick.iter().zip(slowly(&link, &arrivals)).enumerate() {
            // Each packet may end up to a step later there.
            prop_assert!((quick - slow).abs() <= 3_000.0, "packet {number}: {quick} and {slow}");
        }
    }

    #[test]
    fn a_trace_delivers_no_more_than_it_says_and_keeps_the_order(
        mut times in proptest::collection::vec(0u32..40, 1..30),
        gaps in proptest::collection::vec((0u64..6_000, 40usize..1_500), 1..60),
    ) {
        times.sort_unstable();
        times.push(40);
        let text: String = times.iter().map(|time| format!("{time}\n")).collect();
        let link = traced(&text, None);
        let mut lane = Lane::default();
        lane.due(&link, Direction::ToServer, 0, 0, 0.0);
        let (mut at, mut before) = (0, 0);
        let mut carried = std::collections::BTreeMap::<u64, usize>::new();
        for (gap, len) in gaps {
            at += gap * 1_000;
            let due = lane.due(&link, WAY, at, frame(len), 0.0).unwrap();
            prop_assert!(due >= at && due >= before);
            before = due;
            *carried.entry(due).or_default() += len;
        }
        let trace = Trace::of(&text);
        let mut sum = 0;
        for (due, bytes) in carried {
            sum += bytes as u64;
            // The opportunities up to then, as many as there are at that time.
            let upto = trace.first_at(due + 1);
            prop_assert!(sum <= upto * OPPORTUNITY, "{sum} bytes by {due}");
            prop_assert!((0..upto).any(|number| trace.time(number) == due), "{due} is in the trace");
        }
    }
}
