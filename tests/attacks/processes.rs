//! Attacks by processes: too many, too long-lived, and on others.

use serde_json::Value;

use crate::{
    attack::{Attack, bash, c, python},
    bed::slowly_us,
    isolation::Isolation::Sandbox,
};

/// All of them.
pub fn attacks() -> Vec<Attack> {
    [bombs(), on_others(), ends()]
        .into_iter()
        .flatten()
        .collect()
}

fn bombs() -> Vec<Attack> {
    vec![
        c("fork_bomb.c", include_str!("processes/fork_bomb.c"))
            .limit("processes", 16)
            .ends("processes_exceeded")
            .hits("processes")
            .sees("EAGAIN", &["fork"])
            .checked(|result| too_many_processes(result, 16)),
        bash("fork_bomb.sh", include_str!("processes/fork_bomb.sh"))
            .limit("processes", 32)
            .limit("cpu_time_us", 500_000)
            .ends("cpu_time_exceeded")
            .hits("processes")
            .checked(|result| too_many_processes(result, 32)),
        c("thread_bomb.c", include_str!("processes/thread_bomb.c"))
            .limit("processes", 16)
            .ends("processes_exceeded")
            .hits("processes")
            .sees("EAGAIN", &["pthread_create"])
            .checked(|result| too_many_processes(result, 16)),
        c("orphans.c", include_str!("processes/orphans.c")).sees("all taken", &["orphans"]),
    ]
}

fn on_others() -> Vec<Attack> {
    const TO_INIT: [&str; 11] = [
        "kill 1 SIGKILL",
        "kill 1 SIGSTOP",
        "kill 1 SIGTERM",
        "kill 1 SIGINT",
        "kill 1 SIGHUP",
        "kill 1 SIGCHLD",
        "kill 1 SIGSEGV",
        "kill 1 SIGCONT",
        "sigqueue 1",
        "tgkill 1",
        "pidfd_send_signal 1",
    ];
    const TORMENTS: [&str; 9] = [
        "priority of 1",
        "priority of everybody",
        "priority of the group",
        "idle class of 1",
        "processor of 1",
        "CPU time of 1",
        "files of 1",
        "memory of 1",
        "signals of 1",
    ];
    vec![
        c(
            "kill_everything.c",
            include_str!("processes/kill_everything.c"),
        )
        .sees("EPERM", &TO_INIT)
        // The kernel drops them: it is the init of its namespace.
        .sees_under(Sandbox, "ok", &TO_INIT)
        .sees("ok", &["pidfd_open 1"])
        .sees("ESRCH", &["kill all"])
        .sees("0", &["others killed"])
        .sees("yes", &["alive"]),
        c("torment_init.c", include_str!("processes/torment_init.c"))
            .sees("EPERM", &TORMENTS)
            .checked(it_ended_at_once),
        c("kill_init.c", include_str!("processes/kill_init.c")).sees("EPERM", &["CPU time of 1"]),
        python("read_others.py", include_str!("processes/read_others.py"))
            .sees("1", &["others"])
            .sees("", &["holes"]),
        c(
            "stop_everything.c",
            include_str!("processes/stop_everything.c"),
        )
        .limit("wall_time_us", 500_000)
        .ends("wall_time_exceeded"),
    ]
}

fn ends() -> Vec<Attack> {
    vec![
        c("traced.c", include_str!("processes/traced.c"))
            .sees("yes", &["alive"])
            .checked(it_ended_at_once),
        c("survivors.c", include_str!("processes/survivors.c"))
            .sees("ok", &["survivor at work"])
            .checked(it_ended_at_once),
        c(
            "exit_before_drained.c",
            include_str!("processes/exit_before_drained.c"),
        )
        .checked(all_that_the_program_wrote),
        c(
            "stdin_never_read.c",
            include_str!("processes/stdin_never_read.c"),
        )
        .stdin(&"much to read\n".repeat(20_000))
        .sees("1", &["read"])
        .sees("ok", &["open stdin for writing"])
        .checked(it_ended_at_once),
    ]
}

fn too_many_processes(result: &Value, limit: u64) -> Option<String> {
    let peak = result["runs"][0]["processes_peak"].as_u64();
    peak.is_none_or(|peak| peak > limit)
        .then(|| format!("expected at most {limit} processes: {peak:?}"))
}

/// Its first process was done long before any limit of time.
fn it_ended_at_once(result: &Value) -> Option<String> {
    let wall = result["runs"][0]["wall_us"].as_u64();
    wall.is_none_or(|wall| wall > slowly_us(2_000_000))
        .then(|| format!("expected it to end at once: {result:#}"))
}

fn all_that_the_program_wrote(result: &Value) -> Option<String> {
    let output = result["runs"][0]["stdout"]["text"]
        .as_str()
        .unwrap_or_default();
    let (own, rest) = output.split_once('\n').unwrap_or_default();
    let whole = own == "x".repeat(60_000) && rest.chars().all(|it| it == 'y');
    (!whole)
        .then(|| {
            format!(
                "{} bytes came before the end of the line, expected 60,000",
                own.len()
            )
        })
        .or_else(|| it_ended_at_once(result))
}
