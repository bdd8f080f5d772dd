//! WebSockets by axum's own extractor: frames in both directions and a close handshake, begun by either side. The bare
//! server is the standard where it loses nothing, and the counter-example where it does.

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use axum::Router;
use axum::extract::ws::{self, WebSocket, WebSocketUpgrade};
use axum::routing::get;
use linger::Policy;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Error, Message};

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(60);
/// Larger than what fits into buffers.
const MUCH: usize = 3_000_000;
/// Waits in the server when its handler ends.
const ANSWER: usize = 300_000;
const CLIENTS: usize = 10;

#[derive(Clone, Copy, Debug)]
enum Server {
    Bare,
    /// `axum::serve` on a lingering listener.
    Listener,
    /// [`linger::http::serve`].
    Serve,
}

const LINGERING: [Server; 2] = [Server::Listener, Server::Serve];

/// What one end has heard of the other.
#[derive(Clone, Debug, PartialEq)]
enum Heard {
    Text(String),
    Binary(usize),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<(u16, String)>),
    Failed(String),
}

/// How a connection went for its ends.
#[derive(Clone, Debug, PartialEq)]
struct Told {
    client: Vec<Heard>,
    /// Whether all of the client's frames could be sent.
    sent: bool,
    /// What the client's socket reads at last.
    last: Result<usize, ErrorKind>,
    server: Vec<Heard>,
}

fn of_server(message: ws::Message) -> Heard {
    match message {
        ws::Message::Text(text) => Heard::Text(text.to_string()),
        ws::Message::Binary(bytes) => Heard::Binary(bytes.len()),
        ws::Message::Ping(bytes) => Heard::Ping(bytes.to_vec()),
        ws::Message::Pong(bytes) => Heard::Pong(bytes.to_vec()),
        ws::Message::Close(close) => Heard::Close(close.map(|close| (close.code, close.reason.to_string()))),
    }
}

fn of_client(message: Message) -> Heard {
    match message {
        Message::Text(text) => Heard::Text(text.to_string()),
        Message::Binary(bytes) => Heard::Binary(bytes.len()),
        Message::Ping(bytes) => Heard::Ping(bytes.to_vec()),
        Message::Pong(bytes) => Heard::Pong(bytes.to_vec()),
        Message::Close(close) => {
            Heard::Close(close.map(|close| (close.code.into(), close.reason.to_string())))
        }
        Message::Frame(_) => unreachable!("it is never read"),
    }
}

/// Sends back what comes. At the word `leave` it sends an answer and its close, and leaves the rest unread.
async fn talk(mut socket: WebSocket, tell: mpsc::Sender<Vec<Heard>>) {
    let mut heard = Vec::new();
    while let Some(message) = socket.recv().await {
        let message = match message {
            Ok(message) => message,
            Err(error) => {
                heard.push(Heard::Failed(error.to_string()));
                break;
            }
        };
        heard.push(of_server(message.clone()));
        let leaves = message == ws::Message::text("leave");
        if leaves {
            let close = ws::CloseFrame { code: ws::close_code::AWAY, reason: "away".into() };
            let _ = socket.send(ws::Message::Binary(vec![b'a'; ANSWER].into())).await;
            let _ = socket.send(ws::Message::Close(Some(close))).await;
            break;
        }
        if matches!(message, ws::Message::Text(_) | ws::Message::Binary(_)) {
            let _ = socket.send(message).await;
        }
    }
    tell.send(heard).unwrap();
}

async fn serve(server: Server, listener: TcpListener, tell: mpsc::Sender<Vec<Heard>>) {
    let upgrade =
        move |upgrade: WebSocketUpgrade| async move { upgrade.on_upgrade(move |socket| talk(socket, tell)) };
    let app = Router::new().route("/", get(upgrade));
    match server {
        Server::Bare => axum::serve(listener, app).await.unwrap(),
        Server::Listener => {
            axum::serve(linger::axum::listen(listener, Policy::default()), app).await.unwrap();
        }
        Server::Serve => drop(linger::http::serve(listener, app).await.unwrap()),
    }
}

type Client = tungstenite::WebSocket<TcpStream>;

/// Plays a client against a server, and waits for both ends to be over.
fn play(server: Server, client: fn(&mut Client) -> bool) -> Told {
    let runtime = Runtime::new().unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let (tell, told) = mpsc::channel();
    let serving = runtime.spawn(serve(server, listener, tell));
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    let (mut socket, _) = tungstenite::client(format!("ws://{address}/"), stream).unwrap();
    let sent = client(&mut socket);
    let mut heard = Vec::new();
    loop {
        match socket.read() {
            Ok(message) => heard.push(of_client(message)),
            // After a close handshake.
            Err(Error::ConnectionClosed) => break,
            Err(error) => {
                heard.push(Heard::Failed(error.to_string()));
                break;
            }
        }
    }
    let last = socket.get_mut().read(&mut [0]).map_err(|error| error.kind());
    let server = told.recv_timeout(LONG).unwrap();
    serving.abort();
    Told { client: heard, sent, last, server }
}

/// Says something of each kind, and closes when it has all the echoes on their way.
fn client_closes(socket: &mut Client) -> bool {
    let frames = [
        Message::text("hello"),
        Message::binary(vec![b'b'; 100_000]),
        Message::Ping(b"here?".as_slice().into()),
        Message::text("bye"),
    ];
    let sent = frames.into_iter().all(|frame| socket.send(frame).is_ok());
    let close = tungstenite::protocol::CloseFrame { code: CloseCode::Normal, reason: "done".into() };
    sent && socket.close(Some(close)).is_ok() && socket.flush().is_ok()
}

#[test]
fn a_close_handshake_of_the_client_ends_both_directions_as_on_a_bare_server() {
    let text = |text: &str| Heard::Text(text.to_owned());
    let close = Heard::Close(Some((1000, "done".to_owned())));
    let big = Heard::Binary(100_000);
    let right = Told {
        client: vec![text("hello"), big.clone(), Heard::Pong(b"here?".to_vec()), text("bye"), close.clone()],
        sent: true,
        last: Ok(0),
        server: vec![text("hello"), big, Heard::Ping(b"here?".to_vec()), text("bye"), close],
    };
    assert_eq!(play(Server::Bare, client_closes), right);
    for server in LINGERING {
        assert_eq!(play(server, client_closes), right, "{server:?}");
    }
}

/// Asks the server to leave, and sends much before it reads.
fn server_leaves(socket: &mut Client) -> bool {
    let chunk = || Message::binary(vec![b'b'; 100_000]);
    socket.send(Message::text("leave")).is_ok() && (0..MUCH / 100_000).all(|_| socket.send(chunk()).is_ok())
}

#[test]
fn the_last_frames_of_a_server_that_leaves_arrive_while_the_client_is_sending() {
    let right = Told {
        client: vec![Heard::Binary(ANSWER), Heard::Close(Some((1001, "away".to_owned())))],
        sent: true,
        last: Ok(0),
        server: vec![Heard::Text("leave".to_owned())],
    };
    for server in LINGERING {
        for client in 0..CLIENTS {
            assert_eq!(play(server, server_leaves), right, "{server:?}, client {client}");
        }
    }
    let whole = (0..CLIENTS).filter(|_| play(Server::Bare, server_leaves) == right).count();
    assert!(whole < CLIENTS, "{whole} of {CLIENTS} whole with a plain close: the test shows nothing");
}
