//! What is read out of a work directory that a hostile program has left: what matches, whole, and nothing else of the machine.

mod harness;
mod tooling;

use std::time::{Duration, Instant};

use envicutor_protocol::{Collect, Faith, Format, Pack, Skipped, Task, ToolReport, Unpack};
use harness::{Worker, assert_ok, shell, slowness, stage};
use tooling::tool;

fn order(patterns: &[&str]) -> Collect {
    Collect {
        patterns: patterns.iter().map(|it| (*it).to_owned()).collect(),
        max_files: 10,
        max_bytes: 1 << 20,
        max_entries: 20_000,
        max_depth: 64,
        own_memory_bytes: 32 << 20,
    }
}

/// Files with their contents, executable ones with a star, and what was skipped.
type Found = (Vec<(String, Vec<u8>)>, Vec<Skipped>);

fn collect(worker: &mut Worker, order: &Collect) -> Found {
    let (said, outcome) = tool(worker, &Task::Collect(order.clone()), b"");
    assert_ok(&outcome);
    let (mut files, mut current) = (Vec::new(), None);
    for report in said {
        match report {
            ToolReport::Found { path, executable } => {
                let star = if executable { "*" } else { "" };
                current = Some((path + star, Vec::new()));
            }
            ToolReport::Data { data } => current.as_mut().expect("a file").1.extend(data),
            ToolReport::Whole => files.push(current.take().expect("a file")),
            ToolReport::Collected { skipped } => return (files, skipped),
            other => panic!("{other:?}"),
        }
    }
    panic!("it ends without an answer");
}

fn left_by(script: &str) -> Worker {
    let mut worker = Worker::open();
    let outcome = worker.run(shell(script));
    assert_ok(&outcome);
    worker
}

fn names(found: &Found) -> Vec<&str> {
    found.0.iter().map(|(name, _)| name.as_str()).collect()
}

/// Why `path` was skipped.
#[track_caller]
fn reason<'a>(found: &'a Found, path: &str) -> &'a str {
    let skipped = found.1.iter().find(|it| it.path == path);
    &skipped
        .unwrap_or_else(|| panic!("{path}: {found:?}"))
        .reason
}

#[test]
fn what_matches_is_read_whole_and_in_order() {
    let mut worker = left_by(
        "mkdir -p out/deep/er; echo b > out/b.png; echo a > out/a.png; echo t > out/t.txt; echo d > out/deep/er/d.png; \
         head -c 200000 /dev/zero > out/large.png; chmod 755 out/b.png; echo h > out/.hidden.png; : > out/empty.png",
    );
    let found = collect(&mut worker, &order(&["out/*.png"]));
    assert_eq!(
        names(&found),
        [
            "out/.hidden.png",
            "out/a.png",
            "out/b.png*",
            "out/empty.png",
            "out/large.png"
        ]
    );
    assert_eq!(found.0[2].1, b"b\n");
    assert_eq!(found.0[4].1, vec![0; 200_000]);
    assert!(found.1.is_empty(), "{found:?}");
    let found = collect(
        &mut worker,
        &order(&["**/*.png", "out/t.txt", "none/*", "out"]),
    );
    assert_eq!(found.0.len(), 7);
    assert_eq!(reason(&found, "none/*"), "matches no file");
    assert_eq!(reason(&found, "out"), "matches no file");
}

#[test]
fn a_collected_path_through_a_symbolic_link_leads_nowhere() {
    let mut worker = left_by(
        "ln -s /etc/passwd passwd; ln -s /etc etc; ln -s /proc/self/environ environ; ln -s . self; mkdir out; \
         ln -s ../out/real out/link; echo r > out/real; ln -s /proc proc; ln -s /dev/zero zero",
    );
    let patterns = [
        "passwd",
        "etc/passwd",
        "etc/*",
        "environ",
        "self/out/real",
        "out/*",
        "proc/self/*",
        "proc/1/environ",
        "zero",
        "**/passwd",
    ];
    let found = collect(&mut worker, &order(&patterns));
    assert_eq!(names(&found), ["out/real"]);
    for path in ["passwd", "environ", "out/link", "zero"] {
        assert_eq!(reason(&found, path), "is a symbolic link", "{path}");
    }
    for pattern in [
        "etc/passwd",
        "etc/*",
        "self/out/real",
        "proc/self/*",
        "proc/1/environ",
    ] {
        assert_eq!(reason(&found, pattern), "matches no file");
    }
}

