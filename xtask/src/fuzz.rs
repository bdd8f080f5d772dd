//! Runs every fuzz target for half a minute, with the stable compiler.
//!
//! cargo-fuzz needs a nightly compiler only for the address sanitizer, which finds little in code without `unsafe`. The
//! coverage that guides libFuzzer is an LLVM pass, which the stable compiler has, too.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::Context;

use crate::workspace::packages;
use crate::{call, cargo, root};

/// The flags that cargo-fuzz sets, without those of a sanitizer.
const COVERAGE: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions -Ccodegen-units=1";
/// Seconds for each target.
const SECONDS: u32 = 30;
/// Targets at a time.
const AT_ONCE: usize = 2;
/// The seed inputs of a target, if the tree has some.
const SEEDS: [(&str, &str); 1] = [("capture", "crates/why/captures")];

/// Compiles the targets. Returns their names and their folder.
pub(crate) fn compile() -> anyhow::Result<(Vec<String>, PathBuf)> {
    let manifest = root().join("fuzz/Cargo.toml");
    let target = root().join("target/fuzz");
    let targets: Vec<String> =
        packages(&manifest)?.into_iter().flat_map(|package| package.programs).collect();
    anyhow::ensure!(!targets.is_empty(), "{} has no targets", manifest.display());
    // With `--target`, RUSTFLAGS do not apply to build scripts, which cannot be linked with libFuzzer.
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut build = cargo(&["build", "--release", "--quiet", "--target", &triple, "--manifest-path"]);
    call(build.arg(&manifest).env("CARGO_TARGET_DIR", &target).env("RUSTFLAGS", COVERAGE))?;
    Ok((targets, target.join(&triple).join("release")))
}

pub(crate) fn run() -> anyhow::Result<()> {
    let (targets, programs) = compile()?;
    let target = root().join("target/fuzz");
    for some in targets.chunks(AT_ONCE) {
        thread::scope(|scope| {
            let running: Vec<_> =
                some.iter().map(|name| scope.spawn(|| fuzz(name, &programs, &target))).collect();
            running.into_iter().try_for_each(|one| one.join().expect("it returns its errors"))
        })?;
    }
    Ok(())
}

fn fuzz(name: &str, programs: &Path, target: &Path) -> anyhow::Result<()> {
    let folder = |kind: &str| -> anyhow::Result<PathBuf> {
        let path = target.join(kind).join(name);
        fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        Ok(path)
    };
    let (corpus, found) = (folder("corpus")?, folder("found")?);
    let mut command = Command::new(programs.join(name));
    command.arg(format!("-max_total_time={SECONDS}")).arg(format!("-artifact_prefix={}/", found.display()));
    command.args(["-timeout=10", "-rss_limit_mb=2048", "-verbosity=0", "-print_final_stats=1"]).arg(corpus);
    let seeds = SEEDS.iter().filter(|(of, _)| *of == name);
    command.args(seeds.map(|(_, seeds)| root().join(seeds)));
    let output = command.output().with_context(|| name.to_owned())?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "fuzz target {name}: {}\n{said}", output.status);
    let runs = said.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    let runs = runs.with_context(|| format!("fuzz target {name} ran nothing:\n{said}"))?.trim();
    println!("fuzz target {name}: {runs} inputs in {SECONDS} s");
    Ok(())
}
