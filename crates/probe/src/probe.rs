//! A probe from the first request to the last answer: which questions, in which order, of which address.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socket2::SockAddr;

use crate::budget::{Cost, HEADS, QUIET, Spent, cost, is_asked_over_http2, is_quiet, sent_once};
use crate::check::Check;
use crate::checks::ask;
use crate::config::ProbeConfig;
use crate::counters::CounterSource;
use crate::deadline::Deadline;
use crate::dial;
use crate::dialect::Dialect;
use crate::direction::instead;
use crate::error::ProbeError;
use crate::finding::{ProbeReport, UnreachedAddress};
use crate::judge::is_gateways_failure;
use crate::learn::plain;
use crate::model::{Lengths, Model};
use crate::prober::Prober;
use crate::reload::by::ReloadBy;
use crate::route::Route;
use crate::seen::TrialResult;
use crate::target::{Scheme, Target, is_here, is_near};
use crate::tunnel::Tunnel;
use crate::witness::Witness;

/// Asks a server all the questions of `config`. After each answer, calls `told` with the report so far.
///
/// # Errors
/// Returns an error if the target's name cannot be resolved, if no server can be reached there, or if the server does not
/// answer a plain request. Returns [`ProbeError::NotYours`], [`ProbeError::NotSafe`] and [`ProbeError::NoPayload`]
/// before anything is sent.
pub fn probe(
    target: &Target,
    config: &ProbeConfig,
    mut told: impl FnMut(&ProbeReport),
) -> Result<ProbeReport, ProbeError> {
    let name = target.to_string();
    if target.scheme == Scheme::Tcp && config.payload.is_empty() {
        return Err(ProbeError::NoPayload);
    }
    let deadline = Deadline::after(config.within);
    let entry = enter(target, config, &deadline)?;
    let (mut prober, plain, reached) = reach(target, config, entry, deadline)?;
    let Reached { unwatched, unreached } = reached;
    let asked = questions(config, prober.active);
    prober.config.repeat = affordable(&prober, &asked);
    if let Some(witness) = &prober.witness {
        // Resets of the plain request belong to no question.
        witness.seen();
    }
    let mut report = ProbeReport {
        target: name,
        address: shown(&prober.address),
        unreached,
        proxy: config.proxy.as_ref().map(ToString::to_string),
        server: plain.server.clone(),
        status: plain.status,
        location: plain.location.clone(),
        protocol: match target.scheme {
            Scheme::Http | Scheme::Https if config.http2 => "HTTP/2",
            Scheme::Http | Scheme::Https => "HTTP/1.1",
            Scheme::Fcgi => "FastCGI",
            Scheme::Tcp => "TCP",
        },
        response_bytes: plain.got,
        is_active: prober.active,
        is_short: prober.model.is_short,
        framing: plain.framing,
        unwatched,
        findings: Vec::new(),
        connections: 0,
        sent_bytes: 0,
        received_bytes: 0,
    };
    for check in asked {
        tracing::info!(check = check.name(), "asks");
        let mut finding = ask(&prober, check);
        if let Some(witness) = &prober.witness {
            let seen = witness.seen();
            finding.resets = seen.own;
            // The resets that a gateway met say which application it is that loses.
            finding.behind = if is_gateways_failure(finding.status) { seen.others } else { Vec::new() };
        }
        tracing::info!(
            check = check.name(),
            answer = finding.answer.name(),
            trials = finding.trials,
            "answered"
        );
        report.findings.push(finding);
        told(&report);
    }
    (report.connections, report.sent_bytes, report.received_bytes) = prober.spent.so_far();
    Ok(report)
}

/// Where a probe goes, and whether it may ask more than a visitor does there.
struct WayIn {
    route: Route,
    active: bool,
}

