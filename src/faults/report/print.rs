//! A report as people read it.

use std::fmt;

use super::{Outcomes, Planned, Publishes, Report, Restarts, Told, Work};
use crate::{faults::invariants, submission::units::Micros};

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Planned {
            seed,
            submissions,
            at_a_time,
            workers,
            slots,
            servers,
            ack_wait_us,
            max_attempts,
            ..
        } = &self.plan;
        writeln!(
            f,
            "envicutor {}, seed {seed}: {submissions} submissions, {at_a_time} under way; {workers} workers of {slots} slots, {servers} NATS \
             servers; ack wait {ack_wait_us}, {max_attempts} attempts; isolation {}",
            self.version,
            join(
                self.isolation
                    .iter()
                    .map(|it| format!("{it:?}").to_lowercase())
            ),
        )?;
        let paces = self.plan.paces_us.iter();
        let paces = paces.map(|(kind, pace)| {
            let count = self.faults.get(kind).copied().unwrap_or_default();
            format!("{} {count} times (each {pace})", kind.as_str())
        });
        writeln!(f, "faults: {}", join(paces))?;
        let each_second = per_second(self.outcomes.results, self.under_faults_us);
        writeln!(
            f,
            "took {} under faults ({each_second:.1} results a second), then {} until the queues were empty; {} workers started, {} \
             containers made",
            self.under_faults_us, self.until_empty_us, self.workers_started, self.containers_made
        )?;
        let Publishes {
            invoked,
            acknowledged,
            refused,
            unknown,
        } = self.publishes;
        writeln!(
            f,
            "publishes {invoked}: {acknowledged} acknowledged, {refused} refused, {unknown} unknown"
        )?;
        writeln!(f, "{}", self.work)?;
        writeln!(f, "{}", self.outcomes)?;
        writeln!(f, "{}", self.restarts)?;
        self.invariants(f)
    }
}

impl Report {
    fn invariants(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for invariant in &invariants::ALL {
            let broken = self.violations.iter();
            let broken = broken.filter(|told| told.violation.invariant == invariant.name);
            match broken.count() {
                0 => writeln!(f, "  holds   {}: {}", invariant.name, invariant.promise)?,
                count => writeln!(
                    f,
                    "  BROKEN  {} ({count}): {}",
                    invariant.name, invariant.promise
                )?,
            }
        }
        for Told { violation, story } in &self.violations {
            let id = violation.id.as_deref().unwrap_or("-");
            writeln!(f, "{} {id}: {}", violation.invariant, violation.what)?;
            for line in story {
                writeln!(f, "    {line}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by_attempt = self.results_by_attempt.iter();
        let by_attempt = by_attempt.map(|(attempt, count)| format!("{count} of start {attempt}"));
        write!(
            f,
            "stored {}, delivered {} times: {} redeliveries; {} starts heard of; results: {}",
            self.stored,
            self.deliveries,
            self.redeliveries,
            self.starts,
            join(by_attempt)
        )
    }
}

impl fmt::Display for Outcomes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letters = self.letters.iter();
        let letters = letters.map(|(code, count)| format!("{count} {code}"));
        write!(
            f,
            "results {}: {} finished, {} failed; dead letters: {}; {} seen live, {} of them more than once",
            self.results,
            self.finished,
            self.failed,
            join(letters),
            self.seen_live,
            self.seen_twice
        )
    }
}

impl fmt::Display for Restarts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p99, most] = [self.p50_us, self.p99_us, self.most_us].map(Micros);
        write!(
            f,
            "from the kill of a worker to the next start, {} times: p50 {p50}, p99 {p99}, at most {most}",
            self.count
        )
    }
}

fn join(parts: impl Iterator<Item = String>) -> String {
    let parts: Vec<_> = parts.collect();
    if parts.is_empty() {
        "none".to_owned()
    } else {
        parts.join(", ")
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a count of submissions is far below what a f64 holds exactly"
)]
fn per_second(count: usize, time: Micros) -> f64 {
    count as f64 / time.duration().as_secs_f64().max(1e-6)
}
