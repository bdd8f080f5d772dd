//! What is hunted; and where a server is: behind a link of its own, or running already.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use linger_lab::{Bed, BedOptions, IpVersion, Link, Program, Stop};
use linger_netns::Counters;
use linger_probe::{Scheme, Target};

use crate::client::Site;
use crate::error::HuntError;

/// What is hunted.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Quarry {
    /// A command, started in a private network of its own for each link.
    Command {
        /// The program and its arguments.
        words: Vec<OsString>,
        /// The links.
        links: Vec<Link>,
        /// The version of IP.
        ip: IpVersion,
        /// The port; `None`: the first one that answers as HTTP.
        port: Option<u16>,
        /// The path to ask for.
        path: String,
        /// How long the server may take until it answers.
        ready: Duration,
    },
    /// A client, started for each trial in a private network, against a server that the hunt plays.
    Client {
        /// What is hunted.
        hunted: HuntedClient,
        /// The links.
        links: Vec<Link>,
        /// The version of IP.
        ip: IpVersion,
        /// The server's port.
        port: u16,
    },
    /// A server that is running already.
    Running {
        /// Its address, and the path to ask for.
        target: Target,
        /// Whether it may be a server on another machine.
        is_own: bool,
    },
}

/// A client that is hunted.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HuntedClient {
    /// Its command, for `sh -c`.
    pub command: String,
    /// The status of each response.
    pub status: u16,
    /// The size of the file that it may send.
    pub upload: u64,
    /// What its output has to be; `None`: what plain trials teach.
    pub expect: Option<ExpectedOutput>,
    /// How long it may take for a plain trial.
    pub ready: Duration,
}

/// What a client's output has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExpectedOutput {
    /// So many bytes.
    Bytes(u64),
    /// Bytes with this SHA-256.
    Sha256([u8; 32]),
}

impl HuntedClient {
    /// A client that gets responses with status 200, and a file of a megabyte to send.
    pub fn new(command: String) -> Self {
        Self { command, status: 200, upload: 1_000_000, expect: None, ready: Duration::from_secs(10) }
    }
}

impl Quarry {
    /// A server that is running already, on this machine.
    pub fn running(target: Target) -> Self {
        Self::Running { target, is_own: false }
    }
}

/// A server, and the network from which it is asked.
#[derive(Debug)]
pub(crate) struct Arena {
    pub(crate) link: Option<String>,
    pub(crate) site: Site,
    /// Dropped first: the server ends before its network does.
    server: Option<(Program, File)>,
    bed: Option<Bed>,
}

/// How much is shown of what a server printed.
const TAIL: i64 = 1_000;
/// How often a server that begins to listen is looked for.
const LOOK: Duration = Duration::from_millis(20);

impl Arena {
    /// A server that is running already.
    pub(crate) fn running(target: &Target, is_own: bool, payload: Option<&[u8]>) -> Result<Self, HuntError> {
        let wrong =
            |reason: &str| HuntError::Target { target: target.to_string(), reason: reason.to_owned() };
        match target.scheme {
            _ if target.unix.is_some() => return Err(wrong("a unix socket has no TCP")),
            Scheme::Http if payload.is_none() => {}
            Scheme::Tcp if payload.is_some() => {}
            Scheme::Tcp => return Err(wrong("what is to be sent to it is not known")),
            _ => return Err(wrong("a hunt speaks HTTP/1.1, or sends a payload over TCP")),
        }
        let mut addresses = (target.host.as_str(), target.port)
            .to_socket_addrs()
            .map_err(|error| wrong(&error.to_string()))?;
        let address = addresses.next().ok_or_else(|| wrong("the name has no address"))?;
        if !is_own && !address.ip().to_canonical().is_loopback() {
            return Err(HuntError::NotYours { target: target.to_string() });
        }
        let site = Site {
            address,
            host: address.to_string(),
            path: target.path.clone(),
            payload: payload.map(<[u8]>::to_vec),
        };
        Ok(Self { link: None, site, server: None, bed: None })
    }

