//! What a session does with an agent that does what the test says.

use std::time::Duration;

use envicutor_protocol::{
    Ended, Exit, Faith, Format, Killed, Limits, MemoryFrom, Origin, Stdin, Stream, ToolReport,
    Touched,
};
use tokio::{io::AsyncReadExt, time::timeout};

use super::*;
use crate::{
    container::{Collect, Collected, Unpack, tools::Tools},
    submission::units::ByteSize,
};

const OUTPUT_BYTES: u64 = 100_000;

/// An agent that does what the test says.
struct Agent(UnixStream);

impl Agent {
    async fn send(&mut self, report: &Report) {
        let frame = encode(report).expect("encodes");
        self.0.write_all(&frame).await.expect("sent");
    }

    async fn receive(&mut self) -> Command {
        let mut prefix = [0; 4];
        self.0.read_exact(&mut prefix).await.expect("a length");
        let mut payload = vec![0; frame_length(prefix).expect("in bounds")];
        self.0.read_exact(&mut payload).await.expect("a payload");
        decode(&payload).expect("a command")
    }
}

fn spools() -> Spools {
    Spools::new(&std::env::temp_dir(), 1 << 20)
}

async fn greeted() -> (Session, Agent) {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let mut agent = Agent(theirs);
    agent.send(&Report::Hello { version: VERSION }).await;
    (
        Session::greet(ours, spools()).await.expect("greeted"),
        agent,
    )
}

fn stage() -> Stage {
    Stage {
        argv: vec!["true".to_owned()],
        env: Vec::new(),
        limits: Limits {
            cpu_time_us: 1,
            extra_time_us: 0,
            wall_time_us: 1,
            memory_bytes: 1,
            stack_bytes: 1,
            processes: 1,
            open_files: 1,
            file_size_bytes: 1,
            output_bytes: OUTPUT_BYTES,
        },
        stdin: Stdin {
            data: Vec::new(),
            last: true,
        },
        may_be_warm: false,
    }
}

fn ended() -> Report {
    Report::Ended(Box::new(Ended {
        exit: Exit::Code(0),
        killed: None,
        touched: Touched::default(),
        cpu_user_us: 1,
        cpu_system_us: 1,
        wall_us: 1,
        memory_peak_bytes: 1,
        memory_from: MemoryFrom::Rusage,
        processes_peak: 1,
        origin: Origin::Exec,
    }))
}

fn output(data: &[u8]) -> Report {
    Report::Output {
        stream: Stream::Stdout,
        data: data.to_vec(),
    }
}

async fn run(session: &mut Session, stdin: &[u8]) -> Result<Finished, ContainerError> {
    let mut ignore = |_: Observed<'_>| {};
    let run = session.run(stage(), Feed::Slice(stdin), &mut ignore);
    timeout(Duration::from_secs(10), run)
        .await
        .expect("in time")
}

#[tokio::test]
async fn another_version_is_refused() {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    Agent(theirs).send(&Report::Hello { version: 99 }).await;
    let greeted = Session::greet(ours, spools()).await;
    let error = greeted.expect_err("refused").to_string();
    assert!(error.contains("version 99"), "{error}");
}

#[tokio::test]
async fn input_is_fed_when_it_is_wanted() {
    let (mut session, mut agent) = greeted().await;
    let stdin: Vec<u8> = (0..=255).cycle().take(CHUNK_BYTES * 2 + 5).collect();
    let play = async {
        let Command::Stage(stage) = agent.receive().await else {
            panic!("no stage")
        };
        let (mut fed, mut last) = (stage.stdin.data, stage.stdin.last);
        while !last {
            agent.send(&Report::StdinWanted).await;
            let Command::Stdin(part) = agent.receive().await else {
                panic!("no input")
            };
            fed.extend(part.data);
            last = part.last;
        }
        agent.send(&ended()).await;
        fed
    };
    let (finished, fed) = tokio::join!(run(&mut session, &stdin), play);
    finished.expect("finished");
    assert_eq!(fed, stdin);
}

#[tokio::test]
async fn more_input_wanted_than_there_is_breaks_the_protocol() {
    let (mut session, mut agent) = greeted().await;
    agent.send(&Report::StdinWanted).await;
    let error = run(&mut session, b"").await.expect_err("refused");
    assert!(matches!(error, ContainerError::Protocol(_)), "{error}");
}

