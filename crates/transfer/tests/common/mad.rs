//! Peers that send damaged frames: how the frames are damaged, and what must not happen.

use std::fs;
use std::path::Path;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;

/// The preface and the frames of a recorded direction.
pub(crate) fn frames(stream: &[u8]) -> Vec<Vec<u8>> {
    let mut frames = vec![stream[..8].to_vec()];
    let mut at = 8;
    while at + 8 <= stream.len() {
        let length = u32::from_be_bytes([0, stream[at + 1], stream[at + 2], stream[at + 3]]) as usize;
        let end = (at + 8 + length).min(stream.len());
        frames.push(stream[at..end].to_vec());
        at = end;
    }
    frames
}

pub(crate) fn damage(frames: &mut Vec<Vec<u8>>, random: &mut ChaCha8Rng) {
    let mut below = |most: usize| random.next_u32() as usize % most.max(1);
    for _ in 0..=below(3) {
        let place = 1 + below(frames.len() - 1);
        match below(8) {
            0 => drop(frames.remove(place)),
            1 => frames.insert(place, frames[place].clone()),
            2 => {
                let other = 1 + below(frames.len() - 1);
                frames.swap(place, other);
            }
            3 => frames[place][4] = below(11) as u8,
            4 => frames[place][7] = below(4) as u8,
            5 => {
                let length = below(1 << 21) as u32;
                frames[place][1..4].copy_from_slice(&length.to_be_bytes()[1..]);
            }
            6 => {
                // Paths that lead elsewhere, of the same length as what was there.
                let evil: &[u8] = [&b"../"[..], b"/etc", b"..", b".linger", b"a\0", b".bashrc"][below(6)];
                let frame = &mut frames[place];
                if frame.len() > 8 + evil.len() {
                    let at = 8 + below(frame.len() - 8 - evil.len());
                    frame[at..at + evil.len()].copy_from_slice(evil);
                }
            }
            _ => {
                let frame = &mut frames[place];
                for _ in 0..=below(4) {
                    let at = below(frame.len());
                    frame[at] = below(256) as u8;
                }
            }
        }
        if frames.len() < 2 {
            return;
        }
    }
    // A frame whose check bytes do not fit is refused at once, so most frames get check bytes that fit.
    if below(8) > 0 {
        frames[1..].iter_mut().for_each(|frame| seal(frame));
    }
}

/// Makes the check bytes of a frame fit, as an attacker would.
pub(crate) fn seal(frame: &mut [u8]) {
    let parity = |bytes: &[u8]| bytes.iter().fold(0, |sum, byte| sum ^ byte);
    if frame.len() >= 8 {
        frame[0] = if frame[4] == 3 { 0 } else { parity(&frame[8..]) };
        frame[5] = 0;
        frame[5] = parity(&frame[..8]);
    }
}

/// The most memory that this process has had, in MiB.
pub(crate) fn peak_mib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() >> 10
}

/// A directory with others beside it that must not be touched.
pub(crate) fn guarded(top: &Path) -> std::path::PathBuf {
    fs::create_dir_all(top.join("etc")).unwrap();
    fs::write(top.join("etc/passwd"), b"untouched").unwrap();
    fs::create_dir(top.join("shared")).unwrap();
    top.join("shared")
}

pub(crate) fn assert_untouched(top: &Path) {
    let mut names: Vec<_> = fs::read_dir(top).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["etc", "shared"]);
    assert_eq!(fs::read_dir(top.join("etc")).unwrap().count(), 1);
    assert_eq!(fs::read(top.join("etc/passwd")).unwrap(), b"untouched");
}
