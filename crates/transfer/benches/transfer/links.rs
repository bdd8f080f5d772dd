//! One file over links that lose packets, or are long: beside the rsync daemon, one stream each, in the lab's
//! networks.
//!
//! The sending command times itself, so that neither the networks nor the server's start count.

use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use linger_lab::{ExecPlan, IpVersion, Link, Named as _, Stop, exec};
use linger_transfer::*;

use super::{Place, median};

/// Some seconds over Wi-Fi, the better part of a minute over a satellite.
const SIZE: usize = 20_000_000;

/// `link-serve`, `link-put` and `link-time`: what the two ends of a link run.
pub(crate) fn end(words: &[&str]) {
    match words {
        ["link-serve", directory, address] => {
            let mut options = ShareOptions::new(directory);
            options.insecure_loopback = true;
            (options.writable, options.insecure) = (true, true);
            let address: SocketAddr = address.parse().expect("an address");
            let listener = TcpListener::bind(address).expect("the address");
            Server::new(options).expect("the directory").serve(&listener, None, &|_| {}).expect("serving");
        }
        ["link-put", from, host, to] => {
            let mut connect = ClientOptions::default();
            connect.security = Security::Never;
            let client = Client::new(*host, PORT, connect).expect("a client");
            let mut options = PutOptions::default();
            options.durability = Durability::Memory;
            let place = Destination::typed(to.as_bytes()).expect("a place");
            let (summary, error) = client.put(Input::Path((*from).into()), &place, &options, &mut |_| {});
            assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::Confirmed, "{summary:?} {error:?}");
        }
        ["link-time", into, program, arguments @ ..] => {
            let started = Instant::now();
            let status = Command::new(program).args(arguments).status().expect("the program");
            assert!(status.success(), "{program}: {status}");
            fs::write(into, started.elapsed().as_secs_f64().to_string()).expect("the time");
        }
        _ => panic!("{words:?} is nothing to do at the end of a link"),
    }
}

/// Races the two over each link, `rounds` times, each time with another seed for the link.
pub(crate) fn links(place: &Place, rounds: usize) {
    let mut block = vec![0; SIZE];
    blake3::Hasher::new().finalize_xof().fill(&mut block);
    let mut file = fs::File::create(place.path("file")).expect("room on /dev/shm");
    file.write_all(&block).expect("room on /dev/shm");
    let (file, to) = (place.path("file"), place.path("to"));
    let config = place.path("rsyncd.conf");
    let text = format!("use chroot = no\nport = 8730\n[to]\npath = {}\nread only = no\n", to.display());
    let ids = if rustix::process::getuid().is_root() { "uid = 0\ngid = 0\n" } else { "" };
    fs::write(&config, format!("{ids}{text}")).expect("rsync's configuration");
    let me = std::env::current_exe().expect("this program");
    let (me, from, into) = (me.display(), file.display(), place.path("seconds"));
    let time = format!("{me} link-time {}", into.display());
    let contestants = [
        (
            format!("{me} link-serve {} $LINGER_SERVER:{PORT}", to.display()),
            format!("{time} {me} link-put {from} $LINGER_SERVER copy"),
        ),
        (
            format!("rsync --daemon --no-detach --config={} --address=$LINGER_SERVER", config.display()),
            format!("{time} rsync --whole-file --inplace {from} rsync://$LINGER_SERVER:8730/to/copy"),
        ),
    ];
    for name in ["wifi-lossy", "satellite"] {
        let link = Link::by_name(name).expect("a link of the lab's");
        let mut times = [Vec::new(), Vec::new()];
        for seed in 0..rounds as u64 {
            for ((server, client), times) in contestants.iter().zip(&mut times) {
                place.empty_target();
                times.push(once(&link, server, client, seed, &into));
                let copy = fs::read(to.join("copy")).expect("the copy");
                assert!(copy == block, "{client}: the copy differs");
            }
        }
        let [ours, rsync] = times.map(|mut times| median(&mut times));
        println!("\n{} MB over {name}, median of {rounds} rounds", SIZE / 1_000_000);
        println!("  linger {ours:.2} s, rsync daemon {rsync:.2} s");
        let ratio = rsync / ours;
        let word = if ratio >= 1.0 { "met" } else { "NOT MET" };
        println!("  linger / rsync daemon: {ratio:.2}, must be 1.00: {word}");
    }
}

fn once(link: &Link, server: &str, client: &str, seed: u64, into: &Path) -> f64 {
    let plan = ExecPlan {
        link: link.clone(),
        server: server.to_owned(),
        client: client.to_owned(),
        guests: linger_lab::Guests::default(),
        ip: IpVersion::V4,
        seed,
        ready: Some(Duration::from_secs(10)),
        capture: None,
    };
    let report = exec(&plan, &Stop::new().expect("a stop")).expect("the lab's networks");
    assert!(report.client.is_some_and(|status| status.success()), "{client}: {:?}", report.client);
    fs::read_to_string(into).expect("the time").parse().expect("seconds")
}
