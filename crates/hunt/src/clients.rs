//! Clients that are hunted: each trial starts one in a private network, against a server that plays a schedule.

mod files;

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use linger_lab::{Bed, BedOptions, Capture, IpVersion, Link, Program, Stop};
use linger_netns::Counters;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use socket2::{Domain, SockAddr, Socket, Type};

use self::files::{code, path, printed, upload};
use crate::arena::{ExpectedOutput, HuntedClient};
use crate::client_judge::{ClientEnd, ClientTrial, OutputRule, PlainClient, judge_client};
use crate::error::HuntError;
use crate::field::{Inside, Load, SideCounters, StoryTrial, TrialField};
use crate::generate::Ranges;
use crate::judge::Unjudged;
use crate::report::{HuntReport, OutputCheck, PlainRequests, SearchEnd, Searched};
use crate::schedule::{HuntStep, Player, Schedule};
use crate::serve::{Answering, Forks, ServedConnection, ServedEnd, ServerWaits, serve};
use crate::story::Story;

/// Where clients are hunted.
#[derive(Clone, Debug)]
pub(crate) struct ClientPlace {
    pub(crate) links: Vec<Link>,
    pub(crate) ip: IpVersion,
    pub(crate) port: u16,
    pub(crate) seed: u64,
}

/// A client that is hunted, and the networks for its trials.
pub(crate) struct Clients {
    command: String,
    place: ClientPlace,
    answering: Answering,
    capture: Option<Arc<Mutex<Capture>>>,
    /// The file that the client may send.
    upload: File,
    plain: PlainClient,
    /// Bytes of the requests' bodies of a plain trial.
    plain_upload: u64,
    waits: ServerWaits,
    /// How long a plain trial takes.
    elapsed: Duration,
    forks: Forks,
    /// Networks that nobody uses, by link; and what their kernels have counted.
    networks: Vec<Mutex<LinkNetworks>>,
}

#[derive(Default)]
struct LinkNetworks {
    free: Vec<Bed>,
    counted: SideCounters,
}

/// The bodies of the plain trials: of different sizes, so that it shows whether the output depends on them.
const PLAIN_BODIES: [u64; 3] = [1_000, 5_000, 70_000];
/// How much is kept of a client's output. One that prints more is ended.
const MOST_OUTPUT: u64 = 64 << 20;
/// How much is shown of what a client said.
const TAIL: u64 = 1_000;
/// The most connections of a client in one trial.
const MOST_CONNECTIONS: usize = 32;
/// Connections of one client that wait at a time.
const BACKLOG: i32 = 16;
/// How often it is looked whether a client prints without end.
const LOOK: Duration = Duration::from_millis(250);

impl Clients {
    /// Makes plain trials: a server that reads each request, answers it whole and ends well.
    ///
    /// # Errors
    /// Returns why there is nothing to hunt: above all a client that fails then, too.
    pub(crate) fn learn(
        hunted: &HuntedClient,
        place: ClientPlace,
        payload: Option<&[u8]>,
        capture: Option<Arc<Mutex<Capture>>>,
        stop: &Stop,
    ) -> Result<Self, HuntError> {
        let machine = |what| move |source| HuntError::Machine { what, source };
        let upload = upload(hunted.upload).map_err(machine("a file for the client to send"))?;
        let patience = hunted.ready;
        let plain = PlainClient {
            requests: 1,
            output: OutputRule::Free,
            status: hunted.status,
            is_http: payload.is_none(),
        };
        let networks = place.links.iter().map(|_| Mutex::default()).collect();
        let mut clients = Self {
            command: hunted.command.clone(),
            place,
            answering: Answering {
                status: hunted.status,
                payload: payload.map(<[u8]>::to_vec),
                upload: None,
            },
            capture,
            upload,
            plain,
            plain_upload: 0,
            waits: ServerWaits { patience, idle: Duration::from_secs(1) },
            elapsed: patience / 4,
            forks: Forks::default(),
            networks,
        };
        let mut trials = Vec::new();
        for body in PLAIN_BODIES {
            let begun = Instant::now();
            let schedule =
                Schedule::of_server([HuntStep::ReadRequest, HuntStep::Respond { body, sent: body }]);
            let played = clients.trial(&schedule, 0, stop);
            let (trial, said) = played.map_err(machine("a client in a private network"))?;
            if trial.is_halted {
                return Err(HuntError::Stopped);
            }
            clients.check_plain(&trial, said)?;
            clients.elapsed = begun.elapsed();
            trials.push(trial);
        }
        clients.conclude(&trials, hunted.expect)
    }

