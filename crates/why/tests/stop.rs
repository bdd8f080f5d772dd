//! An examination that is stopped ends, and what it found until then is its result.

use std::io::Write;
use std::process::Command;
use std::thread;

use linger_why::{CaptureSet, ExamineEvent, ExamineOptions, ReadStop, examine_set};

#[test]
fn a_pipe_that_stays_open_can_be_left() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    // A pcap's header, and no packet.
    let mut header = 0xa1b2_c3d4_u32.to_le_bytes().to_vec();
    header.extend([2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 0, 0, 1, 0, 0, 0]);
    let stop = ReadStop::default();
    let set = CaptureSet::of(std::slice::from_ref(&pipe));
    let (events, pipe_is_open) = thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let mut events = Vec::new();
            examine_set(&set, &ExamineOptions::default(), &stop, |event| events.push(event));
            events
        });
        let mut writer = std::fs::File::options().write(true).open(&pipe).unwrap();
        writer.write_all(&header).unwrap();
        // The examination has opened the pipe, so it has begun. How far it has come does not matter.
        stop.request();
        (reading.join().unwrap(), writer)
    });
    drop(pipe_is_open);
    let [ExamineEvent::Stopped(path, why), ExamineEvent::Examined(examined)] = &*events else {
        panic!("{events:?}")
    };
    assert_eq!((path, &**why), (&pipe, "stopped on request"));
    assert_eq!(examined.stopped.as_deref(), Some("stopped on request"));
    assert!(examined.unread && examined.counts.packets == 0);
}
