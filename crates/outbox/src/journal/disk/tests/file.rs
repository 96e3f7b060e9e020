//! The file by itself.

use std::sync::atomic::Ordering;

use super::{super::*, Place, trouble::Trouble};

/// After a failure the file is closed until it is used again, and nobody has its lock.
#[test]
fn a_file_that_somebody_else_has_changed_meanwhile_is_left_alone() {
    let place = Place::new();
    let trouble = Trouble::none();
    let mut first = trouble.disk(&place.path).unwrap();
    append(&mut first, 1, "mine").unwrap();
    trouble.left.store(0, Ordering::Relaxed);
    append(&mut first, 2, "mine").unwrap_err();

    let mut second = Disk::open(&place.path).unwrap();
    let number = second.found().unwrap().next;
    // As many messages and bytes as the first may have written.
    append(&mut second, number, "ours").unwrap();
    drop(second);

    trouble.heal();
    // One that is free, and one that is not.
    for number in [number + 1, number] {
        let changed = append(&mut first, number, "mine").unwrap_err();
        assert!(matches!(changed, JournalError::Changed), "{changed:?}");
    }
    let mut third = Disk::open(&place.path).expect("the first does not hold it");
    let records = third.read(0, 10, 1000).unwrap().records;
    let last = records.last().unwrap();
    assert_eq!((last.number, &*last.bytes), (number, &b"ours"[..]));
}

#[test]
fn nothing_is_written_over() {
    let place = Place::new();
    let mut disk = Disk::open(&place.path).unwrap();
    append(&mut disk, 7, "first").unwrap();
    for number in [7, 8] {
        let taken = append(&mut disk, number, "second").unwrap_err();
        assert!(matches!(taken, JournalError::Changed), "{taken:?}");
    }
    drop(disk);
    let mut disk = Disk::open(&place.path).unwrap();
    let records = disk.read(0, 10, 1000).unwrap().records;
    let read: Vec<_> = records
        .iter()
        .map(|record| (record.number, &*record.bytes))
        .collect();
    assert_eq!(read, [(7, &b"first"[..])]);
}

#[test]
fn a_file_that_was_deleted_meanwhile_is_not_made_anew() {
    let place = Place::new();
    let mut disk = Disk::open_bounded(&place.path, 2 << 20).unwrap();
    append(&mut disk, 1, &"x".repeat(8 << 20)).expect_err("it is too large");
    std::fs::remove_file(&place.path).unwrap();
    append(&mut disk, 2, "small").expect_err("it is gone");
    assert!(!place.path.exists());
}

fn append(disk: &mut Disk, number: u64, text: &str) -> Result<(), JournalError> {
    disk.commit(&Changes {
        append: &[(number, text.as_bytes())],
        ..Changes::default()
    })
}

#[test]
fn removals_in_runs_and_alone_take_what_they_are_told_and_its_bytes() {
    let place = Place::new();
    let mut disk = Disk::open(&place.path).unwrap();
    for number in 1..=40 {
        append(&mut disk, number, "four").unwrap();
    }
    let mut remove = |numbers: &[u64]| {
        disk.commit(&Changes {
            remove: numbers,
            ..Changes::default()
        })
        .unwrap();
        disk.found().unwrap().bytes / 4
    };
    assert_eq!(remove(&[3, 5, 6, 7, 8, 20, 22]), 33);
    // Some are not there any more, and some never were.
    assert_eq!(remove(&[4, 5, 6, 7, 8, 9, 30, 39, 40, 41, 42]), 28);
    let left = disk.read(0, 100, 10_000).unwrap();
    let left: Vec<u64> = left.records.iter().map(|record| record.number).collect();
    let gone = |number: &u64| matches!(number, 3..=9 | 20 | 22 | 30 | 39 | 40);
    assert_eq!(
        left,
        Vec::from_iter((1..=40).filter(|number| !gone(number)))
    );
}

/// What redb makes of nonsense is its own affair, but a program must be able to say so.
#[test]
fn a_damaged_file_is_an_error_and_no_panic() {
    let place = Place::new();
    let mut disk = Disk::open(&place.path).unwrap();
    for number in 1..200 {
        append(&mut disk, number, &"text".repeat(50)).unwrap();
    }
    drop(disk);
    let good = std::fs::read(&place.path).unwrap();
    let mut random = fastrand::Rng::with_seed(7);
    let mut errors = 0;
    for _ in 0..200 {
        let mut bad = good.clone();
        let at = random.usize(..good.len() / 512) * 512;
        random.fill(&mut bad[at..at + 512]);
        std::fs::write(&place.path, bad).unwrap();
        let read = Disk::open(&place.path).and_then(|mut disk| disk.read(0, 300, 1 << 20));
        errors += usize::from(read.is_err());
    }
    assert!(errors > 0, "nothing that was damaged was needed");
}
