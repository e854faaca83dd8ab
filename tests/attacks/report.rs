//! What an attack's program says, and what it should say: `what=result`, a line for each.

use std::collections::BTreeMap;

use crate::isolation::Isolation;

/// What must be reported: of each `what` its `result`, or several with `|` between them where kernels and Engines differ.
#[derive(Debug, Clone, Default)]
pub struct Expected(Vec<Sight>);

#[derive(Debug, Clone)]
struct Sight {
    what: String,
    result: String,
    /// Under this isolation alone.
    only: Option<Isolation>,
}

impl Expected {
    /// Adds what is seen; what was said of the same before no longer holds.
    pub fn add(&mut self, only: Option<Isolation>, what: &str, result: &str) {
        self.0.push(Sight {
            what: what.to_owned(),
            result: result.to_owned(),
            only,
        });
    }

    /// Whether anything is expected.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What `report` has wrong: everything that differs, is missing, or was not expected.
    pub fn differences(&self, isolation: Isolation, report: &str) -> Vec<String> {
        let expected = self.under(isolation);
        let mut wrong = Vec::new();
        let mut seen = BTreeMap::new();
        for line in report.lines() {
            let Some((what, result)) = line.split_once('=') else {
                wrong.push(format!("{line:?} is no line of a report"));
                continue;
            };
            seen.insert(what, result);
            match expected.get(what) {
                None => wrong.push(format!("{what} is {result:?}, expected nothing of it")),
                Some(wanted) if !wanted.split('|').any(|wanted| wanted == result) => {
                    wrong.push(format!("{what} is {result:?}, expected {wanted:?}"));
                }
                Some(_) => {}
            }
        }
        let missing = expected.keys().filter(|what| !seen.contains_key(*what));
        wrong.extend(missing.map(|what| format!("{what} is not reported")));
        wrong
    }

    fn under(&self, isolation: Isolation) -> BTreeMap<&str, &str> {
        let holds = |sight: &&Sight| sight.only.is_none_or(|only| only == isolation);
        let sights = self.0.iter().filter(holds);
        sights
            .map(|sight| (sight.what.as_str(), sight.result.as_str()))
            .collect()
    }
}
