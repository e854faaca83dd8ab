//! What is made of an attempt that came to its end: its result, and what its build leaves for later ones.

use std::sync::Mutex;

use futures_util::future::BoxFuture;

use super::{
    compile_cache::Key,
    execute::{Built, Came},
    life::{Life, Ran},
};
use crate::submission::{
    names::RuntimeRef,
    plan::Plan,
    result::{FieldError, Outcome, SubmissionResult},
};

impl Life {
    /// What came of the stages as a result.
    pub(super) fn result(&self, plan: &Plan, ran: Ran) -> SubmissionResult {
        let Ran { came, start, image } = ran;
        let started = self.started();
        let (attempt, started) = started.unwrap_or_else(|| (1, self.start()));
        let mut result = self.facts.result(Outcome::Finished, attempt, started.at);
        result.image = Some(image);
        result.isolation = Some(self.fleet.containers.isolation());
        result.start = start;
        let (name, version) = plan.runtime.clone();
        result.runtime = Some(RuntimeRef {
            name,
            version: Some(version),
        });
        result.labels.clone_from(&plan.labels);
        match came {
            Came::Executed(executed) => {
                result.verdict = Some(executed.verdict);
                result.compile = executed.compile;
                result.runs = executed.runs;
                result.collected = executed.collected;
                result.collect_errors = executed.collect_errors;
            }
            Came::Refused(message) => {
                self.journal.note("rejected: its archive is refused");
                result.outcome = Outcome::Rejected;
                let path = "archive".to_owned();
                result.errors = vec![FieldError { path, message }];
            }
        }
        result
    }

    /// A build that later ones may stand on is kept after the result is told: nobody waits for that.
    pub(super) fn note_build(&self, came: &mut Came, key: Option<Key>) {
        let built = match came {
            Came::Executed(executed) => executed.built.take(),
            Came::Refused(_) => None,
        };
        if let (Some(built), Some(key)) = (built, key) {
            // Once: whoever runs a second time has no first build to keep.
            let _ = self.built.set(Mutex::new(Some((key, built))));
        }
    }

    /// Keeps what the compile stage came to, if that is to be kept.
    pub(super) async fn keep_build(&self) {
        let built = self.built.get().and_then(|built| built.lock().ok()?.take());
        if let Some((key, Built { run, packed })) = built {
            let blobs = self.fleet.store.of(&self.facts.address.tenant);
            let kept = self.fleet.compile_cache.keep(&blobs, &key, run, packed);
            let kept: BoxFuture<'_, ()> = Box::pin(kept);
            tokio::select! {
                () = kept => {}
                () = self.fleet.hand_back.cancelled() => {}
            }
        }
    }
}
