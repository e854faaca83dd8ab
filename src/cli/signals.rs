//! SIGINT and SIGTERM: the first asks for an end in good order, the second ends the program at once.

use std::{io, process};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::exit::Exit;

/// A token that the first SIGINT or SIGTERM cancels. A second one ends the program there and then: what a worker ran is
/// redelivered, and its containers end with it.
pub fn shutdown() -> io::Result<CancellationToken> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let token = CancellationToken::new();
    let cancelled = token.clone();
    // Lives as long as the program: it owns nothing that could be lost.
    tokio::spawn(async move {
        either(&mut interrupt, &mut terminate).await;
        cancelled.cancel();
        either(&mut interrupt, &mut terminate).await;
        process::exit(i32::from(Exit::Interrupted as u8));
    });
    Ok(token)
}

async fn either(interrupt: &mut Signal, terminate: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
