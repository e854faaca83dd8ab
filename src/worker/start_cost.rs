//! What starting a runtime costs here: a program that does nothing, run a few times in this worker's own isolation, while the
//! worker has nothing else to do. The catalogue that it answers with has the numbers.
//!
//! It asks the Engine once for all that is there, only while a runtime is not measured, and only while the worker is idle.
//!
//! It is measured in a sandbox that is destroyed after it, in a slot of the machine's own like a submission, and kept beside the
//! images' work directory, so that one worker of a machine measures an image once.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::{Fleet, admit::Admission, execute};
use crate::{
    container::{ContainerError, Feed},
    submission::{
        catalogue::{Catalogue, Runtime, StartCost},
        check,
        names::{Digest, RuntimeRef, Tenant},
        plan::{Plan, Source},
        units::{ByteSize, Micros},
    },
};

/// How often the program is run; the first run warms the caches and does not count.
const RUNS: usize = 6;

/// How long to wait before images are looked for again.
const AGAIN: Duration = Duration::from_mins(1);

/// The numbers that are known.
#[derive(Debug, Default)]
pub(crate) struct StartCosts(Mutex<HashMap<RuntimeRef, StartCost>>);

impl StartCosts {
    /// `catalogue` with what is known.
    pub(crate) fn note(&self, catalogue: &Catalogue) -> Catalogue {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let runtimes = catalogue.runtimes.iter().map(|runtime| Runtime {
            start_cost: known.get(&runtime.reference()).cloned(),
            ..runtime.clone()
        });
        Catalogue {
            runtimes: runtimes.collect(),
        }
    }

    fn has(&self, runtime: &RuntimeRef) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.contains_key(runtime)
    }

    fn put(&self, runtime: RuntimeRef, cost: StartCost) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(runtime, cost);
    }
}

/// Measures every runtime whose image is there, one after the other, until `over`.
pub(crate) async fn measure(fleet: &Fleet, admission: &Admission, over: &CancellationToken) {
    let mut wait = fleet.config.runtimes.measure_after_us.duration();
    let mut told = HashSet::new();
    loop {
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = over.cancelled() => return,
        }
        wait = AGAIN;
        tokio::select! {
            () = look(fleet, admission, &mut told) => {}
            () = over.cancelled() => return,
        }
    }
}

/// Measures what was not measured yet and is there, for as long as nothing else runs. A runtime that cannot be measured is told of
/// once, and tried again quietly.
async fn look(fleet: &Fleet, admission: &Admission, told: &mut HashSet<RuntimeRef>) {
    if !fleet.running.is_empty() {
        return;
    }
    let catalogue = fleet.runtimes.catalogue();
    let references = catalogue.runtimes.iter().map(Runtime::reference);
    let unknown = references.filter(|it| !fleet.start_costs.has(it));
    let wanted: Vec<RuntimeRef> = unknown.filter(|it| empty(fleet, it).is_some()).collect();
    let here = match fleet.runtimes.here(&fleet.docker, &wanted).await {
        Ok(here) => here,
        Err(error) => {
            tracing::debug!(%error, "it is not known which runtimes are here to be measured");
            return;
        }
    };
    for (runtime, image) in here {
        if !fleet.running.is_empty() {
            return;
        }
        let Err(problem) = look_at(fleet, admission, &runtime, &image).await else {
            continue;
        };
        if told.insert(runtime.clone()) {
            tracing::warn!(%runtime, problem, "what it costs to start it was not measured");
        } else {
            tracing::debug!(%runtime, problem, "what it costs to start it was not measured again");
        }
    }
}

/// The program that does nothing, where the runtime has one.
fn empty(fleet: &Fleet, runtime: &RuntimeRef) -> Option<String> {
    let version = runtime.version.as_ref()?;
    let definition = fleet.runtimes.definition(&runtime.name, version)?;
    definition.empty.clone()
}

