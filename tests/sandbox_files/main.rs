//! Files on their way into a sandbox and out of it, in both isolations: streamed, unpacked, collected and packed by a real agent in a
//! real container. What an archive may hold is tested with the agent (`crates/agent/tests/archives.rs`): here, that it arrives.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../container_bed/mod.rs"]
mod container_bed;
mod tree;

use std::{
    io::{Seek, SeekFrom, Write},
    sync::Arc,
};

use container_bed::{Bed, file, run, run_with, shell, text, whole};
use envicutor::{
    container::{
        Collect, Faith, Feed, Format, LaidOut, Pack, Refused, Request, Sandbox, Unpack, Unpacked,
    },
    submission::{names::Digest, units::ByteSize},
};
use envicutor_protocol::{Exit, Killed};
use tokio::io::AsyncReadExt as _;

const MIB: u64 = 1 << 20;

/// A bed of each isolation.
async fn beds() -> [Bed; 2] {
    [Bed::new().await, Bed::of_slots(|_| {}).await]
}

/// A sandbox with room in its work directory.
async fn roomy(bed: &Bed) -> Sandbox {
    let request = Request {
        disk_bytes: ByteSize(48 * MIB),
        inodes: 4_000,
        ..bed.request()
    };
    bed.containers.take(&request).await.unwrap()
}

fn how(format: Format) -> Unpack {
    Unpack {
        format,
        strip_components: 0,
        faith: Faith::Plain,
        entries: 4_000,
        bytes: ByteSize(48 * MIB),
    }
}

async fn unpack(sandbox: &mut Sandbox, archive: &[u8], how: &Unpack) -> Result<Unpacked, Refused> {
    sandbox.unpack(Feed::Slice(archive), how).await.unwrap()
}

fn tar(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, data) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o755);
        header.set_size(data.len() as u64);
        // As it is, also where no honest archive has it.
        let name = &mut header.as_old_mut().name;
        name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        tar.append(&header, *data).unwrap();
    }
    tar.into_inner().unwrap()
}

/// A file of so many mebibytes, none of which is like another.
fn large(mebibytes: u64) -> std::fs::File {
    let mut file = tempfile::tempfile().unwrap();
    for number in 0..mebibytes {
        let block: Vec<u8> = (0..MIB / 8)
            .flat_map(|it| (number << 32 | it).to_le_bytes())
            .collect();
        file.write_all(&block).unwrap();
    }
    file.seek(SeekFrom::Start(0)).unwrap();
    file
}

async fn end(bed: Bed, sandbox: Sandbox) {
    sandbox.end().await;
    bed.end().await;
}

#[tokio::test]
async fn a_large_file_goes_in_and_out_in_parts() {
    for bed in beds().await {
        let mut sandbox = roomy(&bed).await;
        let data = Arc::new(large(20));
        let laid_out = LaidOut {
            path: "in/large",
            executable: false,
            data: Feed::File(Arc::clone(&data), 20 * MIB),
        };
        sandbox
            .lay_out(&[file("small", b"s"), laid_out])
            .await
            .unwrap();
        let mut stage =
            shell("md5sum in/large | cut -c1-32; md5sum | cut -c1-32; cat in/large >&2");
        stage.limits.output_bytes = ByteSize(32 * MIB);
        let input = Feed::File(Arc::clone(&data), 20 * MIB);
        let finished = run_with(&mut sandbox, &stage, input).await;
        assert_eq!(finished.ended.exit, Exit::Code(0), "{:?}", finished.ended);
        assert_eq!(finished.stderr.len(), 20 * MIB);
        assert!(finished.stderr.in_memory().is_none());
        let expected = Feed::File(Arc::clone(&data), 20 * MIB);
        let exact = envicutor::submission::compare::Compare::Exact;
        assert!(finished.stderr.holds(exact, expected).await.unwrap());
        let ran = whole(finished).await;
        let sums: Vec<String> = text(&ran.stdout).lines().map(str::to_owned).collect();
        assert_eq!(sums[0], sums[1]);
        end(bed, sandbox).await;
    }
}

