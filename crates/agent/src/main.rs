//! The agent: PID 1 of a container, between the worker outside and the submission's programs inside.
//!
//! In the order of a submission's way:
//! - [`agent`]: the loop, and the order of the protocol;
//! - [`connection`], [`buffer`]: frames from and to the worker;
//! - [`wall`]: what is around the stages, one of two: [`container`], [`slot`];
//! - [`work`], [`identity`], [`files`]: the work directory, who the stages run as, and the files that are laid out for them;
//! - [`directory`], [`clean`], [`kept`], [`helper`]: what a stage finds of the ones before it, namely nothing but what was kept;
//! - [`stage`]: the life of a stage, from start to `Ended`;
//! - [`spawn`], [`child`]: fork, what happens between fork and exec, and what came of it;
//! - [`image`]: whether the program could be executed at all;
//! - [`seccomp`], [`limits`]: what no program may call, what the kernel limits for each process;
//! - [`streams`]: standard input and the outputs;
//! - [`meter`], [`cgroup`], [`watched`]: what a stage has used, and where that is read;
//! - [`processes`], [`processors`]: who there is, and what a running program has used since the kernel last counted;
//! - [`tool`]: unpacks archives and reads files out, in the place of a stage's program;
//! - [`sys`], [`failure`]: the system calls, and how one of them that fails is named.
//!
//! [`mod@install`] is another agent, of the container of an installation.
//!
//! [`delegate`], [`collect`] and [`preload`] are no part of an agent: steps that the worker has a container for, each a subcommand.
//!
//! `envicutor-agent [slot|watch] [SOCKET [WORK_DIR]]`: the places are arguments for tests, in a container they are the protocol's.
//! `envicutor-agent trial` looks at the wall of a slot from inside.
//!
//! As an agent it does nothing unless it is PID 1: it ends a stage by a signal to every process that it can see.

// Without the standard library's start: its stack overflow handler alone would add 140 KB of libc.
#![cfg_attr(not(test), no_main)]

mod agent;
mod buffer;
mod cgroup;
mod child;
mod clean;
mod collect;
mod connection;
mod container;
mod delegate;
mod directory;
mod failure;
mod files;
mod helper;
mod identity;
mod image;
mod install;
mod kept;
mod limits;
mod meter;
mod preload;
mod processes;
mod processors;
mod seccomp;
mod slot;
mod spawn;
mod stage;
mod streams;
mod sys;
mod tool;
mod wall;
mod watched;
mod work;

use std::{
    env,
    ffi::OsString,
    iter::Peekable,
    path::{Path, PathBuf},
};

use envicutor_protocol::{SLOT, SOCKET_DIR, SOCKET_NAME, TOOL, WATCH, WORK_DIR};

use crate::{agent::Agent, container::Container, failure::Failure, slot::Slot, wall::Wall};

/// The entry, called by libc. Returns the exit code: 0 when the worker is done, 1 after a failure, 2 when this is no PID 1.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn main() -> libc::c_int {
    let mut arguments = env::args_os().skip(1).peekable();
    let subcommand = arguments.peek().and_then(|it| it.to_str());
    match subcommand {
        Some(slot::trial::ARGUMENT) => return slot::trial::run(),
        Some(envicutor_protocol::install::INSTALL) => return install::run(arguments.skip(1)),
        Some(TOOL) => return tool::run(),
        Some("delegate") => return delegate::run(arguments.skip(1)),
        Some("collect") => return collect::run(arguments.skip(1)),
        Some("preload") => return preload::run(arguments.skip(1)),
        _ => {}
    }
    let pid = sys::own_pid();
    if pid != 1 {
        eprintln!(
            "envicutor-agent: it runs as PID 1 of a container only, because it kills every process that it can see; \
             this is process {pid}"
        );
        return 2;
    }
    sys::settle_descriptors();
    match serve(arguments) {
        Ok(()) => 0,
        Err(failure) => {
            eprintln!("envicutor-agent: {failure}");
            1
        }
    }
}

fn serve(mut arguments: Peekable<impl Iterator<Item = OsString>>) -> Result<(), Failure> {
    let is_slot = arguments.next_if(|it| it == SLOT).is_some();
    let is_watched = arguments.next_if(|it| it == WATCH).is_some();
    let socket = arguments
        .next()
        .map_or_else(|| Path::new(SOCKET_DIR).join(SOCKET_NAME), PathBuf::from);
    let work_dir = arguments.next().unwrap_or_else(|| WORK_DIR.into());
    let wall = || -> Result<Box<dyn Wall>, Failure> {
        if is_slot {
            Ok(Box::new(Slot::default()))
        } else {
            Ok(Box::new(Container::new(work_dir.into(), is_watched)?))
        }
    };
    Agent::connect(&socket, wall)?.run()
}