    fn conclude(mut self, trials: &[ClientTrial], expect: Option<ExpectedOutput>) -> Result<Self, HuntError> {
        let counted = |trial: &ClientTrial| {
            let exchanges = trial.served.iter().flat_map(|served| &served.exchanges);
            (exchanges.clone().count(), exchanges.map(|exchange| exchange.received).sum::<u64>())
        };
        let all: Vec<(usize, u64)> = trials.iter().map(counted).collect();
        let (requests, upload) = all.first().copied().unwrap_or_default();
        if let Some((other, _)) = all.iter().find(|(other, _)| *other != requests) {
            let what = format!("`{}` makes {requests} requests, and {other} another time", self.command);
            return Err(HuntError::NoClient { what, said: String::new() });
        }
        self.plain.requests = requests;
        self.plain.output = match expect {
            Some(ExpectedOutput::Bytes(bytes)) => OutputRule::Bytes(bytes),
            Some(ExpectedOutput::Sha256(hash)) => OutputRule::Sha256(hash),
            None => OutputRule::learn(trials),
        };
        self.plain_upload = upload;
        // An upload without a length is as long as the plain ones, if these were equally long.
        let is_alike = all.iter().all(|(_, other)| *other == upload);
        self.answering.upload = (self.answering.payload.is_some() && is_alike).then_some(upload);
        let elapsed = self.elapsed;
        self.waits = ServerWaits {
            patience: (elapsed * 20).clamp(Duration::from_secs(5), Duration::from_secs(20)),
            idle: (elapsed * 2).clamp(Duration::from_millis(300), Duration::from_secs(2)),
        };
        Ok(self)
    }

    /// A client that fails when it is served plainly cannot be told from one that loses.
    fn check_plain(&self, trial: &ClientTrial, said: String) -> Result<(), HuntError> {
        let command = &self.command;
        let mut served = trial.served.iter().flat_map(|served| &served.exchanges);
        let what = match trial.end.status {
            _ if trial.served.is_empty() => format!(
                "`{command}` makes no connection to port {}; the server is `server` ($LINGER_SERVER)",
                self.place.port
            ),
            _ if !served.any(|exchange| exchange.asked && exchange.answered) => {
                format!(
                    "`{command}` makes no HTTP request; --payload is for a client that speaks something else"
                )
            }
            None => format!("`{command}` does not end, although its response came whole"),
            Some(0) => return Ok(()),
            Some(status) => {
                format!(
                    "`{command}` ends with {status}, although its response ({}) came whole",
                    self.plain.status
                )
            }
        };
        Err(HuntError::NoClient { what, said })
    }

