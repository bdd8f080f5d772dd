//! The recipe of 2014: httpd's mod_proxy_fcgi and a FastCGI application on two hosts, `ab -n 100 -c 20`, a POST of
//! 67 KB answered by 67 KB when the body is read and its end, the empty STDIN record, is not. The hosts are
//! namespaces, the network the lab's `wifi`; ab and httpd are the real ones.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;

use crate::common::{Ending, available, sized};
use linger_fastcgi::Responder;
use linger_fastcgi::responder::Config;
use linger_lab::{Bed, BedOptions, Link, Named};
use linger_testing::Namespace;
use linger_testing::sandboxed;
use linger_testing::servers::{GatewayOptions, httpd_fcgi, program};

/// Bytes of the request and of the response.
const SIZE: usize = 67_000;

/// What ab reports about its hundred requests.
///
/// ab takes the length of the first answer for the right one. If all answers are cut at the same byte, it reports no
/// failure; only the sum of their bytes shows it.
#[derive(Debug)]
struct Said {
    /// Requests that it calls failed, and answers other than 200.
    failed: u64,
    /// Bytes of answers in all.
    bytes: u64,
    /// Bytes of the first answer.
    first: u64,
}

impl Said {
    fn read(text: &str) -> Option<Self> {
        let number = |label: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(label))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        // ab prints the second line only if there are such responses.
        let failed = number("Failed requests:")? + number("Non-2xx responses:").unwrap_or(0);
        Some(Self { failed, bytes: number("HTML transferred:")?, first: number("Document Length:")? })
    }

    /// How many answers were not whole, at least.
    fn cut(&self) -> u64 {
        if self.failed == 0 && self.first < SIZE as u64 {
            return 100;
        }
        self.failed.max((100 * SIZE as u64 - self.bytes).div_ceil(SIZE as u64))
    }
}

/// `ab -n 100 -c 20` against httpd in front of `application`; `None` where one of the two is missing.
fn recipe(bed: &Bed, application: SocketAddr) -> Option<Said> {
    let run = || {
        let ab = available(program("ab", "apache2-utils"))?;
        let httpd = available(httpd_fcgi(application, GatewayOptions::default()))?;
        let body = httpd.path("body");
        std::fs::write(&body, vec![b'b'; SIZE]).unwrap();
        let output = Command::new(ab)
            .args(["-q", "-n", "100", "-c", "20", "-s", "60", "-T", "application/octet-stream", "-p"])
            .arg(&body)
            .args(["-H", &format!("X-Read: {SIZE}"), "-H", &format!("X-Answer: {SIZE}")])
            .arg(format!("http://{}/script", httpd.address))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let complaint = String::from_utf8_lossy(&output.stderr);
        Some(Said::read(&text).unwrap_or_else(|| panic!("ab: {complaint}{text}")))
    };
    bed.client.run(run).unwrap()
}

fn listen_in(namespace: &Arc<Namespace>, address: SocketAddr) -> Responder {
    namespace.run(|| Responder::bind(&address.into(), Config::default()).unwrap()).unwrap()
}

#[test]
fn over_wifi_a_bare_close_fails_and_ours_does_not() {
    sandboxed(|| {
        let link = Link::by_name("wifi").unwrap();
        let bed = Bed::new(&link, BedOptions::default()).unwrap();
        let address = SocketAddr::new(bed.server_address, 9000);
        let responder = listen_in(&bed.server, address);
        let stop = responder.stopper();
        let serving = bed.server.spawn("responder", move || responder.run(sized)).unwrap();
        let ours = recipe(&bed, address);
        stop.stop();
        serving.join().unwrap().unwrap().unwrap();
        let Some(ours) = ours else { return };

        let bare_address = SocketAddr::new(bed.server_address, 9001);
        let bare = bed.server.run(|| crate::common::Raw::start_at(bare_address, Ending::Close)).unwrap();
        let theirs = recipe(&bed, bare_address).unwrap();
        bed.server.run(|| drop(bare)).unwrap();
        for (ending, said) in [("bare close", &theirs), ("linger-fastcgi", &ours)] {
            eprintln!("ab -n 100 -c 20 over wifi: {ending}: {} answers cut: {said:?}", said.cut());
        }
        assert_eq!((ours.cut(), ours.bytes), (0, 100 * SIZE as u64));
        assert!(theirs.cut() > 0, "the bare close lost nothing: is the link what it should be? {theirs:?}");
    });
}
