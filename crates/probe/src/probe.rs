//! A probe from the first request to the last answer: which questions, in which order, of which address.

use std::time::{Duration, Instant};

use socket2::SockAddr;

use crate::budget::{Cost, HEADS, QUIET, Spent, cost, is_asked_over_http2, is_quiet, sent_once};
use crate::check::Check;
use crate::checks::ask;
use crate::config::ProbeConfig;
use crate::counters::CounterSource;
use crate::dialect::Dialect;
use crate::error::ProbeError;
use crate::finding::ProbeReport;
use crate::judge::is_gateways_failure;
use crate::learn::plain;
use crate::model::{Lengths, Model};
use crate::prober::Prober;
use crate::seen::TrialResult;
use crate::target::{Scheme, Target, is_here, is_near};
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
    let addresses = target
        .resolve(config.connect_to.as_ref())
        .map_err(|source| ProbeError::Resolve { target: name.clone(), source })?;
    if config.hostile && !config.own_server && !addresses.iter().all(is_near) {
        return Err(ProbeError::NotYours(name));
    }
    if target.scheme == Scheme::Tcp && config.payload.is_empty() {
        return Err(ProbeError::NoPayload);
    }
    refuse_unsafe(config, &addresses)?;
    refuse_other_than_http(target, config)?;
    let (mut prober, plain, unwatched) = reach(target, config, addresses)?;
    let asked = questions(config, prober.active);
    prober.config.repeat = affordable(&prober, &asked);
    if let Some(witness) = &prober.witness {
        // Resets of the plain request belong to no question.
        witness.seen();
    }
    let mut report = ProbeReport {
        target: name,
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

/// How long a connection to an address may take while there is another to try: three SYNs, the last after 3 s.
const ANOTHER: Duration = Duration::from_millis(3500);

/// Tries the addresses in their order. Returns what is known after a plain request to the first that can be reached, its
/// response, and why resets cannot be watched.
fn reach(
    target: &Target,
    config: &ProbeConfig,
    addresses: Vec<SockAddr>,
) -> Result<(Prober, TrialResult, Option<String>), ProbeError> {
    let name = target.to_string();
    let mut failed = ProbeError::NoAnswer { target: name.clone(), reason: "it has no address".into() };
    let last = addresses.len().saturating_sub(1);
    for (index, address) in addresses.into_iter().enumerate() {
        let (mut prober, unwatched) = prober(target, config, address);
        // One that nobody answers on, as of a network without IPv6, is not waited for while there is another.
        prober.connecting = if index < last { ANOTHER.min(config.patience) } else { config.patience };
        match plain(&prober, &name) {
            Ok((seen, lengths)) => {
                (prober.plain, prober.round_trip) = (seen.elapsed, seen.round_trip);
                let lengths = config.expect.map(Lengths::exactly).or(lengths);
                prober.expected = config.expect.or(seen.expected).or(lengths.map(|lengths| lengths.shortest));
                prober.model = Model::new(&seen, lengths);
                prober.connecting = config.patience;
                return Ok((prober, seen, unwatched));
            }
            Err(error @ ProbeError::Connect { .. }) => {
                tracing::info!(%error, "the next address");
                failed = error;
            }
            Err(error) => return Err(error),
        }
    }
    Err(failed)
}

fn prober(target: &Target, config: &ProbeConfig, address: SockAddr) -> (Prober, Option<String>) {
    let counters = match config.pid {
        Some(id) => CounterSource::Process(id),
        // A unix socket is no part of TCP.
        None if is_here(&address) && !address.is_unix() => CounterSource::Here,
        None => CounterSource::Nowhere,
    };
    // On a unix socket there are no TCP resets to watch.
    let watched = config.watch && target.unix.is_none() && !matches!(counters, CounterSource::Nowhere);
    let port = config.connect_to.as_ref().map_or(target.port, |(_, port)| *port);
    let port = config.pid.is_none().then_some(port);
    let (witness, unwatched) = match watched.then(|| Witness::open(port)) {
        Some(Ok(witness)) => (Some(witness), None),
        Some(Err(error)) => (None, Some(error)),
        None => (None, None),
    };
    let active = config.active.unwrap_or_else(|| is_here(&address));
    let mut config = config.clone();
    if !active {
        config.most = config.most.min(QUIET);
    }
    let prober = Prober {
        active,
        address,
        tls_host: (target.scheme == Scheme::Https).then(|| target.host.clone()),
        dialect: Dialect::new(target, &config),
        counters,
        witness,
        connecting: config.patience,
        round_trip: Duration::ZERO,
        plain: Duration::from_millis(50),
        expected: config.expect,
        config,
        model: Model::default(),
        spent: Spent::default(),
        began: Instant::now(),
    };
    (prober, unwatched)
}

/// The checks that a probe of `target` will ask, each with the most that it costs, as is known before the first byte. One that
/// is left out because it would ask more than a visitor does has `None`.
///
/// # Errors
/// Returns an error if the target's name cannot be resolved, and [`ProbeError::NotSafe`].
pub fn will_ask(target: &Target, config: &ProbeConfig) -> Result<Vec<(Check, Option<Cost>)>, ProbeError> {
    let addresses = target
        .resolve(config.connect_to.as_ref())
        .map_err(|source| ProbeError::Resolve { target: target.to_string(), source })?;
    refuse_unsafe(config, &addresses)?;
    refuse_other_than_http(target, config)?;
    let active = config.active.unwrap_or_else(|| addresses.iter().all(is_here));
    Ok(questions(config, active)
        .into_iter()
        .map(|check| (check, (active || is_quiet(check)).then(|| cost(check, config, active))))
        .collect())
}

/// A method that may change something is not sent to a server that others use, too.
fn refuse_unsafe(config: &ProbeConfig, addresses: &[SockAddr]) -> Result<(), ProbeError> {
    let active = config.active.unwrap_or_else(|| addresses.iter().all(is_here));
    match config.method.as_ref().filter(|method| !active && !method.is_safe()) {
        Some(method) => Err(ProbeError::NotSafe(method.name().to_owned())),
        None => Ok(()),
    }
}

fn refuse_other_than_http(target: &Target, config: &ProbeConfig) -> Result<(), ProbeError> {
    let is_http = matches!(target.scheme, Scheme::Http | Scheme::Https);
    if config.http2 && !is_http { Err(ProbeError::NotHttp(target.to_string())) } else { Ok(()) }
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
