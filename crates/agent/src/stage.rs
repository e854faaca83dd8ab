//! The life of one stage: started, watched, ended, counted.
//!
//! The invariant: once the program has ended or was killed, nothing of it counts but what it had written; and no `Ended`
//! leaves before every process is dead and reaped and both outputs are read to their end or their limit.

use std::{os::fd::RawFd, path::PathBuf, time::Duration};

use envicutor_protocol::{
    Ended, Exit, Killed, Limits, MemoryFrom, Origin, Report, Stage as Order, Stdin, Stream, Touched,
};

use crate::{
    buffer::Buffer,
    connection::{Connection, End},
    failure::{Failure, Naming},
    image,
    meter::{Meter, OomKill},
    processors::{self, Hurry},
    spawn::Spawned,
    streams::{Input, Output, Pipes},
    sys::{self, Reaped},
    wall::{Launched, Wall},
    work::Work,
};

/// How long the limits may go unwatched at most: the kernel's OOM kill is noticed within this. Each look takes a processor from a
/// program, and its caches. What it costs alone was not measured.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// The same where something is known only by looking.
const LONGEST_UNSEEN: Duration = Duration::from_millis(20);

/// And at least: the agent must not use up the container's CPU share by watching.
const SHORTEST_PAUSE: Duration = Duration::from_micros(200);

/// The same near the limit of CPU time while all of the stage sleeps, which it may do for long.
const PAUSE_IN_SLEEP: Duration = Duration::from_millis(2);

/// And how many times as long, at least, as the look before took of the agent's own CPU time: many threads make it long, and nothing
/// of it counts for the stage's limit. One that runs has soon used what was left to it.
const PAUSE_FOR_COST: u32 = 20;

/// A stage that was started and has not been reported as ended.
pub struct Stage {
    /// The program's name, for errors.
    name: String,
    limits: Limits,
    first: libc::pid_t,
    /// Whether exec succeeded.
    executed: bool,
    /// When it did, by the monotonic clock.
    started: Duration,
    /// How the first process ended, once it has.
    exit: Option<Exit>,
    /// When the first process ended or all were killed.
    over: Option<Duration>,
    killed: Option<Killed>,
    /// Its processes were killed by us before the first of them had ended.
    ended_by_us: bool,
    touched: Touched,
    /// No process is left.
    reaped: bool,
    input: Input,
    outputs: [Output; 2],
    meter: Box<dyn Meter>,
    /// The program's file.
    program: PathBuf,
    /// Where it began.
    origin: Origin,
    /// When to look at the limits again.
    next_look: Duration,
    /// How many CPUs it can use at a time.
    cpus: u32,
    /// How far the kernel's count of CPU time may be behind, for each that runs.
    tick: Duration,
    /// Near the limit of CPU time.
    hurry: Option<Hurry>,
}

impl Stage {
    /// Starts what `order` says.
    pub fn start(order: Order, wall: &mut dyn Wall, work: &Work) -> Result<Self, Failure> {
        let name = order.argv.first().cloned().unwrap_or_default();
        let pipes = Pipes::make(work.identity).naming("make a pipe", &name)?;
        let Launched {
            spawned,
            mut meter,
            program,
            origin,
        } = wall.launch(&order, work, &pipes.stdio)?;
        let limit = order.limits.output_bytes;
        let [stdout, stderr] = pipes.outputs;
        let outputs = [
            Output::new(Stream::Stdout, stdout, limit),
            Output::new(Stream::Stderr, stderr, limit),
        ];
        let now = sys::now();
        let (first, executed, started, exit) = match spawned {
            Spawned::Executed(it) => {
                meter.executed(it.cpu_before);
                (it.pid, true, it.at, None)
            }
            Spawned::Refused(errno) => (-1, false, now, Some(Exit::NotExecuted { errno })),
        };
        let mut stage = Self {
            name,
            cpus: cpus(&order.limits),
            limits: order.limits,
            first,
            executed,
            started,
            exit,
            over: None,
            killed: None,
            ended_by_us: false,
            touched: Touched::default(),
            reaped: false,
            input: Input::new(pipes.input, order.stdin),
            outputs,
            meter,
            program,
            origin,
            next_look: now,
            tick: processors::tick(),
            hurry: None,
        };
        stage.mark_refusal();
        Ok(stage)
    }

    /// A program that was not executed is over at once.
    fn mark_refusal(&mut self) {
        match self.exit {
            Some(Exit::NotExecuted {
                errno: libc::ENOMEM,
            }) => {
                self.touched.memory = true;
                self.kill(Killed::Memory);
            }
            Some(_) => self.end(),
            None => {}
        }
    }

    /// Whether exec succeeded.
    pub fn was_executed(&self) -> bool {
        self.executed
    }

