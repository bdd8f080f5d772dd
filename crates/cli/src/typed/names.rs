//! Values that are chosen by name: parsed as their library does, and listed for help and shells.

use std::ffi::OsStr;
use std::path::Path;

use clap::builder::{PossibleValue, TypedValueParser};
use clap::{Arg, Command};
use linger_lab::{CellClient, Ending, Link, Named, Peer};

use crate::exit::file_hint;
use crate::input::read_text;

/// Parses a name. A shell completes the names that are listed; the parser may take more.
#[derive(Clone, Debug)]
pub(crate) struct Names<T> {
    names: Vec<&'static str>,
    parse: fn(&str) -> Result<T, String>,
}

impl<T> Names<T> {
    pub(crate) fn new(names: impl Into<Vec<&'static str>>, parse: fn(&str) -> Result<T, String>) -> Self {
        Self { names: names.into(), parse }
    }
}

impl<T: Clone + Send + Sync + 'static> TypedValueParser for Names<T> {
    type Value = T;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<T, clap::Error> {
        TypedValueParser::parse_ref(&self.parse, command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(self.names.iter().map(PossibleValue::new)))
    }
}

/// One of a few values, each under its name.
pub(crate) fn one_of<T: Copy>(values: &[(&'static str, T)], name: &str) -> Result<T, String> {
    let found = values.iter().find(|(known, _)| *known == name);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<_> = values.iter().map(|(known, _)| format!("`{known}`")).collect();
        format!("is none of {}", names.join(", "))
    })
}

/// What a server does after its last write.
pub(crate) fn endings() -> Names<Ending> {
    // `so-linger=SECS`: the seconds may be left out.
    let names = Ending::NAMES.map(|name| name.split('=').next().unwrap_or(name));
    Names::new(names, str::parse)
}

/// What a client does.
pub(crate) fn peers() -> Names<Peer> {
    Names::new(Peer::names(), Peer::named)
}

/// What a client's program and system are like.
pub(crate) fn clients() -> Names<CellClient> {
    // `reads-late=SECS`: the seconds may be left out.
    let names: Vec<_> =
        CellClient::names().iter().map(|name| name.split('=').next().unwrap_or(name)).collect();
    Names::new(names, str::parse)
}

/// Networks.
pub(crate) fn links() -> Names<Link> {
    Names::new(Link::names(), Link::named)
}

/// Networks, of which one may stand in a file.
pub(crate) fn links_and_files() -> Names<Link> {
    Names::new(Link::names(), |text| {
        if !text.ends_with(".toml") {
            return Link::named(text).map_err(|error| format!("{error}, or a file that ends in .toml"));
        }
        let told = |error: std::io::Error| format!("cannot read {text}: {error}{}", file_hint(&error));
        Link::parse(text, &read_text(Path::new(text)).map_err(told)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_that_is_listed_is_understood() {
        fn check<T: Clone + Send + Sync + 'static>(names: &Names<T>) {
            assert!(!names.names.is_empty());
            for name in &names.names {
                assert!((names.parse)(name).is_ok(), "{name}");
            }
            assert!((names.parse)("politely").is_err());
        }
        check(&endings());
        check(&peers());
        check(&clients());
        check(&links());
        check(&links_and_files());
        assert!((endings().parse)("so-linger=9").is_ok());
    }
}
