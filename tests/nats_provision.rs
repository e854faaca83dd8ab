//! Provisioning keeps what is stored, and a publisher is told what became of its submission. Against a real nats-server.

mod fleet;

use std::time::Duration;

use async_nats::HeaderMap;
use envicutor::{
    bus::{
        Role,
        provision::{self, Outcome},
        publish::PublishError,
        queue::{self, Puller},
        results::Results,
    },
    submission::{
        encoding::Encoding,
        names::{Lane, Tenant},
        units::{ByteSize, Micros},
    },
};
use fleet::{
    messages::{DEADLINE, id, publish, publish_body, pull, result, settle, tenant},
    nats::TestNats,
};

// Provisioning

#[tokio::test]
async fn applying_twice_changes_nothing_and_checking_changes_nothing_at_all() {
    let nats = TestNats::start_empty(|_| ()).await;
    let bus = nats.bus(Role::Operator).await;
    let config = nats.config(Role::Operator);
    for _ in 0..2 {
        let checked = provision::check(&bus, &config).await.expect("checked");
        assert!(
            checked
                .iter()
                .all(|report| report.outcome == Outcome::Created),
            "{checked:?}"
        );
    }
    assert!(
        nats.apply()
            .await
            .iter()
            .all(|report| report.outcome == Outcome::Created)
    );
    let again = nats.apply().await;
    assert!(
        again
            .iter()
            .all(|report| report.outcome == Outcome::Unchanged),
        "{again:?}"
    );
}

#[tokio::test]
async fn a_change_that_loses_nothing_is_made_and_keeps_what_is_queued() {
    let nats = TestNats::start().await;
    let (bus, service) = (
        nats.bus(Role::Operator).await,
        nats.bus(Role::Service).await,
    );
    publish(&service, Lane::Batch, "kept")
        .await
        .expect("published");
    let mut config = nats.config(Role::Operator);
    config.nats.queue_messages = 7;
    config.nats.queue_bytes = ByteSize(1 << 20);
    config.nats.ack_wait_us = Micros(3_000_000);
    config.nats.tenants.push("second".parse().expect("valid"));
    let reports = provision::apply(&bus, &config).await.expect("applied");
    let of = |object: &str| {
        &reports
            .iter()
            .find(|report| report.object == object)
            .expect(object)
            .outcome
    };
    assert!(
        matches!(of("stream SUBMISSIONS_default"), Outcome::Updated(changes) if changes.len() == 2)
    );
    assert!(matches!(
        of("consumer SUBMISSIONS_default/batch"),
        Outcome::Updated(_)
    ));
    assert_eq!(of("stream SUBMISSIONS_second"), &Outcome::Created);
    assert_eq!(of("stream RESULTS"), &Outcome::Unchanged);
    let checked = provision::check(&bus, &config).await.expect("checked");
    assert!(
        checked
            .iter()
            .all(|report| report.outcome == Outcome::Unchanged),
        "{checked:?}"
    );
    let queued = queue::find_queued(&bus, &tenant(), &id("kept"))
        .await
        .expect("asked");
    assert_eq!(queued.expect("still there").0, Lane::Batch);
}

#[tokio::test]
async fn a_change_that_would_lose_data_is_refused_and_named() {
    let nats = TestNats::start().await;
    let (bus, service) = (
        nats.bus(Role::Operator).await,
        nats.bus(Role::Service).await,
    );
    for name in ["a", "b", "c"] {
        publish(&service, Lane::Interactive, name)
            .await
            .expect("published");
    }
    settle(
        &nats.bus(Role::Worker).await,
        &result("r", 0, "w"),
        Encoding::Json,
    )
    .await;
    let mut config = nats.config(Role::Operator);
    config.nats.queue_messages = 2;
    config.nats.result_bytes = ByteSize(10);
    let reports = provision::apply(&bus, &config).await.expect("applied");
    for (object, field) in [
        ("stream SUBMISSIONS_default", "max_msgs"),
        ("stream RESULTS", "max_bytes"),
    ] {
        let report = reports
            .iter()
            .find(|report| report.object == object)
            .expect("reported");
        let Outcome::Refused(reasons) = &report.outcome else {
            panic!("{report:?}")
        };
        assert!(
            reasons[0].starts_with(field) && reasons[0].contains("lost"),
            "{reasons:?}"
        );
    }
    let found = queue::find_queued(&bus, &tenant(), &id("a"))
        .await
        .expect("asked");
    assert!(found.is_some(), "nothing was dropped");
}

