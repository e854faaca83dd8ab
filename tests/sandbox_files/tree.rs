//! A tree of many files, through a pack and an unpack.
//!
//! `ENVICUTOR_TEST_TREE=20000,512` is a tree of so many files, of so many mebibytes in all.

use std::{io::Write, sync::Arc, time::Instant};

use envicutor::{
    container::{Faith, Feed, Format, Pack, Request, Unpack},
    submission::units::ByteSize,
};
use envicutor_protocol::Exit;
use tokio::io::AsyncReadExt as _;

use crate::{
    MIB,
    container_bed::{Bed, run, shell, text},
    end, how,
};

/// How many files there are, and of how many mebibytes in all.
fn extent() -> (u64, u64) {
    let Ok(wanted) = std::env::var("ENVICUTOR_TEST_TREE") else {
        return (3_000, 24);
    };
    let (files, mebibytes) = wanted.split_once(',').expect("two numbers");
    let number = |text: &str| text.parse().expect("a number");
    (number(files), number(mebibytes))
}

#[tokio::test]
async fn a_tree_of_thousands_of_files_is_packed_and_unpacked() {
    let (files, mebibytes) = extent();
    let grown = |config: &mut envicutor::config::Container| {
        config.tool_wall_time_us.0 = 600_000_000;
    };
    for bed in [Bed::with(grown).await, Bed::of_slots(grown).await] {
        let request = Request {
            disk_bytes: ByteSize((mebibytes + 16) * MIB * 9 / 8),
            inodes: files + files / 100 + 10,
            ..bed.request()
        };
        let entries = request.inodes;
        let most = Pack {
            entries,
            bytes: ByteSize((mebibytes + 16) * MIB + files * 1024),
        };
        let mut first = bed.containers.take(&request).await.unwrap();
        first.lay_out(&[]).await.unwrap();
        let each = mebibytes * MIB / files;
        let mut stage = shell(&format!(
            "head -c {each} /dev/urandom > x; i=0; while [ $i -lt {files} ]; do d=d$((i / 100)); [ -d $d ] || mkdir $d; \
             cp x $d/$i; i=$((i + 1)); done; rm x"
        ));
        stage.limits.memory_bytes = ByteSize((mebibytes + 64) * 2 * MIB);
        stage.limits.cpu_time_us.0 *= 60;
        stage.limits.wall_time_us.0 *= 30;
        let ran = run(&mut first, &stage).await;
        assert_eq!(
            ran.ended.exit,
            Exit::Code(0),
            "{:?} {}",
            ran.ended,
            text(&ran.stderr)
        );
        let began = Instant::now();
        let packed = first.pack(&most).await.unwrap().unwrap();
        let packing = began.elapsed();
        first.end().await;
        let mut second = bed.containers.take(&request).await.unwrap();
        second.lay_out(&[]).await.unwrap();
        let mut artifact = tempfile::tempfile().unwrap();
        let mut reader = packed.data.reader();
        let mut part = vec![0; 1 << 20];
        loop {
            let count = reader.read(&mut part).await.unwrap();
            if count == 0 {
                break;
            }
            artifact.write_all(&part[..count]).unwrap();
        }
        let how = Unpack {
            faith: Faith::Packed,
            entries,
            bytes: request.disk_bytes,
            ..how(Format::Tar)
        };
        let began = Instant::now();
        let archive = Feed::File(Arc::new(artifact), packed.data.len());
        let done = second.unpack(archive, &how).await.unwrap().unwrap();
        println!(
            "{:?}: {files} files, {mebibytes} MiB: packed in {packing:?}, unpacked in {:?}, {} MiB resident in this process at most",
            bed.containers.isolation(),
            began.elapsed(),
            peak_mebibytes()
        );
        assert_eq!(done.bytes.0, each * files);
        let mut stage = shell("find . -type f | wc -l; cat d*/* | wc -c");
        stage.limits.wall_time_us.0 *= 10;
        let ran = run(&mut second, &stage).await;
        assert_eq!(text(&ran.stdout), format!("{files}\n{}\n", each * files));
        end(bed, second).await;
    }
}

/// The most memory that this process ever had resident.
fn peak_mebibytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|it| it.starts_with("VmHWM:")).unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    words[1].parse::<u64>().unwrap() / 1024
}
