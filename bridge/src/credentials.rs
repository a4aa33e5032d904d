//! Proxy users and whom their passwords prove. Holds no password: only keyed digests that are worthless outside this
//! process. It must not know the wire form of credentials.

use crate::limits::{PASSWORD_BYTES_MAX, USER_BYTES_MAX};
use ring::{hmac, rand::SecureRandom as _};
use sluice_policy::Identity;
use std::{collections::HashMap, fmt, sync::Arc};

/// Users with the digest of their password and the workload it proves.
///
/// Each user's digest is HMAC-SHA-256 of the password under a key of a random salt and the user's name, and is compared
/// in constant time (`ring`). An unknown user costs the same as a wrong password. Checking takes about half a
/// microsecond and allocates nothing, so it may run on every request.
pub struct Credentials {
    users: HashMap<Box<[u8]>, User>,
    nobody: Secret,
}

struct User {
    secret: Secret,
    identity: Arc<Identity>,
}

struct Secret {
    key: hmac::Key,
    digest: hmac::Tag,
}

impl Credentials {
    /// No users: everyone is refused.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn none() -> Result<Self, CredentialsError> {
        Ok(CredentialsBuilder::new()?.build())
    }

    /// The workload that these credentials prove; `None` when the user is unknown or the password wrong.
    #[must_use]
    pub fn verify(&self, user: &[u8], password: &[u8]) -> Option<&Arc<Identity>> {
        if password.len() > PASSWORD_BYTES_MAX {
            return None;
        }
        let known = self.users.get(user);
        let secret = known.map_or(&self.nobody, |user| &user.secret);
        let right = hmac::verify(&secret.key, password, secret.digest.as_ref()).is_ok();
        known.filter(|_| right).map(|user| &user.identity)
    }

    /// The workload that `user`'s credentials prove now, whatever the password: what a flow is asked again by, whose
    /// password was checked when it began.
    #[must_use]
    pub fn identity_of(&self, user: &[u8]) -> Option<&Arc<Identity>> {
        self.users.get(user).map(|user| &user.identity)
    }

    /// How many users there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.users.len()
    }

    /// Whether there is no user at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("users", &self.users.len()).finish_non_exhaustive()
    }
}

/// Why credentials cannot be taken. Names the user, never a password.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CredentialsError {
    /// Two entries for one user.
    #[error("the proxy user {0:?} is given twice")]
    Duplicate(String),
    /// HTTP Basic cannot carry it (RFC 7617 §2), or it is empty or too long.
    #[error("{0:?} cannot be a proxy user: 1 to {USER_BYTES_MAX} bytes, no colon, no control characters")]
    User(String),
    /// Empty or too long.
    #[error("the password of the proxy user {0:?} must have 1 to {PASSWORD_BYTES_MAX} bytes")]
    Password(String),
    /// The system's random number generator failed.
    #[error("the system has no randomness for the credentials' salt")]
    Randomness,
}

/// Collects users for one snapshot, under one fresh salt.
pub struct CredentialsBuilder {
    salt: [u8; 32],
    users: HashMap<Box<[u8]>, User>,
}

impl CredentialsBuilder {
    /// An empty set with a fresh salt.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn new() -> Result<Self, CredentialsError> {
        let mut salt = [0; 32];
        ring::rand::SystemRandom::new().fill(&mut salt).map_err(|_| CredentialsError::Randomness)?;
        Ok(Self { salt, users: HashMap::new() })
    }

    /// Adds a user. The password may be dropped by the caller right after.
    ///
    /// # Errors
    /// When the user is given twice, or user or password are out of bounds.
    pub fn add(
        &mut self,
        user: &str,
        password: &[u8],
        identity: Arc<Identity>,
    ) -> Result<(), CredentialsError> {
        if user.is_empty()
            || user.len() > USER_BYTES_MAX
            || user.contains(|c: char| c == ':' || c.is_control())
        {
            return Err(CredentialsError::User(user.to_owned()));
        }
        if password.is_empty() || password.len() > PASSWORD_BYTES_MAX {
            return Err(CredentialsError::Password(user.to_owned()));
        }
        if self.users.contains_key(user.as_bytes()) {
            return Err(CredentialsError::Duplicate(user.to_owned()));
        }
        let secret = self.secret(user.as_bytes(), password);
        self.users.insert(user.as_bytes().into(), User { secret, identity });
        Ok(())
    }

    /// The finished set.
    #[must_use]
    pub fn build(self) -> Credentials {
        // No user has an empty name, and the digest is of a password longer than any that is tried.
        let nobody = self.secret(b"", &[0; PASSWORD_BYTES_MAX + 1]);
        Credentials { users: self.users, nobody }
    }

    fn secret(&self, user: &[u8], password: &[u8]) -> Secret {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &[&self.salt, user].concat());
        let digest = hmac::sign(&key, password);
        Secret { key, digest }
    }
}

impl fmt::Debug for CredentialsBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CredentialsBuilder").field("users", &self.users.len()).finish_non_exhaustive()
    }
}
