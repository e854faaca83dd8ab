//! The root file systems of runtimes in their volume, against a real Docker Engine.

#![allow(clippy::unwrap_used)]

mod container_bed;

use std::{
    collections::HashMap,
    fs,
    time::{Duration, Instant},
};

use bollard::{
    models::{ContainerCreateBody, HostConfig, Mount, MountType},
    query_parameters::{
        ContainerArchiveInfoOptionsBuilder, CreateContainerOptionsBuilder, EventsOptionsBuilder,
        RemoveImageOptionsBuilder, UploadToContainerOptionsBuilder,
    },
};
use container_bed::{Bed, PATIENCE, image, run, shell, slowly, slowly_us, start, text};
use envicutor::{
    config::IsolationChoice,
    container::{Request, Sandbox},
};
use futures_util::StreamExt;

const ROOTS: &str = "/envicutor/runtimes";

fn digits(bed: &Bed) -> String {
    bed.image.strip_prefix("sha256:").unwrap().to_owned()
}

async fn output(mut sandbox: Sandbox, script: &str) -> String {
    sandbox.lay_out(&[]).await.unwrap();
    let finished = run(&mut sandbox, &shell(script)).await;
    sandbox.end().await;
    text(&finished.stdout)
}

/// What the Engine tells of its events of the `kind`, of containers of the bed, since then.
async fn events(bed: &Bed, kind: &str, since: i64) -> Vec<HashMap<String, String>> {
    let host = format!("envicutor.host={}", bed.host);
    let filters = [("label", host), ("event", kind.to_owned())];
    let options = EventsOptionsBuilder::default()
        .since(&since.to_string())
        .until(&(time::OffsetDateTime::now_utc().unix_timestamp() + 1).to_string())
        .filters(&filters.map(|(name, value)| (name, vec![value])).into())
        .build();
    let events: Vec<_> = bed.docker.events(Some(options)).collect().await;
    let attributes = events
        .into_iter()
        .filter_map(|event| event.unwrap().actor?.attributes);
    attributes.collect()
}

