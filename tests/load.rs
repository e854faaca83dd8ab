//! 500 mixed submissions at once through one worker: each right, none twice, the queue empty, nothing left. And what a
//! worker costs when it has nothing to do.

mod fleet;

use std::time::Duration;

use fleet::{
    Fleet, eventually, publish, resident_bytes,
    site::{Site, all_results, results},
};
use serde_json::{Value, json};

/// The `n`th submission, with what must come of it.
fn mixed(n: usize) -> (Value, &'static str, String) {
    let python = |source: String| json!({"runtime": "python", "files": [{"text": source}]});
    match n % 10 {
        0..=3 => (
            python(format!("print({n} * 2)")),
            "ok",
            format!("{}\n", n * 2),
        ),
        4 => (
            python(format!("import sys; print({n}); sys.exit(1)")),
            "runtime_error",
            format!("{n}\n"),
        ),
        5..=7 => (
            json!({"runtime": "bash", "files": [{"text": format!("echo bash {n}")}]}),
            "ok",
            format!("bash {n}\n"),
        ),
        8 => (
            json!({"runtime": "bash", "files": [{"text": "read x; echo $x"}], "run": {"stdin": format!("{n}\n")}}),
            "ok",
            format!("{n}\n"),
        ),
        _ => (
            python("import os; os.abort()".into()),
            "signaled",
            String::new(),
        ),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_at_once_are_each_right_and_leave_nothing() {
    let fleet = Fleet::start().await;
    let all: Vec<_> = (0..500).map(mixed).collect();
    let results = fleet
        .run_all(
            all.iter()
                .map(|(submission, ..)| submission.clone())
                .collect(),
        )
        .await;
    for (n, ((_, verdict, stdout), result)) in all.iter().zip(&results).enumerate() {
        assert_eq!(result["verdict"], *verdict, "{n}: {result:#}");
        assert_eq!(result["runs"][0]["stdout"]["text"], *stdout, "{n}");
        assert_eq!(result["attempt"], 1, "{n} was started more than once");
    }
    assert_eq!(queued(&fleet).await, 0);
    fleet.stop().await;
}

/// Messages in the queue of the default tenant.
async fn queued(fleet: &Fleet) -> u64 {
    let operator = fleet::connect(&fleet.operator).await;
    let mut stream = async_nats::jetstream::new(operator)
        .get_stream("SUBMISSIONS_default")
        .await
        .expect("the stream is there");
    stream.info().await.expect("its state").state.messages
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_at_rest_is_small() {
    let site = Site::start().await;
    let worker = site.ready_worker("small", &[]).await;
    let service = site.service().await;
    let mut heard = results(&service).await;
    let hello = json!({"runtime": "bash", "files": [{"text": "echo hello"}]}).to_string();
    for n in 0..8 {
        let id = format!("hello-{n}");
        let published = publish(&service, "interactive", &id, hello.clone()).await;
        published.expect("the publish is acknowledged");
    }
    all_results(&mut heard, 8).await;
    eventually(
        "a worker's memory at rest is under 40 MiB",
        Duration::from_secs(20),
        || async { resident_bytes(&worker.child) < 40 << 20 },
    )
    .await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_at_rest_is_small_and_quiet() {
    let fleet = Fleet::start().await;
    let hello = json!({"runtime": "bash", "files": [{"text": "echo hello"}]});
    fleet.run_all(vec![hello; 8]).await;
    eventually(
        "what it has in memory, its program aside, is under 20 MiB",
        Duration::from_secs(20),
        || async { fleet.own_bytes() < 20 << 20 },
    )
    .await;
    // The pool settles first: what it makes ahead is no idling.
    eventually(
        "an idle worker takes under 2 % of a processor",
        Duration::from_secs(90),
        || async {
            let before = fleet.cpu_ticks();
            tokio::time::sleep(Duration::from_secs(5)).await;
            // 100 ticks a second: 2 % of 5 s.
            fleet.cpu_ticks() - before <= 10
        },
    )
    .await;
    fleet.stop().await;
}
