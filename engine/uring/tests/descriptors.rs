//! No descriptor left.

mod rig;

#[test]
fn exhausted_descriptors_are_told_and_survived() {
    sluice_engine::conformance::process::exhausted_descriptors_are_told_and_survived::<rig::Uring>();
}
