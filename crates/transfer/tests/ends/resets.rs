//! A link that resets connection after connection, each between two other frames, until it has done so at every frame: what is
//! sent arrives once, and both ends know it. `crates/cli/tests/verbs/resets.rs` does the same with the program.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use crate::common::frames::{FrameProxy, Resets};
use crate::common::{bytes, picture, place};
use linger_transfer::*;
use tempfile::tempdir;

/// What both ends say of one put.
struct BothEnds {
    summary: Summary,
    client: Option<Error>,
    /// The server's last request; it serves one.
    server: Served,
    frames: [usize; 2],
    resets: usize,
}

fn put(shared: &Path, from: &Path, to: &str, resets: Resets) -> BothEnds {
    let memory = tempdir().unwrap();
    let mut options = ShareOptions::new(shared.join("to"));
    options.insecure_loopback = true;
    options.writable = true;
    options.memory = Some(memory.path().to_owned());
    // How long the server waits for a client that has given up although it should not.
    options.patience = Duration::from_secs(10);
    let printed = shared.join("printed");
    let config = format!("[sink.print]\ncommand = ['sh', '-c', 'cat >>{}']\n", printed.display());
    options.config = StreamsConfig::parse(&config).unwrap();
    let server = Server::new(options).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = FrameProxy::start(listener.local_addr().unwrap().port(), resets);
    let mut options = ClientOptions::default();
    options.retry.first = Duration::from_millis(1);
    let client = Client::new("127.0.0.1", proxy.port, options).unwrap();
    let last = Mutex::new(None);
    let (summary, error) = std::thread::scope(|scope| {
        let running = scope.spawn(|| {
            server.serve(&listener, Some(1), &|serving| match serving {
                Serving::Served(one) if one.has_asked() => *last.lock().unwrap() = Some(*one),
                _ => {}
            })
        });
        let put = client.put(Input::Path(from.into()), &place(to), &PutOptions::default(), &mut |_| {});
        if put.1.is_some() {
            server.canceller().cancel();
        }
        running.join().unwrap().unwrap();
        put
    });
    let server = last.into_inner().unwrap().unwrap();
    BothEnds { summary, client: error, server, frames: proxy.frames(), resets: proxy.resets() }
}

impl BothEnds {
    fn assert_they_know(&self) {
        let told = format!("{:?} {:?}; the server: {:?}", self.summary, self.client, self.server);
        assert_eq!(self.summary.verdict(self.client.as_ref()), ItemVerdict::Confirmed, "{told}");
        let served = &self.server;
        assert_eq!(served.summary.verdict(served.error.as_ref()), ItemVerdict::Confirmed, "{told}");
        assert!(self.summary.peer_knows && served.summary.peer_knows, "{told}");
    }
}

/// Runs `send` over a link that resets nothing, and over one that resets a connection at each place.
fn over_both_links(send: impl Fn(Resets) -> BothEnds) {
    let whole = send(Resets::None);
    whole.assert_they_know();
    let [to_server, to_client] = whole.frames;
    assert!(to_server >= 7 && to_client >= 4, "{:?}", whole.frames);
    let cut = send(Resets::EachPlaceOnce);
    cut.assert_they_know();
    // A client that reconnects asks for less: the last connection has a few frames less than a whole transfer.
    assert!(cut.resets >= 11, "{} resets", cut.resets);
}

fn shared() -> tempfile::TempDir {
    let shared = tempdir().unwrap();
    fs::create_dir(shared.path().join("to")).unwrap();
    shared
}

#[test]
fn a_print_is_made_once() {
    let from = tempdir().unwrap();
    let letter = from.path().join("letter");
    fs::write(&letter, "one cheque\n").unwrap();
    over_both_links(|resets| {
        let shared = shared();
        let both = put(shared.path(), &letter, "@print", resets);
        assert_eq!(fs::read_to_string(shared.path().join("printed")).unwrap(), "one cheque\n");
        assert_eq!(both.summary.confirmed, 1);
        both
    });
}

#[test]
fn a_tree_arrives_whole() {
    let from = tempdir().unwrap();
    let tree = from.path().join("tree");
    fs::create_dir_all(tree.join("below")).unwrap();
    fs::write(tree.join("below/a"), "a").unwrap();
    fs::write(tree.join("large"), bytes(BLOCK + 1, 1)).unwrap();
    over_both_links(|resets| {
        let shared = shared();
        let both = put(shared.path(), &tree, "tree", resets);
        assert_eq!(picture(&shared.path().join("to/tree")), picture(&tree));
        both
    });
}