/// A container of another worker's, by which it holds the root: its lock is free, so that worker is dead.
async fn leave_half_a_root(bed: &Bed) {
    let dead = bed.root.path().join("w0");
    fs::create_dir_all(&dead).unwrap();
    fs::write(dead.join("lock"), "").unwrap();
    let (volume, name) = (&bed.volumes[0], digits(bed));
    let body = ContainerCreateBody {
        image: Some(bed.image.clone()),
        cmd: Some(vec!["/bin/true".to_owned()]),
        labels: Some(HashMap::from([
            ("envicutor".to_owned(), "1".to_owned()),
            ("envicutor.host".to_owned(), bed.host.clone()),
            (
                "envicutor.lock".to_owned(),
                dead.join("lock").display().to_string(),
            ),
        ])),
        host_config: Some(HostConfig {
            mounts: Some(vec![Mount {
                typ: Some(MountType::VOLUME),
                source: Some(volume.clone()),
                target: Some(ROOTS.to_owned()),
                ..Default::default()
            }]),
            ..Default::default()
        }),
        ..Default::default()
    };
    let container = format!("{volume}-{name}");
    let options = CreateContainerOptionsBuilder::default()
        .name(&container)
        .build();
    bed.docker
        .create_container(Some(options), body)
        .await
        .unwrap();
    let mut tar = tar::Builder::new(Vec::new());
    for path in [format!("begun/{name}"), format!("{name}/junk")] {
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        header.set_mode(0o400);
        header.set_uid(77);
        tar.append_data(&mut header, path, &b""[..]).unwrap();
    }
    let options = UploadToContainerOptionsBuilder::default()
        .path(ROOTS)
        .build();
    let body = bollard::body_full(tar.into_inner().unwrap().into());
    bed.docker
        .upload_to_container(&container, Some(options), body)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_root_that_a_dead_worker_left_half_filled_is_filled_anew() {
    let bed = Bed::of_roots(|_| {}).await;
    leave_half_a_root(&bed).await;
    let said = output(
        bed.take().await,
        "ls /; ls /dev; touch /x || echo read-only",
    )
    .await;
    assert_eq!(
        said,
        "bin\ndev\netc\nproc\nsys\ntmp\nwork\nfd\nfull\nnull\nrandom\nshm\nstderr\nstdin\nstdout\nurandom\nzero\nread-only\n"
    );
    bed.end().await;
}

#[tokio::test]
async fn a_fill_that_is_cut_off_leaves_nothing_that_is_taken_for_whole() {
    let bed = Bed::of_roots(|_| {}).await;
    for wait in [50, 100, 200, 300] {
        let request = bed.request();
        let take = bed.containers.take(&request);
        let _ = tokio::time::timeout(Duration::from_millis(wait), take).await;
    }
    assert_eq!(
        output(bed.take().await, "ls /bin | wc -l; echo well")
            .await
            .lines()
            .last(),
        Some("well")
    );
    bed.end().await;
}

#[tokio::test]
async fn two_workers_at_once_fill_a_root_once() {
    let bed = Bed::of_roots(|_| {}).await;
    let since = time::OffsetDateTime::now_utc().unix_timestamp() - 1;
    let other = start(
        &bed.docker,
        &bed.host,
        &bed.root.path().join("w2"),
        |config| {
            config.isolation = IsolationChoice::Sandbox;
            config.runtimes_volume.clone_from(&bed.volumes[0]);
        },
    )
    .await
    .unwrap();
    let request = bed.request();
    let (first, second) = tokio::join!(bed.containers.take(&request), other.take(&request));
    for sandbox in [first.unwrap(), second.unwrap()] {
        assert_eq!(output(sandbox, "echo well").await, "well\n");
    }
    let created = events(&bed, "create", since).await;
    let images = created
        .iter()
        .filter_map(|attributes| attributes.get("image"));
    // The containers that the image was exported of.
    assert_eq!(images.filter(|image| **image == bed.image).count(), 1);
    other.close().await;
    bed.end().await;
}

fn docker(arguments: &[&str]) -> String {
    let output = std::process::Command::new("docker")
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    text(&output.stdout).trim().to_owned()
}

/// The id of an image with a file of four huge pages and a half.
fn with_large_file(bed: &Bed) -> String {
    let name = format!("containertest-{}", container_bed::random());
    let dd = ["dd", "if=/dev/urandom", "of=/large", "bs=1M", "count=9"];
    let run = ["run", "--network", "none", "--name", &name, &bed.image];
    docker(&[run.as_slice(), dd.as_slice()].concat());
    let image = docker(&["commit", &name]);
    docker(&["rm", &name]);
    image
}

/// Whether the volumes of this machine can have huge pages for certain: on ext4, since Linux 6.16.
async fn has_huge_pages(bed: &Bed) -> bool {
    let volume = bed.docker.inspect_volume(&bed.volumes[0]).await.unwrap();
    let file_system = std::process::Command::new("stat")
        .args(["--file-system", "--format", "%T", &volume.mountpoint])
        .output()
        .unwrap();
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map_while(|it| it.parse::<u32>().ok());
    let is_recent = (numbers.next(), numbers.next()) >= (Some(6), Some(16));
    text(&file_system.stdout).trim() == "ext2/ext3" && is_recent
}

#[tokio::test]
async fn the_large_files_of_a_root_are_brought_into_huge_pages() {
    let bed = Bed::of_roots(|_| {}).await;
    let since = time::OffsetDateTime::now_utc().unix_timestamp() - 1;
    let image = with_large_file(&bed);
    let request = Request {
        image: image.clone(),
        ..bed.request()
    };
    let sandbox = bed.containers.take(&request).await.unwrap();
    assert_eq!(output(sandbox, "wc -c < /large").await, "9437184\n");
    let ended = events(&bed, "die", since).await;
    let of_preload = |attributes: &&HashMap<String, String>| {
        let name = attributes.get("name");
        name.is_some_and(|name| name.starts_with("envicutor-preload-"))
    };
    let codes: Vec<_> = ended
        .iter()
        .filter(of_preload)
        .map(|attributes| attributes["exitCode"].as_str())
        .collect();
    // It fails, for nothing depends on it, where the file system has none.
    let none = !has_huge_pages(&bed).await;
    assert!(codes == ["0"] || none && codes == ["1"], "{codes:?}");
    bed.end().await;
    docker(&["image", "rm", "--force", &image]);
}

/// Whether there is something at `path` in the volume, as the slot `name` sees it.
async fn is_there(bed: &Bed, slot: &str, path: &str) -> bool {
    let path = format!("{ROOTS}/{path}");
    let options = ContainerArchiveInfoOptionsBuilder::default()
        .path(&path)
        .build();
    bed.docker
        .get_container_archive_info(slot, Some(options))
        .await
        .is_ok()
}

#[tokio::test]
async fn a_root_is_collected_when_its_image_is_gone() {
    let bed = Bed::of_roots(|config| config.collect_us = slowly_us(1_000_000)).await;
    let name = format!("containertest-{}", container_bed::random());
    let gone = image(&bed.docker, &name, &[&format!("LABEL only={name}")]).await;
    let request = Request {
        image: gone.clone(),
        ..bed.request()
    };
    output(bed.take().await, "true").await;
    let sandbox = bed.containers.take(&request).await.unwrap();
    let slot = sandbox.name().to_owned();
    output(sandbox, "true").await;
    let digits = [
        digits(&bed),
        gone.strip_prefix("sha256:").unwrap().to_owned(),
    ];
    for digits in &digits {
        assert!(is_there(&bed, &slot, &format!("ready/{digits}")).await);
    }
    let options = RemoveImageOptionsBuilder::default().force(true).build();
    bed.docker
        .remove_image(&name, Some(options), None)
        .await
        .unwrap();
    let began = Instant::now();
    while is_there(&bed, &slot, &format!("begun/{}", digits[1])).await {
        assert!(began.elapsed() < slowly(PATIENCE), "the root stays");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for path in ["", "ready/"] {
        assert!(!is_there(&bed, &slot, &format!("{path}{}", digits[1])).await);
        assert!(is_there(&bed, &slot, &format!("{path}{}", digits[0])).await);
    }
    // What is in use stays in order.
    assert_eq!(output(bed.take().await, "echo well").await, "well\n");
    bed.end().await;
}
