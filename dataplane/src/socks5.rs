//! The `socks5` door: greeting, credentials, one CONNECT. The destination is dialled before the client hears that it
//! stands; what it sends ahead of that is held. It must not know what may travel inside: that is [`crate::inside`] and
//! [`crate::unnamed`].

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use sluice_bridge::{Auth, Phase};
use sluice_engine::{Deadline, Engine, Stream};
use sluice_policy::{Host, HostBuf, Reason, parse_host};
use sluice_proto::socks5::{self, Address, ConnectRequest, Greeting, Message, Method, Reply, SocksError};
use sluice_telemetry::ResponseFlags;
use sluice_telemetry::access_log::Field;

use crate::connection::{Admitted, Downstream};
use crate::dial::DialError;
use crate::http1;
use crate::inside;
use crate::linger::linger;
use crate::reach::{Obstacle, reach};
use crate::record::Record;
use crate::refusal::note_obstacle;
use crate::route::{Route, Wanted};
use crate::sniff::Held;
use crate::unnamed;

/// A client that has not yet been told how its request ended.
struct Client<E: Engine> {
    connection: Admitted<E>,
    stream: E::Stream,
    /// Bytes received and not yet consumed.
    held: Held,
    /// Ends the negotiation as a whole, then each answer.
    deadline: Deadline<E>,
}

/// Why there is no request to decide.
enum Refusal {
    /// There is an answer for it: sent, then the connection is closed.
    Answer(Message, Reason, &'static str),
    /// The bytes cannot be read: closed.
    Unreadable(SocksError),
    /// The name in the request is none: closed.
    NoHost,
    /// The client took too long: closed.
    Timeout,
    /// The client ended or failed within a message.
    Incomplete,
    /// The client is gone, and has asked for nothing.
    Gone,
}

/// Serves a client that speaks to us as its SOCKS server.
pub(crate) async fn serve<E: Engine>(downstream: Downstream<E>) {
    let mut record = Record::tunnel(&downstream.connection, "socks5");
    let mut client = Client::new(downstream);
    let wanted = match client.negotiate(&mut record).await {
        Ok(wanted) => wanted,
        Err(refusal) => return client.refuse(record, &refusal).await,
    };
    let worker = Rc::clone(&client.connection.worker);
    let asker = Rc::clone(&client.connection.asker.borrow());
    let route = worker.decide(&asker, wanted);
    let never = route.is_denied() && unnamed::is_never_dialled(&worker, &route);
    if !never && unnamed::may_tell_a_name(&client.connection, &route) {
        // Nothing is dialled yet: there is no address of ours to tell.
        if client.succeed(&mut record, None).await.is_ok()
            && let Some(requests) = unnamed::serve(client.into_downstream(), record, route).await
        {
            worker.engine.spawn(http1::serve(requests));
        }
        return;
    }
    record.decided(&route);
    if never {
        record.denied(Reason::Guard);
    }
    if route.is_denied() {
        record.black_holed();
        return client.end_with(record, Reply::NotAllowed).await;
    }
    client.forward(record, route).await;
}

impl<E: Engine> Client<E> {
    fn new(downstream: Downstream<E>) -> Self {
        let Downstream { connection, stream, early } = downstream;
        let deadline = Deadline::new(connection.worker.engine.clone());
        let mut held = Held::default();
        early.into_iter().for_each(|early| held.push(early));
        Self { connection, stream, held, deadline }
    }

    /// What is left when the client has been told all.
    fn into_downstream(self) -> Downstream<E> {
        let early = Some(self.held.into_buffer()).filter(|held| !held.is_empty());
        Downstream { connection: self.connection, stream: self.stream, early }
    }

    fn set_deadline(&self, after_ms: u64) {
        self.deadline.set(Some(self.connection.worker.engine.now() + Duration::from_millis(after_ms)));
    }

    /// Greeting, credentials where the door asks for them, request. All three have the time of a request head.
    async fn negotiate(&mut self, record: &mut Record<E>) -> Result<Wanted, Refusal> {
        self.connection.phase.set(Phase::Sniffing);
        let head_ms = self.connection.worker.snapshot().limits.request_head_timeout_ms;
        self.set_deadline(head_ms);
        let offered = self
            .message(|bytes| Ok(socks5::greeting(bytes)?.map(|greeting| (greeting, greeting.wire_bytes))))
            .await?;
        let Some(method) = choose(self.connection.door.auth, offered) else {
            let no_method = socks5::method_selection(None);
            return Err(Refusal::Answer(no_method, Reason::Auth, "socks5_no_acceptable_method"));
        };
        self.say(&socks5::method_selection(Some(method))).await?;
        if method == Method::Password {
            self.authenticate().await?;
        }
        let (host, wanted) = self
            .message(
                |bytes| Ok(socks5::request(bytes)?.map(|request| (wanted(&request), request.wire_bytes))),
            )
            .await?;
        record.entry.set_bytes(Field::Authority, &host);
        wanted.ok_or(Refusal::NoHost)
    }

