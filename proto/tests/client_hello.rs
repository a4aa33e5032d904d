//! What the ClientHello parser promises, case by case.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use sluice_proto::limits::HELLO_BYTES_MAX_DEFAULT;
use sluice_proto::tls::{ClientHello, HelloError, HelloParser, unrecognized_name_alert};
use support::{Hello, alpn, record, server_names};

type Outcome = Result<Option<ClientHello>, HelloError>;

fn parse(wire: &[u8]) -> Outcome {
    parse_pieces(wire.chunks(wire.len().max(1)))
}

fn parse_pieces<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
    let mut parser = HelloParser::new(HELLO_BYTES_MAX_DEFAULT);
    for piece in pieces {
        match parser.feed(piece) {
            Ok(None) => {}
            done => return done,
        }
    }
    Ok(None)
}

fn name_of(wire: &[u8]) -> Option<String> {
    let hello = parse(wire).unwrap().expect("whole");
    hello.server_name.map(|name| name.as_str().to_owned())
}

fn refused(hello: &Hello) -> HelloError {
    parse(&hello.record()).unwrap_err()
}

#[test]
fn a_browser_hello_gives_all_its_facts() {
    let wire = Hello::browser(b"allowed.test").record();
    let hello = parse(&wire).unwrap().unwrap();
    assert_eq!(hello.server_name.unwrap().as_bytes(), b"allowed.test");
    assert_eq!(hello.alpn.iter().collect::<Vec<_>>(), [&b"\x0a\x0a"[..], b"h2", b"http/1.1"]);
    assert!(hello.alpn.contains(b"h2") && !hello.alpn.contains(b"h3") && !hello.alpn.truncated());
    assert!(hello.ech);
    assert_eq!(hello.version_max, 0x0304);
    assert_eq!(hello.wire_bytes, wire.len());
}

#[test]
fn a_hello_written_by_openssl_is_read() {
    let wire = openssl_hello();
    let hello = parse(&wire).unwrap().unwrap();
    assert_eq!(hello.server_name.unwrap().as_str(), "allowed.test");
    assert_eq!(hello.alpn.iter().collect::<Vec<_>>(), [&b"h2"[..], b"http/1.1"]);
    assert_eq!((hello.version_max, hello.ech, hello.wire_bytes), (0x0304, false, wire.len()));
}

#[test]
fn every_cut_in_two_gives_the_same() {
    let wire = Hello::browser(b"allowed.test").record();
    let whole = parse(&wire).unwrap();
    for cut in 0..=wire.len() {
        let (first, second) = wire.split_at(cut);
        assert_eq!(parse_pieces([first, second]).unwrap(), whole, "cut at {cut}");
    }
}

#[test]
fn one_byte_reads_and_one_byte_records_give_the_same_facts() {
    let hello = Hello::browser(b"allowed.test");
    let whole = parse(&hello.record()).unwrap().unwrap();
    for payload_bytes in [1, 2, 3, 4, 5, 100, 1_000] {
        let wire = hello.records(payload_bytes);
        for piece_bytes in [1, 2, 7, wire.len()] {
            let mut parsed = parse_pieces(wire.chunks(piece_bytes)).unwrap().unwrap();
            assert_eq!(parsed.wire_bytes, wire.len());
            parsed.wire_bytes = whole.wire_bytes;
            assert_eq!(parsed, whole);
        }
    }
}

#[test]
fn every_strict_prefix_is_unfinished() {
    for payload_bytes in [1, 50, 10_000] {
        let wire = Hello::to(b"allowed.test").records(payload_bytes);
        for end in 0..wire.len() {
            assert_eq!(parse(&wire[..end]), Ok(None), "{end} bytes");
        }
    }
}

#[test]
fn a_hello_padded_to_20_kib_is_read() {
    let wire = Hello::to(b"allowed.test").extension(21, vec![0; 20 * 1024]).record();
    assert!(wire.len() > 20 * 1024);
    assert_eq!(name_of(&wire).as_deref(), Some("allowed.test"));
    assert!(parse_pieces(wire.chunks(1)).unwrap().is_some());
}

#[test]
fn what_follows_the_hello_is_not_looked_at() {
    let mut wire = Hello::to(b"allowed.test").record();
    let length = wire.len();
    wire.extend(b"early data, or anything");
    assert_eq!(parse(&wire).unwrap().unwrap().wire_bytes, length);
}

#[test]
fn no_server_name_is_no_error() {
    assert_eq!(name_of(&Hello::default().record()), None);
}

