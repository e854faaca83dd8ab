//! The CPU time of a fleet on this machine, by who used it: the worker's process, its agents, the NATS server, ourselves.
//!
//! An agent's own is that of the processes that its container has while no stage runs. What else the container's cgroup used
//! and no result reports as a stage's is the walls': namespaces, mounts and the exec, made in processes that become a
//! stage or end with it. What the kernel does in threads of its own, after a container or a namespace is gone, is nobody's.

use std::{collections::HashMap, fs, io, time::Duration};

use bollard::{
    Docker,
    query_parameters::{ListContainersOptions, StatsOptions},
};
use futures_util::StreamExt as _;
use serde::Serialize;

/// The unit of CPU times in `/proc`, on every Linux that we run on.
const TICK: Duration = Duration::from_millis(10);

/// The label of a worker's containers.
const LABEL: &str = "envicutor.worker";

/// CPU time cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CostError {
    /// A process's.
    #[error("the CPU time of process {pid} ({whose}) cannot be read: {source}")]
    Process {
        /// Which.
        pid: u32,
        /// Whose it is.
        whose: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The containers'.
    #[error("the CPU time of the worker's containers cannot be read: {0}")]
    Engine(#[from] bollard::errors::Error),
}

/// Reads the CPU time of one fleet.
pub struct Meter {
    /// The worker's process.
    pub worker: u32,
    /// The worker's id, by which its containers are known.
    pub worker_id: String,
    /// The server's process.
    pub nats_server: u32,
    /// The Engine that has the containers.
    pub docker: Docker,
}

/// CPU time so far.
#[derive(Debug, Clone, Default)]
pub struct Reading {
    worker: Duration,
    nats_server: Duration,
    client: Duration,
    /// By the container's id.
    containers: HashMap<String, Contained>,
}

/// CPU time in a container so far.
#[derive(Debug, Clone, Copy, Default)]
struct Contained {
    agent: Duration,
    all: Duration,
}

impl Meter {
    /// CPU time so far. No stage should run meanwhile.
    pub async fn read(&self) -> Result<Reading, CostError> {
        let process = |pid, whose| {
            of_process(pid).map_err(|source| CostError::Process { pid, whose, source })
        };
        Ok(Reading {
            worker: process(self.worker, "the worker")?,
            nats_server: process(self.nats_server, "nats-server")?,
            client: process(std::process::id(), "the benchmark")?,
            containers: self.containers().await?,
        })
    }

    /// What the running containers used. One that ends meanwhile is left out.
    async fn containers(&self) -> Result<HashMap<String, Contained>, CostError> {
        let label = format!("{LABEL}={}", self.worker_id);
        let options = ListContainersOptions {
            filters: Some(HashMap::from([("label".to_owned(), vec![label])])),
            ..ListContainersOptions::default()
        };
        let listed = self.docker.list_containers(Some(options)).await?;
        let ids = listed.into_iter().filter_map(|container| container.id);
        // The Engine takes a second for each.
        let read = ids.map(async |id| Some((self.container(&id).await?, id)));
        let read = futures_util::future::join_all(read).await;
        let read = read.into_iter().flatten();
        Ok(read.map(|(contained, id)| (id, contained)).collect())
    }

    async fn container(&self, id: &str) -> Option<Contained> {
        let inspected = self.docker.inspect_container(id, None).await.ok()?;
        let agent = u32::try_from(inspected.state?.pid?).ok()?;
        let once = StatsOptions {
            stream: false,
            one_shot: true,
        };
        let stats = self.docker.stats(id, Some(once)).next().await?.ok()?;
        let all = stats.cpu_stats?.cpu_usage?.total_usage?;
        Some(Contained {
            agent: of_tree(agent).ok()?,
            all: Duration::from_nanos(all),
        })
    }
}

/// User and system time of a process so far, all its threads together.
fn of_process(pid: u32) -> io::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    ticks(&stat).map(|ticks| TICK * ticks).ok_or_else(|| {
        io::Error::other(format!(
            "/proc/{pid}/stat holds {stat:?}, expected times as the 14th and 15th field"
        ))
    })
}

/// The times in a line of `/proc/PID/stat`. The command's name, in parentheses, may hold anything.
fn ticks(stat: &str) -> Option<u32> {
    let (_, after) = stat.rsplit_once(')')?;
    let mut fields = after.split_whitespace().skip(11);
    let (user, system): (u32, u32) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    user.checked_add(system)
}

/// The same of a process and all below it.
fn of_tree(pid: u32) -> io::Result<Duration> {
    let mut sum = of_process(pid)?;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let children = fs::read_to_string(task?.path().join("children"))?;
        for child in children.split_whitespace().flat_map(str::parse) {
            sum += of_tree(child)?;
        }
    }
    Ok(sum)
}

/// CPU time of a series of jobs, by who used it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Costs {
    /// How many jobs.
    pub jobs: usize,
    /// The worker's process.
    pub worker: Duration,
    /// What the containers used beside the stages; `None` where one came or went, as for each job of isolation `container`, and
    /// where a slot was retired.
    pub beside: Option<Beside>,
    /// As the results report it.
    pub stages: Duration,
    /// The NATS server.
    pub nats_server: Duration,
    /// The publisher and subscriber: ourselves.
    pub client: Duration,
}

