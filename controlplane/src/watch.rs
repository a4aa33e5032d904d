//! Watches the files of a configuration: says when they have changed and come to rest. It must not know what is in them.
//!
//! Directories are watched, not files: an editor's rename and a ConfigMap's `..data` swap replace the file itself. Only
//! close-after-write and moves into the directory count; a bare write does not, since the file may be half-written. Where
//! a pattern says which files count, links that appear and files that vanish count too.
//!
//! A watch belongs to the directory, not to its path. So the paths are looked up again every second: one that leads
//! elsewhere (renamed, removed, made anew, a link or a mount on the way replaced) is a change and is watched anew.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::StreamExt;
use inotify::{EventMask, EventOwned, EventStream, Inotify, WatchDescriptor, WatchMask};
use sluice_config::FilePattern;
use tokio::time::Instant;

use crate::limits::{PLACES_CHECK_MS, RELOAD_QUIET_MS, RELOAD_QUIET_TOTAL_MS};

/// What Kubernetes renames over to swap a whole mounted ConfigMap or Secret.
const DATA_LINK: &str = "..data";
/// Room for many events; one needs at most 16 + 256 bytes.
const EVENT_BYTES: usize = 4096;

/// Watches a set of files.
pub(crate) struct Watcher {
    events: EventStream<Vec<u8>>,
    files: Vec<PathBuf>,
    patterns: Vec<FilePattern>,
    watched: HashMap<WatchDescriptor, Watched>,
    leads: Leads,
    /// When to look where the paths lead.
    check_at: Instant,
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

/// Where paths were last seen to lead.
#[derive(Default, PartialEq, Eq)]
struct Leads {
    /// Device and inode of each directory, if it is there.
    directories: BTreeMap<PathBuf, Option<(u64, u64)>>,
    /// The end of each file that is a link; of one that leads nowhere now, where it led before.
    links: BTreeMap<PathBuf, Option<PathBuf>>,
}

impl Leads {
    /// Where the same paths lead now.
    fn now(&self) -> Self {
        let directories = self.directories.keys().map(|path| (path.clone(), identity(path)));
        let link = |(path, before): (&PathBuf, &Option<PathBuf>)| {
            (path.clone(), path.canonicalize().ok().or_else(|| before.clone()))
        };
        Self { directories: directories.collect(), links: self.links.iter().map(link).collect() }
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
        Ok(Self {
            events,
            files: Vec::new(),
            patterns: Vec::new(),
            watched: HashMap::new(),
            leads: Leads::default(),
            check_at: next_check(),
            rest: None,
        })
    }

    /// Watches these files from now on, whether they exist or not, those that a pattern means, and no others. A directory
    /// that cannot be watched is logged; SIGHUP still works.
    pub(crate) fn set(&mut self, files: &[PathBuf], patterns: &[FilePattern]) {
        self.files = files.to_vec();
        self.patterns = patterns.to_vec();
        self.watch();
    }

    /// Sets the watches anew. Where known paths lead is left as it was: had one changed while the files were being read,
    /// the next check has to find it.
    fn watch(&mut self) {
        let before = std::mem::take(&mut self.leads);
        for file in &self.files {
            let known = before.links.get(file);
            if known.is_some() || file.is_symlink() {
                let end = known.cloned().unwrap_or_else(|| file.canonicalize().ok());
                self.leads.links.insert(file.clone(), end);
            }
        }
        let stale = std::mem::take(&mut self.watched);
        for (directory, Watched { names, patterns }) in places(&self.files, &self.patterns, &self.leads.links)
        {
            let known = before.directories.get(&directory).copied();
            let identity = known.unwrap_or_else(|| identity(&directory));
            // Added again even if known: the directory may be a new one of the same name. Two ways to one directory are
            // one watch, which must not lose what the first wanted.
            match self.events.watches().add(&directory, mask(!patterns.is_empty())) {
                Ok(watch) => {
                    let watched = self.watched.entry(watch).or_default();
                    watched.names.extend(names);
                    watched.patterns.extend(patterns);
                }
                // It is noticed when it comes.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    tracing::warn!(directory = %directory.display(), %error, "changes here will not be noticed");
                }
            }
            self.leads.directories.insert(directory, identity);
        }
        for watch in stale.into_keys().filter(|watch| !self.watched.contains_key(watch)) {
            // Fails when the directory itself is gone; then there is nothing to end.
            self.events.watches().remove(watch).ok();
        }
    }

