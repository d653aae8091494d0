//! A client of WebSockets that says anything, after the upgrade: channels with a terminal's sizes among them, or SPDY in a
//! tunnel. The first byte chooses the protocol.
#![no_main]
#![allow(
    dead_code,
    unused_imports,
    reason = "what is included serves the daemon"
)]

#[path = "."]
mod streaming {
    #[path = "../../cri-server/src/streaming/activity.rs"]
    mod activity;
    mod echo;
    #[path = "../../cri-server/src/streaming/spdy/mod.rs"]
    mod spdy;
    #[path = "../../cri-server/src/streaming/websocket/mod.rs"]
    mod websocket;

    /// What sizes are read from.
    #[path = "."]
    mod remote_command {
        use bytes::Bytes;

        use super::{spdy::Broken, websocket::Receiver};

        #[path = "../../cri-server/src/streaming/remote_command/size.rs"]
        mod size;

        #[derive(Debug)]
        pub struct Input(Receiver);

        pub async fn read_sizes(receiver: Receiver) {
            let mut sizes = size::Sizes::new(Input(receiver));
            while sizes.next().await.is_some() {}
        }

        impl Input {
            pub async fn receive(&mut self) -> Result<Option<Bytes>, Broken> {
                self.0.receive().await
            }
        }
    }

    use std::{future::pending, time::Duration};

    use tokio::{
        io::{AsyncWriteExt, DuplexStream, copy, duplex, sink, split},
        task::JoinSet,
    };

    use self::remote_command::read_sizes;

    const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
    const STDIN: u8 = 0;
    const STDOUT: u8 = 1;
    const RESIZE: u8 = 4;

    pub async fn serve(input: &[u8]) {
        let Some((choice, input)) = input.split_first() else {
            return;
        };
        // The beginning may have come behind the request.
        let (unread, input) = input.split_at(input.len().min(usize::from(choice >> 2)));
        let (client, server) = duplex(64 << 10);
        let (mut read, mut write) = split(client);
        let reading = tokio::spawn(async move { copy(&mut read, &mut sink()).await });
        let unread = unread.to_vec();
        let serving = match choice & 3 {
            3 => tokio::spawn(async move { tunnel(server, &unread).await }),
            kind => tokio::spawn(async move { channels(server, &unread, kind).await }),
        };
        // One that the server has given up fails.
        let _ = write.write_all(input).await;
        let _ = write.shutdown().await;
        serving.await.expect("no session panics");
        reading
            .await
            .expect("no reader panics")
            .expect("the session closes");
    }

    /// `kind`: version 4, version 5, or base64.
    async fn channels(server: DuplexStream, unread: &[u8], kind: u8) {
        let settings = websocket::Settings {
            idle_timeout: IDLE_TIMEOUT,
            is_base64: kind == 2,
            can_close_channels: kind == 1,
        };
        let inputs = [STDIN, RESIZE];
        let (mut session, mut receivers) =
            websocket::Session::start(server, unread, settings, &inputs, pending()).await;
        let (resize, stdin) = (receivers.pop(), receivers.pop());
        let (resize, mut stdin) = resize.zip(stdin).expect("two");
        let stdout = session.sender(STDOUT);
        let mut tasks = JoinSet::new();
        tasks.spawn(read_sizes(resize));
        tasks.spawn(async move {
            while let Ok(Some(data)) = stdin.receive().await {
                if stdout.send(data).await.is_err() {
                    return;
                }
            }
        });
        session.gone().await;
        while let Some(done) = tasks.join_next().await {
            done.expect("no channel panics");
        }
        session.close().await;
    }

    async fn tunnel(server: DuplexStream, unread: &[u8]) {
        let settings = spdy::Settings {
            idle_timeout: IDLE_TIMEOUT,
            max_streams: 8,
        };
        let tunnel = websocket::Tunnel::open(server, unread).await;
        let (session, incoming) = spdy::Session::start(tunnel, &[], settings, pending());
        echo::echo(incoming).await;
        session.close().await;
    }
}

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(streaming::serve(input));
});
