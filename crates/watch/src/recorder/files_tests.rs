//! Rotation, the bound on disk, and what is left after errors and kills.

use std::os::unix::fs::PermissionsExt;

use super::*;

fn write(files: &mut RecordFiles, bytes: usize) -> WrittenAt {
    let at = files.next(bytes as u64 + 10).unwrap();
    files.collect(&vec![7; bytes], 3, "{line 1}\n");
    files.flush();
    assert!(files.take_lost().is_empty());
    at
}

fn size(directory: &Path) -> u64 {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

#[test]
fn files_are_rotated_private_and_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let mut files = RecordFiles::open(directory.path(), 8_000).unwrap();
    assert_eq!(size(directory.path()), 0, "nothing before the first reset");
    let first = write(&mut files, 400);
    assert_eq!(first, WrittenAt { file: 1, number: 1, offset: 0, first_frame: 1 });
    let second = write(&mut files, 400);
    assert_eq!(second, WrittenAt { file: 1, number: 2, offset: 400, first_frame: 4 });
    assert_eq!(write(&mut files, 400).file, 2, "the first has an eighth");
    for entry in fs::read_dir(directory.path()).unwrap() {
        assert_eq!(entry.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
    let mut written = 3;
    while files.overwritten() == 0 {
        write(&mut files, 400);
        written += 1;
        assert!(size(directory.path()) <= 8_000);
    }
    assert_eq!(files.overwritten(), 2, "both of the first file");
    assert!(written > 15, "{written}");
    let names =
        |file| [capture_name(file), index_name(file)].map(|name| directory.path().join(name).exists());
    assert_eq!((names(1), names(2)), ([false; 2], [true; 2]));
    // A reset that is larger than a file's share has a file of its own.
    write(&mut files, 7_000);
    assert!(size(directory.path()) <= 8_000);
}

#[test]
fn one_watcher_writes_at_a_time_and_the_next_goes_on_with_new_files() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("made");
    let mut files = RecordFiles::open(&path, 8_000).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    write(&mut files, 100);
    assert!(matches!(RecordFiles::open(&path, 8_000), Err(DirectoryError::Locked)));
    drop(files);
    fs::write(path.join("another's"), "x").unwrap();
    let mut files = RecordFiles::open(&path, 8_000).unwrap();
    assert_eq!(write(&mut files, 100).file, 2);
    drop(files);
    // A smaller bound holds at once.
    let files = RecordFiles::open(&path, 150).unwrap();
    assert_eq!(files.overwritten(), 1);
    assert!(path.join("another's").exists() && !path.join(capture_name(1)).exists());
    assert!(matches!(RecordFiles::open(&path.join("another's"), 1), Err(DirectoryError::NotADirectory)));
    assert!(matches!(RecordFiles::open(&path.join("no/such"), 1), Err(DirectoryError::Io(_))));
}

#[test]
fn a_failed_write_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut files = RecordFiles::open(directory.path(), 80_000).unwrap();
    write(&mut files, 100);
    let before = size(directory.path());
    let readable = |path: &Path| File::open(path).unwrap();
    let lost = |files: &mut RecordFiles, at: &WrittenAt| -> Vec<bool> {
        let lost = files.take_lost();
        (0..4).map(|number| lost.iter().any(|lost| lost.has(at.file, number))).collect()
    };
    // An index that cannot be written to.
    let at = files.next(100).unwrap();
    files.current.as_mut().unwrap().index = readable(&directory.path().join(index_name(1)));
    files.collect(&[7; 100], 1, "line\n");
    files.collect(&[7; 100], 1, "line\n");
    files.flush();
    assert_eq!(size(directory.path()), before);
    assert_eq!(lost(&mut files, &at), [false, false, true, true], "the first was written before");
    assert_eq!(write(&mut files, 100).file, 2, "new files");
    files.current = None;
    let at = files.next(100).unwrap();
    files.current.as_mut().unwrap().capture = readable(&directory.path().join(capture_name(1)));
    files.collect(&[7; 100], 1, "line\n");
    files.flush();
    assert_eq!(lost(&mut files, &at), [false, true, true, true]);
}

#[test]
fn what_is_collected_counts_for_the_bounds_and_is_written_before_its_files_end() {
    let directory = tempfile::tempdir().unwrap();
    let mut files = RecordFiles::open(directory.path(), 8_000).unwrap();
    let mut numbers = Vec::new();
    for _ in 0..100 {
        let at = files.next(410).unwrap();
        files.collect(&[7; 400], 3, "{line 1}\n");
        numbers.push((at.file, at.number, at.offset));
        assert!(files.total() <= 8_000);
    }
    assert_eq!(numbers[..3], [(1, 1, 0), (1, 2, 400), (2, 1, 0)]);
    files.flush();
    assert!(files.take_lost().is_empty());
    assert_eq!((size(directory.path()), files.total()), (files.total(), files.total()));
    let kept: Vec<u64> = files.files.keys().copied().collect();
    let last = numbers.last().unwrap().0;
    assert_eq!(kept, (last - kept.len() as u64 + 1..=last).collect::<Vec<_>>());
    assert_eq!(files.overwritten() + 2 * kept.len() as u64, 100, "each is on disk or counted");
}

#[test]
fn files_that_were_removed_are_not_written_to() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("records");
    let mut files = RecordFiles::open(&path, 80_000).unwrap();
    for (at, name) in [capture_name(1), index_name(2)].iter().enumerate() {
        write(&mut files, 100);
        assert_eq!(write(&mut files, 100).file, at as u64 + 1);
        fs::remove_file(path.join(name)).unwrap();
    }
    assert_eq!(write(&mut files, 100).file, 3);
    // Without its directory nothing can be written, and that is said.
    fs::remove_dir_all(&path).unwrap();
    assert_eq!(files.next(100).unwrap_err().kind(), io::ErrorKind::NotFound);
    assert!(!path.exists(), "who has removed it has not asked for another");
    fs::create_dir(&path).unwrap();
    let at = write(&mut files, 100);
    assert_eq!((at.file, at.number), (4, 1), "no id is given twice");
    assert_eq!(size(&path), 100 + 9);
    assert!(matches!(RecordFiles::open(&path, 80_000), Err(DirectoryError::Locked)), "also the new one");
}

#[test]
fn names_that_only_look_alike_are_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let others = [
        "resets-+00001.pcapng",
        "resets-1.pcapng",
        "resets-0000001.jsonl",
        "resets-18446744073709551615.pcapng",
        "resets-000001.pcapng.gz",
    ];
    for name in others {
        fs::write(directory.path().join(name), vec![0; 10_000]).unwrap();
    }
    let mut files = RecordFiles::open(directory.path(), 8_000).unwrap();
    assert_eq!((write(&mut files, 100).file, files.overwritten()), (1, 0));
    assert!(others.iter().all(|name| directory.path().join(name).exists()));
}

#[test]
fn a_pipe_in_the_place_of_an_index_keeps_nobody_waiting() {
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join(index_name(1));
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    fs::write(directory.path().join(capture_name(1)), vec![0; 10_000]).unwrap();
    let files = RecordFiles::open(directory.path(), 8_000).unwrap();
    assert_eq!(files.overwritten(), 0, "nobody knows how many");
    assert!(!pipe.exists());
}