    async fn authenticate(&mut self) -> Result<(), Refusal> {
        let connection = Rc::clone(&self.connection);
        let accepted = self
            .message(|bytes| {
                let Some(sent) = socks5::credentials(bytes)? else { return Ok(None) };
                // Where the door does not ask, credentials that are shown all the same are dropped.
                let accepted = connection.door.auth == Auth::Off
                    || connection.authenticate(sent.user, sent.password).is_some();
                Ok(Some((accepted, sent.wire_bytes)))
            })
            .await;
        let accepted = match accepted {
            Err(Refusal::Unreadable(SocksError::EmptyCredentials)) => false,
            accepted => accepted?,
        };
        let answer = socks5::credentials_answer(accepted);
        if !accepted {
            return Err(Refusal::Answer(answer, Reason::Auth, "socks5_wrong_credentials"));
        }
        self.say(&answer).await
    }

    /// Waits for a whole message and consumes it. `read` gives what it says and how many bytes it had.
    async fn message<T>(
        &mut self,
        read: impl Fn(&[u8]) -> Result<Option<(T, usize)>, SocksError>,
    ) -> Result<T, Refusal> {
        loop {
            if let Some((message, wire_bytes)) = read(self.held.bytes()).map_err(refusal)? {
                self.held.advance(wire_bytes);
                return Ok(message);
            }
            match self.deadline.run(self.stream.receive()).await {
                Ok(Ok(buffer)) if !buffer.is_empty() => self.held.push(buffer),
                Ok(_) if self.held.bytes().is_empty() => return Err(Refusal::Gone),
                Ok(_) => return Err(Refusal::Incomplete),
                Err(_) => return Err(Refusal::Timeout),
            }
        }
    }

    /// Sends a message of the negotiation.
    async fn say(&self, message: &Message) -> Result<(), Refusal> {
        self.send(message).await.map_err(|_| Refusal::Gone)
    }

