//! Links, addresses and routes (rtnetlink(7)).

use std::{
    io,
    net::IpAddr,
    os::fd::{AsRawFd, BorrowedFd},
    path::Path,
};

use netlink_sys::protocols::NETLINK_ROUTE;
use nix::libc;

use super::{
    message::{CREATE, EXCLUSIVE, Message, attributes},
    socket::Netlink,
};

/// linux/if_link.h.
const ADDRESS: u16 = 1;
const IFNAME: u16 = 3;
const MTU: u16 = 4;
const MASTER: u16 = 10;
const PROTINFO: u16 = 12;
const OPERSTATE: u16 = 16;
const LINKINFO: u16 = 18;
const NET_NS_FD: u16 = 28;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const VETH_PEER: u16 = 1;
const BRPORT_HAIRPIN: u16 = 4;
/// RFC 2863, as in linux/if.h.
const OPER_UP: u8 = 6;

const FLAG_UP: u32 = 1;
const TABLE_MAIN: u8 = 254;
const PROTOCOL_STATIC: u8 = 4;
const SCOPE_LINK: u8 = 253;

/// A network interface.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    /// "02:42:..."
    pub(crate) mac: String,
    pub(crate) is_up: bool,
}

/// An address with the length of its network's prefix in bits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Address {
    pub(crate) ip: IpAddr,
    pub(crate) prefix: u8,
}

/// Where a destination is reached; without gateway it is on the link itself.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Route {
    pub(crate) destination: Address,
    pub(crate) gateway: Option<IpAddr>,
}

/// The links of one network namespace.
#[derive(Debug)]
pub(crate) struct Links(Netlink);

impl Links {
    pub(crate) fn open() -> io::Result<Self> {
        Netlink::open(NETLINK_ROUTE).map(Self)
    }

    /// Those of the namespace that is pinned on `path`.
    pub(crate) fn open_in(path: &Path) -> io::Result<Self> {
        Netlink::open_in(path, NETLINK_ROUTE).map(Self)
    }

