//! What came of a stage and of a submission: the contract's verdicts, from what the agent reports.

use envicutor_protocol::{Ended, Exit, Killed, Touched};

use super::{
    output::Output,
    result::{Run, Verdict},
    units::{ByteSize, Micros},
};

/// `SIGXFSZ` of Linux on x86-64 and AArch64.
const SIGXFSZ: i32 = 25;
/// `SIGSYS`: what the system-call filter sends.
const SIGSYS: i32 = 31;
/// The first real-time signal that a program may use (two below belong to the C library).
const SIGRTMIN: i32 = 34;
/// The last signal.
const SIGRTMAX: i32 = 64;
/// `errno`: no such file.
const ENOENT: i32 = 2;

/// Signals 1 to 31 of Linux on x86-64 and AArch64.
const SIGNALS: [&str; 31] = [
    "SIGHUP",
    "SIGINT",
    "SIGQUIT",
    "SIGILL",
    "SIGTRAP",
    "SIGABRT",
    "SIGBUS",
    "SIGFPE",
    "SIGKILL",
    "SIGUSR1",
    "SIGSEGV",
    "SIGUSR2",
    "SIGPIPE",
    "SIGALRM",
    "SIGTERM",
    "SIGSTKFLT",
    "SIGCHLD",
    "SIGCONT",
    "SIGSTOP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGXCPU",
    "SIGXFSZ",
    "SIGVTALRM",
    "SIGPROF",
    "SIGWINCH",
    "SIGIO",
    "SIGPWR",
    "SIGSYS",
];

/// The verdict of a stage that ran, the first of the contract's list that holds. `answer` says whether its output is what
/// was expected, where something was.
///
/// A stage that the worker asked to end counts as `wall_time_exceeded`: what has a verdict at all was ended because the
/// submission's total time was over.
pub fn of_stage(ended: &Ended, answer: Option<bool>) -> Verdict {
    match ended.killed {
        Some(Killed::CpuTime) => return Verdict::CpuTimeExceeded,
        Some(Killed::WallTime | Killed::Asked) => return Verdict::WallTimeExceeded,
        Some(Killed::Memory) => return Verdict::MemoryExceeded,
        Some(Killed::Output) => return Verdict::OutputExceeded,
        None => {}
    }
    match ended.exit {
        Exit::Signal(SIGXFSZ) => Verdict::FileSizeExceeded,
        Exit::Signal(SIGSYS) => Verdict::Forbidden,
        Exit::Code(0) if answer == Some(false) => Verdict::WrongAnswer,
        Exit::Code(0) => Verdict::Ok,
        _ if ended.touched.processes => Verdict::ProcessesExceeded,
        Exit::Signal(_) => Verdict::Signaled,
        Exit::Code(_) | Exit::NotExecuted { .. } => Verdict::RuntimeError,
    }
}

/// The touched limits by their fields, in the order of the contract's list.
pub fn limits_hit(touched: &Touched) -> Vec<String> {
    [
        (touched.cpu_time, "cpu_time_us"),
        (touched.wall_time, "wall_time_us"),
        (touched.memory, "memory_bytes"),
        (touched.processes, "processes"),
        (touched.file_size, "file_size_bytes"),
        (touched.output, "output_bytes"),
    ]
    .into_iter()
    .filter(|(hit, _)| *hit)
    .map(|(_, field)| field.to_owned())
    .collect()
}

/// A signal's name: `SIGSEGV`, `SIGRTMIN+1`, and `SIG32` where there is none.
pub fn signal_name(number: i32) -> String {
    let standard = usize::try_from(number)
        .ok()
        .and_then(|number| SIGNALS.get(number.checked_sub(1)?));
    match standard {
        Some(name) => (*name).to_owned(),
        None if number == SIGRTMIN => "SIGRTMIN".to_owned(),
        None if (SIGRTMIN..=SIGRTMAX).contains(&number) => {
            format!("SIGRTMIN+{}", number - SIGRTMIN)
        }
        None => format!("SIG{number}"),
    }
}