    /// What to poll: the input for writing, the outputs for reading (-1 for none), while `room` says whether output may be
    /// read.
    pub fn interests(&self, now: Duration, room: bool) -> [RawFd; 3] {
        let output = |it: &Output| {
            if room && (self.over.is_some() || it.resting_until(now).is_none()) {
                it.interest()
            } else {
                -1
            }
        };
        let input = if self.over.is_none() {
            self.input.interest()
        } else {
            -1
        };
        [input, output(&self.outputs[0]), output(&self.outputs[1])]
    }

    /// How long to sleep at most; for ever once it is over: then only its processes' ends and its outputs are awaited.
    pub fn longest_sleep(&self, now: Duration) -> Option<Duration> {
        if self.over.is_some() {
            return None;
        }
        let rests = self.outputs.iter().filter_map(|it| it.resting_until(now));
        let next = rests.fold(self.next_look.min(self.deadline()), Duration::min);
        Some(next.saturating_sub(now))
    }

    fn deadline(&self) -> Duration {
        let wall = Duration::from_micros(self.limits.wall_time_us);
        self.started.saturating_add(wall)
    }

    /// Takes what the program wrote to the worker by way of `buffer`, and what the worker sent to the program.
    pub fn exchange(
        &mut self,
        now: Duration,
        connection: &mut Connection,
        buffer: &mut Buffer,
    ) -> Result<(), End> {
        for index in 0..self.outputs.len() {
            let output = &mut self.outputs[index];
            let rests = self.over.is_none() && output.resting_until(now).is_some();
            if rests || !connection.has_room() {
                continue;
            }
            let stream = output.stream;
            let found = output.read(now, buffer);
            if found.exceeded {
                self.touched.output = true;
                self.kill(Killed::Output);
            }
            if !found.data.is_empty() {
                let data = found.data;
                connection.send(&Report::Output { stream, data })?;
            }
        }
        if self.over.is_none() && self.input.fill() {
            connection.send(&Report::StdinWanted)?;
        }
        Ok(())
    }

    /// Takes the next part of standard input from the worker; false if none was asked for. What comes too late is dropped.
    pub fn give(&mut self, stdin: Stdin) -> bool {
        self.over.is_some() || self.input.give(stdin)
    }

    /// A process has ended, the program's own or an orphan of it.
    pub fn count(&mut self, reaped: &Reaped) {
        self.meter.add(reaped);
        if reaped.pid == self.first && self.exit.is_none() {
            let (status, at) = self.meter.end_of_program(reaped.status);
            self.exit = Some(exit(status));
            self.over = self.over.or(at);
            self.end();
        }
    }

    /// No process is left.
    pub fn all_reaped(&mut self) {
        // While the program has not ended there is at least its process.
        self.reaped = self.exit.is_some();
    }

    /// Kills the stage if it is over a limit.
    pub fn enforce(&mut self, now: Duration) -> Result<(), Failure> {
        let late = now >= self.deadline();
        if self.over.is_some() || (now < self.next_look && !late) {
            return Ok(());
        }
        let processes = self.meter.count_processes();
        let (cpu_left, shortest) = self.cpu_left(processes);
        if self.memory_ran_out()? {
            self.kill(Killed::Memory);
        } else if self.meter.has_too_many_processes() {
            self.end();
        } else if cpu_left.is_none() {
            self.kill(Killed::CpuTime);
        } else if late {
            self.touched.wall_time = true;
            self.kill(Killed::WallTime);
        }
        let soonest = cpu_left.unwrap_or_default() / self.cpus;
        let longest = if self.meter.must_look() {
            LONGEST_UNSEEN
        } else {
            LONGEST_PAUSE
        };
        self.next_look = now + soonest.max(shortest).min(longest);
        Ok(())
    }

    /// CPU time that it may still use, none where it has used more than it may; and the shortest pause until the next look. What its
    /// `processes` (and threads) have used since the last tick may not be counted yet: far from the limit that is taken for
    /// used, near it is looked at.
    fn cpu_left(&mut self, processes: u64) -> (Option<Duration>, Duration) {
        let (used, allowed) = (self.meter.cpu(), self.cpu_allowed());
        let running = u32::try_from(processes).unwrap_or(u32::MAX);
        let uncounted = self.tick * running.clamp(1, self.cpus);
        if let Some(left) = allowed.checked_sub(used + uncounted)
            && left > uncounted
        {
            return (Some(left), SHORTEST_PAUSE);
        }
        self.hurry.get_or_insert_with(Hurry::begin);
        let before = sys::own_cpu();
        let shortest = if processors::count_running() {
            SHORTEST_PAUSE
        } else {
            let cost = sys::own_cpu().saturating_sub(before);
            PAUSE_IN_SLEEP.max(cost * PAUSE_FOR_COST)
        };
        (allowed.checked_sub(self.meter.cpu()), shortest)
    }

    /// CPU time after which it is killed.
    fn cpu_allowed(&self) -> Duration {
        let (limit, extra) = (self.limits.cpu_time_us, self.limits.extra_time_us);
        Duration::from_micros(limit.saturating_add(extra))
    }

