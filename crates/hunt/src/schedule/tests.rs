//! Which schedules can be, and how they are said.

use super::*;

const GET: HuntStep = HuntStep::Request { body: 0, sent: 0 };
const PAUSE: HuntStep = HuntStep::Pause { milliseconds: 5_500 };

#[test]
fn a_schedule_that_cannot_be_is_refused_with_its_step() {
    use HuntStep::{Close, HalfClose, Read, Request, Send};
    assert_eq!(Schedule::of([GET, PAUSE, Send { bytes: 8 }]).check(), Ok(()));
    assert_eq!(Schedule::of([PAUSE, GET, Read { bytes: 1 }, HalfClose, PAUSE, Close]).check(), Ok(()));
    let whole = [Request { body: 9, sent: 4 }, Send { bytes: 5 }, GET];
    assert_eq!(Schedule::of(whole).check(), Ok(()), "the body is whole before the next head");
    for (steps, told) in [
        (vec![], "no request"),
        (vec![PAUSE], "no request"),
        (vec![Send { bytes: 8 }, GET], "step 1"),
        (vec![GET, Send { bytes: 0 }], "step 2"),
        (vec![Request { body: 9, sent: 10 }], "step 1"),
        (vec![Request { body: 9, sent: 4 }, Send { bytes: 4 }, GET], "step 3"),
        (vec![GET, HalfClose, Send { bytes: 1 }], "step 3"),
        (vec![GET, HalfClose, GET], "step 3"),
        (vec![GET, HalfClose, HalfClose], "step 3"),
        (vec![GET, Close, PAUSE], "step 3"),
        (vec![GET, HuntStep::Pause { milliseconds: 0 }], "step 2"),
        (vec![GET; MOST_STEPS + 1], "33 steps"),
    ] {
        let refused = Schedule::of(steps.clone()).check().unwrap_err();
        assert!(refused.contains(told), "{steps:?}: {refused}");
    }
}

#[test]
fn a_server_is_refused_what_only_a_client_does_and_the_other_way_round() {
    use HuntStep::{Abort, Close, HalfClose, Read, ReadRequest, Respond, Send};
    let early = Respond { body: 9, sent: 4 };
    for steps in [
        vec![Close],
        vec![Read { bytes: 1 }, early, PAUSE, Close],
        vec![
            ReadRequest,
            early,
            Send { bytes: 5 },
            Respond { body: 0, sent: 0 },
            HalfClose,
            ReadRequest,
            Abort,
        ],
        vec![early, Send { bytes: 50 }],
    ] {
        assert_eq!(Schedule::of_server(steps.clone()).check(), Ok(()), "{steps:?}");
        assert!(Schedule::of(steps.clone()).check().is_err(), "as a client: {steps:?}");
    }
    for (steps, told) in [
        (vec![], "no step"),
        (vec![GET], "step 1"),
        (vec![Send { bytes: 1 }], "no response"),
        (vec![early, early], "step 2"),
        (vec![Respond { body: 3, sent: 4 }], "step 1"),
        (vec![early, HalfClose, Send { bytes: 5 }], "step 3"),
        (vec![Abort, PAUSE], "step 2"),
    ] {
        let refused = Schedule::of_server(steps.clone()).check().unwrap_err();
        assert!(refused.contains(told), "{steps:?}: {refused}");
    }
}

#[test]
fn neighbours_of_one_kind_are_one() {
    let send = |bytes| HuntStep::Send { bytes };
    let merged = Schedule::of([GET, PAUSE, PAUSE, send(1), send(2), PAUSE]).merged();
    assert_eq!(merged.steps, [GET, HuntStep::Pause { milliseconds: 11_000 }, send(3), PAUSE]);
    assert_eq!(Schedule::of([GET, GET]).merged().requests(), 2, "two requests are two");
}

#[test]
fn a_number_is_changed_alone() {
    let schedule = Schedule::of([HuntStep::Request { body: 100, sent: 40 }, PAUSE]);
    let [sent, body, pause] = schedule.parameters()[..] else { panic!("{schedule:?}") };
    assert_eq!([sent, body, pause].map(|which| schedule.value(which)), [40, 100, 5_500]);
    assert_eq!(schedule.with(pause, 7).steps[1], HuntStep::Pause { milliseconds: 7 });
    assert_eq!(schedule.with(body, 10).steps[0], HuntStep::Request { body: 10, sent: 10 });
    assert_eq!(schedule.with(sent, 200).steps[0], HuntStep::Request { body: 100, sent: 100 });
}

#[test]
fn times_are_exact_and_short() {
    for (milliseconds, text) in
        [(1, "1 ms"), (999, "999 ms"), (1_000, "1 s"), (5_500, "5.5 s"), (12_345, "12.345 s")]
    {
        assert_eq!(shown_ms(milliseconds), text);
    }
}
