//! Each user of the NATS server can do what its role needs, and nothing else. Refusals are the server's own, so every one is
//! seen as the error that it sends.

#[path = "../fleet/mod.rs"]
mod fleet;

mod installer;
mod watched;

use async_nats::{ConnectOptions, HeaderMap, jetstream};
use envicutor::bus::Role;
use fleet::nats::TestNats;
use futures_util::StreamExt as _;
use watched::{DEADLINE, Watched};

#[tokio::test]
async fn a_service_publishes_nothing_that_is_a_workers() {
    let nats = TestNats::start().await;
    let mut service = Watched::connect(&nats, Role::Service).await;
    service
        .may_not_publish(&[
            "envicutor.settle.default.a1",
            "envicutor.results.default.a1",
            "envicutor.events.default.a1.started",
            "envicutor.dead.default.a1",
            "envicutor.history.default.batch.a1",
            "envicutor.wake.default.batch.a1",
            "envicutor.worker.w1.drain",
            "$KV.attempts.default.a1",
            "$KV.replays.b1",
            "$KV.workers.w1",
            "$KV.tenants.default",
            "_INBOX_worker.abc",
            "_INBOX.abc",
        ])
        .await;
}

#[tokio::test]
async fn a_service_touches_no_stream_and_takes_and_acks_no_submission() {
    let nats = TestNats::start().await;
    let mut service = Watched::connect(&nats, Role::Service).await;
    service
        .may_not_publish(&[
            "$JS.API.STREAM.CREATE.MINE",
            "$JS.API.STREAM.UPDATE.RESULTS",
            "$JS.API.STREAM.DELETE.RESULTS",
            "$JS.API.STREAM.PURGE.RESULTS",
            "$JS.API.STREAM.PURGE.SUBMISSIONS_default",
            "$JS.API.STREAM.MSG.DELETE.RESULTS",
            "$JS.API.STREAM.MSG.GET.SUBMISSIONS_default",
            "$JS.API.STREAM.MSG.GET.DEAD_LETTERS",
            "$JS.API.STREAM.MSG.GET.HISTORY",
            "$JS.API.DIRECT.GET.HISTORY",
            "$JS.API.DIRECT.GET.HISTORY.envicutor.history.default.batch.a1",
            "$JS.API.CONSUMER.CREATE.HISTORY.mine",
            "$JS.API.DIRECT.GET.KV_replays",
            "$JS.API.STREAM.SNAPSHOT.RESULTS",
            "$JS.API.DIRECT.GET.SUBMISSIONS_default",
            "$JS.API.CONSUMER.CREATE.SUBMISSIONS_default.mine",
            "$JS.API.CONSUMER.CREATE.DEAD_LETTERS.mine",
            "$JS.API.CONSUMER.DELETE.SUBMISSIONS_default.batch",
            "$JS.API.CONSUMER.MSG.NEXT.SUBMISSIONS_default.batch",
            // Of its own tenants' files it deletes none; those of others it does not reach.
            "$JS.API.STREAM.PURGE.OBJ_blobs-default",
            "$JS.API.STREAM.MSG.DELETE.OBJ_blobs-default",
            "$JS.API.STREAM.CREATE.OBJ_blobs-mine",
            "$JS.API.CONSUMER.CREATE.OBJ_blobs-default.mine",
            "$O.blobs-other.C.x",
            "$O.blobs-other.M.x",
            "$JS.API.DIRECT.GET.OBJ_blobs-other",
            "$JS.API.STREAM.MSG.GET.OBJ_blobs-other",
            "$KV.leases.blobs",
            "$JS.ACK.SUBMISSIONS_default.batch.1.1.1.1700000000000000000.0",
            "$JS.ACK._.ACCOUNT.SUBMISSIONS_default.batch.1.1.1.1700000000000000000.0",
        ])
        .await;
    service
        .may_not_subscribe(&[
            ">",
            "_INBOX_worker.>",
            "_INBOX_operator.>",
            "envicutor.submissions.>",
            "envicutor.wake.>",
            "envicutor.dead.>",
            "envicutor.history.>",
            "envicutor.settle.>",
            "envicutor.cancel.>",
            "envicutor.worker.>",
            "$KV.>",
            "$JS.ACK.>",
        ])
        .await;
}

