//! The promises of the outer wall, against a real Docker Engine.

#![allow(clippy::unwrap_used)]

mod container_bed;

use std::{
    fs,
    os::unix::net::UnixListener,
    path::Path,
    time::{Duration, Instant},
};

use container_bed::{
    Bed, Line, PATIENCE, docker, file, image, own, random, run, shell, slowly, slowly_us, sockets,
    start, text,
};
use envicutor::{
    container::{ContainerError, Observed, Request},
    submission::{
        result::{FailureCode, Start},
        units::{ByteSize, Micros},
    },
};
use envicutor_protocol::{Exit, Killed};

#[tokio::test]
async fn a_stage_finds_its_files_and_its_output_comes_back() {
    let bed = Bed::new().await;
    let mut container = bed.take().await;
    assert_eq!(container.start(), Start::Cold);
    let large: Vec<u8> = (0..=255).cycle().take(150_000).collect();
    let files = [
        file("a.txt", b"hello\n"),
        file("dir/large", &large),
        file("empty", b""),
    ];
    container.lay_out(&files).await.unwrap();
    let stage = shell("pwd; cat a.txt; wc -c < dir/large; wc -c < empty; echo oops >&2; exit 3");
    let mut seen = Vec::new();
    let finished = container
        .run(&stage, PATIENCE, &mut |observed| match observed {
            Observed::Started => assert!(seen.is_empty()),
            Observed::Output { data, .. } => seen.extend_from_slice(data),
        })
        .await
        .unwrap();
    assert_eq!(text(&finished.stdout), "/work\nhello\n150000\n0\n");
    assert_eq!(text(&finished.stderr), "oops\n");
    assert_eq!(seen.len(), finished.stdout.len() + finished.stderr.len());
    assert_eq!(finished.ended.exit, Exit::Code(3));
    assert_eq!(finished.ended.killed, None);
    container.destroy().await;
    bed.end().await;
}

#[tokio::test]
async fn input_of_any_size_reaches_the_program() {
    let bed = Bed::new().await;
    let mut container = bed.ready().await;
    let mut stage = shell("md5sum; echo done");
    stage.stdin = vec![b'x'; 200 << 10];
    let finished = run(&mut container, &stage).await;
    assert_eq!(
        text(&finished.stdout),
        "d9daf97361ffa42e441bc20d64f0f973  -\ndone\n"
    );
    // A program that reads nothing of it ends all the same.
    stage.argv[2] = "echo bored".to_owned();
    let finished = run(&mut container, &stage).await;
    assert_eq!(text(&finished.stdout), "bored\n");
    drop(container);
    bed.end().await;
}

#[tokio::test]
async fn memory_past_the_limit_is_the_codes_fault() {
    let bed = Bed::new().await;
    let mut container = bed.ready().await;
    let finished = run(
        &mut container,
        &shell("dd if=/dev/zero of=/dev/null bs=190M count=1 && echo fits"),
    )
    .await;
    assert_eq!(finished.ended.killed, Some(Killed::Memory));
    // The container serves on.
    let finished = run(&mut container, &shell("echo alive")).await;
    assert_eq!(text(&finished.stdout), "alive\n");
    drop(container);
    bed.end().await;
}

#[tokio::test]
async fn processes_past_the_limit_are_refused() {
    let bed = Bed::new().await;
    let mut container = bed.ready().await;
    let mut stage = shell("for i in 1 2 3 4 5 6 7 8; do sleep 5 & done; wait");
    stage.limits.processes = 4;
    let finished = run(&mut container, &stage).await;
    assert!(finished.ended.touched.processes, "{finished:?}");
    assert!(finished.ended.processes_peak <= 4, "{finished:?}");
    drop(container);
    bed.end().await;
}

