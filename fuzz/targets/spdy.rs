//! A client of SPDY that says anything: a session takes it, opens what it opens, and ends with it.
#![no_main]
#![allow(dead_code, unused_imports, reason = "what is included serves the daemon")]

#[path = "."]
mod streaming {
    #[path = "../../cri-server/src/streaming/spdy/mod.rs"]
    pub mod spdy;
    #[path = "../../cri-server/src/streaming/activity.rs"]
    mod activity;
    mod echo;

    use std::time::Duration;

    use tokio::io::{AsyncWriteExt, copy, duplex, sink, split};

    pub async fn serve(input: &[u8]) {
        let (client, server) = duplex(64 << 10);
        let settings = spdy::Settings {
            idle_timeout: Duration::from_secs(60),
            max_streams: 8,
        };
        let (session, incoming) =
            spdy::Session::start(server, &[], settings, std::future::pending());
        let (mut read, mut write) = split(client);
        let reading = tokio::spawn(async move { copy(&mut read, &mut sink()).await });
        let serving = tokio::spawn(echo::echo(incoming));
        // One that the server has given up fails.
        let _ = write.write_all(input).await;
        let _ = write.shutdown().await;
        serving.await.expect("no stream panics");
        session.close().await;
        reading.abort();
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
