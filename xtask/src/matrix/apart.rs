//! Server and probe in network namespaces of their own, with a link between them.
//!
//! What the kernel counts at the server's is of the server alone, and what passes on the link is between the two. The server listens
//! on 127.0.0.1 as it does anywhere: the probe's namespace has no such address, and sends what is for 127.0.0.0/8 over the link.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;

use anyhow::Context;
use linger_netns::{Counters, Namespace, net};

/// The end of the link at the probe.
pub(super) const PROBE: &str = "probe";
/// The end of the link at the server.
const SERVER: &str = "server";

/// The two namespaces.
#[derive(Debug)]
pub(super) struct Apart {
    pub(super) server: Namespace,
    pub(super) client: Namespace,
}

impl Apart {
    pub(super) fn new() -> anyhow::Result<Self> {
        let (server, client) = (Namespace::new()?, Namespace::new()?);
        let to = client.descriptor().context("a namespace has a descriptor")?;
        server.run(|| {
            net::veth(SERVER, [2, 0, 0, 0, 9, 1], PROBE, to)?;
            end_of_link(SERVER, 1)
        })??;
        server.run(|| as_wide_as_loopback(SERVER))??;
        client.run(|| -> anyhow::Result<()> {
            end_of_link(PROBE, 2)?;
            as_wide_as_loopback(PROBE)?;
            // With it goes the route to itself, which the end of the interface would leave.
            ip("address del 127.0.0.1/8 dev lo")?;
            ip(&format!("route add 127.0.0.0/8 dev {PROBE} src {}", address(2)))
        })??;
        Ok(Self { server, client })
    }

    /// The kernel's counters at the server.
    pub(super) fn counters(&self) -> anyhow::Result<Counters> {
        Ok(self.server.run(Counters::read)??)
    }
}

fn address(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 9, 0, host)
}

fn end_of_link(name: &str, host: u8) -> std::io::Result<()> {
    net::address(name, IpAddr::V4(address(host)), 24)?;
    net::up(name)?;
    // Otherwise 127.0.0.0/8 is not taken for an address on a link.
    net::sysctl(&format!("ipv4/conf/{name}/route_localnet"), "1")
}

/// Segments as large as those on loopback: the kernel gives a socket a larger send buffer for them, in which a whole response waits.
fn as_wide_as_loopback(name: &str) -> anyhow::Result<()> {
    ip(&format!("link set {name} mtu 65535"))
}

fn ip(words: &str) -> anyhow::Result<()> {
    let output = Command::new("ip").args(words.split(' ')).output().context("ip (package iproute2)")?;
    anyhow::ensure!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
