//! Every subject, stream and bucket of a fleet, from its prefix. No other place spells one.

use crate::submission::{
    event::Happened,
    names::{Lane, SubmissionId, Tenant},
};

/// The prefix whose streams have plain names.
const PLAIN: &str = "envicutor";

/// The names of one fleet. Two fleets on one server differ in their prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    prefix: String,
}

/// A submission as a subject names it. The id is what stands there: any token, also one that breaks the rule for ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Whose.
    pub tenant: Tenant,
    /// Where it is queued.
    pub lane: Lane,
    /// The id's token, as published.
    pub raw_id: String,
}

impl Address {
    /// The id, where it follows the rule.
    pub fn id(&self) -> Option<SubmissionId> {
        self.raw_id.parse().ok()
    }
}

impl Names {
    /// The names under `prefix`, `[a-z0-9_-]+` as the configuration checks.
    pub fn new(prefix: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
        }
    }

    /// The first token of every subject.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// What stands before the name of a stream or bucket: nothing, or the prefix in upper case and `_`.
    pub fn stream_prefix(&self) -> String {
        if self.prefix == PLAIN {
            String::new()
        } else {
            format!("{}_", self.prefix.to_ascii_uppercase())
        }
    }

    fn subject(&self, kind: &str, rest: &[&str]) -> String {
        let mut subject = format!("{}.{kind}", self.prefix);
        for token in rest {
            subject.push('.');
            subject.push_str(token);
        }
        subject
    }

    /// Where a submission is published.
    pub fn submission(&self, tenant: &Tenant, lane: Lane, raw_id: &str) -> String {
        self.subject("submissions", &[tenant.as_str(), lane.as_str(), raw_id])
    }

    /// A submission whatever its lane.
    pub fn submission_in_any_lane(&self, tenant: &Tenant, raw_id: &str) -> String {
        self.subject("submissions", &[tenant.as_str(), "*", raw_id])
    }

    /// Everything that is queued of a tenant.
    pub fn queued(&self, tenant: &Tenant) -> String {
        self.subject("submissions", &[tenant.as_str(), ">"])
    }

    /// Where the server tells that a submission was stored.
    pub fn wake(&self, tenant: &Tenant, lane: Lane, raw_id: &str) -> String {
        self.subject("wake", &[tenant.as_str(), lane.as_str(), raw_id])
    }

    /// Every wake.
    pub fn wakes(&self) -> String {
        self.subject("wake", &[">"])
    }

    /// An event.
    pub fn event(&self, tenant: &Tenant, id: &SubmissionId, kind: &str) -> String {
        self.subject("events", &[tenant.as_str(), id.as_str(), kind])
    }

    /// Every event of a submission.
    pub fn events(&self, tenant: &Tenant, id: &SubmissionId) -> String {
        self.subject("events", &[tenant.as_str(), id.as_str(), "*"])
    }

    /// Where a worker publishes a result.
    pub fn settle(&self, tenant: &Tenant, raw_id: &str) -> String {
        self.subject("settle", &[tenant.as_str(), raw_id])
    }

    /// Where a result stands.
    pub fn result(&self, tenant: &Tenant, raw_id: &str) -> String {
        self.subject("results", &[tenant.as_str(), raw_id])
    }

    /// Where a dead letter stands.
    pub fn dead_letter(&self, tenant: &Tenant, id: &SubmissionId) -> String {
        self.subject("dead", &[tenant.as_str(), id.as_str()])
    }

    /// The dead letters of a tenant and an id, or of all.
    pub fn dead_letters(&self, tenant: Option<&Tenant>, id: Option<&SubmissionId>) -> String {
        let tenant = tenant.map_or("*", Tenant::as_str);
        self.subject("dead", &[tenant, id.map_or("*", SubmissionId::as_str)])
    }

    /// Where a submission that is over is kept.
    pub fn history(&self, tenant: &Tenant, lane: Lane, raw_id: &str) -> String {
        self.subject("history", &[tenant.as_str(), lane.as_str(), raw_id])
    }

    /// The same whatever its lane.
    pub fn history_in_any_lane(&self, tenant: &Tenant, raw_id: &str) -> String {
        self.subject("history", &[tenant.as_str(), "*", raw_id])
    }

    /// Where to ask for a cancellation.
    pub fn cancel(&self, tenant: &Tenant, id: &SubmissionId) -> String {
        self.subject("cancel", &[tenant.as_str(), id.as_str()])
    }

    /// Every request for a cancellation.
    pub fn cancels(&self) -> String {
        self.subject("cancel", &["*", "*"])
    }

    /// Where a worker is told something.
    pub fn worker_order(&self, worker: &str, order: &str) -> String {
        self.subject("worker", &[worker, order])
    }

    /// Everything that a worker is told.
    pub fn worker_orders(&self, worker: &str) -> String {
        self.subject("worker", &[worker, "*"])
    }

    /// Where to ask for the catalogue.
    pub fn info_runtimes(&self) -> String {
        self.subject("info", &["runtimes"])
    }

    /// Where to ask for the ceilings.
    pub fn info_limits(&self) -> String {
        self.subject("info", &["limits"])
    }

    /// Where a runtime to install is published. The name is any token.
    pub fn installation(&self, name: &str) -> String {
        self.subject("installations", &[name])
    }

    /// The name in the subject of an installation.
    pub fn installation_name<'a>(&self, subject: &'a str) -> Option<&'a str> {
        let rest = subject.strip_prefix(&self.prefix)?;
        let name = rest.strip_prefix(".installations.")?;
        (!name.is_empty() && !name.contains('.')).then_some(name)
    }

    /// What is told while a runtime is installed. No tenant's name begins so.
    pub fn installation_event(&self, name: &str, kind: &str) -> String {
        self.subject("events", &["_installations", name, kind])
    }

    /// Every change of a bucket.
    pub fn changes(&self, bucket: &str) -> String {
        format!("$KV.{}.>", self.bucket(bucket))
    }

    /// The stream of runtimes to install.
    pub fn installations_stream(&self) -> String {
        format!("{}INSTALLATIONS", self.stream_prefix())
    }

    /// A tenant's queue.
    pub fn submissions_stream(&self, tenant: &Tenant) -> String {
        format!("{}SUBMISSIONS_{tenant}", self.stream_prefix())
    }

    /// The stream of events.
    pub fn events_stream(&self) -> String {
        format!("{}EVENTS", self.stream_prefix())
    }

    /// The stream of results.
    pub fn results_stream(&self) -> String {
        format!("{}RESULTS", self.stream_prefix())
    }

    /// The stream of dead letters.
    pub fn dead_letters_stream(&self) -> String {
        format!("{}DEAD_LETTERS", self.stream_prefix())
    }

    /// The stream of the submissions that are over.
    pub fn history_stream(&self) -> String {
        format!("{}HISTORY", self.stream_prefix())
    }

    /// The bucket `name`: `attempts`, `replays`, `workers`, `runtimes`, `tenants` or `installations`.
    pub fn bucket(&self, name: &str) -> String {
        format!("{}{name}", self.stream_prefix())
    }

    /// The bucket of a tenant's blobs.
    pub fn blobs_bucket(&self, tenant: &Tenant) -> String {
        self.bucket(&format!("blobs-{tenant}"))
    }

    /// The bucket of the images of runtimes.
    pub fn images_bucket(&self) -> String {
        self.bucket("images")
    }

    /// The submission that a subject names, be it the one of its delivery, of its wake or of its history. `None` for a subject of another
    /// kind or prefix, or a tenant or lane that cannot be.
    pub fn address(&self, subject: &str) -> Option<Address> {
        let mut tokens = subject
            .strip_prefix(&self.prefix)?
            .strip_prefix('.')?
            .split('.');
        if !matches!(tokens.next()?, "submissions" | "wake" | "history") {
            return None;
        }
        let (tenant, lane, raw_id) = (tokens.next()?, tokens.next()?, tokens.next()?);
        if tokens.next().is_some() || raw_id.is_empty() {
            return None;
        }
        Some(Address {
            tenant: tenant.parse().ok()?,
            lane: lane.parse().ok()?,
            raw_id: raw_id.to_owned(),
        })
    }

    /// The tenant and id that the subject of a cancellation, settlement, result or dead letter names. The id is any token.
    pub fn tenant_and_id(&self, subject: &str) -> Option<(Tenant, String)> {
        let mut tokens = subject
            .strip_prefix(&self.prefix)?
            .strip_prefix('.')?
            .split('.');
        if !matches!(tokens.next()?, "cancel" | "settle" | "results" | "dead") {
            return None;
        }
        let (tenant, raw_id) = (tokens.next()?.parse().ok()?, tokens.next()?);
        (tokens.next().is_none() && !raw_id.is_empty()).then(|| (tenant, raw_id.to_owned()))
    }
}

