//! A network that is built, and the programs in it.

use std::io;
use std::sync::{Arc, Mutex};

use linger_netns::{Counters, Namespace, net};

use super::plan::{HostPlan, NetworkPlan};
use super::program::Running;
use super::tree::{Tree, address, number_of};
use crate::cable::{CableEnd, cable, prefix_len, settle};
use crate::host_names::HostNames;
use crate::ip_version::IpVersion;
use crate::kernel::{Interior, NewUser, Room};
use crate::link::capture::Capture;
use crate::link::wire::{Wire, WireReport};
use crate::program::hosts_file;
use crate::stop::Stop;

/// What is noted of a network's links.
#[derive(Debug, Default)]
pub struct NetworkSetting {
    /// Record what crosses the first so many of the plan's links.
    pub captures: Vec<Arc<Mutex<Capture>>>,
    /// Keep every decision of the links for [`WireReport::log`].
    pub keep_log: bool,
}

/// Hosts and links of a plan. All of it goes with this value, and with this program.
#[derive(Debug)]
pub struct LiveNetwork<'p> {
    pub(super) plan: &'p NetworkPlan,
    pub(crate) hosts: Vec<Arc<Namespace>>,
    /// The hosts' names and addresses.
    pub names: HostNames,
    // In the order in which they were started. Dropped before the wires.
    programs: Vec<Running>,
    wires: Vec<Wire>,
}

impl<'p> LiveNetwork<'p> {
    /// Builds the hosts and starts the links.
    ///
    /// # Errors
    /// Returns `EPERM` if this process may not make namespaces (see [`linger_netns::Isolation`]), and what a host's kernel says of a
    /// setting that it refuses.
    pub fn build(plan: &'p NetworkPlan, setting: &NetworkSetting) -> io::Result<Self> {
        let ends: Vec<[usize; 2]> = plan.links.iter().map(|joined| joined.ends).collect();
        let tree = Tree::new(plan.hosts.len(), &ends).map_err(|fault| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("no tree of hosts: {fault:?}"))
        })?;
        let mut hosts = Vec::new();
        for _ in &plan.hosts {
            hosts.push(Arc::new(Namespace::new()?));
        }
        let mut wires = Vec::new();
        for (link, joined) in plan.links.iter().enumerate() {
            let capture = setting.captures.get(link).cloned();
            // Else two links would decide alike.
            let seed = plan.seed.wrapping_add(link as u64);
            let between = join(&tree, link, joined.ends, &hosts, plan.ip)?;
            wires.push(Wire::start(&between, joined.link.clone(), seed, capture, setting.keep_log, None)?);
        }
        for (place, host) in plan.hosts.iter().enumerate() {
            let routes = tree.routes(place, plan.ip);
            let is_router = tree.links_of(place).count() > 1;
            hosts[place].run(|| set_up(host, &routes, is_router, plan.ip))??;
        }
        let centre = plan.client.host;
        let known = plan
            .hosts
            .iter()
            .enumerate()
            .filter_map(|(place, host)| Some((host.name.clone(), tree.address(place, centre, plan.ip)?)));
        Ok(Self { plan, hosts, names: HostNames::new(known), programs: Vec::new(), wires })
    }

    /// Starts the hosts' programs in their order, each once the one before is ready.
    ///
    /// # Errors
    /// Says of a program that does not start, ends or is not ready in time where it stands, what happened, and what it printed last.
    pub fn start(&mut self, stop: &Stop) -> io::Result<()> {
        let plan = self.plan;
        for (host, namespace) in plan.hosts.iter().zip(&self.hosts) {
            let Some(own) = &host.program else { continue };
            if stop.requested() {
                break;
            }
            let interior = self.interior(host)?;
            let variables = [("LINGER_SCENARIO", plan.folder.display().to_string())];
            let running = Running::start(host, own, namespace, &self.names, interior, &variables)?;
            running.wait_until_ready(own, namespace, stop)?;
            self.programs.push(running);
        }
        Ok(())
    }

    /// What a program of this host finds: the hosts by their names, and a folder of its own with the host's files.
    pub(super) fn interior(&self, host: &HostPlan) -> io::Result<Interior> {
        let mut room = Room::empty();
        if room.is_none() && !host.files.is_empty() {
            let told = format!(
                "{}: host `{}`: no place for its `files`: this machine has no empty folder among {}; make one",
                host.place,
                host.name,
                Room::PLACES.join(", ")
            );
            return Err(io::Error::new(io::ErrorKind::NotFound, told));
        }
        if let Some(room) = &mut room {
            for file in &host.files {
                room.put(&file.name, file.content.as_bytes())?;
            }
        }
        let user = host.user.map(NewUser::new);
        Ok(Interior { names: Some(hosts_file(&self.names)), room, user, is_needed: true })
    }

    /// An error if a program has ended by itself.
    ///
    /// # Errors
    /// The same as [`start`](Self::start).
    pub fn check(&self, stop: &Stop) -> io::Result<()> {
        self.programs.iter().try_for_each(|running| running.check(stop))
    }

    /// Ends the programs, the last first, then the links. Returns the kernels' counters by host, and what each link carried.
    ///
    /// # Errors
    /// Returns the error that stopped a link, if one did.
    pub fn end(mut self) -> io::Result<(Vec<Counters>, Vec<WireReport>)> {
        while let Some(running) = self.programs.pop() {
            running.end()?;
        }
        let counters = self.hosts.iter().map(|host| host.run(Counters::read)?).collect::<io::Result<_>>()?;
        let wires = self.wires.drain(..).map(Wire::stop).collect::<io::Result<_>>()?;
        Ok((counters, wires))
    }
}

/// Joins two hosts. Returns the namespace of the link between them.
fn join(
    tree: &Tree,
    link: usize,
    ends: [usize; 2],
    hosts: &[Arc<Namespace>],
    ip: IpVersion,
) -> io::Result<Namespace> {
    let [server, client] = [0, 1].map(|end| {
        let number = tree.links_of(ends[end]).position(|own| own == link).unwrap_or_default();
        CableEnd::new(&format!("eth{number}"), number_of(link), end as u8 + 1, &[address(link, end, ip)])
    });
    cable([(&hosts[ends[0]], &server), (&hosts[ends[1]], &client)])
}

/// Sets up the kernel of a host, in its namespace: the ways to all others, and what the scenario changes.
fn set_up(
    host: &HostPlan,
    routes: &[(std::net::IpAddr, std::net::IpAddr)],
    is_router: bool,
    ip: IpVersion,
) -> io::Result<()> {
    let failed = |what: String| {
        move |error: io::Error| {
            io::Error::new(error.kind(), format!("{}: host `{}`: {what}: {error}", host.place, host.name))
        }
    };
    settle();
    if is_router {
        let setting = if ip == IpVersion::V4 { "ipv4/ip_forward" } else { "ipv6/conf/all/forwarding" };
        net::sysctl(setting, "1")
            .map_err(failed(format!("cannot set net/{setting}, by which it passes packets on")))?;
    }
    for (network, neighbour) in routes {
        net::route(*network, prefix_len(*network), *neighbour)
            .map_err(failed(format!("cannot set the route to {network} through {neighbour}")))?;
    }
    for (name, value) in &host.settings {
        let file = name.trim_start_matches("net.").replace('.', "/");
        let told = format!("sysctl: this kernel refuses {value} for {name}");
        net::sysctl(&file, value).map_err(failed(told))?;
    }
    Ok(())
}
