//! The file writer against real files, by both ways of writing.

use std::path::Path;
use std::time::Duration;
use std::{fs, io};

use sluice_controlplane::backlog::{Batch, LogStats};
use sluice_controlplane::{FileWriter, LogWriter};

type Way = (&'static str, fn(&Path) -> io::Result<FileWriter>);
const WAYS: [Way; 2] = [("tokio-uring", super::open), ("plain calls", FileWriter::open)];
const WAIT: Duration = Duration::from_secs(10);

fn batch(text: &str) -> Batch {
    Batch { bytes: text.as_bytes().to_vec(), lines: text.lines().count() as u64 }
}

#[test]
fn lines_are_appended_to_what_is_there() {
    for (way, open) in WAYS {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("access.log");
        fs::write(&path, "before\n").expect("write");
        let mut writer = open(&path).expect("opens");
        writer.write(batch("one\ntwo\n"));
        writer.write(batch("three\n"));
        writer.finish(WAIT);
        assert_eq!(fs::read_to_string(&path).expect("read"), "before\none\ntwo\nthree\n", "{way}");
        assert_eq!(writer.stats(), LogStats { written: 3, dropped: 0 }, "{way}");
    }
}

#[test]
fn rotation_loses_no_line() {
    for (way, open) in WAYS {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, old) = (folder.path().join("access.log"), folder.path().join("access.log.1"));
        let mut writer = open(&path).expect("opens");
        for round in 0..100 {
            writer.write(batch(&format!("{round}\n")));
            if round == 49 {
                fs::rename(&path, &old).expect("rename");
                writer.reopen();
            }
        }
        writer.finish(WAIT);
        let (old, new) = (fs::read_to_string(&old).expect("read"), fs::read_to_string(&path).expect("read"));
        let all: Vec<String> = (0..100).map(|round| round.to_string()).collect();
        assert_eq!(old.lines().chain(new.lines()).collect::<Vec<_>>(), all, "{way}");
        assert!(new.lines().count() >= 1, "lines after the reopening are in the new file");
        assert_eq!(writer.stats(), LogStats { written: 100, dropped: 0 }, "{way}");
    }
}

#[test]
fn a_full_disk_drops_and_counts_and_goes_on() {
    for (way, open) in WAYS {
        let mut writer = open(Path::new("/dev/full")).expect("opens");
        writer.write(batch("one\ntwo\n"));
        writer.write(batch("three\n"));
        writer.finish(WAIT);
        assert_eq!(writer.stats(), LogStats { written: 0, dropped: 3 }, "{way}");
    }
}

#[test]
fn writing_recovers_once_there_is_room() {
    for (way, open) in WAYS {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("access.log");
        std::os::unix::fs::symlink("/dev/full", &path).expect("link");
        let mut writer = open(&path).expect("opens");
        writer.write(batch("lost\n"));
        // The order is kept: the line above is lost before the file is opened anew.
        writer.reopen();
        let dropped = (0..1000).any(|_| {
            std::thread::sleep(Duration::from_millis(1));
            writer.stats().dropped == 1
        });
        assert!(dropped, "{way}");
        fs::remove_file(&path).expect("remove");
        writer.reopen();
        writer.write(batch("kept\n"));
        writer.finish(WAIT);
        assert_eq!(fs::read_to_string(&path).expect("read"), "kept\n", "{way}");
        assert_eq!(writer.stats(), LogStats { written: 1, dropped: 1 }, "{way}");
    }
}

#[test]
fn a_place_that_cannot_be_opened_is_an_error_at_once() {
    for (way, open) in WAYS {
        assert!(open(Path::new("/nonexistent/folder/access.log")).is_err(), "{way}");
    }
}
