//! The threads that a program's tasks run on: one for each eight processors. A submission takes a worker a fraction of a
//! millisecond of its own time, and tasks on one thread hand each other their messages without waking another: NATS gets in
//! one write what was said in one go.

use std::{panic, thread};

use tokio::runtime::Builder;

use super::exit::{CliError, Exit};

/// The processors for which one thread does.
const PROCESSORS: usize = 8;

/// Runs a program to its end.
pub(super) fn run<F>(program: F) -> Result<Exit, CliError>
where
    F: Future<Output = Result<Exit, CliError>> + Send + 'static,
{
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let threads = processors.div_ceil(PROCESSORS);
    let mut builder = if threads == 1 {
        Builder::new_current_thread()
    } else {
        Builder::new_multi_thread()
    };
    let runtime = builder.worker_threads(threads).enable_all().build();
    let runtime =
        runtime.map_err(|error| CliError::Failed(format!("no thread can be started: {error}")))?;
    // As a task: what is run without one has a thread of its own, beside the others.
    let ended = runtime.block_on(async { tokio::spawn(program).await });
    // Nobody cancels it, so that an error is its panic.
    ended.unwrap_or_else(|error| panic::resume_unwind(error.into_panic()))
}
