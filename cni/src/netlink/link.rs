//! Links, addresses and routes (rtnetlink(7)).

use std::{
    fmt, io,
    net::IpAddr,
    os::fd::{AsRawFd, BorrowedFd},
    path::Path,
};

use netlink_sys::protocols::NETLINK_ROUTE;
use nix::libc;

use super::{
    message::{CREATE, DUMP, EXCLUSIVE, Message, attributes, find, number},
    socket::Netlink,
};

/// linux/if_link.h.
const ADDRESS: u16 = 1;
const IFNAME: u16 = 3;
const MTU: u16 = 4;
const PEER_INDEX: u16 = 5;
const MASTER: u16 = 10;
const OPERSTATE: u16 = 16;
const LINKINFO: u16 = 18;
const STATS64: u16 = 23;
const GROUP: u16 = 27;
const NET_NS_FD: u16 = 28;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const INFO_SLAVE_KIND: u16 = 4;
const INFO_SLAVE_DATA: u16 = 5;
const VETH_PEER: u16 = 1;
const BRPORT_HAIRPIN: u16 = 4;
/// RFC 2863, as in linux/if.h.
const OPER_UP: u8 = 6;

const FLAG_UP: u32 = 1;
const FLAG_LOOPBACK: u32 = 8;
const TABLE_MAIN: u8 = 254;
const PROTOCOL_STATIC: u8 = 4;
const SCOPE_LINK: u8 = 253;

/// A network interface.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) mac: Mac,
    pub(crate) is_up: bool,
    pub(crate) is_bridge: bool,
    /// Of a veth: the index of the other end, in the other end's namespace.
    pub(crate) peer: u32,
}

/// A hardware address.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Mac([u8; 6]);

