//! The pages, and the answer to each request.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";
const INDEX: &str = "<!doctype html><title>linger</title><h1>linger</h1>\n\
    <p><a href=\"/metrics\">/metrics</a> for Prometheus, <a href=\"/healthz\">/healthz</a> for health checks.\n";

/// How old a text may be if many peers are answered at once. Each text is held until its last reader is done, so this bounds
/// the memory that slow readers take.
const SHARED_FOR: Duration = Duration::from_secs(1);

/// What is served.
pub trait MetricsSource: Send + Sync + 'static {
    /// The metrics, as OpenMetrics text.
    fn metrics(&self) -> String;

    /// Whether the metrics are kept up to date, for `/healthz`.
    fn is_current(&self) -> bool {
        true
    }
}

/// The pages of one endpoint.
#[derive(Debug)]
pub(crate) struct Pages<S> {
    source: S,
    /// The last text of `/metrics`.
    last: Mutex<Option<(Instant, Bytes)>>,
}

impl<S: MetricsSource> Pages<S> {
    pub(crate) fn new(source: S) -> Self {
        Self { source, last: Mutex::new(None) }
    }

    /// Answers a request by its method and path alone. `many` says that many peers are being answered.
    pub(crate) fn answer<B>(&self, request: &Request<B>, many: bool) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        if !["/", "/metrics", "/healthz"].contains(&path) {
            return page(StatusCode::NOT_FOUND, PLAIN, "not found; there are /metrics, /healthz and /\n");
        }
        if ![Method::GET, Method::HEAD].contains(request.method()) {
            let mut refused = page(StatusCode::METHOD_NOT_ALLOWED, PLAIN, "only GET and HEAD are answered\n");
            refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refused;
        }
        match path {
            "/metrics" => page(StatusCode::OK, OPEN_METRICS, self.text(many)),
            "/healthz" if self.source.is_current() => page(StatusCode::OK, PLAIN, "ok\n"),
            "/healthz" => {
                page(StatusCode::SERVICE_UNAVAILABLE, PLAIN, "the metrics are not kept up to date\n")
            }
            _ => page(StatusCode::OK, HTML, INDEX),
        }
    }

    fn text(&self, many: bool) -> Bytes {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((made, text)) if many && made.elapsed() < SHARED_FOR => text.clone(),
            _ => last.insert((Instant::now(), self.source.metrics().into())).1.clone(),
        }
    }
}

fn page(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    use super::*;

    #[derive(Default)]
    struct Counting {
        texts: AtomicU32,
        stale: AtomicBool,
    }

    impl MetricsSource for Counting {
        fn metrics(&self) -> String {
            format!("made {}\n", self.texts.fetch_add(1, Ordering::Relaxed))
        }

        fn is_current(&self) -> bool {
            !self.stale.load(Ordering::Relaxed)
        }
    }

    fn status(pages: &Pages<Counting>, method: &str, target: &str) -> u16 {
        let request = Request::builder().method(method).uri(target).body(()).unwrap();
        pages.answer(&request, false).status().as_u16()
    }

    #[test]
    fn each_page_has_its_methods() {
        let pages = Pages::new(Counting::default());
        for path in ["/", "/metrics", "/healthz", "/metrics?name[]=a", "http://host/metrics"] {
            assert_eq!([status(&pages, "GET", path), status(&pages, "HEAD", path)], [200, 200], "{path}");
            for method in ["POST", "PUT", "DELETE", "OPTIONS", "get"] {
                assert_eq!(status(&pages, method, path), 405, "{method} {path}");
            }
        }
        for path in ["/metrics/", "/metric", "//", "/healthz/x", "/METRICS"] {
            assert_eq!([status(&pages, "GET", path), status(&pages, "POST", path)], [404, 404], "{path}");
        }
        pages.source.stale.store(true, Ordering::Relaxed);
        assert_eq!((status(&pages, "GET", "/healthz"), status(&pages, "GET", "/metrics")), (503, 200));
    }

    #[test]
    fn a_text_is_shared_only_while_many_are_answered() {
        let pages = Pages::new(Counting::default());
        assert_eq!((pages.text(false), pages.text(false)), ("made 0\n".into(), "made 1\n".into()));
        assert_eq!((pages.text(true), pages.text(true)), ("made 1\n".into(), "made 1\n".into()));
        assert_eq!(pages.text(false), "made 2\n");
        pages.last.lock().unwrap().as_mut().unwrap().0 -= SHARED_FOR;
        assert_eq!((pages.text(true), pages.text(true)), ("made 3\n".into(), "made 3\n".into()));
    }
}
