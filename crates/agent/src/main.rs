//! The agent: PID 1 of a container, between the worker outside and the submission's programs inside.
//!
//! In the order of a submission's way:
//! - [`agent`]: the loop, and the order of the protocol;
//! - [`connection`]: frames from and to the worker;
//! - [`identity`], [`files`]: who the stages run as, and the files that are laid out for them;
//! - [`directory`], [`clean`], [`kept`], [`helper`]: what a stage finds of the ones before it, namely nothing but what was kept;
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

// Without the standard library's start: its stack overflow handler alone would add 140 KB of libc.
#![cfg_attr(not(test), no_main)]

mod agent;
mod cgroup;
mod child;
mod clean;
mod connection;
mod directory;
mod failure;
mod files;
mod helper;
mod identity;
mod kept;
mod limits;
mod meter;
mod spawn;
mod stage;
mod streams;
mod sys;

use std::{env, path::Path};

use envicutor_protocol::{SOCKET_DIR, SOCKET_NAME, WORK_DIR};

use crate::agent::{Agent, Places};

/// The entry, called by libc. Returns the exit code: 0 when the worker is done, 1 after a failure, 2 when this is no PID 1.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn main() -> libc::c_int {
    let pid = sys::own_pid();
    if pid != 1 {
        eprintln!(
            "envicutor-agent: it runs as PID 1 of a container only, because it kills every process that it can see; \
             this is process {pid}"
        );
        return 2;
    }
    sys::settle_descriptors();
    match Agent::connect(places()).and_then(Agent::run) {
        Ok(()) => 0,
        Err(failure) => {
            eprintln!("envicutor-agent: {failure}");
            1
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
