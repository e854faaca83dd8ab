//! What is in a packed project and what is not, and that it is the same bytes each time.

use std::os::unix::{fs::symlink, net::UnixListener};

use super::*;

fn project(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    for (path, content) in files {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        fs::write(path, content).expect("written");
    }
    dir
}

fn packed_within(dir: &Path, bounds: &config::Client) -> Result<Packed, PackError> {
    pack(dir, bounds, &|_| (), &CancellationToken::new())
}

fn packed(dir: &Path) -> Result<Packed, PackError> {
    packed_within(dir, &config::Client::default())
}

/// Path, mode and content or target of every entry.
fn entries(packed: &Packed) -> Vec<(String, u32, String)> {
    let file = File::open(&packed.file).expect("there");
    let mut archive = tar::Archive::new(zstd::Decoder::new(file).expect("zstd"));
    let entries = archive.entries().expect("a tar archive");
    let entries = entries.map(|entry| {
        let mut entry = entry.expect("an entry");
        assert_eq!(entry.header().mtime().ok(), Some(0));
        assert_eq!(entry.header().uid().ok(), Some(0));
        let path = entry.path().expect("a path").display().to_string();
        let mode = entry.header().mode().expect("a mode");
        let mut content = String::new();
        match entry.link_name().expect("a target or none") {
            Some(target) => content = target.display().to_string(),
            None => {
                entry.read_to_string(&mut content).expect("text");
            }
        }
        (path, mode, content)
    });
    entries.collect()
}

fn paths(packed: &Packed) -> Vec<String> {
    let entries = entries(packed).into_iter();
    entries.map(|(path, ..)| path).collect()
}

#[test]
fn an_unchanged_project_is_the_same_bytes() {
    let files = [("b/x.py", "x"), ("a.py", "a"), ("b/c/y", "y"), ("z", "")];
    let first = project(&files);
    let second = project(&{
        let mut files = files;
        files.reverse();
        files
    });
    let old = fs::File::open(second.path().join("a.py")).expect("there");
    old.set_modified(std::time::UNIX_EPOCH).expect("set");
    let (first, second) = (packed(first.path()), packed(second.path()));
    let (first, second) = (first.expect("packed"), second.expect("packed"));
    assert_eq!(first.blob, second.blob);
    let bytes = fs::read(&first.file).expect("there");
    assert_eq!(first.blob.digest, Digest::of(&bytes));
    assert_eq!(first.blob.size_bytes.0, bytes.len() as u64);
    assert_eq!(paths(&first), ["a.py", "b", "b/c", "b/c/y", "b/x.py", "z"]);
}

#[test]
fn what_rules_ignore_is_left_out_and_git_always() {
    let dir = project(&[
        (".gitignore", "*.o\n/build\n"),
        (".envicutorignore", "secret\n!keep.o\n"),
        (".ignore", "main.c\n"),
        (".git/config", ""),
        ("sub/.git/config", ""),
        ("sub/.gitignore", "deep\n"),
        ("sub/deep", ""),
        ("sub/build", ""),
        (".hidden", ""),
        ("main.c", ""),
        ("main.o", ""),
        ("keep.o", ""),
        ("build/out", ""),
        ("secret", ""),
    ]);
    let packed = packed(dir.path()).expect("packed");
    let expected = [
        ".envicutorignore",
        ".gitignore",
        ".hidden",
        ".ignore",
        "keep.o",
        "main.c",
        "sub",
        "sub/.gitignore",
        "sub/build",
    ];
    assert_eq!(paths(&packed), expected);
}

#[test]
fn modes_and_links_inside_are_kept() {
    let dir = project(&[("bin/tool", "#!"), ("lib/a", "a")]);
    let tool = dir.path().join("bin/tool");
    fs::set_permissions(&tool, fs::Permissions::from_mode(0o700)).expect("set");
    symlink("../lib/a", dir.path().join("bin/link")).expect("linked");
    symlink("nowhere", dir.path().join("bin/dangling")).expect("linked");
    let entries = entries(&packed(dir.path()).expect("packed"));
    let find = |path: &str| {
        let mut entries = entries.iter();
        let entry = entries.find(|entry| entry.0 == path).expect("there");
        (entry.1, entry.2.as_str())
    };
    assert_eq!(find("bin/tool"), (0o755, "#!"));
    assert_eq!(find("lib/a"), (0o644, "a"));
    assert_eq!(find("bin/link").1, "../lib/a");
    assert_eq!(find("bin/dangling").1, "nowhere");
}

#[test]
fn a_link_out_of_the_project_is_refused_by_name() {
    for target in ["/etc/passwd", "../x", "a/../../x"] {
        let dir = project(&[("a/file", "")]);
        symlink(target, dir.path().join("link")).expect("linked");
        let error = packed(dir.path()).expect_err("refused").to_string();
        assert!(error.contains("link") && error.contains(target), "{error}");
    }
}

#[test]
fn a_link_by_way_of_another_link_does_not_lead_out() {
    let dir = project(&[("project/a/file", ""), ("outside", "")]);
    let project = dir.path().join("project");
    symlink("..", project.join("a/up")).expect("linked");
    // By its words within `a`, in truth beside the project.
    symlink("a/up/../outside", project.join("link")).expect("linked");
    let error = packed(&project).expect_err("refused").to_string();
    assert!(error.contains("link"), "{error}");
    fs::remove_file(project.join("link")).expect("removed");
    symlink("a/up/a/file", project.join("link")).expect("linked");
    assert!(packed(&project).is_ok());
}

#[test]
fn what_is_no_file_and_what_has_a_strange_name_is_refused_by_name() {
    use std::os::unix::ffi::OsStrExt as _;
    let dir = project(&[("a", "")]);
    let _socket = UnixListener::bind(dir.path().join("door")).expect("bound");
    let error = packed(dir.path()).expect_err("refused").to_string();
    assert!(error.contains("door"), "{error}");
    let dir = project(&[("a", "")]);
    let strange = std::ffi::OsStr::from_bytes(b"x\xff");
    fs::write(dir.path().join(strange), "").expect("written");
    let error = packed(dir.path()).expect_err("refused").to_string();
    assert!(error.contains("not UTF-8"), "{error}");
}

#[test]
fn a_project_is_bounded_and_not_empty() {
    let dir = project(&[("a", "123"), ("b/c", "456")]);
    let bounds = |project_files, bytes| config::Client {
        project_files,
        project_bytes: ByteSize(bytes),
        ..config::Client::default()
    };
    assert!(packed_within(dir.path(), &bounds(3, 6)).is_ok());
    for (bounds, key) in [
        (bounds(2, 6), "client.project_files"),
        (bounds(3, 5), "client.project_bytes"),
    ] {
        let error = packed_within(dir.path(), &bounds).expect_err("refused");
        assert!(error.to_string().contains(key), "{error}");
    }
    let error = packed(project(&[(".git/x", "")]).path()).expect_err("refused");
    assert!(matches!(error, PackError::Empty { .. }));
}

#[test]
fn packing_can_be_given_up() {
    let dir = project(&[("a", "")]);
    let stop = CancellationToken::new();
    stop.cancel();
    let bounds = config::Client::default();
    let error = pack(dir.path(), &bounds, &|_| (), &stop).expect_err("stopped");
    assert!(matches!(error, PackError::Stopped));
}
