//! What an agent is told of a submission: its files and stages in the words of the protocol.

use std::time::Duration;

use envicutor_protocol::{CHUNK_BYTES, Command, File, Open, Stage, Stdin};
use tokio::time::timeout;

use super::{ContainerError, LaidOut, feed::Parts, session::Session, streams::unread};
use crate::submission::{plan::StagePlan, units::Micros};

/// How long past a stage's wall time its end may be reported: the agent starts it, kills it, and reaps what it left. After
/// this the agent has failed.
pub(super) const GRACE: Duration = Duration::from_secs(15);

/// Offers the beginning of a submission: `open` and every file. It is sent with what follows, but for what is too much to wait:
/// that the agent must take within `patience` each time.
pub(super) async fn offer(
    session: &mut Session,
    open: Open,
    files: &[LaidOut<'_>],
    patience: Duration,
) -> Result<(), ContainerError> {
    session.offer(&Command::Open(open))?;
    for file in files {
        let mut parts = Parts::of(file.data.clone());
        let mut append = false;
        while !append || !parts.is_over() {
            let data = parts.next(CHUNK_BYTES).await.map_err(unread)?;
            let is_much = session.offer(&Command::File(File {
                path: file.path.to_owned(),
                executable: file.executable,
                append,
                data: data.to_vec(),
            }))?;
            if is_much {
                flush(session, patience).await?;
            }
            append = true;
        }
    }
    Ok(())
}

/// Has the agent take what was offered.
pub(super) async fn flush(session: &mut Session, patience: Duration) -> Result<(), ContainerError> {
    let taken = timeout(patience, session.flush()).await;
    taken.map_err(|_| ContainerError::AgentOverdue {
        doing: "take the files",
        waited: patience,
    })?
}

/// What the agent is told of `stage`, which may begin from a template only where that is said. Its input follows in parts.
pub(super) fn stage(stage: &StagePlan, wall: Duration, may_be_warm: bool) -> Stage {
    let limits = &stage.limits;
    Stage {
        argv: stage.argv.clone(),
        env: stage
            .env
            .iter()
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
        limits: envicutor_protocol::Limits {
            cpu_time_us: limits.cpu_time_us.0,
            extra_time_us: limits.extra_time_us.0,
            // Zero is no limit that the protocol knows.
            wall_time_us: micros(wall).0.max(1),
            memory_bytes: limits.memory_bytes.0,
            stack_bytes: limits.stack_bytes.0,
            processes: limits.processes,
            open_files: limits.open_files,
            file_size_bytes: limits.file_size_bytes.0,
            output_bytes: limits.output_bytes.0,
        },
        stdin: Stdin {
            data: Vec::new(),
            last: true,
        },
        may_be_warm,
    }
}

fn micros(duration: Duration) -> Micros {
    Micros(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
}
