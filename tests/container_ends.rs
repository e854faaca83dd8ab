//! The outer wall: however a container, its worker, its image or the Engine ends, nothing is left and nobody hangs. Against a
//! real Engine and the real agent.

#![allow(clippy::unwrap_used)]

mod container_bed;

use std::{
    fs,
    os::unix::net::UnixListener,
    path::Path,
    time::{Duration, Instant},
};

use container_bed::{
    Bed, Line, PATIENCE, docker, file, image, own, random, run, shell, slowly, sockets, start,
    text, whole,
};
use envicutor::{
    container::{ContainerError, Feed, Observed, Request},
    submission::{result::FailureCode, units::Micros},
};

#[tokio::test]
async fn a_destroyed_container_is_gone_and_so_is_a_dropped_one() {
    let bed = Bed::new().await;
    let destroyed = bed.take().await;
    let dropped = bed.take().await;
    bed.await_running(2).await;
    destroyed.end().await;
    drop(dropped);
    bed.await_running(0).await;
    bed.end().await;
}

#[tokio::test]
async fn a_run_that_is_dropped_ends_with_its_container() {
    let bed = Bed::new().await;
    let mut container = bed.ready().await;
    let stage = shell("sleep 100");
    let mut ignore = |_: Observed<'_>| {};
    let run = container.run(&stage, Feed::EMPTY, PATIENCE, &mut ignore);
    let cut = tokio::time::timeout(Duration::from_millis(300), run).await;
    assert!(cut.is_err(), "{cut:?}");
    // It cannot be used any more, only destroyed.
    let error = container
        .run(&shell("true"), Feed::EMPTY, PATIENCE, &mut |_| {})
        .await
        .unwrap_err();
    assert_eq!(error.code(), FailureCode::Internal);
    container.end().await;
    bed.await_running(0).await;
    bed.end().await;
}

#[tokio::test]
async fn an_agent_that_is_killed_is_our_failure() {
    let bed = Bed::new().await;
    let mut container = bed.ready().await;
    let name = container.name().to_owned();
    let stage = shell("sleep 100");
    let mut ignore = |_: Observed<'_>| {};
    let run = container.run(&stage, Feed::EMPTY, PATIENCE, &mut ignore);
    let kill = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        bed.docker.kill_container(&name, None).await.unwrap();
    };
    let (finished, ()) = tokio::join!(run, kill);
    let error = finished.unwrap_err();
    assert!(matches!(error, ContainerError::AgentGone(_)), "{error}");
    assert_eq!(error.code(), FailureCode::Agent);
    assert!(!error.is_outage());
    drop(container);
    bed.end().await;
}

#[tokio::test]
async fn a_missing_image_is_named_and_charged_to_the_image() {
    let bed = Bed::new().await;
    let request = Request {
        image: format!("sha256:{}", "0".repeat(64)),
        ..bed.request()
    };
    let error = bed.containers.take(&request).await.map(drop).unwrap_err();
    assert!(
        matches!(error, ContainerError::ImageMissing { .. }),
        "{error}"
    );
    assert_eq!(error.code(), FailureCode::Image);
    bed.end().await;
}

#[tokio::test]
async fn an_image_with_volumes_is_refused() {
    let bed = Bed::new().await;
    let image = image(&bed.docker, "containertest-volumes", &["VOLUME /data"]).await;
    let request = Request {
        image,
        ..bed.request()
    };
    let error = bed.containers.take(&request).await.map(drop).unwrap_err();
    assert!(error.to_string().contains("/data"), "{error}");
    assert_eq!(error.code(), FailureCode::Image);
    bed.end().await;
}

