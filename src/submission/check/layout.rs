//! The work directory that a submission's files make: paths that stay inside it, and none in another's way.

use super::{
    errors::{Errors, Path, cut},
    read::Draft,
};

/// Bytes of a path's component.
const MOST_COMPONENT: usize = 255;
/// Bytes of a path.
const MOST_PATH: usize = 1_024;

/// What is wrong with a file's path by itself.
pub(super) fn path_problem(path: &str) -> Option<String> {
    let shown = cut(path);
    let problem = if path.is_empty() {
        return Some("expected a relative path, got an empty one".to_owned());
    } else if path.contains('\0') {
        "holds a NUL"
    } else if path.starts_with('/') {
        "is absolute: expected a path relative to the work directory"
    } else if path.len() > MOST_PATH {
        return Some(format!(
            "{shown:?} has {} bytes, expected at most {MOST_PATH}",
            path.len()
        ));
    } else if path.split('/').any(str::is_empty) {
        "has an empty component"
    } else if path.split('/').any(|part| part == "." || part == "..") {
        "has a component \".\" or \"..\""
    } else if path.split('/').any(|part| part.len() > MOST_COMPONENT) {
        return Some(format!(
            "{shown:?} has a component of more than {MOST_COMPONENT} bytes"
        ));
    } else {
        return None;
    };
    Some(format!("{shown:?} {problem}"))
}

/// Gives the first file the runtime's source file name, where its path was left out.
pub(super) fn name_first(draft: &mut Draft, source_file: Option<&str>) {
    if draft.first_unnamed
        && let Some(first) = draft.files.first_mut()
    {
        first.path = source_file.map(str::to_owned);
    }
}

/// Checks that no path stands twice or lies under another file, and that the entry is there. Returns how many
/// directories the paths need.
pub(super) fn check(draft: &Draft, errors: &mut Errors) -> u64 {
    let files = draft.files.iter().enumerate();
    let mut paths: Vec<(usize, &str)> = files
        .filter_map(|(index, file)| Some((index, file.path.as_deref()?)))
        .collect();
    // With "/" before every other byte, what lies under a path follows it directly. Stable: of equals, the first leads.
    paths.sort_by(|(_, a), (_, b)| parts(a).cmp(parts(b)));
    check_overlaps(&paths, errors);
    check_entry(draft, &paths, errors);
    directories(&paths)
}

fn parts(path: &str) -> impl Iterator<Item = &str> {
    path.split('/')
}

fn check_overlaps(sorted: &[(usize, &str)], errors: &mut Errors) {
    let root = Path::Root;
    let files = root.field("files");
    let mut above: Option<(usize, &str)> = None;
    for &(index, path) in sorted {
        let rest = above.and_then(|(_, above)| path.strip_prefix(above));
        let problem = match (rest, above) {
            (Some(""), Some((first, _))) => {
                format!("{:?} is already the path of files[{first}]", cut(path))
            }
            (Some(rest), Some((first, other))) if rest.starts_with('/') => {
                format!(
                    "{:?} lies under files[{first}], {:?}, which is a file",
                    cut(path),
                    cut(other)
                )
            }
            _ => {
                above = Some((index, path));
                continue;
            }
        };
        errors.add(&files.item(index).field("path"), problem);
    }
}

fn check_entry(draft: &Draft, paths: &[(usize, &str)], errors: &mut Errors) {
    let Some(entry) = draft.entry.as_deref() else {
        return;
    };
    let path = Path::Root.field("entry");
    if draft.archive.is_some() {
        // It may be one of those that nobody has seen yet.
        if let Some(problem) = path_problem(entry) {
            errors.add(&path, problem);
        }
        return;
    }
    // A file without a path is one whose path is wrong or not known yet: it may be the one that is meant.
    let all_known = paths.len() == draft.files.len();
    if all_known && !paths.iter().any(|(_, path)| *path == entry) {
        let message = format!("{:?} is none of the files' paths", cut(entry));
        errors.add(&path, message);
    }
}

/// How many directories the sorted paths lie in: each counts where the path before did not lie in it.
fn directories(sorted: &[(usize, &str)]) -> u64 {
    let parents = |path: &'_ str| path.matches('/').count();
    let mut count = 0;
    let mut before = "";
    for (_, path) in sorted {
        let above = parts(path).take(parents(path));
        let shared = above
            .zip(parts(before).take(parents(before)))
            .take_while(|(a, b)| a == b)
            .count();
        count += parents(path) - shared;
        before = path;
    }
    count as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_stays_in_the_work_directory() {
        let long = "x".repeat(256);
        let deep = "x/".repeat(512) + "x";
        for bad in [
            "",
            "/",
            "/etc/passwd",
            ".",
            "..",
            "a/..",
            "../a",
            "a/./b",
            "a//b",
            "a/",
            "a\0b",
            &long,
            &deep,
        ] {
            assert!(path_problem(bad).is_some(), "{bad:?}");
        }
        let longest = ["x".repeat(255).as_str(); 4].join("/");
        for good in [
            "main.py",
            "a/b/c",
            "...",
            ".hidden",
            "a b",
            "\u{e4}/\u{1f600}",
            "-rf",
            "a\\b",
            &longest,
        ] {
            assert_eq!(path_problem(good), None);
        }
    }

    #[test]
    fn directories_are_counted_once() {
        let count = |paths: &[&'static str]| {
            let mut paths: Vec<_> = paths.iter().map(|path| (0, *path)).collect();
            paths.sort_by(|(_, a), (_, b)| parts(a).cmp(parts(b)));
            directories(&paths)
        };
        assert_eq!(count(&["a", "b"]), 0);
        assert_eq!(count(&["a/x", "a/y", "a/b/z", "c/d/e/f", "a-b/x"]), 6);
    }
}
