//! Watches the files of a configuration: says when they have changed and come to rest. It must not know what is in them.
//!
//! Directories are watched, not files: an editor's rename and a ConfigMap's `..data` swap replace the file itself. Only
//! close-after-write and moves into the directory count; a bare write does not, since the file may be half-written. Where
//! a pattern says which files count, links that appear and files that vanish count too.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::StreamExt;
use inotify::{EventMask, EventStream, Inotify, WatchDescriptor, WatchMask};
use sluice_config::FilePattern;
use tokio::time::Instant;

use crate::limits::{RELOAD_QUIET_MS, RELOAD_QUIET_TOTAL_MS};

/// What Kubernetes renames over to swap a whole mounted ConfigMap or Secret.
const DATA_LINK: &str = "..data";
/// Room for many events; one needs at most 16 + 256 bytes.
const EVENT_BYTES: usize = 4096;

/// Watches a set of files.
pub(crate) struct Watcher {
    events: EventStream<Vec<u8>>,
    directories: BTreeMap<PathBuf, WatchDescriptor>,
    watched: HashMap<WatchDescriptor, Watched>,
    /// A change was seen and is coming to rest.
    rest: Option<Rest>,
}

/// What counts in one directory.
#[derive(Default)]
struct Watched {
    names: BTreeSet<OsString>,
    patterns: Vec<FilePattern>,
}

impl Watched {
    fn counts(&self, mask: EventMask, name: &OsStr) -> bool {
        let meant = |pattern: &FilePattern| pattern.matches(name);
        if mask.intersects(EventMask::CLOSE_WRITE | EventMask::MOVED_TO) {
            return self.names.contains(name) || self.patterns.iter().any(meant);
        }
        // A link is complete as soon as it is there; a file that is created is still to be written.
        let is_link = |pattern: &FilePattern| pattern.folder().join(name).is_symlink();
        let created = mask.contains(EventMask::CREATE);
        self.patterns.iter().any(|pattern| meant(pattern) && (!created || is_link(pattern)))
    }
}

/// When a change counts as over: after quiet, and at the latest.
#[derive(Clone, Copy)]
struct Rest {
    until: Instant,
    latest: Instant,
}

impl Watcher {
    /// A watcher of nothing; it must be made inside a tokio runtime.
    ///
    /// # Errors
    /// As inotify_init1(2): the limit of instances or descriptors.
    pub(crate) fn new() -> io::Result<Self> {
        let events = Inotify::init()?.into_event_stream(vec![0; EVENT_BYTES])?;
        Ok(Self { events, directories: BTreeMap::new(), watched: HashMap::new(), rest: None })
    }

    /// Watches these files from now on, whether they exist or not, those that a pattern means, and no others. A directory
    /// that cannot be watched is logged; SIGHUP still works.
    pub(crate) fn set(&mut self, files: &[PathBuf], patterns: &[FilePattern]) {
        let wanted = places(files, patterns);
        let mut watches = self.events.watches();
        let gone: Vec<PathBuf> =
            self.directories.keys().filter(|path| !wanted.contains_key(*path)).cloned().collect();
        for path in gone {
            if let Some(watch) = self.directories.remove(&path) {
                // Fails when the directory itself is gone; then there is nothing to end.
                watches.remove(watch).ok();
            }
        }
        self.watched.clear();
        let writes = WatchMask::CLOSE_WRITE | WatchMask::MOVED_TO;
        let every_change = writes | WatchMask::CREATE | WatchMask::DELETE | WatchMask::MOVED_FROM;
        for (directory, Watched { names, patterns }) in wanted {
            // Added again even if known: the directory may be a new one of the same name. Two ways to one directory are
            // one watch, which must not lose what the first wanted.
            let mask = if patterns.is_empty() { writes } else { every_change };
            match watches.add(&directory, mask | WatchMask::MASK_ADD) {
                Ok(watch) => {
                    let watched = self.watched.entry(watch.clone()).or_default();
                    watched.names.extend(names);
                    watched.patterns.extend(patterns);
                    self.directories.insert(directory, watch);
                }
                Err(error) => {
                    tracing::warn!(directory = %directory.display(), %error, "changes here will not be noticed");
                }
            }
        }
    }

