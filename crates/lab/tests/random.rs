//! Random links, sizes and peers: the lingering close loses nothing and never hangs.

use std::sync::Mutex;
use std::time::Duration;

use linger_lab::{
    Bytes, CellPlan, CellReport, Ending, Fate, IpVersion, Link, Path, Peer, Rate, Setting, Stop, Trials,
    any_seed, run, run_all, side_by_side,
};
use linger_testing::sandboxed;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// The number of trials in an ordinary test run; `LINGER_TRIALS=10000` makes a long one.
const TRIALS: u64 = 600;
/// Connections that share one random link.
const IN_A_CELL: u64 = 10;

fn random_plan(seed: u64) -> CellPlan {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut upto = |most: u64| rng.next_u64() % (most + 1);
    let mut path = || {
        let mbit = [2, 10, 50, 200, 1_000][upto(4) as usize];
        Path {
            delay: Duration::from_micros(upto(40_000)),
            jitter: Duration::from_micros(upto(5_000)),
            rate: Some(Rate(mbit * 1_000_000)),
            queue: Some(Bytes(32_768 + upto(400_000))),
            loss: (upto(30) as f64 / 1_000.0).into(),
            reorder: upto(20) as f64 / 1_000.0,
            reorder_by: Duration::from_micros(100 + upto(8_000)),
            ..Path::default()
        }
    };
    let paths = [path(), path()];
    let link = Link { name: format!("random-{seed}"), paths, ..Link::default() };
    let peers: Vec<Peer> = Peer::ALL.into_iter().filter(|peer| *peer != Peer::NeverReads).collect();
    let peer = peers[upto(peers.len() as u64 - 1) as usize];
    let mut plan = CellPlan::new(Ending::Lingering, peer, link);
    let magnitude = upto(14);
    plan.response = 1 + upto(1 << (4 + magnitude));
    plan.upload = upto(200_000);
    plan.extra = 1 + upto(5_000);
    plan.receive_buffer = (upto(3) == 0).then_some(8_192);
    plan.ip = if upto(1) == 0 { IpVersion::V4 } else { IpVersion::V6 };
    plan.trials = Trials::Exactly(IN_A_CELL);
    plan.concurrency = 1 + upto(7);
    plan.timeout = Duration::from_secs(100);
    plan.seed = seed;
    // Drawn last, so that earlier seeds still give the same links.
    if upto(1) == 0 {
        plan.policy.grace = plan.policy.idle;
    }
    plan
}

/// Whether every client got the whole response, a clean end, and no error from its own writes.
fn is_as_it_must_be(report: &CellReport) -> bool {
    report.tally.of(Fate::Complete) == report.tally.trials
}

#[test]
fn lingering_loses_nothing_whatever_the_link() {
    sandboxed(|| {
        let number = |name| std::env::var(name).ok().and_then(|text: String| text.parse().ok());
        let trials: u64 = number("LINGER_TRIALS").unwrap_or(TRIALS);
        let seed: u64 = number("LINGER_SEED").unwrap_or_else(any_seed);
        eprintln!("LINGER_SEED={seed} LINGER_TRIALS={trials} repeats this run");
        let plans: Vec<CellPlan> =
            (0..trials.div_ceil(IN_A_CELL)).map(|cell| random_plan(seed.wrapping_add(cell))).collect();
        let stop = Stop::new().unwrap();
        let bad = Mutex::new(Vec::new());
        let reports = run_all(
            &plans,
            // Each cell has networks of its own and waits for its link most of the time.
            4 * side_by_side(),
            &stop,
            |plan| run(plan, &Setting::default(), &stop),
            |_, report| match report {
                Ok(report) if is_as_it_must_be(report) => {}
                Ok(report) => bad.lock().unwrap().push(format!("{report:?}")),
                Err(error) => bad.lock().unwrap().push(error.to_string()),
            },
        );
        assert_eq!(reports.iter().flatten().count(), plans.len());
        let bad = bad.into_inner().unwrap();
        assert!(bad.is_empty(), "seed {seed}: {} cells: {}", bad.len(), bad.join("\n"));
        let at_risk: u64 = reports.iter().flatten().flatten().map(|report| report.tally.at_risk).sum();
        eprintln!("{} trials, 0 lost, {at_risk} at risk, 0 hung", plans.len() as u64 * IN_A_CELL);
    });
}
