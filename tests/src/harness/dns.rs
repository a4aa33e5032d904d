//! A DNS server of the test over UDP: answers what it is told, lies, fails or stays silent.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What becomes of a question.
#[derive(Clone, Debug)]
pub enum Reply {
    /// These addresses, with this TTL in seconds. The other family has no data.
    Addresses(Vec<IpAddr>, u32),
    /// Each question gets the next of these lists, over and over, with TTL 0.
    Turns(Vec<Vec<IpAddr>>),
    /// NXDOMAIN.
    NoName,
    /// SERVFAIL.
    Failure,
    /// No answer at all.
    Silence,
}

#[derive(Default)]
struct State {
    replies: HashMap<String, Reply>,
    /// Questions for A records, by name.
    asked: HashMap<String, u64>,
    turn: usize,
    silent: bool,
}

/// The server. Names that it does not know are NXDOMAIN.
pub struct Dns {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
}

impl Dns {
    /// On a free port of 127.0.0.1.
    ///
    /// # Panics
    /// When there is no free port.
    #[must_use]
    pub fn start() -> Self {
        Self::at((Ipv4Addr::LOCALHOST, 0).into())
    }

    /// At an address.
    ///
    /// # Panics
    /// When it is taken.
    #[must_use]
    pub fn at(address: SocketAddr) -> Self {
        let socket = UdpSocket::bind(address).expect("a free address");
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
        let address = socket.local_addr().expect("a bound socket");
        let (state, stop) = (Arc::<Mutex<State>>::default(), Arc::new(AtomicBool::new(false)));
        let (shared, stopped) = (Arc::clone(&state), Arc::clone(&stop));
        std::thread::spawn(move || {
            let mut packet = [0; 1500];
            while !stopped.load(SeqCst) {
                let Ok((length, from)) = socket.recv_from(&mut packet) else { continue };
                let answer = answer(&packet[..length], &mut lock(&shared));
                if let Some(answer) = answer {
                    socket.send_to(&answer, from).ok();
                }
            }
        });
        Self { address, state, stop }
    }

    /// A name with one address and this TTL in seconds.
    pub fn set(&self, name: &str, address: IpAddr, ttl: u32) {
        self.reply(name, Reply::Addresses(vec![address], ttl));
    }

    /// What becomes of questions for a name.
    pub fn reply(&self, name: &str, reply: Reply) {
        lock(&self.state).replies.insert(name.to_owned(), reply);
    }

    /// From now on nothing is answered, or everything again.
    pub fn silence(&self, silent: bool) {
        lock(&self.state).silent = silent;
    }

    /// How often the A record of a name was asked for.
    #[must_use]
    pub fn asked(&self, name: &str) -> u64 {
        lock(&self.state).asked.get(name).copied().unwrap_or(0)
    }

    /// All names that were asked for.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        lock(&self.state).asked.keys().cloned().collect()
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The `[dns]` table that names it, with `more` lines.
    #[must_use]
    pub fn toml(&self, more: &str) -> String {
        format!("[dns]\nservers = [\"{}\"]\n{more}\n", self.address)
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn answer(query: &[u8], state: &mut State) -> Option<Vec<u8>> {
    let (name, end) = question(query)?;
    let kind = u16::from_be_bytes([*query.get(end)?, *query.get(end + 1)?]);
    let name = name.to_ascii_lowercase();
    if kind == 1 {
        *state.asked.entry(name.clone()).or_default() += 1;
    }
    if state.silent {
        return None;
    }
    let (code, addresses, ttl) = match state.replies.get(&name).cloned().unwrap_or(Reply::NoName) {
        Reply::Addresses(addresses, ttl) => (0, addresses, ttl),
        Reply::Turns(lists) => {
            let list = lists[state.turn % lists.len()].clone();
            state.turn += usize::from(kind == 1);
            (0, list, 0)
        }
        Reply::NoName => (3, Vec::new(), 0),
        Reply::Failure => (2, Vec::new(), 0),
        Reply::Silence => return None,
    };
    let records: Vec<_> =
        addresses.iter().filter(|ip| (kind == 1 && ip.is_ipv4()) || (kind == 28 && ip.is_ipv6())).collect();
    let mut out = query[..2].to_vec();
    // A response, recursion desired and available.
    out.extend([0x81, 0x80 | code, 0, 1, 0, u8::try_from(records.len()).ok()?, 0, 0, 0, 0]);
    out.extend_from_slice(&query[12..end + 4]);
    for ip in records {
        out.extend([0xc0, 12]);
        out.extend(kind.to_be_bytes());
        out.extend([0, 1]);
        out.extend(ttl.to_be_bytes());
        match ip {
            IpAddr::V4(v4) => out.extend([&[0, 4][..], &v4.octets()].concat()),
            IpAddr::V6(v6) => out.extend([&[0, 16][..], &v6.octets()].concat()),
        }
    }
    Some(out)
}

/// The name that is asked for, and where its type stands.
fn question(query: &[u8]) -> Option<(String, usize)> {
    let mut at = 12;
    let mut labels = Vec::new();
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            return Some((labels.join("."), at));
        }
        labels.push(String::from_utf8_lossy(query.get(at..at + length)?).into_owned());
        at += length;
    }
}