    /// Waits for a change of a watched file and then for quiet. Safe to drop and call again: nothing is forgotten.
    ///
    /// # Errors
    /// As read(2) on the inotify descriptor.
    pub(crate) async fn changed(&mut self) -> io::Result<()> {
        let quiet = Duration::from_millis(RELOAD_QUIET_MS);
        loop {
            let Some(rest) = self.rest else {
                if self.next().await? {
                    let now = Instant::now();
                    let latest = now + Duration::from_millis(RELOAD_QUIET_TOTAL_MS);
                    self.rest = Some(Rest { until: now + quiet, latest });
                }
                continue;
            };
            tokio::select! {
                biased;
                changed = self.next() => if changed? {
                    let until = rest.latest.min(Instant::now() + quiet);
                    self.rest = Some(Rest { until, ..rest });
                },
                () = tokio::time::sleep_until(rest.until) => {
                    self.rest = None;
                    return Ok(());
                }
            }
        }
    }

    /// Waits for an event and says whether it is about a watched file. Safe to drop: no event is lost.
    async fn next(&mut self) -> io::Result<bool> {
        let Some(event) = self.events.next().await else { return std::future::pending().await };
        let event = event?;
        let here = self.watched.get(&event.wd).zip(event.name);
        let counts = here.is_some_and(|(watched, name)| watched.counts(event.mask, &name));
        Ok(counts || event.mask.contains(EventMask::Q_OVERFLOW))
    }
}

/// Whether a file has changed since `then`: for what happened before it was watched.
pub(crate) fn changed_since(files: &[PathBuf], then: SystemTime) -> bool {
    let then = then.duration_since(UNIX_EPOCH).map_or(i128::MAX, |since| since.as_nanos().cast_signed());
    files.iter().any(|file| {
        // The status change: a rename brings its own, a modification time may be older than the file's arrival.
        let seen = |data: Metadata| i128::from(data.ctime()) * 1_000_000_000 + i128::from(data.ctime_nsec());
        let changed = |data: io::Result<Metadata>| data.is_ok_and(|data| seen(data) > then);
        changed(file.metadata()) || changed(file.symlink_metadata())
    })
}

