//! A request as the environment of a CGI program (RFC 3875 section 4.1): one builder for the gateways, `linger fcgi get` and the probe.

use std::net::SocketAddr;

/// Where an application finds its scripts, and which part of a request's path names one. Plain data; every field may be set directly.
///
/// ```
/// let mut site = linger_fastcgi::environment::Site::from("/srv/www");
/// site.split = vec![".php".into()];
/// site.index = "index.php".into();
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Site {
    /// The folder of the scripts, as the application sees it (DOCUMENT_ROOT).
    pub root: String,
    /// How the names of scripts end, `.php` for example. The first part of a path that ends so names the script, and what follows is
    /// PATH_INFO, as with nginx's `fastcgi_split_path_info` and caddy's `split_path`. Empty: all of the path names the script.
    ///
    /// Whether there is such a file is the application's to say: `/photo.jpg/x.php` names `x.php`. An application that runs
    /// `photo.jpg` instead, as PHP with `cgi.fix_pathinfo` where `security.limit_extensions` allows it, must not be given such paths.
    pub split: Vec<String>,
    /// The script of a folder: appended to a path that ends in `/`, as nginx's `fastcgi_index`. Empty: nothing is appended.
    pub index: String,
    /// What becomes of header fields with an underscore in their name.
    pub underscores: Underscores,
}

impl From<&str> for Site {
    fn from(root: &str) -> Self {
        Self { root: root.to_owned(), ..Self::default() }
    }
}

impl From<String> for Site {
    fn from(root: String) -> Self {
        Self { root, ..Self::default() }
    }
}

/// What becomes of a header field with an underscore in its name. `X_Forwarded_User` would become the variable of `X-Forwarded-User`,
/// which a proxy in front vouches for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Underscores {
    /// The application is not told of the field, as with nginx's `underscores_in_headers off`.
    #[default]
    Drop,
    /// The request is refused.
    Refuse,
}

/// The request is not passed on. The client's answer is 400.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidRequest {
    /// The path leaves the document root, or has a byte that no file name has.
    #[error("the request's path `{0}` names no file below the document root")]
    Path(String),
    /// A header field has an underscore in its name, and [`Underscores::Refuse`] is set.
    #[error(
        "the request's header field `{0}` has an underscore in its name, and would pass for another field"
    )]
    Underscore(String),
    /// A header field of which a request has one at most says different things, or `Host` comes twice.
    #[error(
        "the request has more than one header field `{0}`, and programs would differ in which one counts"
    )]
    Repeated(&'static str),
}

/// The variables of one request, each name once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment(Vec<(Vec<u8>, Vec<u8>)>);

