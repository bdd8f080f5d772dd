//! What the user says in place of the system's names and addresses: curl's `--connect-to` and `--resolve`.

use std::net::IpAddr;
use std::str::FromStr;

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
    pub(crate) host: Option<String>,
    pub(crate) port: u16,
    pub(crate) addresses: Vec<IpAddr>,
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