/// Finds the addresses, and refuses what is not to be asked of them.
fn enter(target: &Target, config: &ProbeConfig, deadline: &Deadline) -> Result<WayIn, ProbeError> {
    let name = || target.to_string();
    let is_http = matches!(target.scheme, Scheme::Http | Scheme::Https) && target.unix.is_none();
    if config.http2 && !matches!(target.scheme, Scheme::Http | Scheme::Https) {
        return Err(ProbeError::NotHttp(name()));
    }
    let through_proxy = |reason| ProbeError::NotThroughProxy { target: name(), reason };
    if config.proxy.is_some() {
        if !is_http {
            return Err(through_proxy("that is for http:// and https:// with a host"));
        }
        if target.scheme == Scheme::Http && config.http2 {
            return Err(through_proxy("in HTTP/2 that is for https://"));
        }
        if target.scheme == Scheme::Http && !config.connect_to.is_empty() {
            return Err(through_proxy("with http:// the proxy decides where to connect"));
        }
    }
    let route = Route::find(target, config, deadline).map_err(|source| match source.kind() {
        io::ErrorKind::TimedOut => {
            ProbeError::Unresolved { target: name(), seconds: config.within.as_secs_f64() }
        }
        _ => ProbeError::Resolve { target: name(), source },
    })?;
    // Behind a proxy the server may be anywhere, also if the proxy is here.
    let behind = config.proxy.as_ref().map(|_| instead(&config.connect_to, &target.host, target.port).0);
    let is_all = |is: fn(&SockAddr) -> bool| {
        route.addresses.iter().all(is) && behind.as_ref().is_none_or(|host| is_literally(host, is))
    };
    if config.hostile && !config.own_server && !is_all(is_near) {
        return Err(ProbeError::NotYours(name()));
    }
    let active = config.active.unwrap_or_else(|| is_all(is_here));
    // A method that may change something is not sent to a server that others use, too.
    match config.method.as_ref().filter(|method| !active && !method.is_safe()) {
        Some(method) => Err(ProbeError::NotSafe(method.name().to_owned())),
        None => Ok(WayIn { route, active }),
    }
}

/// Whether a host that somebody else resolves is `localhost`, or an address of which that can be said.
fn is_literally(host: &str, is: fn(&SockAddr) -> bool) -> bool {
    let ip = if host == "localhost" { Ok(IpAddr::from([127, 0, 0, 1])) } else { host.parse() };
    ip.is_ok_and(|ip| is(&SocketAddr::new(ip, 0).into()))
}

/// What became known on the way.
struct Reached {
    unwatched: Option<String>,
    unreached: Vec<UnreachedAddress>,
}

/// Connects to the first address that answers, makes a plain request there, and says what is known after it.
fn reach(
    target: &Target,
    config: &ProbeConfig,
    entry: WayIn,
    deadline: Deadline,
) -> Result<(Prober, TrialResult, Reached), ProbeError> {
    let name = target.to_string();
    let WayIn { route, active } = entry;
    let spent = Arc::new(Spent::default());
    let (mut left, mut unreached) = (route.addresses, Vec::new());
    let mut failed = ProbeError::NoAnswer { target: name.clone(), reason: "it has no address".into() };
    let missed = |address: &SockAddr, reason: &dyn std::fmt::Display| UnreachedAddress {
        address: shown(address),
        reason: reason.to_string(),
    };
    while !left.is_empty() {
        let first = match dial::first(&left, config.patience, &deadline) {
            Ok(first) => first,
            Err(mut all) => {
                let Some((_, source)) = all.pop() else { break };
                failed = ProbeError::Connect { target: name, source };
                break;
            }
        };
        (0..first.attempts).for_each(|_| spent.connected());
        unreached.extend(first.failed.iter().map(|(index, error)| missed(&left[*index], error)));
        unreached.extend(first.silent.iter().map(|index| missed(&left[*index], &"no answer yet")));
        let address = left[first.index].clone();
        let (mut prober, unwatched) = prober(target, config, address.clone(), route.port, active);
        prober.first = Mutex::new(Some(first.dialed));
        (prober.deadline, prober.spent) = (deadline.clone(), spent.clone());
        match plain(&prober, &name) {
            Ok((seen, lengths)) => {
                (prober.plain, prober.round_trip) = (seen.elapsed, seen.round_trip);
                let lengths = config.expect.map(Lengths::exactly).or(lengths);
                prober.expected = config.expect.or(seen.expected).or(lengths.map(|lengths| lengths.shortest));
                prober.model = Model::new(&seen, lengths);
                return Ok((prober, seen, Reached { unwatched, unreached }));
            }
            // It takes connections, and then no TLS: another may.
            Err(ProbeError::Connect { target, source }) => {
                unreached.push(missed(&address, &source));
                let mut tried: Vec<usize> = first.failed.iter().map(|(index, _)| *index).collect();
                tried.push(first.index);
                let mut index = 0;
                left.retain(|_| {
                    index += 1;
                    !tried.contains(&(index - 1))
                });
                failed = ProbeError::Connect { target, source };
            }
            Err(error) => return Err(error),
        }
    }
    if deadline.is_over() {
        return Err(ProbeError::OutOfTime {
            target: target.to_string(),
            seconds: config.within.as_secs_f64(),
        });
    }
    Err(failed)
}

fn shown(address: &SockAddr) -> String {
    match (address.as_socket(), address.as_pathname()) {
        (Some(address), _) => address.to_string(),
        (None, Some(path)) => path.display().to_string(),
        (None, None) => "a unix socket".into(),
    }
}

