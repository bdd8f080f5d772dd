//! [`Endpoint`]: where a collector listens, and what it is spoken to in.

use std::fmt;
use std::str::FromStr;

use hyper::Uri;
use thiserror::Error;

/// OTLP's usual port of gRPC.
const GRPC_PORT: u16 = 4317;

/// How a collector is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OtlpProtocol {
    /// A POST for each request, with protobuf.
    HttpProtobuf,
    /// gRPC.
    Grpc,
}

impl OtlpProtocol {
    /// The name that OpenTelemetry gives it.
    pub fn name(self) -> &'static str {
        match self {
            Self::HttpProtobuf => "http/protobuf",
            Self::Grpc => "grpc",
        }
    }
}

/// Where a collector listens.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Endpoint {
    /// Host, without the brackets of an IPv6 address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Whether TLS is spoken.
    pub is_encrypted: bool,
    /// The path before `/v1/logs`, without a slash at its end. gRPC has none.
    pub path: String,
    /// How it is spoken to.
    pub protocol: OtlpProtocol,
}

/// Why an URL is no endpoint.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum BadEndpoint {
    /// It is no URL with a host.
    #[error("this is no URL such as http://HOST:4318 or grpc://HOST:4317")]
    NoUrl,
    /// Another scheme.
    #[error("its scheme is none of http, https, grpc and grpcs")]
    Scheme,
    /// It has a user or a password in it.
    #[error("a user or password in the URL is not sent: use a header")]
    UserInfo,
    /// Its port is none.
    #[error("its port is no number from 1 to 65535")]
    Port,
    /// It has a query.
    #[error("a query in the URL is not sent")]
    Query,
    /// It is the URL of one kind of request.
    #[error("/v1/logs and /v1/metrics are added to the URL: leave them out")]
    Signal,
    /// `grpc://` for HTTP.
    #[error("the scheme grpc is not HTTP's")]
    Protocol,
}

impl Endpoint {
    /// Parses `http://HOST:4318`, `https://HOST/prefix`, `grpc://HOST:4317` or `grpcs://HOST`. `protocol` decides what `http` and
    /// `https` mean; by default HTTP.
    ///
    /// # Errors
    /// Says what is wrong.
    pub fn parse(url: &str, protocol: Option<OtlpProtocol>) -> Result<Self, BadEndpoint> {
        let uri = Uri::from_str(url).map_err(|_| BadEndpoint::NoUrl)?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(BadEndpoint::NoUrl);
        };
        if authority.as_str().contains('@') {
            return Err(BadEndpoint::UserInfo);
        }
        let (protocol, is_encrypted, usual) = match (scheme, protocol) {
            ("grpc", None | Some(OtlpProtocol::Grpc)) => (OtlpProtocol::Grpc, false, GRPC_PORT),
            ("grpcs", None | Some(OtlpProtocol::Grpc)) => (OtlpProtocol::Grpc, true, GRPC_PORT),
            ("grpc" | "grpcs", _) => return Err(BadEndpoint::Protocol),
            ("http", protocol) => (protocol.unwrap_or(OtlpProtocol::HttpProtobuf), false, 80),
            ("https", protocol) => (protocol.unwrap_or(OtlpProtocol::HttpProtobuf), true, 443),
            _ => return Err(BadEndpoint::Scheme),
        };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(BadEndpoint::NoUrl);
        }
        let path = uri.path().trim_end_matches('/').to_owned();
        if uri.query().is_some() {
            return Err(BadEndpoint::Query);
        }
        if ["/v1/logs", "/v1/metrics", "/v1/traces"].iter().any(|signal| path.ends_with(signal)) {
            return Err(BadEndpoint::Signal);
        }
        // `Uri` takes any number for a port, and has none then.
        let written =
            authority.as_str().strip_prefix(authority.host()).and_then(|rest| rest.strip_prefix(':'));
        let port = match written {
            None | Some("") => usual,
            Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or(BadEndpoint::Port)?,
        };
        Ok(Self { host, port, is_encrypted, path, protocol })
    }

    /// Host and port, as a `Host` field has them.
    pub(crate) fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match (self.protocol, self.is_encrypted) {
            (OtlpProtocol::HttpProtobuf, false) => "http",
            (OtlpProtocol::HttpProtobuf, true) => "https",
            (OtlpProtocol::Grpc, false) => "grpc",
            (OtlpProtocol::Grpc, true) => "grpcs",
        };
        write!(f, "{scheme}://{}{}", self.authority(), self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(url: &str) -> Result<String, BadEndpoint> {
        Endpoint::parse(url, None).map(|endpoint| endpoint.to_string())
    }

    #[test]
    fn urls_are_those_of_opentelemetry() {
        for (url, meant) in [
            ("http://collector:4318", "http://collector:4318"),
            ("http://collector:4318/", "http://collector:4318"),
            ("https://otlp.example/prefix/", "https://otlp.example:443/prefix"),
            ("http://collector", "http://collector:80"),
            ("grpc://collector", "grpc://collector:4317"),
            ("grpcs://[::1]:9", "grpcs://[::1]:9"),
            ("http://127.0.0.1:1", "http://127.0.0.1:1"),
        ] {
            assert_eq!(parsed(url).as_deref(), Ok(meant), "{url}");
        }
        let grpc = Endpoint::parse("https://collector:4317", Some(OtlpProtocol::Grpc)).unwrap();
        assert_eq!(grpc.to_string(), "grpcs://collector:4317");
    }

    #[test]
    fn what_is_no_endpoint_says_why() {
        for (url, why) in [
            ("collector:4318", BadEndpoint::NoUrl),
            ("", BadEndpoint::NoUrl),
            ("/v1/logs", BadEndpoint::NoUrl),
            ("ftp://collector", BadEndpoint::Scheme),
            ("http://me:secret@collector:4318", BadEndpoint::UserInfo),
            ("http:// collector", BadEndpoint::NoUrl),
            ("http://collector:65536", BadEndpoint::Port),
            ("http://[::1]:0", BadEndpoint::Port),
            ("http://collector:4318/v1/logs", BadEndpoint::Signal),
            ("https://collector/otlp/v1/metrics/", BadEndpoint::Signal),
            ("http://collector:4318/?token=x", BadEndpoint::Query),
        ] {
            assert_eq!(parsed(url), Err(why), "{url}");
        }
        let http = Some(OtlpProtocol::HttpProtobuf);
        assert_eq!(Endpoint::parse("grpc://collector", http), Err(BadEndpoint::Protocol));
    }
}
