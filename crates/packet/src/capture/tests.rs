//! Captures in every format and byte order, whole, cut and damaged.

use std::io::{Cursor, Read as _};
use std::process::Command;

use proptest::prelude::*;

use super::*;
use crate::pcapng;

const TIME: u64 = 1_700_000_000_123_456_000;

/// Three packets of 60, 61 and 62 bytes.
fn packets() -> Vec<Vec<u8>> {
    (0..3).map(|n| vec![n as u8 + 1; 60 + n]).collect()
}

fn classic(order: Order, nanoseconds: bool) -> Vec<u8> {
    let word = |value: u32| match order {
        Order::Little => value.to_le_bytes(),
        Order::Big => value.to_be_bytes(),
    };
    let mut file = Vec::new();
    let magic = if nanoseconds { 0xa1b2_3c4d } else { 0xa1b2_c3d4 };
    let version = if order == Order::Little { 0x0004_0002 } else { 0x0002_0004 };
    for value in [magic, version, 0, 0, 65_535, 1] {
        file.extend(word(value));
    }
    for packet in packets() {
        let fraction = if nanoseconds { 123_456_000 } else { 123_456 };
        for value in [1_700_000_000, fraction, packet.len() as u32, packet.len() as u32 + 5] {
            file.extend(word(value));
        }
        file.extend(packet);
    }
    file
}

fn ng() -> Vec<u8> {
    let mut writer = pcapng::Writer::new(Vec::new(), "test").unwrap();
    let interface = writer.interface("eth0", LinkType::ETHERNET, 0).unwrap();
    for (packet, comment) in packets().into_iter().zip([None, Some("here"), None]) {
        writer.packet(interface, TIME, &packet, packet.len() as u32 + 5, comment).unwrap();
    }
    writer.into_inner()
}

fn read(file: Vec<u8>) -> (Vec<Vec<u8>>, Option<ReadError>) {
    let mut seen = Vec::new();
    let mut reader = match CaptureReader::new(Cursor::new(file)) {
        Ok(reader) => reader,
        Err(error) => return (seen, Some(error)),
    };
    loop {
        match reader.next() {
            Ok(Some(packet)) => {
                assert!(packet.wire_len >= packet.data.len());
                packet.comments().for_each(drop);
                seen.push(packet.data.to_vec());
                assert_eq!(packet.frame, seen.len() as u64);
            }
            Ok(None) => return (seen, None),
            Err(error) => return (seen, Some(error)),
        }
    }
}

#[test]
fn pcap_of_both_byte_orders_and_resolutions() {
    for order in [Order::Little, Order::Big] {
        for nanoseconds in [false, true] {
            let mut reader = CaptureReader::new(Cursor::new(classic(order, nanoseconds))).unwrap();
            let packet = reader.next().unwrap().unwrap();
            assert_eq!((packet.time_ns, packet.link, packet.wire_len), (TIME, LinkType::ETHERNET, 65));
            let (seen, error) = read(classic(order, nanoseconds));
            assert_eq!(seen, packets());
            assert!(error.is_none());
        }
    }
}

#[test]
fn pcapng_with_comments() {
    let mut reader = CaptureReader::new(Cursor::new(ng())).unwrap();
    assert_eq!(reader.next().unwrap().unwrap().comments().count(), 0);
    let packet = reader.next().unwrap().unwrap();
    assert_eq!(packet.comments().collect::<Vec<_>>(), ["here"]);
    assert_eq!((packet.time_ns, packet.wire_len), (TIME, 66));
    assert_eq!(read(ng()).0, packets());
}

