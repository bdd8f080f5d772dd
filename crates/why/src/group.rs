//! Joins resets of one cause into one group: one process that died, one overloaded listener, one firewall.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use crate::owner::Owner;
use crate::surroundings::Drops;
use crate::timeline::{Timeline, TimelineCount};
use crate::{Cause, Class, Confidence, Examined, Finding, ports, timeouts};

/// Limit of groups. Further resets join one group for each cause.
const MAX_GROUPS: usize = 4_000;
/// Connections listed by name in each group.
const MAX_MEMBERS: usize = 1_000;
/// Connections listed by name in all groups together, about 3 MB.
const MAX_LISTED: usize = 20_000;
/// Resets of an ended process in different periods of this many nanoseconds count as two deaths.
const APART: u64 = 60_000_000_000;

/// Resets with one cause at one place.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Group {
    /// Why they were sent.
    pub cause: Cause,
    /// The causes that fit.
    pub candidates: Vec<Cause>,
    /// The best confidence among them.
    pub confidence: Confidence,
    /// Whether all of them were harmless.
    pub harmless: bool,
    /// The listener concerned; port 0 if there are several ports of one address, `None` if there are several addresses.
    pub listener: Option<SocketAddr>,
    /// The name that all clients have asked for, if it is one.
    pub asked_name: Option<String>,
    /// Who has to look into it.
    pub owner: Owner,
    /// How many connections were reset.
    pub connections: u64,
    /// Response bytes that never arrived, all together, as far as is visible.
    pub lost_response_bytes: u64,
    /// Request bytes that were never read, all together, as far as is visible.
    pub unread_request_bytes: u64,
    /// What clients sent to the listener in vain, where its accept queue was full.
    pub drops: Option<Drops>,
    /// The first reset's time, in nanoseconds since 1970.
    pub first_ns: u64,
    /// The last reset's time.
    pub last_ns: u64,
    /// What their times have in common, if they have.
    pub timing: Timing,
    /// The first connections: at most a thousand, and about 20,000 in all groups together.
    pub members: Vec<Member>,
    /// How many there were when.
    #[serde(skip)]
    pub timeline: Timeline,
    /// The clearest of them.
    #[serde(skip)]
    pub example: Finding,
}

impl Group {
    /// What the service is called: the name that its clients ask for, or what usually listens on its port.
    pub fn service(&self) -> Option<&str> {
        let port = self.listener.map_or(0, |listener| listener.port());
        self.asked_name.as_deref().or_else(|| ports::name_of(port))
    }

    /// The causes that would fit as well, by name.
    pub(crate) fn others(&self) -> String {
        let others: Vec<_> =
            self.candidates.iter().filter(|&&cause| cause != self.cause).map(|cause| cause.name()).collect();
        others.join(", ")
    }
}

/// What the times of a group's resets have in common. Times are in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Timing {
    /// The silence before each of them, and how far the resets differ from it, if all have one of 2 s or more and they differ by
    /// at most 1 %, or 0.1 s.
    pub silence: Option<(u64, u64)>,
    /// Whose default timeout that silence is.
    pub timeouts: Vec<&'static str>,
    /// The pause between two of them, if there are four or more and all pauses are equal within 5 %.
    pub period: Option<u64>,
}

/// Shorter silences are those of every exchange. Nanoseconds.
const LEAST_SILENCE: u64 = 2_000_000_000;
/// Resets that make a period.
const LEAST_PERIOD: usize = 4;

impl Timing {
    fn of(members: &[Member]) -> Self {
        let mut timing = Self::default();
        let mut silences: Vec<u64> = members.iter().filter_map(|member| member.silence_ns).collect();
        silences.sort_unstable();
        if let (Some(&least), Some(&most)) = (silences.first(), silences.last()) {
            let middle = silences[silences.len() / 2];
            let spread = (most - middle).max(middle - least);
            let together = spread <= (middle / 100).max(100_000_000);
            if silences.len() == members.len() && together && least >= LEAST_SILENCE {
                timing.silence = Some((middle, spread));
                timing.timeouts = timeouts::like(middle).collect();
            }
        }
        let mut times: Vec<u64> = members.iter().map(|member| member.time_ns).collect();
        times.sort_unstable();
        let mut pauses: Vec<u64> = times.windows(2).map(|two| two[1] - two[0]).collect();
        pauses.sort_unstable();
        if let (Some(&least), Some(&most)) = (pauses.first(), pauses.last())
            && times.len() >= LEAST_PERIOD
            && least >= 100_000_000
            && most - least <= least / 20
        {
            timing.period = Some(pauses[pauses.len() / 2]);
        }
        timing
    }
}

/// One connection of a group.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Member {
    /// The capture.
    pub file: String,
    /// The reset's frame.
    pub frame: u64,
    /// Who sent it.
    pub from: SocketAddr,
    /// Whom it was sent to.
    pub to: SocketAddr,
    /// When it was seen, in nanoseconds since 1970.
    pub time_ns: u64,
    /// How long nothing was sent before it, in nanoseconds.
    pub silence_ns: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct GroupKey {
    cause: Cause,
    is_reset: bool,
    class: Option<Class>,
    candidates: Vec<Cause>,
    harmless: bool,
    place: Option<(IpAddr, u16)>,
    ttl: Option<u8>,
    period: u64,
    asked_name: Option<String>,
}

