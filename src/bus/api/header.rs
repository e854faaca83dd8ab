//! The headers that we write or read.

/// The encoding of the body.
pub const CONTENT_TYPE: &str = "Content-Type";
/// 0, and one more for each replay; absent is 0.
pub const GENERATION: &str = "Envicutor-Generation";
/// The version of the contract; absent is 1.
pub const SCHEMA: &str = "Envicutor-Schema";
/// The replays that a generation came from.
pub const REPLAYS: &str = crate::submission::replay::Trail::HEADER;
/// Of a replay: the digest of the body that the service published, whatever was edited since.
pub const DIGEST: &str = "Envicutor-Submission-Digest";
/// `wait`: a submission of a runtime that is being installed waits for it, instead of being rejected.
pub const RUNTIME: &str = "Envicutor-Runtime";
/// The trace that a submission belongs to.
pub const TRACE: &str = "traceparent";
/// Of an event: the place in its queue of the message that it is about.
pub(in crate::bus) const SEQUENCE: &str = "Envicutor-Sequence";
/// Compare-and-set: the sequence that the subject's last message must have, 0 for none.
pub(in crate::bus) const EXPECTED_SEQUENCE: &str = "Nats-Expected-Last-Subject-Sequence";
/// What JetStream drops repeated publishes by.
pub(in crate::bus) const MESSAGE_ID: &str = "Nats-Msg-Id";