#[test]
fn pcapng_in_network_byte_order_with_a_binary_clock_an_offset_and_strange_blocks() {
    let mut file: Vec<u8> = Vec::new();
    let mut block = |kind: u32, body: &[u8]| {
        let length = (12 + body.len()) as u32;
        for part in [&kind.to_be_bytes()[..], &length.to_be_bytes(), body, &length.to_be_bytes()] {
            file.extend(part);
        }
    };
    block(0x0a0d_0d0a, &[0x1a, 0x2b, 0x3c, 0x4d, 0, 1, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255]);
    block(0x0bad, &[7; 400]);
    let options = [0, 9, 0, 1, 0x8a, 0, 0, 0, 0, 14, 0, 8, 0, 0, 0, 0, 0, 0, 0, 10, 0, 0, 0, 0];
    block(1, &[&[0, 101, 0, 0, 0, 0, 0, 2][..], &options].concat());
    block(6, &[&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 2, 0, 0, 0, 9][..], &[1, 2, 0, 0]].concat());
    block(3, &[0, 0, 0, 9, 1, 2, 0, 0]);
    let mut reader = CaptureReader::new(Cursor::new(file)).unwrap();
    let packet = reader.next().unwrap().unwrap();
    assert_eq!(packet.time_ns, 11_500_000_000, "0x600 / 1024 s, and 10 s of offset");
    assert_eq!((packet.link, packet.data, packet.wire_len), (LinkType::RAW, &[1, 2][..], 9));
    let packet = reader.next().unwrap().unwrap();
    assert_eq!(
        (packet.time_ns, packet.data, packet.wire_len),
        (0, &[1, 2][..], 9),
        "a simple packet, cut to 2"
    );
    assert!(reader.next().unwrap().is_none());
}

#[test]
fn a_cut_file_gives_what_is_whole_and_the_offset() {
    let file = classic(Order::Little, false);
    let (seen, error) = read(file[..file.len() - 1].to_vec());
    assert_eq!(seen.len(), 2);
    assert!(matches!(error, Some(ReadError::CutOff { offset: 177 })), "{error:?}");
    let file = ng();
    let (seen, error) = read(file[..file.len() - 1].to_vec());
    assert_eq!(seen.len(), 2);
    assert!(matches!(error, Some(ReadError::CutOff { .. })));
}

#[test]
fn what_is_no_capture_is_said() {
    let (_, error) = read(b"GET / HTTP/1.1".to_vec());
    let said = error.unwrap().to_string();
    assert!(said.starts_with("not a pcap or pcapng capture (it begins with the text \"GET \")"), "{said}");
    let said = read(vec![0xff, 0, 1]).1.unwrap().to_string();
    assert!(said.contains("(it begins with ff 00 01)"), "{said}");
    assert!(matches!(read(Vec::new()).1, Some(ReadError::Empty)));
    let mut file = classic(Order::Little, false);
    file[24 + 8..24 + 12].copy_from_slice(&u32::MAX.to_le_bytes());
    let error = read(file).1.unwrap();
    assert!(error.to_string().starts_with("damaged at byte 24: a packet of 4294967295 bytes;"), "{error}");
}

/// 20,000 packets fill so many blocks that the two threads take turns many times.
#[test]
fn a_file_of_many_blocks_comes_in_order() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let mut writer = pcapng::Writer::new(std::io::BufWriter::new(&mut file), "test").unwrap();
    let interface = writer.interface("eth0", LinkType::ETHERNET, 0).unwrap();
    let packet = |n: usize| vec![n as u8; 1 + n * 7919 % 3000];
    for n in 0..20_000 {
        writer.packet(interface, TIME, &packet(n), 3000, None).unwrap();
    }
    drop(writer);
    let mut reader = open(file.path()).unwrap();
    for n in 0..20_000 {
        assert_eq!(reader.next().unwrap().unwrap().data, packet(n), "packet {n}");
    }
    assert!(reader.next().unwrap().is_none());
    assert_eq!(reader.offset(), file.as_file().metadata().unwrap().len());
    // The same file again, with `at_hand` for the packets that are in memory.
    let mut reader = open(file.path()).unwrap();
    let mut n = 0;
    while let Some(first) = reader.next().unwrap() {
        assert_eq!(first.data, packet(n));
        n += 1;
        for held in reader.at_hand().collect::<Vec<_>>() {
            assert_eq!((held.frame, held.data), (n as u64 + 1, &packet(n)[..]));
            n += 1;
        }
    }
    assert_eq!(n, 20_000);
}

#[test]
fn a_reader_that_panics_is_an_error_and_no_wait_for_ever() {
    struct Panics;
    impl std::io::Read for Panics {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            panic!("as a decompressor might")
        }
    }
    let (file, header) = (classic(Order::Little, false), 24);
    assert!(matches!(CaptureReader::new(Panics), Err(ReadError::Io { offset: 0, .. })));
    let mut reader = CaptureReader::new(Cursor::new(file[..header].to_vec()).chain(Panics)).unwrap();
    assert!(matches!(reader.next(), Err(ReadError::Io { offset: 24, .. })));
    assert!(reader.next().unwrap().is_none(), "after an error there is no more to come");
}