/// Collects findings into groups.
#[derive(Debug, Default)]
pub struct Groups {
    index: HashMap<GroupKey, usize>,
    groups: Vec<Group>,
    listed: usize,
}

impl Groups {
    /// Adds a finding.
    pub fn add(&mut self, finding: Finding) {
        let mut key = key(&finding);
        if self.groups.len() >= MAX_GROUPS && !self.index.contains_key(&key) {
            (key.place, key.ttl, key.period, key.asked_name) = (None, None, 0, None);
        }
        let count = match finding.harmless {
            true => TimelineCount { harmful: 0, harmless: 1 },
            false => TimelineCount { harmful: 1, harmless: 0 },
        };
        let Some(&at) = self.index.get(&key) else {
            self.index.insert(key, self.groups.len());
            self.groups.push(Group {
                cause: finding.cause,
                candidates: finding.candidates.clone(),
                confidence: finding.confidence,
                harmless: finding.harmless,
                listener: Some(finding.listener()),
                asked_name: finding.asked_name.clone(),
                owner: Owner::of(&finding),
                connections: 1,
                lost_response_bytes: finding.lost_response_bytes.unwrap_or(0),
                unread_request_bytes: finding.unread_request_bytes.unwrap_or(0),
                drops: None,
                first_ns: finding.time_ns,
                last_ns: finding.time_ns,
                timing: Timing::default(),
                members: vec![member(&finding)],
                timeline: Timeline::of(finding.time_ns, count),
                example: finding,
            });
            return;
        };
        let group = &mut self.groups[at];
        group.connections += 1;
        group.timeline.add(finding.time_ns, count);
        group.owner = group.owner.and(Owner::of(&finding));
        if group.asked_name != finding.asked_name {
            group.asked_name = None;
        }
        group.first_ns = group.first_ns.min(finding.time_ns);
        group.last_ns = group.last_ns.max(finding.time_ns);
        group.lost_response_bytes += finding.lost_response_bytes.unwrap_or(0);
        group.unread_request_bytes += finding.unread_request_bytes.unwrap_or(0);
        group.listener = match group.listener {
            Some(listener) if listener == finding.listener() => Some(listener),
            Some(listener) if listener.ip() == finding.listener().ip() => Some((listener.ip(), 0).into()),
            _ => None,
        };
        if group.members.len() < MAX_MEMBERS && self.listed < MAX_LISTED {
            self.listed += 1;
            group.members.push(member(&finding));
        }
        if (finding.confidence, finding.evidence.len()) > (group.confidence, group.example.evidence.len()) {
            group.confidence = finding.confidence;
            group.example = finding;
        }
    }

    /// Notes what listeners have dropped in a capture, once all findings are added. Where several captures show a listener, the one
    /// that shows least counts: they may be views of the same packets.
    pub fn note_drops(&mut self, examined: &Examined) {
        if examined.drops.is_empty() {
            return;
        }
        for group in self.groups.iter_mut().filter(|group| group.cause == Cause::AcceptQueueOverflow) {
            let seen = group.listener.and_then(|listener| examined.drops.get(&listener));
            group.drops =
                [group.drops, seen.copied()].into_iter().flatten().min_by_key(|drops| drops.total());
        }
    }

    /// The groups: harmful ones first, the largest of them first.
    pub fn sorted(mut self) -> Vec<Group> {
        for group in &mut self.groups {
            group.timing = Timing::of(&group.members);
        }
        self.groups.sort_by_key(|group| {
            (group.harmless, std::cmp::Reverse(group.connections), group.example.time_ns, group.example.frame)
        });
        self.groups
    }
}

fn member(finding: &Finding) -> Member {
    Member {
        file: finding.file.clone(),
        frame: finding.frame,
        from: finding.from,
        to: finding.to,
        time_ns: finding.time_ns,
        silence_ns: finding.silence_ns,
    }
}

fn key(finding: &Finding) -> GroupKey {
    let listener = finding.listener();
    let (place, ttl) = match finding.cause {
        // One box answers for many hosts. Its TTL is the same for all of them.
        Cause::FirewallReject | Cause::Forged => (None, Some(finding.ttl)),
        Cause::PortClosed => (Some((listener.ip(), 0)), None),
        _ => (Some((listener.ip(), listener.port())), None),
    };
    let unknown = finding.cause == Cause::Unknown;
    // A name that clients ask for is one service, whatever addresses it has. What ails a listener, a host or the path, on the
    // other hand, meets all names there.
    let of_the_service = matches!(
        finding.cause,
        Cause::ClosedWithUnreadData
            | Cause::DataAfterClose
            | Cause::Aborted
            | Cause::ClientGaveUp
            | Cause::Finwait2Expired
            | Cause::CutShort
            | Cause::ClosedMidRequest
            | Cause::ClosedUnanswered
            | Cause::KeepAliveRace
            | Cause::WindowStuck
            | Cause::Unknown
    );
    let asked_name = finding.asked_name.clone().filter(|_| of_the_service);
    let place = place.filter(|_| asked_name.is_none());
    GroupKey {
        asked_name,
        cause: finding.cause,
        is_reset: finding.class.is_reset(),
        class: unknown.then_some(finding.class),
        candidates: if unknown { finding.candidates.clone() } else { Vec::new() },
        harmless: finding.harmless,
        place,
        ttl,
        period: if finding.cause == Cause::ProcessGone { finding.time_ns / APART } else { 0 },
    }
}
