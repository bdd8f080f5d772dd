//! Where to connect for a target: by its name, or where the user says in its place.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::str::FromStr;

use socket2::SockAddr;

use crate::config::ProbeConfig;
use crate::target::Target;

/// A host and a port in place of those of the URL, which still stand in the request and in TLS: curl's `--connect-to`.
///
/// `HOST1:PORT1:HOST2:PORT2`: for a connection to HOST1:PORT1, connect to HOST2:PORT2. An empty HOST1 or PORT1 stands for any,
/// an empty HOST2 or PORT2 for the URL's own. `HOST2:PORT2` alone is `::HOST2:PORT2`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectRule {
    host: Option<String>,
    port: Option<u16>,
    to_host: Option<String>,
    to_port: Option<u16>,
}

/// The addresses of a name, in place of those that the system knows: curl's `--resolve`.
///
/// `HOST:PORT:ADDRESS[,ADDRESS]...`: for connections to HOST:PORT. `*` stands for any host, and counts where no other rule
/// fits. A `+` before it, which bounds curl's memory of it, changes nothing here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolveRule {
    host: Option<String>,
    port: u16,
    addresses: Vec<IpAddr>,
}

/// What stands between the colons that are not within brackets.
fn fields(text: &str) -> Vec<&str> {
    let mut is_inside = false;
    let outside = move |byte: char| {
        is_inside = (is_inside || byte == '[') && byte != ']';
        byte == ':' && !is_inside
    };
    text.split(outside).collect()
}

/// A host without its brackets; `None` if it is empty.
fn host(text: &str) -> Result<Option<String>, &'static str> {
    let bare = text.strip_prefix('[').map(|text| text.strip_suffix(']').ok_or("a bracket is not closed"));
    let bare = bare.transpose()?.unwrap_or(text);
    if bare.bytes().any(|byte| byte <= b' ' || matches!(byte, b'/' | b'@' | b'[' | b']')) {
        return Err("a host has no spaces, slashes or names of users");
    }
    Ok(Some(bare.to_owned()).filter(|host| !host.is_empty()))
}

fn port(text: &str) -> Result<u16, &'static str> {
    text.parse().map_err(|_| "the port is no number up to 65535")
}

fn any_port(text: &str) -> Result<Option<u16>, &'static str> {
    if text.is_empty() { Ok(None) } else { port(text).map(Some) }
}

impl FromStr for ConnectRule {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        const FORM: &str = "write HOST1:PORT1:HOST2:PORT2 or HOST:PORT; an IPv6 address in brackets";
        match fields(text)[..] {
            [to_host, to_port] => {
                let to_host = host(to_host)?.ok_or("the host is missing")?;
                Ok(Self { host: None, port: None, to_host: Some(to_host), to_port: Some(port(to_port)?) })
            }
            // What looks so is ::1:80 without its brackets.
            [_, _, to, _] if !to.is_empty() && to.bytes().all(|byte| byte.is_ascii_digit()) => Err(FORM),
            [from, from_port, to, to_port] => Ok(Self {
                host: host(from)?,
                port: any_port(from_port)?,
                to_host: host(to)?,
                to_port: any_port(to_port)?,
            }),
            _ => Err(FORM),
        }
    }
}

impl FromStr for ResolveRule {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        const FORM: &str = "write HOST:PORT:ADDRESS, or more addresses after commas";
        let text = text.strip_prefix('+').unwrap_or(text);
        if text.starts_with('-') {
            return Err("there is nothing to take away: nothing is remembered from one run to the next");
        }
        let [name, at, ..] = fields(text)[..] else { return Err(FORM) };
        // The rest may be an IPv6 address without brackets, as curl has it.
        let rest = text.get(name.len() + at.len() + 2..).ok_or(FORM)?;
        let address = |text: &str| {
            let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
            bare.parse().map_err(|_| "the address is none: a name is for --connect-to")
        };
        let addresses = rest.split(',').map(address).collect::<Result<Vec<IpAddr>, _>>()?;
        let host = if name == "*" { None } else { Some(host(name)?.ok_or("the host is missing")?) };
        Ok(Self { host, port: port(at)?, addresses })
    }
}

impl ConnectRule {
    fn fits(&self, host: &str, port: u16) -> bool {
        self.host.as_ref().is_none_or(|own| own.eq_ignore_ascii_case(host))
            && self.port.is_none_or(|own| own == port)
    }
}

/// The host and the port that `rules` give for these: by the first that fits, as curl does.
pub(crate) fn instead(rules: &[ConnectRule], host: &str, port: u16) -> (String, u16) {
    let rule = rules.iter().find(|rule| rule.fits(host, port));
    let to_host = rule.and_then(|rule| rule.to_host.as_deref()).unwrap_or(host);
    (to_host.to_owned(), rule.and_then(|rule| rule.to_port).unwrap_or(port))
}

/// Where the connections go.
#[derive(Debug)]
pub(crate) struct Route {
    /// In the order in which they are tried. There is at least one.
    pub(crate) addresses: Vec<SockAddr>,
    /// The port at which the connections end; `None` for a unix socket.
    pub(crate) port: Option<u16>,
}

impl Route {
    /// Finds the addresses of the target, or of what stands in its place.
    pub(crate) fn find(target: &Target, config: &ProbeConfig) -> io::Result<Self> {
        if let Some(path) = &target.unix {
            return Ok(Self { addresses: vec![SockAddr::unix(path)?], port: None });
        }
        if let Some(proxy) = &config.proxy {
            return Self::of_name(config, &proxy.host, proxy.port);
        }
        let (host, port) = instead(&config.connect_to, &target.host, target.port);
        Self::of_name(config, &host, port)
    }

