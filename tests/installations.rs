//! Runtimes are installed on a running fleet, by scripts that reach their packages and nothing else; whatever becomes of an
//! installation, the fleet has what it had or what was installed, and nothing between.

mod container_bed;
mod fleet;

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    path::PathBuf,
    time::Duration,
};

use envicutor::{
    bus::{
        Role,
        installations::{self, InstallationError, Records},
    },
    submission::{
        installation::{Installation, InstallationState},
        names::RuntimeName,
    },
};
use fleet::{
    eventually, publish,
    site::{self, LONG, Site},
};
use serde_json::{Value, json};
use tokio::process::Command;

/// A runtime of one test.
struct Probe {
    name: String,
    dir: tempfile::TempDir,
}

impl Probe {
    fn new(test: &str) -> Self {
        Self {
            name: format!("{test}-{}", std::process::id()),
            dir: tempfile::tempdir().expect("a directory"),
        }
    }

    /// The file of its definition: what `script` installs, and `more` lines of TOML.
    fn file(&self, script: &str, more: &str) -> PathBuf {
        let path = self.dir.path().join("probe.toml");
        let name = &self.name;
        let text = format!(
            "name = '{name}'\nversion = '1'\ndefault = true\ndescription = 'a test'\nsource_file = 'main.sh'\n\
             script = '''\n{script}\n'''\n{more}\nrun.command = ['/bin/bash', '{{entry}}']\n\
             [[tests]]\nname = 'made'\nsource = 'cat /made'\nexpected = ''\n"
        );
        std::fs::write(&path, text).expect("written");
        path
    }

    fn name(&self) -> RuntimeName {
        self.name.parse().expect("a name")
    }
}

/// What `runtime install` came to: its exit code and the record.
async fn install(site: &Site, file: &std::path::Path) -> (Option<i32>, Installation) {
    let path = file.to_str().expect("UTF-8");
    let output = site
        .cli_for(
            Duration::from_mins(20),
            &["runtime", "install", path, "--json"],
        )
        .await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let record = said
        .lines()
        .last()
        .and_then(|line| serde_json::from_str(line).ok());
    let record = record.unwrap_or_else(|| panic!("{output:?}"));
    (output.status.code(), record)
}

/// The result of a submission of `source` to the runtime.
async fn run(site: &Site, runtime: &str, source: &str) -> Value {
    let client = site.service().await;
    let mut results = site::results(&client).await;
    let id = container_bed::random();
    let submission = json!({"runtime": runtime, "files": [{"text": source}]});
    let published = publish(&client, "interactive", &id, submission.to_string()).await;
    published.expect("acknowledged");
    site::next_result(&mut results).await
}

fn stdout(result: &Value) -> &str {
    result["runs"][0]["stdout"]["text"]
        .as_str()
        .unwrap_or_else(|| panic!("{result:#}"))
}

/// Answers every connection as a web server would, for as long as the test runs.
fn answering(address: &str) -> u16 {
    let listener = TcpListener::bind(address).unwrap_or_else(|error| panic!("{address}: {error}"));
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(
                b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\nreached",
            );
        }
    });
    port
}

async fn docker(arguments: &[&str]) -> String {
    let output = Command::new("docker").args(arguments).output().await;
    let output = output.expect("docker runs");
    assert!(output.status.success(), "docker {arguments:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// What an installation tries: every way out that it knows of. It ends with 9 where one is open.
const TRIES: &str = r#"
# The names that the definition allows, whose addresses are this machine's, a neighbour's, the metadata service's.
ask() {
    exec 3<>/dev/tcp/127.0.0.1/3128
    printf '%s\r\n\r\n' "$1" >&3
    line=
    IFS= read -r -t 20 line <&3 || true
    exec 3<&- 3>&-
    echo "$1 -> $line"
    case $line in *' 403 '*) ;; *) exit 9 ;; esac
}
for name in loopback bridge neighbour metadata mapped; do
    ask "GET http://$name.fleet.example/ HTTP/1.1"
    ask "CONNECT $name.fleet.example:443 HTTP/1.1"
done
# Hosts and ports that it does not allow, and addresses.
for line in 'GET http://example.org/ HTTP/1.1' 'CONNECT 127.0.0.1:80 HTTP/1.1' 'CONNECT loopback.fleet.example:4222 HTTP/1.1' \
    'GET http://169.254.169.254/latest/meta-data/ HTTP/1.1'; do
    ask "$line"
done
# Without the proxy.
for at in ADDRESSES; do
    if timeout 3 bash -c "exec 3<>/dev/tcp/${at%:*}/${at#*:}" 2>/dev/null; then
        echo "reached $at"
        exit 9
    fi
