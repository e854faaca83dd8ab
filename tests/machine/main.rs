//! Faults of a worker's machine: its Docker Engine, its disks, its containers, its clock. Each ends in the delivery promise
//! (`docs/delivery.md`), and an outage is counted against no submission, however long it is.
//!
//! What harms an Engine is done to one of the test's own ([`engine::Engine`]).

#[path = "../container_bed/mod.rs"]
mod container_bed;
#[path = "../fleet/mod.rs"]
mod fleet;
#[path = "../site/mod.rs"]
mod site;

mod clock;
mod containers;
mod disk;
mod docker;
mod engine;
mod images;
mod installed;

use std::time::Duration;

use envicutor::submission::result::{Outcome, Verdict};
use site::{LONG, Site};

/// More than the first probes after an outage wait.
const OUTAGE: Duration = Duration::from_secs(4);

/// Waits until `id` has begun to run `attempt` times.
async fn runs(site: &Site, id: &str, attempt: usize) {
    fleet::eventually(&format!("{id} runs"), LONG, || async {
        site.seen.events(id, "stage_started").len() >= attempt
    })
    .await;
}

/// Every one of them comes to its own result, and no attempt of theirs was counted.
async fn end_well_and_uncounted(site: &Site, ids: &[&str]) {
    for id in ids {
        let result = site.result(id).await;
        assert_eq!(result.outcome, Outcome::Finished, "{result:#?}");
        assert_eq!(result.verdict, Some(Verdict::Ok), "{result:#?}");
        let noted = site.attempts(id).await.unwrap_or_default();
        assert!(noted.attempts.is_empty(), "{noted:#?}");
    }
    assert!(site.letters().await.is_empty());
}
