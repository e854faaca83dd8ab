//! The promises of the outer wall, against a real Docker Engine.

#![allow(clippy::unwrap_used)]

mod container_bed;

use std::time::{Duration, Instant};

use container_bed::{Bed, PATIENCE, file, run, shell, slowly, slowly_us, text, whole};
use envicutor::{
    container::{Feed, Observed},
    submission::{result::Start, units::ByteSize},
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
        .run(
            &stage,
            Feed::EMPTY,
            PATIENCE,
            &mut |observed| match observed {
                Observed::Started => assert!(seen.is_empty()),
                Observed::Output { data, .. } => seen.extend_from_slice(data),
            },
        )
        .await
        .unwrap();
    let finished = whole(finished).await;
    assert_eq!(text(&finished.stdout), "/work\nhello\n150000\n0\n");
    assert_eq!(text(&finished.stderr), "oops\n");
    assert_eq!(seen.len(), finished.stdout.len() + finished.stderr.len());
    assert_eq!(finished.ended.exit, Exit::Code(3));
    assert_eq!(finished.ended.killed, None);
    container.end().await;
    bed.end().await;
}

#[tokio::test]
async fn input_of_any_size_reaches_the_program() {
    let bed = Bed::new().await;
    let mut container = bed.ready().await;
    let mut stage = shell("md5sum; echo done");
    stage.stdin = vec![b'x'; 200 << 10].into();
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
        .run(&shell("sleep 15"), Feed::EMPTY, left, &mut |_| {})
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
    first.end().await;
    bed.await_running(1).await;
    // Running is not ready yet.
    tokio::time::sleep(slowly(Duration::from_secs(1))).await;
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
    second.end().await;
    third.unwrap().end().await;
    // Two were taken at once, and there are two slots.
    bed.await_running(2).await;
    bed.end().await;
}

#[tokio::test]
async fn a_full_pool_gives_up_what_was_used_least_recently() {
    let bed = Bed::with(|config| config.pool_size = Some(1)).await;
    bed.take().await.end().await;
    let old = bed.await_running(1).await;
    let mut request = bed.request();
    request.inodes = 200;
    bed.containers.take(&request).await.unwrap().end().await;
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
    // One that runs may not be ready yet: whoever takes it then has waited for it, and another one is started.
    loop {
        let again = bed.containers.take(&request).await.unwrap();
        let start = again.start();
        again.end().await;
        if start == Start::Pooled {
            break;
        }
        assert!(
            began.elapsed() < slowly(PATIENCE),
            "nothing waits in the pool"
        );
        bed.await_running(1).await;
    }
    bed.end().await;
}

#[tokio::test]
async fn what_waits_too_long_is_removed() {
    let bed = Bed::with(|config| {
        config.pool_size = Some(4);
        config.pool_idle_us = slowly_us(1_500_000);
    })
    .await;
    bed.take().await.end().await;
    bed.await_running(1).await;
    bed.await_running(0).await;
    bed.end().await;
}

#[tokio::test]
async fn a_container_that_died_in_the_pool_is_not_given_out() {
    let bed = Bed::with(|config| config.pool_size = Some(2)).await;
    bed.take().await.end().await;
    let waiting = bed.await_running(1).await;
    bed.remove_by_hand(waiting[0].id.as_ref().unwrap()).await;
    let mut container = bed.take().await;
    container.lay_out(&[]).await.unwrap();
    assert_eq!(
        text(&run(&mut container, &shell("echo well")).await.stdout),
        "well\n"
    );
    container.end().await;
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
            container.end().await;
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
