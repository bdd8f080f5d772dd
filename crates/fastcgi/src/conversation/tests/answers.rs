use super::*;

const END: u8 = 3;
const STDOUT: u8 = 6;
const STDERR: u8 = 7;

fn said(answer: Answer, end: RequestEnd, reason: &str) -> Vec<(u8, u16, Vec<u8>)> {
    records(answer.last(end, reason).bytes())
}

fn gather(answer: &mut Answer, bytes: &[u8]) {
    assert!(matches!(answer.accept(bytes), Accepted::Gathered));
}

fn end(status: u8) -> (u8, u16, Vec<u8>) {
    (END, 7, vec![0, 0, 0, status, 0, 0, 0, 0])
}

#[test]
fn every_end_has_its_reason() {
    use RequestEnd::{Bare, Complete, Cut, Refused};
    use Said::{Nothing, Part, Torn};
    for (status, said, aborted, end) in [
        (Some(3), Nothing, false, Complete(3)),
        (Some(3), Part, false, Complete(3)),
        (Some(3), Part, true, Complete(3)),
        (Some(3), Torn, false, Cut),
        (None, Nothing, false, Refused),
        (None, Nothing, true, Bare),
        (None, Part, false, Cut),
        (None, Part, true, Bare),
        (None, Torn, false, Cut),
        (None, Torn, true, Cut),
    ] {
        assert_eq!(RequestEnd::of(status, said, aborted), end, "{status:?} {said:?} aborted {aborted}");
    }
}

#[test]
fn the_last_records_of_each_end() {
    let answer = |gathered: &[u8]| {
        let mut answer = Answer::new(7, b"what was here before".to_vec());
        gather(&mut answer, gathered);
        answer
    };
    let stdout = |content: &[u8]| (STDOUT, 7, content.to_vec());
    let why = (STDERR, 7, b"why".to_vec());
    assert_eq!(said(answer(b"rest"), RequestEnd::Complete(2), "why"), [stdout(b"rest"), stdout(b""), end(2)]);
    assert_eq!(said(answer(b""), RequestEnd::Complete(0), "why"), [stdout(b""), end(0)]);
    let page = b"Status: 500\r\nContent-Type: text/plain\r\n\r\nThe application failed; its log says why.\n";
    assert_eq!(
        said(answer(b"rest"), RequestEnd::Refused, "why"),
        [why.clone(), stdout(page), stdout(b""), end(1)]
    );
    assert_eq!(said(answer(b"rest"), RequestEnd::Bare, "why"), [stdout(b""), end(1)]);
    assert_eq!(said(answer(b"rest"), RequestEnd::Cut, "why"), [why]);
    assert_eq!(said(answer(b"rest"), RequestEnd::Cut, ""), []);
}

#[test]
fn a_buffer_is_used_again() {
    let mut answer = Answer::new(7, Vec::new());
    gather(&mut answer, &[b'x'; 1000]);
    let buffer = answer.last(RequestEnd::Complete(0), "").into_buffer();
    assert!(buffer.capacity() >= 1000);
    let mut answer = Answer::new(7, buffer);
    gather(&mut answer, b"second");
    assert_eq!(said(answer, RequestEnd::Complete(0), "")[0].2, b"second");
}

#[test]
fn small_writes_are_gathered_and_large_ones_are_not_copied() {
    let mut answer = Answer::new(7, Vec::new());
    assert!(answer.gathered().is_none(), "an empty record would end the stream");
    assert_eq!(answer.said(), Said::Nothing);
    gather(&mut answer, &[1; 16_383]);
    gather(&mut answer, &[2]);
    // One byte more than fits.
    assert!(matches!(answer.accept(&[3]), Accepted::Full));
    let record = answer.gathered().unwrap();
    let [(STDOUT, 7, content)] = &records(&record)[..] else { panic!() };
    assert_eq!((content.len(), content[16_383]), (16_384, 2));
    // Until its sending is reported nobody knows what the gateway has.
    assert_eq!(answer.said(), Said::Torn);
    assert!(matches!(answer.accept(&[3]), Accepted::Torn));
    assert!(answer.gathered().is_none());
    answer.sent(record);
    assert_eq!(answer.said(), Said::Part);
    assert!(answer.gathered().is_none());

    gather(&mut answer, &[4]);
    assert!(matches!(answer.accept(&[5; 16_384]), Accepted::Full));
    let record = answer.gathered().unwrap();
    answer.sent(record);
    gather(&mut answer, &[5; 16_384]);
    let record = answer.gathered().unwrap();
    answer.sent(record);

    let large = vec![6; 70_000];
    let Accepted::Large(record) = answer.accept(&large) else { panic!() };
    assert_eq!(record.content(), 65_528);
    assert_eq!(answer.said(), Said::Torn);
    answer.sent_large();
    assert_eq!(answer.said(), Said::Part);
    let Accepted::Gathered = answer.accept(&large[65_528..]) else { panic!() };
    let Accepted::Full = answer.accept(&large[..16_387]) else { panic!() };
    let rest = answer.gathered().unwrap();
    answer.sent(rest);
    let Accepted::Large(record) = answer.accept(&large[..16_387]) else { panic!() };
    let bytes: Vec<u8> = record.slices().iter().flat_map(|slice| slice.to_vec()).collect();
    assert_eq!((bytes.len(), bytes.len() % 8), (8 + 16_387 + 5, 0));
    assert_eq!(records(&bytes), [(STDOUT, 7, vec![6; 16_387])]);
}

#[test]
fn what_was_torn_cannot_be_completed() {
    let mut answer = Answer::new(7, Vec::new());
    gather(&mut answer, b"lost");
    let _cancelled = answer.gathered().unwrap();
    assert_eq!(said(answer, RequestEnd::Complete(0), "why"), [(STDERR, 7, b"why".to_vec())]);
}

#[test]
fn a_log_line_is_no_part_of_the_response() {
    let answer = Answer::new(7, Vec::new());
    assert_eq!(records(&answer.log(b"line")), [(STDERR, 7, b"line".to_vec())]);
    assert_eq!(answer.said(), Said::Nothing);
}
