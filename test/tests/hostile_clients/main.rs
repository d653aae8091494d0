//! Streaming clients that mean harm: each is bounded and told why where the protocol can, and after each the daemon serves
//! others and has no more descriptors, threads or memory than before.
#![allow(clippy::unwrap_used, reason = "tests")]

mod floods;
mod requests;
mod site;
mod spdy;
mod spdy_client;
mod websocket;
mod websocket_client;
