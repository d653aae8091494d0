//! How far the container is, and which request is legal then.
//!
//! ```text
//!                       Prepared
//!                      |        ^
//!              Configure        | bundle made
//!                      v        |
//!   Empty --Create--> Creating --made--> Created --Start--> Starting --execve--> Running --end--> Exited
//!                        |                  |                  |                                    ^
//!                        | failure          | killed           | failure                            |
//!                        v                  |                  v                                    |
//!                      Failed               |               Refused --end---------------------------+
//!                                           +-------------------------------------------------------+
//! ```
//!
//! From Creating to Refused the container's init lives; its end leads to Exited, which the shim does not outlive.

use corten_proto::shim::{Failure, Phase, request::Call};

use super::Waiting;

#[derive(Debug)]
pub(super) enum Stage {
    Empty,
    /// Init sets up the container; who waits for it.
    Creating(Waiting),
    /// An external runtime waits for its configuration.
    Prepared,
    /// Init has told why it could not, and is about to end.
    Failed,
    /// Init waits before execve.
    Created,
    Starting(Waiting),
    /// Its program could not be run, and it is about to end.
    Refused(Failure),
    Running,
    Exited,
}

impl Stage {
    /// What the daemon knows of it.
    pub(super) fn phase(&self) -> Phase {
        match self {
            Self::Empty | Self::Creating(_) | Self::Prepared | Self::Failed => Phase::Empty,
            Self::Created | Self::Starting(_) => Phase::Created,
            Self::Refused(_) | Self::Running => Phase::Running,
            Self::Exited => Phase::Exited,
        }
    }

    /// Whether there was a container, whose end has to be recorded.
    pub(super) fn was_created(&self) -> bool {
        !matches!(
            self,
            Self::Empty | Self::Creating(_) | Self::Prepared | Self::Failed
        )
    }

    /// Rule: shim.proto, the comments of the requests.
    pub(super) fn allows(&self, call: &Call) -> bool {
        match call {
            Call::Hello(_) => true,
            Call::Create(_) => matches!(self, Self::Empty),
            Call::Configure(_) => matches!(self, Self::Prepared),
            Call::Start(_) => matches!(self, Self::Created),
            Call::Exec(_) | Call::Attach(_) | Call::SharePids(_) => matches!(self, Self::Running),
            Call::Stop(_) => !matches!(self, Self::Empty | Self::Failed | Self::Exited),
            Call::Update(_) => {
                matches!(self, Self::Created | Self::Starting(_) | Self::Running)
            }
            Call::ReopenLog(_) => self.was_created() && !matches!(self, Self::Exited),
            // One that runs is ended by Stop, which knows of a signal and of time.
            Call::Shutdown(_) => !matches!(self, Self::Starting(_) | Self::Running),
        }
    }

    /// For a request that is not allowed.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Empty => "there is no container",
            Self::Creating(_) => "the container is being created",
            Self::Prepared => "the container waits for its runtime's configuration",
            Self::Failed => "the container could not be created",
            Self::Created => "the container is created, and not started",
            Self::Starting(_) => "the container is being started",
            Self::Refused(_) => "the container's program could not be run",
            Self::Running => "the container runs",
            Self::Exited => "the container has ended",
        }
    }
}

#[cfg(test)]
mod tests {
    use corten_proto::shim::{
        Configure, Create, Exec, Hello, ReopenLog, Shutdown, Start, Stop, Update,
    };

    use super::*;

    #[test]
    fn every_request_at_every_stage() {
        let waiting = Waiting {
            connection: 1,
            request: 1,
        };
        let calls = [
            Call::Hello(Hello::default()),
            Call::Create(Create::default()),
            Call::Start(Start {}),
            Call::Exec(Exec::default()),
            Call::Stop(Stop::default()),
            Call::ReopenLog(ReopenLog {}),
            Call::Shutdown(Shutdown {}),
            Call::Update(Update::default()),
            Call::Configure(Configure::default()),
        ];
        // Hello, Create, Start, Exec, sTop, Reopen, Shutdown, Update, conFigure.
        let golden = [
            (Stage::Empty, Phase::Empty, "HC....S.."),
            (Stage::Creating(waiting), Phase::Empty, "H...T.S.."),
            (Stage::Prepared, Phase::Empty, "H...T.S.F"),
            (Stage::Failed, Phase::Empty, "H.....S.."),
            (Stage::Created, Phase::Created, "H.S.TRSU."),
            (Stage::Starting(waiting), Phase::Created, "H...TR.U."),
            (
                Stage::Refused(Failure::default()),
                Phase::Running,
                "H...TRS..",
            ),
            (Stage::Running, Phase::Running, "H..ETR.U."),
            (Stage::Exited, Phase::Exited, "H.....S.."),
        ];
        for (stage, phase, want) in golden {
            let allowed: Vec<_> = calls.iter().map(|call| stage.allows(call)).collect();
            let want: Vec<_> = want.chars().map(|mark| mark != '.').collect();
            assert_eq!(allowed, want, "{stage:?}");
            assert_eq!(stage.phase(), phase);
        }
    }
}
