//! Flows that the kernel tracks (linux/netfilter/nfnetlink_conntrack.h). A datagram of a flow that it remembers goes where
//! the first one went, whatever the rules say since.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::libc;

use super::{
    message::{DUMP, Message, attributes, find},
    socket::Netlink,
};
use crate::attachment::Protocol;

const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const IPV4_SOURCE: u16 = 1;
const IPV6_SOURCE: u16 = 3;
const PROTOCOL_NUMBER: u16 = 1;
const PROTOCOL_DESTINATION: u16 = 3;

/// What is told of a flow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Flow {
    protocol: u8,
    /// As the one who began it wrote it.
    pub(crate) destination_port: u16,
    /// Who answers, after translation.
    pub(crate) answered_by: IpAddr,
}

/// Lets the kernel forget the UDP flows that are `unwanted`.
pub(crate) fn forget_udp(unwanted: impl Fn(&Flow) -> bool) -> io::Result<()> {
    let mut netlink = Netlink::open(NETLINK_NETFILTER)?;
    for body in netlink.request(Message::new(GET, DUMP, &[0; 4]))? {
        let Some((flow, deletion)) = read(&body) else {
            continue;
        };
        if flow.protocol != Protocol::Udp.number() || !unwanted(&flow) {
            continue;
        }
        match netlink.request(deletion) {
            // It has ended by itself.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            answer => drop(answer?),
        }
    }
    Ok(())
}

/// A flow, and the message that deletes it.
fn read(body: &[u8]) -> Option<(Flow, Message)> {
    let header = body.first_chunk::<4>()?;
    let attributes = attributes(body.get(4..)?);
    let (original, reply) = (
        find(&attributes, TUPLE_ORIGINAL)?,
        find(&attributes, TUPLE_REPLY)?,
    );
    let protocol = inner(original, TUPLE_PROTOCOL)?;
    let number = find(&protocol, PROTOCOL_NUMBER)?.first()?;
    let port = find(&protocol, PROTOCOL_DESTINATION)?.try_into().ok()?;
    let ips = inner(reply, TUPLE_IP)?;
    let v4 = find(&ips, IPV4_SOURCE).and_then(|ip| <[u8; 4]>::try_from(ip).ok());
    let v6 = find(&ips, IPV6_SOURCE).and_then(|ip| <[u8; 16]>::try_from(ip).ok());
    let answered_by = v4
        .map(|ip| Ipv4Addr::from(ip).into())
        .or(v6.map(|ip| Ipv6Addr::from(ip).into()))?;
    let flow = Flow {
        protocol: *number,
        destination_port: u16::from_be_bytes(port),
        answered_by,
    };
    let mut deletion = Message::new(DELETE, 0, &[header[0], 0, 0, 0]);
    deletion.nest(TUPLE_ORIGINAL, |tuple| {
        tuple.raw(original);
    });
    deletion.attribute(ID, find(&attributes, ID)?);
    Some((flow, deletion))
}

fn inner(bytes: &[u8], kind: u16) -> Option<Vec<(u16, &[u8])>> {
    find(&attributes(bytes), kind).map(attributes)
}
