//! What the chunked decoder and the body reader promise, case by case.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use core::num::NonZeroUsize;

use sluice_proto::http1::{
    Body, ChunkError, ChunkedDecoder, Decoded, Framing, chunk_size_line, write_last_chunk,
};
use sluice_proto::limits::{CHUNK_EXTENSION_BYTES_MAX, TRAILER_BYTES_MAX, TRAILERS_MAX};

#[derive(Debug, Default, Eq, PartialEq)]
struct Outcome {
    data: Vec<u8>,
    trailers: Vec<u8>,
    consumed: usize,
    end: bool,
}

fn decode(wire: &[u8], piece_bytes: usize) -> Result<Outcome, ChunkError> {
    let mut decoder = ChunkedDecoder::new();
    let mut outcome = Outcome::default();
    for piece in wire.chunks(piece_bytes.max(1)) {
        let mut buffer = piece.to_vec();
        let decoded = decoder.feed(&mut buffer)?;
        assert!(decoded.data.end <= decoded.consumed && decoded.consumed <= piece.len());
        assert_eq!(buffer[decoded.consumed..], piece[decoded.consumed..], "the next message is left alone");
        assert_eq!(decoded.end, decoder.is_complete());
        outcome.data.extend_from_slice(&buffer[decoded.data.clone()]);
        outcome.consumed += decoded.consumed;
        outcome.end = decoded.end;
        if decoded.end {
            break;
        }
        assert_eq!(decoded.consumed, piece.len());
    }
    outcome.trailers = decoder.trailers().to_vec();
    Ok(outcome)
}

/// Decodes in pieces of every size and asserts that the result does not depend on it.
#[track_caller]
fn decode_every_way(wire: &[u8]) -> Result<Outcome, ChunkError> {
    let whole = decode(wire, wire.len());
    for piece_bytes in 1..wire.len().min(64) {
        assert_eq!(decode(wire, piece_bytes), whole, "pieces of {piece_bytes}");
    }
    whole
}

#[track_caller]
fn refused(wire: impl AsRef<[u8]>, error: ChunkError) {
    let wire = wire.as_ref();
    assert_eq!(decode_every_way(wire), Err(error), "{:?}", String::from_utf8_lossy(wire));
}

#[test]
fn chunks_are_drawn_together_in_one_piece() {
    let wire = b"5\r\nhello\r\n1;a=b\r\n,\r\n0006\r\n world\r\n0\r\n\r\nGET /next";
    let outcome = decode_every_way(wire).unwrap();
    assert_eq!(outcome.data, b"hello, world");
    assert_eq!(outcome.consumed, wire.len() - b"GET /next".len());
    assert!(outcome.end && outcome.trailers.is_empty());
}

#[test]
fn the_range_lies_where_the_first_data_lay_and_can_be_compacted() {
    let mut buffer = *b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    let decoded = ChunkedDecoder::new().feed(&mut buffer).unwrap();
    assert_eq!(decoded, Decoded { consumed: buffer.len(), data: 3..8, end: true });
    assert_eq!(decoded.compact(&mut buffer), 5);
    assert_eq!(&buffer[..5], b"abcde");
}

#[test]
fn a_decoder_that_is_done_takes_nothing_more() {
    let mut decoder = ChunkedDecoder::new();
    decoder.feed(&mut b"0\r\n\r\n".to_owned()).unwrap();
    assert_eq!(decoder.feed(&mut b"5\r\n".to_owned()), Ok(Decoded { consumed: 0, data: 0..0, end: true }));
}

#[test]
fn sizes_are_plain_hexadecimal_digits() {
    assert_eq!(decode_every_way(b"00000000000000aB\r\n").map(|outcome| outcome.consumed), Ok(18));
    for size in
        ["0x2", "+2", "-2", "", " 2", "g", "2g", "2 ", "2\t", "2\0", "00000000000000002", "\u{ff12}", "2_0"]
    {
        refused(format!("{size}\r\nab\r\n0\r\n\r\n"), ChunkError::Size);
    }
    refused("2 ;a=b\r\nab\r\n0\r\n\r\n", ChunkError::Size);
    refused("2\nab\r\n0\r\n\r\n", ChunkError::Size);
    refused(";a\r\n", ChunkError::Size);
}

