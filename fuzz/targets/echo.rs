//! A server that gives back what comes on each stream, for fuzz targets that have one of SPDY.

use tokio::task::JoinSet;

use super::spdy::Incoming;

/// Until the session is over and no stream is left.
pub async fn echo(mut incoming: Incoming) {
    let mut streams = JoinSet::new();
    while let Some(stream) = incoming.next().await {
        let Some((mut receiver, sender)) = stream.accept() else {
            continue;
        };
        streams.spawn(async move {
            while let Ok(Some(data)) = receiver.receive().await {
                if sender.send(data).await.is_err() {
                    return;
                }
            }
            let _ = sender.finish().await;
        });
    }
    while let Some(done) = streams.join_next().await {
        done.expect("no stream panics");
    }
}
