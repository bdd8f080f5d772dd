//! What a sink's command has done, and how often: once wherever a connection is cut, and never behind the back of a receipt.

use std::fs;
use std::time::Duration;

use crate::common::proxy::{Fault, Proxy, Way};
use crate::common::*;
use linger_transfer::*;
use tempfile::tempdir;

/// Wherever the connection is cut: the command runs once, there is one receipt, and both ends report the truth.
#[test]
fn a_sink_runs_once_wherever_the_connection_is_cut() {
    let to = tempdir().unwrap();
    let printed = to.path().join("printed");
    let config = format!("[sink.print]\ncommand = ['sh', '-c', 'cat >>{}']\n", printed.display());
    let file = to.path().join("letter");
    fs::write(&file, "one cheque\n").unwrap();
    let configured = |options: &mut ShareOptions| options.config = StreamsConfig::parse(&config).unwrap();
    let mut lengths = [0, 0];
    share(to.path(), configured, |shared| {
        let clean = Proxy::new(shared.port, None);
        let client = patient(clean.port, Duration::ZERO);
        let put = |client: &Client| {
            let mut told = Vec::new();
            let (summary, error) = client.put(
                Input::Path(file.clone()),
                &place("@print"),
                &PutOptions::default(),
                &mut |progress| {
                    if let Progress::Confirmed(confirmation) = progress {
                        told.push(confirmation.durability);
                    }
                },
            );
            assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::Confirmed, "{summary:?} {error:?}");
            assert_eq!(told, [Durability::Handed]);
        };
        put(&client);
        // Another transfer of the same content makes the command run again.
        put(&client);
        assert_eq!(fs::read_to_string(&printed).unwrap(), "one cheque\none cheque\n");
        let half = |bytes: &std::sync::Mutex<Vec<u8>>| bytes.lock().unwrap().len() / 2;
        lengths = [half(&clean.recorded), half(&clean.answered)];
        for (way, length) in [Way::ToServer, Way::ToClient].into_iter().zip(lengths) {
            assert!(length > 100, "{way:?}: {length}");
            for at in (0..length as u64).step_by(7) {
                fs::remove_file(&printed).unwrap();
                // The same content each time: it would be in doubt if the server did not know that the client has the receipt
                // of the last one, also where the proxy has acknowledged the goodbye and not passed it on.
                let proxy = Proxy::new(shared.port, Some((way, at, Fault::Cut)));
                // The client has to connect once; after that it reconnects whenever the connection is cut.
                put(&patient(proxy.port, Duration::from_secs(60)));
                assert_eq!(fs::read_to_string(&printed).unwrap(), "one cheque\n", "cut {way:?} at {at}");
            }
        }
    });
}

#[test]
fn what_a_server_has_forgotten_is_not_done_again_and_not_called_undone() {
    let to = tempdir().unwrap();
    let printed = to.path().join("printed");
    let config = format!("[sink.print]\ncommand = ['sh', '-c', 'cat >>{}']\n", printed.display());
    let file = to.path().join("letter");
    fs::write(&file, "one cheque\n").unwrap();
    let configured = |options: &mut ShareOptions| options.config = StreamsConfig::parse(&config).unwrap();
    let length = {
        let mut length = 0;
        share(to.path(), configured, |shared| {
            let clean = Proxy::new(shared.port, None);
            patient(clean.port, Duration::ZERO).put(
                Input::Path(file.clone()),
                &place("@print"),
                &PutOptions::default(),
                &mut |_| {},
            );
            length = clean.answered.lock().unwrap().len();
        });
        length
    };
    fs::remove_file(&printed).unwrap();
    // The receipt is lost, and the client reconnects to the server of another process.
    share(to.path(), configured, |first| {
        share(to.path(), configured, |second| {
            let cut =
                Proxy::to_two([first.port, second.port], (Way::ToClient, length as u64 - 100, Fault::Cut));
            let (summary, error) = patient(cut.port, Duration::from_secs(60)).put(
                Input::Path(file.clone()),
                &place("@print"),
                &PutOptions::default(),
                &mut |_| {},
            );
            assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::Unconfirmed, "{summary:?} {error:?}");
            assert!(error.unwrap().to_string().contains("may have been done"));
        });
    });
    assert_eq!(fs::read_to_string(&printed).unwrap(), "one cheque\n");
}

