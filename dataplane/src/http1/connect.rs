//! CONNECT: a tunnel to a named host and port. The destination is dialled before the client hears 200; what it sends
//! ahead of that is held. It must not know what may travel inside: that is [`crate::inside`] and [`crate::unnamed`].

use sluice_engine::{Engine, Stream};
use sluice_policy::{HostBuf, Reason, parse_host};
use sluice_proto::http1::Target;
use sluice_telemetry::ResponseFlags;

use super::identity::identify;
use super::request::{Request, Unacceptable};
use super::{After, Client, Mode};
use crate::reach::reach;
use crate::record::Record;
use crate::route::Wanted;
use crate::{inside, unnamed};

const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

/// Serves a CONNECT. `None` when the connection became a tunnel or is gone.
pub(super) async fn serve<E: Engine>(
    mut client: Client<E>,
    request: &Request<'_>,
    mut record: Record<E>,
) -> Option<(Client<E>, After)> {
    record.become_connect();
    let Ok(asker) = identify(&client, request.head) else {
        let after = request.unauthenticated(&client, &mut record).await;
        return Some((client, after));
    };
    let wanted = match wanted(&client, request) {
        Ok(wanted) => wanted,
        Err(unacceptable) => {
            let after = request.refuse(&client, &mut record, &unacceptable).await;
            return Some((client, after));
        }
    };
    let route = client.route(&asker, wanted);
    let never = route.is_denied() && unnamed::is_never_dialled(client.worker(), &route);
    if !never && unnamed::may_tell_a_name(&client.connection, &route) {
        establish(&client, &mut record).await.ok()?;
        let requests = unnamed::serve(client.into_downstream(), record, route).await?;
        return Some((requests, After::KeepAlive));
    }
    record.decided(&route);
    if route.is_denied() {
        let reason = if never { Reason::Guard } else { route.reason() };
        let after = request.deny(&client, &mut record, &route, reason, None).await;
        return Some((client, after));
    }
    client.connection.begin(&route);
    let reached = match reach(&client.connection, &route).await {
        Ok(reached) => reached,
        Err(obstacle) => {
            let after = request.obstructed(&client, &mut record, &route, obstacle).await;
            return Some((client, after));
        }
    };
    establish(&client, &mut record).await.ok()?;
    let requests = inside::serve(client.into_downstream(), record, route, reached).await?;
    Some((requests, After::KeepAlive))
}

fn wanted<E: Engine>(client: &Client<E>, request: &Request<'_>) -> Result<Wanted, Unacceptable> {
    let malformed = |status, text| Unacceptable { status, reason: Reason::Malformed, text };
    let (Mode::Proxy, Target::Authority(authority)) = (&client.mode, request.head.target) else {
        return Err(malformed(405, "CONNECT where no proxy is spoken to"));
    };
    let mut scratch = HostBuf::new();
    let host = parse_host(authority.host, &mut scratch)
        .map_err(|_| malformed(400, "the host is neither a name nor an address"))?;
    let port = authority.port.ok_or_else(|| malformed(400, "CONNECT without a port"))?;
    Ok(Wanted::named(host, port))
}

/// Answers 200: from here on the connection is a tunnel.
async fn establish<E: Engine>(client: &Client<E>, record: &mut Record<E>) -> std::io::Result<()> {
    let mut answer = client.worker().engine.buffer();
    let fits = answer.append(ESTABLISHED);
    debug_assert!(fits, "an empty buffer takes a line");
    record.code(200);
    record.become_tunnel();
    client.deadline.set(client.after_ms(client.worker().snapshot().limits.linger_timeout_ms));
    let sent = client.deadline.run(client.stream.send(answer)).await;
    let sent = sent.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
    sent.inspect_err(|_| {
        record.flag(ResponseFlags::DC);
        client.stream.reset();
    })
}
