//! Runs the real agent as PID 1 of its own pid and mount namespaces and plays the worker. Needs root and Linux, not Docker.
//!
//! The agent sees either no cgroup at all, or one made for the test where the host has cgroups (version 1 or 2) to write to.
//!
//! `ENVICUTOR_TEST_SLOWNESS` is how many times slower than usual this machine is, for one that is emulated.
//!
//! With `AGENT_TEST_IMAGE` and `AGENT_TEST_BINARY` (the static agent) set, the same tests run in Docker containers of that
//! image (it needs sh, perl and coreutils), locked down as the worker does it.

#![allow(dead_code)] // Each test program uses a part of it.

use std::{
    fmt::Write as _,
    fs,
    io::{Read, Write},
    os::unix::{
        fs::{PermissionsExt, chown},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, Command as Process, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

use envicutor_protocol::{
    Command, Ended, Exit, File, Limits, Open, Report, Stage, Stdin, Stream, VERSION, decode,
    encode, frame_length,
};

/// Who the stages run as. Not 1000: nobody on the host should have it.
pub const UID: u32 = 61_234;

const PATIENCE: Duration = Duration::from_secs(20);

/// So many times slower than usual is this machine.
pub fn slowness() -> u32 {
    std::env::var("ENVICUTOR_TEST_SLOWNESS").map_or(1, |it| it.parse().expect("a number"))
}

/// How many microseconds this machine takes for what usually takes `micros`.
pub fn slowly(micros: u64) -> u64 {
    micros * u64::from(slowness())
}

/// What the agent can read of cgroups.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Cgroups {
    None,
    /// Its own, with this memory limit in bytes and this process limit (the agent included).
    Own {
        memory: u64,
        processes: u64,
        /// And below one with this memory limit in bytes.
        above: Option<u64>,
    },
}

/// The worker's side of one agent.
pub struct Worker {
    pub socket: UnixStream,
    pub agent: Child,
    pub work_dir: PathBuf,
    cgroups: Vec<PathBuf>,
    _scratch: tempfile::TempDir,
}

/// What came of one stage.
#[derive(Debug)]
pub struct Outcome {
    pub started: bool,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub ended: Ended,
}

impl Outcome {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

impl Worker {
    /// An agent without cgroups, open for stages.
    pub fn open() -> Self {
        let mut worker = Self::start(Cgroups::None);
        worker.send(&Command::Open(Open::User { uid: UID, gid: UID }));
        worker
    }

    /// An agent with its own cgroup, open for stages; `None` where the host has no cgroups to write to.
    pub fn open_in_cgroup(memory: u64, processes: u64) -> Option<Self> {
        Self::open_in(Cgroups::Own {
            memory,
            processes,
            above: None,
        })
    }

    /// The same below a cgroup with a memory limit of `above` bytes; `None` also in Docker.
    pub fn open_below(above: u64, memory: u64, processes: u64) -> Option<Self> {
        let above = Some(above);
        let cgroups = Cgroups::Own {
            memory,
            processes,
            above,
        };
        (!made_in_docker()).then(|| Self::open_in(cgroups))?
    }

    fn open_in(cgroups: Cgroups) -> Option<Self> {
        if !made_in_docker() && hierarchies().is_none() {
            eprintln!("skipped: no cgroups to write to");
            return None;
        }
        let mut worker = Self::start(cgroups);
        worker.send(&Command::Open(Open::User { uid: UID, gid: UID }));
        Some(worker)
    }

    /// An agent that has said hello and nothing else.
    pub fn start(cgroups: Cgroups) -> Self {
        // Not in /tmp: the agent sees one of its own there, which it empties.
        let scratch = tempfile::tempdir_in("/var/tmp").expect("makes a directory");
        // The stages' user must reach the work directory.
        fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755)).expect("chmods");
        let work_dir = scratch.path().join("work");
        fs::create_dir(&work_dir).expect("makes the work directory");
        fs::set_permissions(&work_dir, fs::Permissions::from_mode(0o700)).expect("chmods");
        chown(&work_dir, Some(UID), Some(UID)).expect("chowns (the tests need root)");
        let path = scratch.path().join("worker.sock");
        let listener = UnixListener::bind(&path).expect("binds");
        let (mut process, made) = match std::env::var("AGENT_TEST_IMAGE") {
            Ok(image) => (in_container(&image, scratch.path(), cgroups), Vec::new()),
            Err(_) => in_namespaces(scratch.path(), &path, &work_dir, cgroups),
        };
        let mut agent = process.stdin(Stdio::null()).spawn().expect("starts");
        let socket = accept(&listener, &mut agent);
        socket
            .set_read_timeout(Some(PATIENCE * slowness()))
            .expect("sets a timeout");
        let mut worker = Self {
            socket,
            agent,
            work_dir: if made_in_docker() {
                "/work".into()
            } else {
                work_dir
            },
            cgroups: made,
            _scratch: scratch,
        };
        assert_eq!(
            worker.receive(),
            Some(Report::Hello { version: VERSION }),
            "the first report"
        );
        worker
    }

    pub fn send(&mut self, command: &Command) {
        let frame = encode(command).expect("encodes");
        self.socket.write_all(&frame).expect("the agent reads");
    }

    /// Keeps the work directory: the memory that this takes, or `None` where there is no room.
    pub fn keep(&mut self) -> Option<u64> {
        self.send(&Command::Keep);
        match self.receive() {
            Some(Report::Kept { bytes }) => bytes,
            other => panic!("{other:?} came, expected kept"),
        }
    }

    /// The next report; `None` once the agent has closed.
    pub fn receive(&mut self) -> Option<Report> {
        let mut prefix = [0; 4];
        if self.socket.read_exact(&mut prefix).is_err() {
            return None;
        }
        let mut payload = vec![0; frame_length(prefix).expect("a fine length")];
        self.socket.read_exact(&mut payload).expect("a whole frame");
        Some(decode(&payload).expect("a report"))
    }

    /// Lays out a file.
    pub fn file(&mut self, path: &str, data: &[u8], executable: bool) {
        for (index, part) in data.chunks(64 << 10).enumerate() {
            self.send(&Command::File(File {
                path: path.into(),
                executable,
                append: index > 0,
                data: part.into(),
            }));
        }
    }

    /// Runs `stage` to its end.
    pub fn run(&mut self, stage: Stage) -> Outcome {
        self.run_with_input(stage, &[])
    }

    /// Runs `stage` to its end, and sends `rest` in parts of 64 KiB as it is wanted.
    pub fn run_with_input(&mut self, stage: Stage, rest: &[u8]) -> Outcome {
        self.send(&Command::Stage(Box::new(stage)));
        self.collect(rest)
    }

    /// Takes reports up to `Ended`.
    pub fn collect(&mut self, mut rest: &[u8]) -> Outcome {
        let (mut started, mut stdout, mut stderr) = (false, Vec::new(), Vec::new());
        loop {
            match self
                .receive()
                .expect("the agent lives until the stage has ended")
            {
                Report::Started => started = true,
                Report::Output { stream, data } => match stream {
                    Stream::Stdout => stdout.extend(data),
                    Stream::Stderr => stderr.extend(data),
                },
                Report::StdinWanted => {
                    let (part, left) = rest.split_at(rest.len().min(64 << 10));
                    rest = left;
                    self.send(&Command::Stdin(Stdin {
                        data: part.into(),
                        last: left.is_empty(),
                    }));
                }
                Report::Ended(ended) => {
                    return Outcome {
                        started,
                        stdout,
                        stderr,
                        ended: *ended,
                    };
                }
                other => panic!("unexpected: {other:?}"),
            }
        }
    }

    /// Waits for the agent's end, and says its exit code.
    pub fn agent_exit(&mut self) -> Option<i32> {
        let end = Instant::now() + PATIENCE * slowness();
        loop {
            if let Some(status) = self.agent.try_wait().expect("waits") {
                return status.code();
            }
            assert!(Instant::now() < end, "the agent still runs");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Asserts that the next report is `Failed` and the agent exits; returns step and error.
    pub fn expect_failure(&mut self) -> (String, String) {
        match self.receive() {
            Some(Report::Failed {
                step,
                object,
                error,
            }) => {
                assert_eq!(self.agent_exit(), Some(1));
                (step, format!("{object}: {error}"))
            }
            other => panic!("expected a failure, got {other:?}"),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // The socket first: the agent then ends by itself. --kill-child is the second lock.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        let end = Instant::now() + Duration::from_secs(2) * slowness();
        while Instant::now() < end && matches!(self.agent.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(2));
        }
        let _ = self.agent.kill();
        let _ = self.agent.wait();
        for directory in &self.cgroups {
            let _ = fs::remove_dir(directory);
        }
    }
}

/// Whether the tests run in containers.
pub fn made_in_docker() -> bool {
    std::env::var_os("AGENT_TEST_IMAGE").is_some()
}

/// The shell commands that mount what a stage can write to, as a container has it; `$3` is the work directory.
const TMPFS: &str =
    "mount -t tmpfs -o mode=0700,uid=61234,gid=61234,size=128m,nr_inodes=20000 none $3;
    mount -t tmpfs -o mode=1777 none /tmp; mount -t tmpfs -o mode=1777 none /dev/shm;";

/// The agent's connection, or what became of an agent that never makes one.
fn accept(listener: &UnixListener, agent: &mut Child) -> UnixStream {
    listener.set_nonblocking(true).expect("sets the listener");
    let end = Instant::now() + PATIENCE;
    loop {
        if let Ok((socket, _)) = listener.accept() {
            socket.set_nonblocking(false).expect("sets the socket");
            return socket;
        }
        let ended = agent.try_wait().expect("waits");
        assert!(
            ended.is_none(),
            "the agent ended before it connected: {ended:?}"
        );
        assert!(Instant::now() < end, "the agent does not connect");
        sleep(Duration::from_millis(1));
    }
}

/// The agent as PID 1 of new namespaces, and the cgroups made for it.
fn in_namespaces(
    scratch: &Path,
    socket: &Path,
    work_dir: &Path,
    cgroups: Cgroups,
) -> (Process, Vec<PathBuf>) {
    let (setup, made) = cgroup_setup(cgroups);
    // Wherever it was built, /tmp for example, it may not be seen in there.
    let program = scratch.join("agent");
    fs::copy(env!("CARGO_BIN_EXE_envicutor-agent"), &program).expect("copies the agent");
    let script = format!("{setup} {TMPFS} exec \"$@\"");
    let mut unshare = Process::new("unshare");
    unshare
        .args(["--pid", "--fork", "--kill-child", "--mount", "--mount-proc"])
        .arg("--ipc")
        .args(["sh", "-ec", &script, "sh"])
        .arg(program)
        .args([socket, work_dir]);
    (unshare, made)
}

/// The agent as PID 1 of a container, with the socket in `scratch`.
fn in_container(image: &str, scratch: &Path, cgroups: Cgroups) -> Process {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let (memory, processes) = match cgroups {
        Cgroups::None => (256 << 20, 65),
        Cgroups::Own {
            memory, processes, ..
        } => (memory, processes),
    };
    let binary = std::env::var("AGENT_TEST_BINARY").expect("AGENT_TEST_BINARY names the agent");
    let mut docker = Process::new("docker");
    docker
        .args(["run", "--rm", "--network", "none", "--read-only"])
        .args([
            "--name",
            &format!("agenttest-{}-{number}", std::process::id()),
        ])
        .args(["--cap-drop", "ALL", "--cap-add", "SETUID"])
        .args(["--cap-add", "SETGID", "--cap-add", "KILL"])
        .args(["--security-opt", "no-new-privileges"])
        .args([
            format!("--memory={memory}"),
            format!("--memory-swap={memory}"),
        ])
        .args([format!("--pids-limit={processes}")])
        .args([
            "--tmpfs",
            &format!("/work:exec,mode=0700,uid={UID},gid={UID},size=128m,nr_inodes=20000"),
        ])
        .args(["--tmpfs", "/tmp:exec,mode=1777"])
        .args(["--tmpfs", "/dev/shm:mode=1777"])
        .args(["-v", &format!("{binary}:/envicutor/agent:ro")])
        .args(["-v", &format!("{}:/envicutor/socket:ro", scratch.display())])
        .args([image, "/envicutor/agent"]);
    docker
}

/// Where the host has its cgroups.
const CGROUPS: &str = "/sys/fs/cgroup";

/// The hierarchies below [`CGROUPS`] that the agent reads: one for each controller (version 1), or the only one (version 2).
fn hierarchies() -> Option<&'static [&'static str]> {
    const VERSION_1: &[&str] = &["memory", "cpuacct", "pids"];
    let root = Path::new(CGROUPS);
    let mounted = |hierarchy: &&str| root.join(hierarchy).join("tasks").exists();
    if VERSION_1.iter().all(mounted) {
        return Some(VERSION_1);
    }
    // In a container this fails: its root has processes, and gives its children no controllers.
    delegate(root).is_ok().then_some(&[""])
}

/// Lets the children of a cgroup of version 2 have what the agent reads.
fn delegate(cgroup: &Path) -> std::io::Result<()> {
    fs::write(cgroup.join("cgroup.subtree_control"), "+memory +pids")
}

/// The shell commands that give the agent its view of cgroups, and the cgroups made for it, children first.
fn cgroup_setup(cgroups: Cgroups) -> (String, Vec<PathBuf>) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let Cgroups::Own {
        memory,
        processes,
        above,
    } = cgroups
    else {
        return (format!("mount -t tmpfs none {CGROUPS};"), Vec::new());
    };
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("envicutor-agent-test-{}-{number}", std::process::id());
    let (mut enter, mut mount) = (String::new(), String::new());
    let (mut made, mut parents) = (Vec::new(), Vec::new());
    for hierarchy in hierarchies().expect("asked for before") {
        let root = Path::new(CGROUPS).join(hierarchy);
        let mut directory = root.join(&name);
        fs::create_dir(&directory).expect("makes a cgroup");
        if let Some(memory) = above {
            limit(&directory, memory, processes);
            if hierarchy.is_empty() {
                delegate(&directory).expect("delegates");
            }
            parents.push(directory.clone());
            directory.push("own");
            fs::create_dir(&directory).expect("makes a cgroup");
        }
        limit(&directory, memory, processes);
        let (root, path) = (root.display(), directory.display());
        write!(enter, "echo $$ > {path}/cgroup.procs; ").expect("writes to a string");
        write!(mount, "mount --bind -o ro {path} {root}; ").expect("writes to a string");
        made.push(directory);
    }
    made.append(&mut parents);
    (enter + &mount, made)
}

