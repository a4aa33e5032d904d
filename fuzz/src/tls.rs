//! Bodies for the ClientHello parser. Knows nothing of how inputs are made.

use sluice_proto::tls::{ClientHello, HelloError, HelloParser};

const BYTES_MAX: usize = 64 * 1024;

/// The first byte says how the rest is cut into reads.
pub(crate) fn client_hello(data: &[u8]) {
    let Some((&piece_bytes, wire)) = data.split_first() else {
        return;
    };
    let whole = feed(wire, wire.len());
    assert_eq!(feed(wire, usize::from(piece_bytes)), whole, "cuts change nothing");
    let Ok(Some(hello)) = whole else {
        return;
    };
    assert!(hello.wire_bytes <= wire.len());
    assert_eq!(feed(&wire[..hello.wire_bytes], BYTES_MAX), whole, "what follows does not matter");
    assert_eq!(feed(&wire[..hello.wire_bytes - 1], BYTES_MAX), Ok(None), "not one byte less");
    if let Some(name) = hello.server_name {
        let fine = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
        assert!(!name.as_bytes().is_empty() && name.as_bytes().iter().all(fine));
        assert!(name.as_str().parse::<std::net::IpAddr>().is_err());
    }
    assert!(hello.alpn.iter().all(|protocol| !protocol.is_empty()));
}

fn feed(wire: &[u8], piece_bytes: usize) -> Result<Option<ClientHello>, HelloError> {
    let mut parser = HelloParser::new(BYTES_MAX);
    for piece in wire.chunks(piece_bytes.max(1)) {
        match parser.feed(piece) {
            Ok(None) => {}
            done => return done,
        }
    }
    Ok(None)
}
