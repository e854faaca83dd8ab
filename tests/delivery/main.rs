//! The delivery promise: a submission whose publish was acknowledged ends in exactly one visible result for each generation, or in the
//! dead letters with its reason, whatever single component dies at whatever moment. `docs/delivery.md` has the table of these tests.
//!
//! Each test stops a real worker exactly at one point of a submission's way (`src/fail_point.rs`) and lets another one go on.
//! [`site::Site::end`] then holds everything that is left against the promise.

#[path = "../container_bed/mod.rs"]
mod container_bed;
#[path = "../fleet/mod.rs"]
mod fleet;
#[path = "../site/mod.rs"]
mod site;

mod crash;
mod death;
mod lease;
mod released;
mod retry;
mod settle;
