//! How a scenario writes hosts, links between them, clients and what is expected.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use toml::Spanned;

use super::plan::{
    Amount, HostFile, HostPlan, HostProgram, JoinedHosts, NetworkExpectation, NetworkPlan, Readiness,
    Requests, SETTABLE, WhyExpectation,
};
use super::tree::{Tree, TreeFault};
use crate::expectation::Expectation;
use crate::ip_version::IpVersion;
use crate::link::file::{LinkBetween, Links};
use crate::program_user::ProgramUser;
use crate::units::{Bytes, number_or_text};

/// Most hosts of an experiment, and most links: each has a network, and each link a thread.
const MOST_HOSTS: usize = 8;
/// How long a program may take until it is ready, and a client until it has its response, where nothing is said.
const READY: Duration = Duration::from_secs(20);
const TIMEOUT: Duration = Duration::from_secs(30);
const MOST_REQUESTS: u64 = 10_000;
/// Each client is three processes.
const MOST_AT_ONCE: u64 = 200;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NetworkFile {
    title: String,
    ip: Option<IpVersion>,
    seed: Option<u64>,
    host: Vec<Spanned<HostTable>>,
    #[serde(default)]
    link: Vec<Spanned<LinkBetween>>,
    client: Spanned<ClientTable>,
    #[serde(default)]
    expect: ExpectTable,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HostTable {
    name: Spanned<String>,
    run: Option<String>,
    ready: Option<Spanned<ReadyTable>>,
    user: Option<Spanned<String>>,
    #[serde(default, deserialize_with = "settings")]
    sysctl: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "files")]
    files: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ReadyTable {
    port: Option<u64>,
    line: Option<String>,
    #[serde(deserialize_with = "some_time")]
    within: Option<Duration>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClientTable {
    host: Option<Spanned<String>>,
    run: String,
    response: Bytes,
    upload: Option<Bytes>,
    requests: Option<Spanned<u64>>,
    concurrency: Option<Spanned<u64>>,
    #[serde(default, deserialize_with = "some_time")]
    timeout: Option<Duration>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ExpectTable {
    verdicts: Option<Expectation>,
    counters: BTreeMap<String, Spanned<BTreeMap<String, Amount>>>,
    why: Option<Spanned<WhyTable>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct WhyTable {
    causes: Vec<String>,
    #[serde(default)]
    agrees_with_kernel: bool,
}

fn some_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    crate::duration::deserialize(deserializer).map(Some)
}

/// Whole numbers, as the kernel's settings have them.
fn settings<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    struct Value(String);
    impl<'de> Deserialize<'de> for Value {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let text = number_or_text(deserializer)?;
            let is_plain = |text: &str| text.split(' ').all(|word| word.parse::<u64>().is_ok());
            if is_plain(&text) {
                Ok(Self(text))
            } else {
                Err(D::Error::custom("a setting is a whole number, or several in a text"))
            }
        }
    }
    let settings = BTreeMap::<String, Value>::deserialize(deserializer)?;
    if let Some(name) = settings.keys().find(|name| !SETTABLE.contains(&name.as_str())) {
        let told =
            format!("`{}` cannot be set here; what can is {}", name.escape_debug(), SETTABLE.join(", "));
        return Err(D::Error::custom(told));
    }
    Ok(settings.into_iter().map(|(name, Value(value))| (name, value)).collect())
}

