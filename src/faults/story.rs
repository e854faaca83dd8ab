//! The story of one submission, to be read by people: what clients did and saw, what workers told and logged, and the faults
//! that struck meanwhile, in the order of their times.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write as _},
    path::Path,
};

use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};

use super::history::Entry;

/// How long before and after a submission's own lines faults are part of its story.
const AROUND: Duration = Duration::seconds(2);

/// The story of `id`, a line for each thing. `logs` holds a file for each worker.
pub(super) fn tell(id: &str, history: &[Entry], logs: &Path) -> Vec<String> {
    let own = history.iter().filter(|entry| entry.what.id() == Some(id));
    let mut lines: Vec<_> = own.map(line).chain(logged(id, logs)).collect();
    lines.sort_by_key(|(at, _)| *at);
    if let (Some(first), Some(last)) = (lines.first(), lines.last()) {
        let (from, to) = (first.0 - AROUND, last.0 + AROUND);
        let others = history
            .iter()
            .filter(|entry| entry.what.id().is_none() && (from..=to).contains(&entry.at));
        lines.extend(others.map(line));
        lines.sort_by_key(|(at, _)| *at);
    }
    lines.into_iter().map(|(_, line)| line).collect()
}

/// Writes the whole history to a file, a line for each thing.
pub(super) fn write(path: &Path, history: &[Entry]) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for entry in history {
        let id = entry.what.id().unwrap_or("-");
        writeln!(file, "{id} {}", line(entry).1)?;
    }
    file.flush()
}

fn line(entry: &Entry) -> (OffsetDateTime, String) {
    let at = entry.at.format(&Rfc3339).unwrap_or_default();
    (entry.at, format!("{at} {}", entry.what))
}

/// What workers logged of `id`.
fn logged(id: &str, logs: &Path) -> Vec<(OffsetDateTime, String)> {
    let mut lines = Vec::new();
    let files = fs::read_dir(logs).into_iter().flatten().flatten();
    for path in files.map(|entry| entry.path()) {
        let worker = path.file_stem().unwrap_or_default().to_string_lossy();
        let text = fs::read(&path).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        for line in text.lines().filter(|line| line.contains(id)) {
            let at = line.split_whitespace().next().unwrap_or_default();
            if let Ok(at) = OffsetDateTime::parse(at, &Rfc3339) {
                lines.push((at, format!("{line} [{worker}]")));
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::{
        history::{Operation, What},
        plan::Kind,
    };

    #[test]
    fn a_story_is_in_order_and_of_one_submission() {
        let start = time::macros::datetime!(2026-01-02 03:04:05 UTC);
        let entry = |seconds, what| Entry {
            at: start + Duration::seconds(seconds),
            what,
        };
        let gave_up = |id: &str| What::Client {
            id: id.to_owned(),
            operation: Operation::GaveUp,
        };
        let killed = |whom: &str| What::Fault {
            kind: Kind::WorkerKilled,
            whom: whom.to_owned(),
        };
        let history = [
            entry(-60, killed("long ago")),
            entry(0, gave_up("a")),
            entry(1, gave_up("b")),
            entry(3, killed("w1")),
        ];
        let logs = tempfile::tempdir().expect("a directory");
        let log = "2026-01-02T03:04:07.5Z  INFO submission{id=\"a\"}: settled\n\
                   2026-01-02T03:04:07.6Z  INFO submission{id=\"b\"}: settled\n";
        fs::write(logs.path().join("w1.log"), log).expect("written");
        let story = tell("a", &history, logs.path());
        assert_eq!(story.len(), 3, "{story:#?}");
        assert!(story[0].ends_with("client: waits no longer"), "{story:#?}");
        assert!(story[1].ends_with("settled [w1]"), "{story:#?}");
        assert!(story[2].contains("worker killed: w1"), "{story:#?}");
    }
}
