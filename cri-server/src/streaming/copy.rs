//! Copying between a process and its client.

use bytes::BytesMut;
use tokio::{io::AsyncWriteExt, net::unix::pipe};

use super::remote_command::{Input, Output};
use crate::shim::{End, Printed};

/// Copies what the client types, until either side ends.
pub(super) async fn feed(mut input: Input, mut pipe: pipe::Sender, mut end: End) {
    let copy = async {
        while let Ok(Some(data)) = input.receive().await {
            if pipe.write_all(&data).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = copy => {}
        _ = end.wait_for(Option::is_some) => {}
    }
}

/// Copies what the command prints; without an output it is dropped.
pub(super) async fn carry(mut printed: Printed, output: Option<Output>) {
    let mut buffer = BytesMut::new();
    while printed.read(&mut buffer).await > 0 {
        let data = buffer.split().freeze();
        if let Some(output) = &output
            && output.send(data).await.is_err()
        {
            return;
        }
    }
    if let Some(output) = output {
        let _ = output.finish().await;
    }
}
