//! Unix signals as orders to the control task. It must not know what the orders do.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// What an operator can order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Read the configuration again (SIGHUP).
    Reload,
    /// Open log files anew (SIGUSR1).
    ReopenLogs,
    /// Drain; the second time end at once (SIGTERM, SIGINT).
    Terminate,
}

/// Passes the process's signals on as orders; for the control runtime.
///
/// # Errors
/// As sigaction(2).
pub(crate) fn listen(orders: mpsc::Sender<Order>) -> io::Result<()> {
    let kinds = [
        (SignalKind::hangup(), Order::Reload),
        (SignalKind::user_defined1(), Order::ReopenLogs),
        (SignalKind::terminate(), Order::Terminate),
        (SignalKind::interrupt(), Order::Terminate),
    ];
    for (kind, order) in kinds {
        let mut signal = signal(kind)?;
        let orders = orders.clone();
        tokio::spawn(async move {
            while signal.recv().await.is_some() {
                if orders.send(order).await.is_err() {
                    return;
                }
            }
        });
    }
    Ok(())
}