#[tokio::test]
async fn limits_change_between_stages() {
    let bed = Bed::new().await;
    let mut container = bed.ready().await;
    let mut stage = shell("dd if=/dev/zero of=/dev/null bs=90M count=1 2>/dev/null && echo fits");
    stage.limits.memory_bytes = ByteSize(256 << 20);
    let finished = run(&mut container, &stage).await;
    assert_eq!(text(&finished.stdout), "fits\n", "{finished:?}");
    stage.limits.memory_bytes = ByteSize(32 << 20);
    let finished = run(&mut container, &stage).await;
    assert_eq!(finished.ended.killed, Some(Killed::Memory));
    let mut stage = shell("sleep 0.1 & sleep 0.1 & sleep 0.1 & wait; echo all");
    stage.limits.processes = 32;
    let finished = run(&mut container, &stage).await;
    assert_eq!(text(&finished.stdout), "all\n", "{finished:?}");
    stage.limits.processes = 2;
    let finished = run(&mut container, &stage).await;
    assert!(finished.ended.touched.processes, "{finished:?}");
    drop(container);
    bed.end().await;
}

#[tokio::test]
async fn files_that_a_build_left_count_as_memory_of_its_runs() {
    let bed = Bed::new().await;
    let mut request = bed.request();
    request.disk_bytes = ByteSize(64 << 20);
    let mut container = bed.containers.take(&request).await.unwrap();
    container.lay_out(&[]).await.unwrap();
    let mut stage = shell("head -c 50000000 /dev/zero > big; echo built");
    stage.limits.memory_bytes = ByteSize(128 << 20);
    let finished = run(&mut container, &stage).await;
    assert_eq!(text(&finished.stdout), "built\n", "{finished:?}");
    stage.limits.memory_bytes = ByteSize(16 << 20);
    let finished = run(&mut container, &stage).await;
    assert_eq!(finished.ended.killed, Some(Killed::Memory));
    assert!(
        finished.ended.memory_peak_bytes > 40_000_000,
        "{finished:?}"
    );
    // And the agent is well.
    stage = shell("rm big; echo removed");
    assert_eq!(text(&run(&mut container, &stage).await.stdout), "removed\n");
    drop(container);
    bed.end().await;
}

#[tokio::test]
async fn the_time_that_is_left_to_the_submission_ends_a_stage() {
    let bed = Bed::new().await;
    let mut container = bed.ready().await;
    let left = Duration::from_millis(300);
    let finished = container
        .run(&shell("sleep 15"), left, &mut |_| {})
        .await
        .unwrap();
    assert_eq!(finished.ended.killed, Some(Killed::WallTime));
    assert!(finished.ended.wall_us < 5_000_000, "{finished:?}");
    drop(container);
    bed.end().await;
}

#[tokio::test]
async fn output_past_the_limit_ends_a_stage() {
    let bed = Bed::new().await;
    let mut container = bed.ready().await;
    let mut stage = shell("yes");
    stage.limits.output_bytes = ByteSize(100_000);
    let finished = run(&mut container, &stage).await;
    assert_eq!(finished.ended.killed, Some(Killed::Output));
    assert_eq!(finished.stdout.len(), 100_000);
    drop(container);
    bed.end().await;
}

