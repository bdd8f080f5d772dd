//! Clients that people use, as the peers of a cell: each trial runs one of them, in the client's network.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

use linger_netns::Namespace;
use rustix::fs::MemfdFlags;

use crate::fate::{Attempt, Fate};
use crate::host_names::HostNames;
use crate::model::ClientModel;
use crate::named::Named;
use crate::program::Program;
use crate::stop::Stop;

/// A client: a program that prints how many bytes of the body it was given.
///
/// It finds the address in `LINGER_URL`, and what it is to upload in the file `LINGER_UPLOAD`, if it is to upload anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RealClient {
    /// `curl`, without `Expect: 100-continue`.
    Curl,
    /// `wget`, told to try once and to show what comes with an error.
    Wget,
    /// Python's `urllib.request`.
    Urllib,
    /// Python's `requests`.
    Requests,
    /// Node's `fetch`.
    Node,
    /// Java's `java.net.http.HttpClient`.
    Java,
}

const CURL: &str = "exec curl -sS -H Expect: -o /dev/null -w '%{size_download}' \
    ${LINGER_UPLOAD:+--data-binary \"@$LINGER_UPLOAD\"} \"$LINGER_URL\"";

const WGET: &str = "wget -t1 -q --content-on-error -O - ${LINGER_UPLOAD:+--post-file=\"$LINGER_UPLOAD\"} \
    \"$LINGER_URL\" | wc -c";

const URLLIB: &str = "import os, urllib.request, urllib.error
upload, got = os.environ.get('LINGER_UPLOAD'), 0
try:
    try: answer = urllib.request.urlopen(os.environ['LINGER_URL'], open(upload, 'rb').read() if upload else None)
    except urllib.error.HTTPError as error: answer = error
    got = len(answer.read())
except Exception: pass
print(got)";

const REQUESTS: &str = "import os, requests
upload, got = os.environ.get('LINGER_UPLOAD'), 0
try:
    if upload: answer = requests.post(os.environ['LINGER_URL'], data=open(upload, 'rb').read())
    else: answer = requests.get(os.environ['LINGER_URL'])
    got = len(answer.content)
except Exception: pass
print(got)";

const NODE: &str = "(async () => {
  let got = 0
  try {
    const upload = process.env.LINGER_UPLOAD
    const body = upload ? { method: 'POST', body: require('fs').readFileSync(upload) } : {}
    got = (await (await fetch(process.env.LINGER_URL, body)).arrayBuffer()).byteLength
  } catch (error) {}
  console.log(got)
})()";

const JAVA: &str = "import java.net.URI; import java.net.http.*; import java.nio.file.*;
class Ask {
  public static void main(String[] words) {
    int got = 0;
    try {
      var request = HttpRequest.newBuilder(URI.create(System.getenv(\"LINGER_URL\"))).version(HttpClient.Version.HTTP_1_1);
      var upload = System.getenv(\"LINGER_UPLOAD\");
      if (upload != null) request.POST(HttpRequest.BodyPublishers.ofByteArray(Files.readAllBytes(Path.of(upload))));
      got = HttpClient.newHttpClient().send(request.build(), HttpResponse.BodyHandlers.ofByteArray()).body().length;
    } catch (Exception error) {}
    System.out.println(got);
  }
}";

impl RealClient {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Curl, Self::Wget, Self::Urllib, Self::Requests, Self::Node, Self::Java];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Curl => "curl",
            Self::Wget => "wget",
            Self::Urllib => "urllib",
            Self::Requests => "requests",
            Self::Node => "node",
            Self::Java => "java",
        }
    }

    /// A command that says whether the client can run here, and what has to be installed if not.
    const fn needs(self) -> (&'static [&'static str], &'static str) {
        match self {
            Self::Curl => (&["curl", "--version"], "curl"),
            Self::Wget => (&["wget", "--version"], "wget"),
            Self::Urllib => (&["python3", "-c", "import urllib.request"], "python3"),
            Self::Requests => (&["python3", "-c", "import requests"], "python3 with the package `requests`"),
            Self::Node => (&["node", "-e", "fetch"], "Node 18 or later"),
            Self::Java => (&["java", "--source", "11", "--version"], "a JDK, 11 or later"),
        }
    }

    /// Checks that the client can run here.
    ///
    /// # Errors
    /// Returns `NotFound`, with what has to be installed.
    pub(crate) fn check(self) -> io::Result<()> {
        let (words, what) = self.needs();
        let null = Stdio::null;
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).stdin(null()).stdout(null()).stderr(null());
        match command.status() {
            Ok(status) if status.success() => Ok(()),
            _ => {
                let told = format!("the client `{self}` cannot run here: it needs {what}");
                Err(io::Error::new(io::ErrorKind::NotFound, told))
            }
        }
    }

    fn command(self, source: Option<&File>) -> Command {
        let of = |program: &str, words: &[&str]| {
            let mut command = Command::new(program);
            command.args(words);
            command
        };
        match self {
            Self::Curl => of("/bin/sh", &["-c", CURL]),
            Self::Wget => of("/bin/sh", &["-c", WGET]),
            Self::Urllib => of("python3", &["-c", URLLIB]),
            Self::Requests => of("python3", &["-c", REQUESTS]),
            Self::Node => of("node", &["-e", NODE]),
            Self::Java => of("java", &["--source", "11", &source.map_or_else(String::new, path)]),
        }
    }
}