/// When a command takes too long, the processes that it has started are ended with it: otherwise they could still
/// deliver what was reported as failed.
#[test]
fn a_command_that_takes_too_long_ends_with_all_that_it_started() {
    let to = tempdir().unwrap();
    let (late, file) = (to.path().join("late"), to.path().join("letter"));
    fs::write(&file, "text").unwrap();
    let config = format!(
        "[sink.slow]\ncommand = ['sh', '-c', 'cat | (echo $$ >{0}.pid; sleep 600; cat >{0}) & wait']\nmax_seconds = 1\n",
        late.display()
    );
    share(
        to.path(),
        |options| options.config = StreamsConfig::parse(&config).unwrap(),
        |shared| {
            let (summary, error) = shared.try_put(&file, "@slow", &PutOptions::default());
            assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::NotDelivered, "{summary:?} {error:?}");
            let group = fs::read_to_string(late.with_extension("pid")).unwrap();
            // A dead process counts until its parent has reaped it; here that is init.
            let alive = || {
                let words = ["-r", "R,S,D,T", "-g", group.trim()];
                std::process::Command::new("pgrep").args(words).output().unwrap().stdout
            };
            // The kill takes effect soon, not at once. The sleep is ten minutes, so that 60 seconds tell them apart.
            let end = std::time::Instant::now() + Duration::from_secs(60);
            while !alive().is_empty() && std::time::Instant::now() < end {
                std::thread::yield_now();
            }
            assert_eq!(String::from_utf8_lossy(&alive()), "", "of the command's process group");
        },
    );
}

#[test]
fn a_receipt_is_replayed_by_a_server_that_was_started_anew() {
    let (from, to, memory) = (tempdir().unwrap(), tempdir().unwrap(), tempdir().unwrap());
    let file = from.path().join("letter");
    fs::write(&file, "a letter").unwrap();
    let printed = memory.path().join("printed");
    let sink = format!(
        "[sink.print]\ncommand = ['sh', '-c', 'cat >> {0}']\n[sink.jam]\ncommand = ['false']\n",
        printed.display()
    );
    let with_memory = |options: &mut ShareOptions| {
        options.config = StreamsConfig::parse(&sink).unwrap();
        options.memory = Some(memory.path().to_owned());
    };
    let mut ids = Vec::new();
    share(to.path(), with_memory, |shared| {
        // Now the receipt is lost: the answer to the transfer's last frames.
        let clean = Proxy::new(shared.port, None);
        let put = |port, sink: &str| {
            let client = patient(port, Duration::ZERO);
            client.put(Input::Path(file.clone()), &place(sink), &PutOptions::default(), &mut |_| {})
        };
        assert_eq!(put(clean.port, "@print").0.confirmed, 1);
        // Accept is the first answer after the preface; everything that follows it is cut.
        let lost = Proxy::new(shared.port, Some((Way::ToClient, 8 + 8 + 18, Fault::Cut)));
        let (summary, error) = put(lost.port, "@print");
        assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::Unconfirmed, "{summary:?} {error:?}");
        ids.push(summary.transfer.unwrap());
        let (summary, error) = put(shared.port, "@jam");
        assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::NotDelivered);
        ids.push(summary.transfer.unwrap());
    });
    assert_eq!(fs::read_to_string(&printed).unwrap(), "a lettera letter");
    share(to.path(), with_memory, |shared| {
        let receipt = shared.client().ask(ids[0]).unwrap();
        assert_eq!(receipt.hash, Some(*blake3::hash(b"a letter").as_bytes()));
        let refusal = |id| match shared.client().ask(id) {
            Err(Error::Refused(refusal, _)) => refusal,
            other => panic!("{other:?}"),
        };
        assert_eq!((refusal(ids[1]), refusal([9; 16])), (Refusal::Command, Refusal::NotFound));
    });
    assert_eq!(fs::read_to_string(&printed).unwrap(), "a lettera letter", "nothing was printed again");
}
