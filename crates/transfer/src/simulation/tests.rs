//! The short run, planted faults, and the schedules for which the long run has found faults.

use super::*;

fn runner() -> (tempfile::TempDir, Runner) {
    let memory = std::path::Path::new("/dev/shm");
    let dir = tempfile::tempdir_in(memory).or_else(|_| tempfile::tempdir()).unwrap();
    let runner = Runner::new(dir.path()).unwrap();
    (dir, runner)
}

#[test]
fn nothing_happens_and_all_is_well() {
    let (_dir, mut runner) = runner();
    for scenario in
        [Scenario::File, Scenario::Replace, Scenario::Tree, Scenario::Large, Scenario::Sink, Scenario::Get]
    {
        let outcome = runner.run(&Schedule::new(1, scenario, Vec::new()), None);
        assert_eq!(outcome.fault, None, "{scenario:?}: {outcome:?}");
        println!("{scenario:?}: {outcome:?}");
    }
}
