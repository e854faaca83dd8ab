//! The compose file: images from the built programs, a fleet by `docker-compose up`, a submission through it, a runtime that is
//! installed on it, and nothing left of it afterwards but its state directory.

mod fleet;

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::Output,
};

use fleet::{FIRST_USE, command, eventually, nats_server};
use serde_json::Value;
use tokio::{process::Command, time::timeout};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A fleet of the compose file.
struct Composed {
    /// `docker compose`, or the older `docker-compose`.
    compose: Vec<&'static str>,
    project: String,
    port: u16,
    /// The same path in the containers: short, for the sockets below it.
    state: tempfile::TempDir,
    images: Vec<(String, String)>,
}

impl Composed {
    async fn prepare() -> Self {
        let state = tempfile::Builder::new()
            .prefix("envcc-")
            .tempdir()
            .expect("a temporary directory");
        let name = state.path().file_name().expect("a name").to_string_lossy();
        let project = name.to_lowercase();
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = free.local_addr().expect("an address").port();
        let mut made = Command::new(root().join("scripts/compose-images"));
        let programs = Path::new(env!("CARGO_BIN_EXE_envicutor"));
        made.env("NATS_SERVER", nats_server().await)
            .env("ENVICUTOR_TAG", &project)
            .env(
                "ENVICUTOR_BINARIES",
                programs.parent().expect("a directory"),
            );
        let images = String::from_utf8(succeed(&mut made).await.stdout)
            .expect("UTF-8")
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        Self {
            compose: compose().await,
            project,
            port,
            state,
            images,
        }
    }

    async fn compose(&self, arguments: &[&str]) -> Output {
        succeed(
            Command::new(self.compose[0])
                .args(&self.compose[1..])
                .args(["--project-name", &self.project])
                .arg("--file")
                .arg(root().join("docker-compose.yml"))
                .args(arguments)
                .envs(self.images.iter().map(|(key, value)| (key, value)))
                .env("ENVICUTOR_STATE", self.state.path())
                .env("ENVICUTOR_NATS_PORT", self.port.to_string()),
        )
        .await
    }

    /// The command line of the machine, as a user of this fleet calls it.
    async fn envicutor(&self) -> Command {
        let mut envicutor = command(self.state.path()).await;
        envicutor
            .current_dir(root())
            .env(
                "ENVICUTOR__NATS__URL",
                format!("nats://127.0.0.1:{}", self.port),
            )
            .env(
                "ENVICUTOR__NATS__CREDENTIALS_FILE",
                self.state.path().join("nats/credentials.toml"),
            );
        envicutor
    }

    /// Ends the fleet and removes its images.
    async fn down(self) {
        self.compose(&["down", "--timeout", "60"]).await;
        let mut names: Vec<_> = self.images.iter().map(|(_, name)| name.clone()).collect();
        for made in ["envicutor-libraries", "envicutor-build"] {
            names.push(format!("{made}:{}", self.project));
        }
        succeed(Command::new("docker").arg("rmi").args(names)).await;
        assert_eq!(self.containers().await, "", "containers are left");
    }

    /// The containers of submissions that belong to this fleet's worker.
    async fn containers(&self) -> String {
        let listed = succeed(Command::new("docker").args([
            "ps",
            "-a",
            "--filter",
            "label=envicutor",
            "--format",
            "{{.Names}} {{.Label \"envicutor.lock\"}}",
        ]))
        .await;
        let state = self.state.path().to_string_lossy().into_owned();
        String::from_utf8_lossy(&listed.stdout)
            .lines()
            .filter(|line| line.contains(&state))
            .collect()
    }
}

/// Compose as a plugin of docker, or the program of its own.
async fn compose() -> Vec<&'static str> {
    let plugin = Command::new("docker")
        .args(["compose", "version"])
        .output()
        .await
        .expect("docker runs; the README's requirements name it");
    if plugin.status.success() {
        return vec!["docker", "compose"];
    }
    let program = Command::new("docker-compose").arg("version").output().await;
    assert!(
        program.is_ok_and(|done| done.status.success()),
        "there is no Compose: install the plugin of docker, or docker-compose 1.29 (.ci/run does)"
    );
    vec!["docker-compose"]
}

/// Runs a program to its end, which must be a success.
async fn succeed(command: &mut Command) -> Output {
    let done = timeout(FIRST_USE, command.output())
        .await
        .expect("it ends in time")
        .expect("it starts");
    assert!(
        done.status.success(),
        "{}: {}\n{}\n{}",
        command.as_std().get_program().display(),
        done.status,
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr)
    );
    done
}

/// The installer of the fleet makes a runtime, and its worker runs it.
async fn installs_a_runtime(fleet: &Composed) {
    let name = fleet.project.replace('_', "-");
    let file = fleet.state.path().join("composed.toml");
    let definition = format!(
        "name = '{name}'\nversion = '1'\ndefault = true\ndescription = 'a test'\nsource_file = 'main.sh'\n\
         script = 'echo installed >/made'\nrun.command = ['/bin/bash', '{{entry}}']\n\
         [[tests]]\nname = 'made'\nsource = 'cat /made'\nexpected = 'installed'\n"
    );
    std::fs::write(&file, definition).expect("written");
    let mut install = fleet.envicutor().await;
    let installed = install.args(["runtime", "install", "--json"]).arg(&file);
    let installed = succeed(installed).await;
    let record: Value = serde_json::from_slice(&installed.stdout).expect("a record as JSON");
    assert_eq!(record["state"], "installed", "{record:#}");
    let source = fleet.state.path().join("made.sh");
    std::fs::write(&source, "cat /made").expect("written");
    let mut submit = fleet.envicutor().await;
    let submitted = submit.arg("submit").arg(&source);
    let submitted = submitted.args(["--runtime", &name, "--wait", "--json"]);
    let submitted = succeed(submitted).await;
    let said = String::from_utf8_lossy(&submitted.stdout).into_owned();
    assert!(said.contains("installed"), "{said}");
    let image = record["image"].as_str().expect("an image");
    succeed(Command::new("docker").args(["rmi", "--force", image])).await;
}

#[tokio::test]
async fn a_composed_fleet_judges_a_submission_and_leaves_nothing() {
    let fleet = Composed::prepare().await;
    fleet.compose(&["up", "--detach"]).await;
    eventually("the worker is in the registry", FIRST_USE, || async {
        let listed = fleet
            .envicutor()
            .await
            .args(["worker", "ls", "--json"])
            .output()
            .await;
        listed.is_ok_and(|done| done.status.success() && done.stdout.len() > 4)
    })
    .await;

    let hello: PathBuf = root().join("examples/hello.py");
    let submitted = succeed(
        fleet
            .envicutor()
            .await
            .arg("submit")
            .arg(&hello)
            .args(["--id", "composed", "--wait", "--json"]),
    )
    .await;
    let said = String::from_utf8_lossy(&submitted.stdout).into_owned();

    let read = succeed(
        fleet
            .envicutor()
            .await
            .args(["result", "composed", "--json"]),
    )
    .await;
    let result: Value = serde_json::from_slice(&read.stdout).expect("a result as JSON");
    assert_eq!(result["outcome"], "finished", "{said}");
    assert_eq!(result["verdict"], "ok", "{said}");
    // The worker is in a container and sees no cgroups of the host: a helper gives them.
    assert_eq!(result["isolation"], "sandbox", "{said}");
    installs_a_runtime(&fleet).await;
    fleet.down().await;
}
