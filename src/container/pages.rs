//! In pages of which size the host gives programs memory of their own. Linux since 6.8 can give 64 KiB at once where a program
//! uses that much, which spares 15 of 16 page faults; the kernel's own default is off. It is a setting of the whole
//! machine, so that it is told and left to whoever runs it.

use std::fs;

use super::host::{Finding, State};

const NAME: &str = "memory pages";

/// Turns it on, now and with each start of the machine.
const TURN_ON: &str = "echo 'w /sys/kernel/mm/transparent_hugepage/hugepages-64kB/enabled - - - - always' | \
                       sudo tee /etc/tmpfiles.d/envicutor.conf && sudo systemd-tmpfiles --create envicutor.conf";

/// The kernel's settings, as its files have them: `always [madvise] never`.
#[derive(Debug, Clone, Default)]
pub(super) struct Pages {
    /// That of pages of 64 KiB; none where the kernel has no such pages.
    middle: Option<String>,
    /// What sizes go by that are set to `inherit`.
    inherited: Option<String>,
}

impl Pages {
    pub(super) fn read() -> Self {
        let read = |file: &str| {
            fs::read_to_string(format!("/sys/kernel/mm/transparent_hugepage/{file}")).ok()
        };
        Self {
            middle: read("hugepages-64kB/enabled"),
            inherited: read("enabled"),
        }
    }

    /// What is told of it; nothing where it cannot be had.
    pub(super) fn finding(&self) -> Option<Finding> {
        let middle = chosen(self.middle.as_deref()?);
        let inherited = self.inherited.as_deref().and_then(chosen);
        let is_on =
            middle == Some("always") || (middle, inherited) == (Some("inherit"), Some("always"));
        Some(if is_on {
            Finding::well(NAME, "64 KiB where a program uses that much")
        } else {
            let found = "4 KiB; with 64 KiB too, what takes much memory is faster, compilers first (docs/performance.md)";
            Finding::well(NAME, found).but(State::Well, TURN_ON)
        })
    }
}

/// The word in brackets.
fn chosen(setting: &str) -> Option<&str> {
    let (_, rest) = setting.split_once('[')?;
    Some(rest.split_once(']')?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(middle: &str, inherited: &str) -> Finding {
        let pages = Pages {
            middle: Some(middle.to_owned()),
            inherited: Some(inherited.to_owned()),
        };
        let finding = pages.finding().expect("told");
        assert_eq!(finding.state, State::Well);
        finding
    }

    #[test]
    fn a_kernel_without_such_pages_is_told_nothing() {
        let pages = Pages {
            middle: None,
            inherited: Some("[always] madvise never".to_owned()),
        };
        assert_eq!(pages.finding(), None);
    }

    #[test]
    fn the_command_is_told_where_they_are_off() {
        let off = [
            ("always inherit madvise [never]", "[always] madvise never"),
            ("always [inherit] madvise never", "always [madvise] never"),
            ("always inherit [madvise] never", "[always] madvise never"),
        ];
        for (middle, inherited) in off {
            let command = finding(middle, inherited).command;
            assert_eq!(command.as_deref(), Some(TURN_ON), "{middle} {inherited}");
        }
    }

    #[test]
    fn where_they_are_on_there_is_nothing_to_do() {
        let on = [
            (
                "[always] inherit madvise never\n",
                "always [madvise] never\n",
            ),
            (
                "always [inherit] madvise never\n",
                "[always] madvise never\n",
            ),
        ];
        for (middle, inherited) in on {
            let command = finding(middle, inherited).command;
            assert_eq!(command, None, "{middle} {inherited}");
        }
    }
}