#[test]
fn a_chunk_size_is_bounded_by_64_bits_and_no_sum_overflows() {
    let mut decoder = ChunkedDecoder::new();
    let decoded = decoder.feed(&mut b"ffffffffffffffff\r\nabc".to_owned()).unwrap();
    assert_eq!((decoded.data.len(), decoded.end), (3, false));
}

#[test]
fn a_body_of_many_gigabytes_is_counted_in_full() {
    const GIB: u64 = 1 << 30;
    let mut decoder = ChunkedDecoder::new();
    let mut buffer = vec![b'x'; 16 << 20];
    let mut data_bytes = 0;
    for chunk in [5 * GIB, 3 * GIB + 7, 1] {
        let mut line = format!("{chunk:x}\r\n").into_bytes();
        assert_eq!(decoder.feed(&mut line).unwrap().data.len(), 0);
        let mut left = chunk;
        while left > 0 {
            let piece = left.min(buffer.len() as u64) as usize;
            let decoded = decoder.feed(&mut buffer[..piece]).unwrap();
            assert_eq!((decoded.consumed, decoded.data.len(), decoded.end), (piece, piece, false));
            data_bytes += decoded.data.len() as u64;
            left -= piece as u64;
        }
        assert!(!decoder.feed(&mut b"\r\n".to_vec()).unwrap().end);
    }
    assert!(decoder.feed(&mut b"0\r\n\r\n".to_vec()).unwrap().end);
    assert_eq!(data_bytes, 8 * GIB + 8);
}

#[test]
fn extensions_are_dropped_and_must_be_free_of_control_characters() {
    let outcome = decode_every_way(b"2;a;b=\"c d\"\t;\xff\r\nab\r\n0;last\r\n\r\n").unwrap();
    assert_eq!(outcome.data, b"ab");
    refused("2;a\rb\r\nab\r\n", ChunkError::LineEnd);
    refused("2;a\nb\r\nab\r\n", ChunkError::Extension);
    refused("2;a\0\r\nab\r\n", ChunkError::Extension);
    refused("2;\r\nab\r\n", ChunkError::Extension);
}

#[test]
fn one_extension_is_bounded() {
    let wire = |bytes: usize| format!("1;{}\r\na\r\n0\r\n\r\n", "e".repeat(bytes));
    assert!(decode(wire(CHUNK_EXTENSION_BYTES_MAX).as_bytes(), 7).is_ok());
    refused(wire(CHUNK_EXTENSION_BYTES_MAX + 1), ChunkError::ExtensionTooLong);
}

#[test]
fn extensions_may_not_outweigh_the_data() {
    let chunk = format!("1;{}\r\na\r\n", "e".repeat(1_000));
    assert_eq!(decode(chunk.repeat(100).as_bytes(), 4_096), Err(ChunkError::ExtensionTooLong));
    let fair = format!("{:x};{}\r\n{}\r\n", 1_000, "e".repeat(1_000), "d".repeat(1_000));
    assert_eq!(decode(fair.repeat(100).as_bytes(), 4_096).unwrap().data.len(), 100_000);
}

#[test]
fn data_must_be_followed_by_crlf() {
    for wire in ["2\r\nabc\r\n", "2\r\nab\n0\r\n\r\n", "2\r\nab\rx", "2\rab", "2\r\nab0\r\n\r\n"] {
        refused(wire, ChunkError::LineEnd);
    }
}

#[test]
fn trailers_are_kept_without_those_that_must_not_come_late() {
    let wire = b"0\r\nX-Sum:  abc \r\nContent-Length: 5\r\nContent_Length: 5\r\ntransfer-encoding: chunked\r\nHost: a\r\nauthorization: x\r\n\
        Set-Cookie: a\r\nX-Forwarded-For: 1\r\nConnection: close\r\nTrailer: x\r\nproxy-x: y\r\ngrpc-status: 0\r\n\r\n";
    let outcome = decode_every_way(wire).unwrap();
    assert_eq!(outcome.trailers, b"X-Sum: abc\r\ngrpc-status: 0\r\n");
    assert!(outcome.end);
}