fn files<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    let files = BTreeMap::<String, String>::deserialize(deserializer)?;
    let is_plain = |name: &str| {
        !name.is_empty() && name.len() < 100 && !name.contains(['/', '\0']) && !name.starts_with('.')
    };
    if let Some(name) = files.keys().find(|name| !is_plain(name)) {
        let told = format!(
            "`{}` is no file's name here: it has no slash and does not begin with a dot",
            name.escape_debug()
        );
        return Err(D::Error::custom(told));
    }
    Ok(files)
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl Visitor<'_> for Either {
            type Value = Amount;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("none, some, or a whole number")
            }

            fn visit_i64<E: Error>(self, count: i64) -> Result<Amount, E> {
                u64::try_from(count)
                    .map(Amount::Exactly)
                    .map_err(|_| E::invalid_value(serde::de::Unexpected::Signed(count), &self))
            }

            fn visit_u64<E: Error>(self, count: u64) -> Result<Amount, E> {
                Ok(Amount::Exactly(count))
            }

            fn visit_str<E: Error>(self, word: &str) -> Result<Amount, E> {
                match word {
                    "none" => Ok(Amount::Exactly(0)),
                    "some" => Ok(Amount::Some),
                    _ => Err(E::invalid_value(serde::de::Unexpected::Str(word), &self)),
                }
            }
        }

        deserializer.deserialize_any(Either)
    }
}

/// A scenario's text, for messages that say where something stands.
struct ScenarioText<'a> {
    name: &'a str,
    text: &'a str,
}

impl ScenarioText<'_> {
    fn place(&self, span: Range<usize>) -> String {
        let before = &self.text.as_bytes()[..span.start.min(self.text.len())];
        format!("{}, line {}", self.name, before.iter().filter(|byte| **byte == b'\n').count() + 1)
    }

    fn at(&self, span: Range<usize>, told: impl fmt::Display) -> String {
        format!("{}: {told}", self.place(span))
    }
}

impl NetworkPlan {
    /// Whether a scenario has hosts of its own, and is to be read by [`parse`](Self::parse) and not as [`Scenario`](crate::Scenario).
    pub fn is_in(text: &str) -> bool {
        struct Keys(bool);

        impl<'de> Deserialize<'de> for Keys {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Any;

                impl<'de> Visitor<'de> for Any {
                    type Value = Keys;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("a table")
                    }

                    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Keys, A::Error> {
                        let mut has_hosts = false;
                        while let Some((key, _)) = map.next_entry::<String, serde::de::IgnoredAny>()? {
                            has_hosts |= key == "host";
                        }
                        Ok(Keys(has_hosts))
                    }
                }

                deserializer.deserialize_map(Any)
            }
        }

        toml::from_str(text).is_ok_and(|Keys(has_hosts)| has_hosts)
    }

    /// Reads a scenario with hosts. `name` is the file's name, for messages; the traces that its links name count from its
    /// folder.
    ///
    /// # Errors
    /// Returns a message that names the file, the line and the key that are wrong, and what would be right.
    pub fn parse(name: &str, text: &str) -> Result<Self, String> {
        let file: NetworkFile = toml::from_str(text).map_err(|error| format!("{name}: {error}"))?;
        let source = ScenarioText { name, text };
        let folder = Path::new(name).parent().unwrap_or(Path::new(""));
        let hosts = hosts(&source, file.host)?;
        let links = links(&source, file.link, &hosts, folder)?;
        let client = client(&source, file.client, &hosts)?;
        let expect = expectation(&source, file.expect, &hosts)?;
        let folder = if folder == Path::new("") { Path::new(".") } else { folder };
        let folder = std::path::absolute(folder).map_err(|error| format!("{name}: {error}"))?;
        let (ip, seed) = (file.ip.unwrap_or_default(), file.seed.unwrap_or_default());
        Ok(Self { title: file.title, hosts, links, client, ip, seed, expect, folder })
    }
}

/// A name that is a host's, an environment variable's and a part of a file's.
fn is_host_name(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=15).contains(&name.len())
        && name.chars().all(is_plain)
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('-')
}

/// Names by which something else is found already: variables of ours, and the machine itself.
const TAKEN: [&str; 4] = ["localhost", "scenario", "upload", "request"];

