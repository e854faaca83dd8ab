//! The attack suite: hostile programs, each a file of its own, run the whole way from publish to result, under each isolation.
//!
//! For each attack three things are held against what must be: what the attacker saw and how it ended ([`attack`]); that the
//! next submission in the same slot finds nothing of it ([`next`]); that machine and worker hold nothing of it ([`host`]).
//!
//! `ENVICUTOR_TEST_ATTACKS` names the attacks to run, separated by commas; else all. `ENVICUTOR_TEST_SLOWNESS` is how many times
//! slower than usual this machine is, for one that is emulated.

#[path = "../fleet/mod.rs"]
mod fleet;

mod attack;
mod bed;
mod host;
mod isolation;
mod next;
mod report;

mod calls;
mod compilers;
mod files;
mod kernel;
mod meetings;
mod memory;
mod output;
mod processes;

use attack::Attack;
use bed::Bed;
use isolation::Isolation;

/// Every attack by one submission.
fn attacks() -> Vec<Attack> {
    [
        processes::attacks(),
        memory::attacks(),
        output::attacks(),
        files::attacks(),
        kernel::attacks(),
        calls::attacks(),
        meetings::attacks(),
        compilers::attacks(),
    ]
    .into_iter()
    .flatten()
    .filter(Attack::is_wanted)
    .collect()
}

async fn every_attack_fails(isolation: Isolation) {
    let mut bed = Bed::start(isolation, 1).await;
    let mut wrong = Vec::new();
    for attack in attacks() {
        wrong.extend(bed.strike(&attack).await);
    }
    wrong.extend(bed.end().await);
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_attack_fails_in_a_container() {
    every_attack_fails(Isolation::Container).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_attack_fails_in_a_sandbox() {
    every_attack_fails(Isolation::Sandbox).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_submissions_at_a_time_do_not_meet_in_containers() {
    meetings::two_at_a_time(Isolation::Container).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_submissions_at_a_time_do_not_meet_in_sandboxes() {
    meetings::two_at_a_time(Isolation::Sandbox).await;
}
