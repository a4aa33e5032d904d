//! Which kernel runs, and which releases are known to be broken for what this engine does. A list of exceptions beside
//! the self-test, for defects that a short test cannot show.

/// The release as uname(2) gives it.
pub(crate) fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// The first release that has all that is needed: deferred task work and restrictions that know it.
const OLDEST: (u32, u32, u32) = (6, 1, 0);

/// What is known to be wrong with a release, if anything.
pub(crate) fn known_defect(release: &str) -> Option<&'static str> {
    // A release that cannot be read is left to the self-test.
    let version = parse(release)?;
    if version < OLDEST {
        return Some("is older than 6.1");
    }
    if version == (6, 1, 7) {
        return Some("loses completions of multishot operations");
    }
    None
}

fn parse(release: &str) -> Option<(u32, u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    let (major, minor) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    Some((major, minor, numbers.next().and_then(Result::ok).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read_and_judged() {
        assert_eq!(parse("6.18.44-fc-v595"), Some((6, 18, 44)));
        assert_eq!(parse("6.1"), Some((6, 1, 0)));
        assert_eq!(parse("5.14.0-427.el9.x86_64"), Some((5, 14, 0)));
        assert_eq!(parse("six"), None);
        assert!(known_defect("5.15.0-100-generic").is_some());
        assert!(known_defect("6.1.7").is_some());
        assert!(known_defect("6.1.70").is_none());
        assert!(known_defect("6.18.44").is_none());
        assert!(known_defect("").is_none());
    }
}
