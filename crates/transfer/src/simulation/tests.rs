//! The short run, planted faults, and the schedules for which the long run has found faults.

use super::*;

/// A fault has to be seen within so many schedules, and shrinks to fewer events than [`FEW`].
const PATIENCE: u64 = 2000;
const FEW: usize = 10;

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
        let schedule = Schedule::new(2, scenario, Vec::new());
        let outcome = runner.run(&schedule, None);
        assert_eq!((&outcome.fault, outcome.client), (&None, Some(0)), "{scenario:?}: {outcome:?}");
        assert!(outcome.sessions == 2 && outcome.receipts + outcome.commands as u64 > 0, "{outcome:?}");
    }
}

#[test]
fn nothing_goes_wrong_in_random_schedules() {
    let (_dir, mut runner) = runner();
    for seed in 0..300 {
        let schedule = Schedule::random(seed);
        let outcome = runner.run(&schedule, None);
        assert_eq!(outcome.fault, None, "seed {seed}: {schedule:?}");
    }
}

/// The same seed makes the same world: what it finds can be found again.
#[test]
fn a_seed_repeats_what_it_did() {
    let (_dir, mut runner) = runner();
    for seed in 0..20 {
        let schedule = Schedule::random(seed);
        let counts = [(); 2].map(|()| runner.run(&schedule, None).counts());
        assert_eq!(counts[0], counts[1], "seed {seed}: {schedule:?}");
    }
}

/// Looks for a planted fault, and shrinks it. `scenarios` are those that it can be seen in, so that the search is short.
fn finds(planted: Planted, scenarios: &[Scenario]) {
    let (_dir, mut runner) = runner();
    let mut tried = 0;
    let seen = (0..).map(Schedule::random).filter(|schedule| scenarios.contains(&schedule.scenario)).find(
        |schedule| {
            tried += 1;
            assert!(tried <= PATIENCE, "{planted:?} is not seen");
            runner.run(schedule, Some(planted)).fault.is_some()
        },
    );
    let schedule = seen.unwrap();
    let least = shrink(&schedule, |schedule| runner.run(schedule, Some(planted)).fault.is_some());
    let fault = runner.run(&least, Some(planted)).fault;
    println!("{planted:?}, after {tried} schedules: {fault:?}, {} events: {least:?}", least.events.len());
    assert!(least.events.len() < FEW, "{least:?}");
    assert_eq!(runner.run(&least, None).fault, None, "without the fault it is right");
}

#[test]
fn a_missing_sync_of_files_is_found() {
    finds(Planted::NoFileSync, &[Scenario::File]);
}

#[test]
fn a_missing_sync_of_directories_is_found() {
    finds(Planted::NoDirectorySync, &[Scenario::Tree]);
}

#[test]
fn a_receipt_before_its_journal_is_found() {
    finds(Planted::NoJournalSync, &[Scenario::Sink]);
}

#[test]
fn a_note_after_its_command_is_found() {
    finds(Planted::Rule(PlantedRule::NoteBeforeCommand), &[Scenario::Sink]);
}

#[test]
fn another_id_for_the_same_transfer_is_found() {
    finds(Planted::Rule(PlantedRule::KeepId), &[Scenario::Sink]);
}

/// A client whose file was sent whole before the last cut does not say that nothing was delivered.
#[test]
fn what_was_sent_whole_once_is_unconfirmed() {
    let (_dir, mut runner) = runner();
    let cut = Cut { sender: EndOfTransfer::Server, after: 270, arrives: true, manner: Manner::SenderHears };
    let events =
        vec![ScheduledEvent::Cut(cut), ScheduledEvent::Kill { end: EndOfTransfer::Server, step: 39 }];
    for seed in [1_006_317, 1_083_678] {
        let outcome = runner.run(&Schedule::new(seed, Scenario::Sink, events.clone()), None);
        assert_eq!(outcome.fault, None);
    }
    for seed in [1_006_317, 1_083_678, 1_102_417, 640, 1038, 1445, 26] {
        assert_eq!(runner.run(&Schedule::random(seed), None).fault, None, "seed {seed}");
    }
}

/// A link that resets a connection once, after each byte of either side: one print, and both ends know it. If the client's
/// goodbye is what was lost, the server cannot know that the client has its receipt.
#[test]
fn a_reset_after_any_byte_prints_once() {
    let (_dir, mut runner) = runner();
    let mut ends = [0; 2];
    for sender in [EndOfTransfer::Client, EndOfTransfer::Server] {
        for after in (0..700).step_by(7) {
            for arrives in [true, false] {
                let cut = Cut { sender, after, arrives, manner: Manner::Reset };
                let outcome =
                    runner.run(&Schedule::new(2, Scenario::Sink, vec![ScheduledEvent::Cut(cut)]), None);
                let told = format!("{cut:?}: {outcome:?}");
                assert_eq!((&outcome.fault, outcome.client, outcome.commands), (&None, Some(0), 1), "{told}");
                match outcome.server {
                    Some(0) => ends[0] += 1,
                    Some(3) => ends[1] += 1,
                    _ => panic!("{told}"),
                }
            }
        }
    }
    assert!(ends[0] > 0 && ends[1] > 0, "{ends:?}");
}
