//! Looks for what the run left on the machine: containers, cgroups, processes, directories, parts of root file systems. What
//! takes a moment to go is waited for; what then is there stays there.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::{evidence::Leftovers, site::Containers};

/// Between two looks.
const POLL: Duration = Duration::from_millis(250);

/// The host's cgroups.
const CGROUPS: &str = "/sys/fs/cgroup";

/// What the run had.
#[derive(Debug)]
pub(super) struct Traces {
    /// The ids of every container that was made.
    pub(super) containers: BTreeSet<String>,
    /// The run's directory: its workers' programs are started with a path in it.
    pub(super) dir: PathBuf,
    /// The volume of runtimes as the host sees it, where it does.
    pub(super) volume: Option<PathBuf>,
    /// The parts of roots that were there before the run.
    pub(super) root_parts: BTreeSet<String>,
}

impl Traces {
    /// What is left of them, and of `containers` that are still there; looks again until nothing is or `patience` is over.
    pub(super) async fn left(
        &self,
        patience: Duration,
        containers: &Containers,
    ) -> Result<Leftovers, bollard::errors::Error> {
        let began = Instant::now();
        loop {
            let there = containers.there().await?;
            let left = self.look(there);
            let is_clean = left.count() == 0;
            if is_clean || began.elapsed() > patience {
                return Ok(left);
            }
            sleep(POLL).await;
        }
    }

    fn look(&self, containers: Vec<(String, String)>) -> Leftovers {
        let name = |(id, worker): (String, String)| format!("{id} of {worker}");
        let mut left = Leftovers {
            containers: containers.into_iter().map(name).collect(),
            processes: self.processes(),
            directories: entries(&self.dir.join("workers")),
            ..Leftovers::default()
        };
        self.cgroups(Path::new(CGROUPS), &mut left.cgroups);
        if let Some(volume) = &self.volume {
            let parts = root_parts(volume);
            left.root_parts = parts.difference(&self.root_parts).cloned().collect();
        }
        left
    }

    /// The cgroups below `dir` that are named by a container's id.
    fn cgroups(&self, dir: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let name = entry.file_name();
            if self.names_a_container(&name.to_string_lossy()) {
                found.push(entry.path().display().to_string());
            } else {
                self.cgroups(&entry.path(), found);
            }
        }
    }

    /// With systemd's driver the name is `docker-<id>.scope`.
    fn names_a_container(&self, name: &str) -> bool {
        let id = name.strip_prefix("docker-").unwrap_or(name);
        let id = id.strip_suffix(".scope").unwrap_or(id);
        self.containers.contains(id)
    }

    /// Processes in a container's cgroup, and those that were started with a path in the run's directory.
    fn processes(&self) -> Vec<String> {
        let mut found = Vec::new();
        for pid in pids() {
            let read = |what| fs::read(format!("/proc/{pid}/{what}")).unwrap_or_default();
            let cgroup = String::from_utf8_lossy(&read("cgroup")).into_owned();
            let in_container = cgroup
                .split(['/', '\n'])
                .any(|name| self.names_a_container(name));
            let command = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
            let is_ours = command.contains(&*self.dir.to_string_lossy());
            if pid != std::process::id() && (in_container || is_ours) {
                found.push(format!("{pid} {}", command.trim()));
            }
        }
        found
    }
}

impl Leftovers {
    fn count(&self) -> usize {
        let all = [
            &self.containers,
            &self.root_parts,
            &self.cgroups,
            &self.processes,
            &self.directories,
        ];
        all.map(Vec::len).iter().sum()
    }
}

/// The roots of the volume that are begun and not whole.
pub(super) fn root_parts(volume: &Path) -> BTreeSet<String> {
    use envicutor_protocol::{BEGUN, READY};
    let ready: BTreeSet<_> = names(&volume.join(READY)).collect();
    let begun = names(&volume.join(BEGUN));
    begun.filter(|name| !ready.contains(name)).collect()
}

fn pids() -> impl Iterator<Item = u32> {
    names(Path::new("/proc")).filter_map(|name| name.parse().ok())
}

fn names(dir: &Path) -> impl Iterator<Item = String> + use<> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned())
}

fn entries(dir: &Path) -> Vec<String> {
    names(dir)
        .map(|name| dir.join(name).display().to_string())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn traces(dir: &Path) -> Traces {
        Traces {
            containers: BTreeSet::from(["c0ffee".to_owned()]),
            dir: dir.to_owned(),
            volume: Some(dir.join("volume")),
            root_parts: BTreeSet::from(["older".to_owned()]),
        }
    }

    #[test]
    fn what_is_left_is_found_and_what_is_not_ours_is_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let clean = traces(dir.path()).look(Vec::new());
        assert_eq!(clean.count(), 0, "{clean:?}");

        for path in [
            "workers/w1",
            "volume/begun",
            "volume/ready",
            "cgroup/docker/c0ffee/stages",
        ] {
            fs::create_dir_all(dir.path().join(path)).expect("made");
        }
        for file in ["begun/whole", "begun/part", "begun/older", "ready/whole"] {
            fs::write(dir.path().join("volume").join(file), "").expect("written");
        }
        let left = traces(dir.path()).look(vec![("c0ffee".to_owned(), "w1".to_owned())]);
        assert_eq!(left.containers, ["c0ffee of w1"]);
        assert_eq!(left.root_parts, ["part"]);
        assert_eq!(left.directories.len(), 1, "{left:?}");

        let mut cgroups = Vec::new();
        traces(dir.path()).cgroups(&dir.path().join("cgroup"), &mut cgroups);
        assert_eq!(cgroups.len(), 1, "{cgroups:?}");
        assert!(cgroups[0].ends_with("docker/c0ffee"), "{cgroups:?}");
    }

    #[test]
    fn a_process_of_the_run_is_found() {
        let dir = tempfile::tempdir().expect("a directory");
        let script = dir.path().join("script");
        fs::write(&script, "echo started\nread line\n").expect("written");
        let mut child = std::process::Command::new("sh")
            .arg(&script)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("started");
        // Before its program runs the kernel does not tell its command line.
        let mut started = [0; 8];
        let output = child.stdout.as_mut().expect("piped");
        output.read_exact(&mut started).expect("it says so");
        let left = traces(dir.path()).look(Vec::new());
        child.kill().expect("killed");
        child.wait().expect("waited for");
        assert_eq!(left.processes.len(), 1, "{left:?}");
        assert!(
            left.processes[0].starts_with(&child.id().to_string()),
            "{left:?}"
        );
    }
}