/// `exit_code` and `signal` of a result: one is set. A program that could not be executed has a shell's exit code.
pub fn exit(exit: &Exit) -> (Option<u8>, Option<String>) {
    match *exit {
        Exit::Code(code) => (Some(code), None),
        Exit::Signal(number) => (None, Some(signal_name(number))),
        Exit::NotExecuted { errno: ENOENT } => (Some(127), None),
        Exit::NotExecuted { .. } => (Some(126), None),
    }
}

impl Verdict {
    /// The verdict of a submission that ran: the compile stage's where it is not ok, else the first run's that is not,
    /// else `ok`. A compile stage that ended by itself is a `compile_error`; one that a limit ended keeps its verdict.
    pub fn of_submission(compile: Option<&Run>, runs: &[Run]) -> Self {
        match compile.map(|compile| compile.verdict) {
            Some(Self::RuntimeError | Self::Signaled) => return Self::CompileError,
            Some(Self::Ok) | None => {}
            Some(ended_by_us) => return ended_by_us,
        }
        runs.iter()
            .map(|run| run.verdict)
            .find(|verdict| *verdict != Self::Ok)
            .unwrap_or(Self::Ok)
    }
}

impl Run {
    /// How a stage went that ran. `answer` says whether its output is what was expected, where something was.
    pub fn ended(
        name: Option<String>,
        ended: &Ended,
        answer: Option<bool>,
        stdout: Output,
        stderr: Output,
    ) -> Self {
        let (exit_code, signal) = exit(&ended.exit);
        Self {
            name,
            verdict: of_stage(ended, answer),
            cached: None,
            exit_code,
            signal,
            limits_hit: limits_hit(&ended.touched),
            cpu_user_us: Micros(ended.cpu_user_us),
            cpu_system_us: Micros(ended.cpu_system_us),
            wall_us: Micros(ended.wall_us),
            memory_peak_bytes: ByteSize(ended.memory_peak_bytes),
            memory_from: Some(ended.memory_from),
            processes_peak: ended.processes_peak,
            stdout,
            stderr,
        }
    }

