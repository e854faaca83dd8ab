//! What a terminal may be shown. A submission's output is anybody's bytes: on a terminal every control character but the
//! line feed and the tab is written as an escape (`\x1b`), so that it can neither clear the screen, nor retitle the window,
//! nor pretend to be a verdict of ours by moving the cursor. Where standard output is a file or a pipe it gets the bytes as
//! they are.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal, Write as _},
};

/// Makes bytes showable, piece by piece: a character may be split over two pieces.
#[derive(Debug, Default)]
pub struct Escaper {
    /// The beginning of a character whose rest has not come yet.
    partial: Vec<u8>,
}

impl Escaper {
    /// The next piece, as far as its characters are whole.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        let mut data = std::mem::take(&mut self.partial);
        data.extend_from_slice(bytes);
        let mut shown = String::with_capacity(data.len());
        let mut rest = data.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(text) => {
                    escape_into(&mut shown, text);
                    return shown;
                }
                Err(error) => {
                    let (good, bad) = rest.split_at(error.valid_up_to());
                    escape_into(&mut shown, &String::from_utf8_lossy(good));
                    let Some(length) = error.error_len() else {
                        self.partial = bad.to_vec();
                        return shown;
                    };
                    escape_bytes(&mut shown, &bad[..length]);
                    rest = &bad[length..];
                }
            }
        }
    }

    /// What is left of a character that never became whole.
    pub fn finish(&mut self) -> String {
        let mut shown = String::new();
        escape_bytes(&mut shown, &std::mem::take(&mut self.partial));
        shown
    }
}

/// All of `bytes`, showable.
pub fn escape(bytes: &[u8]) -> String {
    let mut escaper = Escaper::default();
    let mut shown = escaper.push(bytes);
    shown.push_str(&escaper.finish());
    shown
}

/// A text of others within a line of ours: no line feed either.
pub fn escape_line(text: &str) -> String {
    escape(text.as_bytes()).replace('\n', "\\n")
}

fn escape_into(shown: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '\n' | '\t' => shown.push(c),
            '\r' => shown.push_str("\\r"),
            c if c.is_ascii_control() => {
                // Writing to a string cannot fail.
                let _ = write!(shown, "\\x{:02x}", u32::from(c));
            }
            c if c.is_control() || reorders(c) => {
                let _ = write!(shown, "\\u{{{:x}}}", u32::from(c));
            }
            c => shown.push(c),
        }
    }
}

/// Characters that show the text around them in another order, or break its lines.
const fn reorders(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn escape_bytes(shown: &mut String, bytes: &[u8]) {
    for byte in bytes {
        let _ = write!(shown, "\\x{byte:02x}");
    }
}

/// Whether a stream (given whether it is a terminal) is written in colours.
pub fn has_colors(is_terminal: bool) -> bool {
    is_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// One of our own two output streams, as a place for a submission's output.
#[derive(Debug)]
pub struct Sink<W> {
    stream: W,
    /// Present where the stream is a terminal.
    escaper: Option<Escaper>,
    at_line_start: bool,
}

/// Our standard output.
pub fn stdout() -> Sink<io::Stdout> {
    Sink::new(io::stdout())
}

/// Our standard error.
pub fn stderr() -> Sink<io::Stderr> {
    Sink::new(io::stderr())
}

impl<W: io::Write + IsTerminal> Sink<W> {
    fn new(stream: W) -> Self {
        let escaper = stream.is_terminal().then(Escaper::default);
        Self {
            stream,
            escaper,
            at_line_start: true,
        }
    }
}

/// Either of them.
pub trait Place {
    /// Writes a piece of a submission's output.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Writes a line of ours, of its own, in place of what is left out of a submission's output.
    fn gap(&mut self, line: &str) -> io::Result<()>;
}

impl<W: io::Write> Place for Sink<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some(last) = bytes.last() {
            self.at_line_start = *last == b'\n';
        }
        match &mut self.escaper {
            Some(escaper) => self.stream.write_all(escaper.push(bytes).as_bytes())?,
            None => self.stream.write_all(bytes)?,
        }
        self.stream.flush()
    }

    fn gap(&mut self, line: &str) -> io::Result<()> {
        if let Some(escaper) = &mut self.escaper {
            self.stream.write_all(escaper.finish().as_bytes())?;
        }
        let before = if self.at_line_start { "" } else { "\n" };
        self.at_line_start = true;
        writeln!(self.stream, "{before}{line}")?;
        self.stream.flush()
    }
}

impl<W: io::Write> Sink<W> {
    /// Ends the output: what follows on a terminal begins a line of its own.
    pub fn end(&mut self) -> io::Result<()> {
        if let Some(escaper) = &mut self.escaper {
            self.stream.write_all(escaper.finish().as_bytes())?;
            if !self.at_line_start {
                self.stream.write_all(b"\n")?;
                self.at_line_start = true;
            }
        }
        self.stream.flush()
    }
}

/// Writes a line of data to standard output.
pub fn say(line: impl AsRef<str>) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(line.as_ref().as_bytes())?;
    stdout.write_all(b"\n")?;
    stdout.flush()
}

/// Writes the beginning of a line for people to standard error: a question.
pub fn tell_part(text: impl AsRef<str>) {
    let mut stderr = io::stderr().lock();
    let _ = write!(stderr, "{}", text.as_ref());
    let _ = stderr.flush();
}

/// Writes a line for people to standard error. One that cannot be written is of no use to anybody.
pub fn tell(line: impl AsRef<str>) {
    let _ = writeln!(io::stderr(), "{}", line.as_ref());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_a_line_of_its_own() {
        for (before, expected) in [
            ("", "[gap]\nb"),
            ("a\n", "a\n[gap]\nb"),
            ("a", "a\n[gap]\nb"),
        ] {
            let mut sink = Sink {
                stream: Vec::new(),
                escaper: None,
                at_line_start: true,
            };
            sink.write(before.as_bytes()).expect("written");
            sink.gap("[gap]").expect("written");
            sink.write(b"b").expect("written");
            assert_eq!(String::from_utf8_lossy(&sink.stream), expected);
        }
    }

    #[test]
    fn control_characters_are_escaped_and_text_is_not() {
        assert_eq!(escape("a\tb\nü 漢 🙂".as_bytes()), "a\tb\nü 漢 🙂");
        assert_eq!(escape(b"\x1b[2J\x07\r\x7f\0"), "\\x1b[2J\\x07\\r\\x7f\\x00");
        assert_eq!(escape("\u{9b}31m".as_bytes()), "\\u{9b}31m");
        assert_eq!(escape("\u{202e}ko".as_bytes()), "\\u{202e}ko");
        assert_eq!(escape(b"\xff\xfe ok \xc3"), "\\xff\\xfe ok \\xc3");
        assert_eq!(escape_line("a\nverdict ok"), "a\\nverdict ok");
    }

    #[test]
    fn a_character_split_over_two_pieces_stays_whole() {
        let text = "x漢🙂é";
        for split in 0..text.len() {
            let (one, two) = text.as_bytes().split_at(split);
            let mut escaper = Escaper::default();
            let shown = escaper.push(one) + &escaper.push(two) + &escaper.finish();
            assert_eq!(shown, text, "split at {split}");
        }
    }

    #[test]
    fn an_escape_sequence_split_over_two_pieces_is_escaped_all_the_same() {
        let mut escaper = Escaper::default();
        assert_eq!(escaper.push(b"\xc2"), "");
        assert_eq!(escaper.push(b"\x9b31m"), "\\u{9b}31m");
    }
}
