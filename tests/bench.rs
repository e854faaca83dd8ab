//! `envicutor bench`: it measures a real fleet beside fork and exec, and says who used how much CPU time.

mod fleet;

use std::process::Stdio;

use serde_json::Value;
use tokio::time::timeout;

#[tokio::test(flavor = "multi_thread")]
async fn a_benchmark_compares_a_real_fleet_with_fork_and_exec() {
    let data_dir = tempfile::Builder::new()
        .prefix("envc-")
        .tempdir()
        .expect("a temporary directory");
    let mut bench = fleet::command(data_dir.path()).await;
    bench
        .args(["bench", "no-op", "bash", "--json"])
        // As many as it takes for every process to have used a few of the kernel's ticks.
        .args(["--jobs", "40", "--rounds", "2", "--slots", "2"])
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    let output = timeout(fleet::FIRST_USE, bench.output())
        .await
        .expect("it ends in time")
        .expect("it starts");
    assert!(output.status.success(), "it ended with {}", output.status);
    let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!(report["at_a_time"], 4);
    let jobs = report["jobs"].as_array().expect("a list");
    assert_eq!(
        (&jobs[0]["job"], &jobs[1]["job"]),
        (&"no-op".into(), &"bash".into())
    );
    for job in jobs {
        for series in ["saturated", "idle"] {
            let compared = &job[series];
            assert_eq!(compared["raw"]["jobs"], 80, "{job:#}");
            assert_eq!(compared["fleet"]["jobs"], 80, "{job:#}");
            let ratio = compared["ratio"]["median"].as_f64().expect("a number");
            assert!(ratio > 0.0, "{job:#}");
        }
        assert!(job["cpu"]["worker_us"].as_u64() > Some(0), "{job:#}");
        assert!(job["cpu"]["nats_server_us"].as_u64() > Some(0), "{job:#}");
        assert!(job["cpu"]["stages_us"].as_u64() > Some(0), "{job:#}");
    }
    let limits = report["limits"].as_array().expect("a list");
    assert_eq!(
        (&limits[0]["limit"], &limits[1]["limit"]),
        (&"cpu_time_us".into(), &"wall_time_us".into())
    );
    for limit in limits {
        assert_eq!(limit["jobs"], 8, "{limit:#}");
        assert!(
            limit["late_most_us"].as_u64() >= limit["late_p50_us"].as_u64(),
            "{limit:#}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_benchmark_measures_what_an_installation_takes_from_submissions() {
    let data_dir = tempfile::Builder::new()
        .prefix("envc-")
        .tempdir()
        .expect("a temporary directory");
    let mut bench = fleet::command(data_dir.path()).await;
    bench
        .args(["bench", "no-op", "--install", "--packages", "hello"])
        .args(["--time", "5s", "--rounds", "2", "--slots", "1", "--json"])
        .env("ENVICUTOR__INSTALLER__EXPORT_PERCENT", "100")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let output = timeout(2 * fleet::FIRST_USE, bench.output())
        .await
        .expect("it ends in time")
        .expect("it starts");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {told}", output.status);
    let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!(report["cpu_shares"], 64, "{report:#}");
    assert_eq!(report["busy_percent"], 3, "{report:#}");
    let rounds = report["rounds"].as_array().expect("a list");
    assert_eq!(rounds.len(), 2, "{report:#}");
    for round in rounds {
        for series in ["with", "without"] {
            assert!(round[series]["jobs"].as_u64() > Some(0), "{report:#}");
        }
        assert!(round["installation_us"].as_u64() > Some(0), "{report:#}");
        assert!(round["ratio"].as_f64() > Some(0.0), "{report:#}");
    }
    let left = std::fs::read_dir(data_dir.path().join("bench")).expect("it was there");
    assert_eq!(left.count(), 0, "the fleet's data is removed");
}