#[tokio::test]
async fn the_wall_holds() {
    let bed = Bed::new().await;
    let mut container = bed.ready().await;
    let script = "
        touch /escape 2>/dev/null && echo root is writable
        touch /envicutor/escape 2>/dev/null && echo agent directory is writable
        touch /envicutor/socket/escape 2>/dev/null && echo socket directory is writable
        [ -e /envicutor/socket/worker.sock ] && echo the socket is there
        [ $(id -u) = 0 ] && echo root
        [ $(ls /sys/class/net | wc -l) = 1 ] || echo network
        grep CapEff /proc/self/status | grep -qv 0000000000000000 && echo capabilities
        grep -q 'NoNewPrivs:.1' /proc/self/status || echo new privileges
        grep -q 'Seccomp:.2' /proc/self/status || echo no seccomp
        [ -z \"$(ls -A /work /tmp /dev/shm | grep -v :)\" ] || ls -A /work /tmp /dev/shm
        echo x > /tmp/x && echo x > /dev/shm/x && echo x > x || echo no scratch space
        (dd if=/dev/zero of=/tmp/big bs=1M count=100 2>/dev/null) && echo tmp is unbounded
        rm -f /tmp/big
        (i=0; while [ $i -lt 120 ]; do : > f$i || exit 1; i=$((i+1)); done) 2>/dev/null && echo inodes are unbounded
        hostname
        env | sort | tr '\\n' ' '
    ";
    let mut stage = shell(script);
    stage.limits.memory_bytes = ByteSize(256 << 20);
    let finished = run(&mut container, &stage).await;
    assert_eq!(
        text(&finished.stdout),
        "envicutor\nHOME=/work PATH=/bin PWD=/work SHLVL=1 ",
        "{}",
        text(&finished.stderr)
    );
    drop(container);
    bed.end().await;
}

#[tokio::test]
async fn every_container_has_a_uid_of_its_own() {
    let bed = Bed::new().await;
    let (mut first, mut second) = (bed.ready().await, bed.ready().await);
    let stage = shell("id -u");
    let first_uid = text(&run(&mut first, &stage).await.stdout);
    let second_uid = text(&run(&mut second, &stage).await.stdout);
    assert_ne!(first_uid, second_uid);
    drop((first, second));
    bed.end().await;
}

#[tokio::test]
async fn what_waits_in_the_pool_is_taken_and_replaced() {
    let bed = Bed::with(|config| config.pool_size = Some(4)).await;
    let first = bed.take().await;
    assert_eq!(first.start(), Start::Cold);
    first.destroy().await;
    bed.await_running(1).await;
    // Other limits: the same shelf.
    let mut request = bed.request();
    request.limits.memory_bytes = ByteSize(32 << 20);
    let plain = bed.request();
    let (second, third) = tokio::join!(bed.containers.take(&request), bed.containers.take(&plain));
    let mut second = second.unwrap();
    assert_eq!(second.start(), Start::Pooled);
    second.lay_out(&[]).await.unwrap();
    let mut stage = shell("dd if=/dev/zero of=/dev/null bs=50M count=1 && echo fits");
    stage.limits.memory_bytes = ByteSize(32 << 20);
    let finished = run(&mut second, &stage).await;
    assert_eq!(finished.ended.killed, Some(Killed::Memory));
    second.destroy().await;
    third.unwrap().destroy().await;
    // Two were taken at once, and there are two slots.
    bed.await_running(2).await;
    bed.end().await;
}

#[tokio::test]
async fn a_full_pool_gives_up_what_was_used_least_recently() {
    let bed = Bed::with(|config| config.pool_size = Some(1)).await;
    bed.take().await.destroy().await;
    let old = bed.await_running(1).await;
    let mut request = bed.request();
    request.inodes = 200;
    bed.containers.take(&request).await.unwrap().destroy().await;
    let began = Instant::now();
    loop {
        let now = bed.await_running(1).await;
        if now[0].id != old[0].id {
            break;
        }
        assert!(
            began.elapsed() < slowly(PATIENCE),
            "the old container stays"
        );
    }
    let again = bed.containers.take(&request).await.unwrap();
    assert_eq!(again.start(), Start::Pooled);
    again.destroy().await;
    bed.end().await;
}

#[tokio::test]
async fn what_waits_too_long_is_removed() {
    let bed = Bed::with(|config| {
        config.pool_size = Some(4);
        config.pool_idle_us = slowly_us(1_500_000);
    })
    .await;
    bed.take().await.destroy().await;
    bed.await_running(1).await;
    bed.await_running(0).await;
    bed.end().await;
}

#[tokio::test]
async fn a_container_that_died_in_the_pool_is_not_given_out() {
    let bed = Bed::with(|config| config.pool_size = Some(2)).await;
    bed.take().await.destroy().await;
    let waiting = bed.await_running(1).await;
    bed.remove_by_hand(waiting[0].id.as_ref().unwrap()).await;
    let mut container = bed.take().await;
    container.lay_out(&[]).await.unwrap();
    assert_eq!(
        text(&run(&mut container, &shell("echo well")).await.stdout),
        "well\n"
    );
    container.destroy().await;
    bed.end().await;
}

#[tokio::test]
async fn takes_at_once_each_get_a_container_of_their_own() {
    let bed = Bed::with(|config| config.pool_size = Some(2)).await;
    let request = bed.request();
    let takes = (0..5).map(|_| bed.containers.take(&request));
    let containers = futures_util::future::join_all(takes).await;
    let mut names: Vec<_> = containers
        .iter()
        .map(|container| container.as_ref().unwrap().name().to_owned())
        .collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 5);
    drop(containers);
    bed.end().await;
}

