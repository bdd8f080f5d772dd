//! One frame of each link type. `cargo +nightly fuzz run segment`
#![no_main]

use libfuzzer_sys::fuzz_target;
use linger_packet::{LinkType, Segment};

fuzz_target!(|bytes: &[u8]| {
    for link in [0, 1, 12, 101, 108, 113, 228, 229, 276] {
        if let Ok(segment) = Segment::from_frame(LinkType(link), bytes, bytes.len()) {
            segment.parse_options();
        }
    }
});
