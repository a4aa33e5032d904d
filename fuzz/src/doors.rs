//! Bodies for what stands in front of a connection: PROXY headers and SOCKS5 messages. Knows nothing of how inputs are
//! made.

use sluice_proto::limits::PROXY_HEADER_BYTES_MAX;
use sluice_proto::proxy_protocol;
use sluice_proto::socks5::{self, Address, SocksError};

pub(crate) fn proxy_protocol(data: &[u8]) {
    let whole = proxy_protocol::parse(data);
    for end in 0..=data.len().min(300) {
        let cut = proxy_protocol::parse(&data[..end]);
        assert!(cut == Ok(None) || cut == whole, "more bytes change nothing");
    }
    match whole {
        Ok(None) => assert!(data.len() < PROXY_HEADER_BYTES_MAX, "a bound ends the waiting"),
        Ok(Some(header)) => {
            assert!(header.wire_bytes <= data.len() && header.wire_bytes <= PROXY_HEADER_BYTES_MAX);
            assert_eq!(
                proxy_protocol::parse(&data[..header.wire_bytes]),
                whole,
                "what follows does not matter"
            );
            assert_eq!(proxy_protocol::parse(&data[..header.wire_bytes - 1]), Ok(None), "not one byte less");
            if let Some(forwarded) = header.forwarded {
                for end in [forwarded.source, forwarded.destination] {
                    assert_eq!(end.ip(), end.ip().to_canonical(), "mapped addresses are unmapped");
                }
            }
        }
        Err(_) => {}
    }
}

/// The first byte says which message the rest is.
pub(crate) fn socks5(data: &[u8]) {
    let Some((&choice, wire)) = data.split_first() else { return };
    match choice % 3 {
        0 => drop(stable(wire, socks5::greeting, |greeting| greeting.wire_bytes)),
        1 => {
            let Some(sent) = stable(wire, socks5::credentials, |sent| sent.wire_bytes) else { return };
            assert!((1..=255).contains(&sent.user.len()) && (1..=255).contains(&sent.password.len()));
        }
        _ => {
            let Some(request) = stable(wire, socks5::request, |request| request.wire_bytes) else { return };
            assert_ne!(request.port, 0);
            if let Address::Name(name) = request.address {
                assert!((1..=255).contains(&name.len()));
            }
        }
    }
}

/// Reads a message, whole and cut; gives it if there is one.
fn stable<'b, T: PartialEq>(
    wire: &'b [u8],
    read: fn(&'b [u8]) -> Result<Option<T>, SocksError>,
    wire_bytes: fn(&T) -> usize,
) -> Option<T> {
    let whole = read(wire);
    for end in 0..wire.len().min(600) {
        let cut = read(&wire[..end]);
        assert!(cut == Ok(None) || cut == whole, "more bytes change nothing");
    }
    if whole == Ok(None) {
        assert!(wire.len() < socks5::MESSAGE_BYTES_MAX, "a bound ends the waiting");
    }
    let message = whole.ok().flatten()?;
    let bytes = wire_bytes(&message);
    assert!(bytes <= wire.len() && bytes <= socks5::MESSAGE_BYTES_MAX);
    assert!(read(&wire[..bytes - 1]) == Ok(None), "not one byte less");
    Some(message)
}