impl Environment {
    /// The environment of a request for a path and its query (`/wiki.php/start?do=edit`). The path is decoded, its `.` and `..` are
    /// resolved, and it stays below the root.
    ///
    /// # Errors
    /// Returns [`InvalidRequest::Path`].
    pub fn of_target(method: &str, target: &str, site: &Site) -> Result<Self, InvalidRequest> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut uri = resolved(path).ok_or_else(|| InvalidRequest::Path(path.to_owned()))?;
        let document = uri.clone();
        let info = info(&uri, &site.split).map(|at| uri.split_off(at)).unwrap_or_default();
        if info.is_empty() && uri.ends_with(b"/") {
            uri.extend_from_slice(site.index.as_bytes());
        }
        let mut all = Self::of_script(method, &uri, &[site.root.as_bytes(), &uri].concat(), query.as_bytes());
        all.set("DOCUMENT_ROOT", site.root.as_bytes());
        all.set("DOCUMENT_URI", document);
        all.set("REQUEST_URI", target);
        if !info.is_empty() {
            // Without PATH_TRANSLATED, which RFC 3875 leaves to the server: with `cgi.fix_pathinfo=0`, PHP takes it for the script.
            all.set("PATH_INFO", info);
        }
        Ok(all)
    }

    /// The environment of a request for the script in a file, whose name is taken as it is.
    pub fn of_file(method: &str, file: &str, query: &str) -> Self {
        let mut all = Self::of_script(method, file.as_bytes(), file.as_bytes(), query.as_bytes());
        all.set("DOCUMENT_URI", file);
        all.set("REQUEST_URI", if query.is_empty() { file.to_owned() } else { format!("{file}?{query}") });
        all
    }

    fn of_script(method: &str, name: &[u8], file: &[u8], query: &[u8]) -> Self {
        let mut all = Self(Vec::with_capacity(32));
        all.set("GATEWAY_INTERFACE", "CGI/1.1");
        all.set("SERVER_SOFTWARE", concat!("linger-fastcgi/", env!("CARGO_PKG_VERSION")));
        all.set("SERVER_PROTOCOL", "HTTP/1.1");
        // PHP that was built to insist on a web server in front of it wants this variable (`cgi.force_redirect`).
        all.set("REDIRECT_STATUS", "200");
        all.set("REQUEST_METHOD", method);
        all.set("SCRIPT_NAME", name);
        all.set("SCRIPT_FILENAME", file);
        all.set("QUERY_STRING", query);
        all
    }

    /// Sets a variable, in place of one of the same name.
    pub fn set(&mut self, name: impl AsRef<[u8]>, value: impl Into<Vec<u8>>) -> &mut Self {
        let name = name.as_ref();
        match self.0.iter_mut().find(|(this, _)| this == name) {
            Some((_, old)) => *old = value.into(),
            None => self.0.push((name.to_vec(), value.into())),
        }
        self
    }

    /// The value of a variable.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find(|(this, _)| this == name.as_bytes()).map(|(_, value)| value.as_slice())
    }

    /// Sets what a request that was made on this machine itself has: the addresses, and `localhost`.
    pub fn local(&mut self) -> &mut Self {
        self.host(None, false);
        self.set("SERVER_ADDR", "127.0.0.1").set("REMOTE_ADDR", "127.0.0.1").set("REMOTE_PORT", "0")
    }

    /// Sets SERVER_NAME, SERVER_PORT and REQUEST_SCHEME from what the client takes for the server (`HOST` or `HOST:PORT`), and HTTPS.
    pub fn host(&mut self, authority: Option<&str>, https: bool) -> &mut Self {
        let (name, port) = authority.and_then(host_and_port).unwrap_or(("localhost", None));
        let usual = if https { 443 } else { 80 };
        self.set("SERVER_NAME", name).set("SERVER_PORT", port.unwrap_or(usual).to_string());
        if https {
            self.set("HTTPS", "on");
        }
        self.set("REQUEST_SCHEME", if https { "https" } else { "http" })
    }

    /// Sets REMOTE_ADDR and REMOTE_PORT.
    pub fn client(&mut self, address: SocketAddr) -> &mut Self {
        // An IPv4 client of a socket for both families is known by its own address (RFC 4291 section 2.5.5.2).
        self.set("REMOTE_ADDR", address.ip().to_canonical().to_string())
            .set("REMOTE_PORT", address.port().to_string())
    }

    /// Sets CONTENT_LENGTH.
    pub fn length(&mut self, length: u64) -> &mut Self {
        self.set("CONTENT_LENGTH", length.to_string())
    }

    /// Sets the variables of header fields, in the order in which the fields come first.
    ///
    /// A field that repeats becomes one variable, joined as RFC 9110 section 5.3 and, for cookies, RFC 6265 section 5.4 join them: a
    /// program sees only one variable of a name. `Host`, `Content-Type` and `Authorization` are no lists: a second one that says the same is
    /// left out, and one that does not refuses the request, as any second `Host` does (RFC 9112 section 3.2). Left out are
    ///
    /// - names with an underscore, unless they refuse the request ([`Underscores`]);
    /// - `Proxy`, whose variable many programs take for their own proxy (CVE-2016-5385);
    /// - `Content-Length` and `Transfer-Encoding`: [`length`](Self::length) says what is sent.
    ///
    /// # Errors
    /// Returns [`InvalidRequest::Underscore`] or [`InvalidRequest::Repeated`].
    pub fn fields<'f>(
        &mut self,
        fields: impl IntoIterator<Item = (&'f str, &'f [u8])>,
        underscores: Underscores,
    ) -> Result<&mut Self, InvalidRequest> {
        let mut joined: Vec<(String, Vec<u8>)> = Vec::new();
        for (name, value) in fields {
            if name.contains('_') {
                match underscores {
                    Underscores::Drop => continue,
                    Underscores::Refuse => return Err(InvalidRequest::Underscore(name.to_owned())),
                }
            }
            let variable = match name.to_ascii_uppercase().replace('-', "_").as_str() {
                "PROXY" | "CONTENT_LENGTH" | "TRANSFER_ENCODING" => continue,
                // RFC 3875 section 4.1.3: the one other field with a variable of its own.
                own @ "CONTENT_TYPE" => own.to_owned(),
                other => format!("HTTP_{other}"),
            };
            match joined.iter_mut().find(|(this, _)| *this == variable) {
                Some((_, all)) => match single(&variable) {
                    Some(name) if name == "Host" || all != value => {
                        return Err(InvalidRequest::Repeated(name));
                    }
                    Some(_) => {}
                    None => {
                        all.extend_from_slice(if variable == "HTTP_COOKIE" { b"; " } else { b", " });
                        all.extend_from_slice(value);
                    }
                },
                None => joined.push((variable, value.to_vec())),
            }
        }
        for (name, value) in joined {
            self.set(name, value);
        }
        Ok(self)
    }

    /// All variables, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&[u8], &[u8])> {
        self.0.iter().map(|(name, value)| (name.as_slice(), value.as_slice()))
    }

    /// The names and values.
    pub fn into_pairs(self) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.0
    }
}

