//! An expression over findings: which of them are told. What is read and how it is judged does not depend on it.
//!
//! Grammar: `or` binds loosest, then `and`, then `not`; parentheses group. Written here because a parser library would be longer than
//! the parser, and knows no places in the text for its errors.

use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use crate::{Cause, Class, Confidence, Finding, HostRange};

/// Which findings are told. The default is all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FindingFilter(Option<Expression>);

impl FindingFilter {
    /// The forms of a term, for help and errors.
    pub const TERMS: &'static str = "host ADDRESS, port PORT, cause NAME, class NAME, confidence NAME, service NAME, harmful, harmless, reset";

    /// Whether this finding is told.
    pub fn has(&self, finding: &Finding) -> bool {
        self.0.as_ref().is_none_or(|expression| expression.holds(finding))
    }
}

/// Parentheses and `not` inside each other.
const DEEPEST: usize = 100;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Expression {
    Any(Vec<Expression>),
    All(Vec<Expression>),
    Not(Box<Expression>),
    Term(FilterTerm),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum FilterTerm {
    Host(FilterEnd, HostRange),
    Port(FilterEnd, RangeInclusive<u16>),
    Cause(Cause),
    Class(Class),
    Confidence(Confidence),
    Service(String),
    Harmless(bool),
    Reset,
}

/// Which end of a connection is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FilterEnd {
    Either,
    Client,
    Server,
}

impl Expression {
    fn holds(&self, finding: &Finding) -> bool {
        match self {
            Self::Any(all) => all.iter().any(|one| one.holds(finding)),
            Self::All(all) => all.iter().all(|one| one.holds(finding)),
            Self::Not(one) => !one.holds(finding),
            Self::Term(term) => term.holds(finding),
        }
    }
}

impl FilterTerm {
    fn holds(&self, finding: &Finding) -> bool {
        match self {
            Self::Host(end, range) => end.of(finding).any(|address| range.has(address.ip())),
            Self::Port(end, ports) => end.of(finding).any(|address| ports.contains(&address.port())),
            Self::Cause(cause) => finding.cause == *cause,
            Self::Class(class) => finding.class == *class,
            Self::Confidence(confidence) => finding.confidence == *confidence,
            Self::Service(name) => finding.service().is_some_and(|own| own.eq_ignore_ascii_case(name)),
            Self::Harmless(harmless) => finding.harmless == *harmless,
            Self::Reset => finding.class.is_reset(),
        }
    }
}

impl FilterEnd {
    /// The ends of a finding that are meant; none where nobody knows which is the client.
    fn of(self, finding: &Finding) -> impl Iterator<Item = SocketAddr> {
        let client = finding.client;
        [finding.from, finding.to].into_iter().filter(move |end| match self {
            Self::Either => true,
            Self::Client => client == Some(*end),
            Self::Server => client.is_some_and(|client| client != *end),
        })
    }
}

impl FromStr for FindingFilter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let mut parser = FilterParser { text, at: 0, depth: 0 };
        let expression = parser.any()?;
        match parser.word() {
            "" => Ok(Self(Some(expression))),
            _ => Err(parser.wrong("\"and\", \"or\" or the end")),
        }
    }
}

/// Reads an expression from left to right.
#[derive(Clone, Copy)]
struct FilterParser<'a> {
    text: &'a str,
    /// Where the next word begins, or the white space before it.
    at: usize,
    depth: usize,
}