    async fn send(&self, message: &Message) -> io::Result<()> {
        let mut buffer = self.connection.worker.engine.buffer();
        let fits = buffer.append(message.as_bytes());
        debug_assert!(fits, "an empty buffer takes 22 bytes");
        self.deadline
            .run(self.stream.send(buffer))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Reaches the destination, says so, and becomes what travels inside.
    async fn forward(self, mut record: Record<E>, route: Rc<Route>) {
        self.connection.begin(&route);
        let reached = match reach(&self.connection, &route).await {
            Ok(reached) => reached,
            Err(obstacle) => {
                note_obstacle(&mut record, &obstacle);
                return match reply_to(&obstacle) {
                    Some(reply) => self.end_with(record, reply).await,
                    None => self.stream.reset(),
                };
            }
        };
        if self.succeed(&mut record, Some(reached.stream.local_address())).await.is_err() {
            return reached.stream.reset();
        }
        let engine = self.connection.worker.engine.clone();
        if let Some(requests) = inside::serve(self.into_downstream(), record, route, reached).await {
            engine.spawn(http1::serve(requests));
        }
    }

    /// Says that the connection stands: from here on it is a tunnel.
    async fn succeed(&self, record: &mut Record<E>, bound: Option<SocketAddr>) -> io::Result<()> {
        let limit_ms = self.connection.worker.snapshot().limits.linger_timeout_ms;
        self.set_deadline(limit_ms);
        self.send(&socks5::reply(Reply::Succeeded, bound)).await.inspect_err(|_| {
            record.flag(ResponseFlags::DC);
            self.stream.reset();
        })
    }

    /// Says that there will be no connection, and why; then closes so that it is heard.
    async fn end_with(self, record: Record<E>, reply: Reply) {
        self.close_with(record, &socks5::reply(reply, None)).await;
    }

    async fn close_with(self, mut record: Record<E>, answer: &Message) {
        self.connection.phase.set(Phase::Lingering);
        let limit_ms = self.connection.worker.snapshot().limits.linger_timeout_ms;
        self.set_deadline(limit_ms);
        if self.send(answer).await.is_err() {
            record.flag(ResponseFlags::DC);
            return self.stream.reset();
        }
        // The decision is final: the record need not wait for the client to go.
        drop(record);
        linger(&self.connection.worker, self.stream).await;
    }

    /// Ends a client whose request was never decided.
    async fn refuse(self, mut record: Record<E>, refusal: &Refusal) {
        let (reason, details) = match refusal {
            Refusal::Answer(_, reason, details) => (*reason, *details),
            Refusal::Unreadable(_) | Refusal::NoHost | Refusal::Incomplete => {
                (Reason::Malformed, "socks5_malformed")
            }
            Refusal::Timeout => (Reason::Limit, "socks5_timeout"),
            Refusal::Gone => return record.flag(ResponseFlags::DC),
        };
        if let Refusal::Unreadable(error) = refusal {
            record.entry.set_text(Field::ConnectionTerminationDetails, &error.to_string());
        }
        record.denied(reason);
        record.black_holed();
        record.details(details);
        if let Refusal::Answer(answer, ..) = refusal {
            self.close_with(record, answer).await;
        }
    }
}

/// The way to authenticate that the door wants of what the client offers. Who has credentials to show is asked for
/// them, unless the door asks nobody.
fn choose(auth: Auth, offered: Greeting) -> Option<Method> {
    let password = offered.password.then_some(Method::Password);
    let none = offered.no_authentication.then_some(Method::NoAuthentication);
    match auth {
        Auth::Off => none.or(password),
        Auth::Optional => password.or(none),
        Auth::Required => password,
    }
}

/// The answer to bytes that are no request to connect, where there is one.
fn refusal(error: SocksError) -> Refusal {
    let (reply, details) = match error {
        SocksError::Command(_) => (Reply::CommandNotSupported, "socks5_command_not_supported"),
        SocksError::AddressType(_) => (Reply::AddressTypeNotSupported, "socks5_address_type_not_supported"),
        error => return Refusal::Unreadable(error),
    };
    Refusal::Answer(socks5::reply(reply, None), Reason::Malformed, details)
}

/// What a request asks for, as it was written for the log and in canonical form. An address is an original destination
/// without a name; a name that is none is nothing.
fn wanted(request: &ConnectRequest<'_>) -> (Vec<u8>, Option<Wanted>) {
    let port = request.port;
    match request.address {
        Address::Ip(address) => {
            let text = SocketAddr::new(address, port).to_string().into_bytes();
            (text, Some(Wanted::named(Host::Address(address), port)))
        }
        Address::Name(name) => {
            let mut scratch = HostBuf::new();
            let host = parse_host(name, &mut scratch).ok();
            let text = [name, format!(":{port}").as_bytes()].concat();
            (text, host.map(|host| Wanted::named(host, port)))
        }
    }
}

/// What a client hears of an obstacle; nothing where it has been cut.
fn reply_to(obstacle: &Obstacle) -> Option<Reply> {
    Some(match obstacle {
        Obstacle::Denied(..) => Reply::NotAllowed,
        Obstacle::Dns(_) => Reply::HostUnreachable,
        Obstacle::Dial(DialError::OtherFamily(_) | DialError::Source(..)) => Reply::GeneralFailure,
        Obstacle::Dial(DialError::Timeout) => Reply::TtlExpired,
        Obstacle::Dial(DialError::Connect(error)) => match error.kind() {
            io::ErrorKind::ConnectionRefused => Reply::Refused,
            io::ErrorKind::TimedOut => Reply::TtlExpired,
            io::ErrorKind::NetworkUnreachable => Reply::NetworkUnreachable,
            io::ErrorKind::HostUnreachable => Reply::HostUnreachable,
            _ => Reply::GeneralFailure,
        },
        Obstacle::Cut => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_asked_for_where_the_door_wants_them_and_the_client_has_them() {
        use Method::{NoAuthentication, Password};
        let offered = |no_authentication, password| Greeting { no_authentication, password, wire_bytes: 0 };
        let (neither, open, shown, both) =
            (offered(false, false), offered(true, false), offered(false, true), offered(true, true));
        for (auth, expected) in [
            (Auth::Off, [None, Some(NoAuthentication), Some(Password), Some(NoAuthentication)]),
            (Auth::Optional, [None, Some(NoAuthentication), Some(Password), Some(Password)]),
            (Auth::Required, [None, None, Some(Password), Some(Password)]),
        ] {
            assert_eq!([neither, open, shown, both].map(|offer| choose(auth, offer)), expected, "{auth:?}");
        }
    }

    #[test]
    fn every_obstacle_has_its_reply() {
        let dial = |kind: io::ErrorKind| Obstacle::Dial(DialError::Connect(kind.into()));
        for (obstacle, reply) in [
            (Obstacle::Denied(Reason::Guard, None), Some(Reply::NotAllowed)),
            (Obstacle::Dns(crate::resolve::Unresolved::Busy), Some(Reply::HostUnreachable)),
            (dial(io::ErrorKind::ConnectionRefused), Some(Reply::Refused)),
            (dial(io::ErrorKind::TimedOut), Some(Reply::TtlExpired)),
            (Obstacle::Dial(DialError::Timeout), Some(Reply::TtlExpired)),
            (dial(io::ErrorKind::NetworkUnreachable), Some(Reply::NetworkUnreachable)),
            (dial(io::ErrorKind::HostUnreachable), Some(Reply::HostUnreachable)),
            (dial(io::ErrorKind::AddrNotAvailable), Some(Reply::GeneralFailure)),
            (Obstacle::Cut, None),
        ] {
            assert_eq!(reply_to(&obstacle), reply, "{obstacle:?}");
        }
    }
}
