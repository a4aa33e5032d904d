//! Envoy's response flags, the short words that dashboards and alerts already know. They must not know who sets them.

use core::fmt;

/// A set of response flags; prints as Envoy does: short words joined by `,`, or `-` for none
/// (Envoy `%RESPONSE_FLAGS%`).
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ResponseFlags(u32);

macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident = $word:literal;)*) => {
        #[allow(non_camel_case_types, clippy::upper_case_acronyms)]
        #[repr(u32)]
        enum Bit { $($name),* }
        impl ResponseFlags {
            $($(#[$doc])* pub const $name: Self = Self(1 << Bit::$name as u32);)*
            const WORDS: &'static [&'static str] = &[$($word),*];
        }
    };
}

flags! {
    /// No healthy upstream: Istio's mark of a black-holed TCP or TLS flow.
    UH = "UH";
    /// Upstream connection failure.
    UF = "UF";
    /// Upstream overflow (a limit of ours on upstreams).
    UO = "UO";
    /// No route configured for the request.
    NR = "NR";
    /// Upstream retry limit exceeded.
    URX = "URX";
    /// Downstream connection termination.
    DC = "DC";
    /// Upstream connection termination.
    UC = "UC";
    /// Upstream remote reset.
    UR = "UR";
    /// Upstream request timeout.
    UT = "UT";
    /// Local reset.
    LR = "LR";
    /// Denied by external authorization.
    UAEX = "UAEX";
    /// Rate limited.
    RL = "RL";
    /// Stream idle timeout.
    SI = "SI";
    /// Downstream protocol error.
    DPE = "DPE";
    /// Upstream protocol error.
    UPE = "UPE";
    /// Maximum connection duration reached.
    DT = "DT";
    /// Overload manager.
    OM = "OM";
    /// DNS resolution failed.
    DF = "DF";
    /// Drop overload.
    DO = "DO";
    /// Downstream remote reset.
    DR = "DR";
}

impl ResponseFlags {
    /// No flag: prints as `-`.
    pub const NONE: Self = Self(0);

    /// Both sets together.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether every flag of `other` is set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether no flag is set.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The short words in Envoy's order; empty for [`Self::NONE`].
    pub fn words(self) -> impl Iterator<Item = &'static str> {
        Self::WORDS.iter().enumerate().filter(move |(bit, _)| self.0 & (1 << bit) != 0).map(|(_, word)| *word)
    }
}

impl core::ops::BitOr for ResponseFlags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        self.with(other)
    }
}

impl fmt::Display for ResponseFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("-");
        }
        for (nth, word) in self.words().enumerate() {
            if nth > 0 {
                f.write_str(",")?;
            }
            f.write_str(word)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_envoys_short_words_in_one_order() {
        assert_eq!(ResponseFlags::NONE.to_string(), "-");
        assert_eq!(ResponseFlags::UH.to_string(), "UH");
        assert_eq!((ResponseFlags::URX | ResponseFlags::UF).to_string(), "UF,URX");
        assert_eq!((ResponseFlags::UF | ResponseFlags::URX), (ResponseFlags::URX | ResponseFlags::UF));
        assert_eq!(ResponseFlags::DR.to_string(), "DR");
    }

    #[test]
    fn contains_wants_every_flag() {
        let both = ResponseFlags::UC | ResponseFlags::DC;
        assert!(both.contains(ResponseFlags::UC) && !ResponseFlags::UC.contains(both));
    }
}
