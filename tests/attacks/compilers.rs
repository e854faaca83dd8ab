//! Attacks on and through compilers: a compile stage runs hostile code as much as a run does.

use crate::{
    attack::{Attack, c, cpp},
    isolation::Isolation::Sandbox,
};

/// All of them.
pub fn attacks() -> Vec<Attack> {
    let mut attacks = vec![
        c("zero.c", include_str!("compilers/zero.c"))
            .ends("memory_exceeded")
            .hits("memory_bytes"),
        c("itself.c", include_str!("compilers/itself.c"))
            .limit_of("compile", "output_bytes", 100_000)
            .ends("output_exceeded"),
        cpp("templates.cpp", include_str!("compilers/templates.cpp"))
            .limit_of("compile", "cpu_time_us", 1_000_000)
            .ends("cpu_time_exceeded")
            .hits("cpu_time_us"),
        c("repeat.c", include_str!("compilers/repeat.c")).ends("compile_error"),
        c("large.c", include_str!("compilers/large.c")).ends("compile_error"),
        c("messages.c", include_str!("compilers/messages.c"))
            .limit_of("compile", "output_bytes", 100_000)
            .ends("output_exceeded")
            .hits("output_bytes"),
        c("there.c", include_str!("compilers/there.c")).sees("", &["there"]),
        wrapped(),
        made(),
    ];
    attacks.extend(
        [
            "/etc/shadow",
            "/proc/1/environ",
            "/proc/1/mem",
            "/var/run/docker.sock",
        ]
        .map(incbin),
    );
    attacks
}

/// The assembler takes a file of the machine.
fn incbin(path: &str) -> Attack {
    c(
        &format!("incbin.c {path}"),
        include_str!("compilers/incbin.c"),
    )
    .compiled_with(&[&format!("-DFILE=\"{path}\"")])
    .ends("compile_error")
}

/// The compiler runs a program of the submission.
fn wrapped() -> Attack {
    c("wrapped.c", include_str!("compilers/wrapped.c"))
        .with(("wrapper.sh", include_str!("compilers/wrapper.sh")))
        .compiled_with(&["-wrapper", "/bin/bash,wrapper.sh"])
        .sees("no", &["root"])
        .sees("0000000000000000", &["capabilities"])
        .sees("2", &["filter"])
        .sees("not reached", &["network"])
        .sees("refused", &["signal to 1", "write /usr/bin/gcc"])
        // The kernel drops it: it is the init of its namespace.
        .sees_under(Sandbox, "ok", &["signal to 1"])
        .sees("main.c report.h said wrapper.sh ", &["work directory"])
        .sees("genuine", &["program"])
}

/// A build by a program of the submission.
fn made() -> Attack {
    c("Makefile", include_str!("compilers/made.c"))
        .with(("Makefile", include_str!("compilers/Makefile")))
        .built_by(&["/usr/bin/make"])
        .run_by(&["./program"])
        .build_sees(
            "not reached",
            &["internet", "name server", "bridge", "loopback"],
        )
        .build_sees("", &["host"])
        .sees("genuine", &["program"])
}