    /// Plays a schedule against a client. Returns what was seen, and the last that the client printed as errors.
    fn trial(&self, schedule: &Schedule, link: usize, stop: &Stop) -> io::Result<(ClientTrial, String)> {
        let bed = self.bed(link)?;
        let before = counters(&bed)?;
        let address = SocketAddr::new(bed.server_address, self.place.port);
        let listener = bed.server.run(|| listen(address, schedule))??;
        let (output, errors) = (tempfile::tempfile()?, tempfile::tempfile()?);
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", &self.command])
            .env("LINGER_UPLOAD", path(&self.upload))
            .env("LINGER_PORT", self.place.port.to_string())
            // A proxy would be another client.
            .env_remove("http_proxy")
            .env_remove("HTTP_PROXY")
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(errors.try_clone()?);
        let program = {
            let _none_is_closed = self.forks.write().unwrap_or_else(PoisonError::into_inner);
            Program::start(&bed.client, command, &bed.names())?
        };
        let served = self.serve_all(&listener, &program, schedule, &output, stop)?;
        let status = program.wait(stop, Some(Duration::ZERO))?;
        let end = ClientEnd { status: status.map(code), output: printed(&output, 0, MOST_OUTPUT)? };
        let errors = String::from_utf8_lossy(&printed(&errors, TAIL, TAIL)?).trim_end().to_owned();
        drop(program);
        let none_is_made = self.forks.read().unwrap_or_else(PoisonError::into_inner);
        drop(listener);
        drop(none_is_made);
        let is_halted = stop.requested() || served.iter().any(|served| served.end == ServedEnd::Halted);
        let was_reset = self.counted(link, &bed, &before)?;
        self.give_back(link, bed);
        Ok((ClientTrial { served, end, is_halted, was_reset }, errors))
    }

    /// Serves the client's connections until it has ended, or takes too long for it.
    fn serve_all(
        &self,
        listener: &Socket,
        program: &Program,
        schedule: &Schedule,
        output: &File,
        stop: &Stop,
    ) -> io::Result<Vec<ServedConnection>> {
        let mut served = Vec::new();
        let mut until = Instant::now() + self.waits.patience;
        loop {
            let wait = until.saturating_duration_since(Instant::now());
            if wait.is_zero() || output.metadata()?.len() > MOST_OUTPUT {
                return Ok(served);
            }
            let timeout = Timespec::try_from(wait.min(LOOK)).ok();
            let mut ready = [
                PollFd::from_borrowed_fd(stop.wake(), PollFlags::IN),
                PollFd::new(listener, PollFlags::IN),
                PollFd::from_borrowed_fd(program.ended(), PollFlags::IN),
            ];
            match poll(&mut ready, timeout.as_ref()) {
                Err(Errno::INTR) | Ok(0) => continue,
                Err(error) => return Err(error.into()),
                Ok(_) => {}
            }
            let [halted, has_connection, has_ended] = ready.map(|ready| !ready.revents().is_empty());
            if halted {
                return Ok(served);
            }
            // One that it made before it ended is served to its end: what it sent may be on the way.
            if has_connection && served.len() < MOST_CONNECTIONS {
                if let Ok((socket, _)) = listener.accept() {
                    served.push(serve(socket, schedule, &self.answering, &self.waits, (stop, &self.forks)));
                }
                until = Instant::now() + self.waits.patience;
            } else if has_ended || has_connection {
                return Ok(served);
            }
        }
    }

    fn networks(&self, link: usize) -> Option<MutexGuard<'_, LinkNetworks>> {
        self.networks.get(link).map(|networks| networks.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A network that nobody uses.
    fn bed(&self, link: usize) -> io::Result<Bed> {
        let free = self.networks(link).and_then(|mut networks| networks.free.pop());
        if let Some(bed) = free {
            return Ok(bed);
        }
        let link = self.place.links.get(link).ok_or(io::ErrorKind::NotFound)?;
        let (ip, seed) = (self.place.ip, self.place.seed);
        Bed::new(link, BedOptions { ip, seed, capture: self.capture.clone(), ..BedOptions::default() })
    }

    fn give_back(&self, link: usize, bed: Bed) {
        if let Some(mut networks) = self.networks(link) {
            networks.free.push(bed);
        }
    }

    /// Adds what the kernel has counted since. Returns whether it sent a reset.
    fn counted(&self, link: usize, bed: &Bed, before: &SideCounters) -> io::Result<bool> {
        let now = counters(bed)?.since(before);
        let was_reset =
            [Some(&now.server), now.client.as_ref()].into_iter().flatten().any(|side| side.of("OutRsts") > 0);
        if let Some(mut networks) = self.networks(link) {
            let sum = &mut networks.counted;
            sum.server = sum.server.plus(&now.server);
            sum.client = now.client.map(|now| sum.client.take().unwrap_or_default().plus(&now));
        }
        Ok(was_reset)
    }

    fn at(&self, link: Option<&str>) -> usize {
        self.place.links.iter().position(|own| Some(own.name.as_str()) == link).unwrap_or(0)
    }
}

impl TrialField for Clients {
    fn links(&self) -> Vec<Option<String>> {
        self.place.links.iter().map(|link| Some(link.name.clone())).collect()
    }

