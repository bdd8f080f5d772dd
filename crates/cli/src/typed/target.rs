//! The URL of a probe. Its `HOST:PORT` follows the same rules as in every other verb.

use linger_probe::Target;

use super::address::host_and_rest;

/// Reads a URL.
pub(crate) fn target(text: &str) -> Result<Target, String> {
    let authority = text.split_once("://").map(|(_, rest)| rest.split('/').next().unwrap_or(rest));
    // `unix:/run/app.sock:` stands in place of a host. A bare host has the scheme's port.
    if let Some(authority) = authority.filter(|authority| !authority.starts_with("unix:"))
        && authority.contains(':')
        && !authority.ends_with(']')
    {
        host_and_rest(authority.as_bytes(), "PORT")?;
    }
    text.parse().map_err(|error: linger_probe::InvalidTarget| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_address_goes_in_brackets() {
        for text in [
            "http://[::1]:8080/x",
            "http://[::1]/",
            "http://server/a:b",
            "https://server:443",
            "http://unix:/run/a.sock:/x",
            "unix:/run/a.sock",
            "tcp://server:9",
        ] {
            assert!(target(text).is_ok(), "{text}: {:?}", target(text));
        }
        for (text, told) in [
            ("http://::1:8080/x", "as [::1]:PORT"),
            ("http://::1/", "as [::1]:PORT"),
            ("http://user@server:80/", "an address has no user"),
            ("http://server:99999/", "65535"),
            ("server:80", "write http://"),
        ] {
            let refused = target(text).unwrap_err();
            assert!(refused.contains(told), "{text}: {refused}");
        }
    }
}
