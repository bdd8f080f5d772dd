//! What a lingering close costs, beside nginx, httpd and bare axum: `cargo xtask bench close [SECTION ...]`.
//!
//! Everything runs in a network of its own and within this run; the claims are ratios, and each is held
//! against its goal. The exit status is 1 when one is missed.

#[path = "axum.rs"]
mod axum_pair;
mod discard;
mod handover;
mod letting_go;
mod memory;
mod peers;
#[path = "../../tests/support/mod.rs"]
mod support;
mod uploaders;

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

static MISSED: AtomicBool = AtomicBool::new(false);

/// Prints a claim with its goal, and remembers a miss.
fn claim(what: &str, value: f64, unit: &str, goal: Goal) {
    let (met, sign, bound) = match goal {
        Goal::AtMost(bound) => (value <= bound, "<=", bound),
        Goal::AtLeast(bound) => (value >= bound, ">=", bound),
    };
    if !met {
        MISSED.store(true, Ordering::Relaxed);
    }
    println!(
        "{} {what}: {value:.3}{unit} (goal {sign} {bound}{unit})",
        if met { "met   " } else { "MISSED" }
    );
}

#[derive(Clone, Copy)]
enum Goal {
    AtMost(f64),
    AtLeast(f64),
}

fn note(text: &str) {
    println!("       {text}");
}

fn median(values: &mut [f64]) -> f64 {
    quantile(values, 0.5)
}

fn quantile(values: &mut [f64], q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * q).round() as usize]
}

fn main() -> ExitCode {
    if let Some(kind) = std::env::args().skip_while(|word| word != axum_pair::SERVE).nth(1) {
        axum_pair::serve(&kind);
        return ExitCode::SUCCESS;
    }
    if let Err(error) = linger_testing::Isolation::prepare().enter() {
        eprintln!("bench close: {error}");
        return ExitCode::from(4);
    }
    linger_testing::net::up("lo").expect("lo can be set up in a network of one's own");
    let sections: [(&str, fn()); 6] = [
        ("early-answer", axum_pair::early_answers),
        ("letting-go", letting_go::run),
        ("discard", discard::run),
        ("memory", memory::run),
        ("handover", handover::run),
        ("axum", axum_pair::requests_per_second),
    ];
    let sections = sections.into_iter().chain([("uploaders", uploaders::run as fn())]);
    // cargo bench passes `--bench`.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    for (name, run) in sections {
        if wanted.is_empty() || wanted.iter().any(|word| word == name) {
            println!("{name}");
            run();
        }
    }
    if MISSED.load(Ordering::Relaxed) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