    /// Starts a server behind a link. `answers` says whether a site answers a plain request.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn start(
        words: &[OsString],
        link: &Link,
        options: BedOptions,
        (port, path): (Option<u16>, &str),
        payload: Option<&[u8]>,
        ready: Duration,
        stop: &Stop,
        answers: &mut dyn FnMut(&Self) -> bool,
    ) -> Result<Self, HuntError> {
        let machine = |what| move |source| HuntError::Machine { what, source };
        let bed = Bed::new(link, options).map_err(machine("the private network"))?;
        let shown = words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
        let log = tempfile::tempfile().map_err(machine("a file for what the server prints"))?;
        let mut command = Command::new(words.first().map_or_else(OsString::new, Clone::clone));
        let (out, err) = log
            .try_clone()
            .and_then(|out| Ok((out, log.try_clone()?)))
            .map_err(machine("a file for what the server prints"))?;
        command.args(words.iter().skip(1)).stdin(Stdio::null()).stdout(out).stderr(err);
        let server = Program::start(&bed.server, command, &bed.names())
            .map_err(|source| HuntError::Start { command: shown.clone(), source })?;
        let (name, address) = (link.name.clone(), bed.server_address);
        let host = |port| SocketAddr::new(address, port);
        let payload = payload.map(<[u8]>::to_vec);
        let site = |port| Site {
            address: host(port),
            host: host(port).to_string(),
            path: path.to_owned(),
            payload: payload.clone(),
        };
        let mut arena = Self { link: Some(name), site: site(0), server: Some((server, log)), bed: Some(bed) };
        let deadline = Instant::now() + ready;
        loop {
            if let Some(status) = arena.ended(Duration::ZERO) {
                let what = format!(
                    "`{shown}` ended ({status}) before it answered; is it to stay in the foreground?"
                );
                return Err(arena.no_server(what));
            }
            let ports = arena.ports();
            for candidate in
                ports.iter().copied().filter(|candidate| port.is_none_or(|port| port == *candidate))
            {
                arena.site = site(candidate);
                if answers(&arena) {
                    return Ok(arena);
                }
            }
            if stop.requested() {
                return Err(HuntError::Stopped);
            }
            if Instant::now() >= deadline {
                return Err(arena.no_server(unanswered(&shown, ready, port, address, &ports)));
            }
            stop.sleep(LOOK).map_err(machine("a wait"))?;
        }
    }

    fn no_server(&self, what: String) -> HuntError {
        HuntError::NoServer { what, said: self.tail() }
    }

    /// The ports on which the server listens.
    fn ports(&self) -> Vec<u16> {
        let Some(bed) = &self.bed else { return Vec::new() };
        bed.server.run(listening).unwrap_or_default()
    }

    /// The client's side of the network becomes that of the calling thread.
    pub(crate) fn enter(&self) -> io::Result<()> {
        self.bed.as_ref().map_or(Ok(()), |bed| bed.client.enter())
    }

    /// The kernel's counters on the server's side; `None` where others use it, too.
    pub(crate) fn counters(&self) -> Option<Counters> {
        self.bed.as_ref()?.server.run(Counters::read).ok()?.ok()
    }

    /// Waits for the server's end. Returns how it ended; `None` if it runs, or is none of ours.
    pub(crate) fn ended(&self, wait: Duration) -> Option<String> {
        let (server, _) = self.server.as_ref()?;
        let status = server.wait(&Stop::new().ok()?, Some(wait));
        match status {
            Ok(None) => None,
            Ok(Some(status)) => Some(status.to_string()),
            Err(error) => Some(error.to_string()),
        }
    }

    /// The end of what the server printed.
    pub(crate) fn tail(&self) -> String {
        let Some((_, log)) = &self.server else { return String::new() };
        let mut log: &File = log;
        let mut text = Vec::new();
        let from = log.seek(SeekFrom::End(-TAIL)).or_else(|_| log.seek(SeekFrom::Start(0)));
        // What cannot be read is not shown.
        let _ = from.and_then(|_| log.take(TAIL as u64).read_to_end(&mut text));
        String::from_utf8_lossy(&text).trim_end().to_owned()
    }

    /// Ends the server with SIGTERM, and the link.
    pub(crate) fn end(mut self) {
        if let Some((server, _)) = self.server.take() {
            // What does not end by itself is killed when it is dropped.
            let _ = server.end();
        }
        if let Some(bed) = self.bed.take() {
            let _ = bed.stop();
        }
    }
}

fn unanswered(shown: &str, ready: Duration, port: Option<u16>, address: IpAddr, ports: &[u16]) -> String {
    let seconds = ready.as_secs_f64();
    let listed = ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
    match (port, ports) {
        (_, []) => format!("`{shown}` listens nowhere after {seconds} s"),
        (Some(port), ports) if !ports.contains(&port) => {
            format!("`{shown}` does not listen on port {port} after {seconds} s, but on {listed}")
        }
        _ => format!(
            "`{shown}` gives no whole response on {address} after {seconds} s; it listens on port {listed} \
             (its address is in $LINGER_SERVER)"
        ),
    }
}

/// The ports of the calling thread's namespace on which a TCP socket listens (state 0A in `proc_net_tcp`), in their order.
fn listening() -> Vec<u16> {
    let mut ports = Vec::new();
    for file in ["tcp", "tcp6"] {
        let Ok(text) = fs::read_to_string(format!("/proc/thread-self/net/{file}")) else { continue };
        for line in text.lines().skip(1) {
            let mut fields = line.split_whitespace().skip(1);
            let (local, state) = (fields.next().unwrap_or_default(), fields.nth(1));
            let port = local.rsplit(':').next().and_then(|port| u16::from_str_radix(port, 16).ok());
            ports.extend(port.filter(|_| state == Some("0A")));
        }
    }
    ports.sort_unstable();
    ports.dedup();
    ports
}