#[tokio::test]
async fn what_an_image_declares_changes_nothing() {
    let bed = Bed::new().await;
    let changes = [
        "ENTRYPOINT [\"/bin/false\"]",
        "CMD [\"x\"]",
        "ENV LD_PRELOAD=/evil.so",
        "USER 12345",
        "WORKDIR /nowhere",
        "HEALTHCHECK --interval=1s CMD touch /tmp/health",
    ];
    let image = image(&bed.docker, "containertest-declares", &changes).await;
    let request = Request {
        image,
        ..bed.request()
    };
    let mut container = bed.containers.take(&request).await.unwrap();
    container.lay_out(&[]).await.unwrap();
    let finished = run(
        &mut container,
        &shell("sleep 2; ls /tmp; pwd; echo $LD_PRELOAD"),
    )
    .await;
    assert_eq!(text(&finished.stdout), "/work\n\n");
    drop(container);
    bed.end().await;
}

#[tokio::test]
async fn a_worker_removes_what_a_dead_one_left_and_nothing_of_a_live_one() {
    let bed = Bed::new().await;
    // The live one.
    let alive = bed.take().await;
    // The dead one: nobody holds its lock.
    let dead_dir = bed.root.path().join("w0");
    fs::create_dir_all(dead_dir.join("c/abc")).unwrap();
    fs::write(dead_dir.join("lock"), "").unwrap();
    // It died between creating and starting one, and another runs.
    let created = leave_a_container(&bed, &dead_dir).await;
    let running = leave_a_container(&bed, &dead_dir).await;
    bed.docker.start_container(&running, None).await.unwrap();
    assert_eq!(bed.own().await.len(), 3);

    let newcomer = start(&bed.docker, &bed.host, &bed.root.path().join("w2"), |_| {})
        .await
        .unwrap();
    let now: Vec<_> = bed.own().await.into_iter().filter_map(|it| it.id).collect();
    assert_eq!(now.len(), 1, "{now:?}");
    assert!(![created, running].contains(&now[0]));
    assert!(!dead_dir.exists());
    assert!(bed.root.path().join("w1").exists());

    newcomer.close().await;
    alive.end().await;
    bed.end().await;
}

/// A container that was created and not started, with a dead worker's labels.
async fn leave_a_container(bed: &Bed, state_dir: &Path) -> String {
    let lock = state_dir.join("lock").to_string_lossy().into_owned();
    let labels = [
        ("envicutor", "1"),
        ("envicutor.host", &bed.host),
        ("envicutor.worker", "w0"),
        ("envicutor.lock", &lock),
    ];
    let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let body = bollard::models::ContainerCreateBody {
        image: Some(bed.image.clone()),
        cmd: Some(["/bin/sleep", "1000"].map(str::to_owned).to_vec()),
        labels: Some(labels.into()),
        ..Default::default()
    };
    let none = None::<bollard::query_parameters::CreateContainerOptions>;
    bed.docker.create_container(none, body).await.unwrap().id
}

#[tokio::test]
async fn a_worker_that_comes_back_removes_what_it_left() {
    let (docker, host) = (docker().await, format!("test-{}", random()));
    let bed = Bed::new().await;
    let dir = bed.root.path().join("back");
    fs::create_dir_all(dir.join("c/old")).unwrap();
    let again = start(&docker, &host, &dir, |_| {}).await.unwrap();
    assert!(sockets(&dir).is_empty());
    let error = start(&docker, &host, &dir, |_| {})
        .await
        .map(drop)
        .unwrap_err();
    assert!(
        matches!(error, ContainerError::DirectoryHeld { .. }),
        "{error}"
    );
    again.close().await;
    assert!(own(&docker, &host).await.is_empty());
    bed.end().await;
}

