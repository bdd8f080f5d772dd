//! A request as the environment of a CGI program (RFC 3875 section 4.1).

use http::{HeaderMap, header};

use crate::gateway::Error;

/// Variables of a caller's own, among the extensions of a request to the `tower` gateway: each takes the place of the usual one of its
/// name.
///
/// ```
/// # let mut request = http::Request::new(());
/// let mut variables = linger_fastcgi::tower::Variables::default();
/// variables.set("REMOTE_ADDR", "192.0.2.7").set("HTTPS", "on");
/// request.extensions_mut().insert(variables);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Variables(Vec<(String, Vec<u8>)>);

impl Variables {
    /// Sets a variable, in place of an earlier one of that name.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> &mut Self {
        put(&mut self.0, name.into(), value.into());
        self
    }
}

fn put(variables: &mut Vec<(String, Vec<u8>)>, name: String, value: Vec<u8>) {
    match variables.iter_mut().find(|(other, _)| *other == name) {
        Some((_, old)) => *old = value,
        None => variables.push((name, value)),
    }
}

/// All variables of a request. `length` is that of its body, if it is known.
///
/// # Errors
/// Returns [`Error::Target`].
pub(super) fn environment(
    parts: &http::request::Parts,
    document_root: &str,
    length: Option<u64>,
) -> Result<Vec<(String, Vec<u8>)>, Error> {
    let path = script(parts.uri.path()).ok_or_else(|| Error::Target(parts.uri.path().to_owned()))?;
    let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok()?.parse().ok());
    let host: Option<&http::uri::Authority> = parts.uri.authority().or(host.as_ref());
    let mut all = Vec::new();
    let mut set = |name: &str, value: &[u8]| all.push((name.to_owned(), value.to_vec()));
    set("GATEWAY_INTERFACE", b"CGI/1.1");
    set("SERVER_SOFTWARE", concat!("linger-fastcgi/", env!("CARGO_PKG_VERSION")).as_bytes());
    set("SERVER_PROTOCOL", format!("{:?}", parts.version).as_bytes());
    set("SERVER_NAME", host.map_or("localhost", http::uri::Authority::host).as_bytes());
    set("SERVER_PORT", host.and_then(http::uri::Authority::port_u16).unwrap_or(80).to_string().as_bytes());
    set("REDIRECT_STATUS", b"200");
    set("REQUEST_METHOD", parts.method.as_str().as_bytes());
    set("REQUEST_URI", parts.uri.path_and_query().map_or("/", |uri| uri.as_str()).as_bytes());
    set("DOCUMENT_URI", &path);
    set("SCRIPT_NAME", &path);
    set("DOCUMENT_ROOT", document_root.as_bytes());
    set("SCRIPT_FILENAME", &[document_root.as_bytes(), &path].concat());
    set("QUERY_STRING", parts.uri.query().unwrap_or("").as_bytes());
    if let Some(kind) = parts.headers.get(header::CONTENT_TYPE) {
        set("CONTENT_TYPE", kind.as_bytes());
    }
    let announced = parts.headers.get(header::CONTENT_LENGTH).map(|value| value.as_bytes().to_vec());
    if let Some(length) = announced.or_else(|| length.map(|length| length.to_string().into_bytes())) {
        set("CONTENT_LENGTH", &length);
    }
    all.extend(variables(&parts.headers));
    if let Some(Variables(own)) = parts.extensions.get() {
        own.iter().for_each(|(name, value)| put(&mut all, name.clone(), value.clone()));
    }
    Ok(all)
}