#[tokio::test]
async fn a_service_publishes_listens_asks_and_reads_results_in_every_way() {
    let nats = TestNats::start().await;
    let (service, worker) = (nats.bus(Role::Service).await, nats.bus(Role::Worker).await);
    let ack = service.publish_stored(
        "envicutor.submissions.default.interactive.a1",
        HeaderMap::new(),
        "{}".into(),
    );
    assert_eq!(ack.await.expect("stored").stream, "SUBMISSIONS_default");

    // A worker answers to a service's inbox.
    for (subject, listens_to) in [
        ("envicutor.cancel.default.a1", "envicutor.cancel.*.*"),
        ("envicutor.info.limits", "envicutor.info.>"),
    ] {
        let mut asked = worker
            .client
            .subscribe(listens_to)
            .await
            .expect("listening");
        worker.round_trip().await.expect("answered");
        let answer = async {
            let question = asked.next().await.expect("asked");
            let reply = question.reply.expect("a reply subject");
            worker
                .client
                .publish(reply, "yes".into())
                .await
                .expect("answered");
        };
        let (answer, ()) = tokio::join!(service.ask(subject, HeaderMap::new(), "".into()), answer);
        assert_eq!(&answer.expect("answered").payload[..], b"yes");
    }

    let mut events = service
        .client
        .subscribe("envicutor.events.default.a1.*")
        .await
        .expect("listening");
    let mut results = service
        .client
        .subscribe("envicutor.results.default.>")
        .await
        .expect("listening");
    service.round_trip().await.expect("answered");
    worker
        .client
        .publish("envicutor.events.default.a1.started", "e".into())
        .await
        .expect("sent");
    worker
        .publish_stored("envicutor.settle.default.a1", HeaderMap::new(), "r".into())
        .await
        .expect("stored");
    let heard = tokio::time::timeout(DEADLINE, async {
        (events.next().await, results.next().await)
    });
    let (event, result) = heard.await.expect("in time");
    assert_eq!(
        (
            &event.expect("open").payload[..],
            &result.expect("open").payload[..]
        ),
        (&b"e"[..], &b"r"[..])
    );

    let read = service
        .get_last("RESULTS", "envicutor.results.default.a1")
        .await
        .expect("asked");
    assert_eq!(&read.expect("there").body[..], b"r");

    // As any client library does it.
    let stream = jetstream::new(service.client.clone())
        .get_stream("RESULTS")
        .await
        .expect("its handle");
    let consumer = stream
        .create_consumer(jetstream::consumer::pull::Config {
            durable_name: Some("mine".into()),
            filter_subject: "envicutor.results.default.>".into(),
            ..Default::default()
        })
        .await
        .expect("a durable consumer");
    let mut messages = consumer
        .fetch()
        .max_messages(1)
        .messages()
        .await
        .expect("fetched");
    let message = messages.next().await.expect("one").expect("readable");
    assert_eq!(&message.payload[..], b"r");
    message.double_ack().await.expect("acknowledged");
}

#[tokio::test]
async fn a_worker_publishes_no_submission_and_changes_no_stream() {
    let nats = TestNats::start().await;
    let mut worker = Watched::connect(&nats, Role::Worker).await;
    worker
        .may_not_publish(&[
            "envicutor.submissions.default.batch.a1",
            "envicutor.results.default.a1",
            "envicutor.cancel.default.a1",
            "envicutor.worker.w2.drain",
            "$JS.API.STREAM.CREATE.MINE",
            "$JS.API.STREAM.UPDATE.RESULTS",
            "$JS.API.STREAM.DELETE.SUBMISSIONS_default",
            "$JS.API.STREAM.PURGE.RESULTS",
            "$JS.API.STREAM.PURGE.DEAD_LETTERS",
            "$JS.API.STREAM.PURGE.KV_tenants",
            "$JS.API.STREAM.MSG.DELETE.RESULTS",
            "$JS.API.CONSUMER.CREATE.SUBMISSIONS_default.mine",
            "$JS.API.CONSUMER.DELETE.SUBMISSIONS_default.batch",
            "$KV.tenants.default",
            "$KV.runtimes.python",
            // It keeps what is over, reads of it what refers to blobs, and cannot look at who replays what.
            "$KV.replays.b1",
            "$JS.API.STREAM.MSG.GET.KV_replays",
            "$JS.API.STREAM.MSG.DELETE.HISTORY",
            "$JS.API.STREAM.PURGE.HISTORY",
            "$JS.API.DIRECT.GET.KV_replays",
            "$JS.API.STREAM.CREATE.OBJ_blobs-mine",
            "$JS.API.STREAM.DELETE.OBJ_blobs-default",
        ])
        .await;
    worker
        .may_not_subscribe(&[
            ">",
            "_INBOX.>",
            "_INBOX_operator.>",
            "envicutor.submissions.>",
        ])
        .await;
}

