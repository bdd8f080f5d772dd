//! A known client's put beside 500 strangers at once, and alone, in turn: prints the ratio of the two times.
//!
//! ```text
//! cargo run --release -p linger-transfer --example strangers -- [PAIRS] [MEGABYTES]
//! ```
//!
//! 170 strangers say nothing, 170 send a byte every quarter of a second, 160 try wrong codes, each about once a second. A
//! stranger whose connection the server ends connects again. All of them run on this machine, and take processor time from the
//! put, too.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use linger_transfer::{
    Client, ClientKeys, ClientOptions, Destination, Identity, IfExists, Input, ItemVerdict, Keyring,
    PutOptions, RelPath, Security, Server, ServerKeys, ShareOptions,
};
use socket2::{Domain, Socket, Type};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const IDLE: u8 = 170;
const DRIPPING: u8 = 170;
const WRONG: u8 = 160;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let pairs: usize = arguments.next().map_or(Ok(5), |text| text.parse())?;
    let megabytes: usize = arguments.next().map_or(Ok(256), |text| text.parse())?;
    let place = tempfile::tempdir()?;
    let home = |name: &str| Identity::load_or_create(&place.path().join(name).join("key"));
    let (own, known) = (home("server")?, home("known")?);
    let (clients, hosts) =
        (Keyring::new(place.path().join("clients")), Keyring::new(place.path().join("hosts")));
    clients.add("known", &known.public())?;
    let file = place.path().join("file");
    std::fs::write(&file, vec![7; megabytes << 20])?;
    let shared = place.path().join("shared");
    std::fs::create_dir(&shared)?;
    let mut options = ShareOptions::new(&shared);
    options.writable = true;
    let theirs = own.public();
    options.keys = Some(ServerKeys::new(Arc::new(own), clients));
    let server = Server::new(options)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    hosts.add(&address.to_string(), &theirs)?;
    let keys = ClientKeys::new(Arc::new(known), hosts, Arc::new(|_, _| None));
    let (on, over, attempts) = (AtomicBool::new(false), AtomicBool::new(false), AtomicU64::new(0));
    let mut ratios = Vec::new();
    std::thread::scope(|scope| -> Result<()> {
        scope.spawn(|| server.serve(&listener, None, &|_| {}));
        for number in 0..IDLE {
            let (on, over) = (&on, &over);
            scope.spawn(move || stranger(address, number, on, over, false));
        }
        for number in 0..DRIPPING {
            let (on, over) = (&on, &over);
            scope.spawn(move || stranger(address, number, on, over, true));
        }
        for number in 0..WRONG {
            let (on, over, attempts, place) = (&on, &over, &attempts, place.path());
            scope.spawn(move || -> std::result::Result<(), linger_transfer::Error> {
                let identity = Arc::new(Identity::load_or_create(&place.join(format!("wrong{number}")))?);
                while !over.load(Ordering::Relaxed) {
                    if on.load(Ordering::Relaxed) {
                        let hosts = Keyring::new(place.join("nowhere"));
                        let code = Arc::new(|_: &str, _: &str| Some("0000-0000".to_owned()));
                        let mut options = ClientOptions::default();
                        options.security = Security::Always(ClientKeys::new(identity.clone(), hosts, code));
                        options.retry.patience = Duration::ZERO;
                        let client = Client::new("127.0.0.1", address.port(), options)?;
                        drop(client.list(&RelPath::root(), &mut |_| {}));
                        attempts.fetch_add(1, Ordering::Relaxed);
                    }
                    std::thread::sleep(Duration::from_secs(1));
                }
                Ok(())
            });
        }
        let put = || -> Result<Duration> {
            let mut options = ClientOptions::default();
            options.security = Security::Always(keys.clone());
            let client = Client::new("127.0.0.1", address.port(), options)?;
            let mut how = PutOptions::default();
            how.if_exists = IfExists::Replace;
            let _ = std::fs::remove_file(shared.join("copy"));
            let started = Instant::now();
            let to = Destination::typed(b"copy")?;
            let (summary, error) = client.put(Input::Path(file.clone()), &to, &how, &mut |_| {});
            if summary.verdict(error.as_ref()) != ItemVerdict::Confirmed {
                return Err(format!("not confirmed: {summary:?} {error:?}").into());
            }
            Ok(started.elapsed())
        };
        let all = (|| -> Result<()> {
            put()?;
            for pair in 0..pairs {
                let alone = put()?;
                on.store(true, Ordering::Relaxed);
                // All of them are there, and the first have been sent away.
                std::thread::sleep(Duration::from_secs(2));
                let beside = put()?;
                on.store(false, Ordering::Relaxed);
                std::thread::sleep(Duration::from_secs(2));
                let ratio = beside.as_secs_f64() / alone.as_secs_f64();
                println!("{pair}: alone {alone:.2?}, beside 500 strangers {beside:.2?}: {ratio:.2}");
                ratios.push(ratio);
            }
            put().map(drop)
        })();
        over.store(true, Ordering::Relaxed);
        server.canceller().cancel();
        all
    })?;
    ratios.sort_by(f64::total_cmp);
    println!(
        "median {:.2} of {pairs} pairs ({megabytes} MB over TLS); {} wrong codes; the service went on",
        ratios[ratios.len() / 2],
        attempts.load(Ordering::Relaxed)
    );
    Ok(())
}

/// Connects from an address of its own, and says nothing or a byte now and then; comes back when it is sent away.
fn stranger(server: SocketAddr, number: u8, on: &AtomicBool, over: &AtomicBool, drips: bool) {
    let from = SocketAddr::from(([127, 0, if drips { 2 } else { 1 }, number], 0));
    let mut connection: Option<TcpStream> = None;
    while !over.load(Ordering::Relaxed) {
        if !on.load(Ordering::Relaxed) {
            connection = None;
        } else if connection.is_none() {
            connection = connect(from, server);
        }
        std::thread::sleep(Duration::from_millis(250));
        let Some(stream) = &mut connection else { continue };
        // The beginning of a TLS record that never ends.
        let is_dead =
            (drips && stream.write_all(&[22]).is_err()) || matches!(stream.read(&mut [0; 64]), Ok(0));
        if is_dead {
            connection = None;
        }
    }
}

fn connect(from: SocketAddr, to: SocketAddr) -> Option<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).ok()?;
    socket.bind(&from.into()).ok()?;
    socket.connect_timeout(&to.into(), Duration::from_secs(2)).ok()?;
    socket.set_nonblocking(true).ok()?;
    Some(socket.into())
}