#[test]
fn a_silent_pipe_can_be_left() {
    let (silent, _writer) = std::io::pipe().unwrap();
    let mut reader = CaptureReader::new(Cursor::new(classic(Order::Little, false)).chain(silent)).unwrap();
    for _ in packets() {
        assert!(reader.next().unwrap().is_some());
    }
    reader.stopper().stop();
    assert!(reader.next().unwrap().is_none(), "as at the end, although the pipe is open");
}

#[test]
fn records_across_the_buffer_and_larger_than_it() {
    let mut writer = pcapng::Writer::new(Vec::new(), "test").unwrap();
    let interface = writer.interface("eth0", LinkType::ETHERNET, 0).unwrap();
    let sizes = [100_000, 200_000, 1, 1_000_000, 3, 255_000, 700_000, 64_000, 90];
    for size in sizes {
        writer.packet(interface, TIME, &vec![size as u8; size], size as u32, None).unwrap();
    }
    let (seen, error) = read(writer.into_inner());
    assert!(error.is_none());
    assert_eq!(seen.iter().map(Vec::len).collect::<Vec<_>>(), sizes);
    assert!(seen.iter().zip(sizes).all(|(packet, size)| packet.iter().all(|&byte| byte == size as u8)));
}

/// For each compression: the program, the extension of its files, and the Debian package that contains the program.
const COMPRESSORS: [(&str, &str, &str); 5] = [
    ("gzip", "gz", "gzip"),
    ("zstd", "zst", "zstd"),
    ("xz", "xz", "xz-utils"),
    ("bzip2", "bz2", "bzip2"),
    ("lz4", "lz4", "lz4"),
];

/// Returns the file as `program` compresses it, or `None` if the program is not installed.
fn compressed(program: &str, package: &str, path: &std::path::Path) -> Option<Vec<u8>> {
    let Ok(output) = Command::new(program).arg("-c").arg(path).output() else {
        linger_testing::skip(package, "it is not installed");
        return None;
    };
    assert!(output.status.success(), "{program}: {output:?}");
    Some(output.stdout)
}

#[test]
fn compressed_members_one_after_the_other() {
    let capture = ng();
    let (first, second) = capture.split_at(200);
    let directory = tempfile::tempdir().unwrap();
    let part = directory.path().join("part");
    for (program, suffix, package) in COMPRESSORS {
        let mut all = Vec::new();
        for bytes in [first, second] {
            std::fs::write(&part, bytes).unwrap();
            let Some(bytes) = compressed(program, package, &part) else { return };
            all.extend(bytes);
        }
        let path = directory.path().join("all").with_extension(suffix);
        std::fs::write(&path, all).unwrap();
        let mut reader = open(&path).unwrap();
        let mut count = 0;
        while reader.next().unwrap().is_some() {
            count += 1;
        }
        assert_eq!(count, 3, "{program}");
    }
}

#[test]
fn compressed_files_that_end_early_say_so() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("capture");
    std::fs::write(&path, ng()).unwrap();
    for (program, suffix, package) in COMPRESSORS {
        let Some(bytes) = compressed(program, package, &path) else { return };
        let cut = directory.path().join("cut").with_extension(suffix);
        std::fs::write(&cut, &bytes[..bytes.len() - 9]).unwrap();
        let all = open(&cut).and_then(|mut reader| {
            while reader.next()?.is_some() {}
            Ok(())
        });
        assert!(matches!(all, Err(ReadError::Io { .. } | ReadError::CutOff { .. })), "{program}: {all:?}");
        let words = all.unwrap_err().to_string();
        assert!(words.contains("cut off"), "{program}: {words}");
    }
}

proptest! {
    #[test]
    fn no_damage_makes_it_panic(
        which in 0usize..3,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut file = match which {
            0 => classic(Order::Big, true),
            1 => classic(Order::Little, false),
            _ => ng(),
        };
        for (at, value) in damage {
            let at = at.index(file.len());
            file[at] = value;
        }
        file.truncate(cut.index(file.len()) + 1);
        read(file);
    }
}
