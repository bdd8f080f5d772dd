//! Computes the table of `src/zeros.bin`: the chaining values of zeros at their places in a file.
//!
//! ```text
//! cargo run --release -p linger-transfer --example zeros -- crates/transfer/src/zeros.bin
//! ```
//!
//! Hashes 64 GiB, which takes half a minute of one processor. Compares a file that is there with what it computed, and
//! writes one that is not.

use std::path::Path;

use blake3::Hasher;
use blake3::hazmat::{HasherExt as _, Mode, merge_subtrees_non_root};

const BLOCK: usize = 1 << 20;
/// The first blocks, one by one.
const SINGLES: u64 = 256;
/// Blocks of a group, and groups: 64 GiB.
const GROUP: u64 = 16;
const GROUPS: u64 = 4096;

type Value = [u8; 32];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("the file is missing")?;
    let zeros = vec![0; BLOCK];
    let block = |number: u64| -> Value {
        let mut hasher = Hasher::new();
        hasher.set_input_offset(number * BLOCK as u64).update(&zeros);
        hasher.finalize_non_root()
    };
    let group = |number: u64| {
        let mut values: Vec<Value> = (number * GROUP..(number + 1) * GROUP).map(block).collect();
        while let [_, _, ..] = values[..] {
            values = values
                .chunks_exact(2)
                .map(|pair| merge_subtrees_non_root(&pair[0], &pair[1], Mode::Hash))
                .collect();
        }
        values[0]
    };
    let table: Vec<u8> = (0..SINGLES).map(block).chain((0..GROUPS).map(group)).flatten().collect();
    if Path::new(&path).exists() {
        if std::fs::read(&path)? != table {
            return Err(format!("{path} is another table").into());
        }
        println!("{path}: {} values, as computed", table.len() / 32);
    } else {
        std::fs::write(&path, table)?;
    }
    Ok(())
}
