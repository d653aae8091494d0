//! PullImage: `corten image pull`. The same operation as the CRI's, so that both join one another.

use std::{sync::Arc, time::Duration};

use corten_image::{Phase, Progress};
use corten_proto::{
    admin::{LayerProgress, PullImageProgress, PullImageRequest, layer_progress},
    cri,
};
use tokio::{
    sync::mpsc::{self, Sender},
    time::{MissedTickBehavior, interval},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::{context::Context, rpc};

/// Often enough for a bar that moves, and for small layers to be seen.
const INTERVAL: Duration = Duration::from_millis(25);
/// Messages that a slow terminal may be behind.
const BACKLOG: usize = 4;

type Message = Result<PullImageProgress, Status>;

pub(super) fn handle(cx: &Arc<Context>, request: PullImageRequest) -> ReceiverStream<Message> {
    let (messages, stream) = mpsc::channel(BACKLOG);
    tokio::spawn(pull(Arc::clone(cx), request, messages));
    ReceiverStream::new(stream)
}

/// Ends with the client; the pull goes on as that of any client that has left.
async fn pull(cx: Arc<Context>, request: PullImageRequest, messages: Sender<Message>) {
    let reference = request.reference.clone();
    let pulled = rpc::pull_image(&cx, cri_request(request));
    tokio::pin!(pulled);
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut watched = None;
    let mut last = Vec::new();
    loop {
        tokio::select! {
            biased;
            pulled = &mut pulled => {
                let end = pulled.map_err(Status::from).map(|reply| PullImageProgress {
                    layers: done(watched.as_deref()),
                    image_id: reply.image_ref,
                });
                // Nobody reads it where the client has left.
                let _ = messages.send(end).await;
                return;
            }
            _ = ticks.tick() => {
                watched = watched.or_else(|| cx.images.progress(&reference));
                let layers = layers(watched.as_deref());
                if layers == last {
                    continue;
                }
                last.clone_from(&layers);
                let now = PullImageProgress {
                    layers,
                    image_id: String::new(),
                };
                if messages.send(Ok(now)).await.is_err() {
                    return;
                }
            }
        }
    }
}

fn cri_request(request: PullImageRequest) -> cri::PullImageRequest {
    let auth = cri::AuthConfig {
        username: request.username,
        password: request.password,
        ..cri::AuthConfig::default()
    };
    cri::PullImageRequest {
        image: Some(cri::ImageSpec {
            image: request.reference,
            ..cri::ImageSpec::default()
        }),
        auth: (!auth.username.is_empty()).then_some(auth),
        sandbox_config: None,
    }
}

fn layers(progress: Option<&Progress>) -> Vec<LayerProgress> {
    let layers = progress.map(Progress::layers).unwrap_or_default();
    let layers = layers.into_iter().map(|layer| LayerProgress {
        digest: layer.digest,
        size: layer.size,
        fetched: layer.fetched,
        phase: match layer.phase {
            Phase::Waiting => layer_progress::Phase::Waiting,
            Phase::Fetching => layer_progress::Phase::Fetching,
            Phase::Unpacking => layer_progress::Phase::Unpacking,
            Phase::Done => layer_progress::Phase::Done,
        }
        .into(),
    });
    layers.collect()
}

/// Of a pull that has ended well.
fn done(progress: Option<&Progress>) -> Vec<LayerProgress> {
    let mut layers = layers(progress);
    for layer in &mut layers {
        layer.set_phase(layer_progress::Phase::Done);
    }
    layers
}
