//! Two hosts for a test, inside its sandbox.

use std::net::{IpAddr, Ipv4Addr};

use linger_netns::{Namespace, net};

/// Addresses of the [two hosts](two_hosts).
pub const HOSTS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1)), IpAddr::V4(Ipv4Addr::new(10, 77, 0, 2))];

/// Two namespaces joined by one veth pair. Both ends are called `eth0`; offloads are turned off at the first.
///
/// # Panics
/// Panics if the kernel refuses: call this inside [`sandboxed`](crate::sandboxed).
pub fn two_hosts() -> [Namespace; 2] {
    let host = || Namespace::new().expect("a sandbox may make namespaces");
    let (first, second) = (host(), host());
    let inside = first.run(|| {
        net::veth("eth0", [2, 0, 0, 0, 0, 1], "eth0", second.descriptor().expect("a namespace has an fd"))?;
        net::address("eth0", HOSTS[0], 24)?;
        net::offloads_off("eth0")?;
        net::up("eth0")
    });
    inside.and_then(|result| result).expect("a sandbox may make a veth pair");
    let inside = second.run(|| {
        net::address("eth0", HOSTS[1], 24)?;
        net::up("eth0")
    });
    inside.and_then(|result| result).expect("the other end can be set up");
    [first, second]
}
