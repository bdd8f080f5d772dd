use super::*;

fn of(fields: &[(&str, &str)], underscores: Underscores) -> Result<Vec<(String, String)>, InvalidRequest> {
    let mut all = Environment::default();
    all.fields(fields.iter().map(|(name, value)| (*name, value.as_bytes())), underscores)?;
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    Ok(all.iter().map(|(name, value)| (text(name), text(value))).collect())
}

fn target(path: &str, site: &Site) -> [String; 3] {
    let all = Environment::of_target("GET", path, site).unwrap();
    assert_eq!(all.get("PATH_TRANSLATED"), None, "PHP may take it for the script");
    ["SCRIPT_NAME", "SCRIPT_FILENAME", "PATH_INFO"]
        .map(|name| all.get(name).map_or("-".into(), |value| String::from_utf8_lossy(value).into_owned()))
}

#[test]
fn repeated_fields_are_one_variable() {
    let fields = [("cookie", "a=1"), ("accept", "x"), ("Cookie", "b=2"), ("Accept", "y")];
    let seen = of(&fields, Underscores::Drop).unwrap();
    assert_eq!(seen, [("HTTP_COOKIE".into(), "a=1; b=2".into()), ("HTTP_ACCEPT".into(), "x, y".into())]);
}

#[test]
fn what_is_no_list_comes_once() {
    let seen = |fields: &[(&str, &str)]| of(fields, Underscores::Drop);
    for (name, variable) in [("Content-Type", "CONTENT_TYPE"), ("Authorization", "HTTP_AUTHORIZATION")] {
        let lower = name.to_ascii_lowercase();
        assert_eq!(seen(&[(name, "a"), (&lower, "a")]).unwrap(), [(variable.into(), "a".into())]);
        assert_eq!(seen(&[(name, "a"), (&lower, "b")]).unwrap_err(), InvalidRequest::Repeated(name));
    }
    assert_eq!(
        seen(&[("host", "a"), ("Host", "a")]).unwrap_err(),
        InvalidRequest::Repeated("Host"),
        "a client that sends it twice tries something"
    );
    assert_eq!(seen(&[("host", "a")]).unwrap(), [("HTTP_HOST".into(), "a".into())]);
}

#[test]
fn no_field_takes_the_variable_of_another() {
    let fields = [("x_forwarded_user", "root"), ("x-forwarded-user", "guest"), ("proxy", "http://evil")];
    let seen = of(&fields, Underscores::Drop).unwrap();
    assert_eq!(seen, [("HTTP_X_FORWARDED_USER".into(), "guest".into())]);
    let refused = of(&fields, Underscores::Refuse).unwrap_err();
    assert_eq!(refused, InvalidRequest::Underscore("x_forwarded_user".into()));
    assert_eq!(of(&fields[1..], Underscores::Refuse).unwrap().len(), 1);
    let own = [("content-type", "a/b"), ("content-length", "5"), ("transfer-encoding", "chunked")];
    assert_eq!(of(&own, Underscores::Refuse).unwrap(), [("CONTENT_TYPE".into(), "a/b".into())]);
}

#[test]
fn a_path_is_decoded_and_stays_below_the_root() {
    let seen = |path| resolved(path).map(|path| String::from_utf8_lossy(&path).into_owned());
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
        let refused = Environment::of_target("GET", path, &Site::from("/srv")).unwrap_err();
        assert_eq!(refused, InvalidRequest::Path(path.into()));
    }
}

#[test]
fn what_follows_the_script_is_path_info() {
    let mut site = Site::from("/srv");
    assert_eq!(target("/doku.php/a", &site), ["/doku.php/a", "/srv/doku.php/a", "-"]);
    assert_eq!(target("/a/", &site), ["/a/", "/srv/a/", "-"]);
    site.split = vec![".php".into(), ".phtml".into()];
    site.index = "index.php".into();
    for (path, expected) in [
        ("/doku.php/wiki:syntax?do=edit", ["/doku.php", "/srv/doku.php", "/wiki:syntax"]),
        ("/doku.php/", ["/doku.php", "/srv/doku.php", "/"]),
        ("/doku.php", ["/doku.php", "/srv/doku.php", "-"]),
        ("/a.phtml/b.php/c", ["/a.phtml", "/srv/a.phtml", "/b.php/c"]),
        // No part of the path is a script's name as a whole.
        ("/doku.php5/a", ["/doku.php5/a", "/srv/doku.php5/a", "-"]),
        ("/doku.php%2Fa%20b", ["/doku.php", "/srv/doku.php", "/a b"]),
        ("/doku.php/../other.php/x", ["/other.php", "/srv/other.php", "/x"]),
        ("/", ["/index.php", "/srv/index.php", "-"]),
        ("/a/?b=/", ["/a/index.php", "/srv/a/index.php", "-"]),
        ("/a", ["/a", "/srv/a", "-"]),
    ] {
        assert_eq!(target(path, &site), expected, "{path}");
    }
}

#[test]
fn what_was_asked_stays_as_it_was() {
    let mut site = Site::from("/srv");
    site.split = vec![".php".into()];
    let all = Environment::of_target("GET", "/a%20b.php/%41?x=%20?y", &site).unwrap();
    for (name, value) in [
        ("REQUEST_URI", "/a%20b.php/%41?x=%20?y"),
        ("QUERY_STRING", "x=%20?y"),
        ("DOCUMENT_URI", "/a b.php/A"),
        ("DOCUMENT_ROOT", "/srv"),
    ] {
        assert_eq!(all.get(name), Some(value.as_bytes()), "{name}");
    }
}

#[test]
fn the_server_is_what_the_client_takes_it_for() {
    for (authority, https, expected) in [
        (Some("example.org:8080"), false, ["example.org", "8080", "http", "-"]),
        (Some("example.org"), false, ["example.org", "80", "http", "-"]),
        (Some("example.org"), true, ["example.org", "443", "https", "on"]),
        (Some("user@[::1]:81"), true, ["[::1]", "81", "https", "on"]),
        (Some("[::1]"), false, ["[::1]", "80", "http", "-"]),
        (Some("a:99999"), false, ["localhost", "80", "http", "-"]),
        (Some("a b\r\n"), false, ["localhost", "80", "http", "-"]),
        (Some(""), false, ["localhost", "80", "http", "-"]),
        (None, false, ["localhost", "80", "http", "-"]),
    ] {
        let mut all = Environment::default();
        all.host(authority, https);
        let seen = ["SERVER_NAME", "SERVER_PORT", "REQUEST_SCHEME", "HTTPS"];
        let seen = seen.map(|name| all.get(name).map_or("-", |value| std::str::from_utf8(value).unwrap()));
        assert_eq!(seen, expected, "{authority:?} {https}");
    }
}