#[test]
fn malformed_trailers_are_refused() {
    for line in ["no colon", ": x", "a : x", " folded: x", "a: b\rc", "a: b\0", "a: b\nc: d"] {
        refused(format!("0\r\n{line}\r\n\r\n"), ChunkError::Trailer);
    }
    refused("0\r\n\rx", ChunkError::Trailer);
    refused("0\r\n\nx", ChunkError::Trailer);
}

#[test]
fn trailers_are_bounded_in_bytes_and_number() {
    let long = format!("0\r\nx: {}\r\n\r\n", "v".repeat(TRAILER_BYTES_MAX));
    assert_eq!(decode(long.as_bytes(), 100), Err(ChunkError::TrailersTooLarge));
    let endless = format!("0\r\n{}", "v".repeat(TRAILER_BYTES_MAX + 1));
    assert_eq!(decode(endless.as_bytes(), 100), Err(ChunkError::TrailersTooLarge));
    let many = |fields: usize| format!("0\r\n{}\r\n", "a: b\r\n".repeat(fields));
    assert!(decode(many(TRAILERS_MAX).as_bytes(), 100).unwrap().end);
    assert_eq!(decode(many(TRAILERS_MAX + 1).as_bytes(), 100), Err(ChunkError::TrailersTooLarge));
}

#[test]
fn a_chunk_written_is_a_chunk_read() {
    for data_bytes in [1, 9, 10, 15, 16, 255, 4_096, 65_535] {
        let line = chunk_size_line(NonZeroUsize::new(data_bytes).unwrap());
        assert_eq!(line.as_bytes(), format!("{data_bytes:x}\r\n").as_bytes());
        let mut wire = line.as_bytes().to_vec();
        wire.extend(vec![b'd'; data_bytes]);
        wire.extend(b"\r\n");
        write_last_chunk(&mut wire, b"x-sum: 1\r\n").unwrap();
        let outcome = decode(&wire, wire.len()).unwrap();
        assert_eq!(
            (outcome.data.len(), outcome.end, &outcome.trailers[..]),
            (data_bytes, true, &b"x-sum: 1\r\n"[..])
        );
    }
    let line = chunk_size_line(NonZeroUsize::MAX);
    assert_eq!(line.as_bytes(), format!("{:x}\r\n", usize::MAX).as_bytes());
}

// --- bodies of every framing

#[test]
fn a_body_of_known_length_ends_there() {
    let mut body = Body::new(Framing::Length(5));
    let mut received = *b"helloGET";
    assert_eq!(body.feed(&mut received[..2]), Ok(Decoded { consumed: 2, data: 0..2, end: false }));
    assert!(!body.is_complete() && !body.may_end_here());
    assert_eq!(body.feed(&mut received[2..]), Ok(Decoded { consumed: 3, data: 0..3, end: true }));
    assert!(body.is_complete() && body.may_end_here());
    assert_eq!(body.feed(&mut received[5..]), Ok(Decoded { consumed: 0, data: 0..0, end: true }));
}

#[test]
fn no_body_is_complete_at_once() {
    for framing in [Framing::None, Framing::Length(0)] {
        assert!(Body::new(framing).is_complete());
    }
}

#[test]
fn a_body_that_ends_by_closing_takes_everything() {
    let mut body = Body::new(Framing::UntilClose);
    assert_eq!(body.feed(&mut [1, 2, 3]), Ok(Decoded { consumed: 3, data: 0..3, end: false }));
    assert!(!body.is_complete() && body.may_end_here());
}

#[test]
fn a_chunked_body_cut_short_is_told() {
    let mut body = Body::new(Framing::Chunked);
    assert_eq!(body.feed(&mut b"3\r\nabc\r\n".to_owned()).unwrap().data, 3..6);
    assert!(!body.may_end_here());
    assert!(body.feed(&mut b"0\r\nx: y\r\n\r\n".to_owned()).unwrap().end);
    assert!(body.may_end_here());
    assert_eq!(body.trailers(), b"x: y\r\n");
}
