//! Many host patterns in one text: what a file of hosts becomes. A million of them cost their letters and a byte each,
//! and one allocation. It must not know files.

use alloc::string::String;

use crate::{HostBuf, HostError, HostPattern, name::canonical_pattern};

/// Host patterns in the order in which they came; the same one may come twice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct HostList {
    /// Each in its canonical form, a line feed behind it.
    lines: String,
    count: usize,
}

impl HostList {
    /// Room for so many bytes of names.
    pub fn with_capacity(bytes: usize) -> Self {
        Self { lines: String::with_capacity(bytes), count: 0 }
    }

    /// Reads a pattern and adds it.
    ///
    /// # Errors
    /// As [`HostPattern::parse`]; nothing is added then.
    pub fn parse(&mut self, text: &str) -> Result<(), HostError> {
        let mut buf = HostBuf::new();
        let (wildcard, name) = canonical_pattern(text, &mut buf)?;
        self.push_parts(if wildcard { "*." } else { "" }, name);
        Ok(())
    }

    /// Adds a pattern.
    pub fn push(&mut self, pattern: &HostPattern) {
        self.push_parts("", pattern.as_str());
    }

    fn push_parts(&mut self, star: &str, name: &str) {
        self.lines.push_str(star);
        self.lines.push_str(name);
        self.lines.push('\n');
        self.count += 1;
    }

    /// The canonical texts, with `*.` where it is a wildcard.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.lines.split_terminator('\n')
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Gives back room that is not needed.
    pub fn shrink_to_fit(&mut self) {
        self.lines.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    #[test]
    fn patterns_come_back_canonical_and_what_is_none_leaves_nothing() {
        let mut list = HostList::default();
        assert!(list.is_empty() && list.iter().next().is_none());
        for text in ["B.Example", "*.A.example.", "b.example"] {
            list.parse(text).expect("a pattern");
        }
        assert_eq!(list.parse("10.0.0.1"), Err(HostError::Address));
        assert_eq!(list.parse("a b"), Err(HostError::Byte(b' ')));
        assert_eq!(list.parse("a\nb.example"), Err(HostError::Byte(b'\n')));
        list.push(&HostPattern::parse("*.c.example").expect("a pattern"));
        let texts: Vec<&str> = list.iter().collect();
        assert_eq!(texts, ["b.example", "*.a.example", "b.example", "*.c.example"]);
        assert_eq!(list.len(), 4);
    }
}
