//! Many silent tunnels.

mod rig;

#[test]
fn two_thousand_idle_tunnels_hold_no_buffers() {
    sluice_engine::conformance::process::idle_tunnels_hold_no_buffers::<rig::Uring>(2_000);
}