    fn of_name(config: &ProbeConfig, host: &str, port: u16) -> io::Result<Self> {
        let fits = |rule: &&ResolveRule| {
            rule.port == port && rule.host.as_ref().is_some_and(|own| own.eq_ignore_ascii_case(host))
        };
        let of_any = |rule: &&ResolveRule| rule.port == port && rule.host.is_none();
        // Of several the last counts, as curl's later entries replace earlier ones.
        let rules = || config.resolve.iter().rev();
        let found: Vec<SocketAddr> = match rules().find(fits).or_else(|| rules().find(of_any)) {
            Some(rule) => rule.addresses.iter().map(|ip| SocketAddr::new(*ip, port)).collect(),
            None => (host, port).to_socket_addrs()?.collect(),
        };
        if found.is_empty() {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(Self { addresses: in_turns(found).into_iter().map(SockAddr::from).collect(), port: Some(port) })
    }
}

/// One of each family in turn, beginning with the first (RFC 8305 section 4).
fn in_turns(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let is_first = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, other): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == is_first);
    let (mut first, mut other) = (first.into_iter(), other.into_iter());
    let mut all = Vec::new();
    loop {
        let pair = [first.next(), other.next()];
        if pair == [None, None] {
            return all;
        }
        all.extend(pair.into_iter().flatten());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instead_of(rules: &[&str], host: &str, port: u16) -> (String, u16) {
        let rules: Vec<ConnectRule> = rules.iter().map(|rule| rule.parse().unwrap()).collect();
        instead(&rules, host, port)
    }

    #[test]
    fn the_first_rule_that_fits_says_where_to_connect() {
        for (rules, to) in [
            (&["a:80:b:81"][..], ("b", 81)),
            (&["A:80:b:81"], ("b", 81)),
            (&["a:81:b:82"], ("a", 80)),
            (&["x:80:b:82"], ("a", 80)),
            (&["::b:81"], ("b", 81)),
            (&["b:81"], ("b", 81)),
            (&["a::b:"], ("b", 80)),
            (&["a:80::81"], ("a", 81)),
            (&["::[::1]:81"], ("::1", 81)),
            (&["[::1]:81"], ("::1", 81)),
            (&["x:80:b:81", "a:80:c:82", "::d:83"], ("c", 82)),
        ] {
            assert_eq!(instead_of(rules, "a", 80), (to.0.to_owned(), to.1), "{rules:?}");
        }
        assert_eq!(instead_of(&["[::1]:80:b:81"], "::1", 80), ("b".to_owned(), 81));
        for text in [
            "a",
            "a:80:b",
            ":81",
            "a:",
            "a:x:b:81",
            "::b:99999",
            "a:80:b:81:c",
            "[::1:81",
            "a b:80",
            "::1:80",
        ] {
            assert!(text.parse::<ConnectRule>().is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_stand_for_a_name_at_a_port() {
        let found = |rules: &[&str], url: &str| {
            let resolve = rules.iter().map(|rule| rule.parse().unwrap()).collect();
            let config = ProbeConfig { resolve, ..ProbeConfig::default() };
            let route = Route::find(&url.parse().unwrap(), &config).unwrap();
            let found = route.addresses.iter().filter_map(SockAddr::as_socket);
            found.map(|address| address.to_string()).collect::<Vec<_>>().join(" ")
        };
        for (rules, to) in [
            (&["x.invalid:80:192.0.2.1"][..], "192.0.2.1:80"),
            (&["X.invalid:80:192.0.2.1,[2001:db8::1]"], "192.0.2.1:80 [2001:db8::1]:80"),
            (&["+x.invalid:80:2001:db8::1"], "[2001:db8::1]:80"),
            (&["*:80:192.0.2.1"], "192.0.2.1:80"),
            (&["x.invalid:80:192.0.2.2", "*:80:192.0.2.1"], "192.0.2.2:80"),
            (&["x.invalid:80:192.0.2.2", "x.invalid:80:192.0.2.3"], "192.0.2.3:80"),
            (&["x.invalid:80:192.0.2.1,192.0.2.2,2001:db8::1"], "192.0.2.1:80 [2001:db8::1]:80 192.0.2.2:80"),
        ] {
            assert_eq!(found(rules, "http://x.invalid/"), to, "{rules:?}");
        }
        // One field away: another port, another name.
        for rules in [&["127.0.0.1:81:192.0.2.1"], &["x.invalid:80:192.0.2.1"], &["*:81:192.0.2.1"]] {
            assert_eq!(found(rules, "http://127.0.0.1/"), "127.0.0.1:80", "{rules:?}");
        }
        for text in
            ["x", "x:80", "x:80:", "x:80:name", "-x:80", "x:y:192.0.2.1", ":80:192.0.2.1", "x:80:1.2.3.4,"]
        {
            assert!(text.parse::<ResolveRule>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_rule_for_another_name_leads_on_to_its_addresses() {
        let mut config = ProbeConfig {
            connect_to: vec!["x.invalid:80:y.invalid:81".parse().unwrap()],
            resolve: vec!["y.invalid:81:192.0.2.1".parse().unwrap()],
            ..ProbeConfig::default()
        };
        let route = Route::find(&"http://x.invalid/".parse().unwrap(), &config).unwrap();
        assert_eq!(route.port, Some(81));
        assert_eq!(route.addresses[0].as_socket().unwrap().to_string(), "192.0.2.1:81");
        config.resolve = vec!["x.invalid:80:192.0.2.1".parse().unwrap()];
        assert!(Route::find(&"http://x.invalid/".parse().unwrap(), &config).is_err());
    }
}
