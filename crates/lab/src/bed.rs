//! The test bed: two hosts in namespaces of their own, joined by an emulated link.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use linger_netns::{Namespace, net};

use crate::cable::{CableEnd, cable, settle};
use crate::host_names::HostNames;
use crate::ip_version::IpVersion;
use crate::link::Link;
use crate::link::capture::Capture;
use crate::link::wire::{Wire, WireReport};
use crate::steps::Steps;

/// How a bed is built.
#[derive(Debug, Default)]
pub struct BedOptions {
    /// Which addresses the hosts have.
    pub ip: IpVersion,
    /// Seed of the link's random decisions.
    pub seed: u64,
    /// Records what crosses the link.
    pub capture: Option<Arc<Mutex<Capture>>>,
    /// Keeps every decision of the link for [`WireReport::log`].
    pub keep_log: bool,
    /// Notes when the server's first reset enters and leaves the link.
    pub steps: Option<Arc<Steps>>,
    /// Uses this process's own network namespace; then only a loopback link is possible.
    pub shared: bool,
}

/// Two hosts and the link between them. The kernel removes the namespaces with their last fd, also after SIGKILL.
#[derive(Debug)]
pub struct Bed {
    /// Where the server runs.
    pub server: Arc<Namespace>,
    /// Where the client runs; the same as the server's for `loopback`.
    pub client: Arc<Namespace>,
    /// The server's address.
    pub server_address: IpAddr,
    /// The client's address.
    pub client_address: IpAddr,
    wire: Option<Wire>,
}

/// The two ends of the bed's link: the server's, then the client's.
fn ends() -> [CableEnd; 2] {
    [1, 2].map(|number| {
        CableEnd::new("eth0", 0, number, &[Ipv4Addr::new(10, 77, 0, number).into(), v6(number)])
    })
}

fn v6(number: u8) -> IpAddr {
    Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, u16::from(number)).into()
}

impl Bed {
    /// Builds the hosts and starts the link.
    ///
    /// # Errors
    /// Returns `EPERM` if this process may not make namespaces: see [`linger_netns::Isolation`].
    pub fn new(link: &Link, options: BedOptions) -> io::Result<Self> {
        if options.shared && !link.loopback {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "only loopback needs no namespaces"));
        }
        let server = Arc::new(if options.shared { Namespace::shared() } else { Namespace::new()? });
        if link.loopback {
            if !options.shared {
                server.run(settle)?;
            }
            let address = match options.ip {
                IpVersion::V4 => Ipv4Addr::LOCALHOST.into(),
                IpVersion::V6 => Ipv6Addr::LOCALHOST.into(),
            };
            return Ok(Self {
                client: server.clone(),
                server,
                server_address: address,
                client_address: address,
                wire: None,
            });
        }
        let client = Arc::new(Namespace::new()?);
        for host in [&server, &client] {
            host.run(settle)?;
            if link.has_ecn() {
                // By default Linux uses ECN only where the other end asks for it.
                host.run(|| net::sysctl("ipv4/tcp_ecn", "1"))??;
            }
        }
        let ends = ends();
        let between = cable([(&server, &ends[0]), (&client, &ends[1])])?;
        let wire = Wire::start(
            &between,
            link.clone(),
            options.seed,
            options.capture,
            options.keep_log,
            options.steps,
        )?;
        Ok(Self {
            server,
            client,
            server_address: ends[0].address(options.ip),
            client_address: ends[1].address(options.ip),
            wire: Some(wire),
        })
    }

    /// The names of both hosts, for programs in them.
    pub fn names(&self) -> HostNames {
        HostNames::new([("server", self.server_address), ("client", self.client_address)])
    }

    /// Stops the link and returns what it carried; `None` for loopback, which has no wire.
    ///
    /// # Errors
    /// Returns the error that stopped the link, if one did.
    pub fn stop(mut self) -> io::Result<Option<WireReport>> {
        self.wire.take().map(Wire::stop).transpose()
    }
}

/// A seed that differs in each run, used if none is given.
pub fn any_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // Nine digits at most: short enough to retype.
    (now.as_nanos() as u64 >> 10) % 1_000_000_000
}
