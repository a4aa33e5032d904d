//! Body for the relay: bytes become a trace of what may happen to a tunnel, and the machine keeps its promises. The model
//! that reads and checks the trace is the relay's own. Knows nothing of how inputs are made.

pub(crate) fn body(data: &[u8]) {
    sluice_relay::model::run(data);
}

/// Traces worth starting from. The first six bytes are settings and start (see the model), then come pairs of a step
/// and an amount; a step of 0x80 or more concerns upstream's direction.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    // Timeouts, a credit of two buffers, splice after one full buffer, back after one small splice.
    const SETTINGS: [u8; 6] = [0x6f, 1, 0, 0, 0, 0];
    const BRING: u8 = 0;
    const TAKE: u8 = 4;
    const END: u8 = 9;
    const NO_PIPE: u8 = 10;
    const FAIL: u8 = 11;
    const TIMER: u8 = 12;
    const ABORT: u8 = 13;
    const UPSTREAM: u8 = 0x80;
    let traces: [&[(u8, u8)]; 6] = [
        &[(BRING, 9), (TAKE, 4), (TAKE, 9), (BRING | UPSTREAM, 50), (END, 255), (TAKE | UPSTREAM, 255)],
        &[
            (BRING, 255),
            (TAKE, 255),
            (BRING, 250),
            (TAKE, 100),
            (TAKE, 255),
            (BRING, 9),
            (TAKE, 255),
            (BRING, 3),
        ],
        &[
            (BRING, 255),
            (BRING | UPSTREAM, 20),
            (TAKE, 255),
            (NO_PIPE, 0),
            (BRING, 200),
            (BRING, 200),
            (TAKE, 1),
        ],
        &[(BRING, 80), (BRING, 80), (BRING | UPSTREAM, 7), (FAIL, 255), (TAKE, 60), (TAKE, 255), (TAKE, 255)],
        &[
            (END | UPSTREAM, 255),
            (BRING, 3),
            (TIMER, 255),
            (TAKE, 3),
            (TIMER, 255),
            (TIMER, 255),
            (TIMER, 255),
        ],
        &[(BRING, 255), (TAKE, 255), (BRING, 255), (ABORT, 255), (TAKE, 255), (END | UPSTREAM, 255)],
    ];
    let flat =
        |trace: &&[(u8, u8)]| trace.iter().flat_map(|&(step, amount)| [step, amount]).collect::<Vec<_>>();
    traces.iter().map(|trace| [SETTINGS.to_vec(), flat(trace)].concat()).collect()
}
