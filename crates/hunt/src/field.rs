//! Where stories are played: against a server that is hunted, or by a server against a client that is hunted.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use linger_lab::Stop;
use linger_netns::Counters;
use linger_verdict::Verdict;

use crate::arena::Arena;
use crate::client::play;
use crate::generate::Ranges;
use crate::judge::{Unjudged, judge};
use crate::learn::Plain;
use crate::report::{HuntReport, LostResponse, SearchEnd, Searched};
use crate::story::Story;

/// What came of one story.
#[derive(Clone, Debug)]
pub(crate) struct StoryTrial {
    pub(crate) verdict: Result<Verdict, Unjudged>,
    /// What was lost, if the verdict says that something was.
    pub(crate) lost: LostResponse,
    /// The client's address; `None` if there was no connection.
    pub(crate) client: Option<SocketAddr>,
    pub(crate) load: Load,
}

/// What a trial tells of how much can be done at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    Light,
    AsBefore,
    TooMuch,
}

/// What the kernel counted on both sides.
#[derive(Clone, Debug, Default)]
pub(crate) struct SideCounters {
    pub(crate) server: Counters,
    /// `None` where both sides are one, and where a server is hunted.
    pub(crate) client: Option<Counters>,
}

impl SideCounters {
    pub(crate) fn since(&self, before: &Self) -> Self {
        let client = self.client.as_ref();
        Self {
            server: self.server.since(&before.server),
            client: client.map(|after| after.since(before.client.as_ref().unwrap_or(&Counters::default()))),
        }
    }
}

/// What a thread has entered.
pub(crate) type Inside = Option<usize>;

/// A place for trials.
pub(crate) trait TrialField: Sync {
    /// The names of the links, the simplest first.
    fn links(&self) -> Vec<Option<String>>;
    /// The time from the beginning of a trial to that of the next.
    fn spacing(&self) -> Duration;
    /// From what stories are drawn.
    fn ranges(&self) -> Ranges;
    /// Plays a story in this thread.
    ///
    /// # Errors
    /// Returns why this machine cannot play.
    fn play(&self, story: &Story, inside: &mut Inside, halt: &Stop) -> io::Result<StoryTrial>;
    /// What the kernel has counted on a link so far; `None` where others use it, too.
    fn counters(&self, link: Option<&str>) -> Option<SideCounters>;
    /// How the server that is hunted ended, and the end of what it printed; `None` if it did not.
    fn ended(&self) -> Option<(String, String)>;
    /// The server's address.
    fn address(&self) -> SocketAddr;
    /// A report without a search.
    fn blank(&self) -> HuntReport;
    /// Ends servers and links.
    fn end(self: Box<Self>);
}

/// Servers that are hunted, one for each link.
#[derive(Debug)]
pub(crate) struct Servers {
    pub(crate) arenas: Vec<Arena>,
    pub(crate) plain: Plain,
    /// Whether requests have bodies.
    pub(crate) bodies: bool,
}

impl Servers {
    fn at(&self, link: Option<&str>) -> Option<(usize, &Arena)> {
        self.arenas.iter().enumerate().find(|(_, arena)| arena.link.as_deref() == link)
    }
}

impl TrialField for Servers {
    fn links(&self) -> Vec<Option<String>> {
        self.arenas.iter().map(|arena| arena.link.clone()).collect()
    }

    fn spacing(&self) -> Duration {
        self.plain.waits.spacing
    }

    fn ranges(&self) -> Ranges {
        let (half_closes, bodies) = (self.plain.half_closes, self.bodies);
        Ranges { half_closes, bodies, links: self.links(), ..Ranges::default() }
    }

    fn play(&self, story: &Story, inside: &mut Inside, halt: &Stop) -> io::Result<StoryTrial> {
        let first = self.arenas.first().map(|arena| (0, arena));
        let (at, arena) = self.at(story.link.as_deref()).or(first).ok_or(io::ErrorKind::NotFound)?;
        // A thread goes from one network to another as its stories do.
        if *inside != Some(at) {
            arena.enter()?;
            *inside = Some(at);
        }
        let played = play(&arena.site, &story.schedule, &self.plain.waits, halt);
        let verdict = judge(&played, &self.plain.for_each(&story.schedule));
        let load = match verdict {
            Err(Unjudged::NotConnected) => Load::TooMuch,
            Err(Unjudged::Silent) if played.answers.is_empty() && played.whole_requests > 0 => Load::TooMuch,
            Err(_) => Load::AsBefore,
            Ok(_) => Load::Light,
        };
        Ok(StoryTrial { verdict, lost: LostResponse::of(&played), client: played.client, load })
    }

    fn counters(&self, link: Option<&str>) -> Option<SideCounters> {
        let server = self.at(link)?.1.counters()?;
        Some(SideCounters { server, client: None })
    }

    fn ended(&self) -> Option<(String, String)> {
        self.arenas.iter().find_map(|arena| Some((arena.ended(Duration::ZERO)?, arena.tail())))
    }

    fn address(&self) -> SocketAddr {
        self.arenas.first().map_or(SocketAddr::from(([0; 4], 0)), |arena| arena.site.address)
    }

    fn blank(&self) -> HuntReport {
        let site = |arena: &Arena| arena.site.host.clone() + &arena.site.path;
        HuntReport {
            client: None,
            response_bytes: self.plain.bytes,
            status: self.plain.get.status,
            site: self.arenas.first().map_or(String::new(), site),
            framed: self.plain.framed,
            half_closes: self.plain.half_closes,
            searched: Searched::default(),
            found: None,
            unrepeated: Vec::new(),
            at_risk: None,
            ended: SearchEnd::Found,
        }
    }

    fn end(self: Box<Self>) {
        self.arenas.into_iter().for_each(Arena::end);
    }
}