#[tokio::test]
async fn a_file_that_is_too_short_is_a_failure_of_ours() {
    for bed in beds().await {
        let mut sandbox = roomy(&bed).await;
        let data = Feed::File(Arc::new(large(1)), 2 * MIB);
        let laid_out = LaidOut {
            data,
            ..file("x", b"")
        };
        let error = sandbox.lay_out(&[laid_out]).await.unwrap_err().to_string();
        assert!(error.contains("cannot be read"), "{error}");
        end(bed, sandbox).await;
    }
}

#[tokio::test]
async fn an_archive_is_there_when_the_first_stage_begins() {
    for bed in beds().await {
        let mut sandbox = roomy(&bed).await;
        sandbox
            .lay_out(&[file("src/main", b"echo main")])
            .await
            .unwrap();
        let data = vec![b'x'; 3 << 20];
        let archive = tar(&[
            ("src/data", &data),
            (
                "run",
                b"#!/bin/sh\nsh src/main; wc -c < src/data; id -u; stat -c %u run",
            ),
        ]);
        let done = unpack(&mut sandbox, &archive, &how(Format::Tar))
            .await
            .unwrap();
        assert_eq!((done.entries, done.bytes.0 >> 20), (2, 3));
        let ran = run(&mut sandbox, &shell("./run")).await;
        let said = text(&ran.stdout);
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(
            lines[..2],
            ["main", "3145728"],
            "{said} {}",
            text(&ran.stderr)
        );
        // It belongs to the stages' user.
        assert_eq!(lines[2], lines[3]);
        end(bed, sandbox).await;
    }
}

#[tokio::test]
async fn an_archive_entry_that_escapes_is_refused_and_the_slot_serves_on() {
    for bed in beds().await {
        for (name, reason) in [("../x", "leads out"), ("/tmp/x", "absolute")] {
            let mut sandbox = roomy(&bed).await;
            sandbox.lay_out(&[]).await.unwrap();
            let archive = tar(&[("fine", b"f"), (name, b"x")]);
            let refused = unpack(&mut sandbox, &archive, &how(Format::Tar))
                .await
                .unwrap_err();
            assert_eq!(refused.entry, name);
            assert!(refused.to_string().contains(reason), "{refused}");
            sandbox.end().await;
        }
        let mut sandbox = roomy(&bed).await;
        sandbox.lay_out(&[]).await.unwrap();
        let ran = run(&mut sandbox, &shell("ls -A /work /tmp; echo well")).await;
        assert_eq!(text(&ran.stdout), "/tmp:\n\n/work:\nwell\n");
        end(bed, sandbox).await;
    }
}

#[tokio::test]
async fn a_file_of_the_submission_is_not_overwritten_by_an_archive() {
    for bed in beds().await {
        let mut sandbox = roomy(&bed).await;
        sandbox.lay_out(&[file("main", b"mine")]).await.unwrap();
        let archive = tar(&[("main", b"other")]);
        let refused = unpack(&mut sandbox, &archive, &how(Format::Tar))
            .await
            .unwrap_err();
        assert!(
            refused.to_string().contains("is there already"),
            "{refused}"
        );
        end(bed, sandbox).await;
    }
}

#[tokio::test]
async fn a_bomb_is_refused_and_the_slot_serves_on() {
    for bed in beds().await {
        let mut sandbox = roomy(&bed).await;
        sandbox.lay_out(&[]).await.unwrap();
        // Through gzip, by busybox itself: 40 MiB of nothing.
        let zeros = vec![0; 40 << 20];
        let mut stage = shell("cat > x; tar -cz x 2>/dev/null");
        stage.limits.memory_bytes = ByteSize(128 * MIB);
        let input = Feed::Slice(&zeros);
        let bomb = whole(run_with(&mut sandbox, &stage, input).await)
            .await
            .stdout;
        assert!(bomb.len() > 100 && bomb.len() < 100_000, "{}", bomb.len());
        sandbox.end().await;
        let mut sandbox = roomy(&bed).await;
        sandbox.lay_out(&[]).await.unwrap();
        let refused = unpack(&mut sandbox, &bomb, &how(Format::TarGz))
            .await
            .unwrap_err();
        assert!(refused.reason.contains("more than 200 times"), "{refused}");
        end(bed, sandbox).await;
    }
}

