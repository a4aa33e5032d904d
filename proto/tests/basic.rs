//! What the reader of Basic credentials promises, case by case.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sluice_proto::basic::{BasicError, Credentials, proxy_authorization};

fn read(user_and_password: &str) -> Result<Credentials, BasicError> {
    proxy_authorization(format!("Basic {}", STANDARD.encode(user_and_password)).as_bytes())
}

#[test]
fn user_and_password_part_at_the_first_colon() {
    for (text, user, password) in [
        ("idgen:s3cret", "idgen", "s3cret"),
        ("u:a:b", "u", "a:b"),
        (":", "", ""),
        ("\u{fc}:\u{20ac}", "\u{fc}", "\u{20ac}"),
    ] {
        let credentials = read(text).unwrap();
        assert_eq!((credentials.user(), credentials.password()), (user.as_bytes(), password.as_bytes()));
    }
}

#[test]
fn the_scheme_is_basic_in_any_case() {
    assert!(proxy_authorization(b"bAsIc YTpi").is_ok());
    assert!(proxy_authorization(b"Basic   YTpi").is_ok());
    for value in [&b""[..], b"Basic", b"Bearer YTpi", b"BasicYTpi", b"Basic\tYTpi", b"Digest a=b"] {
        assert_eq!(proxy_authorization(value), Err(BasicError::Scheme), "{value:?}");
    }
}

#[test]
fn only_canonical_padded_base64_is_read() {
    for encoded in
        ["YTpi=", "YTo", "YTo=x", "YT pi", "YTp-", "YTpi\r\n", "YTp", "YR==", "YTpi YTpi", "=", "YTo=YTo="]
    {
        let value = format!("Basic {encoded}");
        assert_eq!(proxy_authorization(value.as_bytes()), Err(BasicError::Base64), "{encoded}");
    }
}

#[test]
fn credentials_out_of_shape_are_refused() {
    for text in ["no colon", "", "a\0:b", "a:b\n", "a:\x7f"] {
        assert_eq!(read(text), Err(BasicError::Shape), "{text:?}");
    }
}

#[test]
fn the_bound_is_exact() {
    let fits = format!("u:{}", "p".repeat(510));
    assert_eq!(read(&fits).unwrap().password().len(), 510);
    assert_eq!(read(&format!("{fits}p")), Err(BasicError::TooLong));
    assert_eq!(read(&"u:".repeat(10_000)), Err(BasicError::TooLong));
}

#[test]
fn printing_shows_neither_user_nor_password() {
    let shown = format!("{:?}", read("idgen:s3cret").unwrap());
    assert!(!shown.contains("idgen") && !shown.contains("s3cret"));
}