    /// Watches where the paths lead now; whether that is elsewhere than before.
    fn follow(&mut self) -> bool {
        let now = self.leads.now();
        let elsewhere = now != self.leads;
        if elsewhere {
            self.leads = now;
            self.watch();
        }
        elsewhere
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
                    // What is read next is watched before it is read.
                    self.follow();
                    return Ok(());
                }
            }
        }
    }

    /// Waits for an event or the next check and says whether it is about a watched file. Safe to drop: no event is lost.
    async fn next(&mut self) -> io::Result<bool> {
        tokio::select! {
            biased;
            Some(event) = self.events.next() => Ok(self.counts(event?)),
            () = tokio::time::sleep_until(self.check_at) => {
                self.check_at = next_check();
                Ok(self.follow())
            }
        }
    }

    fn counts(&mut self, event: EventOwned) -> bool {
        // Also of a directory that was let go meanwhile: its event is older than that.
        if event.mask.intersects(GONE) {
            // One that is made at once in its place may even have its inode number.
            self.leads = self.leads.now();
            self.watch();
            return true;
        }
        let here = self.watched.get(&event.wd).zip(event.name);
        let counts = here.is_some_and(|(watched, name)| watched.counts(event.mask, &name));
        counts || event.mask.contains(EventMask::Q_OVERFLOW)
    }
}

/// The directory itself was moved or removed, or its file system unmounted.
const GONE: EventMask = EventMask::MOVE_SELF.union(EventMask::DELETE_SELF).union(EventMask::UNMOUNT);

/// What to hear of a directory, with or without patterns.
fn mask(with_patterns: bool) -> WatchMask {
    let itself = WatchMask::MOVE_SELF | WatchMask::DELETE_SELF | WatchMask::MASK_ADD;
    let writes = itself | WatchMask::CLOSE_WRITE | WatchMask::MOVED_TO;
    let every_change = writes | WatchMask::CREATE | WatchMask::DELETE | WatchMask::MOVED_FROM;
    if with_patterns { every_change } else { writes }
}

fn next_check() -> Instant {
    Instant::now() + Duration::from_millis(PLACES_CHECK_MS)
}

/// Device and inode of what a path leads to.
fn identity(path: &Path) -> Option<(u64, u64)> {
    path.metadata().ok().map(|data| (data.dev(), data.ino()))
}

/// Whether a file, or a link on the way to it, has changed since `then`: for what happened before it was watched.
pub(crate) fn changed_since(files: &[PathBuf], then: SystemTime) -> bool {
    let then = then.duration_since(UNIX_EPOCH).map_or(i128::MAX, |since| since.as_nanos().cast_signed());
    files.iter().any(|file| {
        // The status change: a rename brings its own, a modification time may be older than the file's arrival.
        let seen = |data: Metadata| i128::from(data.ctime()) * 1_000_000_000 + i128::from(data.ctime_nsec());
        let changed = |data: io::Result<Metadata>| data.is_ok_and(|data| seen(data) > then);
        let replaced = |link: &Path| link.is_symlink() && changed(link.symlink_metadata());
        changed(file.metadata()) || changed(file.symlink_metadata()) || file.ancestors().skip(1).any(replaced)
    })
}

