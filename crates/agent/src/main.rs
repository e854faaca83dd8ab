//! The agent: PID 1 of a container, between the worker outside and the submission's programs inside.
//!
//! In the order of a submission's way:
//! - [`agent`]: the loop, and the order of the protocol;
//! - [`connection`]: frames from and to the worker;
//! - [`identity`], [`files`]: who the stages run as, and the files that are laid out for them;
//! - [`stage`]: the life of a stage, from start to `Ended`;
//! - [`spawn`], [`child`]: fork, what happens between fork and exec, and what came of it;
//! - [`limits`]: what the kernel limits for each process;
//! - [`streams`]: standard input and the outputs;
//! - [`meter`], [`cgroup`]: what a stage has used, and where that is read;
//! - [`sys`], [`failure`]: the system calls, and how one of them that fails is named.
//!
//! `envicutor-agent [SOCKET [WORK_DIR]]`: the places are arguments for tests, in a container they are the protocol's.
//!
//! It does nothing unless it is PID 1: it ends a stage by a signal to every process that it can see.

mod agent;
mod cgroup;
mod child;
mod connection;
mod failure;
mod files;
mod identity;
mod limits;
mod meter;
mod spawn;
mod stage;
mod streams;
mod sys;

use std::{env, path::Path, process::ExitCode};

use envicutor_protocol::{SOCKET_DIR, SOCKET_NAME, WORK_DIR};

use crate::agent::{Agent, Places};

fn main() -> ExitCode {
    let pid = sys::own_pid();
    if pid != 1 {
        eprintln!(
            "envicutor-agent: it runs as PID 1 of a container only, because it kills every process that it can see; \
             this is process {pid}"
        );
        return ExitCode::from(2);
    }
    // 0, 1 and 2 are open: the standard library sees to it before main.
    sys::close_from(3);
    match Agent::connect(places()).and_then(Agent::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("envicutor-agent: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn places() -> Places {
    let mut arguments = env::args_os().skip(1);
    Places {
        socket: arguments
            .next()
            .map_or_else(|| Path::new(SOCKET_DIR).join(SOCKET_NAME), Into::into),
        work_dir: arguments.next().unwrap_or_else(|| WORK_DIR.into()).into(),
    }
}
