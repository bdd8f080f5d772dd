//! TLS 1.3 between machines: raw public keys (RFC 7250), pinned after a first pairing by code.
//!
//! TLS proves that each side holds its key. Whether a side knows the other's key is decided right after the handshake, in
//! a short exchange of its own, before the session begins.

mod any_key;
mod greeting;
mod suites;

use std::io::{self, Read, Write};
use std::net::{IpAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use linger_untrusted::Untrusted;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};

use crate::cancel::Cancel;
use crate::error::Error;
use crate::identity::{Identity, Keyring, PublicKey, fingerprint};
use crate::page_buffer::PageBuffer;
use crate::pair::{Attempt, Binding, Codes, MESSAGE, PROOF, same_proof};
use crate::reason::{Reason, Remedy};
use crate::rights::Rights;
use crate::transport::Transport;
use any_key::AnyKey;
pub(crate) use greeting::cut;
use greeting::{Deadline, Greeting, Word};
use suites::provider;

/// The longest time for the handshake and the greeting after it, and once more for a pairing after the code was typed.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a server waits for a person at the client to type the code.
const TYPING: Duration = Duration::from_secs(120);
/// Plaintext that one record carries (RFC 8446, section 5.1).
const RECORD: usize = 16 << 10;
/// The most bytes that are encrypted before the socket has taken them; also the most that are read from it at once.
const AHEAD: usize = 16 * RECORD;

fn wrong(error: rustls::Error) -> Error {
    Error::Identity(format!("TLS: {error}").into())
}

fn certified(identity: &Identity) -> Result<Arc<CertifiedKey>, Error> {
    let der = PrivatePkcs8KeyDer::from(identity.pkcs8().to_vec());
    let key = rustls::crypto::ring::sign::any_eddsa_type(&der).map_err(wrong)?;
    Ok(Arc::new(CertifiedKey::new(vec![CertificateDer::from(identity.spki())], key)))
}

fn server_config(identity: &Identity) -> Result<ServerConfig, Error> {
    let provider = provider();
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(wrong)?
        .with_client_cert_verifier(Arc::new(AnyKey(provider)))
        .with_cert_resolver(Arc::new(rustls::server::AlwaysResolvesServerRawPublicKeys::new(certified(
            identity,
        )?)));
    // No tickets: a resumed connection would not present keys, and the saved round trip does not matter here.
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn client_config(identity: &Identity) -> Result<ClientConfig, Error> {
    let provider = provider();
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(wrong)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyKey(provider)))
        .with_client_cert_resolver(Arc::new(rustls::client::AlwaysResolvesClientRawPublicKeys::new(
            certified(identity)?,
        )));
    config.resumption = rustls::client::Resumption::disabled();
    config.enable_sni = false;
    Ok(config)
}

/// Asks a person for the code, given the host and the fingerprint of its key. `None` gives up.
pub type AskCode = Arc<dyn Fn(&str, &str) -> Option<String> + Send + Sync>;

/// The keys with which a client encrypts.
#[derive(Clone)]
#[non_exhaustive]
pub struct ClientKeys {
    /// This side's own key.
    pub identity: Arc<Identity>,
    /// The keys of known servers.
    pub known_hosts: Keyring,
    /// Asks the user for a code.
    pub ask: AskCode,
}

impl ClientKeys {
    /// The keys of a client.
    pub fn new(identity: Arc<Identity>, known_hosts: Keyring, ask: AskCode) -> Self {
        Self { identity, known_hosts, ask }
    }
}

impl std::fmt::Debug for ClientKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientKeys").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// The keys with which a server encrypts.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerKeys {
    /// This side's own key.
    pub identity: Arc<Identity>,
    /// The keys of known clients. Others have to pair by code.
    pub known_clients: Keyring,
}

impl ServerKeys {
    /// The keys of a server.
    pub fn new(identity: Arc<Identity>, known_clients: Keyring) -> Self {
        Self { identity, known_clients }
    }
}

