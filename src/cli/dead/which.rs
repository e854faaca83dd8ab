//! Which dead letters a command is about, from its arguments.

use std::io::{self, BufRead as _, IsTerminal as _};

use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    cli::{exit::CliError, terminal::tell_part},
    operations::{Selection, selection::Label},
    submission::{
        names::{RuntimeRef, SubmissionId, Tenant},
        result::FailureCode,
        units::Micros,
    },
};

/// Conditions, all of which must hold.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Which letters")]
pub(super) struct Filters {
    /// Of this tenant.
    #[arg(long)]
    tenant: Option<Tenant>,
    /// Of this submission.
    #[arg(long)]
    id: Option<SubmissionId>,
    /// That name this runtime: `python`, whatever the version, or `python@3.11`.
    #[arg(long)]
    runtime: Option<RuntimeRef>,
    /// Dead for this reason. May be repeated: any of them.
    #[arg(long, value_enum, value_name = "CODE")]
    reason: Vec<FailureCode>,
    /// With this label, of any value or of this one. May be repeated: all of them.
    #[arg(long, value_name = "KEY[=VALUE]")]
    label: Vec<Label>,
    /// Dead since then: `2h`, `3d`, or an instant like `2026-01-02T03:04:05Z`.
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<OffsetDateTime>,
    /// At most so many, the oldest.
    #[arg(long, value_name = "N")]
    pub(super) limit: Option<usize>,
}

/// Letters by their sequences, by conditions, or all.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Which {
    /// The letters, by their sequences.
    #[arg(value_name = "SEQUENCE", conflicts_with_all = ["tenant", "id", "runtime", "reason", "label", "since", "limit", "all"])]
    sequences: Vec<u64>,
    #[command(flatten)]
    filters: Filters,
    /// Every letter there is, where no condition is given.
    #[arg(long)]
    all: bool,
    /// Do not ask, however many there are.
    #[arg(long)]
    yes: bool,
}

impl Filters {
    pub(super) fn selection(&self) -> Selection {
        Selection {
            sequences: Vec::new(),
            tenant: self.tenant.clone(),
            id: self.id.clone(),
            runtime: self.runtime.clone(),
            reasons: self.reason.clone(),
            labels: self.label.clone(),
            since: self.since,
        }
    }
}

impl Which {
    /// Whether there is anything at all.
    pub(super) fn is_empty(&self) -> bool {
        self.sequences.is_empty() && self.filters.selection().is_all() && !self.all
    }

    pub(super) const fn limit(&self) -> Option<usize> {
        self.filters.limit
    }

    /// The letters that are meant. None and no condition is not all of them: that must be said.
    pub(super) fn selection(&self) -> Result<Selection, CliError> {
        if self.is_empty() {
            return Err(CliError::Usage(
                "which dead letters? Name their sequences, or conditions such as --tenant or --reason, or --all".to_owned(),
            ));
        }
        let mut selection = self.filters.selection();
        selection.sequences.clone_from(&self.sequences);
        selection.sequences.sort_unstable();
        selection.sequences.dedup();
        Ok(selection)
    }

    /// Whether to go on: asked where it is more than one letter that was not named, and nobody said yes before.
    pub(super) fn confirm(&self, what: &str, count: usize) -> Result<bool, CliError> {
        if self.yes || count <= 1 || !self.sequences.is_empty() {
            return Ok(true);
        }
        if !io::stdin().is_terminal() {
            return Err(CliError::Usage(format!(
                "{what} {count} dead letters? Say so with --yes"
            )));
        }
        tell_part(format!("{what} {count} dead letters? [y/N] "));
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer)?;
        Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
    }
}

/// An instant, or a time ago.
fn since(text: &str) -> Result<OffsetDateTime, String> {
    if let Ok(instant) = OffsetDateTime::parse(text, &Rfc3339) {
        return Ok(instant);
    }
    let expected =
        || format!("{text:?} is neither a time ago (2h, 3d) nor an instant (2026-01-02T03:04:05Z)");
    let days = text.strip_suffix('d').map(str::parse::<u32>);
    let ago = if let Some(Ok(days)) = days {
        Duration::days(days.into())
    } else {
        let Micros(ago) = text.parse().map_err(|_| expected())?;
        Duration::microseconds(i64::try_from(ago).map_err(|_| expected())?)
    };
    let since = OffsetDateTime::now_utc().checked_sub(ago);
    since.ok_or_else(|| format!("{text:?} is before all time"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_an_instant_or_so_long_ago() {
        let instant = since("2026-01-02T03:04:05Z").expect("an instant");
        assert_eq!(instant.unix_timestamp(), 1_767_323_045);
        for (text, seconds) in [("2h", 7_200), ("3d", 259_200), ("1.5s", 1)] {
            let since = since(text).expect(text);
            let ago = OffsetDateTime::now_utc() - since;
            assert_eq!(ago.whole_seconds(), seconds, "{text}");
        }
        for bad in ["", "yesterday", "2026-01-02", "5 parsecs", "99999999999d"] {
            assert!(since(bad).is_err(), "{bad}");
        }
    }
}
