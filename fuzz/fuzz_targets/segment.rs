//! One frame of each link type. `cargo +nightly fuzz run segment`
#![no_main]

use libfuzzer_sys::fuzz_target;
use linger_packet::{LinkType, Segment};

fuzz_target!(|bytes: &[u8]| {
    for link in 0..300 {
        if let Ok(segment) = Segment::from_frame(LinkType(link), bytes, bytes.len()) {
            segment.parse_options();
            let _ = segment.path.to_string();
        }
    }
});