fn hosts(source: &ScenarioText<'_>, tables: Vec<Spanned<HostTable>>) -> Result<Vec<HostPlan>, String> {
    let mut hosts: Vec<HostPlan> = Vec::new();
    for table in tables {
        let HostTable { name, run, ready, user, sysctl, files } = table.into_inner();
        let (at, name) = (name.span(), name.into_inner());
        if !is_host_name(&name) || TAKEN.contains(&name.as_str()) {
            let shown = name.chars().take(40).collect::<String>();
            let told = format!(
                "`name`: `{}` is no host's name: write 1 to 15 small letters, digits and `-`, a letter first, none of {}",
                shown.escape_debug(),
                TAKEN.join(", ")
            );
            return Err(source.at(at, told));
        }
        if hosts.iter().any(|other| other.name == name) {
            return Err(
                source.at(at, format!("`name`: two hosts are called `{name}`: give each a name of its own"))
            );
        }
        if hosts.len() == MOST_HOSTS {
            return Err(source
                .at(at, format!("`{name}` is one host too many: an experiment has at most {MOST_HOSTS}")));
        }
        let place = source.place(at);
        let program = program(source, run, ready)?;
        let parse = |user: Spanned<String>| {
            ProgramUser::parse(user.get_ref())
                .map_err(|told| source.at(user.span(), format!("`user`: {told}")))
        };
        let user = user.map(parse).transpose()?;
        let files = files.into_iter().map(|(name, content)| HostFile { name, content }).collect();
        hosts.push(HostPlan { name, place, program, user, settings: sysctl, files });
    }
    Ok(hosts)
}

fn program(
    source: &ScenarioText<'_>,
    run: Option<String>,
    ready: Option<Spanned<ReadyTable>>,
) -> Result<Option<HostProgram>, String> {
    let span = ready.as_ref().map(Spanned::span).unwrap_or_default();
    let Some(run) = run else {
        let told =
            "`ready` says when a program is, and this host has none: give it `run`, or leave `ready` out";
        return if ready.is_some() { Err(source.at(span, told)) } else { Ok(None) };
    };
    let ReadyTable { port, line, within } = ready.map(Spanned::into_inner).unwrap_or_default();
    let ready = match (port, line) {
        (Some(_), Some(_)) => return Err(source.at(span, "`ready`: `port` or `line`, not both")),
        (Some(port), None) => match u16::try_from(port) {
            Ok(0) | Err(_) => {
                return Err(source.at(span, format!("`ready`: a port is 1 to 65535, not {port}")));
            }
            Ok(port) => Readiness::Listens(Some(port)),
        },
        (None, None) => Readiness::Listens(None),
        (None, Some(line)) if line.is_empty() => {
            return Err(
                source.at(span, "`ready`: `line` is a part of what the program prints, and this is empty")
            );
        }
        (None, Some(line)) => Readiness::Says(line),
    };
    Ok(Some(HostProgram { run, ready, within: within.unwrap_or(READY) }))
}

/// The place of the host of this name.
fn host_of(
    source: &ScenarioText<'_>,
    key: &str,
    name: &Spanned<String>,
    hosts: &[HostPlan],
) -> Result<usize, String> {
    hosts.iter().position(|host| host.name == *name.get_ref()).ok_or_else(|| {
        let known: Vec<&str> = hosts.iter().map(|host| host.name.as_str()).collect();
        let shown: String = name.get_ref().chars().take(40).collect();
        let told =
            format!("`{key}`: no host is called `{}`; there are {}", shown.escape_debug(), known.join(", "));
        source.at(name.span(), told)
    })
}

