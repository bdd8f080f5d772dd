//! Checks the layout of a written capture against the pcapng specification.

mod common;

#[test]
fn blocks_are_aligned_and_framed() {
    let bytes = common::capture();
    let mut rest = &bytes[..];
    let mut kinds = Vec::new();
    while !rest.is_empty() {
        let word = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().unwrap());
        let length = word(4) as usize;
        assert_eq!(length % 4, 0);
        assert_eq!(word(length - 4) as usize, length);
        kinds.push(word(0));
        rest = &rest[length..];
    }
    // Section Header Block, Interface Description Blocks, Enhanced Packet Blocks.
    assert_eq!(kinds, [0x0a0d_0d0a, 1, 1, 6, 6]);
}