#[tokio::test]
async fn more_output_than_allowed_breaks_the_protocol() {
    let (mut session, mut agent) = greeted().await;
    agent.send(&Report::Started).await;
    agent.send(&output(&vec![0; CHUNK_BYTES])).await;
    agent.send(&output(&vec![0; CHUNK_BYTES])).await;
    let error = run(&mut session, b"").await.expect_err("refused");
    assert!(matches!(error, ContainerError::Protocol(_)), "{error}");
}

#[tokio::test]
async fn a_frame_out_of_bounds_is_refused_before_it_has_come() {
    let (mut session, mut agent) = greeted().await;
    agent.0.write_all(&[0xff; 4]).await.expect("sent");
    let error = run(&mut session, b"").await.expect_err("refused");
    assert!(matches!(error, ContainerError::Protocol(_)), "{error}");
}

#[tokio::test]
async fn reports_are_read_while_the_agent_reads_nothing() {
    let (mut session, mut agent) = greeted().await;
    let mut huge = stage();
    // More than the socket takes.
    huge.argv = vec!["x".repeat(900 << 10)];
    agent.send(&Report::Started).await;
    agent.send(&output(b"hello")).await;
    agent.send(&ended()).await;
    let mut ignore = |_: Observed<'_>| {};
    let run = session.run(huge, Feed::EMPTY, &mut ignore);
    let finished = timeout(Duration::from_secs(10), run)
        .await
        .expect("reading does not wait on writing")
        .expect("finished");
    assert_eq!(finished.stdout.in_memory(), Some(&b"hello"[..]));
}