impl Mac {
    /// The same for the same address, so that nobody who remembers an earlier holder of the address asks a card that is
    /// gone. The prefix is the one that CNI has for this, locally administered.
    pub(crate) fn of(ip: IpAddr) -> Self {
        match octets(ip).last_chunk() {
            Some([a, b, c, d]) => Self([0x0a, 0x58, *a, *b, *c, *d]),
            None => Self::default(),
        }
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(out, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

/// What has gone through an interface since it was made.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counters {
    /// The interface's name.
    pub name: String,
    pub rx_bytes: u64,
    pub rx_errors: u64,
    pub tx_bytes: u64,
    pub tx_errors: u64,
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

/// A pair of interfaces that is to be made: `name` here, up, a port of `bridge`; `peer` in the namespace that `netns` is
/// open on.
#[derive(Debug)]
pub(crate) struct Veth<'a> {
    pub(crate) name: &'a str,
    pub(crate) peer: &'a str,
    pub(crate) peer_mac: Mac,
    pub(crate) bridge: u32,
    /// Lets the bridge send a frame out of the port that it came in by.
    pub(crate) hairpin: bool,
    pub(crate) netns: BorrowedFd<'a>,
    /// 0: the kernel's default.
    pub(crate) mtu: u32,
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
        match self.0.request(look_for(name)) {
            Ok(bodies) => Ok(bodies.first().and_then(|body| parse(body))),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The counters of every link but loopback.
    pub(crate) fn counters(&mut self) -> io::Result<Vec<Counters>> {
        let all = Message::new(libc::RTM_GETLINK, DUMP, &info(0, 0, 0));
        let bodies = self.0.request(all)?;
        Ok(bodies
            .iter()
            .filter_map(|body| parse_counters(body))
            .collect())
    }

    /// Whether they pass packets.
    pub(crate) fn are_up(&mut self, names: [&str; 2]) -> io::Result<bool> {
        for answer in self.0.batch(names.map(look_for).into())? {
            let link = answer?.first().and_then(|body| parse(body));
            if !link.is_some_and(|link| link.is_up) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Makes a bridge that is up. With an address of its own it does not take over those of its ports, which come and go.
    pub(crate) fn add_bridge(&mut self, name: &str, mac: Mac, mtu: u32) -> io::Result<()> {
        let mut message = new_link(CREATE | EXCLUSIVE, &info(0, FLAG_UP, FLAG_UP));
        message.text(IFNAME, name).attribute(ADDRESS, &mac.0);
        if mtu != 0 {
            message.number(MTU, mtu);
        }
        message.nest(LINKINFO, |info| {
            info.text(INFO_KIND, "bridge");
        });
        self.0.request(message).map(drop)
    }

    /// Makes the pair, and returns this end.
    pub(crate) fn add_veth(&mut self, veth: &Veth<'_>) -> io::Result<Link> {
        let mut messages = vec![new_veth(veth)];
        if veth.hairpin {
            let mut message = new_link(0, &info(0, 0, 0));
            message.text(IFNAME, veth.name).nest(LINKINFO, |link| {
                link.text(INFO_SLAVE_KIND, "bridge")
                    .nest(INFO_SLAVE_DATA, |port| {
                        port.attribute(BRPORT_HAIRPIN, &[1]);
                    });
            });
            messages.push(message);
        }
        messages.push(look_for(veth.name));
        let mut bodies = Vec::new();
        for answer in self.0.batch(messages)? {
            bodies = answer?;
        }
        let link = bodies.first().and_then(|body| parse(body));
        link.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(crate) fn set_loopback_up(&mut self) -> io::Result<()> {
        let mut message = new_link(0, &info(0, FLAG_UP, FLAG_UP));
        message.text(IFNAME, "lo");
        self.0.request(message).map(drop)
    }

    /// Brings a link up, with its addresses and routes, in one go.
    pub(crate) fn set_up(
        &mut self,
        index: u32,
        addresses: &[Address],
        routes: &[Route],
    ) -> io::Result<()> {
        let mut messages = vec![new_link(0, &info(index, FLAG_UP, FLAG_UP))];
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

    /// Sets a link down, so that nobody reaches what is behind it any more, and puts it into `group`. Whether it was there.
    pub(crate) fn retire(&mut self, name: &str, group: u32) -> io::Result<bool> {
        let mut message = new_link(0, &info(0, 0, FLAG_UP));
        message.text(IFNAME, name).number(GROUP, group);
        present(self.0.request(message))
    }

    /// Deletes all links of the group: one wait for the kernel, and not one for each.
    pub(crate) fn delete_group(&mut self, group: u32) -> io::Result<()> {
        let mut message = Message::new(libc::RTM_DELLINK, 0, &info(0, 0, 0));
        message.number(GROUP, group);
        present(self.0.request(message)).map(drop)
    }

    /// Deletes the link. Whether it was there.
    pub(crate) fn delete(&mut self, name: &str) -> io::Result<bool> {
        let mut message = Message::new(libc::RTM_DELLINK, 0, &info(0, 0, 0));
        message.text(IFNAME, name);
        present(self.0.request(message))
    }
}

fn present<T>(answer: io::Result<T>) -> io::Result<bool> {
    match answer {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(false),
        answer => answer.map(|_| true),
    }
}

/// struct ifinfomsg.
fn info(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes[12..16].copy_from_slice(&change.to_ne_bytes());
    bytes
}

/// Makes a link, or changes one where `flags` does not say CREATE.
fn new_link(flags: u16, info: &[u8]) -> Message {
    Message::new(libc::RTM_NEWLINK, flags, info)
}

fn look_for(name: &str) -> Message {
    let mut message = Message::new(libc::RTM_GETLINK, 0, &info(0, 0, 0));
    message.text(IFNAME, name);
    message
}

/// The peer cannot be up from the start: it is brought up in its namespace.
fn new_veth(veth: &Veth<'_>) -> Message {
    let mut message = new_link(CREATE | EXCLUSIVE, &info(0, FLAG_UP, FLAG_UP));
    message.text(IFNAME, veth.name).number(MASTER, veth.bridge);
    if veth.mtu != 0 {
        message.number(MTU, veth.mtu);
    }
    message.nest(LINKINFO, |link| {
        link.text(INFO_KIND, "veth").nest(INFO_DATA, |data| {
            data.nest(VETH_PEER, |peer| {
                peer.raw(&info(0, 0, 0)).text(IFNAME, veth.peer);
                peer.attribute(ADDRESS, &veth.peer_mac.0);
                peer.number(NET_NS_FD, veth.netns.as_raw_fd().cast_unsigned());
                if veth.mtu != 0 {
                    peer.number(MTU, veth.mtu);
                }
            });
        });
    });
    message
}

fn parse(body: &[u8]) -> Option<Link> {
    let index = number(body.get(4..8)?)?;
    let attributes = attributes(body.get(16..)?);
    let mac = find(&attributes, ADDRESS).and_then(|value| value.try_into().ok());
    let kind = find(&attributes, LINKINFO)
        .and_then(|info| find(&self::attributes(info), INFO_KIND).map(<[u8]>::to_vec));
    Some(Link {
        index,
        mac: Mac(mac.unwrap_or_default()),
        is_up: find(&attributes, OPERSTATE) == Some(&[OPER_UP]),
        is_bridge: kind.as_deref() == Some(b"bridge\0"),
        peer: find(&attributes, PEER_INDEX)
            .and_then(number)
            .unwrap_or_default(),
    })
}

/// `None` for loopback.
fn parse_counters(body: &[u8]) -> Option<Counters> {
    let flags = number(body.get(8..12)?)?;
    if flags & FLAG_LOOPBACK != 0 {
        return None;
    }
    let attributes = attributes(body.get(16..)?);
    let name = find(&attributes, IFNAME)?.strip_suffix(b"\0")?;
    // struct rtnl_link_stats64: packets in and out, bytes in and out, errors in and out.
    let stats = find(&attributes, STATS64)?;
    let counter = |index: usize| {
        let bytes = stats.get(index * 8..)?.first_chunk()?;
        Some(u64::from_ne_bytes(*bytes))
    };
    Some(Counters {
        name: String::from_utf8_lossy(name).into_owned(),
        rx_bytes: counter(2)?,
        tx_bytes: counter(3)?,
        rx_errors: counter(4)?,
        tx_errors: counter(5)?,
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
    let mut body = vec![family(ip), prefix, 0, 0, TABLE_MAIN, PROTOCOL_STATIC, scope];
    body.push(libc::RTN_UNICAST);
    body.extend([0; 4]);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_its_hardware_address() {
        let of = |ip: &str| Mac::of(ip.parse().unwrap()).to_string();
        assert_eq!(of("10.9.0.255"), "0a:58:0a:09:00:ff");
        assert_eq!(of("fd09::1:2"), "0a:58:00:01:00:02");
    }
}
