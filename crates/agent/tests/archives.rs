//! Archives of every kind, as honest people make them and as hostile ones do. Each attack is a test of its name.

mod archive;
mod harness;
mod tooling;

use archive::{Member, Zipped, gz, tar, tar_of, zip, zst};
use envicutor_protocol::{
    Command, Exit, Faith, Format, Killed, Report, Stdin, Task, Tool, ToolReport, Unpack,
};
use harness::{UID, Worker, assert_ok, shell};
use tooling::tool;

fn order(format: Format, packed: &[u8]) -> Unpack {
    Unpack {
        format,
        strip_components: 0,
        faith: Faith::Plain,
        max_entries: 1000,
        max_bytes: 8 << 20,
        max_ratio: 100,
        max_path_bytes: 1024,
        max_depth: 16,
        max_window_bytes: 8 << 20,
        own_memory_bytes: 32 << 20,
        packed_bytes: packed.len() as u64,
    }
}

fn unpack(worker: &mut Worker, order: &Unpack, packed: &[u8]) -> Result<(u64, u64), String> {
    let (said, outcome) = tool(worker, &Task::Unpack(order.clone()), packed);
    assert_ok(&outcome);
    match &said[..] {
        [ToolReport::Unpacked { entries, bytes }] => Ok((*entries, *bytes)),
        [ToolReport::Refused { entry, reason }] => Err(format!("{entry}: {reason}")),
        other => panic!("{other:?}"),
    }
}

fn unpacked(order: &Unpack, packed: &[u8]) -> Result<(u64, u64), String> {
    unpack(&mut Worker::open(), order, packed)
}

