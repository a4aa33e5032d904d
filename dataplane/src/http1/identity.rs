//! Who asks, by the request's proxy credentials; and the request's id.

use std::rc::Rc;

use sluice_bridge::Auth;
use sluice_engine::Engine;
use sluice_proto::basic;
use sluice_proto::http1::{HeaderName, RequestHead};

use super::Client;
use crate::route::Asker;

/// A request id that a client may choose: longer ones are replaced.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// Missing or wrong credentials.
pub(super) struct Unauthenticated;

/// Who sends this request, as far as the door's `auth` asks. Credentials are only looked at where it does.
pub(super) fn identify<E: Engine>(
    client: &Client<E>,
    head: &RequestHead<'_>,
) -> Result<Rc<Asker>, Unauthenticated> {
    let connection = &client.connection;
    let known = Rc::clone(&connection.asker.borrow());
    let auth = if matches!(client.mode, super::Mode::Proxy) { connection.door.auth } else { Auth::Off };
    let value = match (auth, head.headers.find(HeaderName::ProxyAuthorization)) {
        (Auth::Off, _) if connection.lacks_credentials() => return Err(Unauthenticated),
        (Auth::Off, _) => return Ok(known),
        (Auth::Optional, None) => return Ok(connection.asker_by_address()),
        (Auth::Required, None) => return Err(Unauthenticated),
        (Auth::Optional | Auth::Required, Some(value)) => value,
    };
    let credentials = basic::proxy_authorization(value).map_err(|_| Unauthenticated)?;
    connection.authenticate(credentials.user(), credentials.password()).ok_or(Unauthenticated)
}

/// The client's `x-request-id` where it is short and printable, else a new random one (RFC 9562 version 4 in form).
pub(super) fn request_id<E: Engine>(engine: &E, head: &RequestHead<'_>) -> String {
    let given = head.headers.find(HeaderName::XRequestId);
    let sane =
        |id: &&[u8]| (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic);
    match given.filter(sane) {
        Some(id) => String::from_utf8_lossy(id).into_owned(),
        None => fresh_id(engine),
    }
}

/// An id for what has no readable head: nothing of such bytes is believed.
pub(super) fn fresh_id<E: Engine>(engine: &E) -> String {
    new_id(engine.random(), engine.random())
}

fn new_id(high: u64, low: u64) -> String {
    format!(
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xfff,
        0x8000 | (low >> 48) & 0x3fff,
        low & 0xffff_ffff_ffff
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_the_form_of_a_random_uuid() {
        let id = new_id(u64::MAX, 0);
        assert_eq!(id, "ffffffff-ffff-4fff-8000-000000000000");
        assert_eq!(new_id(0, u64::MAX).len(), 36);
    }
}
