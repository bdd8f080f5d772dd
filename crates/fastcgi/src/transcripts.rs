//! Random conversations through both drivers. What the gateway receives must be equal byte for byte and request by
//! request, and must be what the specification asks for. What the handlers see must be equal, too.
//!
//! The drivers are the real ones, over a gateway in memory (`memory`) and over real sockets (`sockets`). The long runs:
//! `LINGER_CONVERSATIONS=100000 cargo test -p linger-fastcgi --features tokio --lib threads_and_tokio -- --nocapture`,
//! and with 5000 for `over_real`. `LINGER_SEED` sets the first seed.

pub(crate) mod expected;
pub(crate) mod memory;
pub(crate) mod plan;
pub(crate) mod script;
mod sockets;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use expected::transcripts;
use memory::Gateway;
use script::{Leaving, Script};
use sockets::Place;

use crate::responder;

/// How many conversations a test runs, and the first seed.
fn run(default: u64) -> (u64, u64) {
    let number =
        |name, default| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    (number("LINGER_CONVERSATIONS", default), number("LINGER_SEED", 1))
}

/// Runs this many conversations, and prints how many of each kind there were.
fn each(conversations: u64, first: u64, hold: impl Fn(&Script)) {
    let mut kinds = [0; 5];
    for seed in first..first + conversations {
        let script = Script::new(seed);
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| hold(&script))) {
            eprintln!("LINGER_SEED={seed} repeats it: {script:?}");
            resume_unwind(panic);
        }
        kinds[usize::from(script.multiplexed)] += 1;
        match script.leaving {
            Leaving::Last => kinds[2] += 1,
            Leaving::HalfClosed => kinds[3] += 1,
            Leaving::Gone(_) => kinds[4] += 1,
        }
    }
    let [in_turn, at_once, last, half_closed, gone] = kinds;
    eprintln!(
        "{conversations} conversations from seed {first}: {in_turn} in turn, {at_once} at once; the gateway stayed in {last}, half-closed early in {half_closed}, was gone early in {gone}"
    );
    assert!(conversations < 100 || kinds.iter().all(|kind| *kind > 0), "{kinds:?}");
}

#[test]
fn threads_and_tokio_say_the_same() {
    let (conversations, first) = run(3000);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    each(conversations, first, |script| {
        let threads = Gateway::new(script.clone(), 1);
        let tokio = Gateway::new(script.clone(), 2);
        let one = responder::memory::converse(&threads);
        let two = runtime.block_on(crate::tokio::memory::converse(&tokio));
        compare(script, (&threads.output(), &threads), (&tokio.output(), &tokio));
        let starts = script.starts() as u64;
        if let Leaving::Gone(_) = script.leaving {
            assert!(one.requests <= starts && two.requests <= starts);
        } else {
            assert_eq!((one.requests, two.requests), (starts, starts));
            assert_eq!((one.fault, two.fault), (None, None));
        }
    });
}

/// Checks what two gateways received and what their handlers saw, each against the script and one against the other.
fn compare(script: &Script, one: (&[u8], &Gateway), two: (&[u8], &Gateway)) {
    if let Leaving::Gone(_) = script.leaving {
        // Each gateway has received a part of what it would have received had it stayed.
        let mut whole = script.clone();
        whole.leaving = Leaving::Last;
        let whole = Gateway::new(whole, 3);
        responder::memory::converse(&whole);
        whole.script.check(&whole.output(), &whole.seen());
        let whole = transcripts(&whole.output());
        for (id, part) in transcripts(one.0).into_iter().chain(transcripts(two.0)) {
            assert!(whole[&id].raw.starts_with(&part.raw), "request {id}");
        }
        return;
    }
    script.check(one.0, &one.1.seen());
    script.check(two.0, &two.1.seen());
    let (first, second) = (transcripts(one.0), transcripts(two.0));
    assert!(first == second, "{:?} {:?}", first.keys(), second.keys());
}

#[test]
fn over_real_sockets_too() {
    linger_testing::sandboxed(|| {
        let (conversations, first) = run(300);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        each(conversations, first, |script| {
            let place = if script.seed % 2 == 0 { Place::Tcp } else { Place::Unix };
            let threads = Gateway::new(script.clone(), 1);
            let tokio = Gateway::new(script.clone(), 2);
            let one = sockets::with_threads(&threads, place);
            let two = sockets::with_tokio(&tokio, place, &runtime);
            compare(script, (&one, &threads), (&two, &tokio));
        });
    });
}