impl Named for RealClient {
    const WHAT: &'static str = "client";

    fn names() -> Vec<&'static str> {
        Self::ALL.iter().map(|client| client.name()).collect()
    }

    fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|client| client.name() == name)
    }
}

impl fmt::Display for RealClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The client of a cell: a model of one, or a real one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CellClient {
    /// The lab's own client, with this program and system.
    Model(ClientModel),
    /// A client that people use.
    Real(RealClient),
}

impl CellClient {
    /// Whether it is the lab's own client, as it usually is.
    pub fn is_usual(self) -> bool {
        self == Self::default()
    }

    /// The model; the usual one for a real client.
    pub fn model(self) -> ClientModel {
        if let Self::Model(model) = self { model } else { ClientModel::default() }
    }

    /// The names; those of models can be joined by `+`.
    pub fn names() -> Vec<&'static str> {
        ClientModel::NAMES.into_iter().chain(RealClient::names()).collect()
    }
}

impl Default for CellClient {
    fn default() -> Self {
        Self::Model(ClientModel::default())
    }
}

impl FromStr for CellClient {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(real) = RealClient::by_name(text) {
            return Ok(Self::Real(real));
        }
        let real = || format!(", and {}", RealClient::names().join(", "));
        text.parse().map(Self::Model).map_err(|error: String| error + &real())
    }
}

impl fmt::Display for CellClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Model(model) => fmt::Display::fmt(model, f),
            Self::Real(real) => fmt::Display::fmt(real, f),
        }
    }
}

/// The path of an open file, for other processes of this user. It needs no name, so that nothing is left behind.
pub(crate) fn path(file: &File) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd())
}

/// A file in memory.
pub(crate) fn nameless(content: &[u8]) -> io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("linger-lab", MemfdFlags::CLOEXEC)?);
    file.write_all(content)?;
    Ok(file)
}

/// What all trials of a cell with a real client have in common.
#[derive(Debug)]
pub(crate) struct RealTrials {
    client: RealClient,
    /// Bytes of the body that it is to get.
    body: u64,
    timeout: Duration,
    upload: Option<File>,
    source: Option<File>,
}

impl RealTrials {
    /// # Errors
    /// Returns the errors of [`RealClient::check`] and of making files in memory.
    pub(crate) fn new(
        client: RealClient,
        body: u64,
        upload: Option<u64>,
        timeout: Duration,
    ) -> io::Result<Self> {
        client.check()?;
        let upload = upload.map(|bytes| nameless(&vec![b'u'; usize::try_from(bytes).unwrap_or(usize::MAX)]));
        let source = (client == RealClient::Java).then(|| nameless(JAVA.as_bytes()));
        Ok(Self { client, body, timeout, upload: upload.transpose()?, source: source.transpose()? })
    }

    /// Runs the client once. What it prints is the number of bytes that it was given.
    pub(crate) fn attempt(&self, server: SocketAddr, namespace: &Namespace, stop: &Stop) -> Attempt {
        let started = Instant::now();
        let got = self.run(server, namespace, stop);
        let (fate, received, error) = match got {
            Ok(got) if got >= self.body => (Fate::Complete, got, None),
            Ok(0) => (Fate::ResetBeforeAny, 0, None),
            Ok(got) => (Fate::ResetAfterSome, got, None),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => (Fate::TimedOut, 0, Some(error)),
            Err(error) => (Fate::Failed, 0, Some(error)),
        };
        let elapsed = started.elapsed();
        Attempt { fate, received, expected: Some(self.body), reset: false, write_error: None, error, elapsed }
    }

    fn run(&self, server: SocketAddr, namespace: &Namespace, stop: &Stop) -> io::Result<u64> {
        let mut said = nameless(&[])?;
        let mut command = self.client.command(self.source.as_ref());
        command
            .env("LINGER_URL", format!("http://{server}/"))
            .env_remove("http_proxy")
            .env_remove("HTTP_PROXY");
        match &self.upload {
            Some(upload) => command.env("LINGER_UPLOAD", path(upload)),
            None => command.env_remove("LINGER_UPLOAD"),
        };
        command.stdin(Stdio::null()).stdout(said.try_clone()?).stderr(Stdio::null());
        let program = Program::start(namespace, command, &HostNames::new([("server", server.ip())]))?;
        if program.wait(stop, Some(self.timeout))?.is_none() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut text = String::new();
        said.rewind()?;
        said.read_to_string(&mut text)?;
        let unclear = || io::Error::other(format!("`{}` printed no number: {text:?}", self.client));
        text.trim().parse().map_err(|_| unclear())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_named_as_they_are_shown_and_a_wrong_one_lists_all() {
        for name in ["usual", "sends-first+discards", "curl", "requests", "java"] {
            assert_eq!(name.parse::<CellClient>().unwrap().to_string(), name);
        }
        let error = "lynx".parse::<CellClient>().unwrap_err();
        assert!(CellClient::names().iter().all(|name| error.contains(name)), "{error}");
        assert!("curl+discards".parse::<CellClient>().is_err());
    }
}
