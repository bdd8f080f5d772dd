//! Feeds the record parsers hostile connections, each made from a seed: `fuzz_records [COUNT] [SEED]`.
//!
//! A connection is a sequence of records that a peer might send, damaged here and there, and cut anywhere. The
//! parsers must neither panic nor remember more than their limits. One connection is one iteration.

use std::env;
use std::time::Instant;

use linger_fastcgi::incoming::{Capacity, Incoming, Received};
use linger_fastcgi::params::push_pair;
use linger_fastcgi::record::{self, RecordType, Role};
use linger_fastcgi::replies::Replies;
use linger_fastcgi::{Limits, Params, cgi};

/// SplitMix64 (Steele, Lea, Flood 2014). It only has to give the same numbers for the same seed.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        // A limit of 0 gives 0.
        (self.next() % limit.max(1) as u64) as usize
    }
}

/// Appends a record of any kind, more often than not one that makes sense where it stands.
fn push_record(chance: &mut Chance, out: &mut Vec<u8>) {
    let id = chance.below(4) as u16;
    match chance.below(12) {
        0..=2 => {
            let role = [Role::Responder, Role::Authorizer, Role::Filter][chance.below(3)];
            record::push_begin(out, id, role, chance.below(2) == 0);
        }
        3 | 4 => {
            let mut pairs = Vec::new();
            for _ in 0..chance.below(4) {
                let (name, value) = ([b'N'; 200], [b'v'; 200]);
                push_pair(&mut pairs, &name[..chance.below(200)], &value[..chance.below(200)]);
            }
            record::push_stream(out, RecordType::Params, id, &pairs);
            if chance.below(2) == 0 {
                record::push(out, RecordType::Params, id, &[]);
            }
        }
        5 => record::push(out, RecordType::Params, id, &[]),
        6 => record::push(out, RecordType::Stdin, id, &vec![7; chance.below(300)]),
        7 => record::push(out, RecordType::Stdin, id, &[]),
        8 => record::push(out, RecordType::Data, id, &vec![7; chance.below(40)]),
        9 => {
            let mut names = Vec::new();
            push_pair(&mut names, b"FCGI_MAX_CONNS", b"");
            record::push(out, RecordType::GetValues, 0, &names);
        }
        10 => record::push(out, RecordType::from(chance.below(256) as u8), id, &vec![1; chance.below(20)]),
        _ => {
            let kind = [RecordType::Stdout, RecordType::Stderr, RecordType::EndRequest][chance.below(3)];
            record::push(out, kind, id, &[0; 8]);
        }
    }
}

fn main() {
    let mut arguments =
        env::args().skip(1).map(|text| text.parse::<u64>().expect("COUNT and SEED are numbers"));
    let (count, seed) = (arguments.next().unwrap_or(100_000), arguments.next().unwrap_or(1));
    let mut limits = Limits::default();
    // The limits are small, so that the random connections reach them.
    (limits.params_bytes, limits.params_count, limits.multiplexed) = (1000, 8, 3);
    let (started, mut bytes, mut events, mut errors) = (Instant::now(), 0u64, 0u64, 0u64);
    let mut wire = Vec::new();
    for iteration in 0..count {
        let mut chance = Chance(seed.wrapping_add(iteration.wrapping_mul(0x1_0000_0001)));
        wire.clear();
        for _ in 0..1 + chance.below(12) {
            push_record(&mut chance, &mut wire);
        }
        for _ in 0..chance.below(3) {
            let (at, byte) = (chance.below(wire.len()), chance.next() as u8);
            if let Some(place) = wire.get_mut(at) {
                *place = byte;
            }
        }
        wire.truncate(wire.len() - chance.below(wire.len().min(20)));
        bytes += wire.len() as u64;
        let mut incoming = Incoming::new(limits, Capacity::new(4, 4, chance.below(2) == 0));
        let mut replies = Replies::new(1);
        let mut rest = wire.as_slice();
        let (mut reads, mut answers) = (true, true);
        while !rest.is_empty() {
            let (piece, later) = rest.split_at(1 + chance.below(rest.len()));
            rest = later;
            let mut input = piece;
            while reads {
                match incoming.next(&mut input) {
                    Ok(Some(event)) => {
                        events += 1;
                        if let Received::Start(start) = event {
                            let held: usize =
                                start.params.iter().map(|(name, value)| name.len() + value.len()).sum();
                            assert!(held <= limits.params_bytes && start.params.len() <= limits.params_count);
                            if chance.below(2) == 0 {
                                incoming.finish(start.id);
                            }
                        }
                    }
                    Ok(None) => break,
                    Err(error) => {
                        assert!(error.offset <= wire.len() as u64, "iteration {iteration}: {error}");
                        errors += 1;
                        reads = false;
                    }
                }
            }
            let mut input = piece;
            while answers {
                match replies.next(&mut input) {
                    Ok(Some(_)) => events += 1,
                    Ok(None) => break,
                    Err(_) => answers = false,
                }
            }
        }
        assert!(
            incoming.replies().len() <= 3 * wire.len(),
            "iteration {iteration}: replies outgrow their causes"
        );
        let _ = cgi::Head::parse(&wire);
        let _ = Params::parse(wire.clone(), &limits);
    }
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{count} connections from seed {seed} in {seconds:.1} s: {bytes} bytes, {events} events, {errors} errors, no panic"
    );
}