#[test]
fn a_hello_without_any_extensions_is_read() {
    let mut message = Hello::default().message();
    message.truncate(message.len() - 2);
    message[3] -= 2;
    let hello = parse(&record(22, &message)).unwrap().unwrap();
    assert_eq!((hello.server_name, hello.version_max), (None, 0x0303));
}

#[test]
fn underscore_case_and_trailing_dot_are_kept() {
    assert_eq!(name_of(&Hello::to(b"My_Db.Allowed.Test.").record()).as_deref(), Some("My_Db.Allowed.Test."));
}

#[test]
fn ech_alone_is_never_a_reason_to_refuse() {
    let hello = parse(&Hello::default().extension(0xfe0d, vec![1, 2, 3]).record()).unwrap().unwrap();
    assert!(hello.ech);
}

#[test]
fn two_server_name_extensions_are_a_duplicate() {
    let hello = Hello::to(b"allowed.test").extension(0, server_names(&[b"denied.test"]));
    assert_eq!(refused(&hello), HelloError::DuplicateServerName);
}

#[test]
fn two_names_in_one_extension_are_several() {
    let hello = Hello::default().extension(0, server_names(&[b"allowed.test", b"denied.test"]));
    assert_eq!(refused(&hello), HelloError::SeveralServerNames);
}

#[test]
fn an_ip_server_name_is_refused_in_every_spelling() {
    for name in
        ["198.51.100.20", "127.1", "2130706433", "0x7f.1", "0x7f000001", "1.2.3.4.", "::1", "[2001:db8::1]"]
    {
        assert_eq!(refused(&Hello::to(name.as_bytes())), HelloError::IpServerName, "{name}");
    }
}

#[test]
fn odd_server_names_are_refused_and_kept_for_the_record() {
    let long = vec![b'a'; 256];
    for name in
        [&b"a\n{\"x\":1}"[..], b"a b.test", b"a\0.test", b"\xd0\xb0llowed.test", b"*.test", b"a/b", &long]
    {
        let mut parser = HelloParser::new(HELLO_BYTES_MAX_DEFAULT);
        assert_eq!(parser.feed(&Hello::to(name).record()), Err(HelloError::InvalidServerName), "{name:?}");
        assert_eq!(parser.rejected_name(), Some(name));
    }
}

#[test]
fn server_name_lists_out_of_shape_are_malformed() {
    let cases: [Vec<u8>; 7] = [
        vec![],
        vec![0, 0],
        server_names(&[b""]),
        [server_names(&[b"a.test"]), vec![0]].concat(),
        vec![0, 4, 1, 0, 1, b'a'],
        vec![0, 9, 0, 0, 1, b'a'],
        vec![0, 4, 0, 0, 9, b'a'],
    ];
    for data in cases {
        let error = refused(&Hello::default().extension(0, data.clone()));
        assert!(matches!(error, HelloError::Malformed(_)), "{data:?}: {error}");
    }
}

#[test]
fn alpn_and_versions_out_of_shape_are_malformed() {
    let cases: [(u16, Vec<u8>); 8] = [
        (16, vec![]),
        (16, vec![0, 0]),
        (16, alpn(&[b""])),
        (16, vec![0, 3, 9, b'h', b'2']),
        (16, [alpn(&[b"h2"]), vec![0]].concat()),
        (43, vec![]),
        (43, vec![3, 3, 4, 3]),
        (43, vec![2, 3, 4, 0]),
    ];
    for (kind, data) in cases {
        let error = refused(&Hello::default().extension(kind, data.clone()));
        assert!(matches!(error, HelloError::Malformed(_)), "{kind} {data:?}: {error}");
    }
}

#[test]
fn an_alpn_list_too_long_to_keep_is_marked() {
    let name = [b'p'; 60];
    let wire = Hello::default().extension(16, alpn(&[b"h2", &name, &name, &name, b"x"])).record();
    let hello = parse(&wire).unwrap().unwrap();
    assert!(hello.alpn.truncated());
    assert_eq!(hello.alpn.iter().count(), 3);
}

#[test]
fn another_protocol_is_told_by_its_first_byte() {
    for wire in
        [&b"GET / HTTP/1.1\r\n"[..], b"SSH-2.0-x", b"\x00\x00", b"\x15\x03\x03\x00\x02", b"\x05\x01\x00"]
    {
        let expected = Err(HelloError::NotTls { first_byte: wire[0] });
        assert_eq!(parse(&wire[..1]), expected, "{wire:?}");
        assert_eq!(parse(wire), expected);
    }
    // A first byte above 0x7f may be SSLv2 until the third says otherwise.
    assert_eq!(parse(b"\xff\xff\xff\xff"), Err(HelloError::NotTls { first_byte: 0xff }));
}

