//! The emulated link beside the kernel's own netem, in the same kernel: `cargo xtask bench netem`.
//!
//! Needs a kernel with `sch_netem`, and `tc`. Both are asked for the same and measured by the same datagrams.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use linger_lab::{Bed, BedOptions, GilbertElliott, Link, Loss, Path, Rate, wilson};
use linger_netns::Namespace;
use linger_testing::{HOSTS, Isolation, two_hosts};

const PORT: u16 = 9_000;
/// Ethernet, IPv4 and UDP headers, which both count in their rate.
const HEADERS: usize = 42;

fn main() -> io::Result<()> {
    if let Err(refused) = Isolation::prepare().enter() {
        println!("skipped: {refused}");
        return Ok(());
    }
    if let Err(reason) = Netem::new("delay 1ms") {
        println!("skipped: no netem here: {reason}");
        return Ok(());
    }
    delay()?;
    rate()?;
    loss("loss 5%", Loss::Each(0.05), "loss random 5%")?;
    let bursts = GilbertElliott { p: 0.02, r: 0.25, bad: 1.0, good: 0.0 };
    loss("bursts 2% 25%", Loss::Bursts(bursts), "loss gemodel 2% 25%")
}

/// Two sockets whose datagrams from the first to the second cross a link, and what keeps that link.
struct Connected<T> {
    from: UdpSocket,
    to: UdpSocket,
    link: T,
}

fn connected(from: UdpSocket, to: UdpSocket) -> io::Result<(UdpSocket, UdpSocket)> {
    from.connect(to.local_addr()?)?;
    to.set_read_timeout(Some(Duration::from_millis(500)))?;
    Ok((from, to))
}

fn emulated(path: Path) -> io::Result<Connected<Bed>> {
    let link = Link { name: "bench".into(), paths: [path, Path::default()], ..Link::default() };
    let bed = Bed::new(&link, BedOptions { seed: 2, ..BedOptions::default() })?;
    let at = |address| move || UdpSocket::bind(SocketAddr::new(address, PORT));
    let (from, to) =
        connected(bed.server.run(at(bed.server_address))??, bed.client.run(at(bed.client_address))??)?;
    Ok(Connected { from, to, link: bed })
}

impl Connected<Bed> {
    /// Says how many frames this machine lost, not the link: with any, the comparison is not valid.
    fn stop(self) -> io::Result<()> {
        let accidents = self.link.stop()?.map_or(0, |report| report.accidents);
        if accidents > 0 {
            println!(
                "NOT VALID: this machine lost {accidents} frames of the emulator's: it is too slow or too busy"
            );
        }
        Ok(())
    }
}

struct Netem;

impl Netem {
    /// A veth pair whose first end has a netem with these words.
    #[allow(clippy::new_ret_no_self)]
    fn new(words: &str) -> Result<Connected<[Namespace; 2]>, String> {
        let told = |error: io::Error| error.to_string();
        let hosts = two_hosts();
        let at = |number: usize| move || UdpSocket::bind(SocketAddr::new(HOSTS[number], PORT));
        let bound = |number: usize| hosts[number].run(at(number)).and_then(|bound| bound).map_err(told);
        let (from, to) = connected(bound(0)?, bound(1)?).map_err(told)?;
        // Neighbours find each other before anything is lost.
        from.send(&[0; 8]).map_err(told)?;
        to.recv(&mut [0; 8]).map_err(told)?;
        let line = format!("qdisc add dev eth0 root netem limit 100000 {words}");
        let added = hosts[0].run(move || Command::new("tc").args(line.split(' ')).output());
        let added = added.and_then(|added| added).map_err(told)?;
        if !added.status.success() {
            return Err(String::from_utf8_lossy(&added.stderr).trim().to_owned());
        }
        Ok(Connected { from, to, link: hosts })
    }
}

/// What came of each datagram: how long it took, or nothing. And when the first and the last came.
struct Arrivals {
    took: Vec<Option<Duration>>,
    between: Duration,
}

/// Sends so many datagrams, `batch` at a time, and waits `gap` behind each batch.
fn measure<T>(
    lane: &Connected<T>,
    count: usize,
    length: usize,
    batch: usize,
    gap: Duration,
) -> io::Result<Arrivals> {
    let started = Instant::now();
    let (from, to) = (&lane.from, &lane.to);
    thread::scope(|scope| {
        let receiver = scope.spawn(move || {
            let (mut took, mut arrivals) = (vec![None; count], None);
            let mut datagram = [0; 2_000];
            while took[count - 1].is_none() {
                if to.recv(&mut datagram).is_err() {
                    break;
                }
                let now = started.elapsed();
                let word =
                    |at: usize| u64::from_le_bytes(datagram[at..at + 8].try_into().unwrap_or_default());
                took[word(0) as usize] = Some(now.saturating_sub(Duration::from_nanos(word(8))));
                arrivals = Some((arrivals.map_or(now, |(first, _)| first), now));
            }
            Arrivals { took, between: arrivals.map_or(Duration::ZERO, |(first, last)| last - first) }
        });
        let mut datagram = vec![0; length];
        for number in 0..count {
            datagram[..8].copy_from_slice(&(number as u64).to_le_bytes());
            datagram[8..16].copy_from_slice(&(started.elapsed().as_nanos() as u64).to_le_bytes());
            from.send(&datagram)?;
            if number % batch == batch - 1 {
                thread::sleep(gap);
            }
        }
        Ok(receiver.join().expect("the receiver does not panic"))
    })
}

