//! Chooses the engine and runs workers on it. The one place that names both engines.

use sluice_config::EngineChoice;
use sluice_engine::Kind;
use sluice_engine_uring::UringEngine;
use sluice_launch::{Chosen, Unavailable, Worker, run_on, run_on_epoll};

/// Whether io_uring can carry traffic here.
///
/// # Errors
/// Why not, and what to do.
pub(crate) fn probe() -> Result<(), Unavailable> {
    match sluice_engine_uring::probe() {
        Ok(_) => Ok(()),
        Err(why) => Err(Unavailable { reason: why.reason, remedy: why.remedy }),
    }
}

/// The engine for a configured choice.
///
/// # Errors
/// Where `uring` is demanded and cannot run.
pub(crate) fn choose(
    choice: EngineChoice,
    probe: impl FnOnce() -> Result<(), Unavailable>,
) -> Result<Chosen, Unavailable> {
    let chosen = |kind, reason, fallback| Ok(Chosen { kind, reason, fallback });
    match choice {
        EngineChoice::Epoll => chosen(Kind::Epoll, "configured", None),
        EngineChoice::Uring => probe().and_then(|()| chosen(Kind::Uring, "configured", None)),
        EngineChoice::Auto => match probe() {
            Ok(()) => chosen(Kind::Uring, "probe_passed", None),
            Err(unavailable) => chosen(Kind::Epoll, "uring_unavailable", Some(unavailable)),
        },
    }
}

/// Runs a worker on the calling thread until it is told to stop.
///
/// # Errors
/// In words, when the engine cannot be made.
pub(crate) fn run(worker: Worker, kind: Kind) -> Result<(), String> {
    if kind != Kind::Uring {
        return run_on_epoll(worker);
    }
    let mut settings = sluice_engine_uring::Config { busy_poll: worker.busy_poll, ..Default::default() };
    settings.pipes_max = settings.pipes_max.min(worker.pipes_max);
    let engine = UringEngine::new(settings).map_err(|error| error.to_string())?;
    engine.block_on(run_on(engine.clone(), worker));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused() -> Result<(), Unavailable> {
        Err(Unavailable { reason: "seccomp".into(), remedy: "allow it".into() })
    }

    #[test]
    fn auto_falls_back_and_says_why() {
        let chosen = choose(EngineChoice::Auto, refused).expect("falls back");
        assert_eq!((chosen.kind, chosen.reason), (Kind::Epoll, "uring_unavailable"));
        assert_eq!(chosen.fallback, refused().err());
        assert_eq!(choose(EngineChoice::Auto, || Ok(())).map(|chosen| chosen.kind), Ok(Kind::Uring));
    }

    #[test]
    fn a_demanded_engine_is_not_replaced() {
        assert!(choose(EngineChoice::Uring, refused).is_err());
        let chosen = choose(EngineChoice::Epoll, || panic!("not probed")).expect("needs nothing");
        assert_eq!(chosen.kind, Kind::Epoll);
    }
}
