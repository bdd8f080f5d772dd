//! `cargo xtask matrix [--runs N] [NAME ...]`: starts real servers, probes each many times, and writes docs/matrix.md and
//! docs/matrix.json.
//!
//! Each server runs in a network namespace of its own, so that the kernel's counters there are of this server alone, and the probe
//! in another. With names, only servers whose names contain one of them are probed, and the result is printed instead of
//! written. `cargo xtask matrix --install` installs the servers.

mod agree;
mod apart;
mod measure;
mod page;
mod server;
mod wire;

use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::Context;
use linger_netns::{Isolation, net};

use self::measure::{MeasuredServer, measure};
use self::server::MatrixServer;
use crate::{root, setups};

/// Servers probed at a time. Most of the time is spent waiting.
const AT_ONCE: usize = 24;
/// How often each server is probed.
const RUNS: u32 = 20;

/// A row of the matrix: what was measured, or the reason why there is nothing.
type MatrixRow = Result<MeasuredServer, String>;

pub(crate) fn run(words: &[&str]) -> anyhow::Result<()> {
    let (runs, only) = match *words {
        ["--install"] => return setups::matrix_install(),
        ["--runs", number, ref only @ ..] => (number.parse().context("--runs wants a number")?, only),
        ref only => (RUNS, only),
    };
    if let Err(refused) = Isolation::prepare().enter() {
        anyhow::bail!("{refused}");
    }
    net::up("lo").context("cannot set up lo in a namespace of one's own")?;
    let mut asked = MatrixServer::all()?;
    asked.retain(|server| only.is_empty() || only.iter().any(|part| server.name().contains(part)));
    anyhow::ensure!(!asked.is_empty(), "no server is called anything like {}", only.join(", "));
    let is_whole = only.is_empty();
    // Written again after each server: an interruption leaves what is known.
    let rows = ask_all(&asked, runs, |rows| if is_whole { write(&asked, rows) } else { Ok(()) })?;
    if is_whole {
        write(&asked, &rows)?;
        println!("matrix: docs/matrix.md and docs/matrix.json are written");
    } else {
        println!("{}", page::markdown(&asked, &rows));
    }
    println!("matrix: {}", page::agreement(&rows));
    let wrong: Vec<String> = asked.iter().zip(&rows).flat_map(|(server, row)| faults(server, row)).collect();
    anyhow::ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

fn write(asked: &[MatrixServer], rows: &[MatrixRow]) -> anyhow::Result<()> {
    let docs = root().join("docs");
    fs::write(docs.join("matrix.md"), page::markdown(asked, rows))?;
    let object = page::document(asked, rows);
    Ok(fs::write(docs.join("matrix.json"), serde_json::to_string_pretty(&object)? + "\n")?)
}

/// What was not measured, and what cannot be true.
fn faults(server: &MatrixServer, row: &MatrixRow) -> Vec<String> {
    match row {
        Ok(measured) => {
            measured.disagreements.iter().map(|why| format!("{}: {why}", server.name())).collect()
        }
        Err(why) => vec![format!("{}: not measured: {why}", server.name())],
    }
}

fn ask_all(
    asked: &[MatrixServer],
    runs: u32,
    so_far: impl Fn(&[MatrixRow]) -> anyhow::Result<()> + Sync,
) -> anyhow::Result<Vec<MatrixRow>> {
    let next = AtomicUsize::new(0);
    let rows: Vec<MatrixRow> =
        asked.iter().map(|_| Err("the run was interrupted before its end".into())).collect();
    let rows = Mutex::new(rows);
    thread::scope(|scope| {
        let ask = || {
            while let Some((index, server)) = {
                let index = next.fetch_add(1, Ordering::SeqCst);
                asked.get(index).map(|server| (index, server))
            } {
                let row = measure(server, runs);
                if let Ok(measured) = &row {
                    eprintln!("matrix: {}: {}", server.name(), measured.overall());
                }
                faults(server, &row).iter().for_each(|fault| eprintln!("matrix: {fault}"));
                let mut rows = rows.lock().expect("no thread panics with it");
                rows[index] = row;
                so_far(&rows)?;
            }
            Ok::<(), anyhow::Error>(())
        };
        let threads: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(ask)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("it returns its errors"))
    })?;
    Ok(rows.into_inner().expect("no thread panicked"))
}
