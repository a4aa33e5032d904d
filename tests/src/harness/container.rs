//! A container without a container engine: the program as process 1 of a pid namespace, under a user that no file names, on a
//! read-only root that holds nothing but itself, its libraries, /proc and /etc/sluice. User, entry point and command are those
//! of the Dockerfile. The network is the test's own, so that the rest of the harness reaches it. Needs root.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::gateway::{Gateway, Start, binary, run_command};
use super::wait::until;

/// What the Dockerfile says about running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// `uid:gid`.
    pub user: String,
    /// The words of ENTRYPOINT.
    pub entrypoint: Vec<String>,
    /// The words of CMD.
    pub cmd: Vec<String>,
}

/// The instructions of the Dockerfile: keyword and the rest, comments left out, continued lines joined.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn instructions() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(repository().join("Dockerfile")).expect("a Dockerfile");
    let text = text.replace("\\\n", " ");
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let split = lines.map(|line| line.split_once(' ').unwrap_or((line, "")));
    split.map(|(keyword, rest)| (keyword.to_owned(), rest.trim().to_owned())).collect()
}

/// The top folder of the sources.
#[must_use]
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

impl Image {
    /// As the Dockerfile has it.
    ///
    /// # Panics
    /// When it lacks USER, ENTRYPOINT or CMD.
    #[must_use]
    pub fn read() -> Self {
        let instructions = instructions();
        let last = |keyword: &str| match instructions.iter().rfind(|(name, _)| name == keyword) {
            Some((_, rest)) => rest.clone(),
            None => panic!("no {keyword} in the Dockerfile"),
        };
        let words = |keyword: &str| -> Vec<String> {
            serde_json::from_str(&last(keyword))
                .expect("the exec form, which is JSON: a shell would be process 1")
        };
        Self { user: last("USER"), entrypoint: words("ENTRYPOINT"), cmd: words("CMD") }
    }
}

/// Runs as root in the new namespaces. Arguments: the root's folder, the program, where it goes, uid, gid, the command, then
/// `COMMAND --config FILE` of the harness, whose folder becomes /etc/sluice. setpriv is only the way in: it gives up root after
/// chroot, and has the kernel end the container with the `unshare` that stands outside.
const ENTER: &str = r#"
set -eu
root=$1 program=$2 entrypoint=$3 uid=$4 gid=$5 command=$6 folder=$(dirname "$9")
PATH=$PATH:/usr/sbin:/sbin
mount -t tmpfs -o mode=0755 root "$root"
mkdir -p "$root$(dirname "$entrypoint")" "$root/etc/sluice" "$root/proc"
cp "$program" "$root$entrypoint"
setpriv=$(command -v setpriv)
cp "$setpriv" "$root/setpriv"
for library in $(ldd "$program" "$setpriv" | grep -o '/[^ :]*' | sort -u); do
    case $library in "$program" | "$setpriv") ;; *) cp --parents --dereference "$library" "$root" ;; esac
done
mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
mount --bind "$folder" "$root/etc/sluice"
mount -o remount,bind,ro "$root/etc/sluice"
mount -o remount,ro "$root"
cd /
exec env -i PATH=/usr/local/bin:/usr/bin "$(command -v chroot)" "$root" \
    /setpriv --reuid "$uid" --regid "$gid" --clear-groups --inh-caps=-all --bounding-set=-all --pdeathsig KILL \
    "$entrypoint" $command
"#;

/// A running container.
pub struct Container {
    /// Seen from outside: doors, admin API and logs as of any other gateway. Its process is the `unshare` that waits for the
    /// container and ends with its exit code; [`Gateway::signal`] does not reach into the container.
    pub gateway: Gateway,
    init: Pid,
    // The mount point; what is mounted there is in the container's own mount namespace.
    _root: tempfile::TempDir,
}

/// A container that is not started yet.
pub struct Prepared {
    start: Start,
    root: tempfile::TempDir,
}