#[tokio::test]
async fn many_submissions_get_what_is_theirs_and_leave_nothing() {
    let bed = Bed::with(|config| config.pool_size = Some(3)).await;
    let serve = async |number: usize| {
        for round in 0..4 {
            let mut container = bed.take().await;
            let name = format!("{number}-{round}");
            let files = [file("name", name.as_bytes())];
            container.lay_out(&files).await.unwrap();
            let finished = run(&mut container, &shell("cat name; ls | wc -l")).await;
            assert_eq!(text(&finished.stdout), format!("{name}1\n"));
            container.destroy().await;
        }
    };
    futures_util::future::join_all((0..4).map(serve)).await;
    bed.end().await;
}

#[tokio::test]
async fn a_take_that_nobody_waits_for_leaves_nothing() {
    let bed = Bed::new().await;
    for wait in [0, 20, 50, 100, 200] {
        let request = bed.request();
        let take = bed.containers.take(&request);
        let _ = tokio::time::timeout(Duration::from_millis(wait), take).await;
    }
    bed.end().await;
}

#[tokio::test]
async fn a_destroyed_container_is_gone_and_so_is_a_dropped_one() {
    let bed = Bed::new().await;
    let destroyed = bed.take().await;
    let dropped = bed.take().await;
    bed.await_running(2).await;
    destroyed.destroy().await;
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
    let run = container.run(&stage, PATIENCE, &mut ignore);
    let cut = tokio::time::timeout(Duration::from_millis(300), run).await;
    assert!(cut.is_err(), "{cut:?}");
    // It cannot be used any more, only destroyed.
    let error = container
        .run(&shell("true"), PATIENCE, &mut |_| {})
        .await
        .unwrap_err();
    assert_eq!(error.code(), FailureCode::Internal);
    container.destroy().await;
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
    let run = container.run(&stage, PATIENCE, &mut ignore);
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
    alive.destroy().await;
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
    container.destroy().await;
    pooled.destroy().await;
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
        let finished = container.run(&stage, PATIENCE, &mut ignore).await.unwrap();
        container.destroy().await;
        finished.stdout
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
#[ignore = "measures, and proves nothing: cargo test --test container -- --ignored --nocapture"]
async fn times() {
    const ROUNDS: usize = 10;
    let bed = Bed::new().await;
    let mut cold = Vec::new();
    let mut update = Vec::new();
    let mut stage_time = Vec::new();
    for round in 0..ROUNDS {
        let began = Instant::now();
        let mut container = bed.ready().await;
        cold.push(began.elapsed());
        let began = Instant::now();
        run(&mut container, &shell("true")).await;
        let plain = began.elapsed();
        stage_time.push(plain);
        let mut stage = shell("true");
        stage.limits.memory_bytes = ByteSize((100 + round as u64) << 20);
        let began = Instant::now();
        run(&mut container, &stage).await;
        update.push(began.elapsed().saturating_sub(plain));
        container.destroy().await;
        bed.await_running(0).await;
    }
    bed.end().await;
    let bed = Bed::with(|config| config.pool_size = Some(1)).await;
    bed.take().await.destroy().await;
    let mut pooled = Vec::new();
    for _ in 0..ROUNDS {
        // Running is not ready yet.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let began = Instant::now();
        let container = bed.ready().await;
        pooled.push(began.elapsed());
        assert_eq!(container.start(), Start::Pooled);
        container.destroy().await;
    }
    bed.end().await;
    for (name, mut times) in [
        ("cold take", cold),
        ("pooled take", pooled),
        ("docker update", update),
        ("stage `true`", stage_time),
    ] {
        times.sort();
        println!(
            "{name}: median {:?}, least {:?}, most {:?}",
            times[ROUNDS / 2],
            times[0],
            times[ROUNDS - 1]
        );
    }
}
