//! A run's standard output held against what was expected: on bytes, in one pass over both, without copies.
//!
//! The invariant: whatever the two hold, no more of them is in memory than their readers have there.

use std::io::{self, BufRead};

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
        // Bytes in memory can always be read.
        self.holds_streamed(expected, actual).unwrap_or(false)
    }

    /// The same of what need not be in memory. Fails where one of them cannot be read.
    pub fn holds_streamed(self, expected: impl BufRead, actual: impl BufRead) -> io::Result<bool> {
        let mut pair = Pair {
            left: expected,
            right: actual,
            last: b'\n',
        };
        loop {
            pair.skip_what_is_equal()?;
            let is_decided = match self {
                Self::Exact => Some(pair.is_over()?),
                Self::Trimmed => pair.align_lines()?,
                Self::Tokens => pair.align_words()?,
            };
            if let Some(holds) = is_decided {
                return Ok(holds);
            }
        }
    }
}

const fn is_white(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

/// Two streams, read to where they count as the same so far.
struct Pair<L, R> {
    left: L,
    right: R,
    /// The last byte of both, where that was the same; else white space.
    last: u8,
}

impl<L: BufRead, R: BufRead> Pair<L, R> {
    /// Goes on to where they differ, or the end of one.
    fn skip_what_is_equal(&mut self) -> io::Result<()> {
        loop {
            let (left, right) = (self.left.fill_buf()?, self.right.fill_buf()?);
            let most = left.len().min(right.len());
            let (left, right) = (&left[..most], &right[..most]);
            let equal = if left == right {
                most
            } else {
                let pairs = left.iter().zip(right);
                pairs.take_while(|(left, right)| left == right).count()
            };
            if equal > 0 {
                self.last = left[equal - 1];
            }
            self.left.consume(equal);
            self.right.consume(equal);
            if equal < most || most == 0 {
                return Ok(());
            }
        }
    }

    fn is_over(&mut self) -> io::Result<bool> {
        Ok(next(&mut self.left)?.is_none() && next(&mut self.right)?.is_none())
    }

    /// Whether they count as the same, where white space at line ends does not; `None` where that is not decided, and both have
    /// the same byte before them. What was read of this line is the same in both.
    fn align_lines(&mut self) -> io::Result<Option<bool>> {
        let mut is_same = true;
        loop {
            let (left, right) = self.skip_blanks(&mut is_same)?;
            match (left, right) {
                // A line's end, whatever stood before it.
                (Some(b'\n'), Some(b'\n')) => {
                    self.left.consume(1);
                    self.right.consume(1);
                    is_same = true;
                }
                // Nothing but white space may follow in the other.
                (None, _) => return only_white(&mut self.right).map(Some),
                (_, None) => return only_white(&mut self.left).map(Some),
                (left, right) => return Ok((!is_same || left != right).then_some(false)),
            }
        }
    }

    /// Goes on to what is no white space, or a line's end, in both. `is_same` is false afterwards where they had other white
    /// space.
    fn skip_blanks(&mut self, is_same: &mut bool) -> io::Result<(Option<u8>, Option<u8>)> {
        let blank = |byte: Option<u8>| byte.filter(|byte| is_white(*byte) && *byte != b'\n');
        loop {
            let (left, right) = (next(&mut self.left)?, next(&mut self.right)?);
            let (left_blank, right_blank) = (blank(left), blank(right));
            *is_same &= left_blank == right_blank;
            if left_blank.is_none() && right_blank.is_none() {
                return Ok((left, right));
            }
            self.left.consume(usize::from(left_blank.is_some()));
            self.right.consume(usize::from(right_blank.is_some()));
        }
    }

    /// Whether they count as the same, where only words do; `None` where that is not decided, and both have the same byte before
    /// them.
    fn align_words(&mut self) -> io::Result<Option<bool>> {
        let is_between = is_white(self.last);
        let left_is_between = skip_white(&mut self.left)? || is_between;
        let right_is_between = skip_white(&mut self.right)? || is_between;
        let (left, right) = (next(&mut self.left)?, next(&mut self.right)?);
        if left.is_none() || right.is_none() {
            return Ok(Some(left == right));
        }
        let goes_on = left_is_between == right_is_between && left == right;
        Ok((!goes_on).then_some(false))
    }
}

/// The next byte, which stays there.
fn next(stream: &mut impl BufRead) -> io::Result<Option<u8>> {
    Ok(stream.fill_buf()?.first().copied())
}

/// Goes on to what is no white space: whether there was any.
fn skip_white(stream: &mut impl BufRead) -> io::Result<bool> {
    let mut was_there = false;
    loop {
        let bytes = stream.fill_buf()?;
        let size = bytes.len();
        let white = bytes.iter().take_while(|byte| is_white(**byte)).count();
        stream.consume(white);
        was_there |= white > 0;
        if white < size || size == 0 {
            return Ok(was_there);
        }
    }
}

fn only_white(stream: &mut impl BufRead) -> io::Result<bool> {
    skip_white(stream)?;
    Ok(next(stream)?.is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(compare: Compare, expected: &str, actual: &str) -> bool {
        compare.holds(expected.as_bytes(), actual.as_bytes())
    }

    /// What holds, said the plain way: on whole slices.
    mod plain {
        use super::super::{Compare, is_white};

        pub(super) fn holds(compare: Compare, expected: &[u8], actual: &[u8]) -> bool {
            match compare {
                Compare::Exact => expected == actual,
                Compare::Trimmed => trimmed_lines(expected).eq(trimmed_lines(actual)),
                Compare::Tokens => tokens(expected).eq(tokens(actual)),
            }
        }

        fn trimmed_end(data: &[u8]) -> &[u8] {
            let kept = data.iter().rposition(|byte| !is_white(*byte));
            &data[..kept.map_or(0, |last| last + 1)]
        }

        fn trimmed_lines(data: &[u8]) -> impl Iterator<Item = &[u8]> {
            trimmed_end(data)
                .split(|byte| *byte == b'\n')
                .map(trimmed_end)
        }

        fn tokens(data: &[u8]) -> impl Iterator<Item = &[u8]> {
            data.split(|byte| is_white(*byte))
                .filter(|word| !word.is_empty())
        }
    }

    /// A text of few kinds of bytes, and another one that differs from it in a few places.
    fn pair(random: &mut impl rand::Rng) -> (Vec<u8>, Vec<u8>) {
        use rand::RngExt;
        const KINDS: &[u8] = b"aab  \t\n\n\r";
        let byte = |random: &mut dyn rand::Rng| KINDS[random.random_range(0..KINDS.len())];
        let size = random.random_range(0..24);
        let left: Vec<u8> = (0..size).map(|_| byte(random)).collect();
        let mut right = left.clone();
        for _ in 0..random.random_range(0..4) {
            let at = random.random_range(0..=right.len());
            match random.random_range(0..3) {
                0 => right.insert(at, byte(random)),
                1 if at < right.len() => drop(right.remove(at)),
                _ if at < right.len() => right[at] = byte(random),
                _ => {}
            }
        }
        (left, right)
    }

    #[test]
    fn streams_are_held_against_each_other_as_whole_slices_are() {
        use rand::{RngExt, SeedableRng};
        let mut random = rand::rngs::StdRng::seed_from_u64(6);
        let mut held = [[0; 2]; 3];
        for _ in 0..200_000 {
            let (left, right) = pair(&mut random);
            for (index, compare) in [Compare::Exact, Compare::Trimmed, Compare::Tokens]
                .into_iter()
                .enumerate()
            {
                let expected = plain::holds(compare, &left, &right);
                let sizes = [random.random_range(1..6), random.random_range(1..6)];
                let stream = |bytes, size| io::BufReader::with_capacity(size, bytes);
                let streamed = compare
                    .holds_streamed(stream(&left[..], sizes[0]), stream(&right[..], sizes[1]));
                let (left, right) = (left.escape_ascii(), right.escape_ascii());
                assert_eq!(
                    streamed.expect("readable"),
                    expected,
                    "{compare:?} of \"{left}\" and \"{right}\""
                );
                held[index][usize::from(expected)] += 1;
            }
        }
        assert!(held.as_flattened().iter().all(|it| *it > 1_000), "{held:?}");
    }

    #[test]
    fn a_stream_that_cannot_be_read_is_no_answer() {
        struct Broken;
        impl io::Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("broken"))
            }
        }
        let broken = io::BufReader::new(Broken);
        assert!(Compare::Trimmed.holds_streamed(&b"x"[..], broken).is_err());
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
