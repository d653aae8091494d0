//! One client: a life of a pod after the other, each in another way.

use std::{sync::Arc, time::Duration};

use corten_proto::cri::{self, ContainerState, NamespaceMode};
use tokio::time::sleep;

use super::{
    calls::Caller,
    seed::Seed,
    world::{Outcome, World},
};
use crate::pod;

/// The label of all that a client makes.
const LABEL: &str = "churn-client";
/// Moment at which an impatient client leaves.
const SOON: Duration = Duration::from_millis(5);
/// Graces that end before a run does.
const GRACES: [u32; 4] = [0, 0, 1, 2];
/// Grace that no run waits for.
const LONG: u32 = 1000;
/// The exit code of a kill, and of SIGTERM where nothing traps it.
const KILLED: i32 = 137;
const TERMINATED: i32 = 143;

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Ends by itself with this code.
    Quick(i32),
    /// Ends with this code when it is asked to.
    Polite(i32),
    /// Has to be killed.
    Deaf,
}

#[derive(Clone, Debug)]
struct Held {
    id: String,
    kind: Kind,
    /// A start was asked for.
    was_started: bool,
}

#[derive(Debug)]
pub(super) struct Client {
    caller: Caller,
    seed: Seed,
    lives: u64,
}

impl Client {
    pub(super) fn new(world: Arc<World>, number: u64, seed: u64) -> Self {
        Self {
            caller: Caller::new(world, number),
            seed: Seed::new(seed, number),
            lives: 0,
        }
    }

    /// Returns how many lives there were.
    pub(super) async fn run(mut self) -> u64 {
        while !self.caller.world.is_over() {
            self.lives += 1;
            self.life().await;
            self.sweep().await;
        }
        self.lives
    }

    async fn life(&mut self) {
        let config = self.pod();
        if self.seed.once_in(4) {
            self.caller.leaving(Some(SOON)).run_pod(&config).await;
            if self.seed.once_in(4) {
                return;
            }
        }
        let pod = loop {
            match self.caller.clone().run_pod(&config).await {
                Outcome::Done(id) => break id,
                Outcome::Cut => {}
                Outcome::Refused => return,
            }
        };
        let world = Arc::clone(&self.caller.world);
        world.standing().pods.insert(pod.clone());
        let mut held = Vec::new();
        for number in 0..=self.seed.below(3) {
            held.extend(self.container(&pod, number).await);
        }
        self.look(&pod).await;
        {
            let mut standing = world.standing();
            standing.pods.remove(&pod);
            for container in &held {
                standing.containers.remove(&container.id);
            }
        }
        self.end(&pod, held).await;
    }

    fn label(&self) -> String {
        self.caller.client.to_string()
    }

    fn pod(&mut self) -> cri::PodSandboxConfig {
        let name = format!("churn-{}-{}", self.caller.client, self.lives);
        let mut config = pod::pod(&name);
        let network =
            *self
                .seed
                .pick(&[NamespaceMode::Pod, NamespaceMode::Pod, NamespaceMode::Node]);
        let pid = *self.seed.pick(&[
            NamespaceMode::Container,
            NamespaceMode::Container,
            NamespaceMode::Pod,
        ]);
        if let Some(context) = config
            .linux
            .as_mut()
            .and_then(|linux| linux.security_context.as_mut())
        {
            context.namespace_options = Some(pod::namespaces(network, pid));
        }
        if network == NamespaceMode::Node {
            config.hostname.clear();
        }
        config.labels.insert(LABEL.into(), self.label());
        config
    }

    /// Creates a container, and mostly starts it.
    async fn container(&mut self, pod: &str, number: u64) -> Option<Held> {
        let code = i32::try_from(self.seed.below(100)).unwrap_or_default() + 1;
        let kind = *self.seed.pick(&[
            Kind::Quick(code),
            Kind::Polite(code),
            Kind::Polite(code),
            Kind::Deaf,
        ]);
        let script = match kind {
            Kind::Quick(code) => format!("exit {code}"),
            Kind::Polite(code) => {
                format!("trap 'exit {code}' TERM; while :; do sleep 0.1; done")
            }
            Kind::Deaf => "trap '' TERM; while :; do sleep 0.5; done".to_owned(),
        };
        let mut config = pod::container(&format!("c{number}"), &script);
        config.labels.insert(LABEL.into(), self.label());
        if self.seed.once_in(4) {
            self.caller.leaving(Some(SOON)).create(pod, &config).await;
        }
        let id = loop {
            match self.caller.clone().create(pod, &config).await {
                Outcome::Done(id) => break id,
                Outcome::Cut => {}
                Outcome::Refused => return None,
            }
        };
        let mut held = Held {
            id,
            kind,
            was_started: false,
        };
        if self.seed.once_in(5) {
            return Some(held);
        }
        held.was_started = true;
        if self.seed.once_in(4) {
            self.caller.leaving(Some(SOON)).start(&held.id).await;
            if self.seed.once_in(2) {
                return Some(held);
            }
        }
        let started = self.caller.clone().start(&held.id).await;
        let is_running = matches!(started, Outcome::Done(()));
        if is_running && !matches!(kind, Kind::Quick(_)) {
            let world = Arc::clone(&self.caller.world);
            world.standing().containers.insert(held.id.clone());
            if self.seed.once_in(2) {
                self.exec(&held.id).await;
            }
        }
        Some(held)
    }

