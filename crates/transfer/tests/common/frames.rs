//! A link that resets connections between two frames (docs/transfer-protocol.md, "Frames").

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

/// Where a connection is reset: before a frame of one direction. The preface counts as frame 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    to_server: bool,
    frame: usize,
}

/// Every place, if a connection has so many frames to the server and to the client.
pub(crate) fn places(frames: [usize; 2]) -> Vec<Place> {
    let all = [true, false].into_iter().zip(frames);
    all.flat_map(|(to_server, frames)| (0..frames).map(move |frame| Place { to_server, frame })).collect()
}

/// Which connections a link resets.
#[derive(Clone, Debug)]
pub(crate) enum Resets {
    None,
    /// The first one that comes to this place.
    Once(Place),
    /// Each one, at the first place at which none was reset before.
    EachPlaceOnce,
}

/// What a link has seen and done.
#[derive(Debug)]
struct Link {
    resets: Resets,
    done: Vec<Place>,
    /// The frames of the first connection that was not reset: to the server, and to the client.
    frames: [usize; 2],
}

impl Link {
    /// Whether a connection is reset here. One that `is_reset` already is not, a second time.
    fn resets(&mut self, here: Place, is_reset: &mut bool) -> bool {
        let resets = !*is_reset
            && !self.done.contains(&here)
            && match self.resets {
                Resets::None => false,
                Resets::Once(place) => place == here,
                Resets::EachPlaceOnce => true,
            };
        if resets {
            self.done.push(here);
            *is_reset = true;
        }
        resets
    }
}

/// Forwards connections, frame by frame.
pub(crate) struct FrameProxy {
    pub(crate) port: u16,
    link: Arc<Mutex<Link>>,
}

impl FrameProxy {
    pub(crate) fn start(server: u16, resets: Resets) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let link = Arc::new(Mutex::new(Link { resets, done: Vec::new(), frames: [0; 2] }));
        let its = link.clone();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let client = Arc::new(client.unwrap());
                // A server that has ended cannot be reached any more.
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else { continue };
                let server = Arc::new(server);
                let is_reset = Arc::new(Mutex::new(false));
                for to_server in [true, false] {
                    let (client, server) = (client.clone(), server.clone());
                    let (link, is_reset) = (its.clone(), is_reset.clone());
                    std::thread::spawn(move || {
                        let [from, to] = if to_server { [&client, &server] } else { [&server, &client] };
                        // An error ends the connection, as it should.
                        let _ = forward(from, to, to_server, &link, &is_reset);
                    });
                }
            }
        });
        Self { port, link }
    }

    fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap()
    }

    /// The frames of the first connection that was not reset: to the server, and to the client.
    pub(crate) fn frames(&self) -> [usize; 2] {
        self.link().frames
    }

    /// How many connections were reset.
    pub(crate) fn resets(&self) -> usize {
        self.link().done.len()
    }
}

/// Forwards one direction until it ends, or until a frame before which both connections are reset.
fn forward(
    mut from: &TcpStream,
    mut to: &TcpStream,
    to_server: bool,
    link: &Mutex<Link>,
    is_reset: &Mutex<bool>,
) -> io::Result<()> {
    for number in 0.. {
        let mut frame = vec![0; 8];
        if from.read_exact(&mut frame).is_err() {
            let frames = &mut link.lock().unwrap().frames[usize::from(!to_server)];
            if *frames == 0 && !*is_reset.lock().unwrap() {
                *frames = number;
            }
            return to.shutdown(Shutdown::Write);
        }
        if number > 0 {
            let length = u32::from_be_bytes([0, frame[1], frame[2], frame[3]]) as usize;
            frame.resize(8 + length, 0);
            from.read_exact(&mut frame[8..])?;
        }
        let here = Place { to_server, frame: number };
        if link.lock().unwrap().resets(here, &mut is_reset.lock().unwrap()) {
            for socket in [from, to] {
                // Sends a reset at once, although another thread has the socket too (`tcp_disconnect`).
                rustix::net::connect_unspec(socket)?;
            }
            break;
        }
        to.write_all(&frame)?;
    }
    Ok(())
}
