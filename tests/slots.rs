//! The promises of slots, against a real Docker Engine: containers that serve one tenant, one submission after the other.

#![allow(clippy::unwrap_used)]

mod container_bed;

use std::time::{Duration, Instant};

use container_bed::{Bed, Line, PATIENCE, file, run, shell, slowly, slowly_us, start, text, whole};
use envicutor::{
    config::IsolationChoice,
    container::{ContainerError, Feed, Observed, Request, Sandbox},
    submission::{
        plan::StagePlan,
        result::{Isolation, Start},
    },
};
use envicutor_protocol::{Exit, Origin};

/// Serves a submission; the slot's name.
async fn serve(mut sandbox: Sandbox) -> String {
    let name = sandbox.name().to_owned();
    sandbox.lay_out(&[file("a", b"hello")]).await.unwrap();
    let finished = run(&mut sandbox, &shell("cat a; ls /tmp /dev/shm")).await;
    assert_eq!(text(&finished.stdout), "hello/dev/shm:\n\n/tmp:\n");
    sandbox.end().await;
    name
}

/// Waits until the container `name` is not there any more.
async fn await_gone(bed: &Bed, name: &str) {
    let began = Instant::now();
    while bed.docker.inspect_container(name, None).await.is_ok() {
        assert!(began.elapsed() < slowly(PATIENCE), "{name} stays");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_stage_finds_its_files_and_its_output_comes_back() {
    let bed = Bed::of_slots(|_| {}).await;
    assert_eq!(bed.containers.isolation(), Isolation::Sandbox);
    let mut sandbox = bed.take().await;
    assert_eq!(sandbox.start(), Start::Pooled);
    let large: Vec<u8> = (0..=255).cycle().take(350_000).collect();
    let files = [
        file("a.txt", b"hello\n"),
        file("dir/large", &large),
        file("empty", b""),
    ];
    sandbox.lay_out(&files).await.unwrap();
    let stage = shell("pwd; cat a.txt; wc -c < dir/large; wc -c < empty; echo oops >&2; exit 3");
    let mut seen = Vec::new();
    let finished = sandbox
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
    assert_eq!(text(&finished.stdout), "/work\nhello\n350000\n0\n");
    assert_eq!(text(&finished.stderr), "oops\n");
    assert_eq!(finished.ended.exit, Exit::Code(3));
    sandbox.end().await;
    bed.end().await;
}

#[tokio::test]
async fn runs_find_what_was_kept_and_the_next_submission_finds_nothing() {
    let bed = Bed::of_slots(|_| {}).await;
    let mut sandbox = bed.take().await;
    sandbox.lay_out(&[]).await.unwrap();
    run(&mut sandbox, &shell("echo built > program")).await;
    assert!(sandbox.keep(bed.request().disk_bytes).await.unwrap());
    for _ in 0..2 {
        let stage = shell("cat program; ls; rm program; touch trace /tmp/trace /dev/shm/trace");
        let finished = run(&mut sandbox, &stage).await;
        assert_eq!(text(&finished.stdout), "built\nprogram\n");
    }
    let name = sandbox.name().to_owned();
    sandbox.end().await;
    let began = Instant::now();
    // The slot itself, and not another one of the tenant's: those are kept until it comes.
    let mut others = Vec::new();
    loop {
        let next = bed.take().await;
        if next.name() == name {
            serve(next).await;
            break;
        }
        others.push(next);
        assert!(
            began.elapsed() < slowly(PATIENCE),
            "{name} does not come back"
        );
    }
    for other in others {
        other.end().await;
    }
    bed.end().await;
}

#[tokio::test]
async fn a_slot_says_once_why_there_is_no_template() {
    let bed = Bed::of_slots(|config| config.templates = true).await;
    let stage = StagePlan {
        template: true,
        ..shell("exit 3")
    };
    let mut origins = Vec::new();
    for _ in 0..5 {
        let mut sandbox = bed.take().await;
        sandbox.lay_out(&[]).await.unwrap();
        let finished = run(&mut sandbox, &stage).await;
        assert_eq!(finished.ended.exit, Exit::Code(3));
        origins.push(finished.ended.origin.clone());
        sandbox.end().await;
    }
    // It ends before it looks at any file of the submission.
    let told = |origin: &&Origin| matches!(origin, Origin::NoTemplate(why) if !why.is_empty());
    assert_eq!(origins.iter().filter(told).count(), 1, "{origins:?}");
    assert!(!origins.contains(&Origin::Template), "{origins:?}");
    bed.end().await;
}

#[tokio::test]
async fn a_slot_never_changes_its_tenant() {
    let bed = Bed::of_slots(|config| config.pool_size = Some(4)).await;
    let mut of = std::collections::HashMap::new();
    for round in 0..12 {
        let tenant = ["ann", "bob", "cid"][round % 3];
        let name = serve(bed.take_for(tenant).await).await;
        let owner = *of.entry(name.clone()).or_insert(tenant);
        assert_eq!(owner, tenant, "{name}");
    }
    bed.end().await;
}

#[tokio::test]
async fn a_slot_is_retired_after_its_uses() {
    let bed = Bed::of_slots(|config| config.slot_uses = 2).await;
    let mut uses = std::collections::HashMap::new();
    for _ in 0..5 {
        *uses.entry(serve(bed.take().await).await).or_insert(0) += 1;
    }
    assert!(uses.values().all(|uses| *uses <= 2), "{uses:?}");
    for (name, _) in uses.iter().filter(|(_, uses)| **uses == 2) {
        await_gone(&bed, name).await;
    }
    bed.end().await;
}

#[tokio::test]
async fn a_slot_is_retired_at_its_age() {
    let bed = Bed::of_slots(|config| config.slot_age_us = slowly_us(1_000_000)).await;
    let name = serve(bed.take().await).await;
    await_gone(&bed, &name).await;
    bed.end().await;
}

#[tokio::test]
async fn a_slot_that_waits_too_long_goes_and_a_virgin_stays() {
    let bed = Bed::of_slots(|config| config.pool_idle_us = slowly_us(1_000_000)).await;
    let name = serve(bed.take().await).await;
    await_gone(&bed, &name).await;
    // Time for it to go as well, if it did.
    tokio::time::sleep(slowly(Duration::from_secs(2))).await;
    bed.await_running(1).await;
    assert_eq!(bed.take_for("somebody").await.start(), Start::Pooled);
    bed.end().await;
}

#[tokio::test]
async fn a_submission_that_is_dropped_ends_with_its_slot() {
    let bed = Bed::of_slots(|_| {}).await;
    let mut sandbox = bed.take().await;
    let name = sandbox.name().to_owned();
    sandbox.lay_out(&[]).await.unwrap();
    let stage = shell("sleep 100");
    let mut ignore = |_: Observed<'_>| {};
    let cut = sandbox.run(&stage, Feed::EMPTY, PATIENCE, &mut ignore);
    let cut = tokio::time::timeout(Duration::from_millis(300), cut).await;
    assert!(cut.is_err(), "{cut:?}");
    // Ended in good order all the same, it serves nobody any more.
    sandbox.end().await;
    await_gone(&bed, &name).await;
    let sandbox = bed.take().await;
    let name = sandbox.name().to_owned();
    drop(sandbox);
    await_gone(&bed, &name).await;
    bed.end().await;
}

#[tokio::test]
async fn a_slot_that_dies_in_the_pool_is_not_given_out() {
    let bed = Bed::of_slots(|_| {}).await;
    let name = serve(bed.take().await).await;
    // Its own slot, and every other.
    for container in bed.own().await {
        bed.remove_by_hand(container.id.as_ref().unwrap()).await;
    }
    assert_ne!(serve(bed.take().await).await, name);
    bed.end().await;
}

#[tokio::test]
async fn an_agent_that_dies_is_our_failure_and_ends_its_slot() {
    let bed = Bed::of_slots(|_| {}).await;
    let mut sandbox = bed.take().await;
    let name = sandbox.name().to_owned();
    sandbox.lay_out(&[]).await.unwrap();
    let stage = shell("sleep 100");
    let mut ignore = |_: Observed<'_>| {};
    let kill = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        bed.docker.kill_container(&name, None).await.unwrap();
    };
    let (finished, ()) = tokio::join!(
        sandbox.run(&stage, Feed::EMPTY, PATIENCE, &mut ignore),
        kill
    );
    let error = finished.unwrap_err();
    assert!(matches!(error, ContainerError::AgentGone(_)), "{error}");
    sandbox.end().await;
    await_gone(&bed, &name).await;
    serve(bed.take().await).await;
    bed.end().await;
}

#[tokio::test]
async fn who_needs_a_fresh_slot_gets_one_that_nobody_had_and_nobody_gets_after() {
    let bed = Bed::of_slots(|_| {}).await;
    let own = serve(bed.take().await).await;
    let request = Request {
        fresh: true,
        ..bed.request()
    };
    let mut fresh = Vec::new();
    for _ in 0..2 {
        let sandbox = bed.containers.take(&request).await.unwrap();
        fresh.push(serve(sandbox).await);
    }
    fresh.push(own.clone());
    fresh.sort();
    fresh.dedup();
    assert_eq!(fresh.len(), 3);
    for name in fresh.iter().filter(|name| **name != own) {
        await_gone(&bed, name).await;
    }
    assert_eq!(serve(bed.take().await).await, own);
    bed.end().await;
}

#[tokio::test]
async fn a_probe_makes_a_slot_also_where_the_pool_is_full() {
    let bed = Bed::of_slots(|config| config.pool_size = Some(2)).await;
    let sandboxes = (bed.take_for("ann").await, bed.take_for("bob").await);
    bed.containers.probe().await.unwrap();
    bed.await_running(2).await;
    drop(sandboxes);
    bed.end().await;
}

#[tokio::test]
async fn there_are_never_more_slots_than_the_pool_holds() {
    // For two submissions at a time.
    let bed = Bed::of_slots(|config| config.pool_size = Some(2)).await;
    let (first, second) = (bed.take_for("ann").await, bed.take_for("bob").await);
    // The third waits until one of them ends, whose tenant loses its slot.
    let mut third = Box::pin(bed.take_for("cid"));
    let waited = tokio::time::timeout(slowly(Duration::from_secs(1)), &mut third).await;
    assert!(waited.is_err());
    bed.await_running(2).await;
    serve(first).await;
    let third = third.await;
    assert_eq!(third.start(), Start::Cold);
    bed.await_running(2).await;
    drop((second, third));
    bed.end().await;
}

#[tokio::test]
async fn the_slot_that_waited_longest_makes_room_for_another_tenant() {
    let bed = Bed::of_slots(|config| config.pool_size = Some(2)).await;
    let ann = serve(bed.take_for("ann").await).await;
    let bob = serve(bed.take_for("bob").await).await;
    serve(bed.take_for("cid").await).await;
    await_gone(&bed, &ann).await;
    assert_eq!(serve(bed.take_for("bob").await).await, bob);
    bed.end().await;
}

#[tokio::test]
async fn many_submissions_of_many_tenants_get_what_is_theirs() {
    let bed = Bed::of_slots(|_| {}).await;
    let serve = async |number: usize| {
        for round in 0..6 {
            let mut sandbox = bed.take_for(["ann", "bob", "cid"][number % 3]).await;
            let name = format!("{number}-{round}");
            let files = [file("name", name.as_bytes())];
            sandbox.lay_out(&files).await.unwrap();
            let finished = run(&mut sandbox, &shell("cat name; ls | wc -l")).await;
            assert_eq!(text(&finished.stdout), format!("{name}1\n"));
            sandbox.end().await;
        }
    };
    futures_util::future::join_all((0..4).map(serve)).await;
    bed.end().await;
}

#[tokio::test]
async fn no_call_of_the_engine_is_on_the_way_of_a_tenant_that_has_a_slot() {
    let bed = Bed::of_slots(|_| {}).await;
    let line = Line::new(bed.root.path());
    let worker = start(
        &line.docker,
        &bed.host,
        &bed.root.path().join("w2"),
        |config| {
            config.isolation = IsolationChoice::Sandbox;
            config.pool_size = None;
        },
    )
    .await
    .unwrap();
    let name = serve(worker.take(&bed.request()).await.unwrap()).await;
    line.cut();
    assert!(worker.probe().await.unwrap_err().is_outage());
    for _ in 0..3 {
        // The virgin that was made ahead may be there as well.
        serve(worker.take(&bed.request()).await.unwrap()).await;
    }
    line.mend();
    let began = Instant::now();
    while worker.probe().await.is_err() {
        assert!(
            began.elapsed() < slowly(PATIENCE),
            "the Engine does not come back"
        );
    }
    assert!(bed.docker.inspect_container(&name, None).await.is_ok());
    worker.close().await;
    bed.end().await;
}

#[tokio::test]
async fn where_no_wall_can_be_made_no_less_is_given_than_configured() {
    let bed = Bed::new().await;
    // So little that the kernel refuses it.
    let start = async |isolation| {
        start(
            &bed.docker,
            &bed.host,
            &bed.root.path().join("w2"),
            |config| {
                config.isolation = isolation;
                config.cpus = 0.000_1;
            },
        )
        .await
    };
    let error = start(IsolationChoice::Sandbox).await.map(drop).unwrap_err();
    assert!(matches!(error, ContainerError::NoSandbox { .. }), "{error}");
    assert!(error.to_string().contains("auto"), "{error}");
    let instead = start(IsolationChoice::Auto).await.unwrap();
    assert_eq!(instead.isolation(), Isolation::Container);
    instead.close().await;
    bed.end().await;
}
