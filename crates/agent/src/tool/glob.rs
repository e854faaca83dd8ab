//! Patterns of paths: `*` (any bytes), `?` (any character) and `[…]` (one of a set, `[!…]` none of it) within a component, `**`
//! for any number of components, `{a,b}` for one of several; a `\` takes the meaning of what follows it. A name that begins with
//! a dot is no exception.
//!
//! A path is matched as it is walked, component by component, by every pattern at once; what takes time is the patterns' length
//! times the names', whatever they hold.

/// The most patterns that one with `{…}` stands for.
const ALTERNATIVES: usize = 256;

/// A pattern, by its components.
pub struct Pattern(Vec<Part>);

enum Part {
    /// `**`.
    AnyDepth,
    /// Of a single component.
    Name(Vec<Piece>),
}

enum Piece {
    One(char),
    Any,
    AnyRun,
    Set {
        is_negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Pattern {
    /// Reads `text`, each of its alternatives; none where they are too many.
    pub fn all(text: &str) -> Option<Vec<Self>> {
        let mut texts = vec![text.to_owned()];
        let mut patterns = Vec::new();
        while let Some(text) = texts.pop() {
            match alternatives(&text) {
                Some(more) => texts.extend(more),
                None => patterns.push(Self::new(&text)),
            }
            if texts.len() + patterns.len() > ALTERNATIVES {
                return None;
            }
        }
        Some(patterns)
    }

    /// Reads `text`; `.` as a component is none.
    fn new(text: &str) -> Self {
        let components = text.split('/').filter(|it| !matches!(*it, "" | "."));
        let part = |component: &str| match component {
            "**" => Part::AnyDepth,
            name => Part::Name(pieces(name)),
        };
        Self(components.map(part).collect())
    }
}

/// What `text` stands for, its first `{…}` resolved; none where it has none.
fn alternatives(text: &str) -> Option<Vec<String>> {
    let (mut start, mut depth, mut cuts) = (None, 0_usize, Vec::new());
    let mut rest = text.char_indices();
    while let Some((at, next)) = rest.next() {
        match next {
            '\\' => {
                rest.next();
            }
            '{' => {
                depth += 1;
                start.get_or_insert(at);
            }
            ',' if depth == 1 => cuts.push(at),
            '}' if depth == 1 => {
                let first = start?;
                let mut from = first + 1;
                let all = cuts.iter().copied().chain([at]).map(|cut| {
                    let alternative = &text[from..cut];
                    from = cut + 1;
                    format!("{}{alternative}{}", &text[..first], &text[at + 1..])
                });
                return Some(all.collect());
            }
            '}' if depth > 0 => depth -= 1,
            _ => {}
        }
    }
    None
}

fn pieces(name: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut rest = name.chars();
    while let Some(next) = rest.next() {
        pieces.push(match next {
            '*' => Piece::AnyRun,
            '?' => Piece::Any,
            '\\' => Piece::One(rest.next().unwrap_or('\\')),
            '[' => match set(rest.as_str()) {
                Some((set, length)) => {
                    rest = rest.as_str()[length..].chars();
                    set
                }
                None => Piece::One('['),
            },
            one => Piece::One(one),
        });
    }
    pieces
}

/// The set that `text` begins with, after its `[`, and its length; none where it does not end.
fn set(text: &str) -> Option<(Piece, usize)> {
    let is_negated = text.starts_with(['!', '^']);
    let start = usize::from(is_negated);
    // A `]` right at the beginning is one of the set.
    let end = text[start..]
        .char_indices()
        .skip(1)
        .find(|(_, it)| *it == ']')
        .map(|(at, _)| start + at)?;
    let members: Vec<char> = text[start..end].chars().collect();
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < members.len() {
        if let Some('-') = members.get(at + 1)
            && let Some(last) = members.get(at + 2)
        {
            ranges.push((members[at], *last));
            at += 3;
        } else {
            ranges.push((members[at], members[at]));
            at += 1;
        }
    }
    Some((Piece::Set { is_negated, ranges }, end + 1))
}

/// Whether `name` is what `pieces` say. Linear for each run: only the last one is ever tried anew.
fn matches(pieces: &[Piece], name: &str) -> bool {
    let name: Vec<char> = name.chars().collect();
    let (mut piece, mut at) = (0, 0);
    let mut last_run = None;
    while at < name.len() {
        match pieces.get(piece) {
            Some(Piece::AnyRun) => {
                last_run = Some((piece, at));
                piece += 1;
            }
            Some(it) if it.is(name[at]) => {
                piece += 1;
                at += 1;
            }
            _ => {
                let Some((run, from)) = last_run else {
                    return false;
                };
                last_run = Some((run, from + 1));
                (piece, at) = (run + 1, from + 1);
            }
        }
    }
    let mut rest = pieces[piece..].iter();
    rest.all(|it| matches!(it, Piece::AnyRun))
}

impl Piece {
    fn is(&self, found: char) -> bool {
        match self {
            Self::One(one) => *one == found,
            Self::Any => true,
            Self::AnyRun => false,
            Self::Set { is_negated, ranges } => {
                let mut all = ranges.iter();
                *is_negated != all.any(|(first, last)| (*first..=*last).contains(&found))
            }
        }
    }
}

/// How far patterns have come with the components of a path so far: pattern and part.
pub type Places = Vec<(usize, usize)>;

/// Where all of `patterns` begin.
pub fn start(patterns: &[Pattern]) -> Places {
    let mut places = Vec::new();
    for index in 0..patterns.len() {
        add(patterns, &mut places, (index, 0));
    }
    places
}

/// Where they are after one component more, and which of them match the path that ends with it.
pub fn step(patterns: &[Pattern], places: &Places, name: &str) -> (Places, Vec<usize>) {
    let (mut next, mut ended) = (Vec::new(), Vec::new());
    for &(index, part) in places {
        let parts = &patterns[index].0;
        let (after, is_end) = match &parts[part] {
            Part::AnyDepth => (part, parts[part..].iter().all(Part::is_any_depth)),
            Part::Name(pieces) if matches(pieces, name) => (part + 1, part + 1 == parts.len()),
            Part::Name(_) => continue,
        };
        if is_end && !ended.contains(&index) {
            ended.push(index);
        }
        add(patterns, &mut next, (index, after));
    }
    (next, ended)
}

impl Part {
    fn is_any_depth(&self) -> bool {
        matches!(self, Self::AnyDepth)
    }
}

/// Adds a place, and those behind it that need no component.
fn add(patterns: &[Pattern], places: &mut Places, (index, mut part): (usize, usize)) {
    let parts = &patterns[index].0;
    while let Some(it) = parts.get(part) {
        if !places.contains(&(index, part)) {
            places.push((index, part));
        }
        if !it.is_any_depth() {
            return;
        }
        part += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn holds(pattern: &str, path: &str) -> bool {
        let patterns = Pattern::all(pattern).expect("few");
        let mut places = start(&patterns);
        let mut holds = false;
        for name in path.split('/') {
            let (next, ended) = step(&patterns, &places, name);
            places = next;
            holds = !ended.is_empty();
        }
        holds
    }

    #[test]
    fn patterns_match_what_they_say() {
        for (pattern, path, expected) in [
            ("a", "a", true),
            ("a", "b", false),
            ("./a//b", "a/b", true),
            ("a", "a/b", false),
            ("a/b", "a", false),
            ("*", "a", true),
            ("*", ".a", true),
            ("*", "a/b", false),
            ("*.png", "x.png", true),
            ("*.png", ".png", true),
            ("*.png", "x.png.txt", false),
            ("a*b*c", "aXbXbXc", true),
            ("a*b*c", "aXbXbX", false),
            ("?", "é", true),
            ("??", "é", false),
            ("out/*", "out/a", true),
            ("out/*", "out/a/b", false),
            ("out/**", "out/a/b", true),
            ("out/**", "out/a", true),
            ("out/**", "out", false),
            ("**/*.txt", "a.txt", true),
            ("**/*.txt", "a/b/c.txt", true),
            ("a/**/b", "a/b", true),
            ("a/**/b", "a/x/y/b", true),
            ("a/**/b", "a/x/y/c", false),
            ("**", "a/b", true),
            ("[a-c]x", "bx", true),
            ("[a-c]x", "dx", false),
            ("[!a-c]x", "dx", true),
            ("[]]", "]", true),
            ("[a-]", "-", true),
            ("[a", "[a", true),
            ("", "a", false),
            ("*.{png,jpg}", "x.jpg", true),
            ("*.{png,jpg}", "x.gif", false),
            ("{a/b,c}/{d,{e,f}}", "a/b/f", true),
            ("{a/b,c}/{d,{e,f}}", "c/d", true),
            ("{a/b,c}/{d,{e,f}}", "a/d", false),
            ("x{,y}", "x", true),
            ("x{", "x{", true),
            ("\\{a,b\\}\\*", "{a,b}*", true),
            ("\\*", "a", false),
        ] {
            assert_eq!(holds(pattern, path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn alternatives_are_bounded() {
        assert!(Pattern::all(&"{a,b}".repeat(8)).is_some_and(|it| it.len() == 256));
        assert!(Pattern::all(&"{a,b}".repeat(200)).is_none());
        assert!(Pattern::all(&"{".repeat(10_000)).is_some());
    }

    #[test]
    fn no_pattern_takes_long() {
        let pattern = format!("{}b", "a*".repeat(200));
        let deep = format!("{}x", "**/*a/".repeat(60));
        let began = Instant::now();
        assert!(!holds(&pattern, &"a".repeat(255)));
        assert!(!holds(&deep, &vec!["a".repeat(200); 60].join("/")));
        assert!(began.elapsed() < Duration::from_secs(20));
    }
}
