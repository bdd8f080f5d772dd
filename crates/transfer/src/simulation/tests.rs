//! The short run, planted faults, and the schedules for which the long run has found faults.

use std::ops::Range;

use super::*;

/// A fault has to be seen within so many schedules, and shrinks to fewer events than [`FEW`].
const PATIENCE: usize = 2000;
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
        assert_eq!(outcome.again, usize::from(scenario == Scenario::Sink), "what is known is no doubt");
        // What went to a sink is asked for, and put twice more.
        let sessions = if scenario == Scenario::Sink { 4 } else { 2 };
        assert!(
            outcome.sessions == sessions && outcome.receipts + outcome.commands as u64 > 0,
            "{outcome:?}"
        );
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

/// Looks for a planted fault in random schedules of these `scenarios`, in which it can be seen.
fn finds(planted: Planted, scenarios: &[Scenario]) {
    let schedules = (0..).map(Schedule::random);
    finds_among(planted, schedules.filter(|schedule| scenarios.contains(&schedule.scenario)));
}

/// Looks for a planted fault in these schedules, and shrinks it.
fn finds_among(planted: Planted, schedules: impl Iterator<Item = Schedule>) {
    let (_dir, mut runner) = runner();
    let mut tried = 0;
    let seen = schedules.take(PATIENCE).find(|schedule| {
        tried += 1;
        runner.run(schedule, Some(planted)).fault.is_some()
    });
    let schedule = seen.unwrap_or_else(|| panic!("{planted:?} is not seen in {tried} schedules"));
    let least = shrink(&schedule, |schedule| runner.run(schedule, Some(planted)).fault.is_some());
    let fault = runner.run(&least, Some(planted)).fault;
    println!("{planted:?}, after {tried} schedules: {fault:?}: {least:?}");
    assert!(least.events.len() < FEW, "{least:?}");
    assert_eq!(runner.run(&least, None).fault, None, "without the fault it is right");
}

/// Looks for a planted fault that shows only if the `event` comes at one of a few places: tries them all, with one seed
/// after the other from `seed` on, which is where it was seen last.
fn finds_at_a_place(
    planted: Planted,
    scenario: Scenario,
    seed: u64,
    places: Range<u32>,
    event: impl Fn(u32) -> ScheduledEvent,
) {
    let at = |seed, place| Schedule::new(seed, scenario, vec![event(place)]);
    finds_among(
        planted,
        (seed..)
            .flat_map(|seed| places.clone().map(move |place| (seed, place)))
            .map(|(seed, place)| at(seed, place)),
    );
}

fn power_at(step: u32) -> ScheduledEvent {
    ScheduledEvent::Power { end: EndOfTransfer::Server, step }
}

#[test]
fn a_name_before_its_sync_is_found() {
    finds_at_a_place(Planted::NameBeforeSync, Scenario::File, 0, 1..50, power_at);
}

/// It shows if the last write before the cut is kept and one before it is lost: the length and time of the partial file are
/// as its log says.
#[test]
fn a_reboot_that_is_forgotten_is_found() {
    finds_at_a_place(Planted::BootForgotten, Scenario::Large, 38, 39..43, power_at);
}

#[test]
fn a_log_that_is_believed_after_a_reboot_is_found() {
    finds_at_a_place(Planted::Rule(PlantedRule::ComparePrefix), Scenario::Large, 6, 27..31, power_at);
}

