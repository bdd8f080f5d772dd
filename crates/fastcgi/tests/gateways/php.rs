//! A PHP application that nobody here wrote, behind an axum front with this crate's gateway and php-fpm: pages, redirects, a login, an
//! upload of 20 MB and its download, errors, and clients that leave.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;

use axum::Router;
use axum::extract::{ConnectInfo, Request};
use axum::response::{IntoResponse, Response};
use linger_fastcgi::environment::Site;
use linger_fastcgi::gateway;
use linger_fastcgi::tower::{Gateway, Variables};
use linger_testing::servers::{RunningServer, available, dokuwiki, program};
use tower_service::Service;

const UPLOAD: usize = 20 << 20;

/// The front: what names a script goes to the gateway, everything else is a file.
async fn front(mut gateway: Gateway, root: String, mut request: Request) -> Response {
    let path = request.uri().path().to_owned();
    if !path.contains(".php") && !path.ends_with('/') {
        return match fs::read(format!("{root}{path}")) {
            Ok(bytes) => bytes.into_response(),
            Err(_) => axum::http::StatusCode::NOT_FOUND.into_response(),
        };
    }
    let ConnectInfo(peer) = *request.extensions().get::<ConnectInfo<SocketAddr>>().unwrap();
    let mut variables = Variables::default();
    variables.client(peer);
    request.extensions_mut().insert(variables);
    match gateway.call(request).await {
        Ok(response) => response.map(axum::body::Body::new).into_response(),
        Err(error) => {
            let status = axum::http::StatusCode::from_u16(error.http_status()).unwrap();
            (status, error.to_string()).into_response()
        }
    }
}

/// A wiki, and the address of the front before it.
struct Wiki {
    php: RunningServer,
    address: SocketAddr,
    // Last: it serves as long as the others are there.
    _runtime: tokio::runtime::Runtime,
}

impl Wiki {
    fn start(workers: u32, keep_conn: bool) -> Option<Self> {
        available(program("curl", "curl"))?;
        let php = available(dokuwiki(workers))?;
        let root = php.path("wiki").display().to_string();
        fs::write(
            php.path("wiki/who.php"),
            "<?php header('X-Twice: a'); header('X-Twice: b', false); header('Content-Type: text/plain'); error_log('a line for the log');
             foreach (['REMOTE_ADDR', 'SERVER_PORT', 'PATH_INFO', 'SCRIPT_NAME', 'HTTP_COOKIE', 'CONTENT_LENGTH'] as $name)
               echo \"$name=\", $_SERVER[$name] ?? '-', \"\\n\";
             echo 'body=', strlen(file_get_contents('php://input')), \"\\n\";",
        )
        .unwrap();
        let mut site = Site::from(root.as_str());
        site.split = vec![".php".into()];
        site.index = "index.php".into();
        let mut config = gateway::Config::default();
        config.keep_conn = keep_conn;
        let gateway = Gateway::new(php.address.into(), site, config);
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new().fallback(move |request| front(gateway.clone(), root.clone(), request));
        let app = app.into_make_service_with_connect_info::<SocketAddr>();
        runtime.spawn(async move { axum::serve(listener, app).await });
        Some(Self { php, address, _runtime: runtime })
    }

    /// What curl gets: status, number of redirects followed, and body.
    fn curl(&self, path: &str, words: &[&str]) -> (u16, u16, Vec<u8>) {
        let (jar, body) = (self.php.path("jar"), self.php.path("body"));
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--globoff", "--max-time", "120", "--write-out"])
            .arg("%{http_code} %{num_redirects}")
            .args(["--cookie", jar.to_str().unwrap(), "--cookie-jar", jar.to_str().unwrap()])
            .arg("--output")
            .arg(&body)
            .args(words)
            .arg(format!("http://{}{path}", self.address));
        let output = curl.output().unwrap();
        assert!(output.status.success(), "{curl:?}: {output:?}\n{}", self.php.log());
        let said = String::from_utf8(output.stdout).unwrap();
        let (status, redirects) = said.split_once(' ').unwrap();
        (status.parse().unwrap(), redirects.parse().unwrap(), fs::read(body).unwrap_or_default())
    }

    fn page(&self, path: &str, words: &[&str]) -> (u16, String) {
        let (status, _, body) = self.curl(path, words);
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    /// The hidden field with which a form proves that it is the wiki's own.
    fn token(&self) -> String {
        let (_, page) = self.page("/lib/exe/mediamanager.php?ns=", &[]);
        let token = page.split("name=\"sectok\" value=\"").nth(1).and_then(|rest| rest.split('"').next());
        token.unwrap_or_else(|| panic!("no form: {page}")).to_owned()
    }

    fn log_in(&self) {
        let form = ["--location", "-d", "do=login", "-d", "u=admin", "-d", "p=secret", "-d", "id=start"];
        let (status, page) = self.page("/doku.php/start", &form);
        assert_eq!(status, 200);
        assert!(page.contains("Logged in as"), "{page}");
    }

    /// Sends a request by hand, waits for so many bytes of the answer, and leaves.
    fn leave(&self, request: &[u8], wanted: usize) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.write_all(request).unwrap();
        stream.read_exact(&mut vec![0; wanted]).unwrap();
    }
}

