//! A proxy that causes one fault: it forwards bytes up to a given place, where the fault happens once.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// The fault that happens at the place.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// Both connections are reset.
    Reset,
    /// Both connections are closed.
    Cut,
    /// One bit of the byte is flipped.
    Flip(u8),
}

/// The direction of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    ToServer,
    ToClient,
}

/// Forwards connections to a server, and causes the fault in the first connection that reaches the place.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    pub(crate) done: Arc<AtomicBool>,
    /// Bytes sent to the server, over all connections.
    pub(crate) forwarded: Arc<AtomicU64>,
    /// The bytes that the first connection sent to the server: tests look for frames in them.
    pub(crate) recorded: Arc<Mutex<Vec<u8>>>,
    /// The bytes that the server sent back.
    pub(crate) answered: Arc<Mutex<Vec<u8>>>,
    over: Arc<AtomicBool>,
}

impl Drop for Proxy {
    /// Ends the thread that accepts, and its descriptor with it.
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl Proxy {
    pub(crate) fn new(server: u16, fault: Option<(Way, u64, Fault)>) -> Self {
        Self::start([server, server], fault, false)
    }

    /// The first connection goes to the first server, all others to the second.
    pub(crate) fn to_two(servers: [u16; 2], fault: (Way, u64, Fault)) -> Self {
        Self::start(servers, Some(fault), false)
    }

    /// Causes the fault in every connection.
    pub(crate) fn always(server: u16, fault: (Way, u64, Fault)) -> Self {
        Self::start([server, server], Some(fault), true)
    }

    fn start([first, later]: [u16; 2], fault: Option<(Way, u64, Fault)>, always: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (done, forwarded) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let recorded = Arc::new(Mutex::new(Vec::new()));
        let answered = Arc::new(Mutex::new(Vec::new()));
        let over = Arc::new(AtomicBool::new(false));
        let proxy = Self {
            port,
            done: done.clone(),
            forwarded: forwarded.clone(),
            recorded: recorded.clone(),
            answered: answered.clone(),
            over: over.clone(),
        };
        std::thread::spawn(move || {
            for (number, client) in listener.incoming().enumerate() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let server = if number == 0 { first } else { later };
                let (Ok(client), Ok(server)) = (client, TcpStream::connect(("127.0.0.1", server))) else {
                    return;
                };
                for way in [Way::ToServer, Way::ToClient] {
                    let (client, server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                    let done = if always { Arc::default() } else { done.clone() };
                    let forwarded = forwarded.clone();
                    let recorded = if way == Way::ToServer { recorded.clone() } else { answered.clone() };
                    let fault = fault.filter(|(at, ..)| *at == way);
                    std::thread::spawn(move || {
                        let pair = if way == Way::ToServer { (client, server) } else { (server, client) };
                        forward(pair, way, fault, &done, &forwarded, &recorded);
                    });
                }
            }
        });
        proxy
    }
}

fn forward(
    (mut from, mut to): (TcpStream, TcpStream),
    way: Way,
    fault: Option<(Way, u64, Fault)>,
    done: &AtomicBool,
    forwarded: &AtomicU64,
    recorded: &Mutex<Vec<u8>>,
) {
    let mut buffer = vec![0; 64 << 10];
    let mut passed = 0u64;
    while let Ok(mut bytes @ 1..) = from.read(&mut buffer) {
        let mut end = false;
        if let Some((_, at, fault)) = fault
            && (passed..passed + bytes as u64).contains(&at)
            && !done.swap(true, Ordering::SeqCst)
        {
            let place = (at - passed) as usize;
            match fault {
                Fault::Flip(bit) => buffer[place] ^= 1 << (bit % 8),
                Fault::Reset | Fault::Cut => {
                    bytes = place;
                    end = true;
                }
            }
            if matches!(fault, Fault::Reset) {
                for socket in [&from, &to] {
                    let linger = Some(std::time::Duration::ZERO);
                    rustix::net::sockopt::set_socket_linger(socket, linger).unwrap();
                }
            }
        }
        passed += bytes as u64;
        if way == Way::ToServer {
            forwarded.fetch_add(bytes as u64, Ordering::SeqCst);
        }
        let mut kept = recorded.lock().unwrap();
        if kept.len() < 64 << 20 {
            kept.extend_from_slice(&buffer[..bytes]);
        }
        drop(kept);
        if to.write_all(&buffer[..bytes]).is_err() {
            break;
        }
        if end {
            // The other direction's threads have descriptors of their own: only a shutdown reaches them.
            let _ = from.shutdown(Shutdown::Both);
            let _ = to.shutdown(Shutdown::Both);
            return;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