impl<'a> FilterParser<'a> {
    /// The next word: letters up to white space or a parenthesis, or one of `( ) !`. Empty at the end.
    fn word(&self) -> &'a str {
        let rest = self.text[self.at..].trim_start();
        let end = match rest.chars().next() {
            Some(sign @ ('(' | ')' | '!')) => sign.len_utf8(),
            _ => rest.find(|sign: char| sign.is_whitespace() || "()!".contains(sign)).unwrap_or(rest.len()),
        };
        &rest[..end]
    }

    fn skip(&mut self) -> &'a str {
        let word = self.word();
        let blank = self.text.len() - self.at - self.text[self.at..].trim_start().len();
        self.at += blank + word.len();
        word
    }

    /// Skips the next word if it is one of these.
    fn skip_if(&mut self, words: &[&str]) -> bool {
        let is = words.contains(&self.word());
        if is {
            self.skip();
        }
        is
    }

    /// The error that the next word is not what may stand there.
    fn wrong(&self, expected: impl Into<String>) -> FilterError {
        let blank = self.text.len() - self.at - self.text[self.at..].trim_start().len();
        let at = self.at + blank;
        FilterError { text: self.text.to_owned(), at, length: self.word().len(), expected: expected.into() }
    }

    fn any(&mut self) -> Result<Expression, FilterError> {
        let mut all = vec![self.all()?];
        while self.skip_if(&["or", "||"]) {
            all.push(self.all()?);
        }
        Ok(if all.len() == 1 { all.remove(0) } else { Expression::Any(all) })
    }

    fn all(&mut self) -> Result<Expression, FilterError> {
        let mut all = vec![self.one()?];
        while self.skip_if(&["and", "&&"]) {
            all.push(self.one()?);
        }
        Ok(if all.len() == 1 { all.remove(0) } else { Expression::All(all) })
    }

    fn one(&mut self) -> Result<Expression, FilterError> {
        if self.depth == DEEPEST {
            return Err(self.wrong("fewer parentheses and \"not\" inside each other"));
        }
        self.depth += 1;
        let one = if self.skip_if(&["not", "!"]) {
            Expression::Not(Box::new(self.one()?))
        } else if self.skip_if(&["("]) {
            let inside = self.any()?;
            if !self.skip_if(&[")"]) {
                return Err(self.wrong("\")\", \"and\" or \"or\""));
            }
            inside
        } else {
            Expression::Term(self.term()?)
        };
        self.depth -= 1;
        Ok(one)
    }

    fn term(&mut self) -> Result<FilterTerm, FilterError> {
        let end = match self.word() {
            "client" => FilterEnd::Client,
            "server" => FilterEnd::Server,
            _ => FilterEnd::Either,
        };
        if end != FilterEnd::Either {
            self.skip();
        }
        let place = *self;
        match (self.skip(), end) {
            ("host" | "net", _) => self
                .value("an address, or a network such as 10.0.0.0/8", |word| word.parse().ok())
                .map(|range| FilterTerm::Host(end, range)),
            ("port", _) => self
                .value("a port, or a range such as 8000-8099", ports)
                .map(|ports| FilterTerm::Port(end, ports)),
            ("cause", FilterEnd::Either) => {
                self.named(&Cause::ALL, Cause::name, "a cause").map(FilterTerm::Cause)
            }
            ("class", FilterEnd::Either) => {
                self.named(&Class::ALL, Class::name, "a class").map(FilterTerm::Class)
            }
            ("confidence", FilterEnd::Either) => {
                let all = [Confidence::Certain, Confidence::Likely, Confidence::Possible];
                self.named(&all, Confidence::name, "a confidence").map(FilterTerm::Confidence)
            }
            ("service", FilterEnd::Either) => {
                let name = |word: &str| (!word.is_empty()).then(|| word.to_owned());
                self.value("a name, such as shop.example", name).map(FilterTerm::Service)
            }
            ("harmless", FilterEnd::Either) => Ok(FilterTerm::Harmless(true)),
            ("harmful", FilterEnd::Either) => Ok(FilterTerm::Harmless(false)),
            ("reset", FilterEnd::Either) => Ok(FilterTerm::Reset),
            (_, FilterEnd::Either) => Err(place.wrong(format!(
                "a term: {}, or one of \"client\" and \"server\" before host or port",
                FindingFilter::TERMS
            ))),
            _ => Err(place.wrong("\"host\" or \"port\"")),
        }
    }

    fn value<T>(&mut self, expected: &str, read: impl FnOnce(&str) -> Option<T>) -> Result<T, FilterError> {
        let value = read(self.word()).ok_or_else(|| self.wrong(expected))?;
        self.skip();
        Ok(value)
    }

    fn named<T: Copy>(
        &mut self,
        all: &[T],
        name: fn(T) -> &'static str,
        what: &str,
    ) -> Result<T, FilterError> {
        let found = all.iter().copied().find(|one| name(*one) == self.word());
        let names = || all.iter().map(|one| name(*one)).collect::<Vec<_>>().join(", ");
        let found = found.ok_or_else(|| self.wrong(format!("{what}: {}", names())))?;
        self.skip();
        Ok(found)
    }
}

