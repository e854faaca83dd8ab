//! A run's standard output held against what was expected: on bytes, in one pass, without copies.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How output is compared.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
pub enum Compare {
    /// Byte for byte.
    Exact,
    /// White space at line ends and empty lines at the end do not count.
    #[default]
    Trimmed,
    /// Only the white-space separated words count.
    Tokens,
}

impl Compare {
    /// Whether `actual` counts as `expected`. White space is ASCII's, the carriage return among it.
    pub fn holds(self, expected: &[u8], actual: &[u8]) -> bool {
        match self {
            Self::Exact => expected == actual,
            Self::Trimmed => trimmed_lines(expected).eq(trimmed_lines(actual)),
            Self::Tokens => tokens(expected).eq(tokens(actual)),
        }
    }
}

const fn is_white(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

fn trimmed_end(data: &[u8]) -> &[u8] {
    let kept = data.iter().rposition(|byte| !is_white(*byte));
    &data[..kept.map_or(0, |last| last + 1)]
}

/// The lines without white space at their ends; empty lines at the end are trimmed with the last line's.
fn trimmed_lines(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    trimmed_end(data)
        .split(|byte| *byte == b'\n')
        .map(trimmed_end)
}

fn tokens(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    data.split(|byte| is_white(*byte))
        .filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(compare: Compare, expected: &str, actual: &str) -> bool {
        compare.holds(expected.as_bytes(), actual.as_bytes())
    }

    #[test]
    fn exact_counts_every_byte() {
        assert!(holds(Compare::Exact, "3\n", "3\n"));
        assert!(!holds(Compare::Exact, "3\n", "3"));
        assert!(Compare::Exact.holds(b"\xff\0", b"\xff\0"));
    }

    #[test]
    fn trimmed_forgives_line_ends_and_empty_lines_at_the_end() {
        for same in [
            "1 2\n3\n",
            "1 2\n3",
            "1 2 \t\n3\r\n",
            "1 2\r\n3\r\n",
            "1 2\n3\n\n \n\r\n",
            "1 2\x0b\n3\x0c",
        ] {
            assert!(holds(Compare::Trimmed, "1 2\n3\n", same), "{same:?}");
            assert!(holds(Compare::Trimmed, same, "1 2\n3\n"), "{same:?}");
        }
        assert!(holds(Compare::Trimmed, "", " \n\n"));
        assert!(Compare::Trimmed.holds(b"\xff \n", b"\xff"));
    }

    #[test]
    fn trimmed_counts_everything_else() {
        for other in [
            "",
            "1 2",
            " 1 2\n3\n",
            "1  2\n3\n",
            "1 2\n\n3\n",
            "\n1 2\n3\n",
            "1 2\n3\n4",
            "1 2 3",
            "1 2\n3\0",
        ] {
            assert!(!holds(Compare::Trimmed, "1 2\n3\n", other), "{other:?}");
            assert!(!holds(Compare::Trimmed, other, "1 2\n3\n"), "{other:?}");
        }
    }

    #[test]
    fn tokens_counts_only_words() {
        assert!(holds(Compare::Tokens, "1 2\n3\n", "\t1\r\n\n2 3"));
        assert!(holds(Compare::Tokens, " \n", ""));
        assert!(!holds(Compare::Tokens, "1 2", "12"));
        assert!(!holds(Compare::Tokens, "1 2", "1"));
        assert!(!holds(Compare::Tokens, "1", "1 2"));
    }

    #[test]
    fn a_long_output_takes_linear_time() {
        let spaces = vec![b' '; 16 << 20];
        let mut lines = spaces.clone();
        lines.push(b'x');
        assert!(Compare::Trimmed.holds(b"", &spaces));
        assert!(!Compare::Trimmed.holds(b"x", &lines));
        assert!(Compare::Tokens.holds(b"x", &lines));
    }
}