/// The last token of an event's subject.
pub const fn event_kind(happened: &Happened) -> &'static str {
    match happened {
        Happened::Started => "started",
        Happened::StageStarted { .. } => "stage_started",
        Happened::Output { .. } => "output",
        Happened::StageEnded { .. } => "stage_ended",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivered_subject_gives_tenant_lane_and_the_id_as_it_stands() {
        let names = Names::new("envicutor");
        for id in ["a1", "ä", "a/b", "$x", &"z".repeat(300), "{\"a\"}"] {
            let subject = names.submission(&Tenant::default_tenant(), Lane::Batch, id);
            let address = names.address(&subject).expect("a submission");
            assert_eq!(address.raw_id, id);
            assert_eq!(
                (address.tenant.as_str(), address.lane),
                ("default", Lane::Batch)
            );
        }
        assert_eq!(
            names
                .address("envicutor.wake.t.interactive.a")
                .and_then(|a| a.id())
                .expect("valid")
                .as_str(),
            "a"
        );
        for other in [
            "envicutor.results.default.a1",
            "envicutor.submissions.default.batch",
            "envicutor.submissions.default.batch.a.b",
            "envicutor.submissions.default.other.a",
            "envicutor.submissions.DEFAULT.batch.a",
            "envicutor2.submissions.default.batch.a",
            "",
        ] {
            assert_eq!(names.address(other), None, "{other}");
        }
    }

    #[test]
    fn another_prefix_stands_before_the_names_of_streams() {
        let tenant = Tenant::default_tenant();
        assert_eq!(
            Names::new("envicutor").submissions_stream(&tenant),
            "SUBMISSIONS_default"
        );
        assert_eq!(
            Names::new("lab-2").submissions_stream(&tenant),
            "LAB-2_SUBMISSIONS_default"
        );
        assert_eq!(Names::new("lab-2").bucket("workers"), "LAB-2_workers");
        assert_eq!(
            Names::new("lab-2").result(&tenant, "a"),
            "lab-2.results.default.a"
        );
    }
}