/// Each directory to watch with the names that matter there: the file's own place and, where the file is a link, the
/// place it leads to.
fn places(files: &[PathBuf], patterns: &[FilePattern]) -> BTreeMap<PathBuf, Watched> {
    let mut places: BTreeMap<PathBuf, Watched> = BTreeMap::new();
    let mut add = |file: &Path| {
        let (Some(parent), Some(name)) = (file.parent(), file.file_name()) else { return };
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        let names = &mut places.entry(parent.to_owned()).or_default().names;
        names.insert(name.to_owned());
        names.insert(OsStr::new(DATA_LINK).to_owned());
    };
    for file in files {
        add(file);
        if let Ok(target) = file.canonicalize()
            && target != *file
        {
            add(&target);
        }
    }
    for pattern in patterns {
        let watched = places.entry(pattern.folder().to_owned()).or_default();
        watched.names.insert(OsStr::new(DATA_LINK).to_owned());
        watched.patterns.push(pattern.clone());
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::symlink;

    const SOON: Duration = Duration::from_secs(5);

    async fn noticed(watcher: &mut Watcher) -> bool {
        matches!(tokio::time::timeout(SOON, watcher.changed()).await, Ok(Ok(())))
    }

    #[tokio::test]
    async fn a_rename_over_the_file_is_noticed() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("sluice.toml");
        fs::write(&file, "a").expect("write");
        let mut watcher = Watcher::new().expect("inotify");
        watcher.set(std::slice::from_ref(&file), &[]);
        fs::write(folder.path().join("new"), "b").expect("write");
        fs::rename(folder.path().join("new"), &file).expect("rename");
        assert!(noticed(&mut watcher).await);
    }

    #[tokio::test]
    async fn a_wait_that_is_given_up_forgets_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("sluice.toml");
        let mut watcher = Watcher::new().expect("inotify");
        watcher.set(std::slice::from_ref(&file), &[]);
        fs::write(&file, "a").expect("write");
        for _ in 0..3 {
            let wait = tokio::time::timeout(Duration::from_millis(RELOAD_QUIET_MS / 10), watcher.changed());
            assert!(wait.await.is_err(), "not yet quiet");
        }
        assert!(noticed(&mut watcher).await);
    }

    #[test]
    fn what_changed_before_it_was_watched_is_seen() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("sluice.toml");
        fs::write(&file, "a").expect("write");
        let hour = Duration::from_secs(3600);
        assert!(changed_since(std::slice::from_ref(&file), SystemTime::now() - hour));
        assert!(!changed_since(&[file], SystemTime::now() + hour));
    }

    #[tokio::test]
    async fn a_configmap_swap_is_noticed_each_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = |name: &str| folder.path().join(name);
        for version in ["..1", "..2", "..3"] {
            fs::create_dir(place(version)).expect("create");
            fs::write(place(version).join("sluice.toml"), version).expect("write");
        }
        symlink("..1", place("..data")).expect("link");
        symlink("..data/sluice.toml", place("sluice.toml")).expect("link");
        let mut watcher = Watcher::new().expect("inotify");
        for version in ["..2", "..3"] {
            watcher.set(&[place("sluice.toml")], &[]);
            symlink(version, place("..data_tmp")).expect("link");
            fs::rename(place("..data_tmp"), place("..data")).expect("rename");
            assert!(noticed(&mut watcher).await, "{version}");
        }
    }

    #[tokio::test]
    async fn a_write_counts_only_once_it_is_closed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("sluice.toml");
        fs::write(&path, "a").expect("write");
        let mut watcher = Watcher::new().expect("inotify");
        watcher.set(std::slice::from_ref(&path), &[]);
        let mut file = fs::File::options().append(true).open(&path).expect("open");
        file.write_all(b"half").expect("write");
        fs::write(folder.path().join("other"), "x").expect("write");
        let bare = tokio::time::timeout(Duration::from_millis(3 * RELOAD_QUIET_MS), watcher.changed()).await;
        assert!(bare.is_err(), "a bare write, or another file, is no change");
        drop(file);
        assert!(noticed(&mut watcher).await);
    }

    /// A watcher of `*.yaml` in a folder `entries`.
    fn of_entries(folder: &Path) -> (Watcher, PathBuf) {
        let entries = folder.join("entries");
        fs::create_dir(&entries).expect("create");
        let file = folder.join("sluice.toml");
        fs::write(&file, "mode = \"allow_any\"\n[registry]\nservice_entries = [\"entries/*.yaml\"]\n")
            .expect("write");
        let source = sluice_config::Source::isolated(Some(file));
        let plan = sluice_config::load(&source).expect("valid").plan;
        let mut watcher = Watcher::new().expect("inotify");
        watcher.set(&plan.files, &plan.file_patterns);
        (watcher, entries)
    }

    #[tokio::test]
    async fn files_that_match_a_pattern_come_move_and_go() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut watcher, entries) = of_entries(folder.path());
        fs::write(entries.join("a.yaml"), "x").expect("write");
        assert!(noticed(&mut watcher).await, "a new file");
        fs::rename(entries.join("a.yaml"), entries.join("a.off")).expect("rename");
        assert!(noticed(&mut watcher).await, "a file that no longer matches");
        fs::rename(entries.join("a.off"), entries.join("b.yaml")).expect("rename");
        assert!(noticed(&mut watcher).await, "a file that matches now");
        fs::remove_file(entries.join("b.yaml")).expect("remove");
        assert!(noticed(&mut watcher).await, "a file that is gone");
        symlink("..data/c.yaml", entries.join("c.yaml")).expect("link");
        assert!(noticed(&mut watcher).await, "a link");
        fs::create_dir(entries.join("..1")).expect("create");
        symlink("..1", entries.join("..data_tmp")).expect("link");
        fs::rename(entries.join("..data_tmp"), entries.join("..data")).expect("rename");
        assert!(noticed(&mut watcher).await, "a swap");
    }

    #[tokio::test]
    async fn files_that_match_no_pattern_or_are_being_written_count_for_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut watcher, entries) = of_entries(folder.path());
        let mut half = fs::File::create(entries.join("a.yaml")).expect("create");
        half.write_all(b"half").expect("write");
        for other in ["a.yaml~", ".a.yaml.swp", "4913"] {
            fs::write(entries.join(other), "x").expect("write");
            fs::remove_file(entries.join(other)).expect("remove");
        }
        fs::remove_file(folder.path().join("sluice.toml")).expect("remove");
        let wait = tokio::time::timeout(Duration::from_millis(3 * RELOAD_QUIET_MS), watcher.changed()).await;
        assert!(wait.is_err(), "nothing is complete");
        drop(half);
        assert!(noticed(&mut watcher).await);
    }
}