#[test]
fn no_pattern_leads_out_of_the_work_directory() {
    let mut worker = left_by("mkdir a; echo x > a/x");
    for pattern in [
        "/etc/passwd",
        "../*",
        "a/../../etc/passwd",
        "/**",
        "**/../x",
    ] {
        let found = collect(&mut worker, &order(&[pattern]));
        let outside = found.0.iter().any(|(name, _)| !name.starts_with("a/"));
        assert!(!outside, "{pattern}: {found:?}");
    }
}

#[test]
fn collecting_never_waits_for_a_pipe_nor_opens_anything_but_a_file() {
    let mut worker = left_by(
        "mkfifo fifo; perl -MSocket -e 'socket S, 1, 1, 0; bind S, sockaddr_un(\"sock\")'; echo f > file",
    );
    let began = Instant::now();
    let found = collect(&mut worker, &order(&["*"]));
    assert!(began.elapsed() < Duration::from_secs(5) * slowness());
    assert_eq!(names(&found), ["file"]);
    assert_eq!(reason(&found, "fifo"), "is no regular file");
    assert_eq!(reason(&found, "sock"), "is no regular file");
}

#[test]
fn what_is_too_large_or_too_many_is_skipped_and_named() {
    let mut worker =
        left_by("for i in 1 2 3 4 5 6 7 8 9; do echo $i > $i; done; head -c 2000000 /dev/zero > 0");
    let mut order = order(&["*"]);
    order.max_files = 3;
    let found = collect(&mut worker, &order);
    assert_eq!(names(&found), ["1", "2", "3"]);
    assert!(
        reason(&found, "0").contains("larger than the 1048576 bytes"),
        "{found:?}"
    );
    assert!(
        reason(&found, "4").contains("over the 3 files"),
        "{found:?}"
    );
    order.max_files = 10;
    order.max_bytes = 5;
    let found = collect(&mut worker, &order);
    assert_eq!(names(&found), ["1", "2"]);
    assert!(
        reason(&found, "3").contains("larger than the 1 bytes"),
        "{found:?}"
    );
}

#[test]
fn thousands_of_names_are_looked_at_within_bounds() {
    let mut worker = left_by("perl -e 'for (1..5000) { open my $f, q(>), qq(n$_) }'");
    let mut order = order(&["*"]);
    order.max_entries = 1000;
    let found = collect(&mut worker, &order);
    assert_eq!(found.0.len(), 10);
    assert_eq!(found.1.len(), 100);
    assert!(reason(&found, "").contains("too many entries"));
}

#[test]
fn hostile_names_are_skipped_or_read_and_never_believed() {
    let mut worker = left_by(
        r#"perl -e 'for ("\xff", "new\nline", "-rf *", "a" x 255) { open my $f, q(>), $_; print $f q(x) }
           for (1..200) { mkdir "d"; chdir "d" }'; mkdir closed; echo c > closed/c; chmod 0 closed/c closed"#,
    );
    let found = collect(&mut worker, &order(&["**"]));
    let long = "a".repeat(255);
    assert_eq!(names(&found), ["-rf *", &long, "closed/c", "new\nline"]);
    assert!(
        found
            .0
            .iter()
            .any(|(name, data)| name == "closed/c" && data == b"c\n")
    );
    assert_eq!(reason(&found, "\u{fffd}"), "has a name that is no UTF-8");
    let deep = found.1.iter().find(|it| it.path.ends_with("/d"));
    assert!(
        deep.is_some_and(|it| it.reason.contains("too deep")),
        "{:?}",
        found.1
    );
}

#[test]
fn files_are_collected_as_the_last_run_left_them_though_others_are_kept() {
    let mut worker = left_by("echo built > file");
    worker.keep().expect("kept");
    assert_ok(&worker.run(shell("cat file; echo run > file; echo new > made")));
    let found = collect(&mut worker, &order(&["*"]));
    assert_eq!(
        found.0,
        [
            ("file".to_owned(), b"run\n".to_vec()),
            ("made".to_owned(), b"new\n".to_vec())
        ]
    );
    // And the next run finds what was kept.
    assert_eq!(worker.run(shell("cat *")).text(), "built\n");
}

fn bounds() -> Pack {
    Pack {
        max_entries: 1000,
        max_bytes: 8 << 20,
        max_path_bytes: 1024,
        max_depth: 64,
        own_memory_bytes: 32 << 20,
    }
}

