//! Byte classes of HTTP/1 and fast scans over them. Knows nothing of what the bytes mean.

const TOKEN: u8 = 1;
const TARGET: u8 = 2;
const REG_NAME: u8 = 4;

/// One table for the three classes that names, targets and hosts are made of.
static CLASSES: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut byte = 0x21u8;
    while byte < 0x7f {
        let mut class = 0;
        if byte.is_ascii_alphanumeric()
            || matches!(
                byte,
                b'!' | b'#'
                    | b'$'
                    | b'%'
                    | b'&'
                    | b'\''
                    | b'*'
                    | b'+'
                    | b'-'
                    | b'.'
                    | b'^'
                    | b'_'
                    | b'`'
                    | b'|'
                    | b'~'
            )
        {
            class |= TOKEN;
        }
        // Visible ASCII; a fragment never goes on the wire (RFC 9112 §3.2).
        if byte != b'#' {
            class |= TARGET;
        }
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.') {
            class |= REG_NAME;
        }
        table[byte as usize] = class;
        byte += 1;
    }
    table
}

/// A byte of a field name, a method or an option (RFC 9110 §5.6.2 `tchar`).
pub(super) fn is_token(byte: u8) -> bool {
    CLASSES[usize::from(byte)] & TOKEN != 0
}

/// A byte that may stand in a request target.
pub(super) fn is_target(byte: u8) -> bool {
    CLASSES[usize::from(byte)] & TARGET != 0
}

/// A byte of a DNS name in text.
pub(super) fn is_reg_name(byte: u8) -> bool {
    CLASSES[usize::from(byte)] & REG_NAME != 0
}

/// A byte of a field value: HTAB, SP, visible ASCII, obs-text.
pub(super) const fn is_value(byte: u8) -> bool {
    byte == b'\t' || (byte >= 0x20 && byte != 0x7f)
}

/// The number of bytes at the front of `bytes` that may stand in a field value, eight at a time.
pub(super) fn value_run(bytes: &[u8]) -> usize {
    let mut at = 0;
    loop {
        while let Some(word) = bytes[at..].first_chunk::<8>() {
            let suspects = suspects(u64::from_le_bytes(*word));
            if suspects != 0 {
                // The lowest mark is exact; borrows make only higher ones doubtful.
                at += (suspects.trailing_zeros() / 8) as usize;
                break;
            }
            at += 8;
        }
        match bytes.get(at) {
            Some(byte) if is_value(*byte) => at += 1, // a HTAB, or the last seven bytes
            _ => return at,
        }
    }
}

/// Marks (top bit of a byte) where a byte of `word` is below 0x20 or is 0x7f.
const fn suspects(word: u64) -> u64 {
    const ONES: u64 = u64::MAX / 255;
    const TOPS: u64 = ONES << 7;
    let below_space = word.wrapping_sub(ONES * 0x20) & !word;
    let delete = word ^ (ONES * 0x7f);
    let is_delete = delete.wrapping_sub(ONES) & !delete;
    (below_space | is_delete) & TOPS
}

/// `value` without SP and HTAB at its ends.
pub(super) fn trim(value: &[u8]) -> &[u8] {
    let mut value = value;
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// The elements of a comma-separated list, trimmed; empty ones are skipped (RFC 9110 §5.6.1.2).
pub(super) fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(trim).filter(|element| !element.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_run_agrees_with_the_byte_class_at_every_position_and_byte() {
        for length in 0..20 {
            for position in 0..length {
                for byte in 0..=255u8 {
                    let mut bytes = [b'v'; 20];
                    bytes[position] = byte;
                    let expected = bytes[..length].iter().take_while(|b| is_value(**b)).count();
                    assert_eq!(value_run(&bytes[..length]), expected, "{byte:#x} at {position} of {length}");
                }
            }
        }
    }
}
