//! Joins two hosts by a pair of interfaces, between which a wire runs.

use std::io;
use std::net::IpAddr;

use linger_netns::{Namespace, net};

use crate::ip_version::IpVersion;
use crate::link::ENDS;

/// One end of a link: an interface of a host.
#[derive(Clone, Debug)]
pub(crate) struct CableEnd {
    /// The interface's name.
    pub(crate) interface: String,
    mac: net::Mac,
    /// Private addresses; their packets never leave the namespaces.
    addresses: Vec<IpAddr>,
}

impl CableEnd {
    /// The end `number` of the link `link`, both of which make its Ethernet address.
    pub(crate) fn new(interface: &str, link: u8, number: u8, addresses: &[IpAddr]) -> Self {
        let mac = [2, 0, 0, 0, link, number];
        Self { interface: interface.to_owned(), mac, addresses: addresses.to_vec() }
    }

    /// The address of this version.
    pub(crate) fn address(&self, ip: IpVersion) -> IpAddr {
        let is_v6 = ip == IpVersion::V6;
        let found = self.addresses.iter().copied().find(|address| address.is_ipv6() == is_v6);
        found.unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED))
    }

    /// Makes this end in the calling thread's namespace; the other side of the pair gets this name in the wire's namespace.
    fn set_up(&self, other: &Self, name: &str, wire: &Namespace) -> io::Result<()> {
        let interface = &self.interface;
        // A new namespace always has an fd; only the shared one has none.
        net::veth(interface, self.mac, name, wire.descriptor().ok_or(io::ErrorKind::Unsupported)?)?;
        net::offloads_off(interface)?;
        let has_ipv6 = quiet_ipv6(interface);
        net::up(interface)?;
        // With fixed addresses and neighbours there is no ARP or NDP on the link: it carries the experiment alone.
        let usable = |address: &&IpAddr| address.is_ipv4() || has_ipv6;
        for address in self.addresses.iter().filter(usable) {
            net::address(interface, *address, prefix_len(*address))?;
        }
        for address in other.addresses.iter().filter(usable) {
            net::neighbour(interface, *address, other.mac)?;
        }
        Ok(())
    }
}

/// The length of the prefix that both ends of a link share.
pub(crate) fn prefix_len(address: IpAddr) -> u8 {
    if address.is_ipv4() { 24 } else { 64 }
}

/// Makes both ends of a link in their hosts. Returns the namespace between them, for [`Wire::start`](crate::link::wire::Wire::start).
///
/// # Errors
/// Returns `EPERM` if this process may not make namespaces.
pub(crate) fn cable(ends: [(&Namespace, &CableEnd); 2]) -> io::Result<Namespace> {
    let between = Namespace::new()?;
    let [(server, server_end), (client, client_end)] = ends;
    server.run(|| server_end.set_up(client_end, ENDS[0], &between))??;
    client.run(|| client_end.set_up(server_end, ENDS[1], &between))??;
    between.run(|| {
        for end in ENDS {
            net::offloads_off(end)?;
            // The wire's ends need no addresses.
            let _ = net::sysctl(&format!("ipv6/conf/{end}/disable_ipv6"), "1");
            net::up(end)?;
        }
        Ok::<_, io::Error>(())
    })??;
    Ok(between)
}

/// Makes connections of the calling thread's namespace independent of each other: by default the kernel starts each with the round
/// trip and the slow-start threshold of the one before (`tcp_metrics.c`).
///
/// Does nothing if a container has mounted `/proc/sys` read-only: the trials are then less alike, but still valid.
pub(crate) fn settle() {
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
