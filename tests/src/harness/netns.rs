//! Network namespaces of the test, with nftables counters: what left the machine is counted by the kernel.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use rustix::fs::{Mode, OFlags, open};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A namespace with its loopback up. Needs root; see [`Netns::new`].
pub struct Netns {
    name: String,
}

impl Netns {
    /// A fresh one.
    ///
    /// # Panics
    /// Without root, `ip` or `nft`.
    #[must_use]
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("sluice-{}-{}", std::process::id(), NEXT.fetch_add(1, SeqCst));
        system("ip", &["netns", "add", &name]);
        let netns = Self { name };
        netns.run("ip", &["link", "set", "lo", "up"]);
        netns
    }

    /// Runs a program in it to its end and returns what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub fn run(&self, program: &str, arguments: &[&str]) -> String {
        system("ip", &[&["netns", "exec", &self.name, program], arguments].concat())
    }

    /// A command that runs a program in it.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Gives its loopback one more address, so that packets to it have a way out of the gateway.
    pub fn address(&self, ip: Ipv4Addr) {
        self.run("ip", &["address", "add", &format!("{ip}/32"), "dev", "lo"]);
    }

    /// Lays a cable to `other`: an interface of this name at each end, each with its addresses (as CIDRs).
    pub fn cable(&self, here: (&str, &[&str]), other: &Self, there: (&str, &[&str])) {
        let ends =
            ["link", "add", "name", here.0, "netns", &self.name, "type", "veth", "peer", "name", there.0];
        system("ip", &[&ends[..], &["netns", &other.name]].concat());
        for (netns, (interface, addresses)) in [(self, here), (other, there)] {
            for address in addresses {
                netns.add_address(address, interface);
            }
            netns.run("ip", &["link", "set", "dev", interface, "up"]);
        }
    }

    /// Gives an interface one more address, at once: IPv6 looks for no duplicates.
    pub fn add_address(&self, cidr: &str, interface: &str) {
        let detection: &[&str] = if cidr.contains(':') { &["nodad"] } else { &[] };
        self.run("ip", &[&["address", "add", cidr, "dev", interface], detection].concat());
    }

    /// Sends everything that it has no route for to `router`.
    pub fn default_route(&self, router: IpAddr) {
        let family = if router.is_ipv4() { "-4" } else { "-6" };
        self.run("ip", &[family, "route", "add", "default", "via", &router.to_string()]);
    }

    /// Programs that are run in it ask this server for names. It goes with the namespace.
    ///
    /// # Panics
    /// When the file that says so cannot be written.
    pub fn resolver(&self, server: IpAddr) {
        self.etc("resolv.conf", &format!("nameserver {server}\noptions timeout:2 attempts:3\n"));
    }

    /// Programs that are run in it see this text as the file of that name below /etc; of a folder of /etc they see what is
    /// given in this way, and nothing else. It goes with the namespace.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn etc(&self, name: &str, text: &str) {
        let path = std::path::PathBuf::from(self.etc_folder()).join(name);
        std::fs::create_dir_all(path.parent().expect("a file in a folder"))
            .expect("a folder below /etc/netns");
        std::fs::write(path, text).expect("written");
    }

    /// Where `ip netns exec` looks for files that replace those of /etc.
    fn etc_folder(&self) -> String {
        format!("/etc/netns/{}", self.name)
    }

    /// Packets that a named counter of `table` has seen.
    ///
    /// # Panics
    /// When there is no such counter.
    #[must_use]
    pub fn counter(&self, table: &str, name: &str) -> u64 {
        let listed = self.run("nft", &["list", "counter", "inet", table, name]);
        let after = listed.split("packets ").nth(1).expect("a counter");
        after.split(' ').next().and_then(|number| number.parse().ok()).expect("a number")
    }

    /// Counts packets that leave for a range from now on.
    pub fn count(&self, range: &str) {
        self.run("nft", &["add table inet watch"]);
        self.run("nft", &["add chain inet watch out { type filter hook output priority 0; }"]);
        self.run("nft", &[&format!("add rule inet watch out ip daddr {range} counter")]);
    }

    /// Gives it a way out for every address of both families, on which all TCP and UDP is counted and nobody answers.
    pub fn uplink(&self) {
        self.run("ip", &["link", "add", "uplink", "type", "veth", "peer", "name", "beyond"]);
        self.run("ip", &["link", "set", "beyond", "up"]);
        self.run("ip", &["link", "set", "uplink", "up"]);
        self.run("ip", &["address", "add", "192.0.2.2/24", "dev", "uplink"]);
        self.run("ip", &["-6", "address", "add", "2001:db8::2/64", "dev", "uplink", "nodad"]);
        self.run("ip", &["route", "add", "default", "dev", "uplink"]);
        self.run("ip", &["-6", "route", "add", "default", "dev", "uplink", "metric", "1"]);
        self.run("nft", &["add table inet watch"]);
        self.run("nft", &["add chain inet watch out { type filter hook output priority 0; }"]);
        // Neighbour discovery and the like are the kernel's own and no connection.
        self.run("nft", &["add rule inet watch out oifname uplink meta l4proto { tcp, udp } counter"]);
    }

    /// Packets counted so far.
    ///
    /// # Panics
    /// When nothing is counted.
    #[must_use]
    pub fn counted(&self) -> u64 {
        let listed = self.run("nft", &["list", "table", "inet", "watch"]);
        let after = listed.split("counter packets ").nth(1).expect("a counter");
        after.split(' ').next().and_then(|number| number.parse().ok()).expect("a number")
    }

    /// Runs `work` on a thread that lives in the namespace; the sockets it makes belong there.
    ///
    /// # Panics
    /// When the namespace cannot be entered, or `work` panics.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let path = format!("/run/netns/{}", self.name);
        std::thread::scope(|scope| {
            let inside = scope.spawn(move || {
                let file =
                    open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).expect("the namespace");
                move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(LinkNameSpaceType::Network))
                    .expect("root may enter");
                work()
            });
            match inside.join() {
                Ok(done) => done,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

impl Default for Netns {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        Command::new("ip").args(["netns", "delete", &self.name]).status().ok();
        std::fs::remove_dir_all(self.etc_folder()).ok();
    }
}

fn system(program: &str, arguments: &[&str]) -> String {
    let output = match Command::new(program).args(arguments).output() {
        Ok(output) => output,
        Err(error) => panic!("{program}: {error}"),
    };
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