    /// The link of this name, if there is one.
    pub(crate) fn find(&mut self, name: &str) -> io::Result<Option<Link>> {
        let mut message = Message::new(libc::RTM_GETLINK, 0, &info(0, 0, 0));
        message.text(IFNAME, name);
        match self.0.request(message) {
            Ok(bodies) => Ok(bodies.first().and_then(|body| parse(body))),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn add_bridge(&mut self, name: &str, mtu: u32) -> io::Result<()> {
        let mut message = Message::new(
            libc::RTM_NEWLINK,
            CREATE | EXCLUSIVE,
            &info(0, FLAG_UP, FLAG_UP),
        );
        message.text(IFNAME, name);
        if mtu != 0 {
            message.number(MTU, mtu);
        }
        message.nest(LINKINFO, |info| {
            info.text(INFO_KIND, "bridge");
        });
        self.0.request(message).map(drop)
    }

    /// A pair of interfaces: `name` here, up, a port of `bridge`; `peer` in the namespace that `netns` is open on.
    pub(crate) fn add_veth(&mut self, veth: &Veth<'_>) -> io::Result<()> {
        let mut message = Message::new(
            libc::RTM_NEWLINK,
            CREATE | EXCLUSIVE,
            &info(0, FLAG_UP, FLAG_UP),
        );
        message.text(IFNAME, veth.name).number(MASTER, veth.bridge);
        if veth.mtu != 0 {
            message.number(MTU, veth.mtu);
        }
        message.nest(LINKINFO, |link| {
            link.text(INFO_KIND, "veth").nest(INFO_DATA, |data| {
                data.nest(VETH_PEER, |peer| {
                    peer.raw(&info(0, 0, 0)).text(IFNAME, veth.peer);
                    peer.number(NET_NS_FD, veth.netns.as_raw_fd().cast_unsigned());
                    if veth.mtu != 0 {
                        peer.number(MTU, veth.mtu);
                    }
                });
            });
        });
        self.0.request(message).map(drop)
    }

    /// Lets a bridge send a frame out of the port that it came in by.
    pub(crate) fn set_hairpin(&mut self, index: u32) -> io::Result<()> {
        let mut body = info(index, 0, 0);
        body[0] = u8::try_from(libc::AF_BRIDGE).unwrap_or_default();
        let mut message = Message::new(libc::RTM_SETLINK, 0, &body);
        message.nest(PROTINFO, |port| {
            port.attribute(BRPORT_HAIRPIN, &[1]);
        });
        self.0.request(message).map(drop)
    }

    /// Brings links up, with their addresses and routes, in one go.
    pub(crate) fn set_up(
        &mut self,
        index: u32,
        addresses: &[Address],
        routes: &[Route],
    ) -> io::Result<()> {
        let mut messages = vec![Message::new(
            libc::RTM_NEWLINK,
            0,
            &info(index, FLAG_UP, FLAG_UP),
        )];
        messages.extend(addresses.iter().map(|address| new_address(index, *address)));
        messages.extend(routes.iter().map(|route| new_route(index, route)));
        for answer in self.0.batch(messages)? {
            match answer {
                Err(error) if error.raw_os_error() != Some(libc::EEXIST) => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    pub(crate) fn set_down(&mut self, index: u32) -> io::Result<()> {
        self.0
            .request(Message::new(libc::RTM_NEWLINK, 0, &info(index, 0, FLAG_UP)))
            .map(drop)
    }

    /// Deletes the link; one that is gone is no error.
    pub(crate) fn delete(&mut self, index: u32) -> io::Result<()> {
        match self
            .0
            .request(Message::new(libc::RTM_DELLINK, 0, &info(index, 0, 0)))
        {
            Err(error) if error.raw_os_error() != Some(libc::ENODEV) => Err(error),
            _ => Ok(()),
        }
    }
}

/// See [`Links::add_veth`].
#[derive(Debug)]
pub(crate) struct Veth<'a> {
    pub(crate) name: &'a str,
    pub(crate) peer: &'a str,
    pub(crate) bridge: u32,
    pub(crate) netns: BorrowedFd<'a>,
    /// 0: the kernel's default.
    pub(crate) mtu: u32,
}

/// struct ifinfomsg.
fn info(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes[12..16].copy_from_slice(&change.to_ne_bytes());
    bytes
}

fn parse(body: &[u8]) -> Option<Link> {
    let index = u32::from_ne_bytes(body.get(4..8)?.try_into().ok()?);
    let attributes = attributes(body.get(16..)?);
    let find = |wanted| {
        attributes
            .iter()
            .find(|(kind, _)| *kind == wanted)
            .map(|(_, value)| *value)
    };
    let mac = find(ADDRESS)
        .unwrap_or_default()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<Vec<_>>()
        .join(":");
    Some(Link {
        index,
        mac,
        is_up: find(OPERSTATE).is_some_and(|state| state.first() == Some(&OPER_UP)),
    })
}

fn family(ip: IpAddr) -> u8 {
    let family = if ip.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    u8::try_from(family).unwrap_or_default()
}

pub(super) fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn new_address(index: u32, address: Address) -> Message {
    let mut body = vec![family(address.ip), address.prefix, 0, 0];
    if address.ip.is_ipv6() {
        // The address is ours alone: nothing to detect, and no second to wait.
        body[2] = u8::try_from(libc::IFA_F_NODAD).unwrap_or_default();
    }
    body.extend_from_slice(&index.to_ne_bytes());
    let mut message = Message::new(libc::RTM_NEWADDR, CREATE | EXCLUSIVE, &body);
    message
        .attribute(libc::IFA_LOCAL, &octets(address.ip))
        .attribute(libc::IFA_ADDRESS, &octets(address.ip));
    message
}

fn new_route(index: u32, route: &Route) -> Message {
    let scope = if route.gateway.is_none() {
        SCOPE_LINK
    } else {
        0
    };
    let Address { ip, prefix } = route.destination;
    let body = [
        family(ip),
        prefix,
        0,
        0,
        TABLE_MAIN,
        PROTOCOL_STATIC,
        scope,
        libc::RTN_UNICAST,
        0,
        0,
        0,
        0,
    ];
    let mut message = Message::new(libc::RTM_NEWROUTE, CREATE | EXCLUSIVE, &body);
    if prefix != 0 {
        message.attribute(libc::RTA_DST, &octets(ip));
    }
    if let Some(gateway) = route.gateway {
        message.attribute(libc::RTA_GATEWAY, &octets(gateway));
    }
    message.number(libc::RTA_OIF, index);
    message
}
