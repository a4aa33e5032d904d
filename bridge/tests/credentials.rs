//! Credentials: who is let in, who is not, and what never shows.
#![allow(clippy::unwrap_used)] // tests

use proptest::prelude::*;
use sluice_bridge::{Credentials, CredentialsBuilder, CredentialsError, limits, source_labels};
use sluice_policy::Identity;
use std::sync::Arc;

fn identity(workload: &str) -> Arc<Identity> {
    Arc::new(Identity { workload: Some(workload.into()), ..Identity::default() })
}

fn users(list: &[(&str, &str)]) -> Credentials {
    let mut builder = CredentialsBuilder::new().unwrap();
    for (user, password) in list {
        builder.add(user, password.as_bytes(), identity(user)).unwrap();
    }
    builder.build()
}

#[test]
fn the_right_password_proves_the_workload_and_nothing_else_does() {
    let credentials = users(&[("idgen", "s3cret"), ("other", "s3cret")]);
    assert_eq!(credentials.len(), 2);
    assert_eq!(credentials.verify(b"idgen", b"s3cret"), Some(&identity("idgen")));
    assert_eq!(credentials.verify(b"other", b"s3cret"), Some(&identity("other")));
    let long = vec![0; limits::PASSWORD_BYTES_MAX + 1];
    let wrong: [(&[u8], &[u8]); 8] = [
        (b"idgen", b"S3cret"),
        (b"idgen", b""),
        (b"idgen", b"s3cret\0"),
        (b"idge", b"s3cret"),
        (b"", b""),
        (b"", &long),
        (b"", &long[..limits::PASSWORD_BYTES_MAX]),
        (b"idgen", &long),
    ];
    for (user, password) in wrong {
        assert_eq!(credentials.verify(user, password), None, "{user:?}");
    }
    let none = Credentials::none().unwrap();
    assert!(none.is_empty() && none.verify(b"idgen", b"s3cret").is_none());
}

#[test]
fn what_cannot_be_a_credential_is_refused_by_name() {
    let mut builder = CredentialsBuilder::new().unwrap();
    let mut add = |user: &str, password: &[u8]| builder.add(user, password, identity("w"));
    assert_eq!(add("a", b"p"), Ok(()));
    assert_eq!(add("a", b"q"), Err(CredentialsError::Duplicate("a".into())));
    for user in ["", "a:b", "a\nb", &"u".repeat(limits::USER_BYTES_MAX + 1)] {
        assert_eq!(add(user, b"p"), Err(CredentialsError::User(user.into())));
    }
    assert_eq!(add("b", b""), Err(CredentialsError::Password("b".into())));
    let error = add("b", &vec![b'q'; limits::PASSWORD_BYTES_MAX + 1]).unwrap_err();
    assert!(!error.to_string().contains("qq"), "{error}");
}

#[test]
fn debug_shows_neither_users_nor_digests() {
    let credentials = users(&[("idgen", "s3cret")]);
    assert_eq!(format!("{credentials:?}"), "Credentials { users: 1, .. }");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn only_the_very_password_verifies(right in any::<[u8; 3]>(), tried in any::<[u8; 3]>(), at in 0..3usize) {
        let mut builder = CredentialsBuilder::new().unwrap();
        builder.add("u", &right, identity("u")).unwrap();
        let credentials = builder.build();
        prop_assert!(credentials.verify(b"u", &right).is_some());
        prop_assert_eq!(credentials.verify(b"u", &tried).is_some(), tried == right);
        let mut near = right;
        near[at] ^= 1;
        prop_assert!(credentials.verify(b"u", &near).is_none());
    }
}

#[test]
fn verifying_does_not_allocate() {
    let credentials = users(&[("idgen", "s3cret")]);
    let verify = || {
        assert!(credentials.verify(b"idgen", b"s3cret").is_some());
        assert!(credentials.verify(b"nobody", b"s3cret").is_none());
    };
    verify();
    assert_eq!(allocation_counter::measure(verify).count_total, 0);
}

#[test]
fn every_name_of_an_identity_becomes_a_label() {
    let text = |text: &str| Some(Arc::from(text));
    let identity = Identity {
        principal: text("p"),
        namespace: text("n"),
        service_account: text("s"),
        workload: text("w"),
        app: text("a"),
        version: text("v"),
        cluster: text("c"),
        region: text("r"),
    };
    let labels = source_labels(&identity);
    assert_eq!(
        (labels.principal, labels.namespace, labels.service_account),
        (Some("p"), Some("n"), Some("s"))
    );
    assert_eq!((labels.workload, labels.app), (Some("w"), Some("a")));
    assert_eq!((labels.version, labels.cluster), (Some("v"), Some("c")));
}
