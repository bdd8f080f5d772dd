//! An HTTP proxy between the probe and the server: asked in the absolute form for `http://`, and with CONNECT for `https://`
//! (RFC 9112 section 3.2.2, RFC 9110 section 9.3.6).
//!
//! The connection is the proxy's then, and so is its end.

use std::fmt;
use std::str::FromStr;

use crate::request::HeaderField;
use crate::target::Target;

/// An HTTP proxy: `http://HOST:PORT`, or `HOST:PORT` alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl FromStr for Proxy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = || "write http://HOST:PORT".to_owned();
        let rest = match text.split_once("://") {
            Some(("http", rest)) => rest,
            Some((scheme, _)) => return Err(format!("only proxies that speak HTTP are known, not {scheme}")),
            None => text,
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains('@') {
            return Err(
                "a name and a password do not belong in it: -H 'Proxy-Authorization: Basic ...'".into()
            );
        }
        // The port is not left to chance: curl takes 1080, others 80, and squid listens at 3128.
        let Some((_, port)) = rest.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) else {
            return Err(form());
        };
        if port.parse::<u16>().is_err() {
            return Err("the port is no number up to 65535".into());
        }
        let target: Target = format!("http://{rest}").parse().map_err(|_| form())?;
        if target.path != "/" || target.unix.is_some() {
            return Err(form());
        }
        Ok(Self { host: target.host, port: target.port })
    }
}

/// `http://HOST:PORT`
impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("http://")?;
        f.write_str(&authority(&self.host, self.port))
    }
}

pub(crate) fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// A field that is for the proxy and not for the server behind it.
pub(crate) fn is_for_proxy(field: &HeaderField) -> bool {
    field.name.eq_ignore_ascii_case("proxy-authorization")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_has_a_port_and_speaks_http() {
        for (text, back) in [
            ("http://127.0.0.1:3128", "http://127.0.0.1:3128"),
            ("http://proxy:3128/", "http://proxy:3128"),
            ("proxy:3128", "http://proxy:3128"),
            ("http://[::1]:8888", "http://[::1]:8888"),
        ] {
            assert_eq!(text.parse::<Proxy>().unwrap().to_string(), back, "{text}");
        }
        for text in [
            "http://proxy",
            "http://[::1]",
            "https://proxy:3128",
            "socks5://proxy:1080",
            "http://a:b@proxy:3128",
            "http://proxy:3128/x",
            "http://proxy:99999",
            "http://unix:/run/x:",
            "",
        ] {
            assert!(text.parse::<Proxy>().is_err(), "{text}");
        }
    }
}