/// The header field of a variable, if a list of its values would mean nothing (RFC 9110 section 5.3).
fn single(variable: &str) -> Option<&'static str> {
    [("HTTP_HOST", "Host"), ("CONTENT_TYPE", "Content-Type"), ("HTTP_AUTHORIZATION", "Authorization")]
        .into_iter()
        .find_map(|(own, name)| (own == variable).then_some(name))
}

/// The parts of `HOST:PORT` (RFC 9110 section 7.2). `None` if it is no such thing.
fn host_and_port(authority: &str) -> Option<(&str, Option<u16>)> {
    let host = |byte: u8| byte.is_ascii_graphic() && !b"/?#@\\\"<>^`{|}".contains(&byte);
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let (name, port) = match authority.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, port),
        _ => (authority, ""),
    };
    let port = if port.is_empty() { None } else { Some(port.parse().ok()?) };
    (!name.is_empty() && name.bytes().all(host)).then_some((name, port))
}

/// Where PATH_INFO begins in a path: behind the first part that ends as a script's name does. `None` if no part does, or nothing
/// follows it.
fn info(path: &[u8], endings: &[String]) -> Option<usize> {
    let mut slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
    slashes.find(|at| endings.iter().any(|ending| path[..*at].ends_with(ending.as_bytes())))
}

/// A path below the document root: decoded (RFC 3986 section 2.1), without empty segments, `.` and `..`. `None` if it would leave the
/// root, or names no file.
fn resolved(path: &str) -> Option<Vec<u8>> {
    let mut segments: Vec<&[u8]> = Vec::new();
    let decoded = decoded(path.as_bytes());
    if decoded.contains(&0) {
        return None;
    }
    for segment in decoded.split(|byte| *byte == b'/') {
        match segment {
            b"" | b"." => {}
            b".." => drop(segments.pop()?),
            _ => segments.push(segment),
        }
    }
    let mut path: Vec<u8> = segments.iter().flat_map(|segment| [b"/", *segment].concat()).collect();
    if path.is_empty() || decoded.ends_with(b"/") || decoded.ends_with(b"/.") || decoded.ends_with(b"/..") {
        path.push(b'/');
    }
    Some(path)
}

/// Percent-encoded bytes decoded; a `%` that encodes none stays.
fn decoded(path: &[u8]) -> Vec<u8> {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let (mut out, mut at) = (Vec::with_capacity(path.len()), 0);
    while let Some(byte) = path.get(at) {
        match (digit(path.get(at + 1)), digit(path.get(at + 2))) {
            (Some(high), Some(low)) if *byte == b'%' => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    out
}

#[cfg(test)]
#[path = "environment_tests.rs"]
mod tests;
