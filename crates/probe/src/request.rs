//! What a user adds to each request.

use std::str::FromStr;

/// A header field of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderField {
    pub(crate) name: String,
    pub(crate) value: String,
}

/// Fields that make a request what a question is about. A probe sets them itself.
const OWN: [&str; 5] = ["connection", "content-length", "transfer-encoding", "expect", "upgrade"];

/// `NAME: VALUE`.
impl FromStr for HeaderField {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once(':').ok_or("write NAME: VALUE")?;
        let (name, value) = (name.trim(), value.trim());
        let known = http::HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| format!("`{name}` is no name of a header"))?;
        if OWN.contains(&known.as_str()) {
            return Err(format!("{name} is set by the probe itself, since it is a part of what is asked"));
        }
        match http::HeaderValue::from_str(value) {
            Ok(_) => Ok(Self { name: name.to_owned(), value: value.to_owned() }),
            Err(_) => Err(format!("the value of {name} has characters that no header may have")),
        }
    }
}

/// The method of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AskedMethod(http::Method);

impl AskedMethod {
    pub(crate) fn name(&self) -> &str {
        self.0.as_str()
    }

    /// Whether the request changes nothing at the server (RFC 9110 section 9.2.1).
    pub(crate) fn is_safe(&self) -> bool {
        self.0.is_safe()
    }
}

impl FromStr for AskedMethod {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        match http::Method::from_bytes(text.as_bytes()) {
            Ok(http::Method::HEAD) => Err("the response to HEAD has no body that could be lost"),
            Ok(http::Method::CONNECT) => Err("CONNECT asks for a tunnel and not for a response"),
            Ok(method) => Ok(Self(method)),
            Err(_) => Err("this is no name of a method"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_one_line_and_none_of_the_probes_own() {
        let field: HeaderField = "Authorization:  Bearer a:b ".parse().unwrap();
        assert_eq!((field.name.as_str(), field.value.as_str()), ("Authorization", "Bearer a:b"));
        for text in
            ["Bearer", "a b: c", ": c", "X: a\r\nY: b", "X: a\nb", "CONNECTION: close", "Content-Length: 3"]
        {
            assert!(text.parse::<HeaderField>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_method_has_a_response_with_a_body() {
        for (text, safe) in
            [("POST", false), ("PUT", false), ("GET", true), ("REPORT", false), ("OPTIONS", true)]
        {
            assert_eq!(text.parse::<AskedMethod>().unwrap().is_safe(), safe, "{text}");
        }
        for text in ["HEAD", "CONNECT", "", "A B", "GET\r\n"] {
            assert!(text.parse::<AskedMethod>().is_err(), "{text:?}");
        }
    }
}