#[tokio::test]
async fn an_engine_that_does_not_answer_hangs_nobody() {
    let root = tempfile::tempdir().unwrap();
    let socket = root.path().join("engine.sock");
    // It listens, and says nothing.
    let _engine = UnixListener::bind(&socket).unwrap();
    let docker = bollard::Docker::connect_with_unix(
        socket.to_str().unwrap(),
        60,
        bollard::API_DEFAULT_VERSION,
    )
    .unwrap();
    let began = Instant::now();
    let started = start(&docker, "test-hung", &root.path().join("w"), |config| {
        config.call_timeout_us = Micros(300_000);
    })
    .await;
    let error = started.map(drop).unwrap_err();
    assert!(error.is_outage(), "{error}");
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn an_engine_that_goes_and_comes_back_leaves_nothing_behind() {
    let bed = Bed::new().await;
    let line = Line::new(bed.root.path());
    let worker = start(
        &line.docker,
        &bed.host,
        &bed.root.path().join("w3"),
        |config| {
            config.pool_size = Some(2);
        },
    )
    .await
    .unwrap();
    let container = worker.take(&bed.request()).await.unwrap();
    worker.probe().await.unwrap();
    bed.await_running(2).await;
    // Running is not ready yet.
    tokio::time::sleep(slowly(Duration::from_secs(1))).await;
    line.cut();
    assert!(worker.probe().await.unwrap_err().is_outage());
    // What waits can still be given out, and run; nothing new can be made.
    let mut pooled = worker.take(&bed.request()).await.unwrap();
    pooled.lay_out(&[]).await.unwrap();
    assert_eq!(
        text(&run(&mut pooled, &shell("echo on")).await.stdout),
        "on\n"
    );
    let error = worker.take(&bed.request()).await.map(drop).unwrap_err();
    assert!(error.is_outage(), "{error}");
    container.end().await;
    pooled.end().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    line.mend();
    worker.probe().await.unwrap();
    worker.close().await;
    let left = bed.own().await;
    assert!(left.is_empty(), "{left:?}");
    assert!(sockets(&bed.root.path().join("w3")).is_empty());
    bed.end().await;
}

#[tokio::test]
async fn containers_that_are_forgotten_instead_of_closed_are_removed() {
    let bed = Bed::new().await;
    let worker = start(
        &bed.docker,
        &bed.host,
        &bed.root.path().join("w4"),
        |config| {
            config.pool_size = Some(2);
        },
    )
    .await
    .unwrap();
    let container = worker.take(&bed.request()).await.unwrap();
    bed.await_running(2).await;
    drop(worker);
    bed.await_running(1).await;
    drop(container);
    bed.await_running(0).await;
    bed.end().await;
}

#[tokio::test]
async fn a_container_can_be_used_from_any_task() {
    let bed = Bed::new().await;
    let (containers, request) = (bed.containers.clone(), bed.request());
    let task = tokio::spawn(async move {
        let mut container = containers.take(&request).await.unwrap();
        container.lay_out(&[file("a", b"b")]).await.unwrap();
        let mut ignore = |_: Observed<'_>| {};
        let stage = shell("cat a");
        let finished = container
            .run(&stage, Feed::EMPTY, PATIENCE, &mut ignore)
            .await
            .unwrap();
        container.end().await;
        whole(finished).await.stdout
    });
    assert_eq!(task.await.unwrap(), b"b");
    bed.end().await;
}

#[tokio::test]
async fn an_engine_that_is_gone_is_an_outage() {
    let root = tempfile::tempdir().unwrap();
    let socket = root.path().join("engine.sock");
    drop(UnixListener::bind(&socket).unwrap());
    let docker = bollard::Docker::connect_with_unix(
        socket.to_str().unwrap(),
        60,
        bollard::API_DEFAULT_VERSION,
    )
    .unwrap();
    let started = start(&docker, "test-gone", &root.path().join("w"), |_| {}).await;
    let error = started.map(drop).unwrap_err();
    assert!(error.is_outage(), "{error}");
    assert_eq!(error.code(), FailureCode::Container);
}

#[tokio::test]
async fn a_runtime_that_the_engine_has_not_got_is_told_at_the_start() {
    let root = tempfile::tempdir().unwrap();
    let engine = docker().await;
    let state_dir = root.path().join("w");
    let started = start(&engine, "test-runtime", &state_dir, |config| {
        config.oci_runtime = Some("none-such".to_owned());
    });
    let error = started.await.map(drop).unwrap_err().to_string();
    for part in ["\"none-such\"", "container.oci_runtime", "it has ", "runc"] {
        assert!(error.contains(part), "{part}: {error}");
    }
}