/// A value with its 95% interval.
#[derive(Clone, Copy)]
struct Estimate {
    value: f64,
    low: f64,
    high: f64,
}

impl Estimate {
    /// The mean of these, each independent of the others.
    fn mean(values: &[f64], quantile: f64) -> Self {
        let count = values.len() as f64;
        let value = values.iter().sum::<f64>() / count;
        let variance = values.iter().map(|one| (one - value).powi(2)).sum::<f64>() / (count - 1.0).max(1.0);
        let off = quantile * (variance / count).sqrt();
        Self { value, low: value - off, high: value + off }
    }

    fn overlaps(self, other: Self) -> bool {
        self.low <= other.high && other.low <= self.high
    }
}

fn row(what: &str, unit: &str, asked: f64, [emulator, netem]: [Estimate; 2], agrees: bool) {
    let shown = |it: Estimate| format!("{:.2} ({:.2} to {:.2})", it.value, it.low, it.high);
    println!(
        "{what:<22} asked {asked:.2} {unit:<8} emulator {:<26} netem {:<26} {}",
        shown(emulator),
        shown(netem),
        if agrees { "agree" } else { "DIFFER" }
    );
}

/// Medians, with the order statistics that bound them.
fn delay() -> io::Result<()> {
    const DELAY: Duration = Duration::from_millis(20);
    fn median<T>(lane: &Connected<T>) -> io::Result<Estimate> {
        let seen = measure(lane, 1_000, 64, 1, Duration::from_millis(1))?;
        let mut all: Vec<f64> = seen.took.iter().flatten().map(|took| took.as_secs_f64() * 1e3).collect();
        all.sort_by(f64::total_cmp);
        let middle = all.len() as f64 / 2.0;
        let off = 0.98 * (all.len() as f64).sqrt();
        let at = |rank: f64| all.get(rank as usize).copied().unwrap_or(f64::NAN);
        Ok(Estimate { value: at(middle), low: at(middle - off), high: at(middle + off) })
    }
    let lane = emulated(Path { delay: DELAY, ..Path::default() })?;
    let emulator = median(&lane)?;
    lane.stop()?;
    let netem = median(&Netem::new("delay 20ms").map_err(io::Error::other)?)?;
    let agrees = (emulator.value - netem.value).abs() <= 1.0;
    row("delay, median", "ms", 20.0, [emulator, netem], agrees);
    Ok(())
}

fn rate() -> io::Result<()> {
    const LENGTH: usize = 1_400;
    fn rates<T>(lane: &Connected<T>) -> io::Result<Estimate> {
        let mut all = Vec::new();
        for _ in 0..5 {
            let seen = measure(lane, 200, LENGTH, 200, Duration::ZERO)?;
            // The first marks the beginning.
            let bytes = (seen.took.iter().flatten().count() - 1) * (LENGTH + HEADERS);
            all.push(bytes as f64 * 8.0 / seen.between.as_secs_f64() / 1e6);
        }
        // Student's t for four degrees of freedom.
        Ok(Estimate::mean(&all, 2.78))
    }
    let lane = emulated(Path { rate: Some(Rate(5_000_000)), ..Path::default() })?;
    let emulator = rates(&lane)?;
    lane.stop()?;
    let netem = rates(&Netem::new("rate 5mbit").map_err(io::Error::other)?)?;
    let agrees = (emulator.value / netem.value - 1.0).abs() <= 0.02;
    row("rate", "Mbit/s", 5.0, [emulator, netem], agrees);
    Ok(())
}

/// The part that is lost, and how many are lost in a row.
fn loss(what: &str, loss: Loss, words: &str) -> io::Result<()> {
    const COUNT: usize = 40_000;
    fn losses<T>(lane: &Connected<T>) -> io::Result<[Estimate; 2]> {
        let seen = measure(lane, COUNT, 64, 10, Duration::from_millis(3))?;
        let runs: Vec<f64> = seen
            .took
            .split(Option::is_some)
            .map(|run| run.len() as f64)
            .filter(|length| *length > 0.0)
            .collect();
        let lost: f64 = runs.iter().sum();
        let value = 100.0 * lost / COUNT as f64;
        let runs = Estimate::mean(&runs, 1.96);
        // Losses of one burst are not independent: the interval is that of so many bursts, each of the mean length.
        let bursts = lost / runs.value;
        let (low, high) = wilson(bursts as u64, (COUNT as f64 / runs.value) as u64);
        Ok([Estimate { value, low: 100.0 * low, high: 100.0 * high }, runs])
    }
    let length = match loss {
        Loss::Each(part) => 1.0 / (1.0 - part),
        Loss::Bursts(model) => 1.0 / model.r,
    };
    let asked = 100.0 * loss.rate();
    let lane = emulated(Path { loss, ..Path::default() })?;
    let emulator = losses(&lane)?;
    lane.stop()?;
    let netem = losses(&Netem::new(words).map_err(io::Error::other)?)?;
    row(what, "%", asked, [emulator[0], netem[0]], emulator[0].overlaps(netem[0]));
    row("  packets in a row", "", length, [emulator[1], netem[1]], emulator[1].overlaps(netem[1]));
    Ok(())
}
