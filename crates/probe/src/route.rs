//! Where to connect for a target: by its name, or where the user says in its place.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use socket2::SockAddr;

use crate::config::ProbeConfig;
use crate::deadline::Deadline;
use crate::direction::{ResolveRule, instead};
use crate::target::Target;

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
    ///
    /// # Errors
    /// Returns the error of the system, and `TimedOut` if it has none when the time is over.
    pub(crate) fn find(target: &Target, config: &ProbeConfig, deadline: &Deadline) -> io::Result<Self> {
        if let Some(path) = &target.unix {
            return Ok(Self { addresses: vec![SockAddr::unix(path)?], port: None });
        }
        if let Some(proxy) = &config.proxy {
            return Self::of_name(config, &proxy.host, proxy.port, deadline);
        }
        let (host, port) = instead(&config.connect_to, &target.host, target.port);
        Self::of_name(config, &host, port, deadline)
    }

    fn of_name(config: &ProbeConfig, host: &str, port: u16, deadline: &Deadline) -> io::Result<Self> {
        let fits = |rule: &&ResolveRule| {
            rule.port == port && rule.host.as_ref().is_some_and(|own| own.eq_ignore_ascii_case(host))
        };
        let of_any = |rule: &&ResolveRule| rule.port == port && rule.host.is_none();
        // Of several the last counts, as curl's later entries replace earlier ones.
        let rules = || config.resolve.iter().rev();
        let found: Vec<SocketAddr> = match rules().find(fits).or_else(|| rules().find(of_any)) {
            Some(rule) => rule.addresses.iter().map(|ip| SocketAddr::new(*ip, port)).collect(),
            None => of_system(host, port, deadline)?,
        };
        if found.is_empty() {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(Self { addresses: in_turns(found).into_iter().map(SockAddr::from).collect(), port: Some(port) })
    }
}

/// The addresses that the system has for a name. It may wait for a name server for minutes, and nothing ends that wait: the thread
/// that is left behind in it ends with it, or with the process, and holds nothing.
fn of_system(host: &str, port: u16, deadline: &Deadline) -> io::Result<Vec<SocketAddr>> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let (found, finds) = mpsc::channel();
    let host = host.to_owned();
    let find = move || {
        let addresses = (host.as_str(), port).to_socket_addrs().map(Iterator::collect);
        // Nobody waits for it any more.
        let _ = found.send(addresses);
    };
    thread::Builder::new().name("resolver".into()).spawn(find)?;
    finds
        .recv_timeout(deadline.bounded(Duration::MAX))
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
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
    use crate::direction::ConnectRule;

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
            let deadline = Deadline::after(config.within);
            let route = Route::find(&url.parse().unwrap(), &config, &deadline).unwrap();
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
        let deadline = Deadline::after(config.within);
        let route = Route::find(&"http://x.invalid/".parse().unwrap(), &config, &deadline).unwrap();
        assert_eq!(route.port, Some(81));
        assert_eq!(route.addresses[0].as_socket().unwrap().to_string(), "192.0.2.1:81");
        config.resolve = vec!["x.invalid:80:192.0.2.1".parse().unwrap()];
        assert!(Route::find(&"http://x.invalid/".parse().unwrap(), &config, &deadline).is_err());
    }
}
