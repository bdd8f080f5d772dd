//! How a scenario writes a link: the name of a preset, or a table that changes one.

use std::fmt;
use std::path::Path as FilePath;
use std::time::Duration;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use toml::Spanned;

use crate::link::ecn::EcnHandling;
use crate::link::loss::{Loss, some_probability};
use crate::link::middlebox::file::MiddleboxTable;
use crate::link::mtu::PathMtu;
use crate::link::trace::Trace;
use crate::link::{Link, LinkChange, LinkClock, LinkFault, PRESETS, Path};
use crate::named::Named;
use crate::units::{Bytes, Rate, number_or_text};

/// Most steps of a link's time axis.
const MOST_STEPS: usize = 1_000;

/// Makes a table with the keys of a path beside its own. Not `serde(flatten)`, whose errors do not say where they are.
macro_rules! with_the_keys_of_a_path {
    (struct $name:ident { $($own:tt)* }) => {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct $name {
            $($own)*
            #[serde(default, deserialize_with = "some_time")]
            delay: Option<Duration>,
            #[serde(default, deserialize_with = "some_time")]
            jitter: Option<Duration>,
            #[serde(default, deserialize_with = "or_none")]
            rate: Option<Option<Rate>>,
            trace: Option<String>,
            #[serde(default, deserialize_with = "or_none")]
            queue: Option<Option<Bytes>>,
            loss: Option<Loss>,
            #[serde(default, deserialize_with = "some_probability")]
            reorder: Option<f64>,
            #[serde(default, deserialize_with = "some_time")]
            reorder_by: Option<Duration>,
            #[serde(default, deserialize_with = "some_probability")]
            duplicate: Option<f64>,
            #[serde(default, deserialize_with = "some_probability")]
            corrupt: Option<f64>,
            #[serde(default, deserialize_with = "PathMtu::or_none")]
            mtu: Option<Option<PathMtu>>,
            #[serde(default, deserialize_with = "EcnHandling::or_none")]
            ecn: Option<Option<EcnHandling>>,
        }

        impl $name {
            /// Changes what is written, and nothing else.
            fn change(&self, path: &mut Path) -> Result<(), String> {
                fn set<T: Clone>(value: &mut T, written: &Option<T>) {
                    if let Some(written) = written {
                        value.clone_from(written);
                    }
                }
                if self.trace.is_some() && self.rate.is_some() {
                    return Err("`rate` and `trace` both say how much the link carries: leave one out".to_owned());
                }
                set(&mut path.delay, &self.delay);
                set(&mut path.jitter, &self.jitter);
                if let Some(rate) = self.rate {
                    (path.rate, path.trace) = (rate, None);
                }
                if let Some(file) = &self.trace {
                    (path.rate, path.trace) = (None, Some(Trace::unread(file.clone())));
                }
                set(&mut path.queue, &self.queue);
                if path.rate.is_none() && path.trace.is_none() && self.queue.is_none() {
                    // The base's queue goes with its rate.
                    path.queue = None;
                }
                set(&mut path.loss, &self.loss);
                set(&mut path.reorder, &self.reorder);
                set(&mut path.reorder_by, &self.reorder_by);
                set(&mut path.duplicate, &self.duplicate);
                set(&mut path.corrupt, &self.corrupt);
                set(&mut path.mtu, &self.mtu);
                set(&mut path.ecn, &self.ecn);
                Ok(())
            }
        }
    };
}

with_the_keys_of_a_path!(
    struct PathTable {}
);

with_the_keys_of_a_path!(
    struct LinkTable {
        between: Option<Vec<Spanned<String>>>,
        base: Option<String>,
        name: Option<String>,
        both: Option<PathTable>,
        #[serde(rename = "to-client")]
        to_client: Option<PathTable>,
        #[serde(rename = "to-server")]
        to_server: Option<PathTable>,
        #[serde(default)]
        fault: Vec<LinkFault>,
        middlebox: Option<MiddleboxTable>,
        #[serde(default)]
        at: Vec<StepTable>,
        clock: Option<LinkClock>,
    }
);

with_the_keys_of_a_path!(
    struct StepTable {
        #[serde(with = "crate::duration")]
        time: Duration,
        #[serde(default, rename = "for", deserialize_with = "some_time")]
        lasts: Option<Duration>,
        both: Option<PathTable>,
        #[serde(rename = "to-client")]
        to_client: Option<PathTable>,
        #[serde(rename = "to-server")]
        to_server: Option<PathTable>,
    }
);

fn some_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    crate::duration::deserialize(deserializer).map(Some)
}