    fn spacing(&self) -> Duration {
        (self.elapsed / 4).clamp(Duration::from_millis(5), Duration::from_millis(100))
    }

    fn ranges(&self) -> Ranges {
        let bodies = self.answering.payload.is_none();
        Ranges { plays: Player::Server, bodies, links: self.links(), ..Ranges::default() }
    }

    fn play(&self, story: &Story, _: &mut Inside, halt: &Stop) -> io::Result<StoryTrial> {
        let begun = Instant::now();
        let (trial, _) = self.trial(&story.schedule, self.at(story.link.as_deref()), halt)?;
        let (verdict, lost) = judge_client(&trial, &self.plain);
        let busy = begun.elapsed().saturating_sub(story.schedule.pauses());
        let load = match verdict {
            Err(Unjudged::NotConnected | Unjudged::Silent) => Load::TooMuch,
            // The processors have too many clients.
            _ if busy > self.elapsed * 8 + Duration::from_secs(2) => Load::TooMuch,
            _ if busy > self.elapsed * 4 => Load::AsBefore,
            _ => Load::Light,
        };
        let client = trial.served.first().and_then(|served| served.client);
        Ok(StoryTrial { verdict, lost, client, load })
    }

    fn counters(&self, link: Option<&str>) -> Option<SideCounters> {
        self.networks(self.at(link)).map(|networks| networks.counted.clone())
    }

    fn ended(&self) -> Option<(String, String)> {
        None
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::from(([0; 4], self.place.port))
    }

    fn blank(&self) -> HuntReport {
        let output = match self.plain.output {
            OutputRule::Bodies => OutputCheck::Bodies,
            OutputRule::Always(_) => OutputCheck::Same,
            OutputRule::Bytes(_) | OutputRule::Sha256(_) => OutputCheck::Expected,
            OutputRule::Free => OutputCheck::Unknown,
        };
        let (requests, upload) = (self.plain.requests as u64, self.plain_upload);
        HuntReport {
            client: Some(PlainRequests { requests, upload, output }),
            response_bytes: self.answering.payload.as_ref().map_or(0, |payload| payload.len() as u64),
            status: if self.answering.payload.is_some() { 0 } else { self.answering.status },
            site: format!("server:{}", self.place.port),
            framed: self.answering.payload.is_none(),
            half_closes: true,
            searched: Searched::default(),
            found: None,
            unrepeated: Vec::new(),
            at_risk: None,
            ended: SearchEnd::Found,
        }
    }

    fn end(self: Box<Self>) {
        for networks in self.networks {
            for bed in networks.into_inner().unwrap_or_else(PoisonError::into_inner).free {
                // What a link carried is of no interest here.
                let _ = bed.stop();
            }
        }
    }
}

fn counters(bed: &Bed) -> io::Result<SideCounters> {
    let is_one = Arc::ptr_eq(&bed.server, &bed.client);
    let server = bed.server.run(Counters::read)??;
    let client = if is_one { None } else { Some(bed.client.run(Counters::read)??) };
    Ok(SideCounters { server, client })
}

/// The server's socket. Connections inherit its buffers, so that the window is as small from the first segment on.
fn listen(address: SocketAddr, schedule: &Schedule) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if let Some(bytes) = schedule.receive_buffer {
        socket.set_recv_buffer_size(usize::try_from(bytes).unwrap_or(usize::MAX))?;
    }
    if let Some(bytes) = schedule.send_buffer {
        socket.set_send_buffer_size(usize::try_from(bytes).unwrap_or(usize::MAX))?;
    }
    socket.bind(&SockAddr::from(address))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}