    async fn exec(&mut self, id: &str) {
        let leaves = self.seed.once_in(4).then_some(SOON);
        let code = i32::try_from(self.seed.below(100)).unwrap_or_default();
        let script = format!("echo {code}; exit {code}");
        let Outcome::Done(done) = self.caller.leaving(leaves).exec(id, &script).await else {
            return;
        };
        let is_right = done.exit_code == code && done.stdout == format!("{code}\n").into_bytes();
        if !is_right && !self.caller.world.lost_its_shim(id) {
            self.caller
                .world
                .problem(&format!("exec of {script:?} in {id}: {done:?}"));
        }
    }

    async fn look(&mut self, pod: &str) {
        match self.seed.below(4) {
            0 => drop(self.caller.clone().pods(None).await),
            1 => drop(self.caller.clone().containers(None).await),
            2 => drop(self.caller.clone().pod_status(pod).await),
            _ => sleep(Duration::from_millis(self.seed.below(300))).await,
        }
    }

    /// Ends what is left of the life, in one of the ways in which clients race with themselves and with each other.
    async fn end(&mut self, pod: &str, mut held: Vec<Held>) {
        let call = || self.caller.clone();
        let hasty = self.caller.leaving(Some(SOON));
        let Some(first) = held.first().map(|held| held.id.clone()) else {
            return;
        };
        let way = self.seed.below(12);
        if matches!(way, 5 | 6) {
            held[0].was_started = true;
        }
        match way {
            0..=2 => return self.one_by_one(&held).await,
            3 => {
                tokio::join!(call().stop_pod(pod), call().remove_pod(pod));
            }
            4 => {
                tokio::join!(call().remove(&first), call().remove_pod(pod));
            }
            5 => {
                tokio::join!(call().start(&first), call().remove(&first));
            }
            6 => {
                tokio::join!(call().start(&first), call().stop_pod(pod));
            }
            7 => {
                hasty.stop_pod(pod).await;
                call().remove_pod(pod).await;
            }
            8 => {
                let late = pod::container("late", "sleep 1000");
                let (late, stopped) = tokio::join!(call().create(pod, &late), call().stop_pod(pod));
                if let (Outcome::Done(id), Outcome::Done(())) = (late, stopped) {
                    self.check_end(&Held {
                        id,
                        kind: Kind::Deaf,
                        was_started: false,
                    })
                    .await;
                }
            }
            9 => {
                hasty.stop(&first, LONG).await;
                call().stop(&first, 0).await;
            }
            10 => {
                tokio::join!(hasty.stop(&first, LONG), call().stop_pod(pod));
            }
            _ => {
                tokio::join!(
                    call().stop(&first, 2),
                    call().stop(&first, 0),
                    call().remove(&first)
                );
            }
        }
        if let Outcome::Done(()) = self.caller.clone().stop_pod(pod).await {
            for container in &held {
                self.check_end(container).await;
            }
        }
    }

    async fn one_by_one(&mut self, held: &[Held]) {
        for container in held {
            let grace = *self.seed.pick(&GRACES);
            let leaves = self.seed.once_in(4).then_some(SOON);
            let call = self.caller.leaving(leaves);
            if let Outcome::Done(()) = call.clone().stop(&container.id, grace).await {
                self.check_end(container).await;
            }
            if self.seed.once_in(2) {
                call.remove(&container.id).await;
            }
        }
    }

    /// Looks at the end of a container that was stopped.
    async fn check_end(&self, held: &Held) {
        let world = &self.caller.world;
        let Outcome::Done(status) = self.caller.clone().status(&held.id).await else {
            return;
        };
        let killed = [KILLED, TERMINATED];
        let is_right = match held.kind {
            _ if !held.was_started => status.exit_code == KILLED,
            Kind::Quick(code) | Kind::Polite(code) => {
                status.exit_code == code || killed.contains(&status.exit_code)
            }
            Kind::Deaf => killed.contains(&status.exit_code),
        };
        let has_ended = status.state() == ContainerState::ContainerExited;
        let is_fine = has_ended && is_right;
        if !is_fine && !world.lost_its_shim(&held.id) {
            world.problem(&format!("the end of {held:?} is wrong: {status:?}"));
        }
    }

    /// Removes every pod of this client, and looks that nothing of them is listed.
    async fn sweep(&mut self) {
        let label = self.label();
        let mine = || Some((LABEL, label.as_str()));
        let Outcome::Done(pods) = self.caller.clone().pods(mine()).await else {
            return;
        };
        for pod in &pods {
            self.caller.take_away(&pod.id).await;
        }
        if let Outcome::Done(left) = self.caller.clone().containers(mine()).await {
            for container in left {
                let is_of_these = pods.iter().any(|pod| pod.id == container.pod_sandbox_id);
                if is_of_these {
                    let text = format!(
                        "container {} is listed, and its pod {} is gone",
                        container.id, container.pod_sandbox_id
                    );
                    self.caller.world.problem(&text);
                }
            }
        }
    }
}
