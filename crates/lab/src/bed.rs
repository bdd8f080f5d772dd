//! The test bed: two hosts in namespaces of their own, joined by an emulated link.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use linger_netns::{Namespace, net};

use crate::capture::Capture;
use crate::link::Link;
use crate::steps::Steps;
use crate::wire::{Wire, WireReport};

/// Which version of IP an experiment uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IpVersion {
    /// IPv4.
    #[default]
    V4,
    /// IPv6.
    V6,
}

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

struct Host {
    v4: Ipv4Addr,
    v6: Ipv6Addr,
    mac: net::Mac,
    /// The name of the other end of this host's veth pair, in the link's namespace.
    wire: &'static str,
}

/// Private addresses; their packets never leave the namespaces.
const SERVER: Host = Host {
    v4: Ipv4Addr::new(10, 77, 0, 1),
    v6: Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1),
    mac: [2, 0, 0, 0, 0, 1],
    wire: "server",
};
const CLIENT: Host = Host {
    v4: Ipv4Addr::new(10, 77, 0, 2),
    v6: Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2),
    mac: [2, 0, 0, 0, 0, 2],
    wire: "client",
};

impl Host {
    fn address(&self, ip: IpVersion) -> IpAddr {
        match ip {
            IpVersion::V4 => self.v4.into(),
            IpVersion::V6 => self.v6.into(),
        }
    }

    /// Makes this host in the calling thread's namespace.
    fn set_up(&self, other: &Self, wire: BorrowedFd<'_>) -> io::Result<()> {
        settle();
        net::veth("eth0", self.mac, self.wire, wire)?;
        net::offloads_off("eth0")?;
        let has_ipv6 = quiet_ipv6("eth0");
        net::up("eth0")?;
        // With fixed addresses and neighbours there is no ARP or NDP on the link: it carries the experiment alone.
        net::address("eth0", self.v4.into(), 24)?;
        net::neighbour("eth0", other.v4.into(), other.mac)?;
        if has_ipv6 {
            net::address("eth0", self.v6.into(), 64)?;
            net::neighbour("eth0", other.v6.into(), other.mac)?;
        }
        Ok(())
    }
}

/// Makes connections independent of each other: by default the kernel starts each with the round trip and the
/// slow-start threshold of the one before (`tcp_metrics.c`).
///
/// Does nothing if a container has mounted `/proc/sys` read-only: the trials are then less alike, but still valid.
fn settle() {
    let _ = net::sysctl("ipv4/tcp_no_metrics_save", "1");
}

/// Turns off IPv6 autoconfiguration packets of an interface. Returns whether this kernel has IPv6.
fn quiet_ipv6(interface: &str) -> bool {
    let settings = [("addr_gen_mode", "1"), ("router_solicitations", "0"), ("accept_ra", "0")];
    for (setting, value) in settings {
        // If this fails, the link carries a few frames that are not TCP, which does no harm.
        let _ = net::sysctl(&format!("ipv6/conf/{interface}/{setting}"), value);
    }
    net::read_sysctl(&format!("ipv6/conf/{interface}/disable_ipv6")).is_ok_and(|disabled| disabled == "0")
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
        let between = Namespace::new()?;
        // A new namespace always has an fd; only the shared one has none.
        let wire = between.descriptor().ok_or(io::ErrorKind::Unsupported)?;
        server.run(|| SERVER.set_up(&CLIENT, wire))??;
        client.run(|| CLIENT.set_up(&SERVER, wire))??;
        between.run(|| {
            for end in [SERVER.wire, CLIENT.wire] {
                net::offloads_off(end)?;
                // The wire's ends need no addresses.
                let _ = net::sysctl(&format!("ipv6/conf/{end}/disable_ipv6"), "1");
                net::up(end)?;
            }
            Ok::<_, io::Error>(())
        })??;
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
            server_address: SERVER.address(options.ip),
            client_address: CLIENT.address(options.ip),
            wire: Some(wire),
        })
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
