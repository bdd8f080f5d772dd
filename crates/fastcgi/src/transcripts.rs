//! The same conversations through both drivers: what a gateway gets must be equal, byte for byte and request by
//! request, and what the specification asks for; what handlers see must be equal, too.
//!
//! The drivers are the real ones, over a gateway in memory (`memory`); `tests/transcripts.rs` does the same over real
//! sockets. `LINGER_CONVERSATIONS=100000 cargo test --release -p linger-fastcgi --features tokio --lib transcripts`
//! is the long run; `LINGER_SEED` begins it elsewhere.

pub(crate) mod memory;
pub(crate) mod script;

use memory::Gateway;
use script::{Leaving, Script, transcripts};

use crate::responder;

/// How many conversations a test holds, and from which seed on.
fn run() -> (u64, u64) {
    let number =
        |name, default| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    (number("LINGER_CONVERSATIONS", 3000), number("LINGER_SEED", 1))
}

#[test]
fn threads_and_tokio_say_the_same() {
    let (conversations, first) = run();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let stop = responder::memory_stop();
    let mut kinds = [0; 5];
    for seed in first..first + conversations {
        let script = Script::new(seed);
        let threads = Gateway::new(script.clone(), 1);
        let tokio = Gateway::new(script.clone(), 2);
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let one = responder::memory::converse(&threads, &stop);
            let two = runtime.block_on(crate::tokio::memory::converse(&tokio));
            compare(&script, &threads, &tokio);
            if let Leaving::Gone(_) = script.leaving {
                assert!(one.requests <= script.starts() as u64 && two.requests <= script.starts() as u64);
            } else {
                assert_eq!((one.requests, two.requests), (script.starts() as u64, script.starts() as u64));
                assert_eq!((one.fault, two.fault), (None, None));
            }
        }));
        if let Err(panic) = ended {
            eprintln!("LINGER_SEED={seed} repeats it: {script:?}");
            std::panic::resume_unwind(panic);
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

fn compare(script: &Script, one: &Gateway, two: &Gateway) {
    let (first, second) = (one.output(), two.output());
    if let Leaving::Gone(_) = script.leaving {
        // Each got a part of what it would have got.
        let mut whole = script.clone();
        whole.leaving = Leaving::Last;
        let whole = Gateway::new(whole, 3);
        responder::memory::converse(&whole, &responder::memory_stop());
        whole.script.check(&whole.output(), &whole.seen());
        let whole = transcripts(&whole.output());
        for (id, part) in transcripts(&first).into_iter().chain(transcripts(&second)) {
            assert!(whole[&id].raw.starts_with(&part.raw), "request {id}");
        }
        return;
    }
    script.check(&first, &one.seen());
    script.check(&second, &two.seen());
    let (first, second) = (transcripts(&first), transcripts(&second));
    assert!(first == second, "{:?} {:?}", first.keys(), second.keys());
}