/// The server does not hear that the connection is cut, and the client comes again.
#[test]
fn two_sessions_that_receive_one_file_are_found() {
    let cut = |place| Cut {
        sender: EndOfTransfer::Client,
        after: place * 100_000,
        arrives: true,
        manner: Manner::SenderHears,
    };
    let planted = Planted::Rule(PlantedRule::ClaimFiles);
    finds_at_a_place(planted, Scenario::Large, 0, 11..21, |place| ScheduledEvent::Cut(cut(place)));
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
fn a_doubt_that_is_forgotten_is_found() {
    finds(Planted::Rule(PlantedRule::KeepDoubts), &[Scenario::Sink]);
}

#[test]
fn an_outcome_that_nobody_heard_and_that_is_forgotten_is_found() {
    finds(Planted::Rule(PlantedRule::KeepUnheard), &[Scenario::Sink]);
}

/// A user who gives up at whichever moment, and puts the same again at once or later: one print, until somebody says so.
#[test]
fn a_client_that_gives_up_prints_once() {
    let (_dir, mut runner) = runner();
    let (mut unheard, mut again) = (0, 0);
    for seed in 0..4 {
        for step in 1..60 {
            let schedule = Schedule::new(seed, Scenario::Sink, vec![ScheduledEvent::GiveUp { step }]);
            let outcome = runner.run(&schedule, None);
            assert_eq!(outcome.fault, None, "{schedule:?}: {outcome:?}");
            unheard += u32::from(outcome.client == Some(3));
            again += u32::from(outcome.again > 0);
        }
    }
    assert!(unheard > 20 && again > 20, "{unheard} gave up after all was sent, {again} printed later");
}

/// A disk that has no room for a while, from whichever call on: nobody says what is not true, and what is sent again arrives.
#[test]
fn a_full_disk_makes_nobody_lie() {
    let (_dir, mut runner) = runner();
    let mut refused = 0;
    for scenario in [Scenario::File, Scenario::Replace, Scenario::Tree, Scenario::Sink, Scenario::Get] {
        for step in 1..60 {
            for calls in [1, 20] {
                let full = ScheduledEvent::Full { step, calls };
                let schedule = Schedule::new(3, scenario, vec![full]);
                let outcome = runner.run(&schedule, None);
                assert_eq!(outcome.fault, None, "{schedule:?}: {outcome:?}");
                refused += u32::from(outcome.client == Some(1));
            }
        }
    }
    assert!(refused > 20, "{refused} had no room");
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

/// Silence, a cut in a session that the server answered, and silence once more: whoever then says its goodbye no more leaves a
/// server in doubt that is there.
#[test]
fn silence_after_an_answer_is_a_first_silence_again() {
    let (_dir, mut runner) = runner();
    assert_eq!(runner.run(&Schedule::random(50_212_322), None).fault, None);
}

/// A sink's command waits for one of the same content; its client is cut and comes back, and both sessions get their turn when
/// the disk fails. The newer one tells the client that nothing was run; the older one, whose note the disk took, started the
/// command.
#[test]
fn of_two_sessions_none_runs_what_the_other_has_refused() {
    let (_dir, mut runner) = runner();
    assert_eq!(runner.run(&Schedule::random(60_762_738), None).fault, None);
}

/// Everything of a get is here, the server knows so, and the client is stopped before it hears that: it cannot say that nothing
/// was delivered. Stopped while a file is under way, it can.
#[test]
fn a_get_that_is_stopped_behind_its_last_receipt_is_unconfirmed() {
    let (_dir, mut runner) = runner();
    let outcome = runner.run(&Schedule::random(61_473_576), None);
    assert_eq!((outcome.fault, outcome.client), (None, Some(3)));
    let stopped = |step| Schedule::new(1, Scenario::Get, vec![ScheduledEvent::GiveUp { step }]);
    let outcome = runner.run(&stopped(12), None);
    assert_eq!((outcome.fault, outcome.client), (None, Some(1)));
}

/// The newer session asks the older one to stop, and gives it time for that, even if it comes to run late itself.
#[test]
fn a_client_that_comes_again_gets_its_file() {
    let (_dir, mut runner) = runner();
    for after in [1_100_000, 1_600_000] {
        for seed in 0..3 {
            let cut =
                Cut { sender: EndOfTransfer::Client, after, arrives: true, manner: Manner::SenderHears };
            let schedule = Schedule::new(seed, Scenario::Large, vec![ScheduledEvent::Cut(cut)]);
            let outcome = runner.run(&schedule, None);
            assert_eq!((&outcome.fault, outcome.client), (&None, Some(0)), "seed {seed}, byte {after}");
        }
    }
}

/// A power cut may leave a file that got its final name its earlier one too, and the log of what was received.
#[test]
fn a_power_cut_after_the_final_name_leaves_nothing_over() {
    let (_dir, mut runner) = runner();
    for (seed, step) in [(76_326, 83), (76_326, 84), (76_326, 85), (6, 41), (6, 42)] {
        let outcome = runner.run(&Schedule::new(seed, Scenario::Large, vec![power_at(step)]), None);
        assert_eq!(outcome.fault, None, "seed {seed}, step {step}");
    }
}

/// A link that resets a connection once, after each byte of either side: one print, and both ends know it. If the client's
/// goodbye is what was lost, the client comes back to say it.
#[test]
fn a_reset_after_any_byte_prints_once() {
    let (_dir, mut runner) = runner();
    for sender in [EndOfTransfer::Client, EndOfTransfer::Server] {
        for after in (0..700).step_by(7) {
            for arrives in [true, false] {
                let cut = Cut { sender, after, arrives, manner: Manner::Reset };
                let outcome =
                    runner.run(&Schedule::new(2, Scenario::Sink, vec![ScheduledEvent::Cut(cut)]), None);
                let told = format!("{cut:?}: {outcome:?}");
                assert_eq!((&outcome.fault, outcome.client, outcome.commands), (&None, Some(0), 1), "{told}");
                assert_eq!(outcome.server, Some(0), "{told}");
            }
        }
    }
}

/// What the long run has found: a directory of an earlier session that cannot be made again, because the disk fails, still has to
/// be synced above what is confirmed below it.
#[test]
fn a_directory_that_cannot_be_made_again_is_synced_all_the_same() {
    let (_dir, mut runner) = runner();
    let cut = |sender, after, manner| {
        let arrives = manner == Manner::ReceiverHears && sender == EndOfTransfer::Server;
        ScheduledEvent::Cut(Cut { sender, after, arrives, manner })
    };
    let (client, server) = (EndOfTransfer::Client, EndOfTransfer::Server);
    let tree = vec![
        cut(client, 95, Manner::SenderHears),
        cut(client, 1383, Manner::ReceiverHears),
        ScheduledEvent::Broken { step: 24, calls: 5 },
    ];
    let get = vec![cut(server, 101, Manner::ReceiverHears), ScheduledEvent::Broken { step: 7, calls: 2 }];
    // A later session does not announce a directory again that has failed.
    let later = vec![
        ScheduledEvent::Kill { end: server, step: 32 },
        ScheduledEvent::Cut(Cut { sender: server, after: 385, arrives: true, manner: Manner::Reset }),
        ScheduledEvent::Broken { step: 17, calls: 6 },
    ];
    for (seed, scenario, events) in [
        (300_000_994, Scenario::Tree, tree),
        (300_002_427, Scenario::Get, get),
        (310_006_617, Scenario::Tree, later),
    ] {
        let outcome = runner.run(&Schedule::new(seed, scenario, events), None);
        assert_eq!(outcome.fault, None, "{scenario:?}");
    }
}

/// What the long run has found: the sync of a file fails, and then the removal of the partial file. Its pages count as written.
#[test]
fn a_file_whose_sync_has_failed_is_not_resumed() {
    let (_dir, mut runner) = runner();
    for calls in [1, 2, 6] {
        let events = vec![ScheduledEvent::Broken { step: 66, calls }];
        let outcome = runner.run(&Schedule::new(50_376_939, Scenario::Large, events), None);
        assert_eq!((outcome.fault, outcome.client), (None, Some(1)), "{calls} calls");
    }
}

/// A disk that fails for a while, from whichever call on: what a failed sync was to make durable is confirmed by nobody.
#[test]
fn a_disk_that_fails_makes_nobody_lie() {
    let (_dir, mut runner) = runner();
    let mut refused = 0;
    for scenario in [Scenario::File, Scenario::Replace, Scenario::Tree, Scenario::Sink, Scenario::Get] {
        for step in 1..60 {
            for calls in [1, 3] {
                let schedule = Schedule::new(3, scenario, vec![ScheduledEvent::Broken { step, calls }]);
                let outcome = runner.run(&schedule, None);
                assert_eq!(outcome.fault, None, "{schedule:?}: {outcome:?}");
                refused += u32::from(outcome.client != Some(0));
            }
        }
    }
    assert!(refused > 20, "{refused} clients were told");
}

/// Sources that change at any moment, in place or replaced: what arrives is one version or the other, whole.
#[test]
fn a_source_that_changes_is_never_mixed() {
    let (_dir, mut runner) = runner();
    let mut refused = 0;
    for scenario in [Scenario::File, Scenario::Replace, Scenario::Tree, Scenario::Large, Scenario::Get] {
        for step in 1..60 {
            for renamed in [false, true] {
                let schedule = Schedule::new(5, scenario, vec![ScheduledEvent::Changes { step, renamed }]);
                let outcome = runner.run(&schedule, None);
                assert_eq!(outcome.fault, None, "{schedule:?}: {outcome:?}");
                refused += u32::from(outcome.client != Some(0));
            }
        }
    }
    assert!(refused > 0, "some of them changed while they were read");
}
