//! SPDY/3.1, the server's side: many streams on one connection, as `kubectl` and `crictl` speak it.
//!
//! Source: SPDY protocol, draft 3.1. What of it these clients do not do is left out: pushed streams, priorities and
//! credentials. They also know nothing of windows. So ours is a promise that holds for those who keep to it, what a peer
//! sends beyond it is left in its socket, and a peer's own window counts from the moment that it has named one.

mod frame;
mod headers;
mod reader;
mod session;
mod stream;
#[cfg(test)]
mod tests;
mod writer;

pub(super) use self::{
    session::{Incoming, Session, Settings},
    stream::{Broken, NewStream, Receiver, Sender},
};