/// CPU time in the containers that no stage used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Beside {
    /// How many jobs it was used for.
    pub jobs: usize,
    /// By the agents.
    pub agents: Duration,
    /// What else.
    pub walls: Duration,
}

impl Costs {
    /// What `jobs` used between two readings, in which `stages` is reported of the stages.
    pub fn between(before: &Reading, after: &Reading, stages: Duration, jobs: usize) -> Self {
        let beside = contained(before, after).map(|contained| Beside {
            jobs,
            agents: contained.agent,
            walls: contained
                .all
                .saturating_sub(contained.agent)
                .saturating_sub(stages),
        });
        Self {
            jobs,
            worker: after.worker.saturating_sub(before.worker),
            beside,
            stages,
            nats_server: after.nats_server.saturating_sub(before.nats_server),
            client: after.client.saturating_sub(before.client),
        }
    }

    /// The mean of one job; of agents and walls over the series in which they are known.
    pub fn of_each(self) -> JobCosts {
        let each = |all| mean_us(all, self.jobs);
        JobCosts {
            worker_us: each(self.worker),
            agents_us: self.beside.map(|it| mean_us(it.agents, it.jobs)),
            walls_us: self.beside.map(|it| mean_us(it.walls, it.jobs)),
            stages_us: each(self.stages),
            nats_server_us: each(self.nats_server),
            client_us: each(self.client),
        }
    }
}

fn mean_us(all: Duration, jobs: usize) -> u64 {
    let jobs = u32::try_from(jobs).unwrap_or(u32::MAX).max(1);
    u64::try_from((all / jobs).as_micros()).unwrap_or(u64::MAX)
}

impl std::iter::Sum for Costs {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            jobs: sum.jobs + one.jobs,
            worker: sum.worker + one.worker,
            beside: match (sum.beside, one.beside) {
                (Some(sum), Some(one)) => Some(Beside {
                    jobs: sum.jobs + one.jobs,
                    agents: sum.agents + one.agents,
                    walls: sum.walls + one.walls,
                }),
                (sum, one) => sum.or(one),
            },
            stages: sum.stages + one.stages,
            nats_server: sum.nats_server + one.nats_server,
            client: sum.client + one.client,
        })
    }
}

/// What the containers used in between; `None` where they are not the same ones.
fn contained(before: &Reading, after: &Reading) -> Option<Contained> {
    if before.containers.is_empty() || before.containers.len() != after.containers.len() {
        return None;
    }
    let mut sum = Contained::default();
    for (id, now) in &after.containers {
        let then = before.containers.get(id)?;
        sum.agent += now.agent.saturating_sub(then.agent);
        sum.all += now.all.saturating_sub(then.all);
    }
    Some(sum)
}

/// CPU time of a job, by who used it, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct JobCosts {
    /// See [`Costs`], as all of these.
    pub worker_us: u64,
    /// Of all agents together.
    pub agents_us: Option<u64>,
    /// Of the containers, beyond agents and stages.
    pub walls_us: Option<u64>,
    /// As the results report it.
    pub stages_us: u64,
    /// The server's.
    pub nats_server_us: u64,
    /// The publisher's and subscriber's.
    pub client_us: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 100 0 0 0 12 34 0 0 20 0 1 0 5 6 7";
        assert_eq!(ticks(stat), Some(46));
        assert_eq!(ticks("7 (a) S 1"), None);
        assert!(of_process(std::process::id()).is_ok());
    }

    #[test]
    fn what_no_stage_used_is_the_agents_and_the_walls() {
        let reading = |agent, all| Reading {
            containers: HashMap::from([(
                "a".to_owned(),
                Contained {
                    agent: Duration::from_millis(agent),
                    all: Duration::from_millis(all),
                },
            )]),
            ..Reading::default()
        };
        let ms = Duration::from_millis;
        let costs = Costs::between(&reading(10, 100), &reading(30, 400), ms(250), 5);
        let beside = Beside {
            jobs: 5,
            agents: ms(20),
            walls: ms(30),
        };
        assert_eq!(costs.beside, Some(beside));
        let each = [costs, costs].into_iter().sum::<Costs>().of_each();
        assert_eq!((each.agents_us, each.stages_us), (Some(4_000), 50_000));
    }

    #[test]
    fn series_in_which_containers_come_and_go_tell_nothing_of_agents() {
        let none = Reading::default();
        let unknown = Costs::between(&none, &none, Duration::ZERO, 3);
        assert_eq!(unknown.beside, None);
        assert_eq!(
            [unknown].into_iter().sum::<Costs>().of_each().agents_us,
            None
        );
        let known = Costs {
            jobs: 2,
            beside: Some(Beside {
                jobs: 2,
                agents: Duration::from_millis(8),
                walls: Duration::ZERO,
            }),
            ..Costs::default()
        };
        for order in [[known, unknown], [unknown, known]] {
            let sum: Costs = order.into_iter().sum();
            assert_eq!((sum.jobs, sum.of_each().agents_us), (5, Some(4_000)));
        }
    }
}