fn ports(word: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = word.split_once('-').unwrap_or((word, word));
    let [first, last] = [first, last].map(|port| port.parse::<u16>().ok());
    let range = first?..=last?;
    (!range.is_empty()).then_some(range)
}

/// What is wrong with an expression, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterError {
    text: String,
    at: usize,
    length: usize,
    expected: String,
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The arrows stand under the word whatever signs the text has.
        let shown: String =
            self.text.chars().map(|sign| if sign.is_ascii_graphic() { sign } else { ' ' }).collect();
        let before = self.text.get(..self.at).map_or(0, |text| text.chars().count());
        let word =
            self.text.get(self.at..self.at + self.length).map_or(1, |word| word.chars().count().max(1));
        write!(f, "this should be {}\n  {shown}\n  {:before$}{:^<word$}", self.expected, "", "")
    }
}

impl std::error::Error for FilterError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> (usize, usize, String) {
        let error = text.parse::<FindingFilter>().unwrap_err();
        assert!(error.to_string().lines().count() == 3, "{error}");
        (error.at, error.length, error.expected)
    }

    #[test]
    fn an_error_names_the_place() {
        for (text, at, length, expects) in [
            ("", 0, 0, "a term: host"),
            ("cause cut-shrt", 6, 8, "a cause: accept-queue-overflow"),
            ("host 10.0.0.0/33 and port 80", 5, 11, "an address"),
            ("port 80 80", 8, 2, "\"and\""),
            ("port 0x50", 5, 4, "a port"),
            ("port 90-80", 5, 5, "a port"),
            ("port 65536", 5, 5, "a port"),
            ("port", 4, 0, "a port"),
            ("(port 80", 8, 0, "\")\""),
            ("port 80)", 7, 1, "\"and\""),
            ("not", 3, 0, "a term"),
            ("port 80 or", 10, 0, "a term"),
            ("client cause aborted", 7, 5, "\"host\""),
            ("  harm", 2, 4, "a term"),
            ("confidence sure", 11, 4, "a confidence: certain, likely, possible"),
        ] {
            let (place, span, expected) = wrong(text);
            assert_eq!((place, span), (at, length), "{text}");
            assert!(expected.starts_with(expects), "{text}: {expected}");
        }
        let shown = "port 80 and caüse x".parse::<FindingFilter>().unwrap_err().to_string();
        assert!(shown.ends_with("\n  port 80 and ca se x\n              ^^^^^"), "{shown}");
    }

    #[test]
    fn no_expression_is_too_much() {
        let deep = |count: usize| format!("{}port 80{}", "(".repeat(count), ")".repeat(count));
        assert!(deep(DEEPEST - 1).parse::<FindingFilter>().is_ok());
        assert_eq!(wrong(&deep(1_000_000)).2, "fewer parentheses and \"not\" inside each other");
        assert_eq!(wrong(&"!".repeat(100_000)).0, DEEPEST);
        assert!(vec!["port 80"; 100_000].join(" or ").parse::<FindingFilter>().is_ok());
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[ ()!a-z0-9/.ü-]{0,40}") {
            if let Err(error) = text.parse::<FindingFilter>() {
                proptest::prop_assert!(text.is_char_boundary(error.at), "{error}");
                proptest::prop_assert!(!error.to_string().is_empty());
            }
        }
    }
}