/// Measures `runtime`, unless another worker of this machine has.
async fn look_at(
    fleet: &Fleet,
    admission: &Admission,
    runtime: &RuntimeRef,
    image: &Digest,
) -> Result<(), String> {
    // The catalogue may have changed meanwhile.
    let Some(empty) = empty(fleet, runtime) else {
        return Ok(());
    };
    let file = kept_at(fleet, image);
    let kept = std::fs::read(&file).ok();
    let kept = kept.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let cost = if let Some(cost) = kept {
        cost
    } else {
        let cost = run(fleet, admission, runtime, &empty, image).await?;
        keep(&file, &cost).map_err(|error| error.to_string())?;
        cost
    };
    fleet.start_costs.put(runtime.clone(), cost);
    Ok(())
}

fn kept_at(fleet: &Fleet, image: &Digest) -> PathBuf {
    let isolation = fleet.containers.isolation();
    let name = format!("{}-{isolation:?}.json", image.as_str().replace(':', "-"));
    let directory = fleet.config.data_dir.0.join("runtimes/start-cost");
    directory.join(name.to_lowercase())
}

fn keep(file: &std::path::Path, cost: &StartCost) -> std::io::Result<()> {
    if let Some(directory) = file.parent() {
        std::fs::create_dir_all(directory)?;
    }
    std::fs::write(file, serde_json::to_vec(cost)?)
}

/// What a plan holds itself, as all that is measured here does.
fn in_plan(source: &Source) -> Feed<'_> {
    source.inline().map_or(Feed::EMPTY, Feed::Slice)
}

async fn run(
    fleet: &Fleet,
    admission: &Admission,
    runtime: &RuntimeRef,
    empty: &str,
    image: &Digest,
) -> Result<StartCost, String> {
    let plan = plan(fleet, runtime, empty)?;
    let tenant: Tenant = "start-cost".parse().map_err(|_| "a tenant's name")?;
    let request = execute::request(&plan, &tenant, image, false).ok_or("a plan without stages")?;
    let mut admitted = admission.admit().await;
    admitted
        .fit(fleet.need(&plan))
        .await
        .map_err(|error| error.to_string())?;
    let taken = fleet.containers.take(&request).await;
    // Dropped at the end instead of ended: nobody else gets it.
    let mut sandbox = taken.map_err(|error| error.to_string())?;
    let failed = |error: ContainerError| error.to_string();
    let files = execute::laid_out(&plan.files);
    sandbox.lay_out(&files).await.map_err(failed)?;
    let stages = plan.compile.iter().map(|stage| (stage, 1));
    let runs = plan.runs.iter().map(|run| (&run.stage, RUNS));
    let mut measured = Vec::new();
    for (stage, times) in stages.chain(runs) {
        measured.clear();
        for _ in 0..times {
            let wall = stage.limits.wall_time_us.duration();
            let finished = sandbox
                .run(stage, in_plan(&stage.stdin), wall, &mut |_| {})
                .await
                .map_err(failed)?;
            if finished.ended.exit != envicutor_protocol::Exit::Code(0) {
                return Err(format!("it ended with {:?}", finished.ended.exit));
            }
            measured.push(finished.ended);
        }
    }
    let middle = |number: fn(&envicutor_protocol::Ended) -> u64| {
        let mut all: Vec<u64> = measured.iter().skip(1).map(number).collect();
        all.sort_unstable();
        all.get(all.len() / 2).copied().unwrap_or_default()
    };
    Ok(StartCost {
        isolation: fleet.containers.isolation(),
        cpu_us: Micros(middle(|it| it.cpu_user_us + it.cpu_system_us)),
        wall_us: Micros(middle(|it| it.wall_us)),
        memory_bytes: ByteSize(middle(|it| it.memory_peak_bytes)),
    })
}

/// The submission of a program that does nothing.
fn plan(fleet: &Fleet, runtime: &RuntimeRef, empty: &str) -> Result<Plan, String> {
    let body = serde_json::json!({"runtime": runtime, "files": [{"text": empty}]}).to_string();
    let (catalogue, ceilings) = (fleet.runtimes.catalogue(), &fleet.config.ceilings.0);
    check::check(body.as_bytes(), None, &catalogue, ceilings)
        .map_err(|rejected| format!("{:?}", rejected.errors))
}