/// Talks TLS to `host` over a connected socket. Makes sure that the host has the key that is on file, or pairs with it by code.
pub(crate) fn connect(
    stream: TcpStream,
    host: &str,
    keys: &ClientKeys,
    cancel: &Cancel,
) -> Result<Tls, Error> {
    let name = ServerName::try_from("linger").map_err(|_| Error::Identity("no name".into()))?;
    let client = ClientConnection::new(Arc::new(client_config(&keys.identity)?), name).map_err(wrong)?;
    let mut connection = Connection::Client(client);
    let pinned = keys.known_hosts.of(host)?;
    let mut greeting = Greeting {
        connection: &mut connection,
        socket: Deadline { stream: &stream, until: Instant::now() + PATIENCE, cancel, writes: &|| {} },
    };
    let server = greeting.handshake()?;
    // A server that has this user's own key uses the same home directory: it is this user's.
    let pinned = if server == keys.identity.public() { Some(server) } else { pinned };
    if let Some(pinned) = pinned
        && pinned != server
    {
        return Err(Error::KeyChanged {
            host: host.to_owned(),
            pinned: fingerprint(&pinned),
            offered: fingerprint(&server),
            file: keys.known_hosts.path().display().to_string(),
        });
    }
    greeting.say(if pinned.is_some() { Word::Known } else { Word::Stranger })?;
    match (greeting.hear()?, pinned) {
        (Word::Known, Some(_)) => {}
        (Word::Refused, _) => return Err(refused(&mut greeting)),
        _ => {
            pair_as_client(&mut greeting, host, keys, server)?;
            if pinned.is_none() {
                keys.known_hosts.add(host, &server)?;
            }
        }
    }
    Tls::new(stream, connection)
}

fn refused(greeting: &mut Greeting<'_>) -> Error {
    // The reason follows, in at most 255 bytes.
    let told = greeting.receive::<1>().and_then(|[length]| {
        (0..length).map(|_| greeting.receive::<1>().map(|[byte]| byte)).collect::<Result<Vec<u8>, _>>()
    });
    let told = told.map_or_else(
        |_| "the server does not know this machine".into(),
        |bytes| Untrusted::from(&*bytes).terminal().to_string(),
    );
    Error::Identity(format!("the server refused: {told}").into())
}

fn pair_as_client(
    greeting: &mut Greeting<'_>,
    host: &str,
    keys: &ClientKeys,
    server: PublicKey,
) -> Result<(), Error> {
    let code = (keys.ask)(host, &fingerprint(&server)).ok_or_else(|| {
        let told = Reason::from(format!("{host} is not known yet, and no code was given"));
        Error::Identity(told.with(Remedy::AskForCode))
    })?;
    greeting.socket.until = Instant::now() + PATIENCE;
    let binding = Binding { exporter: greeting.exporter()?, client: keys.identity.public(), server };
    let (attempt, message) = Attempt::client(&code);
    greeting.say(Word::Known)?;
    greeting.send(&message)?;
    if greeting.hear()? != Word::Known {
        return Err(refused(greeting));
    }
    let theirs: [u8; MESSAGE] = greeting.receive()?;
    let wrong_code =
        || Error::Identity("the code is wrong, and used up; the server shows a new one now".into());
    let proofs = attempt.finish(&theirs, &binding).ok_or_else(wrong_code)?;
    greeting.send(&proofs.client)?;
    if greeting.hear()? != Word::Known {
        return Err(wrong_code());
    }
    let proof: [u8; PROOF] = greeting.receive()?;
    if !same_proof(&proof, &proofs.server) {
        return Err(Error::Identity("whoever answers does not know the code: nothing was sent".into()));
    }
    Ok(())
}

