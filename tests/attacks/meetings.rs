//! Submissions of one tenant that try to meet: one after the other in the same slot, and two at the same time.

use std::time::Duration;

use serde_json::Value;

use crate::{
    attack::{Attack, c, python, told},
    bed::{Bed, slowly},
    isolation::Isolation,
};

/// One that leaves something for the next one, which looks for it.
pub fn attacks() -> Vec<Attack> {
    let leave = || {
        c("leave.c", include_str!("meetings/leave.c"))
            .sees("ok", &["file in /work", "file in /tmp", "file in /dev/shm"])
            .sees(
                "ok",
                &["System V memory", "System V message", "System V semaphore"],
            )
            .sees("ok", &["POSIX memory", "packets", "label"])
            .sees("EMFILE", &["POSIX queue"])
    };
    let loudly = leave().sees("ok", &["port", "abstract socket", "lock"]);
    vec![loudly, leave().arg("quietly")]
}

/// How long each looks for the other.
const LONG: Duration = Duration::from_millis(2_500);

/// Runs two at a time that look for each other.
pub async fn two_at_a_time(isolation: Isolation) {
    let mut bed = Bed::start(isolation, 2).await;
    let seconds = slowly(LONG).as_secs_f64().to_string();
    let meet = |which: &str| {
        python(
            &format!("meet.py {which}"),
            include_str!("meetings/meet.py"),
        )
        .run_by(&["/usr/bin/python3", "main.py", which, &seconds])
        .limit("open_files", 4096)
        .sees("", &["met by"])
    };
    let both = [
        meet("first").sees("EMFILE", &["watches"]),
        meet("second")
            .sees("65536", &["a new pipe holds"])
            .sees("ok", &["a new watch"]),
    ];
    let mut results = bed.run(both.iter().map(Attack::submission).collect()).await;
    let times: Vec<_> = results.iter_mut().map(take_time).collect();
    let overlap = times[0].1.min(times[1].1) - times[0].0.max(times[1].0);
    let mut wrong = Vec::new();
    if overlap < 1.0 {
        wrong.push(format!(
            "they had {overlap} s at the same time, expected 1 s at least"
        ));
    }
    for (attack, result) in both.iter().zip(&results) {
        println!(
            "== {} {}\n{}",
            isolation.name(),
            attack.name(),
            told(result)
        );
        wrong.extend(attack.judge(isolation, result));
    }
    wrong.extend(bed.leftovers().await);
    wrong.extend(bed.end().await);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Takes the last line out of a report, which says when its program began and ended, in seconds of this machine's clock.
fn take_time(result: &mut Value) -> (f64, f64) {
    let text = &mut result["runs"][0]["stdout"]["text"];
    let report = text.as_str().unwrap_or_default().to_owned();
    let (report, times) = report.rsplit_once("time=").expect("it says its time");
    let (began, ended) = times.trim().split_once(' ').expect("two times");
    let seconds = |text: &str| text.parse().expect("seconds");
    let times = (seconds(began), seconds(ended));
    *text = report.into();
    times
}
