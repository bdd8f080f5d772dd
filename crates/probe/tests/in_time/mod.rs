//! What becomes of questions when the time is over. Patience is ten minutes here: a wait that the end of the time did not cut
//! would outlast the test.

use std::io::Write;
use std::thread;
use std::time::Duration;

use linger_probe::{Check, CheckAnswer, Doubt, LeftOut, ProbeConfig, ProbeError, probe};
use linger_testing::sandboxed;

use crate::common::{BODY, ask, config, respond, serve};

const PATIENT: Duration = Duration::from_secs(600);

fn within(only: &[Check], within: Duration) -> ProbeConfig {
    let mut config = config(only);
    (config.patience, config.longest, config.within, config.repeat) = (PATIENT, PATIENT, within, 1);
    config
}

#[test]
fn a_question_that_has_begun_is_given_up() {
    sandboxed(|| {
        // The plain response comes; of the others a part, and then nothing, or a byte now and then.
        for drips in [false, true] {
            let url = serve(move |stream, number, _| {
                if number == 0 {
                    return respond(stream, "200 OK", "", BODY);
                }
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\nrr");
                while !drips || stream.write_all(b"r").is_ok() {
                    thread::sleep(Duration::from_millis(2));
                }
            });
            let report = ask(&url, &within(&[Check::UnreadBody], Duration::from_millis(1500))).unwrap();
            let finding = &report.findings[0];
            let found = (finding.answer, finding.left_out);
            assert_eq!(found, (CheckAnswer::CannotTell, Some(LeftOut::Time)), "{finding:#?}");
            assert_eq!(report.doubt(), Some(Doubt::Late(vec![Check::UnreadBody])));
        }
        // One field away: a shorter patience, and the silence is an answer.
        let url = serve(|stream, number, _| {
            if number == 0 {
                return respond(stream, "200 OK", "", BODY);
            }
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\nrr");
            thread::sleep(PATIENT);
        });
        let mut impatient = within(&[Check::LargeResponse], PATIENT);
        impatient.patience = Duration::from_millis(300);
        assert_eq!(ask(&url, &impatient).unwrap().findings[0].answer, CheckAnswer::Stalls);
    });
}

#[test]
fn an_idle_connection_is_not_waited_for_longer() {
    sandboxed(|| {
        let url = serve(|stream, _, _| {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
            thread::sleep(PATIENT);
        });
        let report =
            ask(&url, &within(&[Check::KeepAlive, Check::IdleOpen], Duration::from_secs(1))).unwrap();
        for finding in &report.findings {
            let found = (finding.answer, finding.left_out);
            assert_eq!(found, (CheckAnswer::CannotTell, Some(LeftOut::Time)), "{finding:#?}");
        }
    });
}

#[test]
fn a_plain_response_that_takes_longer_is_not_waited_for() {
    sandboxed(|| {
        let url = serve(|_, _, _| thread::sleep(PATIENT));
        let late = ask(&url, &within(&[], Duration::from_millis(500))).unwrap_err();
        assert!(matches!(late, ProbeError::OutOfTime { .. }), "{late}");
        let mut impatient = within(&[], PATIENT);
        impatient.patience = Duration::from_millis(300);
        let silent = ask(&url, &impatient).unwrap_err();
        assert!(matches!(silent, ProbeError::Silent { .. }), "{silent}");
    });
}

#[test]
fn nothing_is_asked_when_the_time_is_over() {
    sandboxed(|| {
        let url = serve(|stream, _, _| respond(stream, "200 OK", "", BODY));
        let asks = within(&[Check::LargeResponse, Check::KeepAlive], Duration::from_secs(2));
        let report = probe(&url.parse().unwrap(), &asks, |_| thread::sleep(asks.within)).unwrap();
        let finding = report.of(Check::KeepAlive).unwrap();
        let found = (finding.answer, finding.left_out, finding.trials);
        assert_eq!(found, (CheckAnswer::CannotTell, Some(LeftOut::Time), 0), "{finding:#?}");
        let report = ask(&url, &within(&[Check::LargeResponse, Check::KeepAlive], PATIENT)).unwrap();
        assert!(report.findings.iter().all(|finding| finding.left_out.is_none()));
    });
}
