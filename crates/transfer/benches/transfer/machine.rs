//! What the machine itself can do, beside which figures of another machine are to be read.

use std::hint::black_box;
use std::time::{Duration, Instant};

use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

/// How long each rate is measured.
const LONG: Duration = Duration::from_millis(500);
/// Plaintext of a TLS record.
const RECORD: usize = 16 << 10;

/// Prints the processor's model, its rate of AES-128-GCM (ring, one thread, records of 16 KiB), that of BLAKE3, by which both ends verify, and
/// that of memcpy(3).
pub(crate) fn print() {
    let information = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let value = |name: &str| {
        let line = information.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':')).map_or("unknown", |(_, value)| value.trim())
    };
    let has =
        |flag: &'static str| if value("flags").split(' ').any(|word| word == flag) { flag } else { "-" };
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    println!(
        "machine: {} x {processors}, {} {} {}; AES-128-GCM {:.2} GB/s, BLAKE3 {:.2} GB/s, memcpy {:.2} GB/s (one thread each)",
        value("model name"),
        has("aes"),
        has("vaes"),
        has("avx512f"),
        sealed() / 1e9,
        hashed() / 1e9,
        copied() / 1e9,
    );
}

fn sealed() -> f64 {
    let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &[7; 16]).expect("a key of 16 bytes"));
    let mut record = vec![1; RECORD];
    let mut number = 0u64;
    rate(RECORD, || {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&number.to_be_bytes());
        number += 1;
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = key.seal_in_place_separate_tag(nonce, Aad::from(&[0; 5]), &mut record).expect("sealed");
        let _ = black_box(tag);
    })
}

/// Half a MiB at a time, as much as a level-2 cache of today holds.
fn hashed() -> f64 {
    let block = vec![1u8; 512 << 10];
    rate(block.len(), || {
        black_box(blake3::hash(black_box(&block)));
    })
}

/// From a buffer that no cache holds to another.
fn copied() -> f64 {
    let (from, mut to) = (vec![1u8; 64 << 20], vec![0u8; 64 << 20]);
    rate(from.len(), || {
        to.copy_from_slice(black_box(&from));
        // Without a reader the copy would be left out.
        black_box(&to);
    })
}

/// Bytes a second.
fn rate(bytes: usize, mut work: impl FnMut()) -> f64 {
    work();
    let started = Instant::now();
    let mut done = 0u64;
    while started.elapsed() < LONG {
        work();
        done += bytes as u64;
    }
    done as f64 / started.elapsed().as_secs_f64()
}
