//! The recipe of 2014: httpd's mod_proxy_fcgi and a FastCGI application on two hosts, `ab -n 100 -c 20`, a POST of
//! 67 KB answered by 67 KB when the body is read and its end, the empty STDIN record, is not. The hosts are namespaces, the network the lab's `wifi`.

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;

use common::{Ending, available, post, sized};
use linger_fastcgi::Responder;
use linger_fastcgi::responder::Config;
use linger_host::Namespace;
use linger_host::testing::sandboxed;
use linger_lab::{Bed, BedOptions, Link, Named};
use linger_peers::{GatewayOptions, httpd_fcgi};

/// Bytes of the request and of the response.
const SIZE: usize = 67_000;

/// Requests of a hundred, twenty at a time, whose answer was not whole; `None` where httpd is missing.
///
/// ab itself would not do: it takes a truncated response for a complete one where all are cut alike.
fn recipe(bed: &Bed, application: SocketAddr) -> Option<usize> {
    let run = || {
        let httpd = available(httpd_fcgi(application, GatewayOptions::default()))?;
        let five =
            || (0..5).filter(|_| !post(httpd.address, SIZE, Some(SIZE), SIZE).is_complete(SIZE)).count();
        Some(thread::scope(|scope| {
            let twenty: Vec<_> = (0..20).map(|_| scope.spawn(five)).collect();
            twenty.into_iter().map(|thread| thread.join().unwrap()).sum()
        }))
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
        let bare = bed.server.run(|| common::Raw::start_at(bare_address, Ending::Close)).unwrap();
        let theirs = recipe(&bed, bare_address).unwrap_or(0);
        bed.server.run(|| drop(bare)).unwrap();
        eprintln!("of 100 requests over wifi failed: bare close {theirs}, linger-fastcgi {ours}");
        assert_eq!(ours, 0);
        assert!(theirs > 0, "the bare close lost nothing: is the link what it should be?");
    });
}
