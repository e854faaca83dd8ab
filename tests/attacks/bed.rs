//! Where attacks are made: a fleet with one isolation, looked at from outside.

use std::time::{Duration, Instant};

use crate::isolation::Isolation;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    attack::{Attack, told},
    fleet::Fleet,
    host::Host,
    next::Next,
};

/// Longer than any attack with the submission after it.
const PATIENCE: Duration = Duration::from_secs(90);

/// How many times slower than usual this machine is.
fn slowness() -> u32 {
    let slowness = std::env::var("ENVICUTOR_TEST_SLOWNESS");
    slowness.map_or(1, |it| it.parse().expect("a number"))
}

/// How long this machine takes for what usually takes `time`.
pub fn slowly(time: Duration) -> Duration {
    time * slowness()
}

/// The same in microseconds.
pub fn slowly_us(micros: u64) -> u64 {
    micros * u64::from(slowness())
}

/// A fleet under attack.
pub struct Bed {
    pub fleet: Fleet,
    isolation: Isolation,
    host: Host,
}

impl Bed {
    /// Starts a fleet whose containers have host uids of their own, and has it run what every runtime must have run once.
    pub async fn start(isolation: Isolation, slots: usize) -> Self {
        let uids = Host::uids();
        let env = [
            (
                "ENVICUTOR__CONTAINER__ISOLATION",
                isolation.name().to_owned(),
            ),
            ("ENVICUTOR__CONTAINER__UID_FIRST", uids.start.to_string()),
            ("ENVICUTOR__CONTAINER__UID_COUNT", uids.len().to_string()),
            ("ENVICUTOR__CONTAINER__POOL_SIZE", slots.to_string()),
            // It would take the slot that an attack was in.
            ("ENVICUTOR__WORKER__MEASURE_START_COST", "false".to_owned()),
            (
                "ENVICUTOR__CONTAINER__START_TIMEOUT_US",
                slowly_us(60_000_000).to_string(),
            ),
            (
                "ENVICUTOR__CEILINGS__LIMITS__CPU_TIME_US",
                slowly_us(60_000_000).to_string(),
            ),
            (
                "ENVICUTOR__CEILINGS__LIMITS__WALL_TIME_US",
                slowly_us(120_000_000).to_string(),
            ),
        ];
        let env: Vec<_> = env
            .iter()
            .map(|(key, value)| (*key, value.as_str()))
            .collect();
        let fleet = Fleet::start_sized(slots, &env).await;
        let hello =
            |runtime: &str, source: &str| json!({"runtime": runtime, "files": [{"text": source}]});
        let first = [
            hello("bash", "true"),
            hello("c", "int main(void) {}"),
            hello("cpp", "int main() {}"),
            hello("python", "pass"),
        ];
        for result in fleet.run_all(first.to_vec()).await {
            assert_eq!(result["verdict"], "ok", "{result:#}");
        }
        let mut host = Host::now(uids, slots);
        let wrong = host.leftovers(isolation, &fleet).await;
        assert!(wrong.is_empty(), "before any attack: {wrong:?}");
        Self {
            fleet,
            isolation,
            host,
        }
    }

    /// Publishes submissions one right after the other; their results.
    pub async fn run(&self, submissions: Vec<Value>) -> Vec<Value> {
        timeout(slowly(PATIENCE), self.fleet.run_all(submissions))
            .await
            .expect("the results come in time")
    }

    /// Makes an attack, and has the next submission follow it at once. Says everything that is not as it must be.
    pub async fn strike(&mut self, attack: &Attack) -> Vec<String> {
        let began = Instant::now();
        let next = Next::new();
        let results = self.run(vec![attack.submission(), next.submission()]).await;
        let mut wrong = attack.judge(self.isolation, &results[0]);
        let of_next = next.judge(self.isolation, &results[1]);
        wrong.extend(
            of_next
                .into_iter()
                .map(|it| format!("the next submission: {it}")),
        );
        wrong.extend(self.leftovers().await);
        let name = attack.name();
        println!(
            "== {} {name}: {:?}, {} wrong",
            self.isolation.name(),
            began.elapsed(),
            wrong.len()
        );
        println!("{}", told(&results[0]));
        println!(
            "-- {} bytes of the next submission",
            results[1]["runs"][0]["memory_peak_bytes"]
        );
        wrong
            .into_iter()
            .map(|it| format!("{name}: {it}"))
            .collect()
    }

    /// What machine and worker still hold.
    pub async fn leftovers(&mut self) -> Vec<String> {
        self.host.leftovers(self.isolation, &self.fleet).await
    }

    /// Stops the fleet; says what is left of it.
    pub async fn end(self) -> Vec<String> {
        self.fleet.stop().await;
        self.host.left_for_ever()
    }
}
