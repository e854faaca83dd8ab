//! JetStream's error codes that mean something to us.

/// It could not be stored: the stream is full, or the subject is; the description says which.
pub const NOT_STORED: u64 = 10077;
/// The message is larger than the stream takes.
pub const MESSAGE_TOO_LARGE: u64 = 10054;
/// There is no such stream.
pub const STREAM_NOT_FOUND: u64 = 10059;
/// There is no such consumer.
pub const CONSUMER_NOT_FOUND: u64 = 10014;
/// There is no such message.
pub const NO_MESSAGE: u64 = 10037;
/// There is no message under this sequence.
pub const SEQUENCE_NOT_FOUND: u64 = 10043;
/// More copies than the cluster has servers now, as while it comes about.
pub const NO_PEERS: u64 = 10005;
/// More copies of a consumer than its stream has, as while those of the stream are being made.
pub const MORE_COPIES_THAN_STREAM: u64 = 10126;
/// More than one copy on a server that is no cluster.
pub const NO_CLUSTER: u64 = 10074;

/// Another write was first.
pub const WRONG_LAST_SEQUENCE: u64 = 10071;
/// The same, on a cluster, while that write is under way.
pub const WRITE_UNDERWAY: u64 = 10164;

/// Whether it means that another write was first.
pub const fn is_lost_race(code: u64) -> bool {
    matches!(code, WRONG_LAST_SEQUENCE | WRITE_UNDERWAY)
}