/// A value, or `none` for no limit.
fn or_none<'de, T: std::str::FromStr<Err = String>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    let text = number_or_text(deserializer)?;
    let value = if text == "none" { None } else { Some(text.parse().map_err(D::Error::custom)?) };
    Ok(Some(value))
}

/// Changes both paths by the keys of the table itself and of `both`, then each by its own.
macro_rules! overlay {
    ($table:expr, $paths:expr) => {{
        let (table, paths): (_, &mut [Path; 2]) = ($table, $paths);
        for (path, own) in paths.iter_mut().zip([&table.to_client, &table.to_server]) {
            table.change(path)?;
            for more in [&table.both, own].into_iter().flatten() {
                more.change(path)?;
            }
        }
    }};
}

impl StepTable {
    fn end(&self) -> Option<Duration> {
        self.lasts.map(|lasts| self.time + lasts)
    }

    fn validate(&self) -> Result<(), String> {
        let tables = [&self.both, &self.to_client, &self.to_server].into_iter().flatten();
        if self.trace.is_some() || tables.into_iter().any(|table| table.trace.is_some()) {
            return Err("a `trace` cannot begin at a step: it is a key of the link".to_owned());
        }
        if self.lasts.is_some_and(|lasts| lasts.is_zero()) {
            return Err("a step `for` no time changes nothing: leave `for` out if it is to last".to_owned());
        }
        Ok(())
    }
}

/// What the paths are like from each time on at which a step begins or ends.
fn changes(paths: &[Path; 2], steps: &[StepTable]) -> Result<Vec<LinkChange>, String> {
    if steps.len() > MOST_STEPS {
        return Err(format!("{} steps: a link has at most {MOST_STEPS}", steps.len()));
    }
    for (before, step) in steps.iter().zip(&steps[1.min(steps.len())..]) {
        if step.time < before.time {
            let (time, before) =
                (humantime::Duration::from(step.time), humantime::Duration::from(before.time));
            return Err(format!(
                "the step at {time} stands behind the one at {before}: write steps in order of time"
            ));
        }
    }
    steps.iter().try_for_each(StepTable::validate)?;
    let has_trace = paths.iter().any(|path| path.trace.is_some());
    let mut times: Vec<Duration> =
        steps.iter().flat_map(|step| [Some(step.time), step.end()]).flatten().collect();
    times.sort_unstable();
    times.dedup();
    let mut changes = Vec::with_capacity(times.len());
    for time in times {
        let mut paths = paths.clone();
        for step in steps.iter().filter(|step| step.time <= time && step.end().is_none_or(|end| time < end)) {
            overlay!(step, &mut paths);
        }
        if has_trace && paths.iter().any(|path| path.rate.is_some()) {
            return Err(
                "a step cannot set a `rate` where a `trace` says how much the link carries".to_owned()
            );
        }
        changes.push(LinkChange { time, paths });
    }
    Ok(changes)
}

/// A name that is part of a file's name, and none of a preset's.
fn check_name(name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.len() > 32 || !name.chars().all(plain) || name.starts_with(['-', '.']) {
        let shown: String = name.chars().take(40).collect();
        return Err(format!(
            "a link's `name` has 1 to 32 letters, digits, `-`, `_` and `.`, and begins with a letter or digit, unlike `{}`",
            shown.escape_debug()
        ));
    }
    if PRESETS.contains(&name) {
        return Err(format!("`{name}` is a preset: give this link a name of its own"));
    }
    Ok(())
}

impl LinkTable {
    fn link(self) -> Result<Link, String> {
        if self.between.is_some() {
            return Err("`between` names hosts, and this scenario has no `[[host]]`".to_owned());
        }
        let mut link = match &self.base {
            Some(name) => Link::named(name)?,
            None => Link::default(),
        };
        if link.loopback {
            return Err("`loopback` has no wire that could differ".to_owned());
        }
        link.name = match &self.name {
            Some(name) => check_name(name).map(|()| name.clone())?,
            None => "custom".to_owned(),
        };
        overlay!(&self, &mut link.paths);
        link.faults.retain(|old| !self.fault.iter().any(|new| new.is_like(old)));
        link.faults.extend(self.fault);
        link.middlebox = self.middlebox.map(MiddleboxTable::middlebox).transpose()?;
        link.changes = changes(&link.paths, &self.at)?;
        link.clock = self.clock.unwrap_or_default();
        let has_time = !link.changes.is_empty() || link.paths.iter().any(|path| path.trace.is_some());
        if self.clock.is_some() && !has_time {
            return Err("`clock` says from when `at` and `trace` count: this link has neither".to_owned());
        }
        link.validate()?;
        Ok(link)
    }
}

