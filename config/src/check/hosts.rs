//! Host names as configuration texts: schemes and ports named as such, non-ASCII turned into A-labels, the rest judged by
//! the policy's own parser. Serves `hosts`, `hosts_file` and endpoint names alike.

use sluice_policy::{HostError, HostList, HostPattern};

use crate::structure::shorten;

/// A host that was refused: what is wrong with it, and what to write.
#[derive(Debug)]
pub(crate) struct BadHost {
    pub(crate) message: String,
    pub(crate) suggestion: Option<String>,
}

/// Reads one host pattern as a person writes it.
pub(crate) fn pattern(text: &str) -> Result<HostPattern, BadHost> {
    // Nearly every host of a long list ends here; what follows finds words for the others.
    HostPattern::parse(text).or_else(|_| unusual(text))
}

/// Reads one host pattern into a list of many.
pub(crate) fn add(list: &mut HostList, text: &str) -> Result<(), BadHost> {
    list.parse(text).or_else(|_| unusual(text).map(|pattern| list.push(&pattern)))
}

fn unusual(text: &str) -> Result<HostPattern, BadHost> {
    let bad = |message: String, suggestion: Option<String>| Err(BadHost { message, suggestion });
    let shown = shorten(text);
    if let Some((scheme, rest)) = text.split_once("://") {
        let host = rest.split(['/', '?', '#']).next().unwrap_or(rest);
        let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
        return bad(format!("\"{shown}\" has a scheme (\"{}\")", shorten(scheme)), host_remedy(host));
    }
    if let Some((host, path)) = text.split_once('/')
        && !path.is_empty()
        && !path.bytes().all(|byte| byte.is_ascii_digit())
    {
        return bad(format!("\"{shown}\" has a path"), host_remedy(host));
    }
    if let Some((host, port)) = text.rsplit_once(':')
        && !host.contains(':')
        && port.bytes().all(|byte| byte.is_ascii_digit())
    {
        let remedy = host_remedy(host).map(|host| format!("{host}, and the port under `ports`"));
        return bad(format!("\"{shown}\" has a port"), remedy);
    }
    if text.parse::<sluice_policy::Cidr>().is_ok() {
        return bad(format!("\"{shown}\" is an address"), Some("list it under `addresses`".to_owned()));
    }
    let Some(ascii) = ascii(text) else {
        return bad(format!("\"{shown}\" is not a valid internationalised name"), None);
    };
    HostPattern::parse(&ascii).or_else(|error| {
        let suggestion = match error {
            HostError::Wildcard if text == "*" => Some(
                "for every destination use mode = \"allow_any\", for these sources with a [[scope]]"
                    .to_owned(),
            ),
            HostError::Wildcard => text
                .rsplit_once('*')
                .and_then(|(_, rest)| host_remedy(&format!("*.{}", rest.trim_start_matches('.')))),
            _ => None,
        };
        bad(format!("\"{shown}\" {}", sentence(&error)), suggestion)
    })
}

/// The name in A-labels; names that are ASCII already pass as they are, for the policy's parser to judge.
fn ascii(text: &str) -> Option<String> {
    if text.is_ascii() {
        return Some(text.to_owned());
    }
    let (star, name) = text.strip_prefix("*.").map_or(("", text), |name| ("*.", name));
    let name = idna::domain_to_ascii_cow(name.as_bytes(), idna::AsciiDenyList::EMPTY).ok()?;
    Some(format!("{star}{name}"))
}

fn host_remedy(host: &str) -> Option<String> {
    let canonical = ascii(host).and_then(|host| HostPattern::parse(&host).ok())?;
    Some(format!("write \"{canonical}\""))
}

/// The parser's words, so that they follow a quoted name.
fn sentence(error: &HostError) -> String {
    match error {
        HostError::Brackets => {
            "has brackets: they belong to IPv6 addresses, which go under `addresses`".to_owned()
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::pattern;

    #[test]
    fn hosts_become_canonical() {
        for (text, canonical) in [
            ("HttpBin.org", "httpbin.org"),
            ("httpbin.org.", "httpbin.org"),
            ("*.Example.org", "*.example.org"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("*.bücher.example", "*.xn--bcher-kva.example"),
            ("BÜCHER.example", "xn--bcher-kva.example"),
            ("a_b.example", "a_b.example"),
        ] {
            assert_eq!(pattern(text).unwrap().as_str(), canonical, "{text}");
        }
    }

    #[test]
    fn slips_are_named_with_a_remedy() {
        for (text, message, remedy) in [
            ("https://httpbin.org/uuid", "scheme", "\"httpbin.org\""),
            ("http://httpbin.org:80", "scheme", "\"httpbin.org\""),
            ("httpbin.org:443", "port", "\"httpbin.org\", and the port under `ports`"),
            ("httpbin.org/uuid", "path", "\"httpbin.org\""),
            ("10.0.0.1", "address", "`addresses`"),
            ("10.0.0.0/8", "address", "`addresses`"),
            ("*", "`*`", "allow_any"),
            ("*example.org", "`*`", "\"*.example.org\""),
            ("www.*.example.org", "`*`", "\"*.example.org\""),
        ] {
            let bad = pattern(text).unwrap_err();
            assert!(bad.message.contains(message), "{text}: {}", bad.message);
            assert!(
                bad.suggestion.as_deref().unwrap_or_default().contains(remedy),
                "{text}: {:?}",
                bad.suggestion
            );
        }
        for text in [
            "a..b",
            "127.1",
            "0x7f.1",
            "a b",
            "xn--\u{fc}.example",
            "[::1]",
            "fe80::1%lo",
            "http://",
            ":",
            "*.",
            "\u{ad}",
        ] {
            assert!(pattern(text).is_err(), "{text}");
        }
    }
}