#[tokio::test]
async fn more_than_the_server_has_room_for_is_refused_with_what_to_do() {
    let nats = TestNats::start().await;
    let bus = nats.bus(Role::Operator).await;
    let mut config = nats.config(Role::Operator);
    config.nats.result_bytes = ByteSize(1 << 50);
    let reports = provision::apply(&bus, &config).await.expect("applied");
    let refused: Vec<_> = reports
        .iter()
        .filter(|report| matches!(report.outcome, Outcome::Refused(_)))
        .collect();
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert!(
        format!("{refused:?}").contains("max_file_store"),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_fleet_of_another_prefix_has_names_and_rights_of_its_own() {
    let nats = TestNats::start_with(|config| config.nats.prefix = "lab".into()).await;
    let (service, worker) = (nats.bus(Role::Service).await, nats.bus(Role::Worker).await);
    publish(&service, Lane::Batch, "a1")
        .await
        .expect("published");
    let mut puller = Puller::new(&worker).await.expect("a puller");
    let delivery = pull(&mut puller, Lane::Batch).await;
    settle(&worker, &result("a1", 0, "w"), Encoding::Json).await;
    delivery.ack().await.expect("acknowledged");
    let read = Results::new(&service)
        .read(&tenant(), "a1")
        .await
        .expect("read");
    assert_eq!(read.expect("there").result.id, "a1");
}

// What a publisher is told

#[tokio::test]
async fn a_publisher_is_told_each_refusal_apart() {
    let nats = TestNats::start_with(|config| config.nats.queue_messages = 2).await;
    let bus = nats.bus(Role::Service).await;
    let nobody: Tenant = "nobody".parse().expect("valid");
    let sent = publish_body(&bus, &nobody, Lane::Batch, "a", b"{}".to_vec()).await;
    assert!(
        matches!(sent, Err(PublishError::NoSuchQueue { .. })),
        "{sent:?}"
    );
    let unknown_lane = bus
        .publish_stored(
            "envicutor.submissions.default.other.a",
            HeaderMap::new(),
            "{}".into(),
        )
        .await;
    assert!(
        matches!(
            unknown_lane,
            Err(envicutor::bus::api::ApiError::NoResponders { .. })
        ),
        "{unknown_lane:?}"
    );

    publish(&bus, Lane::Batch, "a").await.expect("published");
    let twice = publish(&bus, Lane::Batch, "a").await;
    assert!(
        matches!(twice, Err(PublishError::StillQueued { .. })),
        "{twice:?}"
    );
    publish(&bus, Lane::Interactive, "b")
        .await
        .expect("published");
    let full = publish(&bus, Lane::Batch, "c").await;
    assert!(
        matches!(full, Err(PublishError::QueueFull { .. })),
        "{full:?}"
    );

    for size in [(512 << 10) + 1, (512 << 10) - 1, 4 << 20] {
        let large = publish_body(&bus, &tenant(), Lane::Batch, "big", vec![b' '; size]).await;
        assert!(
            matches!(large, Err(PublishError::TooLarge { .. })),
            "{size}: {large:?}"
        );
    }
    let large = bus
        .publish_stored(
            "envicutor.submissions.default.batch.raw",
            HeaderMap::new(),
            vec![b' '; 600 << 10].into(),
        )
        .await;
    assert_eq!(large.expect_err("too large").code(), Some(10054));
}

#[tokio::test]
async fn a_publisher_without_a_server_is_told_so_and_its_next_try_succeeds() {
    let mut nats =
        TestNats::start_with(|config| config.nats.request_timeout_us = Micros(300_000)).await;
    let bus = nats.bus(Role::Service).await;
    nats.pause().await;
    let error = publish(&bus, Lane::Batch, "a")
        .await
        .expect_err("no server");
    assert!(
        matches!(error, PublishError::NoConnection | PublishError::Unknown(_)),
        "{error}"
    );
    nats.resume().await;
    let again = async {
        loop {
            match publish(&bus, Lane::Batch, "a").await {
                Ok(_) | Err(PublishError::StillQueued { .. }) => return,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    tokio::time::timeout(DEADLINE, again)
        .await
        .expect("published after the server came back");
}