fn noise(length: usize) -> Vec<u8> {
    let mut state = 1u64;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

#[test]
fn a_wiki_works() {
    for keep_conn in [false, true] {
        let Some(wiki) = Wiki::start(2, keep_conn) else { return };
        // `/` is index.php, which redirects to the first page.
        let (status, redirects, page) = wiki.curl("/", &["--location"]);
        assert_eq!((status, redirects > 0), (200, true), "{}", wiki.php.log());
        assert!(String::from_utf8_lossy(&page).contains("A front page"), "keep {keep_conn}");
        // The page's name is PATH_INFO.
        let (status, page) = wiki.page("/doku.php/notes:first", &[]);
        assert!(status == 200 && page.contains("<strong>bold</strong>"), "{status}: {page}");
        assert_eq!(wiki.page("/doku.php/nothing:here", &[]).0, 404);
        assert_eq!(wiki.page("/nothing.php", &[]).0, 404);
        assert_eq!(wiki.page("/lib/images/fileicons/zip.png", &[]).0, 200);
        assert_eq!(wiki.page("/%2e%2e/conf/users.auth.php", &["--path-as-is"]).0, 400);

        let (_, page) = wiki.page("/doku.php/start?do=edit", &[]);
        assert!(!page.contains("Logged in as"), "{page}");
        wiki.log_in();
        let content = noise(UPLOAD);
        let file = wiki.php.path("noise.zip");
        fs::write(&file, &content).unwrap();
        let form = format!("upload=@{};type=application/zip", file.display());
        let token = format!("sectok={}", wiki.token());
        let words = ["-F", &token, "-F", "ns=", "-F", "mediaid=noise.zip", "-F", &form];
        let (status, page) = wiki.page("/lib/exe/mediamanager.php", &words);
        assert!(status == 200 && page.contains("Upload successful"), "{status}: {page}\n{}", wiki.php.log());
        assert!(fs::read(wiki.php.path("data/media/noise.zip")).unwrap() == content, "what was kept differs");
        let changes = fs::read_to_string(wiki.php.path("data/meta/_media.changes")).unwrap();
        assert!(changes.contains("127.0.0.1") && changes.contains("admin"), "who uploaded: {changes}");
        let (status, _, got) = wiki.curl("/lib/exe/fetch.php/noise.zip", &[]);
        assert!(status == 200 && got == content, "{status}, {} bytes", got.len());
        // By parts, as a download that goes on, and the head alone.
        let (status, _, got) = wiki.curl("/lib/exe/fetch.php/noise.zip", &["--range", "1000-1999"]);
        assert!(status == 206 && got == content[1000..2000], "{status}, {} bytes", got.len());
        let (status, _, got) = wiki.curl("/lib/exe/fetch.php/noise.zip", &["--head"]);
        let head = String::from_utf8_lossy(&got).to_ascii_lowercase();
        assert!(status == 200 && head.contains("content-length: 20971520"), "{head}");
    }
}

#[test]
fn a_script_is_told_what_a_web_server_tells_it() {
    let Some(wiki) = Wiki::start(1, false) else { return };
    let chunked =
        ["-H", "Transfer-Encoding: chunked", "-H", "X_Remote_Addr: 6.6.6.6", "--data-binary", "12345"];
    let (status, said) = wiki.page("/who.php/a%20b", &[&chunked[..], &["-b", "a=1; b=2"]].concat());
    assert_eq!(status, 200, "{said}");
    for line in
        ["REMOTE_ADDR=127.0.0.1", "PATH_INFO=/a b", "SCRIPT_NAME=/who.php", "CONTENT_LENGTH=5", "body=5"]
    {
        assert!(said.lines().any(|found| found == line), "{line} in {said}");
    }
    assert!(said.contains(&format!("SERVER_PORT={}\n", wiki.address.port())), "{said}");
    // A body of unknown length is read ahead to a bound, and refused beyond it.
    let big = wiki.php.path("big");
    fs::write(&big, vec![b'b'; 2 << 20]).unwrap();
    let from = format!("@{}", big.display());
    let words = ["-H", "Transfer-Encoding: chunked", "-H", "Expect:", "--data-binary", &from];
    assert_eq!(wiki.page("/who.php", &words).0, 411);
    let (_, said) = wiki.page("/who.php", &["--data-binary", &from]);
    assert!(said.contains("body=2097152\n"), "{said}");
    let (_, head) = wiki.page("/who.php", &["--head"]);
    assert_eq!(head.to_ascii_lowercase().matches("x-twice: ").count(), 2, "{head}");
}

/// One worker: what a client leaves behind would keep it.
#[test]
fn clients_that_leave_take_no_worker_with_them() {
    let Some(wiki) = Wiki::start(1, false) else { return };
    let path = Path::new("data/media/noise.zip");
    fs::write(wiki.php.path(path.to_str().unwrap()), noise(UPLOAD)).unwrap();
    let download = b"GET /lib/exe/fetch.php/noise.zip HTTP/1.1\r\nHost: x\r\n\r\n";
    let upload =
        [&b"POST /who.php HTTP/1.1\r\nHost: x\r\nContent-Length: 20000000\r\n\r\n"[..], &vec![b'b'; 1 << 20]]
            .concat();
    for _ in 0..5 {
        wiki.leave(download, 100_000);
        wiki.leave(&upload, 0);
        wiki.leave(&upload[..100], 0);
    }
    let (status, said) = wiki.page("/who.php", &[]);
    assert_eq!(status, 200, "{said}");
    let (status, _, got) = wiki.curl("/lib/exe/fetch.php/noise.zip", &[]);
    assert!(status == 200 && got.len() == UPLOAD, "{status}, {} bytes", got.len());
}
