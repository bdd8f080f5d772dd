//! The seven ways to end a request, behind real gateways: six lose or stall, the seventh never does.

use std::net::SocketAddr;
use std::time::Duration;

use crate::common::{Ending, Raw, Running, available, post, sized};
use linger_fastcgi::responder::Config;
use linger_testing::Counters;
use linger_testing::sandboxed;
use linger_testing::servers::{
    GatewayOptions, RunningServer, Unavailable, httpd_fcgi, lighttpd_fcgi, nginx_fcgi,
};

const BODIES: [usize; 4] = [0, 67_000, 2 << 20, 8 << 20];
const ANSWERS: [usize; 2] = [67_000, 2 << 20];
const TRIALS: usize = 2;

/// The results of one ending behind one gateway.
#[derive(Debug, Default)]
struct Tally {
    trials: usize,
    incomplete: usize,
    aborts: u64,
    slowest: Duration,
}

impl Tally {
    fn of(
        application: SocketAddr,
        gateway: impl Fn(SocketAddr) -> Result<RunningServer, Unavailable>,
    ) -> Option<Self> {
        let gateway = available(gateway(application))?;
        let before = Counters::read().unwrap();
        let mut tally = Self::default();
        for (body, answer) in BODIES.iter().flat_map(|body| ANSWERS.map(|answer| (*body, answer))) {
            for _ in 0..TRIALS {
                let got = post(gateway.address, body, Some(0), answer);
                tally.trials += 1;
                tally.incomplete += usize::from(!got.is_complete(answer));
                tally.slowest = tally.slowest.max(got.elapsed);
            }
        }
        tally.aborts = Counters::read().unwrap().since(&before).of("TCPAbortOnClose");
        Some(tally)
    }
}

fn options(buffered: bool) -> GatewayOptions {
    let mut options = GatewayOptions::default();
    options.buffered = buffered;
    // An ending that stalls is given up soon; everything else takes milliseconds.
    options.timeout_seconds = 2;
    options
}

type Start = fn(SocketAddr) -> Result<RunningServer, Unavailable>;

const GATEWAYS: [(&str, Start); 4] = [
    ("nginx buffered", |address| nginx_fcgi(address, options(true))),
    ("nginx unbuffered", |address| nginx_fcgi(address, options(false))),
    ("httpd", |address| httpd_fcgi(address, options(true))),
    ("lighttpd", |address| lighttpd_fcgi(address, options(true))),
];

#[test]
fn only_end_request_half_close_drain_close_is_right_everywhere() {
    sandboxed(|| {
        let mut ours = Duration::ZERO;
        for (name, start) in GATEWAYS {
            let responder = Running::start(Config::default(), sized);
            let Some(tally) = Tally::of(responder.port(), start) else { continue };
            eprintln!("Responder behind {name}: {tally:?}");
            assert_eq!((tally.incomplete, tally.aborts), (0, 0), "{name}: {tally:?}");
            ours = ours.max(tally.slowest);
            let raw = Raw::start(Ending::Lingering);
            let Some(tally) = Tally::of(raw.address, start) else { continue };
            assert_eq!(tally.incomplete, 0, "{name}: {tally:?}");
        }
        for ending in Ending::WRONG {
            let (mut failed, mut slowest) = (0, Duration::ZERO);
            for (name, start) in GATEWAYS {
                let raw = Raw::start(ending);
                let Some(tally) = Tally::of(raw.address, start) else { return };
                eprintln!("{ending:?} behind {name}: {tally:?}");
                failed += tally.incomplete;
                slowest = slowest.max(tally.slowest);
                if failed > 0 {
                    break;
                }
            }
            // A stall is a wait of one side for the other: seconds, where the right order takes milliseconds.
            assert!(
                failed > 0 || slowest > 5 * ours,
                "{ending:?} was right everywhere, {slowest:?} against {ours:?}"
            );
        }
    });
}