#[tokio::test]
async fn an_archive_that_takes_more_memory_than_its_reader_has_is_refused() {
    for bed in [
        Bed::with(|config| config.tool_memory_bytes = ByteSize(4 * MIB)).await,
        Bed::of_slots(|config| config.tool_memory_bytes = ByteSize(4 * MIB)).await,
    ] {
        let mut sandbox = roomy(&bed).await;
        sandbox.lay_out(&[]).await.unwrap();
        // A name of 16 MiB.
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::GNULongName);
        header.set_size(16 * MIB);
        header.set_cksum();
        let mut archive = header.as_bytes().to_vec();
        archive.resize(archive.len() + (16 << 20), b'a');
        let refused = unpack(&mut sandbox, &archive, &how(Format::Tar))
            .await
            .unwrap_err();
        assert!(!refused.reason.is_empty());
        sandbox.end().await;
        let mut sandbox = roomy(&bed).await;
        sandbox.lay_out(&[]).await.unwrap();
        assert_eq!(
            text(&run(&mut sandbox, &shell("echo well")).await.stdout),
            "well\n"
        );
        end(bed, sandbox).await;
    }
}

#[tokio::test]
async fn an_archive_that_takes_too_long_is_refused() {
    for bed in [
        Bed::with(|config| config.tool_wall_time_us.0 = 1).await,
        Bed::of_slots(|config| config.tool_wall_time_us.0 = 1).await,
    ] {
        let mut sandbox = roomy(&bed).await;
        sandbox.lay_out(&[]).await.unwrap();
        let data = vec![1; 16 << 20];
        let archive = tar(&[("x", &data)]);
        let refused = unpack(&mut sandbox, &archive, &how(Format::Tar))
            .await
            .unwrap_err();
        assert!(refused.reason.contains("takes longer than"), "{refused}");
        end(bed, sandbox).await;
    }
}

#[tokio::test]
async fn files_that_match_are_collected_and_links_are_not_followed() {
    for bed in beds().await {
        let mut sandbox = roomy(&bed).await;
        sandbox.lay_out(&[]).await.unwrap();
        let left = "mkdir -p out/deep; echo a > out/a.txt; head -c 3000000 /dev/zero > out/large.txt; chmod +x out/a.txt; \
                    ln -s /proc/self/environ out/env.txt; ln -s /etc out/etc; mkfifo out/pipe.txt; echo d > out/deep/d.txt; \
                    ln -s /proc out/proc";
        let ran = run(&mut sandbox, &shell(left)).await;
        assert_eq!(ran.ended.exit, Exit::Code(0), "{}", text(&ran.stderr));
        let patterns = [
            "out/*.txt",
            "out/etc/passwd",
            "out/proc/1/environ",
            "out/**/d.txt",
        ];
        let collected = sandbox
            .collect(&Collect {
                patterns: patterns.map(str::to_owned).to_vec(),
                max_files: 5,
                max_bytes: ByteSize(8 * MIB),
                entries: 4_000,
            })
            .await
            .unwrap();
        let names: Vec<&str> = collected.files.iter().map(|it| &*it.path).collect();
        assert_eq!(names, ["out/a.txt", "out/deep/d.txt", "out/large.txt"]);
        assert!(collected.files[0].executable && !collected.files[1].executable);
        for (index, content) in [
            (0, b"a\n".to_vec()),
            (1, b"d\n".to_vec()),
            (2, vec![0; 3_000_000]),
        ] {
            let file = &collected.files[index];
            let mut read = Vec::new();
            collected.reader(file).read_to_end(&mut read).await.unwrap();
            assert!(read == content, "{file:?}");
            assert_eq!(file.digest, Digest::of(&content));
            assert_eq!(file.size_bytes.0, content.len() as u64);
        }
        let skipped: Vec<(&str, &str)> = collected
            .skipped
            .iter()
            .map(|it| (&*it.path, &*it.reason))
            .collect();
        for expected in [
            ("out/env.txt", "is a symbolic link"),
            ("out/pipe.txt", "is no regular file"),
            ("out/etc/passwd", "matches no file"),
            ("out/proc/1/environ", "matches no file"),
        ] {
            assert!(skipped.contains(&expected), "{skipped:?}");
        }
        end(bed, sandbox).await;
    }
}

