//! Netlink: routes, links, and nf_tables, in process.

mod link;
mod message;
pub(crate) mod nft;
mod socket;

pub(crate) use link::{Address, Link, Links, Route, Veth};