#[test]
fn an_sslv2_hello_is_named() {
    assert_eq!(parse(b"\x80\x2e\x01\x00\x02\x00\x15"), Err(HelloError::SslV2));
    assert_eq!(parse(b"\x80\x2e\x01\x03\x01\x00\x15"), Err(HelloError::SslV2));
    assert_eq!(parse(b"\x80\x2e\x01"), Ok(None));
}

#[test]
fn records_out_of_shape_are_malformed() {
    let hello = Hello::to(b"allowed.test");
    let message = hello.message();
    let trailing = [message.clone(), vec![1, 0, 0, 0]].concat();
    let cases: [(&str, Vec<u8>); 8] = [
        ("version", b"\x16\x02\x00\x00\x05".to_vec()),
        ("garbage", b"\x16GARBAGE".to_vec()),
        ("empty record", b"\x16\x03\x01\x00\x00".to_vec()),
        ("longer than 2^14", b"\x16\x03\x01\x40\x01".to_vec()),
        ("another record between", [record(22, &message[..9]), record(23, b"x")].concat()),
        ("ServerHello", record(22, &[2, 0, 0, 0])),
        ("more in the record", record(22, &trailing)),
        ("more in a later record", [record(22, &trailing[..9]), record(22, &trailing[9..])].concat()),
    ];
    for (what, wire) in cases {
        for piece_bytes in [1, wire.len()] {
            let outcome = parse_pieces(wire.chunks(piece_bytes));
            assert!(matches!(outcome, Err(HelloError::Malformed(_))), "{what}: {outcome:?}");
        }
    }
}

#[test]
fn every_wrong_inner_length_is_refused() {
    let message = Hello::to(b"allowed.test").message();
    for at in [38, 71, 77, 79, 83, 85, 88] {
        for wrong in [0, 1, 0xff] {
            let mut bad = message.clone();
            if bad[at] == wrong {
                continue;
            }
            bad[at] = wrong;
            let outcome = parse(&record(22, &bad));
            assert!(matches!(outcome, Err(HelloError::Malformed(_))), "byte {at} = {wrong}: {outcome:?}");
        }
    }
}

#[test]
fn the_bound_counts_wire_bytes_and_holds_before_they_come() {
    let wire = Hello::to(b"allowed.test").records(1);
    let mut exact = HelloParser::new(wire.len());
    assert!(exact.feed(&wire).unwrap().is_some());
    let bytes_max = wire.len() - 1;
    let mut short = HelloParser::new(bytes_max);
    assert_eq!(short.feed(&wire), Err(HelloError::TooLong { bytes_max }));

    // Announced as 16 MiB: refused at its header.
    let mut parser = HelloParser::new(64 * 1024);
    let outcome = parser.feed(b"\x16\x03\x01\x40\x00\x01\xff\xff\xff");
    assert_eq!(outcome, Err(HelloError::TooLong { bytes_max: 64 * 1024 }));
}

#[test]
fn a_parser_that_is_done_says_nothing_more() {
    let wire = Hello::to(b"allowed.test").record();
    let mut parser = HelloParser::new(HELLO_BYTES_MAX_DEFAULT);
    assert!(parser.feed(&wire).unwrap().is_some());
    assert_eq!(parser.feed(&wire), Ok(None));
}

#[test]
fn the_alert_is_a_fatal_unrecognized_name() {
    assert_eq!(unrecognized_name_alert(), [21, 3, 3, 0, 2, 2, 112]);
}

/// What `openssl` 3.0.19 writes for `allowed.test` with ALPN h2 and http/1.1, as hexadecimal digits.
const OPENSSL_HELLO: &str = "\
    1603010200010001fc03030f61e18f094843e34292a1a49cde0124bb121eeb277c7185f4be64b8c1592a73202a111733ce43\
    5270bbd3ec8aa76fa952d592802bd43cd93adc378e3a8bedcc810024130213031301c02cc030c02bc02fcca9cca8c024c028\
    c023c027009f009e006b006700ff0100018f00000011000f00000c616c6c6f7765642e74657374000b000403000102000a00\
    160014001d0017001e0019001801000101010201030104002300000010000e000c02683208687474702f312e310016000000\
    170000000d002a0028040305030603080708080809080a080b08040805080604010501060103030301030204020502060200\
    2b00050403040303002d00020101003300260024001d0020821d258503a4ccc050ca2d2c66509d7a0af239d16b41e808fb46\
    6140323e142e001500cf00000000000000000000000000000000000000000000000000000000000000000000000000000000\
    0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000\
    0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000\
    0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000\
    0000000000000000000000000000000000\
    ";

fn openssl_hello() -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).unwrap() as u8;
    OPENSSL_HELLO.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}
