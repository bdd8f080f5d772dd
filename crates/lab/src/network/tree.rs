//! Ways through a network that is a tree.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::ip_version::IpVersion;

/// What is wrong with some hosts and links.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum TreeFault {
    /// The link of this place has one host at both ends.
    OneHost(usize),
    /// The link of the second place joins the same hosts as that of the first.
    Twice(usize, usize),
    /// The link of this place makes a loop.
    Loop(usize),
    /// No link leads from the first host to this one.
    Apart(usize),
}

/// Which way leads from each host to each other.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    links: Vec<[usize; 2]>,
    /// The first link on the way, by the places of both hosts; none from a host to itself.
    first: Vec<Vec<Option<usize>>>,
}

impl Tree {
    /// The tree of so many hosts and these links.
    pub(crate) fn new(hosts: usize, links: &[[usize; 2]]) -> Result<Self, TreeFault> {
        let mut part: Vec<usize> = (0..hosts).collect();
        for (place, [a, b]) in links.iter().enumerate() {
            let is_same = |[c, d]: &[usize; 2]| (c, d) == (a, b) || (d, c) == (a, b);
            if a == b {
                return Err(TreeFault::OneHost(place));
            }
            if let Some(earlier) = links[..place].iter().position(is_same) {
                return Err(TreeFault::Twice(earlier, place));
            }
            let (from, to) = (part[*a], part[*b]);
            if from == to {
                return Err(TreeFault::Loop(place));
            }
            part.iter_mut().filter(|part| **part == from).for_each(|part| *part = to);
        }
        if let Some(apart) = part.iter().position(|own| *own != part[0]) {
            return Err(TreeFault::Apart(apart));
        }
        let mut tree = Self { links: links.to_vec(), first: vec![vec![None; hosts]; hosts] };
        for from in 0..hosts {
            tree.search(from);
        }
        Ok(tree)
    }

    /// Finds the ways from this host.
    fn search(&mut self, from: usize) {
        let mut reached = vec![from];
        while let Some(at) = reached.pop() {
            for (place, [a, b]) in self.links.iter().enumerate() {
                let next = if *a == at { *b } else { *a };
                if (*a != at && *b != at) || next == from || self.first[from][next].is_some() {
                    continue;
                }
                self.first[from][next] = self.first[from][at].or(Some(place));
                reached.push(next);
            }
        }
    }

    /// The end of a link at which a host is: 0 or 1.
    fn end_of(&self, link: usize, host: usize) -> usize {
        usize::from(self.links[link][1] == host)
    }

    /// The address by which all hosts know one: that of its interface on the way to `centre`, and the centre's own first.
    pub(crate) fn address(&self, host: usize, centre: usize, ip: IpVersion) -> Option<IpAddr> {
        let own = || self.links.iter().position(|ends| ends.contains(&host));
        let link = self.first[host][centre].or_else(own)?;
        Some(address(link, self.end_of(link, host), ip))
    }

    /// The links of a host, in order.
    pub(crate) fn links_of(&self, host: usize) -> impl Iterator<Item = usize> {
        self.links.iter().enumerate().filter(move |(_, ends)| ends.contains(&host)).map(|(place, _)| place)
    }

    /// The routes that a host needs: to the network of each link that is none of its own, through which neighbour.
    pub(crate) fn routes(&self, host: usize, ip: IpVersion) -> Vec<(IpAddr, IpAddr)> {
        let far = self.links.iter().enumerate().filter(|(_, ends)| !ends.contains(&host));
        far.filter_map(|(link, ends)| {
            let first = self.first[host][ends[0]]?;
            let neighbour = address(first, 1 - self.end_of(first, host), ip);
            Some((network(link, ip), neighbour))
        })
        .collect()
    }
}

/// The private address of one end of a link.
pub(crate) fn address(link: usize, end: usize, ip: IpVersion) -> IpAddr {
    let (link, number) = (number_of(link), end as u8 + 1);
    match ip {
        IpVersion::V4 => Ipv4Addr::new(10, 77, link, number).into(),
        IpVersion::V6 => Ipv6Addr::new(0xfd77, 0, 0, link.into(), 0, 0, 0, number.into()).into(),
    }
}

fn network(link: usize, ip: IpVersion) -> IpAddr {
    let link = number_of(link);
    match ip {
        IpVersion::V4 => Ipv4Addr::new(10, 77, link, 0).into(),
        IpVersion::V6 => Ipv6Addr::new(0xfd77, 0, 0, link.into(), 0, 0, 0, 0).into(),
    }
}

/// The number of a link in addresses. 0 is the bed's.
pub(crate) fn number_of(link: usize) -> u8 {
    u8::try_from(link + 1).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_tree_is_refused() {
        let fault = |hosts, links: &[[usize; 2]]| Tree::new(hosts, links).err();
        assert_eq!(fault(3, &[[0, 1], [1, 2]]), None);
        assert_eq!(fault(3, &[[0, 1], [2, 2]]), Some(TreeFault::OneHost(1)));
        assert_eq!(fault(3, &[[0, 1], [1, 2], [1, 0]]), Some(TreeFault::Twice(0, 2)));
        assert_eq!(fault(4, &[[0, 1], [1, 2], [2, 3], [3, 0]]), Some(TreeFault::Loop(3)));
        assert_eq!(fault(4, &[[0, 1], [2, 3]]), Some(TreeFault::Apart(2)));
        assert_eq!(fault(2, &[]), Some(TreeFault::Apart(1)));
    }

    /// client 0 - gateway 1 - application 2, and a database 3 behind the gateway as well.
    #[test]
    fn each_host_has_one_address_and_a_route_to_all_others() {
        let tree = Tree::new(4, &[[1, 0], [2, 1], [3, 1]]).unwrap();
        let shown = |host| tree.address(host, 0, IpVersion::V4).unwrap().to_string();
        assert_eq!([0, 1, 2, 3].map(shown), ["10.77.1.2", "10.77.1.1", "10.77.2.1", "10.77.3.1"]);
        let routes = |host| -> Vec<String> {
            let routes = tree.routes(host, IpVersion::V4).into_iter();
            routes.map(|(network, through)| format!("{network} {through}")).collect()
        };
        assert_eq!(routes(0), ["10.77.2.0 10.77.1.1", "10.77.3.0 10.77.1.1"]);
        assert_eq!(routes(1), Vec::<String>::new());
        assert_eq!(routes(2), ["10.77.1.0 10.77.2.2", "10.77.3.0 10.77.2.2"]);
        // The same hosts, with the application's link first: the gateway is known by its address on the clients' side.
        let other = Tree::new(3, &[[2, 1], [1, 0]]).unwrap();
        assert_eq!(other.address(1, 0, IpVersion::V4).unwrap().to_string(), "10.77.2.1");
        let v6 = tree.address(3, 0, IpVersion::V6).unwrap().to_string();
        assert_eq!(v6, "fd77:0:0:3::1");
        assert_eq!(tree.links_of(1).collect::<Vec<_>>(), [0, 1, 2]);
    }
}
