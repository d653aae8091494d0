//! Netlink: links, nf_tables, and flows that are tracked, in process.

pub(crate) mod conntrack;
mod link;
mod message;
pub(crate) mod nft;
mod socket;

pub use link::Counters;
pub(crate) use link::{Address, Link, Links, Mac, Route, Veth};
