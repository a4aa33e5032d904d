//! Control groups (version 2) of the test, for processes in a network namespace. `ip netns exec` gives each program a /sys
//! of its own in which no control group is to be seen; here they are, where nft looks for them.

use std::ffi::OsStr;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use super::netns::Netns;
use super::tools::tool;

/// A control group below the root, and below it two of its own: `own/inner`. It goes when it is dropped; its processes must
/// have ended by then.
pub struct Cgroup<'a> {
    netns: &'a Netns,
    name: String,
}

impl<'a> Cgroup<'a> {
    /// A fresh one, for programs in `netns`.
    ///
    /// # Panics
    /// Without root, or where there are no control groups of version 2.
    #[must_use]
    pub fn new(netns: &'a Netns) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("sluice-{}-{}", std::process::id(), NEXT.fetch_add(1, SeqCst));
        let group = Self { netns, name };
        let done = group.shell("mkdir -p \"/sys/fs/cgroup/$0/own/inner\"");
        assert_eq!(done.0, 0, "{}", done.1);
        group
    }

    /// The path of a group below this one, from the root of all; of itself for "".
    #[must_use]
    pub fn path(&self, below: &str) -> String {
        format!("{}/{below}", self.name).trim_end_matches('/').to_owned()
    }

    /// A command that runs a program in the namespace and in the group `below` this one.
    #[must_use]
    pub fn command(&self, below: &str, program: impl AsRef<OsStr>) -> Command {
        let mut command = self.seeing("echo $$ >\"/sys/fs/cgroup/$0/cgroup.procs\" && exec \"$@\"");
        command.arg(self.path(below)).arg(program);
        command
    }

    /// A command that runs a program in the namespace, in no group of ours, which sees them all.
    #[must_use]
    pub fn beside(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = self.seeing("exec \"$@\"");
        command.arg("beside").arg(program);
        command
    }

    /// A shell that sees the control groups and then does `script`; its `$0` and `$@` are to be added.
    fn seeing(&self, script: &str) -> Command {
        let mut command = self.netns.command("sh");
        command.arg("-c").arg(format!("mount -t cgroup2 cgroup2 /sys/fs/cgroup && {script}"));
        command
    }

    fn shell(&self, script: &str) -> (i32, String) {
        let done = tool(self.seeing(script).arg(&self.name), b"");
        (done.code, done.stderr)
    }
}

impl Drop for Cgroup<'_> {
    fn drop(&mut self) {
        let _done = self.shell("cd /sys/fs/cgroup && rmdir \"$0/own/inner\" \"$0/own\" \"$0\"");
    }
}