fn links(
    source: &ScenarioText<'_>,
    tables: Vec<Spanned<LinkBetween>>,
    hosts: &[HostPlan],
    folder: &Path,
) -> Result<Vec<JoinedHosts>, String> {
    let (mut spans, mut ends, mut links) = (Vec::new(), Vec::new(), Vec::new());
    for table in tables {
        let (span, LinkBetween { hosts: names, link }) = (table.span(), table.into_inner());
        let [client_side, server_side] = &names[..] else {
            let told = "`between` names the two hosts that a link joins, as in [\"client\", \"gateway\"]; the first is its client side";
            return Err(source.at(span, told));
        };
        ends.push([
            host_of(source, "between", server_side, hosts)?,
            host_of(source, "between", client_side, hosts)?,
        ]);
        spans.push(span);
        links.push(link);
    }
    if let Err(fault) = Tree::new(hosts.len(), &ends) {
        let pair = |link: usize| {
            let [server_side, client_side] = ends[link];
            format!("`{}` and `{}`", hosts[client_side].name, hosts[server_side].name)
        };
        let (span, told) = match fault {
            TreeFault::OneHost(link) => (
                spans[link].clone(),
                format!("`between`: a link joins two hosts, not {} ", pair(link)).trim_end().to_owned(),
            ),
            TreeFault::Twice(first, link) => (
                spans[link].clone(),
                format!(
                    "`between`: {} have a link already ({}); leave one out",
                    pair(link),
                    source.place(spans[first].clone())
                ),
            ),
            TreeFault::Loop(link) => (
                spans[link].clone(),
                format!("`between`: with this link there are two ways between {}; leave one out", pair(link)),
            ),
            TreeFault::Apart(host) => {
                return Err(format!(
                    "{}: no link leads from `{}` to `{}`: join them by a [[link]] with `between`",
                    hosts[host].place, hosts[0].name, hosts[host].name
                ));
            }
        };
        return Err(source.at(span, told));
    }
    let mut links = Links(links);
    links.read_traces(folder).map_err(|error| format!("{}: [[link]]: {error}", source.name))?;
    Ok(links.0.into_iter().zip(ends).map(|(link, ends)| JoinedHosts { ends, link }).collect())
}

fn client(
    source: &ScenarioText<'_>,
    table: Spanned<ClientTable>,
    hosts: &[HostPlan],
) -> Result<Requests, String> {
    let (span, table) = (table.span(), table.into_inner());
    let host = match &table.host {
        Some(name) => host_of(source, "host", name, hosts)?,
        None => host_of(source, "client", &Spanned::new(span.clone(), "client".to_owned()), hosts)
            .map_err(|error| format!("{error}; or say in [client] which is `host`"))?,
    };
    let bounded = |key: &str, given: Option<Spanned<u64>>, usual: u64, most: u64| match given {
        Some(given) if !(1..=most).contains(given.get_ref()) => {
            Err(source.at(given.span(), format!("`{key}` is 1 to {most}, and not {}", given.get_ref())))
        }
        given => Ok(given.map_or(usual, Spanned::into_inner)),
    };
    if table.response.0 == 0 {
        return Err(source.at(span, "`response`: of 0 bytes none can be lost"));
    }
    let requests = bounded("requests", table.requests, 10, MOST_REQUESTS)?;
    let concurrency = bounded("concurrency", table.concurrency, 1, MOST_AT_ONCE)?;
    Ok(Requests {
        host,
        run: table.run,
        response: table.response.0,
        upload: table.upload.map(|bytes| bytes.0),
        requests,
        concurrency: usize::try_from(concurrency).unwrap_or(1),
        timeout: table.timeout.unwrap_or(TIMEOUT),
    })
}

fn expectation(
    source: &ScenarioText<'_>,
    table: ExpectTable,
    hosts: &[HostPlan],
) -> Result<NetworkExpectation, String> {
    let mut counters = BTreeMap::new();
    for (host, counted) in table.counters {
        host_of(source, "counters", &Spanned::new(counted.span(), host.clone()), hosts)?;
        counters.insert(host, counted.into_inner());
    }
    let why = match table.why {
        Some(why) if why.get_ref().causes.is_empty() => {
            let told =
                "`causes` is empty: name what `why` may say of a connection that failed, or leave `why` out";
            return Err(source.at(why.span(), told));
        }
        why => why.map(Spanned::into_inner),
    };
    let why = why.map(|why| WhyExpectation { causes: why.causes, agrees: why.agrees_with_kernel });
    Ok(NetworkExpectation { verdicts: table.verdicts, counters, why })
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
