//! Images of runtimes on a real Docker Engine: made once, found again, made again when somebody deletes them, and nothing
//! left of one that fails. On a fresh machine the first test makes the base image, which takes a minute or so.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Mutex,
    time::{Duration, Instant},
};

use bollard::{
    Docker,
    query_parameters::{
        InspectContainerOptions, ListContainersOptionsBuilder, RemoveImageOptionsBuilder,
    },
};
use envicutor::{
    config::{self, Config},
    docker,
    runtimes::{Runtimes, error::RuntimeError, progress::Progress},
    submission::{
        catalogue::Runtime,
        names::{Digest, RuntimeRef},
        units::Micros,
    },
};
use tempfile::TempDir;

async fn engine() -> Docker {
    docker::connect(None, Micros(60_000_000))
        .await
        .expect("these tests need Docker")
}

/// The configuration of this machine: where its Debian mirror is, the environment may say.
fn config() -> Config {
    Config::load(None, &BTreeMap::new()).expect("valid")
}

/// The directory that all tests share, as all programs of a machine do.
fn shared_dir() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

/// Steps only: the logs of installations are long.
fn tell(progress: Progress) {
    if let Progress::Step(step) = progress {
        eprintln!("{step}");
    }
}

async fn prepare(runtimes: &Runtimes, docker: &Docker, name: &str) -> Result<Digest, RuntimeError> {
    let reference: RuntimeRef = name.parse().expect("a runtime");
    let catalogue = runtimes.catalogue();
    let found = catalogue.find(&reference).expect("defined");
    let (name, version) = (found.name.clone(), found.version.clone());
    let begun = Instant::now();
    let prepared = runtimes.image(docker, &name, &version, &tell).await;
    eprintln!(
        "{name}: {:?} after {:?}",
        prepared.as_ref().ok(),
        begun.elapsed()
    );
    prepared
}

/// A runtime of one test: its definition in a directory, its image removed at the end.
struct Probe {
    name: String,
    dir: TempDir,
}

impl Probe {
    fn new(test: &str, script: &str) -> Self {
        let name = format!("{test}-{}", std::process::id());
        let dir = tempfile::tempdir().expect("a directory");
        let definition = format!(
            "name = '{name}'\nversion = '1'\ndefault = true\ndescription = 'a test'\nsource_file = 'm'\n\
             script = '''{script}'''\nrun.command = ['x']\n"
        );
        std::fs::write(dir.path().join("probe.toml"), definition).expect("written");
        Self { name, dir }
    }

    fn load(&self, work_dir: &Path) -> Runtimes {
        self.load_with(work_dir, |_| ())
    }

    fn load_with(&self, work_dir: &Path, change: impl FnOnce(&mut config::Runtimes)) -> Runtimes {
        let mut config = config();
        config.runtimes.dir = Some(self.dir.path().to_owned());
        change(&mut config.runtimes);
        Runtimes::load(&config, work_dir).expect("valid")
    }

    async fn images(&self, docker: &Docker) -> usize {
        let label = format!("envicutor.runtime={}@1", self.name);
        let filters = [("label", vec![label])].into();
        let options = bollard::query_parameters::ListImagesOptionsBuilder::new()
            .filters(&filters)
            .build();
        docker
            .list_images(Some(options))
            .await
            .expect("listed")
            .len()
    }

    /// Containers that still install for this probe in `work_dir`.
    async fn containers(&self, docker: &Docker, work_dir: &Path) -> usize {
        let lock = work_dir
            .canonicalize()
            .expect("there")
            .join(format!("locks/{}@1.lock", self.name));
        let label = format!("envicutor.build={}", lock.display());
        let options = ListContainersOptionsBuilder::new()
            .all(true)
            .filters(&[("label", vec![label])].into())
            .build();
        docker
            .list_containers(Some(options))
            .await
            .expect("listed")
            .len()
    }
}

async fn delete(docker: &Docker, image: &Digest) {
    let options = RemoveImageOptionsBuilder::new().force(true).build();
    docker
        .remove_image(image.as_str(), Some(options), None)
        .await
        .expect("deleted");
}

#[tokio::test]
async fn the_runtimes_of_the_program_are_made_once_and_found_again() {
    let docker = engine().await;
    let config = config();
    for name in ["bash", "python", "c", "cpp"] {
        let first = Runtimes::load(&config, shared_dir()).expect("valid");
        let made = prepare(&first, &docker, name).await.expect("made");
        // Another start of the program: nothing is remembered but in Docker.
        let second = Runtimes::load(&config, shared_dir()).expect("valid");
        let begun = Instant::now();
        let found = prepare(&second, &docker, name).await.expect("found");
        assert_eq!(made, found);
        assert!(
            begun.elapsed() < Duration::from_secs(2),
            "{:?}",
            begun.elapsed()
        );
    }
}

