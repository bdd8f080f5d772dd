//! Feeds damaged captures to the whole diagnosis. The same seed gives the same captures.
//!
//! `cargo run --release -p linger-why --example fuzz_captures -- ITERATIONS [SEED]`
//!
//! It takes the labelled captures, joins some, flips bits, changes lengths and whole fields, cuts, repeats
//! and reorders packets, and prints how far it has come. A panic ends it, with the iteration and the seed
//! that repeat it.

use std::path::Path;
use std::time::Instant;

use linger_packet::capture::{self, CaptureReader};
use linger_packet::{LinkType, pcapng};
use linger_why::{AnalyzerLimits, Groups, Tools, examine_reader, html, text};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let iterations: u64 =
        arguments.next().map_or(10_000, |text| text.parse().expect("a number of iterations"));
    let seed: u64 = arguments.next().map_or(1, |text| text.parse().expect("a number as seed"));
    let corpus = corpus();
    assert!(!corpus.is_empty(), "no captures to start from");
    let start = Instant::now();
    let (mut packets, mut resets, mut unreadable) = (0, 0, 0);
    for iteration in 0..iterations {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(iteration);
        let bytes = damaged(&corpus, &mut random);
        let outcome = std::panic::catch_unwind(|| look(&bytes));
        match outcome {
            Ok(Some((seen, found))) => {
                packets += seen;
                resets += found;
            }
            Ok(None) => unreadable += 1,
            Err(_) => panic!("iteration {iteration} of seed {seed}"),
        }
        if iteration % 1_000_000 == 999_999 {
            eprintln!("{} iterations, {:.0} s", iteration + 1, start.elapsed().as_secs_f64());
        }
    }
    println!(
        "{iterations} iterations, {packets} packets, {resets} resets judged, {unreadable} refused as no capture, \
         no panic, {:.0} s",
        start.elapsed().as_secs_f64()
    );
}

/// The frames of every labelled capture.
fn corpus() -> Vec<Vec<(u64, Vec<u8>)>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("captures");
    let folders = [directory.clone(), directory.join("http2")];
    let mut paths: Vec<_> = folders
        .iter()
        .flat_map(|folder| std::fs::read_dir(folder).expect("the labelled captures"))
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "gz"))
        .collect();
    paths.sort();
    let mut corpus = Vec::new();
    for path in paths {
        let mut reader = capture::open(&path).expect("a capture");
        let mut frames = Vec::new();
        while let Some(packet) = reader.next().expect("a whole capture") {
            frames.push((packet.time_ns, packet.data.to_vec()));
        }
        frames.truncate(24);
        if !frames.is_empty() {
            corpus.push(frames);
        }
    }
    corpus
}

fn below(random: &mut ChaCha8Rng, limit: usize) -> usize {
    (random.next_u32() as usize) % limit.max(1)
}

fn damaged(corpus: &[Vec<(u64, Vec<u8>)>], random: &mut ChaCha8Rng) -> Vec<u8> {
    let mut frames = corpus[below(random, corpus.len())].clone();
    if below(random, 4) == 0 {
        frames.extend(corpus[below(random, corpus.len())].iter().cloned());
    }
    const VALUES: [u8; 8] = [0, 1, 4, 0x0f, 0x7f, 0x80, 0xf0, 0xff];
    for _ in 0..below(random, 8) {
        let at = below(random, frames.len());
        let frame = &mut frames[at].1;
        if frame.is_empty() {
            continue;
        }
        let headers = frame.len().min(90);
        let byte = below(random, headers);
        match below(random, 8) {
            0 => frame[byte] ^= 1 << below(random, 8),
            1 => frame[byte] = VALUES[below(random, VALUES.len())],
            2 => frame.truncate(byte),
            // The TCP flags, at their usual place.
            3 if frame.len() > 47 => frame[47] = random.next_u32() as u8,
            4 => frames.swap(at, 0),
            5 => {
                let copy = frames[at].clone();
                frames.insert(at, copy);
            }
            6 => frames[at].0 = u64::from(random.next_u32()) << below(random, 32),
            _ => {
                frames.remove(at);
                if frames.is_empty() {
                    break;
                }
            }
        }
    }
    const LINKS: [u16; 8] = [1, 1, 1, 1, 0, 101, 113, 276];
    let mut writer = pcapng::Writer::new(Vec::new(), "fuzz").expect("memory");
    let link = LinkType(LINKS[below(random, LINKS.len())]);
    let interface = writer.interface("fuzz", link, 0).expect("memory");
    for (time, frame) in &frames {
        writer.packet(interface, *time, frame, frame.len() as u32, None).expect("memory");
    }
    let mut bytes = writer.into_inner();
    // In a third of the captures, damage to the file itself.
    if below(random, 3) == 0 {
        for _ in 0..1 + below(random, 4) {
            let at = below(random, bytes.len());
            bytes[at] = VALUES[below(random, VALUES.len())];
        }
        if below(random, 2) == 0 {
            bytes.truncate(below(random, bytes.len()));
        }
    }
    bytes
}

fn look(bytes: &[u8]) -> Option<(u64, u64)> {
    let reader = CaptureReader::in_memory(bytes).ok()?;
    let mut groups = Groups::default();
    let mut limits = AnalyzerLimits::default();
    limits.flows = 8;
    let examined = examine_reader(reader, "fuzz", limits, |finding| groups.add(finding));
    let groups = groups.sorted();
    let files = [examined];
    text::report(&mut std::io::sink(), &files, &groups, 0, &Tools::default()).expect("a sink");
    html::report(&mut std::io::sink(), &files, &groups, 0, &Tools::default()).expect("a sink");
    Some((files[0].counts.packets, files[0].counts.resets))
}