#[tokio::test]
async fn a_program_that_filled_its_memory_with_files_has_them_collected() {
    for bed in beds().await {
        let mut sandbox = roomy(&bed).await;
        sandbox.lay_out(&[]).await.unwrap();
        let mut stage = shell("head -c 40000000 /dev/zero > large; echo small > small");
        stage.limits.memory_bytes = ByteSize(44 * MIB);
        let ran = run(&mut sandbox, &stage).await;
        assert_eq!(
            (ran.ended.exit, ran.ended.killed),
            (Exit::Code(0), None::<Killed>)
        );
        let what = Collect {
            patterns: vec!["*".to_owned()],
            max_files: 5,
            max_bytes: ByteSize(MIB),
            entries: 10,
        };
        let collected = sandbox.collect(&what).await.unwrap();
        let names: Vec<&str> = collected.files.iter().map(|it| &*it.path).collect();
        assert_eq!(names, ["small"], "{:?}", collected.skipped);
        end(bed, sandbox).await;
    }
}

#[tokio::test]
async fn a_build_is_packed_in_one_sandbox_and_runs_in_another() {
    for bed in beds().await {
        let mut first = roomy(&bed).await;
        first
            .lay_out(&[file("source", b"echo built")])
            .await
            .unwrap();
        let build = "cp source program; chmod 755 program; ln -s program link; mkdir -p d/e; echo x > d/e/f; chmod 500 d; ln -s /bin/sh sh; \
                     touch -d @1000000000 source";
        let ran = run(&mut first, &shell(build)).await;
        assert_eq!(ran.ended.exit, Exit::Code(0), "{}", text(&ran.stderr));
        let most = Pack {
            entries: 4_000,
            bytes: ByteSize(48 * MIB),
        };
        let packed = first.pack(&most).await.unwrap().unwrap();
        // The first one goes on.
        assert_eq!(
            text(&run(&mut first, &shell("./sh ./link")).await.stdout),
            "built\n"
        );
        first.end().await;
        let mut artifact = Vec::new();
        packed
            .data
            .reader()
            .read_to_end(&mut artifact)
            .await
            .unwrap();
        assert_eq!(packed.digest, Digest::of(&artifact));
        let mut second = roomy(&bed).await;
        second.lay_out(&[]).await.unwrap();
        let how = Unpack {
            faith: Faith::Packed,
            ..how(Format::Tar)
        };
        unpack(&mut second, &artifact, &how).await.unwrap();
        let look = "./sh ./link; cat d/e/f; stat -c %a d program; stat -c %Y source";
        let ran = run(&mut second, &shell(look)).await;
        assert_eq!(text(&ran.stdout), "built\nx\n500\n755\n1000000000\n");
        // It is kept and laid out again as any build.
        assert!(second.keep(ByteSize(48 * MIB)).await.unwrap());
        run(&mut second, &shell("chmod 700 d; rm -r d source")).await;
        assert_eq!(
            text(&run(&mut second, &shell(look)).await.stdout),
            "built\nx\n500\n755\n1000000000\n"
        );
        second.end().await;
        bed.end().await;
    }
}

#[tokio::test]
async fn what_is_more_than_may_be_packed_is_refused_and_the_sandbox_goes_on() {
    for bed in beds().await {
        let mut sandbox = roomy(&bed).await;
        sandbox.lay_out(&[]).await.unwrap();
        run(&mut sandbox, &shell("head -c 2000000 /dev/zero > x")).await;
        let most = Pack {
            entries: 10,
            bytes: ByteSize(MIB),
        };
        let refused = sandbox.pack(&most).await.unwrap().unwrap_err();
        assert!(
            refused.to_string().contains("more than may be packed"),
            "{refused}"
        );
        assert_eq!(
            text(&run(&mut sandbox, &shell("wc -c < x")).await.stdout),
            "2000000\n"
        );
        end(bed, sandbox).await;
    }
}