#[tokio::test]
async fn the_last_words_of_an_agent_are_heard() {
    let (mut session, mut agent) = greeted().await;
    agent
        .send(&Report::Failed {
            step: "fork".to_owned(),
            object: "true".to_owned(),
            error: "no memory".to_owned(),
        })
        .await;
    drop(agent);
    let error = run(&mut session, b"").await.expect_err("failed");
    assert!(
        matches!(error, ContainerError::AgentFailed { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn an_agent_that_is_gone_is_noticed() {
    let (mut session, agent) = greeted().await;
    assert!(session.is_quiet());
    drop(agent);
    session.stream.readable().await.expect("closed");
    assert!(!session.is_quiet());
    let error = run(&mut session, b"").await.expect_err("gone");
    assert!(matches!(error, ContainerError::AgentGone(_)), "{error}");
}

#[tokio::test]
async fn the_observer_sees_everything_in_order_with_its_offset() {
    let (mut session, mut agent) = greeted().await;
    agent.send(&Report::Started).await;
    agent.send(&output(b"ab")).await;
    agent.send(&output(b"c")).await;
    agent.send(&ended()).await;
    let mut seen = Vec::new();
    session
        .run(stage(), Feed::EMPTY, &mut |observed| {
            seen.push(match observed {
                Observed::Started => "started".to_owned(),
                Observed::Output {
                    offset_bytes, data, ..
                } => format!("{offset_bytes}:{}", data.escape_ascii()),
            });
        })
        .await
        .expect("finished");
    assert_eq!(seen, ["started", "0:ab", "2:c"]);
}

fn tools() -> Tools {
    let config = crate::config::Config::default();
    Tools::new(&config.container, &config.ceilings.0.limits)
}

fn said(report: &ToolReport) -> Vec<u8> {
    encode(report).expect("encodes")
}

fn found(path: &str) -> Vec<u8> {
    said(&ToolReport::Found {
        path: path.to_owned(),
        executable: false,
    })
}

fn data(size: usize) -> Vec<u8> {
    let data = vec![7; size];
    said(&ToolReport::Data { data })
}

fn whole() -> Vec<u8> {
    said(&ToolReport::Whole)
}

/// What is collected of a tool that says this, and ends well.
async fn collected(says: &[Vec<u8>]) -> Collected {
    let (mut session, mut agent) = greeted().await;
    let what = Collect {
        patterns: vec!["*".to_owned()],
        max_files: 2,
        max_bytes: ByteSize(10),
        entries: 10,
    };
    let play = async {
        assert!(matches!(agent.receive().await, Command::Tool(_)));
        agent.send(&Report::Started).await;
        // Cut anywhere, as pipes do.
        for part in says.concat().chunks(3) {
            agent.send(&output(part)).await;
        }
        agent.send(&ended()).await;
    };
    let tools = tools();
    let collecting = tools.collect(&mut session, &what);
    let (collected, ()) = tokio::join!(timeout(Duration::from_secs(10), collecting), play);
    collected.expect("in time").expect("no failure of ours")
}

#[tokio::test]
async fn what_a_tool_collects_is_taken_within_what_was_asked_for() {
    let end = said(&ToolReport::Collected {
        skipped: Vec::new(),
    });
    let says = [
        found("a/b"),
        data(3),
        data(4),
        whole(),
        found("c"),
        whole(),
        end,
    ];
    let collected = collected(&says).await;
    let files: Vec<_> = collected
        .files
        .iter()
        .map(|it| (&*it.path, it.size_bytes.0))
        .collect();
    assert_eq!(files, [("a/b", 7), ("c", 0)]);
    assert!(collected.skipped.is_empty());
}

#[tokio::test]
async fn a_tool_that_talks_nonsense_is_ended_and_no_more_of_it_is_believed() {
    let end = || {
        said(&ToolReport::Collected {
            skipped: Vec::new(),
        })
    };
    let first = || [found("a"), data(1), whole()].concat();
    let unpacked = ToolReport::Unpacked {
        entries: 1,
        bytes: 1,
    };
    for nonsense in [
        vec![0xff; 4],
        vec![0, 0, 0, 1, 0xc1],
        found("../x"),
        found("/etc/passwd"),
        found("b//c"),
        found(&"x".repeat(2000)),
        found("a"),
        found("A"),
        data(1),
        whole(),
        said(&unpacked),
        [found("b"), data(10)].concat(),
        [found("b"), found("c")].concat(),
        [found("b"), end()].concat(),
        [found("b"), whole(), found("c")].concat(),
        [end(), found("b")].concat(),
    ] {
        let collected = collected(&[first(), nonsense.clone(), whole(), end()]).await;
        let names: Vec<_> = collected.files.iter().map(|it| &*it.path).collect();
        let name = nonsense.escape_ascii();
        assert!(names == ["a"] || names == ["a", "b"], "{name}: {names:?}");
        let last = collected.skipped.last().expect("it is told");
        assert!(last.reason.contains("can be read"), "{name}: {last:?}");
    }
}

#[tokio::test]
async fn a_tool_that_dies_refuses_the_archive_and_one_that_never_began_is_ours() {
    let how = Unpack {
        format: Format::Tar,
        strip_components: 0,
        faith: Faith::Plain,
        entries: 1,
        bytes: ByteSize(1),
    };
    let end = |exit, killed| {
        let Report::Ended(mut ended) = ended() else {
            unreachable!("it is one")
        };
        (ended.exit, ended.killed) = (exit, killed);
        Report::Ended(ended)
    };
    for (end, words, expected) in [
        (end(Exit::Code(0), None), "", Some("without an answer")),
        (
            end(Exit::Signal(11), None),
            "",
            Some("made its reader fail"),
        ),
        (
            end(Exit::Signal(9), Some(Killed::Memory)),
            "",
            Some("of memory"),
        ),
        (
            end(Exit::Signal(9), Some(Killed::CpuTime)),
            "",
            Some("longer than"),
        ),
        (end(Exit::Code(1), None), "no work directory", None),
        (end(Exit::NotExecuted { errno: 2 }, None), "", None),
    ] {
        let (mut session, mut agent) = greeted().await;
        let play = async {
            assert!(matches!(agent.receive().await, Command::Tool(_)));
            agent.send(&Report::Started).await;
            if !words.is_empty() {
                let (stream, data) = (Stream::Stderr, words.as_bytes().to_vec());
                agent.send(&Report::Output { stream, data }).await;
            }
            agent.send(&end).await;
        };
        let tools = tools();
        let unpacking = tools.unpack(&mut session, Feed::EMPTY, &how);
        let (done, ()) = tokio::join!(unpacking, play);
        if let Some(expected) = expected {
            let refused = done.expect("not ours").expect_err("refused");
            assert!(refused.reason.contains(expected), "{refused}");
        } else {
            let error = done.expect_err("ours");
            assert!(
                matches!(error, ContainerError::AgentFailed { .. }),
                "{error}"
            );
        }
    }
}