fn pack(worker: &mut Worker, order: &Pack) -> Result<Vec<u8>, String> {
    let (said, outcome) = tool(worker, &Task::Pack(order.clone()), b"");
    assert_ok(&outcome);
    let mut packed = Vec::new();
    for report in said {
        match report {
            ToolReport::Data { data } => packed.extend(data),
            ToolReport::Packed { .. } => return Ok(packed),
            ToolReport::Refused { entry, reason } => return Err(format!("{entry}: {reason}")),
            other => panic!("{other:?}"),
        }
    }
    panic!("it ends without an answer");
}

/// All that there is of a tree: kind, mode, time of modification, name, target and contents.
const INVENTORY: &str = r#"
    sub show {
        my ($name) = @_;
        my @s = lstat $name or die; my $kind = -l _ ? 'l' : -d _ ? 'd' : -f _ ? 'f' : 'x';
        printf "%s %o %d %s", $kind, $s[2] & 0777, $kind eq 'l' ? 0 : $s[9], unpack 'H*', $name;
        print ' -> ', readlink $name if $kind eq 'l';
        if ($kind eq 'f' && open my $f, '<', $name) { local $/; print ' = ', unpack '%32N*', <$f> . '000' }
        print "\n";
        if ($kind eq 'd' && opendir my $d, $name) { show("$name/$_") for sort grep { !/^\.\.?$/ } readdir $d }
    }
    show('.');
"#;

#[test]
fn what_was_packed_is_unpacked_as_it_was() {
    let build = "umask 0; mkdir -p dir/sub empty locked; echo x > dir/sub/x; printf '\\377' > dir/sub/y; chmod 751 dir; chmod 6755 dir/sub/y; \
        ln -s /etc/passwd abs; ln -s ../../out up; ln dir/sub/x hard; echo l > locked/l; chmod 0 locked/l locked; mkfifo pipe; \
        perl -e 'open my $f, q(>), qq(\\xff\\n); mkdir q(d) x 200; mkdir q(d) x 200 . q(/) . q(e) x 200; utime 1, 1_000_000_000, q(dir), q(empty), q(.)'; \
        head -c 300000 /dev/urandom > large";
    let mut worker = left_by(build);
    let before = worker.run(stage(&["perl", "-e", INVENTORY])).text();
    let packed = pack(&mut worker, &bounds()).expect("packed");
    let mut other = Worker::open();
    let order = Unpack {
        format: Format::Tar,
        strip_components: 0,
        faith: Faith::Packed,
        max_entries: 1000,
        max_bytes: 8 << 20,
        max_ratio: 100,
        max_path_bytes: 1024,
        max_depth: 64,
        max_window_bytes: 1 << 20,
        own_memory_bytes: 32 << 20,
        packed_bytes: packed.len() as u64,
    };
    let (said, outcome) = tool(&mut other, &Task::Unpack(order), &packed);
    assert_ok(&outcome);
    assert!(
        matches!(said[..], [ToolReport::Unpacked { .. }]),
        "{said:?}"
    );
    let after = other.run(stage(&["perl", "-e", INVENTORY])).text();
    // A pipe is not kept.
    let pipe = "x 666 ";
    let kept = |listing: &str| -> Vec<String> {
        let lines = listing.lines().filter(|it| !it.starts_with(pipe));
        lines.map(str::to_owned).collect()
    };
    assert_eq!(kept(&before), kept(&after));
    // And packing has changed nothing.
    assert!(before.contains("d 0 "), "{before}");
}

#[test]
fn more_than_may_be_packed_is_not_packed_at_all() {
    let mut worker = left_by("mkdir d; head -c 1000000 /dev/zero > d/large; truncate -s 12M hole");
    let said = pack(&mut worker, &bounds()).expect_err("refused");
    assert!(said.contains("more than may be packed"), "{said}");
    assert_ok(&worker.run(shell("rm hole")));
    assert!(pack(&mut worker, &bounds()).is_ok());
    let few = Pack {
        max_entries: 2,
        ..bounds()
    };
    let said = pack(&mut worker, &few).expect_err("refused");
    assert!(said.contains("more than the 2 entries"), "{said}");
    let small = Pack {
        max_bytes: 900_000,
        ..bounds()
    };
    let said = pack(&mut worker, &small).expect_err("refused");
    assert!(said.contains("more than may be packed"), "{said}");
    let shallow = Pack {
        max_depth: 1,
        ..bounds()
    };
    assert!(pack(&mut worker, &shallow).is_err());
}