/// Asserts that an archive of `members` is refused for `entry`, with `reason`, as tar in every wrapping and as zip where that can
/// say it.
#[track_caller]
fn assert_refused(members: &[Member<'_>], entry: &str, reason: &str) {
    let packed = tar_of(members);
    let said = unpacked(&order(Format::Tar, &packed), &packed).expect_err("refused");
    assert!(
        said.starts_with(&format!("{entry}: ")) && said.contains(reason),
        "{said}"
    );
}

#[track_caller]
fn assert_zip_refused(members: &[Zipped<'_>], entry: &str, reason: &str) {
    let packed = zip(members);
    let said = unpacked(&order(Format::Zip, &packed), &packed).expect_err("refused");
    assert!(
        said.starts_with(&format!("{entry}: ")) && said.contains(reason),
        "{said}"
    );
}

const LISTING: &str = "find . -mindepth 1 | LC_ALL=C sort | while read f; do \
    printf '%s %s' \"$(stat -c '%A %Y' \"$f\")\" \"$f\"; [ -L \"$f\" ] && printf ' -> %s' \"$(readlink \"$f\")\"; \
    [ -f \"$f\" ] && [ ! -L \"$f\" ] && printf ' = %s' \"$(head -c 20 \"$f\")\"; echo; done";

fn listing(worker: &mut Worker) -> String {
    let outcome = worker.run(shell(LISTING));
    assert_ok(&outcome);
    outcome.text()
}

#[test]
fn a_tree_arrives_as_it_was_packed_in_every_format() {
    let members = [
        Member::directory("dir/"),
        Member::file("dir/run", b"#!/bin/sh").mode(0o4755).owner(0),
        Member::file("dir/data", b"data").mode(0o666),
        Member::symbolic("link", "dir/data"),
        Member::hard("dir/same", "dir/data"),
        Member::file("./a/b/c", b"deep"),
    ];
    let plain = tar_of(&members);
    let expected = "drwxr-xr-x DATE ./a\ndrwxr-xr-x DATE ./a/b\n-rw-r--r-- 1000000000 ./a/b/c = deep\n\
                    drwxr-xr-x DATE ./dir\n-rw-r--r-- 1000000000 ./dir/data = data\n\
                    -rwxr-xr-x 1000000000 ./dir/run = #!/bin/sh\n-rw-r--r-- 1000000000 ./dir/same = data\n\
                    lrwxrwxrwx 1000000000 ./link -> dir/data\n";
    let zipped = zip(&[
        Zipped::file("dir/run", b"#!/bin/sh").mode(0o104_755),
        Zipped::file("dir/data", b"data").mode(0o100_666),
        Zipped::file("link", b"dir/data").mode(0o120_777),
        Zipped::file("dir/same", b"data").mode(0),
        Zipped::file("a/b/c", b"deep").stored(),
        Zipped::file("dir/", b""),
    ]);
    for (format, packed, entries) in [
        (Format::Tar, plain.clone(), 6),
        (Format::TarGz, gz(&plain), 6),
        // One member after another, as `cat` makes them.
        (
            Format::TarGz,
            [gz(&plain[..700]), gz(&plain[700..])].concat(),
            6,
        ),
        (Format::TarZst, zst(&plain), 6),
        (
            Format::TarZst,
            [
                zst(&plain[..700]),
                b"\x50\x2a\x4d\x18\x03\0\0\0abc".to_vec(),
                zst(&plain[700..]),
            ]
            .concat(),
            6,
        ),
        (Format::Zip, zipped, 6),
    ] {
        let mut worker = Worker::open();
        let done = unpack(&mut worker, &order(format, &packed), &packed);
        let bytes = if format == Format::Zip { 21 } else { 17 };
        assert_eq!(done, Ok((entries, bytes)), "{format:?}");
        let is_zip = format == Format::Zip;
        let dated = |line: &str| {
            let mut words: Vec<&str> = line.splitn(3, ' ').collect();
            if line.starts_with('d') || is_zip {
                words[1] = "DATE";
            }
            words.join(" ") + "\n"
        };
        let found: String = listing(&mut worker).lines().map(dated).collect();
        let expected: String = expected.lines().map(dated).collect();
        assert_eq!(found, expected, "{format:?}");
    }
}

#[test]
fn what_tar_itself_packs_is_unpacked() {
    let directory = tempfile::tempdir().expect("a directory");
    let long = "long/".repeat(40) + "name";
    let file = directory.path().join("in").join(&long);
    std::fs::create_dir_all(file.parent().expect("has one")).expect("made");
    std::fs::write(&file, "content").expect("written");
    for form in ["gnu", "posix", "ustar"] {
        for (flag, format) in [("", Format::Tar), ("z", Format::TarGz)] {
            let made = std::process::Command::new("tar")
                .arg(format!("-c{flag}f"))
                .args(["-", &format!("--format={form}"), "-C"])
                .arg(directory.path().join("in"))
                .arg(".")
                .output()
                .expect("tar runs");
            assert!(made.status.success(), "{made:?}");
            let mut order = order(format, &made.stdout);
            order.max_depth = 64;
            let mut worker = Worker::open();
            unpack(&mut worker, &order, &made.stdout).expect("unpacked");
            let outcome = worker.run(shell(&format!("cat {long}")));
            assert_eq!(outcome.text(), "content", "{form} {format:?}");
        }
    }
}

#[test]
fn components_are_taken_off_and_what_has_no_more_is_left_out() {
    let packed = tar_of(&[
        Member::directory("top/"),
        Member::file("readme", b"r"),
        Member::file("top/a", b"a"),
        Member::hard("top/b", "top/a"),
    ]);
    let mut order = order(Format::Tar, &packed);
    order.strip_components = 1;
    let mut worker = Worker::open();
    unpack(&mut worker, &order, &packed).expect("unpacked");
    let outcome = worker.run(shell("ls; cat b"));
    assert_eq!(outcome.text(), "a\nb\na");
}

#[test]
fn an_archive_adds_to_the_files_and_may_not_name_them() {
    let mut worker = Worker::open();
    worker.file("dir/main", b"mine", false);
    let packed = tar_of(&[Member::file("dir/more", b"more")]);
    unpack(&mut worker, &order(Format::Tar, &packed), &packed).expect("unpacked");
    let packed = tar_of(&[Member::file("dir/main", b"other")]);
    let said = unpack(&mut worker, &order(Format::Tar, &packed), &packed).expect_err("refused");
    assert!(said.contains("dir/main: is there already"), "{said}");
    assert_eq!(worker.run(shell("cat dir/*")).text(), "minemore");
}

#[test]
fn an_archive_entry_that_escapes_is_refused() {
    for name in ["../x", "a/../../x", "..", "a/.."] {
        assert_refused(&[Member::file(name, b"x")], name, "leads out");
        assert_zip_refused(&[Zipped::file(name, b"x")], name, "leads out");
    }
}

#[test]
fn an_archive_entry_with_an_absolute_path_is_refused() {
    for name in ["/etc/passwd", "//x", "/"] {
        assert_refused(&[Member::file(name, b"x")], name, "absolute");
    }
    assert_zip_refused(
        &[Zipped::file("/etc/passwd", b"x")],
        "/etc/passwd",
        "absolute",
    );
}

#[test]
fn a_link_out_of_the_tree_is_refused() {
    for target in ["/etc/passwd", "../x", "a/../../x", "dir/../x", ".."] {
        assert_refused(&[Member::symbolic("link", target)], "link", "symbolic link");
        let zipped = Zipped::file("link", target.as_bytes()).mode(0o120_777);
        assert_zip_refused(&[zipped], "link", "symbolic link");
    }
    assert_refused(
        &[Member::symbolic("a/b/link", "../../../x")],
        "a/b/link",
        "symbolic link",
    );
}

#[test]
fn an_archive_entry_through_a_link_is_refused() {
    let link = Member::symbolic("d", "e");
    let inside = [
        Member::directory("e/"),
        link.clone(),
        Member::file("d/x", b"x"),
    ];
    assert_refused(&inside, "d/x", "a link there already");
    // Also where links lead anywhere, as in what a build left.
    let packed = tar_of(&[Member::symbolic("d", "/tmp"), Member::file("d/x", b"x")]);
    let mut order = order(Format::Tar, &packed);
    order.faith = Faith::Packed;
    let mut worker = Worker::open();
    let said = unpack(&mut worker, &order, &packed).expect_err("refused");
    assert!(said.starts_with("d/x: "), "{said}");
    assert_eq!(worker.run(shell("ls /tmp")).text(), "");
}

#[test]
fn a_hard_link_to_what_is_no_earlier_file_of_the_archive_is_refused() {
    for target in [
        "/etc/passwd",
        "later",
        "../x",
        "dir",
        "sym",
        "dir/../file",
        "mine",
    ] {
        let packed = tar_of(&[
            Member::directory("dir/"),
            Member::file("file", b"x"),
            Member::symbolic("sym", "file"),
            Member::hard("link", target),
            Member::file("later", b"x"),
        ]);
        let mut worker = Worker::open();
        worker.file("mine", b"x", false);
        let said = unpack(&mut worker, &order(Format::Tar, &packed), &packed);
        let said = said.expect_err("refused");
        assert!(said.starts_with("link: is a hard link"), "{target}: {said}");
    }
}

#[test]
fn devices_pipes_and_unknown_kinds_in_an_archive_are_refused() {
    for (kind, reason) in [
        (b'3', "device"),
        (b'4', "device"),
        (b'6', "pipe"),
        (b'Z', "kind"),
    ] {
        assert_refused(&[Member::file("x", b"").kind(kind)], "x", reason);
    }
    assert_zip_refused(&[Zipped::file("x", b"").mode(0o020_644)], "x", "device");
    assert_zip_refused(&[Zipped::file("x", b"").mode(0o010_644)], "x", "pipe");
    assert_zip_refused(&[Zipped::file("x", b"").mode(0o140_644)], "x", "kind");
}

#[test]
fn a_name_that_is_there_twice_is_refused() {
    let twice = [Member::file("x", b"1"), Member::file("x", b"2")];
    assert_refused(&twice, "x", "named twice");
    let link = [Member::file("x", b"1"), Member::symbolic("x", "y")];
    assert_refused(&link, "x", "named twice");
    let zipped = [Zipped::file("x", b"1"), Zipped::file("x", b"2")];
    assert_zip_refused(&zipped, "x", "named twice");
}

#[test]
fn what_is_both_file_and_directory_is_refused() {
    let below = [Member::file("x", b"1"), Member::file("x/y", b"2")];
    assert_refused(&below, "x/y", "file or a link there already");
    let above = [Member::file("x/y", b"1"), Member::file("x", b"2")];
    assert_refused(&above, "x", "named twice");
    let directory = [Member::file("x", b"1"), Member::directory("x/")];
    assert_refused(&directory, "x/", "file or a link there already");
}

#[test]
fn names_that_are_no_path_of_the_contract_are_refused() {
    assert_refused(&[Member::raw(b"\xff", b"x")], "\u{fffd}", "no UTF-8");
    assert_refused(&[Member::file("a//b", b"x")], "a//b", "empty component");
    let deep = "d/".repeat(17) + "x";
    assert_refused(&[Member::file(&deep, b"x")], &deep, "directories deep");
    let wide = "x".repeat(256);
    assert_refused(
        &[Member::file(&wide, b"x")],
        &wide,
        "component of more than 255",
    );
    let long = vec!["y".repeat(250); 5].join("/");
    assert_refused(
        &[Member::file(&long, b"x")],
        &long[..256],
        "more than 1024 bytes",
    );
    let nul = Zipped::raw(b"a\0b", b"x");
    assert_zip_refused(&[nul], "a\0b", "NUL");
}

#[test]
fn more_entries_than_there_may_be_are_refused() {
    let names: Vec<String> = (0..1001).map(|number| number.to_string()).collect();
    let members: Vec<_> = names.iter().map(|name| Member::file(name, b"")).collect();
    assert_refused(&members, "1000", "than the 1000");
    let zipped: Vec<_> = names.iter().map(|name| Zipped::file(name, b"")).collect();
    assert_zip_refused(&zipped, "1000", "than the 1000");
}

#[test]
fn more_bytes_than_there_may_be_are_refused_before_they_are_written() {
    let packed = tar(&[Member::file("x", b"").size(1 << 40)], false);
    let mut worker = Worker::open();
    let said = unpack(&mut worker, &order(Format::Tar, &packed), &packed).expect_err("refused");
    assert!(said.contains("more than the 8388608 bytes"), "{said}");
    assert_eq!(worker.run(shell("ls")).text(), "");
    let half = vec![1; 5 << 20];
    let both = [Member::file("a", &half), Member::file("b", &half)];
    assert_refused(&both, "b", "more than the 8388608 bytes");
}

#[test]
fn a_bomb_is_refused_by_how_much_it_swells() {
    let zeros = vec![0; 6 << 20];
    let plain = tar_of(&[Member::file("bomb", &zeros)]);
    for (format, packed) in [
        (Format::TarGz, gz(&plain)),
        (Format::TarZst, zst(&plain)),
        (Format::Zip, zip(&[Zipped::file("bomb", &zeros)])),
    ] {
        assert!(packed.len() < 50_000, "{format:?}");
        let said = unpacked(&order(format, &packed), &packed).expect_err("refused");
        assert!(
            said.contains("bomb: unpacks to more than 100 times"),
            "{format:?}: {said}"
        );
    }
}

#[test]
fn entries_of_a_zip_that_share_their_bytes_are_counted_each() {
    let mebibyte: Vec<u8> = (0..1_u32 << 18)
        .flat_map(|it| it.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    let names: Vec<String> = (0..20).map(|number| number.to_string()).collect();
    let packed = archive::overlapping(&names, &mebibyte);
    let said = unpacked(&order(Format::Zip, &packed), &packed).expect_err("refused");
    assert!(said.contains("more than the 8388608 bytes"), "{said}");
}

#[test]
fn a_window_larger_than_memory_is_refused_before_it_is_allocated() {
    // A frame header with a window of 1 TiB, and nothing after it.
    let packed = [&b"\x28\xb5\x2f\xfd\x00\xf0"[..], &[0; 100]].concat();
    let said = unpacked(&order(Format::TarZst, &packed), &packed).expect_err("refused");
    assert!(said.contains("indow"), "{said}");
}

#[test]
fn a_name_as_long_as_memory_ends_the_reader_and_nothing_else() {
    // A long name of GNU's, a gibibyte of it, packed very small.
    let header = Member::file("x", b"").kind(b'L').size(1 << 30);
    let plain = [tar(&[header], false), vec![b'a'; 48 << 20]].concat();
    let packed = gz(&plain);
    let mut worker = Worker::open();
    let task = Task::Unpack(order(Format::TarGz, &packed));
    let (said, outcome) = tool(&mut worker, &task, &packed);
    let ended = &outcome.ended;
    let is_refused =
        matches!(&said[..], [ToolReport::Refused { reason, .. }] if reason.contains("memory"));
    let is_dead = ended.killed == Some(Killed::Memory) || matches!(ended.exit, Exit::Signal(_));
    assert!(is_refused || is_dead, "{said:?} {outcome:?}");
    assert_ok(&worker.run(shell("true")));
}

#[test]
fn holes_are_bytes_and_posix_holes_are_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = std::fs::File::create(directory.path().join("sparse")).expect("made");
    file.set_len(1 << 30).expect("grown");
    for (form, reason) in [("gnu", "more than the 8388608 bytes"), ("posix", "sparse")] {
        let made = std::process::Command::new("tar")
            .args(["-cSf", "-", &format!("--format={form}"), "-C"])
            .arg(directory.path())
            .arg("sparse")
            .output()
            .expect("tar runs");
        let said = unpacked(&order(Format::Tar, &made.stdout), &made.stdout).expect_err("refused");
        assert!(said.contains(reason), "{form}: {said}");
    }
}

#[test]
fn what_is_cut_short_or_broken_is_refused() {
    let plain = tar_of(&[Member::file("x", &[7; 5000])]);
    let mut broken = gz(&plain);
    let at = broken.len() - 6;
    broken[at] ^= 1;
    let mut zipped = zip(&[Zipped::file("x", b"content").stored()]);
    let at = zipped
        .windows(7)
        .position(|it| it == b"content")
        .expect("there");
    zipped[at] ^= 1;
    for (format, packed) in [
        (Format::Tar, plain[..3000].to_vec()),
        (Format::Tar, b"no archive at all".repeat(100)),
        (
            Format::TarGz,
            gz(&plain)[..100.min(gz(&plain).len() - 9)].to_vec(),
        ),
        (Format::TarGz, broken),
        (Format::TarGz, plain.clone()),
        (Format::TarZst, zst(&plain)[..40].to_vec()),
        (Format::TarZst, plain.clone()),
        (Format::Zip, plain),
        (Format::Zip, zipped),
        (Format::Zip, Vec::new()),
    ] {
        unpacked(&order(format, &packed), &packed).expect_err(&format!("{format:?}"));
    }
}

#[test]
fn a_full_work_directory_refuses_the_archive_and_not_the_agent() {
    let names: Vec<String> = (0..20).map(|number| number.to_string()).collect();
    let members: Vec<_> = names.iter().map(|name| Member::file(name, b"")).collect();
    let packed = tar_of(&members);
    let mut worker = Worker::open();
    let fill = "perl -e 'mkdir q(full); for (1..19_990) { open my $f, q(>), qq(full/$_) or die }'";
    assert_ok(&worker.run(shell(fill)));
    let said = unpack(&mut worker, &order(Format::Tar, &packed), &packed).expect_err("refused");
    assert!(said.contains("the work directory is full"), "{said}");
    assert_ok(&worker.run(shell("true")));
}

#[test]
fn a_tool_has_no_more_rights_than_a_stage() {
    // What it writes is the stages' own, and files come before it alone.
    let mut worker = Worker::open();
    let packed = tar_of(&[Member::file("x", b"x").owner(0)]);
    unpack(&mut worker, &order(Format::Tar, &packed), &packed).expect("unpacked");
    assert_eq!(worker.run(shell("stat -c %u x")).text(), format!("{UID}\n"));
    let mut worker = Worker::open();
    unpack(&mut worker, &order(Format::Tar, &packed), &packed).expect("unpacked");
    worker.send(&Command::File(envicutor_protocol::File {
        path: "late".into(),
        executable: false,
        append: false,
        data: Vec::new(),
    }));
    match worker.receive() {
        Some(Report::Failed { error, .. }) => assert!(error.contains("out of order"), "{error}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_comes_first_may_only_be_a_task() {
    let mut worker = Worker::open();
    let limits = shell("").limits;
    worker.send(&Command::Tool(Box::new(Tool {
        limits,
        stdin: Stdin {
            data: b"\0\0\0\x01\xc1".to_vec(),
            last: true,
        },
    })));
    let outcome = worker.collect(&[]);
    assert_eq!(outcome.ended.exit, Exit::Code(1), "{outcome:?}");
    assert_ok(&worker.run(shell("true")));
}
