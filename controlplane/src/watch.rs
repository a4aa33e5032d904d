//! Watches the files of a configuration: says when they have changed and come to rest. It must not know what is in them.
//!
//! Directories are watched, not files: an editor's rename and a ConfigMap's `..data` swap replace the file itself. Only
//! close-after-write and moves into the directory count; a bare write does not, since the file may be half-written.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::StreamExt;
use inotify::{EventMask, EventStream, Inotify, WatchDescriptor, WatchMask};
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
    names: HashMap<WatchDescriptor, BTreeSet<OsString>>,
    /// A change was seen and is coming to rest.
    rest: Option<Rest>,
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
        Ok(Self { events, directories: BTreeMap::new(), names: HashMap::new(), rest: None })
    }

    /// Watches these files from now on, whether they exist or not, and no others. A directory that cannot be
    /// watched is logged; SIGHUP still works.
    pub(crate) fn set(&mut self, files: &[PathBuf]) {
        let wanted = places(files);
        let mut watches = self.events.watches();
        let gone: Vec<PathBuf> =
            self.directories.keys().filter(|path| !wanted.contains_key(*path)).cloned().collect();
        for path in gone {
            if let Some(watch) = self.directories.remove(&path) {
                // Fails when the directory itself is gone; then there is nothing to end.
                watches.remove(watch).ok();
            }
        }
        self.names.clear();
        for (directory, names) in wanted {
            // Added again even if known: the directory may be a new one of the same name.
            match watches.add(&directory, WatchMask::CLOSE_WRITE | WatchMask::MOVED_TO) {
                Ok(watch) => {
                    self.names.entry(watch.clone()).or_default().extend(names);
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
        let watched =
            self.names.get(&event.wd).zip(event.name).is_some_and(|(names, name)| names.contains(&name));
        Ok(watched || event.mask.contains(EventMask::Q_OVERFLOW))
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
fn places(files: &[PathBuf]) -> BTreeMap<PathBuf, BTreeSet<OsString>> {
    let mut places: BTreeMap<PathBuf, BTreeSet<OsString>> = BTreeMap::new();
    let mut add = |file: &Path| {
        let (Some(parent), Some(name)) = (file.parent(), file.file_name()) else { return };
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        let names = places.entry(parent.to_owned()).or_default();
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
        watcher.set(std::slice::from_ref(&file));
        fs::write(folder.path().join("new"), "b").expect("write");
        fs::rename(folder.path().join("new"), &file).expect("rename");
        assert!(noticed(&mut watcher).await);
    }

    #[tokio::test]
    async fn a_wait_that_is_given_up_forgets_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("sluice.toml");
        let mut watcher = Watcher::new().expect("inotify");
        watcher.set(std::slice::from_ref(&file));
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
            watcher.set(&[place("sluice.toml")]);
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
        watcher.set(std::slice::from_ref(&path));
        let mut file = fs::File::options().append(true).open(&path).expect("open");
        file.write_all(b"half").expect("write");
        fs::write(folder.path().join("other"), "x").expect("write");
        let bare = tokio::time::timeout(Duration::from_millis(3 * RELOAD_QUIET_MS), watcher.changed()).await;
        assert!(bare.is_err(), "a bare write, or another file, is no change");
        drop(file);
        assert!(noticed(&mut watcher).await);
    }
}
