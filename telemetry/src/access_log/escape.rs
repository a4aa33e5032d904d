//! Escaping for both formats: bytes off the wire become text that can neither end a line nor leave its field.

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Where a value stands in the text format.
#[derive(Clone, Copy)]
pub(super) enum Place {
    /// Between spaces: a space in the value would shift the columns, so it is escaped too.
    Bare,
    /// Between quotes.
    Quoted,
}

/// Appends `value` for the text format. Printable ASCII stays, everything else becomes `\xNN` (so does each byte
/// beyond ASCII: some readers split lines at U+0085 or U+2028); `"` and `\` get a backslash.
pub(super) fn text(out: &mut Vec<u8>, value: &[u8], place: Place) {
    let bare = matches!(place, Place::Bare);
    let mut clean = 0;
    for (at, &byte) in value.iter().enumerate() {
        if (byte > b' ' && byte < 0x7f && byte != b'"' && byte != b'\\') || (byte == b' ' && !bare) {
            continue;
        }
        out.extend_from_slice(&value[clean..at]);
        clean = at + 1;
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            _ => out.extend_from_slice(&[
                b'\\',
                b'x',
                HEX[usize::from(byte >> 4)],
                HEX[usize::from(byte & 15)],
            ]),
        }
    }
    out.extend_from_slice(&value[clean..]);
}

/// Appends `value` as a JSON string with its quotes (RFC 8259). Valid UTF-8 stays, except control characters and the
/// line separators of Unicode, which are escaped; each invalid sequence becomes one U+FFFD.
pub(super) fn json(out: &mut Vec<u8>, value: &[u8]) {
    out.push(b'"');
    if value.iter().all(|&byte| (b' '..0x7f).contains(&byte) && byte != b'"' && byte != b'\\') {
        out.extend_from_slice(value);
    } else {
        for chunk in value.utf8_chunks() {
            chunk.valid().chars().for_each(|c| json_char(out, c));
            if !chunk.invalid().is_empty() {
                out.extend_from_slice(b"\\ufffd");
            }
        }
    }
    out.push(b'"');
}

fn json_char(out: &mut Vec<u8>, c: char) {
    match c {
        '"' => out.extend_from_slice(b"\\\""),
        '\\' => out.extend_from_slice(b"\\\\"),
        '\n' => out.extend_from_slice(b"\\n"),
        '\r' => out.extend_from_slice(b"\\r"),
        '\t' => out.extend_from_slice(b"\\t"),
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' => {
            out.extend_from_slice(b"\\u");
            let code = c as u32;
            for shift in [12, 8, 4, 0] {
                out.push(HEX[(code >> shift & 15) as usize]);
            }
        }
        _ => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(write: impl Fn(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn text_keeps_one_line_and_its_column() {
        let hostile = b"a\n{\"x\":1} \\\x00\xff\xc2\x85";
        assert_eq!(printed(|out| text(out, hostile, Place::Bare)), r#"a\x0a{\"x\":1}\x20\\\x00\xff\xc2\x85"#);
        assert_eq!(printed(|out| text(out, b"curl / 8", Place::Quoted)), "curl / 8");
    }

    #[test]
    fn json_keeps_utf8_and_marks_the_rest() {
        assert_eq!(
            printed(|out| json(out, "a\n\"ü\u{2028}\u{85}\\".as_bytes())),
            r#""a\n\"ü\u2028\u0085\\""#
        );
        assert_eq!(printed(|out| json(out, b"\xff\xfeA\xc3")), r#""\ufffd\ufffdA\ufffd""#);
        assert_eq!(printed(|out| json(out, b"")), r#""""#);
    }
}
