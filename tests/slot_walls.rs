//! The outer walls of slots side by side, and what is given to their agents, against a real Docker Engine.

#![allow(clippy::unwrap_used)]

mod container_bed;

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

use container_bed::{Bed, PATIENCE, file, run, shell, slowly, text};
use envicutor::{
    config::Cgroups,
    container::{Feed, LaidOut, Observed, Sandbox},
    submission::{plan::StagePlan, units::ByteSize},
};

/// A program that takes what the kernel counts for each user, or says what there is of it.
fn neighbours() -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("neighbours");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/neighbours/neighbours.c");
    let compiled = Command::new("cc")
        .args(["-static", "-O1", "-o"])
        .args([&program, &source])
        .status()
        .expect("this test needs a C compiler: apt-get install gcc libc6-dev");
    assert!(compiled.success());
    fs::read(program).unwrap()
}

fn neighbour(what: &str) -> StagePlan {
    let mut stage = shell("");
    stage.argv = ["/work/neighbours", what].map(str::to_owned).to_vec();
    stage.limits.open_files = 4_096;
    stage.limits.memory_bytes = ByteSize(256 << 20);
    stage
}

async fn ready(bed: &Bed, tenant: &str) -> Sandbox {
    let request = envicutor::container::Request {
        tenant: tenant.parse().unwrap(),
        inodes: 1_000,
        ..bed.request()
    };
    let mut sandbox = bed.containers.take(&request).await.unwrap();
    let bytes = neighbours();
    let program = LaidOut {
        executable: true,
        ..file("neighbours", &bytes)
    };
    sandbox.lay_out(&[program]).await.unwrap();
    sandbox
}

/// While one holds all that it can get, the other has as much as if it were alone.
async fn cannot_starve_each_other(bed: Bed) {
    let mut second = ready(&bed, "bob").await;
    let alone = text(&run(&mut second, &neighbour("probe")).await.stdout);
    assert!(
        alone.starts_with("pipe 65536\ninstance ok\nwatch ok\n"),
        "{alone}"
    );
    assert!(alone.contains("old_queue ok\n"), "{alone}");
    // Keys are in no namespace, and POSIX message queues are counted for a user: nobody gets any.
    assert!(!alone.contains("\nqueue ok"), "{alone}");
    assert!(!alone.contains("key ok"), "{alone}");

    let mut first = ready(&bed, "ann").await;
    let (said, mut saying) = tokio::sync::mpsc::unbounded_channel();
    let stage = neighbour("hold");
    let mut observe = |observed: Observed<'_>| {
        if let Observed::Output { data, .. } = observed {
            said.send(text(data)).unwrap();
        }
    };
    let hold = first.run(&stage, Feed::EMPTY, slowly(PATIENCE), &mut observe);
    let probe = async {
        let holding = saying.recv().await.unwrap();
        assert!(
            holding.starts_with("holding pipes 1100 watches 500 "),
            "{holding}"
        );
        assert!(holding.ends_with(" keys 0\n"), "{holding}");
        text(&run(&mut second, &neighbour("probe")).await.stdout)
    };
    let beside = tokio::select! {
        beside = probe => beside,
        ended = hold => panic!("{ended:?}"),
    };
    assert_eq!(beside, alone);
    second.end().await;
    first.end().await;
    bed.end().await;
}

#[tokio::test]
async fn slots_cannot_starve_each_other() {
    cannot_starve_each_other(Bed::of_slots(|_| {}).await).await;
}

#[tokio::test]
async fn containers_cannot_starve_each_other() {
    cannot_starve_each_other(Bed::new().await).await;
}

/// The user that a container runs as.
async fn uid_of(bed: &Bed, sandbox: &Sandbox) -> u32 {
    let found = bed.docker.inspect_container(sandbox.name(), None).await;
    let user = found.unwrap().config.unwrap().user.unwrap();
    user.split(':').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn every_slot_has_a_uid_of_its_own_on_the_host() {
    let bed = Bed::of_slots(|_| {}).await;
    let (ann, bob) = (bed.take_for("ann").await, bed.take_for("bob").await);
    let (ann_uid, bob_uid) = (uid_of(&bed, &ann).await, uid_of(&bed, &bob).await);
    assert_ne!(ann_uid, bob_uid);
    assert!(ann_uid >= 1_000_000 && bob_uid >= 1_000_000);
    drop((ann, bob));
    bed.end().await;
}

/// Every directory and file of the host's cgroups that belongs to `uid`, but for what the agent made itself.
fn given_to(uid: u32, container: &str) -> BTreeSet<(PathBuf, String)> {
    let mut given = BTreeSet::new();
    let mut left = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_own = directory.to_string_lossy().contains(container);
            if metadata.is_dir() {
                // What is in the container's own cgroup, the agent made.
                if !is_own {
                    left.push(entry.path());
                    if metadata.uid() == uid {
                        given.insert((entry.path(), ".".to_owned()));
                        assert!(name.contains(container), "{name}");
                    }
                }
            } else if metadata.uid() == uid {
                given.insert((directory.clone(), name));
            }
        }
    }
    given
}