/// Parses a link in a scenario: the name of a preset, or a table. Its traces are not read yet.
impl<'de> Deserialize<'de> for Link {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut links = deserializer.deserialize_any(OneOrSeveral { several: false })?;
        links.pop().ok_or_else(|| D::Error::custom("no link"))
    }
}

impl Link {
    /// Reads a link from a file that holds the keys of a scenario's `[link]` and nothing else. `name` is the file's name, for messages;
    /// traces count from its folder. A link without a `name` has the file's.
    ///
    /// # Errors
    /// Returns a message that names the file and what is wrong in it, and where.
    pub fn parse(name: &str, text: &str) -> Result<Self, String> {
        let table: LinkTable = toml::from_str(text).map_err(|error| format!("{name}: {error}"))?;
        let (is_named, path) = (table.name.is_some(), FilePath::new(name));
        let mut links = Links(vec![table.link().map_err(|error| format!("{name}: {error}"))?]);
        links
            .read_traces(path.parent().unwrap_or(FilePath::new("")))
            .map_err(|error| format!("{name}: {error}"))?;
        let mut link = links.0.pop().unwrap_or_default();
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        if !is_named && check_name(&stem).is_ok() {
            link.name = stem.into_owned();
        }
        Ok(link)
    }
}

/// A link of a scenario with hosts: whom it joins, and what it is like.
#[derive(Debug)]
pub(crate) struct LinkBetween {
    /// As many names as were written.
    pub(crate) hosts: Vec<Spanned<String>>,
    pub(crate) link: Link,
}

impl<'de> Deserialize<'de> for LinkBetween {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut table = LinkTable::deserialize(deserializer)?;
        let hosts = table.between.take().unwrap_or_default();
        let is_named = table.name.is_some();
        let mut link = table.link().map_err(D::Error::custom)?;
        if !is_named {
            link.name = hosts.iter().map(|host| host.get_ref().as_str()).collect::<Vec<_>>().join("-");
        }
        Ok(Self { hosts, link })
    }
}

/// One link or several of a scenario.
#[derive(Debug)]
pub(crate) struct Links(pub(crate) Vec<Link>);

impl<'de> Deserialize<'de> for Links {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OneOrSeveral { several: true }).map(Self)
    }
}

impl Links {
    /// Reads the traces that the links name; relative names count from `directory`.
    pub(crate) fn read_traces(&mut self, directory: &FilePath) -> Result<(), String> {
        let mut known: Vec<Trace> = Vec::new();
        for link in &mut self.0 {
            let later = link.changes.iter_mut().flat_map(|change| &mut change.paths);
            for trace in link.paths.iter_mut().chain(later).filter_map(|path| path.trace.as_mut()) {
                match known.iter().find(|read| read.file == trace.file) {
                    Some(read) => trace.clone_from(read),
                    None => {
                        trace.read(directory)?;
                        known.push(trace.clone());
                    }
                }
            }
        }
        Ok(())
    }
}

/// Not an untagged enum: its errors would not say where in the file they are.
struct OneOrSeveral {
    several: bool,
}

impl<'de> Visitor<'de> for OneOrSeveral {
    type Value = Vec<Link>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let several = if self.several { ", or a list of these" } else { "" };
        write!(f, "the name of a link ({}) or a table{several}", PRESETS.join(", "))
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Vec<Link>, E> {
        Ok(vec![Link::named(name).map_err(E::custom)?])
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Vec<Link>, A::Error> {
        let table = LinkTable::deserialize(MapAccessDeserializer::new(map))?;
        Ok(vec![table.link().map_err(A::Error::custom)?])
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<Link>, A::Error> {
        if !self.several {
            return Err(A::Error::invalid_type(serde::de::Unexpected::Seq, &self));
        }
        let mut links: Vec<Link> = Vec::new();
        while let Some(mut link) = list.next_element::<Link>()? {
            let unnamed = links.iter().filter(|other| other.name.starts_with("custom")).count();
            if link.name == "custom" && unnamed > 0 {
                link.name = format!("custom-{}", unnamed + 1);
            }
            if links.iter().any(|other| other.name == link.name) {
                let told = format!("two links are called `{}`: give each a `name` of its own", link.name);
                return Err(A::Error::custom(told));
            }
            links.push(link);
        }
        if links.is_empty() {
            return Err(A::Error::custom("an empty list: name at least one"));
        }
        Ok(links)
    }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