    /// A run that did not take place.
    pub fn skipped(name: Option<String>) -> Self {
        Self {
            name,
            verdict: Verdict::Skipped,
            cached: None,
            exit_code: None,
            signal: None,
            limits_hit: Vec::new(),
            cpu_user_us: Micros(0),
            cpu_system_us: Micros(0),
            wall_us: Micros(0),
            memory_peak_bytes: ByteSize(0),
            memory_from: None,
            processes_peak: 0,
            stdout: Output::default(),
            stderr: Output::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use envicutor_protocol::{MemoryFrom, Origin};

    use super::*;

    fn ended(exit: Exit) -> Ended {
        Ended {
            exit,
            killed: None,
            touched: Touched::default(),
            cpu_user_us: 1,
            cpu_system_us: 2,
            wall_us: 3,
            memory_peak_bytes: 4,
            memory_from: MemoryFrom::Cgroup,
            processes_peak: 1,
            origin: Origin::Exec,
        }
    }

    fn with_verdict(verdict: Verdict) -> Run {
        Run {
            verdict,
            ..Run::skipped(None)
        }
    }

    #[test]
    fn what_we_ended_goes_before_how_it_ended() {
        for (killed, verdict) in [
            (Killed::CpuTime, Verdict::CpuTimeExceeded),
            (Killed::WallTime, Verdict::WallTimeExceeded),
            (Killed::Memory, Verdict::MemoryExceeded),
            (Killed::Output, Verdict::OutputExceeded),
            (Killed::Asked, Verdict::WallTimeExceeded),
        ] {
            for exit in [Exit::Signal(9), Exit::Code(0), Exit::Signal(SIGXFSZ)] {
                let mut ended = ended(exit);
                ended.killed = Some(killed);
                ended.touched.processes = true;
                assert_eq!(of_stage(&ended, Some(false)), verdict);
            }
        }
    }

    #[test]
    fn a_stage_that_ended_by_itself_has_the_first_verdict_that_holds() {
        for (exit, touched, verdict) in [
            (Exit::Signal(25), true, Verdict::FileSizeExceeded),
            (Exit::Signal(31), true, Verdict::Forbidden),
            (Exit::Code(1), true, Verdict::ProcessesExceeded),
            (Exit::Signal(6), true, Verdict::ProcessesExceeded),
            (Exit::Code(0), true, Verdict::WrongAnswer),
            (Exit::Signal(11), false, Verdict::Signaled),
            (Exit::Code(1), false, Verdict::RuntimeError),
            (Exit::NotExecuted { errno: 2 }, false, Verdict::RuntimeError),
            (Exit::Code(0), false, Verdict::WrongAnswer),
        ] {
            let mut ended = ended(exit);
            ended.touched.processes = touched;
            assert_eq!(of_stage(&ended, Some(false)), verdict);
        }
        assert_eq!(of_stage(&ended(Exit::Code(0)), Some(true)), Verdict::Ok);
        assert_eq!(of_stage(&ended(Exit::Code(0)), None), Verdict::Ok);
    }

    #[test]
    fn cpu_time_used_up_within_the_extra_time_is_a_limit_hit_and_no_verdict() {
        let mut ended = ended(Exit::Code(0));
        ended.touched.cpu_time = true;
        assert_eq!(of_stage(&ended, None), Verdict::Ok);
        assert_eq!(limits_hit(&ended.touched), ["cpu_time_us"]);
    }

    #[test]
    fn every_touched_limit_is_named_by_its_field() {
        let touched = Touched {
            cpu_time: true,
            wall_time: true,
            memory: true,
            output: true,
            file_size: true,
            processes: true,
        };
        let fields = [
            "cpu_time_us",
            "wall_time_us",
            "memory_bytes",
            "processes",
            "file_size_bytes",
            "output_bytes",
        ];
        assert_eq!(limits_hit(&touched), fields);
    }

    #[test]
    fn signals_have_their_names() {
        for (number, name) in [
            (1, "SIGHUP"),
            (9, "SIGKILL"),
            (11, "SIGSEGV"),
            (25, "SIGXFSZ"),
            (31, "SIGSYS"),
            (32, "SIG32"),
            (34, "SIGRTMIN"),
            (64, "SIGRTMIN+30"),
            (65, "SIG65"),
            (0, "SIG0"),
            (-1, "SIG-1"),
        ] {
            assert_eq!(signal_name(number), name);
        }
    }

    #[test]
    fn exit_code_or_signal_is_set_and_never_both() {
        assert_eq!(exit(&Exit::Code(3)), (Some(3), None));
        assert_eq!(exit(&Exit::Signal(11)), (None, Some("SIGSEGV".into())));
        assert_eq!(exit(&Exit::NotExecuted { errno: 2 }), (Some(127), None));
        assert_eq!(exit(&Exit::NotExecuted { errno: 13 }), (Some(126), None));
    }

    #[test]
    fn a_compile_stage_that_fails_by_itself_is_a_compile_error() {
        let runs = [with_verdict(Verdict::Skipped)];
        for (stage, submission) in [
            (Verdict::RuntimeError, Verdict::CompileError),
            (Verdict::Signaled, Verdict::CompileError),
            (Verdict::MemoryExceeded, Verdict::MemoryExceeded),
            (Verdict::ProcessesExceeded, Verdict::ProcessesExceeded),
            (Verdict::Forbidden, Verdict::Forbidden),
        ] {
            let compile = with_verdict(stage);
            assert_eq!(Verdict::of_submission(Some(&compile), &runs), submission);
        }
    }

    #[test]
    fn the_first_run_that_is_not_ok_speaks_for_the_submission() {
        let runs = [Verdict::Ok, Verdict::WrongAnswer, Verdict::Signaled].map(with_verdict);
        let compile = with_verdict(Verdict::Ok);
        assert_eq!(
            Verdict::of_submission(Some(&compile), &runs),
            Verdict::WrongAnswer
        );
        assert_eq!(Verdict::of_submission(None, &runs[..1]), Verdict::Ok);
    }
}
