//! An installer's user.

use envicutor::{
    blobs::Store,
    bus::{
        Role,
        installations::{self, Records},
        runtimes::Shelf,
    },
    submission::{
        installation::{Installation, InstallationState, Installed},
        names::Digest,
    },
};

use crate::{fleet::nats::TestNats, watched::Watched};

#[tokio::test]
async fn an_installer_reads_and_publishes_no_submission_result_or_dead_letter() {
    let nats = TestNats::start().await;
    let mut installer = Watched::connect(&nats, Role::Installer).await;
    installer
        .may_not_publish(&[
            "envicutor.submissions.default.batch.a1",
            "envicutor.settle.default.a1",
            "envicutor.results.default.a1",
            "envicutor.dead.default.a1",
            "envicutor.history.default.batch.a1",
            "envicutor.events.default.a1.started",
            "envicutor.cancel.default.a1",
            "envicutor.wake.default.batch.a1",
            "envicutor.worker.w1.drain",
            "envicutor.info.limits",
            // It takes installations, and asks for none.
            "envicutor.installations.python",
            "$KV.attempts.default.a1",
            "$KV.workers.w1",
            "$KV.tenants.default",
            "$KV.leases.blobs",
            "$KV.replays.b1",
            "$O.blobs-default.C.x",
            "$O.blobs-default.M.x",
            "_INBOX.abc",
            "_INBOX_worker.abc",
            "_INBOX_operator.abc",
            // Reading.
            "$JS.API.STREAM.MSG.GET.SUBMISSIONS_default",
            "$JS.API.DIRECT.GET.SUBMISSIONS_default",
            "$JS.API.DIRECT.GET.SUBMISSIONS_default.envicutor.submissions.default.batch.a1",
            "$JS.API.STREAM.MSG.GET.RESULTS",
            "$JS.API.DIRECT.GET.RESULTS",
            "$JS.API.DIRECT.GET.RESULTS.envicutor.results.default.a1",
            "$JS.API.STREAM.MSG.GET.DEAD_LETTERS",
            "$JS.API.DIRECT.GET.DEAD_LETTERS",
            "$JS.API.STREAM.MSG.GET.HISTORY",
            "$JS.API.STREAM.MSG.GET.EVENTS",
            "$JS.API.STREAM.MSG.GET.OBJ_blobs-default",
            "$JS.API.DIRECT.GET.OBJ_blobs-default",
            "$JS.API.STREAM.MSG.GET.KV_attempts",
            // The server would send what it stored itself to the subject that it names for the answer.
            "$JS.API.DIRECT.GET.OBJ_images",
            "$JS.API.DIRECT.GET.OBJ_images.$O.images.C.x",
            "$JS.API.CONSUMER.MSG.NEXT.SUBMISSIONS_default.batch",
            "$JS.API.CONSUMER.CREATE.SUBMISSIONS_default.mine",
            "$JS.API.CONSUMER.CREATE.RESULTS.mine",
            "$JS.API.CONSUMER.CREATE.DEAD_LETTERS.mine",
            "$JS.API.CONSUMER.CREATE.INSTALLATIONS.mine",
            "$JS.API.CONSUMER.DELETE.INSTALLATIONS.installer",
            "$JS.ACK.SUBMISSIONS_default.batch.1.1.1.1700000000000000000.0",
            "$JS.ACK._.ACCOUNT.SUBMISSIONS_default.batch.1.1.1.1700000000000000000.0",
            "$JS.API.STREAM.CREATE.MINE",
            "$JS.API.STREAM.UPDATE.OBJ_images",
            "$JS.API.STREAM.DELETE.OBJ_images",
            "$JS.API.STREAM.PURGE.SUBMISSIONS_default",
            "$JS.API.STREAM.PURGE.RESULTS",
            "$JS.API.STREAM.PURGE.INSTALLATIONS",
            "$JS.API.STREAM.PURGE.KV_runtimes",
            "$JS.API.STREAM.MSG.DELETE.RESULTS",
            "$JS.API.STREAM.MSG.DELETE.DEAD_LETTERS",
        ])
        .await;
    installer
        .may_not_subscribe(&[
            ">",
            "_INBOX.>",
            "_INBOX_worker.>",
            "_INBOX_operator.>",
            "envicutor.submissions.>",
            "envicutor.settle.>",
            "envicutor.results.>",
            "envicutor.events.>",
            "envicutor.dead.>",
            "envicutor.wake.>",
            "$KV.>",
            "$JS.ACK.>",
        ])
        .await;
}

#[tokio::test]
async fn an_installer_takes_installations_and_writes_what_became_of_them() {
    let nats = TestNats::start().await;
    let (service, installer) = (
        nats.bus(Role::Service).await,
        nats.bus(Role::Installer).await,
    );
    let name = "probe".parse().expect("a name");
    let sequence = installations::publish(&service, &name, "name = 'probe'").await;
    let sequence = sequence.expect("published");
    let taken = installations::take(&installer).await.expect("asked");
    let taken = taken.expect("one waits");
    assert_eq!((taken.name.as_str(), taken.sequence), ("probe", sequence));
    taken.renew().await.expect("renewed");
    let record = Installation {
        name: name.clone(),
        version: None,
        sequence,
        state: InstallationState::Failed,
        attempts: 1,
        error: Some("no version".into()),
        image: None,
        log: "begun\n".into(),
        installer: "i".into(),
        started_at: time::OffsetDateTime::UNIX_EPOCH,
        ended_at: None,
    };
    let records = Records::new(&installer);
    records.put(&record).await.expect("noted");
    let read = records.last(&name).await.expect("read");
    assert_eq!(read.as_ref(), Some(&record));
    // Whoever asked for it may read what became of it.
    let read = Records::new(&service).last(&name).await.expect("read");
    assert_eq!(read, Some(record));
    taken.ack().await.expect("acknowledged");
    let none = installations::take(&installer).await.expect("asked");
    assert!(none.is_none(), "{none:?}");
    let installed = Installed {
        definition: "name = 'probe'".into(),
        image: Digest::of(b"image"),
        stored: None,
        installer: "i".into(),
        installed_at: time::OffsetDateTime::UNIX_EPOCH,
    };
    let version = "1".parse().expect("a version");
    let shelf = Shelf::new(&installer);
    let put = shelf.put(&name, &version, &installed).await;
    put.expect("registered");
    let config = nats.config(Role::Installer);
    let images = Store::open(&config, Some(&installer))
        .expect("a store")
        .images();
    let blob = images.put_bytes("layer".into()).await.expect("stored");
    assert!(images.claim(&blob).await.expect("asked"), "it is there");
    for data in ["one", "two"] {
        images.put_named("base", data.into()).await.expect("stored");
        let named = images.get_named("base", 100).await.expect("read");
        assert_eq!(named.as_deref(), Some(data.as_bytes()));
    }
}