/// Each directory to watch with the names that matter there: the file's own place and, where the file is a link, the
/// place it leads to.
fn places(
    files: &[PathBuf],
    patterns: &[FilePattern],
    links: &BTreeMap<PathBuf, Option<PathBuf>>,
) -> BTreeMap<PathBuf, Watched> {
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
    }
    for end in links.values().flatten() {
        add(end);
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

    /// Swaps a link to a folder as git-sync does.
    fn lead(link: &Path, to: &str) {
        let new = link.with_extension("new");
        symlink(to, &new).expect("link");
        fs::rename(&new, link).expect("rename");
    }

    #[tokio::test]
    async fn another_folder_in_the_place_of_a_watched_one_is_noticed_and_followed() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut watcher, entries) = of_entries(folder.path());
        let place = |name: &str| folder.path().join(name);
        for old in ["old1", "old2"] {
            fs::create_dir(place("new")).expect("create");
            fs::rename(&entries, place(old)).expect("rename");
            fs::rename(place("new"), &entries).expect("rename");
            assert!(noticed(&mut watcher).await, "the swap");
            fs::write(entries.join("a.yaml"), "x").expect("write");
            assert!(noticed(&mut watcher).await, "a new file in the new folder");
            fs::write(place(old).join("a.yaml"), "x").expect("write");
            assert!(!noticed_within_two_checks(&mut watcher).await, "the old folder is nobody's");
        }
    }

    #[tokio::test]
    async fn a_folder_that_goes_and_comes_back_is_noticed_each_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut watcher, entries) = of_entries(folder.path());
        let away = folder.path().join("away");
        fs::rename(&entries, &away).expect("rename");
        assert!(noticed(&mut watcher).await, "moved away");
        fs::create_dir(&entries).expect("create");
        assert!(noticed(&mut watcher).await, "made anew");
        fs::write(entries.join("a.yaml"), "x").expect("write");
        assert!(noticed(&mut watcher).await, "a file in the new one");
        fs::remove_dir_all(&entries).expect("remove");
        assert!(noticed(&mut watcher).await, "removed");
        fs::rename(&away, &entries).expect("rename");
        assert!(noticed(&mut watcher).await, "moved back");
        fs::write(entries.join("b.yaml"), "x").expect("write");
        assert!(noticed(&mut watcher).await, "a file in the old one");
        // Further up no event tells.
        let above = folder.path().with_extension("above");
        fs::rename(folder.path(), &above).expect("rename");
        assert!(noticed(&mut watcher).await, "the folder above moved away");
        fs::rename(&above, folder.path()).expect("rename");
        assert!(noticed(&mut watcher).await, "and back");
    }

    /// Its successor may have the same inode number: no check could tell.
    #[tokio::test]
    async fn the_end_of_a_folder_itself_is_an_event() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut watcher, entries) = of_entries(folder.path());
        watcher.check_at += Duration::from_secs(3600);
        fs::remove_dir(&entries).expect("remove");
        fs::create_dir(&entries).expect("create");
        assert!(noticed(&mut watcher).await, "removed and made anew");
        fs::rename(&entries, folder.path().join("old")).expect("rename");
        fs::create_dir(&entries).expect("create");
        assert!(noticed(&mut watcher).await, "moved and made anew");
        fs::write(entries.join("a.yaml"), "x").expect("write");
        assert!(noticed(&mut watcher).await, "a file in the last one");
    }

    #[tokio::test]
    async fn a_link_on_the_way_that_is_replaced_is_noticed_each_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = |name: &str| folder.path().join(name);
        for version in ["v1", "v2", "v3"] {
            fs::create_dir_all(place(version).join("conf")).expect("create");
            fs::write(place(version).join("conf/sluice.toml"), version).expect("write");
        }
        symlink("v1", place("current")).expect("link");
        symlink("current/conf/sluice.toml", place("sluice.toml")).expect("link");
        // The folder itself a link, a link further up, a file that is a link and leads through one.
        symlink("current/conf", place("conf")).expect("link");
        for file in ["conf/sluice.toml", "current/conf/sluice.toml", "sluice.toml"] {
            lead(&place("current"), "v1");
            let mut watcher = Watcher::new().expect("inotify");
            watcher.set(&[place(file)], &[]);
            for version in ["v2", "v3"] {
                lead(&place("current"), version);
                assert!(noticed(&mut watcher).await, "{file} {version}");
                watcher.set(&[place(file)], &[]);
                fs::write(place(version).join("conf/sluice.toml"), "x").expect("write");
                assert!(noticed(&mut watcher).await, "{file} written in {version}");
            }
        }
    }

    #[tokio::test]
    async fn a_swap_while_the_files_were_being_read_is_noticed() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut watcher, entries) = of_entries(folder.path());
        fs::write(entries.join("a.yaml"), "x").expect("write");
        assert!(noticed(&mut watcher).await);
        let (files, patterns) = (watcher.files.clone(), watcher.patterns.clone());
        fs::rename(&entries, folder.path().join("old")).expect("rename");
        fs::create_dir(&entries).expect("create");
        watcher.set(&files, &patterns);
        assert!(noticed(&mut watcher).await, "moved");
        fs::remove_dir_all(&entries).expect("remove");
        fs::create_dir(&entries).expect("create");
        watcher.set(&files, &patterns);
        assert!(noticed(&mut watcher).await, "removed");
    }

    async fn noticed_within_two_checks(watcher: &mut Watcher) -> bool {
        let time = Duration::from_millis(2 * PLACES_CHECK_MS + 2 * RELOAD_QUIET_MS);
        tokio::time::timeout(time, watcher.changed()).await.is_ok()
    }

    #[tokio::test]
    async fn what_happens_beside_a_watched_folder_counts_for_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut watcher, entries) = of_entries(folder.path());
        let place = |name: &str| folder.path().join(name);
        fs::create_dir(place("entries.new")).expect("create");
        fs::write(place("entries.new/a.yaml"), "x").expect("write");
        fs::rename(place("entries.new"), place("other")).expect("rename");
        symlink("other", place("link")).expect("link");
        lead(&place("link"), "entries");
        fs::remove_dir_all(place("other")).expect("remove");
        fs::create_dir(entries.join("below")).expect("create");
        fs::write(entries.join("below/a.yaml"), "x").expect("write");
        assert!(!noticed_within_two_checks(&mut watcher).await);
    }
}