async fn a_stage_runs_and_nothing_but_the_named_files_is_given(cgroups: Cgroups) {
    let bed = Bed::of_slots(|config| config.cgroups = cgroups).await;
    let mut sandbox = bed.take().await;
    sandbox.lay_out(&[]).await.unwrap();
    let finished = run(&mut sandbox, &shell("echo well")).await;
    assert_eq!(text(&finished.stdout), "well\n");
    let found = bed.docker.inspect_container(sandbox.name(), None).await;
    let id = found.unwrap().id.unwrap();
    let given = given_to(uid_of(&bed, &sandbox).await, &id);
    let directories: BTreeSet<&PathBuf> = given.iter().map(|(directory, _)| directory).collect();
    let names: BTreeSet<&str> = given.iter().map(|(_, name)| name.as_str()).collect();
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        assert_eq!(directories.len(), 1, "{given:?}");
        let expected = [
            ".",
            "cgroup.procs",
            "cgroup.subtree_control",
            "cgroup.threads",
        ];
        assert_eq!(names, BTreeSet::from(expected));
    } else {
        let controllers = ["memory", "pids", "cpu"];
        let holds = |directory: &&PathBuf, name: &str| {
            directory.components().any(|it| {
                it.as_os_str()
                    .to_string_lossy()
                    .split(',')
                    .any(|it| it == name)
            })
        };
        for name in controllers {
            assert!(
                directories.iter().any(|it| holds(it, name)),
                "{name}: {given:?}"
            );
        }
        for other in ["devices", "freezer", "cpuset", "blkio", "systemd"] {
            assert!(
                !directories.iter().any(|it| holds(it, other)),
                "{other}: {given:?}"
            );
        }
        assert_eq!(names, BTreeSet::from([".", "cgroup.procs", "tasks"]));
    }
    sandbox.end().await;
    bed.end().await;
}

#[tokio::test]
async fn the_worker_itself_gives_no_more_than_the_named_files() {
    a_stage_runs_and_nothing_but_the_named_files_is_given(Cgroups::Direct).await;
}

#[tokio::test]
async fn a_helper_gives_no_more_than_the_named_files() {
    a_stage_runs_and_nothing_but_the_named_files_is_given(Cgroups::Helper).await;
}

/// A process of this test that ends with it.
struct Intruder(Child);

impl Drop for Intruder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The cgroups that stages are in, below the container's own.
fn stages_of(container: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|it| it.is_dir()) {
                continue;
            }
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("stage-") && directory.to_string_lossy().contains(container) {
                found.push(entry.path());
            }
            left.push(entry.path());
        }
    }
    found
}

#[tokio::test]
async fn a_slot_that_is_not_as_it_was_before_serves_nobody_any_more() {
    let bed = Bed::of_slots(|_| {}).await;
    let mut sandbox = bed.take().await;
    sandbox.lay_out(&[]).await.unwrap();
    run(&mut sandbox, &shell("true")).await;
    let name = sandbox.name().to_owned();
    let found = bed.docker.inspect_container(&name, None).await;
    let id = found.unwrap().id.unwrap();
    // A process that is in the stages' cgroup and should not be.
    let intruder = Intruder(Command::new("sleep").arg("1000").spawn().unwrap());
    let stages = stages_of(&id);
    assert!(!stages.is_empty());
    for stage in stages {
        fs::write(stage.join("cgroup.procs"), intruder.0.id().to_string()).unwrap();
    }
    sandbox.end().await;
    // Only when it was seen: with it, the Engine could not remove the cgroup.
    tokio::time::sleep(slowly(Duration::from_millis(500))).await;
    drop(intruder);
    let began = Instant::now();
    while bed.docker.inspect_container(&name, None).await.is_ok() {
        assert!(began.elapsed() < slowly(PATIENCE), "{name} stays");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    bed.end().await;
}