/// The path of a script below the document root: decoded (RFC 3986 section 2.1), without empty segments, `.` and `..`. `None` if it
/// would leave the root, or names no file.
fn script(path: &str) -> Option<Vec<u8>> {
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

/// The variables for the fields of a request, in the order in which the fields come first.
///
/// A field that repeats becomes one variable, joined as RFC 9110 section 5.3 and, for cookies, RFC 6265 section 5.4 join them: a
/// program sees only one variable of a name. Left out are
///
/// - names with an underscore: `X_Forwarded_User` would become the variable of `X-Forwarded-User`, which a proxy in front vouches
///   for, and override it (nginx's `underscores_in_headers`);
/// - `Proxy`, whose variable many programs take for their own proxy (CVE-2016-5385);
/// - `Content-Type` and `Content-Length`, which have variables of their own.
fn variables(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    let mut variables = Vec::with_capacity(headers.keys_len());
    for name in headers.keys() {
        let is_left_out = name.as_str().contains('_')
            || name == "proxy"
            || name == header::CONTENT_TYPE
            || name == header::CONTENT_LENGTH;
        if is_left_out {
            continue;
        }
        let between: &[u8] = if name == header::COOKIE { b"; " } else { b", " };
        let values: Vec<&[u8]> = headers.get_all(name).iter().map(http::HeaderValue::as_bytes).collect();
        let variable = format!("HTTP_{}", name.as_str().to_ascii_uppercase().replace('-', "_"));
        variables.push((variable, values.join(between)));
    }
    variables
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(fields: &[(&'static str, &'static str)]) -> Vec<(String, String)> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        let text = |value| String::from_utf8(value).unwrap();
        variables(&headers).into_iter().map(|(name, value)| (name, text(value))).collect()
    }

    #[test]
    fn repeated_fields_are_one_variable() {
        let seen = of(&[("cookie", "a=1"), ("accept", "x"), ("cookie", "b=2"), ("accept", "y")]);
        assert_eq!(seen, [("HTTP_COOKIE".into(), "a=1; b=2".into()), ("HTTP_ACCEPT".into(), "x, y".into())]);
    }

    #[test]
    fn no_field_takes_the_variable_of_another() {
        let seen =
            of(&[("x_forwarded_user", "root"), ("x-forwarded-user", "guest"), ("proxy", "http://evil")]);
        assert_eq!(seen, [("HTTP_X_FORWARDED_USER".into(), "guest".into())]);
        assert_eq!(of(&[("content-type", "a/b"), ("content-length", "5")]), []);
    }

    #[test]
    fn a_path_is_decoded_and_stays_below_the_root() {
        let seen = |path| script(path).map(|path| String::from_utf8_lossy(&path).into_owned());
        for (path, is) in [
            ("/a%20b/%E9.php", "/a b/\u{fffd}.php"),
            ("/a/./b//c/../d.php", "/a/b/d.php"),
            ("/a/..", "/"),
            ("/a/b/..", "/a/"),
            ("/a/b/", "/a/b/"),
            ("/%zz%4", "/%zz%4"),
            ("/..a/...", "/..a/..."),
            ("*", "/*"),
            ("", "/"),
        ] {
            assert_eq!(seen(path).as_deref(), Some(is), "{path}");
        }
        for path in ["/..", "/a/../../etc/passwd", "/%2e%2e/x", "/a%2f..%2F..%2fx", "/a%00.php"] {
            assert_eq!(seen(path), None, "{path}");
        }
    }

    #[test]
    fn a_caller_gives_what_the_gateway_cannot_know() {
        let mut own = Variables::default();
        own.set("REMOTE_ADDR", "192.0.2.1").set("REMOTE_ADDR", "192.0.2.7").set("SERVER_PORT", "443");
        let request = |own: Option<Variables>| {
            let mut request =
                http::Request::builder().uri("/x?q").header("host", "example.org:8080").body(());
            if let (Ok(request), Some(own)) = (&mut request, own) {
                request.extensions_mut().insert(own);
            }
            environment(&request.unwrap().into_parts().0, "/srv", None).unwrap()
        };
        let value = |own, name: &str| {
            let found: Vec<_> = request(own).into_iter().filter(|(other, _)| other == name).collect();
            assert!(found.len() < 2, "{found:?}");
            found.into_iter().next().map(|(_, value)| String::from_utf8(value).unwrap())
        };
        for (name, with, without) in [
            ("REMOTE_ADDR", Some("192.0.2.7"), None),
            ("SERVER_PORT", Some("443"), Some("8080")),
            ("SERVER_NAME", Some("example.org"), Some("example.org")),
            ("SCRIPT_FILENAME", Some("/srv/x"), Some("/srv/x")),
        ] {
            assert_eq!(value(Some(own.clone()), name).as_deref(), with, "{name}");
            assert_eq!(value(None, name).as_deref(), without, "{name}");
        }
    }
}