#[tokio::test]
async fn an_image_keeps_nothing_of_its_installation_but_the_result() {
    let docker = engine().await;
    let probe = Probe::new("config", "echo made > /made");
    let runtimes = probe.load(shared_dir());
    let image = prepare(&runtimes, &docker, &probe.name)
        .await
        .expect("made");
    let inspected = docker.inspect_image(image.as_str()).await.expect("there");
    let config = inspected.config.expect("a configuration");
    delete(&docker, &image).await;
    assert_eq!(config.entrypoint.unwrap_or_default(), Vec::<String>::new());
    assert_eq!(config.cmd.unwrap_or_default(), Vec::<String>::new());
    let labels = config.labels.expect("labels");
    assert_eq!(labels["envicutor.runtime"], format!("{}@1", probe.name));
    assert_eq!(
        labels["envicutor.build"], "",
        "its containers would be swept"
    );
    assert_eq!(probe.containers(&docker, shared_dir()).await, 0);
}

#[tokio::test]
async fn an_image_that_somebody_deleted_is_made_again() {
    let docker = engine().await;
    let probe = Probe::new("deleted", "echo made > /made");
    let runtimes = probe.load(shared_dir());
    let first = prepare(&runtimes, &docker, &probe.name)
        .await
        .expect("made");
    delete(&docker, &first).await;
    // The worker meets "no such image" when it creates a container, and says so.
    let name: RuntimeRef = probe.name.parse().expect("a runtime");
    runtimes.forget(&name.name, &"1".parse().expect("a version"));
    let again = prepare(&runtimes, &docker, &probe.name)
        .await
        .expect("made again");
    docker.inspect_image(again.as_str()).await.expect("there");
    delete(&docker, &again).await;
}

/// Those that the Engine has, of all that are defined, are found by one list, as each is found by itself.
#[tokio::test]
async fn what_is_here_of_all_runtimes_is_found_by_one_list() {
    let (probe, docker) = (Probe::new("here", "touch /made"), engine().await);
    let runtimes = probe.load(shared_dir());
    let catalogue = runtimes.catalogue();
    let all = catalogue.runtimes.iter().map(Runtime::reference);
    let all: Vec<RuntimeRef> = all.collect();
    let of_probe = |here: Vec<(RuntimeRef, Digest)>| {
        let mut here = here.into_iter();
        here.find(|(it, _)| it.name.as_str() == probe.name)
            .map(|(_, image)| image)
    };
    let before = runtimes.here(&docker, &all).await.expect("listed");
    assert_eq!(of_probe(before), None);
    let image = prepare(&runtimes, &docker, &probe.name)
        .await
        .expect("made");
    let bash = prepare(&runtimes, &docker, "bash").await.expect("made");
    let here = runtimes.here(&docker, &all).await.expect("listed");
    let found = here.iter().find(|(it, _)| it.name.as_str() == "bash");
    assert_eq!(
        found.map(|(_, image)| image),
        Some(&bash),
        "the base itself, or over it"
    );
    assert_eq!(of_probe(here), Some(image.clone()));
    assert_eq!(runtimes.here(&docker, &[]).await.expect("listed"), []);
    delete(&docker, &image).await;
    let after = runtimes.here(&docker, &all).await.expect("listed");
    assert_eq!(of_probe(after), None);
}

#[tokio::test]
async fn a_failing_script_leaves_nothing_and_shows_its_log() {
    let docker = engine().await;
    let probe = Probe::new(
        "failing",
        "echo working\\necho it broke >&2\\nexit 7"
            .replace("\\n", "\n")
            .as_str(),
    );
    let runtimes = probe.load(shared_dir());
    let error = prepare(&runtimes, &docker, &probe.name)
        .await
        .expect_err("fails");
    let message = error.to_string();
    assert!(message.contains("exit code 7"), "{message}");
    assert!(
        message.contains("working") && message.contains("it broke"),
        "{message}"
    );
    assert!(!error.is_outage());
    assert_eq!(probe.images(&docker).await, 0);
    assert_eq!(probe.containers(&docker, shared_dir()).await, 0);
}

