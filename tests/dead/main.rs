//! What an operator does with dead letters: every letter is found, shown, replayed once, removed, and nothing is done that was
//! not asked for. Against a real nats-server, by the command itself; `tests/replay.rs` has workers run what is replayed.

#[path = "../fleet/mod.rs"]
mod fleet;

mod batches;
mod desk;
mod looking;
mod outage;
mod removing;
mod replaying;
mod skipping;
