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

/// A class of bytes that runs are made of.
#[derive(Clone, Copy)]
pub(super) enum Class {
    /// Bytes of a field name, a method or an option (RFC 9110 §5.6.2 `tchar`).
    Token = TOKEN as isize,
    /// Bytes that may stand in a request target.
    Target = TARGET as isize,
    /// Bytes of a DNS name in text.
    RegName = REG_NAME as isize,
}

impl Class {
    #[inline]
    pub(super) fn has(self, byte: u8) -> bool {
        CLASSES[usize::from(byte)] & self as u8 != 0
    }

    /// Whether all of `bytes` are of the class.
    #[inline]
    pub(super) fn has_all(self, bytes: &[u8]) -> bool {
        self.run(bytes) == bytes.len()
    }

    /// The number of bytes at the front of `bytes` that are of the class; without a branch for each but the last few.
    #[inline]
    pub(super) fn run(self, bytes: &[u8]) -> usize {
        let mut at = 0;
        for block in bytes.as_chunks::<8>().0 {
            let common = block.iter().fold(self as u8, |common, byte| common & CLASSES[usize::from(*byte)]);
            if common == 0 {
                break;
            }
            at += block.len();
        }
        at + bytes[at..].iter().take_while(|byte| self.has(**byte)).count()
    }
}

/// A byte of a field value: HTAB, SP, visible ASCII, obs-text.
pub(super) const fn is_value(byte: u8) -> bool {
    byte == b'\t' || (byte >= 0x20 && byte != 0x7f)
}

/// The number of bytes at the front of `bytes` that may stand in a field value, eight at a time.
#[inline]
pub(super) fn value_run(bytes: &[u8]) -> usize {
    let mut at = 0;
    for word in bytes.as_chunks::<8>().0 {
        let suspects = suspects(u64::from_le_bytes(*word));
        if suspects != 0 {
            // The lowest mark is exact (borrows make only higher ones doubtful), but it may be a HTAB.
            let first = (suspects.trailing_zeros() / 8) as usize;
            let run = word[first..].iter().take_while(|byte| is_value(**byte)).count();
            if first + run < word.len() {
                return at + first + run;
            }
        }
        at += word.len();
    }
    at + bytes[at..].iter().take_while(|byte| is_value(**byte)).count()
}

/// Marks (top bit of a byte) where a byte of `word` is below 0x20 or is 0x7f.
#[inline]
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
    trim_end(value)
}

/// `value` without SP and HTAB at its end.
#[inline]
pub(super) fn trim_end(value: &[u8]) -> &[u8] {
    let mut value = value;
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
        for length in 0..40 {
            for position in 0..length {
                for byte in 0..=255u8 {
                    let mut bytes = [b'v'; 40];
                    bytes[position] = byte;
                    let expected = bytes[..length].iter().take_while(|b| is_value(**b)).count();
                    assert_eq!(value_run(&bytes[..length]), expected, "{byte:#x} at {position} of {length}");
                }
            }
        }
    }
}