#[tokio::test]
async fn an_endless_script_is_ended_and_leaves_nothing() {
    let docker = engine().await;
    // The base must not eat the short time.
    prepare(
        &Runtimes::load(&config(), shared_dir()).expect("valid"),
        &docker,
        "bash",
    )
    .await
    .expect("a base image");
    let probe = Probe::new("endless", "echo so far; sleep 10000");
    let runtimes = probe.load_with(shared_dir(), |config| {
        config.prepare_timeout_us = Micros(4_000_000);
    });
    let error = prepare(&runtimes, &docker, &probe.name)
        .await
        .expect_err("ends");
    assert!(matches!(error, RuntimeError::Timeout { .. }), "{error}");
    assert!(error.to_string().contains("so far"), "{error}");
    let deadline = Instant::now() + Duration::from_secs(20);
    while probe.containers(&docker, shared_dir()).await > 0 {
        assert!(Instant::now() < deadline, "its container is still there");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(probe.images(&docker).await, 0);
}

#[tokio::test]
async fn two_workers_that_prepare_one_image_share_it() {
    let docker = engine().await;
    let probe = Probe::new("shared", "sleep 1");
    let (first, second) = (probe.load(shared_dir()), probe.load(shared_dir()));
    let spawn = |runtimes: Runtimes| {
        let (docker, name) = (docker.clone(), probe.name.clone());
        tokio::spawn(async move { prepare(&runtimes, &docker, &name).await })
    };
    let (first, second) = tokio::join!(spawn(first), spawn(second));
    let image = first.expect("joined").expect("made");
    assert_eq!(image, second.expect("joined").expect("found"));
    assert_eq!(probe.images(&docker).await, 1);
    delete(&docker, &image).await;
}

#[tokio::test]
async fn what_a_killed_worker_left_is_removed_by_the_next() {
    let docker = engine().await;
    let probe = Probe::new("killed", "if [ -e /nothing ]; then exit 1; fi; sleep 3");
    let work = tempfile::tempdir().expect("a directory");
    let runtimes = probe.load(work.path());
    // As by a crash: the runtime that would remove the container behind is gone as well.
    let crashed = std::thread::spawn({
        let (runtimes, name) = (runtimes.clone(), probe.name.clone());
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.expect("a runtime").block_on(async {
                let docker = engine().await;
                let prepared = prepare(&runtimes, &docker, &name);
                let probe_time = Duration::from_secs(2);
                tokio::time::timeout(probe_time, prepared).await.is_err()
            })
        }
    });
    assert!(
        crashed.join().expect("joined"),
        "it was given up amid the script"
    );
    prepare(&runtimes, &docker, &probe.name)
        .await
        .map_err(|e| e.to_string())
        .expect("made");
    assert_eq!(probe.containers(&docker, work.path()).await, 0);
    let image = prepare(&runtimes, &docker, &probe.name)
        .await
        .expect("known");
    delete(&docker, &image).await;
}

#[tokio::test]
async fn a_suite_that_this_machine_has_no_source_of_is_a_clear_error() {
    let docker = engine().await;
    let work = tempfile::tempdir().expect("a directory");
    let told = Mutex::new(Vec::new());
    let listener = |progress: Progress| told.lock().expect("whole").push(progress);
    let mut config = config();
    config.runtimes.base_image = "envicutor-no-such-image:none".into();
    config.runtimes.suite = "nosuchsuite".into();
    let runtimes = Runtimes::load(&config, work.path()).expect("valid");
    let (bash, version) = (
        "bash".parse().expect("a name"),
        "5.2".parse().expect("a version"),
    );
    let error = runtimes.image(&docker, &bash, &version, &listener).await;
    let message = error.expect_err("cannot be made").to_string();
    assert!(message.contains("nosuchsuite"), "{message}");
    assert!(message.contains("runtimes.base_image"), "{message}");
    assert!(!work.path().join("bootstrap").exists(), "nothing is left");
    let told = told.into_inner().expect("whole");
    assert!(
        told.iter().any(|step| step.to_string().contains("pulling")),
        "{told:?}"
    );
}

#[tokio::test]
async fn an_engine_that_does_not_answer_is_an_outage() {
    let gone = Docker::connect_with_http("http://127.0.0.1:9", 2, bollard::API_DEFAULT_VERSION);
    let gone = gone.expect("a client");
    let runtimes = Runtimes::load(&config(), shared_dir()).expect("valid");
    let error = prepare(&runtimes, &gone, "python")
        .await
        .expect_err("fails");
    assert!(error.is_outage(), "{error}");
    let nobody = gone
        .inspect_container("x", None::<InspectContainerOptions>)
        .await;
    assert!(nobody.is_err());
}