done
[ "$(wc -l </proc/net/route)" -le 1 ]
[ ! -e /var/run/docker.sock ] && [ ! -e /run/docker.sock ]
[ "$(ls -A /dev/envicutor | tr '\n' ' ')" = 'agent life.sock proxy.sock ' ]
if touch /dev/envicutor/mine 2>/dev/null; then exit 9; fi
grep -q '^CapBnd:[[:space:]]*00000000000000db$' /proc/self/status
grep -q '^NoNewPrivs:[[:space:]]*1$' /proc/self/status
if mount -t tmpfs none /mnt 2>/dev/null; then exit 9; fi
if getent hosts example.org; then exit 9; fi
"#;

#[tokio::test(flavor = "multi_thread")]
async fn an_installation_reaches_debians_packages_and_nothing_else() {
    let site = Site::start().await;
    let engine =
        envicutor::docker::connect(None, envicutor::submission::units::Micros(60_000_000)).await;
    container_bed::image(
        &engine.expect("these tests need Docker"),
        container_bed::IMAGE,
        &[],
    )
    .await;
    let neighbour = docker(&[
        "run",
        "--detach",
        "--rm",
        container_bed::IMAGE,
        "/bin/httpd",
        "-f",
        "-p",
        "80",
    ])
    .await;
    let address = docker(&[
        "inspect",
        "--format",
        "{{.NetworkSettings.IPAddress}}",
        &neighbour,
    ])
    .await;
    let bridge = docker(&[
        "inspect",
        "--format",
        "{{.NetworkSettings.Gateway}}",
        &neighbour,
    ])
    .await;
    answering("127.0.0.2:80");
    answering(&format!("{bridge}:80"));
    let port = answering("0.0.0.0:0");
    let probe = Probe::new("isolation");
    let hosts = probe.dir.path().join("hosts");
    let own = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    let names = format!(
        "{own}\n127.0.0.2 loopback.fleet.example\n{bridge} bridge.fleet.example\n{address} neighbour.fleet.example\n\
         169.254.169.254 metadata.fleet.example\n::ffff:127.0.0.2 mapped.fleet.example\n"
    );
    std::fs::write(&hosts, names).expect("written");
    let nats = site.nats.url(Role::Operator);
    let nats = nats.rsplit(['@', '/']).next().expect("an address");
    let addresses = format!(
        "{nats} {bridge}:{port} {bridge}:80 {address}:80 127.0.0.2:80 169.254.169.254:80 8.8.8.8:53"
    );
    let tries = TRIES.replace("ADDRESSES", &addresses);
    let allowed = ["loopback", "bridge", "neighbour", "metadata", "mapped"]
        .map(|it| format!("'{it}.fleet.example'"));
    let more = format!(
        "packages = ['hello']\negress = ['apt', {}]",
        allowed.join(", ")
    );
    let worker = site.ready_worker("w", &[]).await;
    let installer = site.installer(Some(&hosts), &[]);
    let (code, record) = install(&site, &probe.file(&format!("touch /made\n{tries}"), &more)).await;
    docker(&["rm", "--force", &neighbour]).await;
    assert_eq!(
        (code, record.state),
        (Some(0), InstallationState::Installed),
        "{record:#?}"
    );
    assert!(
        record
            .log
            .contains("GET http://loopback.fleet.example/ refused (403)"),
        "{}",
        record.log
    );
    let result = run(&site, &probe.name, "hello").await;
    assert_eq!(stdout(&result), "Hello, world!\n", "{result:#}");
    drop(installer);
    worker.stop().await;
    forget(&probe).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_changes_nothing_and_its_log_is_kept() {
    let site = Site::start().await;
    let worker = site.ready_worker("w", &[]).await;
    let _installer = site.installer(
        None,
        &[
            ("ENVICUTOR__RUNTIMES__PREPARE_TIMEOUT_US", "20s"),
            ("ENVICUTOR__INSTALLER__DISK_BYTES", "64MiB"),
            ("ENVICUTOR__INSTALLER__DISK_LOOK_US", "200ms"),
        ],
    );
    let probe = Probe::new("failing");
    let unknown = run(&site, &probe.name, "true").await;
    assert_eq!(unknown["outcome"], "rejected", "{unknown:#}");
    let (code, first) = install(&site, &probe.file("touch /made; echo one >/which", "")).await;
    assert_eq!(
        (code, first.state),
        (Some(0), InstallationState::Installed),
        "{first:#?}"
    );
    let one = run(&site, &probe.name, "cat /which").await;
    assert_eq!(stdout(&one), "one\n", "without a restart: {one:#}");
    // Defined nowhere but in the fleet's catalogue, which a service may read.
    let arguments = ["runtime", "test", &probe.name, "--json"];
    let output = site.cli_as(Role::Service, &arguments).await;
    assert!(output.status.success(), "{output:?}");
    let tested: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(tested[0]["passed"], 1, "{tested:#}");
    for (script, said) in [
        ("echo working; echo it broke >&2; exit 7", "exit code 7"),
        ("echo so far; sleep 10000", "not ready within"),
        (
            "for n in $(seq 100); do head -c 5000000 /dev/zero >/big$n; sleep 0.1; done",
            "installer.disk_bytes",
        ),
        ("echo something >/made", "self-test"),
        ("kill -9 1; kill -STOP 1; exit 8", "exit code 8"),
    ] {
        let (code, failed) = install(&site, &probe.file(script, "")).await;
        let error = failed.error.clone().unwrap_or_default();
        assert_eq!(
            (code, failed.state),
            (Some(3), InstallationState::Failed),
            "{script}: {failed:#?}"
        );
        assert!(error.contains(said), "{script}: {error}");
        assert!(!failed.log.is_empty(), "{script}");
        let shown = show(&site, &probe.name, &["--json"]).await;
        let shown: Value = serde_json::from_str(&shown).expect("JSON");
        assert_eq!(shown["name"], probe.name, "the fleet has it: {shown:#}");
        let ended = &shown["installation"];
        assert_eq!(ended["state"], "failed", "{script}: {ended:#}");
        assert_eq!(ended["log"], failed.log, "{script}");
        let text = show(&site, &probe.name, &["--log"]).await;
        let last = failed.log.lines().last().expect("a line");
        assert!(
            text.contains(" failed at ") && text.contains(said) && text.contains(last),
            "{script}: {text}"
        );
        let result = run(&site, &probe.name, "cat /which").await;
        assert_eq!(stdout(&result), "one\n", "{script}: {result:#}");
    }
    let (_, second) = install(&site, &probe.file("touch /made; echo two >/which", "")).await;
    assert_eq!(second.state, InstallationState::Installed, "{second:#?}");
    let text = show(&site, &probe.name, &["--log"]).await;
    assert!(
        text.contains(" installed at ") && text.contains("running its 1 self-tests"),
        "{text}"
    );
    eventually("the worker has it", LONG, || async {
        stdout(&run(&site, &probe.name, "cat /which").await) == "two\n"
    })
    .await;
    for (arguments, expected) in [
        (&["rollback"][..], Some("one\n")),
        (&["rm"], None),
        (&["rollback"], Some("one\n")),
    ] {
        let arguments = [&["runtime"][..], arguments, &[probe.name.as_str()]].concat();
        let output = site.cli(&arguments).await;
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        eventually("the worker has it", LONG, || async {
            let result = run(&site, &probe.name, "cat /which").await;
            match expected {
                Some(expected) => result["outcome"] == "finished" && stdout(&result) == expected,
                None => result["outcome"] == "rejected",
            }
        })
        .await;
    }
    worker.stop().await;
    forget(&probe).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_a_runtime_that_was_never_there_is_shown() {
    let site = Site::start().await;
    let worker = site.ready_worker("w", &[]).await;
    let _installer = site.installer(None, &[]);
    let probe = Probe::new("never");
    let arguments = ["runtime", "show", probe.name.as_str()];
    let output = site.cli_as(Role::Service, &arguments).await;
    assert_eq!(
        output.status.code(),
        Some(2),
        "nothing is known: {output:?}"
    );
    let (code, failed) = install(&site, &probe.file("echo spoken; exit 7", "")).await;
    assert_eq!(
        (code, failed.state),
        (Some(3), InstallationState::Failed),
        "{failed:#?}"
    );
    let text = show(&site, &probe.name, &["--log"]).await;
    for part in ["does not have it", "failed at", "exit code 7", "\nspoken\n"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let version = format!("{}@1", probe.name);
    assert!(show(&site, &version, &[]).await.contains("failed at"));
    let other = format!("{}@2", probe.name);
    let output = site
        .cli_as(Role::Service, &["runtime", "show", &other])
        .await;
    assert_eq!(
        output.status.code(),
        Some(2),
        "of that version nothing is known: {output:?}"
    );
    worker.stop().await;
    forget(&probe).await;
}

/// What `runtime show` prints to a service.
async fn show(site: &Site, runtime: &str, more: &[&str]) -> String {
    let arguments = [&["runtime", "show", runtime], more].concat();
    let output = site.cli_as(Role::Service, &arguments).await;
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_installer_that_is_killed_leaves_nothing_and_another_one_does_it() {
    let site = Site::start().await;
    let probe = Probe::new("killed");
    let file = probe.file("touch /made; echo begun; sleep 8", "");
    let definition = std::fs::read_to_string(&file).expect("written");
    let bus = site.nats.bus(Role::Operator).await;
    let mut installer = site.installer(None, &[]);
    let sequence = installations::publish(&bus, &probe.name(), &definition).await;
    let sequence = sequence.expect("published");
    eventually("its container runs", LONG, || async {
        running(&probe).await == 1
    })
    .await;
    let (weight, default) = weight(&probe).await;
    assert!(weight * 10 <= default, "{weight} of {default}");
    eventually("it is bounded to what others leave", LONG, || async {
        quota(&probe).await.is_some()
    })
    .await;
    let second = installations::publish(&bus, &probe.name(), &definition).await;
    assert!(
        matches!(second, Err(InstallationError::Underway(_))),
        "{second:?}"
    );
    installer.kill().await.expect("killed");
    // The agent notices; what is left is the container's shell, which does not run.
    eventually("its container has ended", LONG, || async {
        running(&probe).await == 0
    })
    .await;
    let _second = site.installer(None, &[]);
    let records = Records::new(&bus);
    let name = probe.name();
    eventually("it is done", LONG, || async {
        let record = records.of(&name, sequence).await.expect("asked");
        record.is_some_and(|it| it.state == InstallationState::Installed && it.attempts == 2)
    })
    .await;
    assert_eq!(containers(&probe).await, 0);
    let underway = installations::is_underway(&bus, &name)
        .await
        .expect("asked");
    assert!(!underway, "its message is acknowledged");
    bus.close().await;
    forget(&probe).await;
}

/// The weight of the probe's container among its siblings, as the kernel has it, and that of a container that nothing is said of.
async fn weight(probe: &Probe) -> (u64, u64) {
    let (weight, version) = of_cpu(probe, "cpu.shares", "cpu.weight").await;
    let default = if version == 1 { 1_024 } else { 100 };
    (weight.parse().expect("a number"), default)
}

/// How much of each 100 ms the probe's container may use, in microseconds of one processor; none where it is not bounded.
async fn quota(probe: &Probe) -> Option<u64> {
    let (quota, _) = of_cpu(probe, "cpu.cfs_quota_us", "cpu.max").await;
    // Without a bound it is -1, or "max".
    quota.split(' ').next()?.parse().ok()
}

/// What the kernel has in a file of the processors' controller for the probe's container, and of which version it is.
async fn of_cpu(probe: &Probe, version_1: &str, version_2: &str) -> (String, u64) {
    let format = "{{.ID}} {{.Label \"envicutor.build\"}}";
    let lines = docker(&["ps", "--no-trunc", "--format", format]).await;
    let line = lines.lines().find(|line| line.contains(&probe.name));
    let id = line
        .and_then(|line| line.split(' ').next())
        .expect("it runs");
    let pid = docker(&["inspect", "--format", "{{.State.Pid}}", id]).await;
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it runs");
    let mut groups = groups.lines().map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        (
            parts.next().expect("controllers"),
            parts.next().expect("a path"),
        )
    });
    let is_of_cpu = |controllers: &str| controllers.split(',').any(|it| it == "cpu");
    // Version 1 has a tree for it; else all are in the one of version 2, whose line names none.
    let of_cpu = groups
        .clone()
        .find(|(controllers, _)| is_of_cpu(controllers));
    let (file, version) = if let Some((_, path)) = of_cpu {
        (format!("/sys/fs/cgroup/cpu{path}/{version_1}"), 1)
    } else {
        let unified = groups.find(|(controllers, _)| controllers.is_empty());
        let (_, path) = unified.expect("a cgroup");
        (format!("/sys/fs/cgroup{path}/{version_2}"), 2)
    };
    let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file}: {error}"));
    (text.trim().to_owned(), version)
}

/// The containers of the probe's installation.
async fn containers(probe: &Probe) -> usize {
    listed(probe, &["--all"]).await
}

/// Those that run.
async fn running(probe: &Probe) -> usize {
    listed(probe, &[]).await
}

async fn listed(probe: &Probe, more: &[&str]) -> usize {
    let arguments = [
        &["ps"][..],
        more,
        &[
            "--filter",
            "label=envicutor.build",
            "--format",
            "{{.Label \"envicutor.build\"}}",
        ],
    ];
    let lines = docker(&arguments.concat()).await;
    lines
        .lines()
        .filter(|line| line.contains(&probe.name))
        .count()
}

/// Removes the probe's images.
async fn forget(probe: &Probe) {
    let label = format!("label=envicutor.runtime={}@1", probe.name);
    let images = docker(&["images", "--quiet", "--no-trunc", "--filter", &label]).await;
    for image in images.lines() {
        docker(&["rmi", "--force", image]).await;
    }
}
