//! Binds doors: one SO_REUSEPORT listener per worker at the same address. It must not know what a door serves.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

use crate::limits::DOOR_BACKLOG;

/// One door's listeners, one per worker, all at `address`.
#[derive(Debug)]
pub struct Bound {
    /// Where it listens; the port is the real one where 0 was asked for.
    pub address: SocketAddr,
    /// Listening, non-blocking.
    pub listeners: Vec<TcpListener>,
}

/// Why a listener could not be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({what}): {source}{}", self.hint())]
pub struct BindError {
    /// Which door or API.
    pub what: String,
    /// Where.
    pub address: SocketAddr,
    /// Why not.
    pub source: io::Error,
}

impl BindError {
    fn hint(&self) -> &'static str {
        match self.source.kind() {
            io::ErrorKind::AddrInUse => "; another process listens there: find it with `ss -ltnp`",
            // What bind(2) refuses is EACCES.
            io::ErrorKind::PermissionDenied if self.source.raw_os_error() == Some(EPERM) => {
                "; capture = \"tproxy\" needs the capability CAP_NET_ADMIN (or CAP_NET_RAW)"
            }
            io::ErrorKind::PermissionDenied => {
                "; ports below net.ipv4.ip_unprivileged_port_start need the capability CAP_NET_BIND_SERVICE"
            }
            io::ErrorKind::AddrNotAvailable => "; no interface of this host has this address",
            _ => "",
        }
    }
}

/// Operation not permitted: what setsockopt(2) says to who lacks a capability.
const EPERM: i32 = 1;

/// How a door's sockets are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Leave IPv4 to another door; see [`only_v6`].
    pub only_v6: bool,
    /// Take connections that are addressed to others (IP_TRANSPARENT).
    pub transparent: bool,
}

/// Binds a door for so many workers. An exclusive bind is tried first and released: SO_REUSEPORT alone would let a
/// second instance share the port unnoticed.
///
/// # Errors
/// [`BindError`] with the reason and what to do.
pub fn bind(what: &str, address: SocketAddr, workers: usize, options: Options) -> Result<Bound, BindError> {
    let error = |source| BindError { what: what.to_owned(), address, source };
    drop(socket(address, false, options).map_err(error)?);
    let mut bound = Bound { address, listeners: Vec::with_capacity(workers) };
    for _ in 0..workers {
        let socket = socket(bound.address, true, options).map_err(error)?;
        socket.listen(DOOR_BACKLOG).map_err(error)?;
        let listener = TcpListener::from(socket);
        bound.address = listener.local_addr().map_err(error)?;
        bound.listeners.push(listener);
    }
    Ok(bound)
}

/// One exclusive listener, for the admin API.
///
/// # Errors
/// [`BindError`] with the reason and what to do.
pub fn bind_exclusive(what: &str, address: SocketAddr) -> Result<TcpListener, BindError> {
    let error = |source| BindError { what: what.to_owned(), address, source };
    let socket = socket(address, false, Options::default()).map_err(error)?;
    socket.listen(DOOR_BACKLOG).map_err(error)?;
    Ok(TcpListener::from(socket))
}

fn socket(address: SocketAddr, shared: bool, options: Options) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    // Connections of an earlier run in TIME_WAIT must not keep the address.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    if address.is_ipv6() {
        socket.set_only_v6(options.only_v6)?;
    }
    match (options.transparent, address) {
        (false, _) => {}
        (true, SocketAddr::V4(_)) => socket.set_ip_transparent_v4(true)?,
        // One flag of the socket, whichever option sets it: IPv4 connections to it are taken as well.
        (true, SocketAddr::V6(_)) => socket.set_ip_transparent_v6(true)?,
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

/// How the sockets of a configured door are made, beside doors at all of these addresses.
pub fn options(door: &sluice_config::Door, all: &[SocketAddr]) -> Options {
    Options { only_v6: only_v6(door.bind, all), transparent: door.is_tproxy() }
}

/// Whether a door at `address` must leave IPv4 to another one: `[::]` takes both families unless `0.0.0.0` has a door
/// at the same port.
pub fn only_v6(address: SocketAddr, all: &[SocketAddr]) -> bool {
    let other = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.port());
    address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) && all.contains(&other)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

    #[test]
    fn every_worker_gets_a_listener_at_the_same_port() {
        let bound = bind("test", ANY, 3, Options::default()).expect("free port");
        assert_ne!(bound.address.port(), 0);
        for listener in &bound.listeners {
            assert_eq!(listener.local_addr().expect("bound"), bound.address);
        }
    }

    #[test]
    fn a_second_instance_is_noticed() {
        let first = bind("first", ANY, 2, Options::default()).expect("free port");
        let error = bind("second", first.address, 2, Options::default()).expect_err("taken");
        assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains("second"), "{error}");
        drop(first);
        bind("second", error.address, 2, Options::default()).expect("free again");
    }

    #[test]
    fn the_v6_wildcard_leaves_v4_to_its_own_door() {
        let v6: SocketAddr = "[::]:3128".parse().expect("address");
        let v4: SocketAddr = "0.0.0.0:3128".parse().expect("address");
        let other: SocketAddr = "0.0.0.0:3129".parse().expect("address");
        assert!(only_v6(v6, &[v4, v6]));
        assert!(!only_v6(v6, &[other, v6]));
        assert!(!only_v6(v4, &[v4, v6]));
    }
}