fn prober(
    target: &Target,
    config: &ProbeConfig,
    address: SockAddr,
    port: Option<u16>,
    active: bool,
) -> (Prober, Option<String>) {
    let counters = match config.pid {
        Some(id) => CounterSource::Process(id),
        // A unix socket is no part of TCP.
        None if is_here(&address) && !address.is_unix() => CounterSource::Here,
        None => CounterSource::Nowhere,
    };
    // On a unix socket there are no TCP resets to watch.
    let watched = config.watch && target.unix.is_none() && !matches!(counters, CounterSource::Nowhere);
    let port = port.filter(|_| config.pid.is_none());
    let (witness, unwatched) = match watched.then(|| Witness::open(port)) {
        Some(Ok(witness)) => (Some(witness), None),
        Some(Err(error)) => (None, Some(error)),
        None => (None, None),
    };
    let mut config = config.clone();
    if !active {
        config.most = config.most.min(QUIET);
    }
    let prober = Prober {
        active,
        address,
        tls_host: (target.scheme == Scheme::Https).then(|| target.host.clone()),
        tunnel: Tunnel::new(target, &config),
        first: Mutex::default(),
        dialect: Dialect::new(target, &config),
        counters,
        witness,
        round_trip: Duration::ZERO,
        plain: Duration::from_millis(50),
        expected: config.expect,
        deadline: Deadline::after(config.within),
        config,
        model: Model::default(),
        spent: Arc::default(),
    };
    (prober, unwatched)
}

/// What a probe is going to ask, as is known before the first byte.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ProbePlan {
    /// The checks, each with the most that it costs. One that is left out because it would ask more than a visitor does has
    /// `None`.
    pub costs: Vec<(Check, Option<Cost>)>,
    /// The most connections that finding an address and the plain requests take.
    pub plain_connections: u64,
    /// Whether the server is told to stop, so that nobody is served afterwards.
    pub is_stop: bool,
}

/// What a probe of `target` is going to ask.
///
/// # Errors
/// Returns an error if the target's name cannot be resolved, and those of [`probe`] that are known before anything is sent.
pub fn will_ask(target: &Target, config: &ProbeConfig) -> Result<ProbePlan, ProbeError> {
    let WayIn { route, active } = enter(target, config, &Deadline::after(config.within))?;
    let cost = |check| (active || is_quiet(check)).then(|| cost(check, config, active));
    let costs = questions(config, active).into_iter().map(|check| (check, cost(check))).collect();
    // Three plain requests where responses have no framing; of other addresses the first attempt may be in vain.
    let plain_connections = 3 + (route.addresses.len() as u64 - 1);
    let is_stop = config.reload.as_ref().is_some_and(ReloadBy::is_stop);
    Ok(ProbePlan { costs, plain_connections, is_stop })
}

/// The questions of a quiet probe, the most telling first: what may be sent and read can be used up before the last.
const QUIET_ORDER: [Check; 6] = [
    Check::UnreadBody,
    Check::LateByte,
    Check::Pipelined,
    Check::TrailingBytes,
    Check::LargeResponse,
    Check::HalfClose,
];

fn questions(config: &ProbeConfig, active: bool) -> Vec<Check> {
    let chosen = |check: &Check| {
        (config.only.is_empty() || config.only.contains(check))
            && !config.except.contains(check)
            && (config.hostile || !check.is_hostile())
            // Nobody's server is told to reload unless that was asked for.
            && (*check != Check::Reload || config.reload.is_some() || config.only.contains(check))
            // What has no meaning over HTTP/2 is told to those who name it.
            && (!config.http2 || is_asked_over_http2(*check) || config.only.contains(check) || check.is_hostile())
    };
    let all = Check::ALL.into_iter();
    if active {
        return all.filter(chosen).collect();
    }
    QUIET_ORDER.into_iter().chain(all.filter(|check| !QUIET_ORDER.contains(check))).filter(chosen).collect()
}

/// How often each question is asked: as often as configured, but a quiet probe asks all of them once before it asks any of
/// them twice.
fn affordable(prober: &Prober, asked: &[Check]) -> u32 {
    let wanted = prober.config.repeat.max(1);
    if prober.active {
        return wanted;
    }
    let once = asked.iter().copied().filter(|check| is_quiet(*check));
    let trials: u64 = once.map(|check| if check == Check::UnreadBody { 2 } else { 1 }).sum();
    let sent: u64 =
        asked.iter().filter(|check| is_quiet(**check)).map(|check| sent_once(*check, &prober.config)).sum();
    let (_, spent, read) = prober.spent.so_far();
    let of = |budget: u64, each: u64| budget.checked_div(each).unwrap_or(u64::from(wanted));
    let by_reading = of(QUIET.saturating_sub(read), trials * (prober.expected.unwrap_or(0) + HEADS));
    let by_sending = of(QUIET.saturating_sub(spent), sent + trials * HEADS);
    u32::try_from(by_reading.min(by_sending)).unwrap_or(wanted).clamp(1, wanted)
}
