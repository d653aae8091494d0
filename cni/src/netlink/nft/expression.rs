//! Rules as lists of expressions (linux/netfilter/nf_tables.h).

use std::{net::IpAddr, ops::Add};

use super::super::message::Message;

/// A set's key or value: nft's number for its type, so that `nft list` can print it, and its length in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Type {
    pub(super) id: u32,
    pub(super) length: u32,
}

pub(super) const PROTOCOL: Type = Type { id: 12, length: 4 };
pub(super) const SERVICE: Type = Type { id: 13, length: 4 };

/// A concatenation.
impl Add for Type {
    type Output = Self;

    fn add(self, next: Self) -> Self {
        Self {
            id: self.id << 6 | next.id,
            length: self.length + next.length,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// "pods" is "pods4" or "pods6".
    pub(super) fn name(self, set: &str) -> String {
        match self {
            Self::V4 => format!("{set}4"),
            Self::V6 => format!("{set}6"),
        }
    }

    pub(super) fn address(self) -> Type {
        match self {
            Self::V4 => Type { id: 7, length: 4 },
            Self::V6 => Type { id: 8, length: 16 },
        }
    }

    /// NFPROTO_*.
    fn number(self) -> u32 {
        match self {
            Self::V4 => 2,
            Self::V6 => 10,
        }
    }

    /// Offsets of the source and the destination address in the header.
    fn offsets(self) -> (u32, u32) {
        match self {
            Self::V4 => (12, 16),
            Self::V6 => (8, 24),
        }
    }

    /// Multicast: the first byte of a destination, and its mask.
    fn multicast(self) -> (u8, u8) {
        match self {
            Self::V4 => (0xe0, 0xf0),
            Self::V6 => (0xff, 0xff),
        }
    }
}

/// Registers of 4 bytes are numbered from 8.
const REGISTER: u32 = 8;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
const EQUAL: u32 = 0;
const FIB_ADDRTYPE: u32 = 3;
const FIB_DESTINATION: u32 = 2;
/// linux/rtnetlink.h, RTN_LOCAL.
const LOCAL: u32 = 2;
const CT_PROTOCOL_DESTINATION: u32 = 12;
/// linux/netfilter/nf_conntrack_tuple_common.h, IP_CT_DIR_ORIGINAL.
const ORIGINAL: u8 = 0;
const NAT_DESTINATION: u32 = 1;
const VERDICT_JUMP: i32 = -3;
const VERDICT_RETURN: i32 = -5;

type Fill = Box<dyn Fn(&mut Message)>;

/// Expressions by name.
#[derive(Default)]
pub(super) struct Rule(Vec<(&'static str, Fill)>);

impl Rule {
    fn with(mut self, name: &'static str, fill: impl Fn(&mut Message) + 'static) -> Self {
        self.0.push((name, Box::new(fill)));
        self
    }

    pub(super) fn write(&self, list: &mut Message) {
        for (name, fill) in &self.0 {
            list.nest(1, |expression| {
                expression.text(1, name).nest(2, |data| fill(data));
            });
        }
    }

    /// Goes on for packets of this family alone.
    fn family(self, family: Family) -> Self {
        self.meta(META_NFPROTO, REGISTER)
            .equal(family.number().to_ne_bytes()[..1].to_vec())
    }

    fn meta(self, key: u32, register: u32) -> Self {
        self.with("meta", move |data| {
            data.network_number(1, register).network_number(2, key);
        })
    }

    fn payload(self, base: u32, offset: u32, length: u32, register: u32) -> Self {
        self.with("payload", move |data| {
            data.network_number(1, register)
                .network_number(2, base)
                .network_number(3, offset)
                .network_number(4, length);
        })
    }

    fn equal(self, value: Vec<u8>) -> Self {
        self.with("cmp", move |data| {
            data.network_number(1, REGISTER).network_number(2, EQUAL);
            data.nest(3, |nest| {
                nest.attribute(1, &value);
            });
        })
    }

    fn mask(self, mask: Vec<u8>) -> Self {
        self.with("bitwise", move |data| {
            let length = u32::try_from(mask.len()).unwrap_or(4);
            data.network_number(1, REGISTER)
                .network_number(2, REGISTER)
                .network_number(3, length);
            data.nest(4, |nest| {
                nest.attribute(1, &mask);
            });
            data.nest(5, |nest| {
                nest.attribute(1, &vec![0; mask.len()]);
            });
        })
    }

    /// Goes on when the source or destination address is in the set.
    fn address_in(self, offset: u32, family: Family, set: &str) -> Self {
        let set = family.name(set);
        self.payload(NETWORK_HEADER, offset, family.address().length, REGISTER)
            .with("lookup", move |data| {
                data.text(1, &set).network_number(2, REGISTER);
            })
    }

    /// Goes on when a host port of ours was asked for, and leads to where the packet goes. A service's translation is not
    /// ours: there the client's address stays.
    fn opened(self, family: Family) -> Self {
        let (_, destination) = family.offsets();
        let length = family.address().length;
        let set = family.name("opened");
        self.meta(META_L4PROTO, REGISTER)
            .with("ct", |data| {
                data.network_number(1, REGISTER + 1)
                    .network_number(2, CT_PROTOCOL_DESTINATION)
                    .attribute(3, &[ORIGINAL]);
            })
            .payload(NETWORK_HEADER, destination, length, REGISTER + 2)
            .payload(TRANSPORT_HEADER, 2, 2, REGISTER + 2 + length / 4)
            .with("lookup", move |data| {
                data.text(1, &set).network_number(2, REGISTER);
            })
    }

    fn verdict(self, code: i32, chain: Option<&'static str>) -> Self {
        self.with("immediate", move |data| {
            data.network_number(1, 0).nest(2, |nest| {
                nest.nest(2, |verdict| {
                    verdict.attribute(1, &code.to_be_bytes());
                    if let Some(chain) = chain {
                        verdict.text(2, chain);
                    }
                });
            });
        })
    }

    fn masquerade(self) -> Self {
        self.with("masq", |_| {})
    }

    /// Translates the destination to what the map says of the registers.
    fn translate(self, family: Family, map: &str) -> Self {
        let map = family.name(map);
        let port = REGISTER + family.address().length / 4;
        self.with("lookup", move |data| {
            data.text(1, &map)
                .network_number(2, REGISTER)
                .network_number(3, REGISTER);
        })
        .with("nat", move |data| {
            data.network_number(1, NAT_DESTINATION)
                .network_number(2, family.number());
            data.network_number(3, REGISTER).network_number(5, port);
        })
    }

    /// Protocol and destination port, as the maps have them, from `register` on.
    fn service(self, register: u32) -> Self {
        self.meta(META_L4PROTO, register)
            .payload(TRANSPORT_HEADER, 2, 2, register + 1)
    }
}

/// Every chain's rules.
pub(super) fn rules() -> Vec<(&'static str, Vec<Rule>)> {
    let families = [Family::V4, Family::V6];
    let to_ports = || {
        Rule::default()
            .with("fib", |data| {
                data.network_number(1, REGISTER)
                    .network_number(2, FIB_ADDRTYPE)
                    .network_number(3, FIB_DESTINATION);
            })
            .equal(LOCAL.to_ne_bytes().to_vec())
            .verdict(VERDICT_JUMP, Some("ports"))
    };
    vec![
        ("ports", families.into_iter().flat_map(ports).collect()),
        ("prerouting", vec![to_ports()]),
        ("output", vec![to_ports()]),
        (
            "postrouting",
            families.into_iter().flat_map(postrouting).collect(),
        ),
    ]
}

fn ports(family: Family) -> [Rule; 2] {
    let (_, destination) = family.offsets();
    let length = family.address().length;
    [
        Rule::default()
            .family(family)
            .payload(NETWORK_HEADER, destination, length, REGISTER)
            .service(REGISTER + length / 4)
            .translate(family, "ports_at"),
        Rule::default()
            .family(family)
            .service(REGISTER)
            .translate(family, "ports"),
    ]
}

fn postrouting(family: Family) -> Vec<Rule> {
    let (source, destination) = family.offsets();
    let (first, mask) = family.multicast();
    let from_pod = |set: &str| {
        Rule::default()
            .family(family)
            .address_in(source, family, set)
    };
    let mut rules = vec![
        // From pod to pod by a host port: the answer has to come back here, and not by the bridge.
        from_pod("pods").opened(family).masquerade(),
    ];
    if family == Family::V4 {
        // From the host itself by 127.0.0.1, which no pod can answer to.
        let from_loopback =
            Rule::default()
                .family(family)
                .payload(NETWORK_HEADER, source, 1, REGISTER);
        rules.push(from_loopback.equal(vec![127]).opened(family).masquerade());
    }
    let multicast = from_pod("masquerade")
        .payload(NETWORK_HEADER, destination, 1, REGISTER)
        .mask(vec![mask]);
    rules.extend([
        from_pod("masquerade")
            .address_in(destination, family, "local")
            .verdict(VERDICT_RETURN, None),
        multicast.equal(vec![first]).verdict(VERDICT_RETURN, None),
        from_pod("masquerade").masquerade(),
    ]);
    rules
}
