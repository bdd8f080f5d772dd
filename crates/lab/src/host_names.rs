//! The names of an experiment's hosts, as the programs in them find them.

use std::net::IpAddr;

/// Hosts by their names, in the order in which they were named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostNames(Vec<(String, IpAddr)>);

impl HostNames {
    /// Names for these addresses.
    pub fn new<N: Into<String>>(hosts: impl IntoIterator<Item = (N, IpAddr)>) -> Self {
        Self(hosts.into_iter().map(|(name, address)| (name.into(), address)).collect())
    }

    /// The address of the host of this name.
    pub fn address(&self, name: &str) -> Option<IpAddr> {
        self.0.iter().find(|(own, _)| own == name).map(|(_, address)| *address)
    }

    /// The addresses as environment variables: `LINGER_SERVER`, and so on.
    pub(crate) fn variables(&self) -> impl Iterator<Item = (String, String)> {
        self.0.iter().map(|(name, address)| {
            (format!("LINGER_{}", name.to_ascii_uppercase().replace('-', "_")), address.to_string())
        })
    }

    /// The text of a hosts file (`hosts(5)`) with these names, and those of `machine` that differ from them.
    pub(crate) fn hosts_file(&self, machine: &str) -> String {
        let mut text: String = self.0.iter().map(|(name, address)| format!("{address} {name}\n")).collect();
        for line in machine.lines() {
            let names = line.split('#').next().unwrap_or_default().split_whitespace().skip(1);
            if !names.into_iter().any(|name| self.address(&name.to_ascii_lowercase()).is_some()) {
                text.push_str(line);
                text.push('\n');
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_the_experiment_beats_one_of_the_machine() {
        let address = IpAddr::from([10, 77, 1, 1]);
        let names = HostNames::new([("gateway", address), ("app-1", IpAddr::from([10, 77, 2, 1]))]);
        let machine = "127.0.0.1 localhost\n192.0.2.1 other Gateway # x\n192.0.2.2 web # gateway\n";
        assert_eq!(
            names.hosts_file(machine),
            "10.77.1.1 gateway\n10.77.2.1 app-1\n127.0.0.1 localhost\n192.0.2.2 web # gateway\n"
        );
        assert_eq!(names.address("gateway"), Some(address));
        let variables: Vec<_> = names.variables().map(|(name, _)| name).collect();
        assert_eq!(variables, ["LINGER_GATEWAY", "LINGER_APP_1"]);
    }
}