#[tokio::test]
async fn an_operator_is_answered_by_workers_and_purges_and_deletes() {
    let nats = TestNats::start().await;
    let (operator, worker) = (nats.bus(Role::Operator).await, nats.bus(Role::Worker).await);
    let mut asked = worker
        .client
        .subscribe("envicutor.info.>")
        .await
        .expect("listening");
    worker.round_trip().await.expect("answered");
    let answer = async {
        let reply = asked
            .next()
            .await
            .expect("asked")
            .reply
            .expect("a reply subject");
        assert!(reply.starts_with("_INBOX_operator."), "{reply}");
        worker
            .client
            .publish(reply, "yes".into())
            .await
            .expect("answered");
    };
    let (answer, ()) = tokio::join!(
        operator.ask("envicutor.info.limits", HeaderMap::new(), "".into()),
        answer
    );
    answer.expect("answered");
    let null = serde_json::Value::Null;
    operator
        .api::<serde_json::Value>("STREAM.PURGE.RESULTS", &null)
        .await
        .expect("purged");
    operator
        .api::<serde_json::Value>("STREAM.DELETE.KV_workers", &null)
        .await
        .expect("deleted");
}

#[tokio::test]
async fn nobody_gets_in_without_a_password_or_with_a_wrong_one() {
    let nats = TestNats::start().await;
    assert!(async_nats::connect(nats.address()).await.is_err());
    let (user, password) = nats.login(Role::Service);
    for (user, password, gets_in) in [
        (user.as_str(), password.as_str(), true),
        (&user, "", false),
        (&user, "wrong", false),
        ("operator", &password, false),
        ("nobody", "", false),
    ] {
        let options = ConnectOptions::with_user_and_password(user.into(), password.into());
        assert_eq!(
            options.connect(nats.address()).await.is_ok(),
            gets_in,
            "{user}:{password}"
        );
    }
}

/// The server sends a push consumer's messages itself, past the permissions of who made it. It counts no stream and no API as
/// somebody who listens, so that none is sent there.
#[tokio::test]
async fn a_service_cannot_have_a_consumer_write_where_it_may_not() {
    let nats = TestNats::start().await;
    let (service, worker) = (nats.bus(Role::Service).await, nats.bus(Role::Worker).await);
    worker
        .publish_stored("envicutor.settle.default.a1", HeaderMap::new(), "r".into())
        .await
        .expect("stored");
    let mut inbox = service
        .client
        .subscribe("_INBOX.pushed")
        .await
        .expect("listening");
    service.round_trip().await.expect("answered");
    let targets = [
        "$JS.API.STREAM.DELETE.KV_workers",
        "envicutor.submissions.default.batch.forged",
        "envicutor.dead.default.a1",
        "_INBOX.pushed",
    ];
    for (n, target) in targets.iter().enumerate() {
        let config = serde_json::json!({
            "durable_name": format!("c{n}"), "deliver_subject": target, "ack_policy": "none", "headers_only": true
        });
        let call = format!("CONSUMER.CREATE.RESULTS.c{n}");
        let body = serde_json::json!({ "stream_name": "RESULTS", "config": config });
        service
            .api::<serde_json::Value>(&call, &body)
            .await
            .expect("a consumer");
    }
    tokio::time::timeout(DEADLINE, inbox.next())
        .await
        .expect("in time")
        .expect("the last one is at work");
    for (n, target) in targets[..targets.len() - 1].iter().enumerate() {
        let info: serde_json::Value = service
            .api(
                &format!("CONSUMER.INFO.RESULTS.c{n}"),
                &serde_json::Value::Null,
            )
            .await
            .expect("asked");
        assert_eq!(info["delivered"]["consumer_seq"], 0, "{target}");
    }
}
