//! An HTTP request as the environment of a CGI program, with what only the caller of the gateway knows.

use std::net::SocketAddr;

use http::header;
use http::uri::Scheme;

use crate::environment::{Environment, InvalidRequest, Site};

/// Variables of a caller's own, among the extensions of a request to the `tower` gateway: each takes the place of the usual one of its
/// name.
///
/// ```
/// # let mut request = http::Request::new(());
/// # let peer: std::net::SocketAddr = "192.0.2.7:50123".parse().unwrap();
/// let mut variables = linger_fastcgi::tower::Variables::default();
/// variables.client(peer).set("HTTPS", "on");
/// request.extensions_mut().insert(variables);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Variables(Environment);

impl Variables {
    /// Sets a variable, in place of an earlier one of that name.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> &mut Self {
        self.0.set(name.into(), value);
        self
    }

    /// Sets REMOTE_ADDR and REMOTE_PORT.
    pub fn client(&mut self, address: SocketAddr) -> &mut Self {
        self.0.client(address);
        self
    }
}

/// All variables of a request. `length` is that of its body, if it is known.
pub(super) fn environment(
    parts: &http::request::Parts,
    site: &Site,
    length: Option<u64>,
) -> Result<Environment, InvalidRequest> {
    let own = parts.extensions.get::<Variables>();
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    let mut all = Environment::of_target(parts.method.as_str(), target, site)?;
    all.set("SERVER_PROTOCOL", format!("{:?}", parts.version));
    let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let authority = parts.uri.authority().map(http::uri::Authority::as_str).or(host);
    let is_https = match own.and_then(|own| own.0.get("HTTPS")) {
        Some(said) => !said.is_empty() && said != b"off",
        None => parts.uri.scheme() == Some(&Scheme::HTTPS),
    };
    all.host(authority, is_https);
    let fields = parts.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    all.fields(fields, site.underscores)?;
    // The body itself knows better than a field what will be sent.
    let announced = parts.headers.get(header::CONTENT_LENGTH).map(|value| value.as_bytes().to_vec());
    match (length, announced) {
        (Some(length), _) => drop(all.length(length)),
        (None, Some(announced)) => drop(all.set("CONTENT_LENGTH", announced)),
        (None, None) => {}
    }
    if let Some(Variables(own)) = own {
        for (name, value) in own.iter() {
            all.set(name, value);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(fields: &[(&str, &str)], own: Option<&Variables>) -> http::request::Parts {
        let mut request = http::Request::builder().uri("/x?q").body(()).unwrap();
        for (name, value) in fields {
            let name = http::HeaderName::try_from(*name).unwrap();
            request.headers_mut().append(name, value.parse().unwrap());
        }
        if let Some(own) = own {
            request.extensions_mut().insert(own.clone());
        }
        request.into_parts().0
    }

    fn value(parts: &http::request::Parts, length: Option<u64>, name: &str) -> Option<String> {
        let all = environment(parts, &Site::from("/srv"), length).unwrap();
        all.get(name).map(|value| String::from_utf8(value.to_vec()).unwrap())
    }

    #[test]
    fn a_caller_gives_what_the_gateway_cannot_know() {
        let mut own = Variables::default();
        own.client("192.0.2.1:5".parse().unwrap()).set("REMOTE_ADDR", "192.0.2.7").set("SERVER_PORT", "443");
        let host = [("host", "example.org:8080")];
        for (name, with, without) in [
            ("REMOTE_ADDR", Some("192.0.2.7"), None),
            ("REMOTE_PORT", Some("5"), None),
            ("SERVER_PORT", Some("443"), Some("8080")),
            ("SERVER_NAME", Some("example.org"), Some("example.org")),
            ("SCRIPT_FILENAME", Some("/srv/x"), Some("/srv/x")),
            ("HTTPS", None, None),
        ] {
            assert_eq!(value(&parts(&host, Some(&own)), None, name).as_deref(), with, "{name}");
            assert_eq!(value(&parts(&host, None), None, name).as_deref(), without, "{name}");
        }
    }

    #[test]
    fn a_caller_that_speaks_tls_has_its_port() {
        let host = [("host", "example.org")];
        for (https, port, scheme) in [("on", "443", "https"), ("off", "80", "http"), ("", "80", "http")] {
            let mut own = Variables::default();
            own.set("HTTPS", https);
            let parts = parts(&host, Some(&own));
            assert_eq!(value(&parts, None, "SERVER_PORT").as_deref(), Some(port), "{https}");
            assert_eq!(value(&parts, None, "REQUEST_SCHEME").as_deref(), Some(scheme), "{https}");
            assert_eq!(value(&parts, None, "HTTPS").as_deref(), Some(https));
        }
    }

    #[test]
    fn an_ipv4_client_of_a_socket_for_both_families_has_its_own_address() {
        let mut own = Variables::default();
        own.client("[::ffff:192.0.2.7]:81".parse().unwrap());
        assert_eq!(value(&parts(&[], Some(&own)), None, "REMOTE_ADDR").as_deref(), Some("192.0.2.7"));
        own.client("[2001:db8::1]:81".parse().unwrap());
        assert_eq!(value(&parts(&[], Some(&own)), None, "REMOTE_ADDR").as_deref(), Some("2001:db8::1"));
    }

    #[test]
    fn the_length_is_that_of_the_body() {
        let lies = [("content-length", "5"), ("transfer-encoding", "chunked")];
        for (fields, length, expected) in [
            (&lies[..], Some(9), Some("9")),
            (&lies[..], None, Some("5")),
            (&[][..], Some(9), Some("9")),
            (&[][..], Some(0), Some("0")),
            (&[][..], None, None),
            (&lies[..1], Some(0), Some("0")),
        ] {
            let parts = parts(fields, None);
            assert_eq!(value(&parts, length, "CONTENT_LENGTH").as_deref(), expected, "{fields:?} {length:?}");
            assert_eq!(value(&parts, length, "HTTP_TRANSFER_ENCODING"), None);
        }
    }
}