    /// Whether the kernel killed a process of it at the memory limit.
    fn memory_ran_out(&mut self) -> Result<bool, Failure> {
        match self.meter.oom_kill() {
            OomKill::None => Ok(false),
            OomKill::AtOwnLimit => {
                self.touched.memory = true;
                Ok(true)
            }
            OomKill::Elsewhere => {
                let error = "the kernel killed it though it was within its memory limit: the host, or a cgroup above \
                             the container, ran out of memory";
                Err(Failure::new("run the stage", &self.name, error))
            }
        }
    }

    /// Whether it was ended by the kernel because its image is larger than this machine.
    fn died_while_it_was_loaded(&self, exit: &Exit) -> bool {
        matches!(exit, Exit::Signal(libc::SIGSEGV | libc::SIGKILL))
            && image::is_too_large(&self.program)
    }

    /// Ends it for `reason`. The first reason wins.
    pub fn kill(&mut self, reason: Killed) {
        // Asked for after its own end, it is no reason; a limit that was passed is one.
        if self.exit.is_none() || reason != Killed::Asked {
            self.killed.get_or_insert(reason);
        }
        self.end();
    }

    /// The end of the stage's time: what is left of its processes dies.
    fn end(&mut self) {
        self.ended_by_us |= self.exit.is_none();
        self.over.get_or_insert_with(sys::now);
        sys::kill_everyone();
    }

    /// Whether nothing is left to wait for.
    pub fn is_done(&self) -> bool {
        self.reaped && self.outputs.iter().all(Output::is_done)
    }

    /// How it went, once it is done.
    pub fn summary(mut self) -> Result<Ended, Failure> {
        let exit = self.exit.clone().unwrap_or(Exit::Signal(libc::SIGKILL));
        let over = self.over.unwrap_or_else(sys::now);
        let wall = over.saturating_sub(self.started);
        let cpu = self.meter.total_cpu();
        // The kernel may have been quicker than the watch, and the program's end quicker than both: a limit that was
        // passed counts all the same.
        let out_of_memory = self.killed.is_none()
            && (self.memory_ran_out()? || self.died_while_it_was_loaded(&exit));
        if out_of_memory {
            self.touched.memory = true;
            self.kill(Killed::Memory);
        }
        let was_killed = self.killed.is_some() || self.ended_by_us;
        if !was_killed && exit == Exit::Signal(libc::SIGKILL) && self.meter.was_cut_off() {
            let error = "its init was killed from outside the container";
            return Err(Failure::new("run the stage", &self.name, error));
        }
        let used = if self.executed {
            cpu.user + cpu.system
        } else {
            Duration::ZERO
        };
        if used > self.cpu_allowed() {
            self.kill(Killed::CpuTime);
        }
        self.touched.cpu_time = used > Duration::from_micros(self.limits.cpu_time_us);
        self.touched.wall_time |= self.executed && over >= self.deadline();
        self.touched.file_size = exit == Exit::Signal(libc::SIGXFSZ);
        self.touched.processes = self.meter.forks_were_refused();
        let (memory_peak_bytes, memory_from) = self.meter.memory_peak(self.touched.memory);
        let when_executed = |number| if self.executed { number } else { 0 };
        Ok(Ended {
            exit,
            killed: self.killed,
            touched: self.touched,
            cpu_user_us: when_executed(micros(cpu.user)),
            cpu_system_us: when_executed(micros(cpu.system)),
            wall_us: when_executed(micros(wall)),
            memory_peak_bytes,
            memory_from,
            processes_peak: when_executed(self.meter.processes_peak()),
            origin: self.origin,
        })
    }
}

/// A stage that could not begin, for want of memory.
pub fn out_of_memory() -> Ended {
    Ended {
        exit: Exit::Signal(libc::SIGKILL),
        killed: Some(Killed::Memory),
        touched: Touched {
            memory: true,
            ..Touched::default()
        },
        cpu_user_us: 0,
        cpu_system_us: 0,
        wall_us: 0,
        memory_peak_bytes: 0,
        memory_from: MemoryFrom::Cgroup,
        processes_peak: 0,
        origin: Origin::Exec,
    }
}

/// How many CPUs a stage can use at a time.
fn cpus(limits: &Limits) -> u32 {
    let processes = u32::try_from(limits.processes).unwrap_or(u32::MAX);
    sys::cpus().min(processes).max(1)
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// What a wait status says.
fn exit(status: libc::c_int) -> Exit {
    if libc::WIFSIGNALED(status) {
        Exit::Signal(libc::WTERMSIG(status))
    } else {
        // A wait status has 8 bits for it.
        Exit::Code(u8::try_from(libc::WEXITSTATUS(status)).unwrap_or(u8::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_status_is_a_code_or_a_signal() {
        assert_eq!(exit(3 << 8), Exit::Code(3));
        assert_eq!(exit(255 << 8), Exit::Code(255));
        assert_eq!(exit(libc::SIGSEGV), Exit::Signal(libc::SIGSEGV));
        assert_eq!(exit(libc::SIGSEGV | 0x80), Exit::Signal(libc::SIGSEGV));
    }
}
