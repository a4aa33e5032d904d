//! Captured traffic: the client knows of no gateway, its packets were on the way to somebody else. That original
//! destination is kept; a name is looked for in what the client sends, and there is nobody to tell of a success.
//!
//! A connection that nobody captured was made to the door itself; one that the gateway itself has dialled was captured by
//! mistake. To follow either would lead here again: both are refused. A load balancer that asks whether the door is there
//! is let go without a word.

use std::net::SocketAddr;
use std::rc::Rc;

use sluice_bridge::{Capture, Notice, Phase};
use sluice_engine::{Engine, Stream};
use sluice_policy::{GuardClass, Reason};
use sluice_telemetry::Family;
use sluice_telemetry::access_log::Field;

use crate::connection::{Connection, Downstream, unmapped};
use crate::http1::{self, Client};
use crate::inside;
use crate::limits::OWN_DIAL_SETTLES;
use crate::linger::linger;
use crate::reach::{Obstacle, reach};
use crate::record::Record;
use crate::refusal::{note_obstacle, refuse_tunnel};
use crate::route::{Route, Wanted};
use crate::unnamed;

/// Serves a captured connection to its end.
pub(crate) async fn serve<E: Engine>(client: Downstream<E>) {
    // Boxed: while requests are served nothing of what came before is kept.
    if let Some(client) = Box::pin(captured(client)).await {
        http1::serve(client).await;
    }
}

async fn captured<E: Engine>(client: Downstream<E>) -> Option<Client<E>> {
    let Downstream { connection, stream, .. } = &client;
    let Some(original) = original_destination(connection, stream) else {
        if connection.speaks_for_its_peer() {
            // A health check: closed as it was opened, and whatever it says is discarded.
            connection.phase.set(Phase::Lingering);
            let worker = Rc::clone(&connection.worker);
            linger(&worker, client.stream).await;
        } else {
            refuse_direct(connection, stream);
        }
        return None;
    };
    connection.local.set(original);
    let mut record = Record::tunnel(connection, "tcp");
    let asker = Rc::clone(&connection.asker.borrow());
    let route = connection.worker.decide(&asker, Wanted::address(original));
    let never = route.is_denied() && unnamed::is_never_dialled(&connection.worker, &route);
    if !never && unnamed::may_tell_a_name(connection, &route) {
        return unnamed::serve(client, record, route).await;
    }
    record.decided(&route);
    if never {
        record.denied(Reason::Guard);
    }
    if route.is_denied() {
        refuse_tunnel(record, stream);
        return None;
    }
    forward(client, record, route).await
}

/// Reaches the destination without a word to the client.
async fn forward<E: Engine>(
    downstream: Downstream<E>,
    mut record: Record<E>,
    route: Rc<Route>,
) -> Option<Client<E>> {
    downstream.connection.begin(&route);
    match reach(&downstream.connection, &route).await {
        Ok(reached) => inside::serve(downstream, record, route, reached).await,
        Err(obstacle) => {
            note_obstacle(&mut record, &obstacle);
            downstream.stream.reset();
            None
        }
    }
}

/// Where the client's packets were on the way to, or where a trusted PROXY header says that they were; `None` where that
/// was the door itself, or another listener of ours.
fn original_destination<E: Engine>(connection: &Connection<E>, stream: &E::Stream) -> Option<SocketAddr> {
    let own = unmapped(stream.local_address());
    let captured = || match connection.door.capture? {
        // Without an entry of netfilter nothing was redirected; with one that names this socket, neither.
        Capture::Redirect => stream.original_destination().ok().map(unmapped).filter(|found| *found != own),
        Capture::Tproxy => Some(own),
    };
    let original = connection.announced.get().map(unmapped).or_else(captured)?;
    let guarded = connection.worker.snapshot().policy.guard(original, None);
    let ours = guarded.is_err_and(|refused| refused.class == GuardClass::OwnListener);
    (!ours).then_some(original)
}

/// Refuses a connection that was made to the door itself, in allow-any as well: a loop, or somebody who takes the door
/// for a proxy.
fn refuse_direct<E: Engine>(connection: &Rc<Connection<E>>, stream: &E::Stream) {
    let worker = &connection.worker;
    worker.metrics.count(Family::GuardRefusals, &[GuardClass::OwnListener.as_str()], 1);
    if worker.may_tell_of_rest(&worker.uncaptured_told) {
        worker.notify(Notice::NotCaptured { door: connection.door.bind, peer: connection.peer.get() });
    }
    let mut record = Record::tunnel(connection, "tcp");
    record.denied(Reason::Guard);
    record.entry.set_static(Field::ConnectionTerminationDetails, "not_captured");
    refuse_tunnel(record, stream);
}

/// Refuses a captured connection that the process itself has dialled: the capture rules take the gateway's own traffic, and
/// to follow it would lead here again, without an end.
pub(crate) async fn refuse_loop<E: Engine>(connection: &Connection<E>) -> Result<(), Obstacle> {
    let worker = &connection.worker;
    let (peer, original) = (connection.peer.get(), connection.local.get());
    // Who dials notes it when the connection stands, and sends after that: only where nothing was waited for may we be
    // the earlier one. A loop that slips through all the same is met at its next turn.
    if !connection.has_spoken() && worker.dials_from(peer.ip()) {
        worker.engine.sleep_until(worker.engine.now() + OWN_DIAL_SETTLES).await;
    }
    if !worker.is_own_dial(peer, original) {
        return Ok(());
    }
    connection.looped.set(true);
    worker.metrics.count(Family::GuardRefusals, &[GuardClass::OwnListener.as_str()], 1);
    if worker.may_tell_of_rest(&worker.uncaptured_told) {
        worker.notify(Notice::CapturesItself { door: connection.door.bind, original });
    }
    let remedy =
        "the gateway's own connection was captured: let the capture rules pass what the gateway sends";
    Err(Obstacle::Denied(Reason::Guard, Some(remedy.to_owned())))
}
