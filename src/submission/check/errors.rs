//! What is wrong with a submission and where: all of it, but never more than a result can carry.

use std::{borrow::Cow, fmt};

use crate::submission::result::FieldError;

/// The most errors that are listed; one more says how many there were.
const MOST: usize = 100;
/// The most characters of the submitter's text that an error repeats.
const MOST_CHARACTERS: usize = 80;

/// The beginning of a text that may be long.
pub(super) fn cut(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(MOST_CHARACTERS) {
        None => text.into(),
        Some((end, _)) => format!("{}\u{2026}", &text[..end]).into(),
    }
}

/// Where in the body: `files[0].path`.
#[derive(Clone, Copy)]
pub(super) enum Path<'a> {
    /// The body as a whole.
    Root,
    /// A field of an object.
    Field(&'a Path<'a>, &'a str),
    /// An item of an array.
    Item(&'a Path<'a>, usize),
}

impl<'a> Path<'a> {
    pub(super) const fn field(&'a self, name: &'a str) -> Self {
        Self::Field(self, name)
    }

    pub(super) const fn item(&'a self, index: usize) -> Self {
        Self::Item(self, index)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Field(Self::Root, name) if is_plain(name) => f.write_str(name),
            Self::Field(parent, name) if is_plain(name) => write!(f, "{parent}.{name}"),
            Self::Field(parent, name) => write!(f, "{parent}[{:?}]", cut(name)),
            Self::Item(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

fn is_plain(name: &str) -> bool {
    (1..=MOST_CHARACTERS).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

/// The errors so far.
#[derive(Debug, Default)]
pub(super) struct Errors {
    listed: Vec<FieldError>,
    more: usize,
}

impl Errors {
    pub(super) fn add(&mut self, path: &Path<'_>, message: impl Into<String>) {
        if self.listed.len() < MOST {
            self.listed.push(FieldError {
                path: path.to_string(),
                message: message.into(),
            });
        } else {
            self.more += 1;
        }
    }

    /// How many there are, the ones that are not listed among them.
    pub(super) fn count(&self) -> usize {
        self.listed.len() + self.more
    }

    /// The list for the result.
    pub(super) fn list(mut self) -> Vec<FieldError> {
        if self.more > 0 {
            self.listed.push(FieldError {
                path: String::new(),
                message: format!("and {} more errors", self.more),
            });
        }
        self.listed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_written_as_the_contract_says() {
        let files = Path::Root.field("files");
        let first = files.item(0);
        assert_eq!(first.field("path").to_string(), "files[0].path");
        assert_eq!(Path::Root.field("a.b\n").to_string(), "[\"a.b\\n\"]");
        let long = "x".repeat(1_000);
        assert_eq!(
            Path::Root.field(&long).to_string().chars().count(),
            80 + 1 + 4
        );
        assert_eq!(Path::Root.to_string(), "");
    }

    #[test]
    fn the_number_of_errors_is_bounded() {
        let mut errors = Errors::default();
        for _ in 0..250 {
            errors.add(&Path::Root, "wrong");
        }
        let list = errors.list();
        assert_eq!(list.len(), 101);
        assert_eq!(list[100].message, "and 150 more errors");
    }
}