/// Sets the limits that the hierarchy of `cgroup` has, by their names in both versions. Swap is not accounted everywhere.
fn limit(cgroup: &Path, memory: u64, processes: u64) {
    for (file, value) in [
        ("memory.limit_in_bytes", memory),
        ("memory.memsw.limit_in_bytes", memory),
        ("memory.max", memory),
        ("memory.swap.max", 0),
        ("pids.max", processes),
    ] {
        let path = cgroup.join(file);
        if path.exists() {
            fs::write(path, value.to_string()).expect("sets a limit");
        }
    }
}

/// A shell script as a stage, with generous limits and no input.
pub fn shell(script: &str) -> Stage {
    stage(&["sh", "-c", script])
}

/// A stage with generous limits and no input.
pub fn stage(argv: &[&str]) -> Stage {
    Stage {
        argv: argv.iter().map(|&it| it.into()).collect(),
        env: vec![("PATH".into(), "/usr/bin:/bin".into())],
        limits: Limits {
            cpu_time_us: slowly(10_000_000),
            extra_time_us: 0,
            wall_time_us: slowly(15_000_000),
            memory_bytes: 256 << 20,
            stack_bytes: 8 << 20,
            processes: 32,
            open_files: 128,
            file_size_bytes: 16 << 20,
            output_bytes: 1 << 20,
        },
        stdin: Stdin {
            data: Vec::new(),
            last: true,
        },
        may_be_warm: false,
    }
}

/// Asserts that the stage ended well by itself.
#[track_caller]
pub fn assert_ok(outcome: &Outcome) {
    assert_eq!(outcome.ended.exit, Exit::Code(0), "{outcome:?}");
    assert_eq!(outcome.ended.killed, None, "{outcome:?}");
}
