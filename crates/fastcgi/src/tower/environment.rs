//! The header fields of a request, as the environment of a CGI program (RFC 3875 section 4.1.18).

use http::{HeaderMap, header};

/// The variables for the fields of a request, in the order in which the fields come first.
///
/// A field that repeats becomes one variable, joined as RFC 9110 section 5.3 and, for cookies, RFC 6265 section 5.4 join them: a
/// program sees only one variable of a name. Left out are
///
/// - names with an underscore: `X_Forwarded_User` would become the variable of `X-Forwarded-User`, which a proxy in front vouches
///   for, and override it (nginx's `underscores_in_headers`);
/// - `Proxy`, whose variable many programs take for their own proxy (CVE-2016-5385);
/// - `Content-Type` and `Content-Length`, which have variables of their own.
pub(super) fn variables(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
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
}
