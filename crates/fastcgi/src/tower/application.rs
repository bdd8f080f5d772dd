//! Serving an HTTP application over FastCGI.

use std::fmt::Display;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http::{HeaderName, HeaderValue, Method, Uri, Version};
use http_body::Frame;
use http_body_util::BodyExt;
use tower_service::Service;

use crate::params::Params;
use crate::responder::Config;
use crate::tokio::{Acceptor, Request, Response, serve_until as serve_fastcgi};

/// The body of a request: STDIN, as it comes.
#[derive(Debug)]
pub struct Body {
    request: Option<Request>,
    length: Option<u64>,
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let Some(request) = &mut self.request else { return Poll::Ready(None) };
        let next = std::task::ready!(request.poll_chunk(context));
        Poll::Ready(match next {
            Ok(Some(bytes)) => Some(Ok(Frame::data(bytes))),
            Ok(None) => {
                self.request = None;
                None
            }
            Err(error) => {
                self.request = None;
                Some(Err(error))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.request.is_none() || self.length == Some(0)
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.length.map_or_else(http_body::SizeHint::default, http_body::SizeHint::with_exact)
    }
}

/// Serves an HTTP application to FastCGI gateways, until the listener fails.
///
/// Each request becomes an [`http::Request`] with the CGI parameters ([`Params`]) among its extensions. Headers
/// come from `HTTP_*`, `CONTENT_TYPE` and `CONTENT_LENGTH`; the URI from `REQUEST_URI`, else from `SCRIPT_NAME`,
/// `PATH_INFO` and `QUERY_STRING`. The application need not read the body. If the gateway aborts the request or ends the
/// connection, the application's future is dropped, as hyper does: nobody would read its response.
///
/// ```no_run
/// # async fn run(app: axum::Router) -> std::io::Result<()> {
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:9000").await?;
/// linger_fastcgi::tower::serve(listener, linger_fastcgi::responder::Config::default(), app).await
/// # }
/// ```
///
/// # Errors
/// Returns the errors of [`tokio::serve`](crate::tokio::serve).
pub async fn serve<L, S, B>(listener: L, config: Config, service: S) -> io::Result<()>
where
    L: Acceptor,
    S: Service<http::Request<Body>, Response = http::Response<B>> + Clone + Send + Sync + 'static,
    S::Error: Display,
    S::Future: Send,
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Display + Send,
{
    serve_until(listener, config, service, std::future::pending()).await
}

/// Does what [`serve`] does, and stops as [`tokio::serve_until`](crate::tokio::serve_until) does.
///
/// ```no_run
/// # async fn run(app: axum::Router) -> std::io::Result<()> {
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:9000").await?;
/// let stop = async { drop(tokio::signal::ctrl_c().await) };
/// linger_fastcgi::tower::serve_until(listener, linger_fastcgi::responder::Config::default(), app, stop).await
/// # }
/// ```
///
/// # Errors
/// Returns the errors of [`tokio::serve`](crate::tokio::serve).
pub async fn serve_until<L, S, B>(
    listener: L,
    config: Config,
    service: S,
    stop: impl Future<Output = ()>,
) -> io::Result<()>
where
    L: Acceptor,
    S: Service<http::Request<Body>, Response = http::Response<B>> + Clone + Send + Sync + 'static,
    S::Error: Display,
    S::Future: Send,
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Display + Send,
{
    let handler = move |request: Request, response| {
        let (mut aborted, answer) = (request.aborted(), answer(service.clone(), request, response));
        async move {
            ::tokio::select! {
                biased;
                result = answer => result,
                () = aborted.wait() => Err(io::ErrorKind::ConnectionAborted.into()),
            }
        }
    };
    serve_fastcgi(listener, config, handler, stop).await
}

async fn answer<S, B>(mut service: S, request: Request, mut response: Response) -> io::Result<()>
where
    S: Service<http::Request<Body>, Response = http::Response<B>>,
    S::Error: Display,
    B: http_body::Body,
    B::Error: Display + Send,
{
    let request = match translate(request) {
        Ok(request) => request,
        Err(reason) => {
            response.log(&reason).await?;
            response
                .write(b"Status: 400\r\nContent-Type: text/plain\r\n\r\nThe request is no HTTP.\n")
                .await?;
            return response.end(0).await;
        }
    };
    let failed = |error: &dyn Display| io::Error::other(error.to_string());
    std::future::poll_fn(|context| service.poll_ready(context)).await.map_err(|error| failed(&error))?;
    let (parts, body) = service.call(request).await.map_err(|error| failed(&error))?.into_parts();
    let mut head = format!("Status: {}\r\n", parts.status.as_str()).into_bytes();
    for (name, value) in &parts.headers {
        // The gateway alone decides how the body is framed for its client.
        if name == http::header::TRANSFER_ENCODING || name == http::header::CONNECTION {
            continue;
        }
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    response.write(&head).await?;
    let mut body = pin!(body);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| failed(&error))?;
        // CGI has no trailers.
        if let Ok(mut data) = frame.into_data() {
            while data.has_remaining() {
                let chunk = data.chunk();
                response.write(chunk).await?;
                let length = chunk.len();
                data.advance(length);
            }
        }
    }
    response.end(0).await
}

/// A request's target as a URI. Bytes that a URI may not have are percent-encoded (RFC 3986 section 2.1): gateways pass on a
/// target such as `/caf\xe9` as it came.
fn encoded(target: &[u8]) -> String {
    let mut text = String::with_capacity(target.len());
    for byte in target {
        match byte {
            0x21..=0x7e
                if !matches!(byte, b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' | b'#') =>
            {
                text.push(char::from(*byte));
            }
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

fn translate(request: Request) -> Result<http::Request<Body>, String> {
    let params = request.params().clone();
    let given = |name: &str| params.get(name).filter(|value| !value.is_empty());
    let method = given("REQUEST_METHOD").unwrap_or(b"GET");
    let mut translated = http::Request::new(());
    *translated.method_mut() = Method::from_bytes(method)
        .map_err(|_| format!("REQUEST_METHOD `{}` is no method", method.escape_ascii()))?;
    let uri = match given("REQUEST_URI") {
        Some(uri) => uri.to_vec(),
        None => {
            let path = [given("SCRIPT_NAME").unwrap_or(b"/"), given("PATH_INFO").unwrap_or(b"")].concat();
            match given("QUERY_STRING") {
                Some(query) => [&path[..], b"?", query].concat(),
                None => path,
            }
        }
    };
    *translated.uri_mut() = encoded(&uri).parse::<Uri>().map_err(|error| format!("REQUEST_URI: {error}"))?;
    *translated.version_mut() = match given("SERVER_PROTOCOL") {
        Some(b"HTTP/1.0") => Version::HTTP_10,
        Some(b"HTTP/2.0" | b"HTTP/2") => Version::HTTP_2,
        _ => Version::HTTP_11,
    };
    for (name, value) in params.iter() {
        let name = match name {
            b"CONTENT_TYPE" => "content-type".to_owned(),
            b"CONTENT_LENGTH" => "content-length".to_owned(),
            // nginx gives these as well, with the same values.
            b"HTTP_CONTENT_TYPE" if given("CONTENT_TYPE").is_some() => continue,
            b"HTTP_CONTENT_LENGTH" if given("CONTENT_LENGTH").is_some() => continue,
            _ => match name.strip_prefix(b"HTTP_") {
                Some(name) => String::from_utf8_lossy(name).to_ascii_lowercase().replace('_', "-"),
                None => continue,
            },
        };
        if value.is_empty() {
            continue;
        }
        // HTTP allows no such header, so the client has not sent it.
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value))
        {
            translated.headers_mut().append(name, value);
        }
    }
    let length = params.text("CONTENT_LENGTH").and_then(|length| length.parse().ok());
    translated.extensions_mut().insert::<Params>(params);
    Ok(translated.map(|()| Body { request: Some(request), length }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_no_uri_may_have_are_encoded_and_others_stay() {
        assert_eq!(encoded(b"/caf\xe9?q=\xc3\xa9"), "/caf%E9?q=%C3%A9");
        assert_eq!(encoded(b"/a b\"<>\\^`{|}#\x7f\n"), "/a%20b%22%3C%3E%5C%5E%60%7B%7C%7D%23%7F%0A");
        let plain = "/a/b;c=1,2/%20/~_-.!$&'()*+:@?x=1&y[]=[1]/?";
        assert_eq!(encoded(plain.as_bytes()), plain);
        for target in ["/caf\u{e9}", "*", "/x?y#z"] {
            assert!(encoded(target.as_bytes()).parse::<Uri>().is_ok(), "{target}");
        }
    }
}