fn command(wrapper: Option<&Path>, root: &Path, words: &[String]) -> Command {
    let image = Image::read();
    let (uid, gid) =
        image.user.split_once(':').expect("uid:gid in numbers: the image has no /etc/passwd to rely on");
    let mut command = match wrapper {
        Some(wrapper) => {
            let mut command = Command::new(wrapper);
            command.arg("unshare");
            command
        }
        None => Command::new("unshare"),
    };
    command.args(["--mount", "--pid", "--fork", "--kill-child", "--", "sh", "-c", ENTER, "enter"]);
    command.arg(root).arg(binary()).arg(&image.entrypoint[0]).args([uid, gid]);
    command.arg([&image.entrypoint[1..], words].concat().join(" "));
    command
}

/// The folder of a configuration, which another user than root reads.
fn opened(folder: &Path) {
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder, mode).expect("permissions");
}

impl Prepared {
    /// With this configuration in /etc/sluice, completed as [`Start::new`] does; `wrapper` executes its arguments.
    ///
    /// # Panics
    /// When no folder can be made.
    #[must_use]
    pub fn new(wrapper: Option<&Path>, toml: &str) -> Self {
        let root = tempfile::tempdir().expect("a folder");
        let start = Start::through(command(wrapper, root.path(), &Image::read().cmd), toml);
        opened(start.folder());
        Self { start, root }
    }

    /// What becomes /etc/sluice.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.start.folder()
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Panics
    /// When it does not become ready.
    #[must_use]
    pub fn ready(self) -> Container {
        let Self { start, root } = self;
        Container::of(start.ready(), root)
    }

    /// Starts it and waits for nothing but its process 1.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn started(self) -> Container {
        let Self { start, root } = self;
        Container::of(start.started(), root)
    }
}

impl Container {
    /// A running one with this configuration.
    ///
    /// # Panics
    /// When it does not become ready.
    #[must_use]
    pub fn start(toml: &str) -> Self {
        Prepared::new(None, toml).ready()
    }

    fn of(mut gateway: Gateway, root: tempfile::TempDir) -> Self {
        let outside = gateway.id();
        let init = until("process 1 of the container", || {
            assert!(gateway.process().ended().is_none(), "it ended: {}", gateway.stderr());
            first_child(outside)
        });
        Self { gateway, init, _root: root }
    }

    /// What /proc says of process 1 under `name`, as root outside sees it.
    ///
    /// # Panics
    /// When it has ended.
    #[must_use]
    pub fn status(&self, name: &str) -> String {
        let path = format!("/proc/{}/status", self.init.as_raw_nonzero());
        let status = std::fs::read_to_string(path).expect("a running process 1");
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.expect("a field of status").trim().to_owned()
    }

    /// Sends process 1 a signal, as `docker stop` and `docker kill` do.
    ///
    /// # Panics
    /// When it has ended.
    pub fn signal(&self, signal: Signal) {
        let process = pidfd_open(self.init, PidfdFlags::empty()).expect("a running process 1");
        pidfd_send_signal(process, signal).expect("root may");
    }
}

/// The child of `parent` that is process 1 of a namespace of its own.
fn first_child(parent: u32) -> Option<Pid> {
    let parent_line = format!("PPid:\t{parent}");
    std::fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let status = std::fs::read_to_string(entry.path().join("status")).ok()?;
        let is_init = status.lines().any(|line| line.starts_with("NSpid:") && line.ends_with("\t1"));
        let found = is_init && status.lines().any(|line| line == parent_line);
        found.then(|| Pid::from_raw(pid)).flatten()
    })
}

/// Runs one command of the program in a container to its end, with this configuration as /etc/sluice/sluice.toml.
///
/// # Panics
/// When it cannot be started or does not end.
#[must_use]
pub fn run(words: &[&str], toml: &str) -> Output {
    let (root, folder) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    opened(folder.path());
    let path = folder.path().join("sluice.toml");
    std::fs::write(&path, toml).expect("the configuration is written");
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    let mut command = command(None, root.path(), &words);
    run_command(command.args(["run", "--config"]).arg(path))
}