/// Talks TLS over an accepted socket, and makes sure that the client is known or knows the code.
pub(crate) fn accept(
    stream: TcpStream,
    address: IpAddr,
    keys: &ServerKeys,
    codes: &Codes,
    new_code: &dyn Fn(),
    begun: &dyn Fn(),
    cancel: &Cancel,
) -> Result<(Tls, Rights), Error> {
    let peer = &*address.to_string();
    let server = ServerConnection::new(Arc::new(server_config(&keys.identity)?)).map_err(wrong)?;
    let mut connection = Connection::Server(server);
    let mut greeting = Greeting {
        connection: &mut connection,
        socket: Deadline { stream: &stream, until: Instant::now() + PATIENCE, cancel, writes: begun },
    };
    let client = greeting.handshake()?;
    // A client that has this user's own key uses the same home directory: it is this user's.
    let rights = if client == keys.identity.public() {
        Some(Rights::default())
    } else {
        keys.known_clients.rights(&client)?
    };
    let known = rights.is_some();
    let knows_us = greeting.hear()? == Word::Known;
    greeting.say(if known { Word::Known } else { Word::Stranger })?;
    if !(known && knows_us) {
        // A person has to type the code, so the time for that is given first.
        greeting.socket.until = Instant::now() + TYPING;
        if greeting.hear()? != Word::Known {
            return Err(Error::Identity(format!("{peer} gave up before giving a code").into()));
        }
        greeting.socket.until = Instant::now() + PATIENCE;
        let theirs: [u8; MESSAGE] = greeting.receive()?;
        let code = match codes.take(address, Instant::now()) {
            Ok(code) => code,
            Err(why) => {
                greeting.say(Word::Refused)?;
                greeting
                    .send(&[&[why.len().min(255) as u8], &why.as_bytes()[..why.len().min(255)]].concat())?;
                return Err(Error::Identity(format!("{peer} was refused: {why}").into()));
            }
        };
        // However the attempt ends, that code is used up.
        let _told = AtEnd(new_code);
        let binding = Binding { exporter: greeting.exporter()?, client, server: keys.identity.public() };
        let (attempt, message) = Attempt::server(&code);
        greeting.say(Word::Known)?;
        greeting.send(&message)?;
        let proof: [u8; PROOF] = greeting.receive()?;
        match attempt.finish(&theirs, &binding).filter(|proofs| same_proof(&proof, &proofs.client)) {
            Some(proofs) => {
                codes.succeeded(address, &code);
                if !known {
                    keys.known_clients.add(peer, &client)?;
                }
                greeting.say(Word::Known)?;
                greeting.send(&proofs.server)?;
            }
            None => {
                greeting.say(Word::Refused)?;
                return Err(Error::Identity(format!("{peer} gave a wrong code").into()));
            }
        }
    }
    Ok((Tls::new(stream, connection)?, rights.unwrap_or_default()))
}

/// Calls a function when it goes out of scope.
struct AtEnd<'a>(&'a dyn Fn());

impl Drop for AtEnd<'_> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// An encrypted connection, as a [`Transport`] of a session.
pub(crate) struct Tls {
    stream: TcpStream,
    connection: Connection,
    /// Records as they arrive, in larger portions than rustls reads.
    incoming: PageBuffer,
    start: usize,
    end: usize,
}

impl Tls {
    fn new(stream: TcpStream, mut connection: Connection) -> Result<Self, Error> {
        let set = |error| Error::io("set up", "the connection", error);
        stream.set_read_timeout(None).and_then(|()| stream.set_write_timeout(None)).map_err(set)?;
        stream.set_nonblocking(true).and_then(|()| stream.set_nodelay(true)).map_err(set)?;
        connection.set_buffer_limit(Some(AHEAD));
        Ok(Self { stream, connection, incoming: PageBuffer::default(), start: 0, end: 0 })
    }

    /// Gives records that have arrived to rustls. Fails with `WouldBlock` if none have arrived.
    fn feed(&mut self) -> io::Result<()> {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
            self.end = self.stream.read(self.incoming.bytes(AHEAD))?;
        }
        let mut records = &self.incoming.first(self.end)[self.start..];
        let read = self.connection.read_tls(&mut records)?;
        self.start += read;
        self.connection
            .process_new_packets()
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("TLS: {error}")))?;
        Ok(())
    }
}

impl Transport for Tls {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.connection.reader().read(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.feed()?,
                other => return other,
            }
        }
    }

    fn write(&mut self, head: &[u8], body: &[u8]) -> io::Result<usize> {
        let mut taken = 0;
        for part in [head, body] {
            let mut part = part;
            while !part.is_empty() {
                let bytes = self.connection.writer().write(part)?;
                (taken, part) = (taken + bytes, &part[bytes..]);
                if bytes == 0 {
                    match self.flush() {
                        Ok(()) => {}
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock && taken > 0 => {
                            return Ok(taken);
                        }
                        Err(error) => return Err(error),
                    }
                }
            }
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.connection.wants_write() {
            self.connection.write_tls(&mut self.stream)?;
        }
        Ok(())
    }

    fn socket(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    fn is_plain(&self) -> bool {
        false
    }

    fn farewell(&mut self) {
        self.connection.send_close_notify();
        // If the socket is full, close_notify is lost; the goodbye of the session and the FIN show the end.
        let _ = self.flush();
    }

    fn holds_back(&self) -> bool {
        self.connection.wants_write()
    }

    fn into_sockets(self: Box<Self>) -> Vec<OwnedFd> {
        vec![self.stream.into()]
    }
}
