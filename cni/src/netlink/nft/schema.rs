//! The table as messages (linux/netfilter/nfnetlink.h, nf_tables.h).

use super::{
    super::{
        Address,
        link::octets,
        message::{APPEND, CREATE, Message, attributes, find},
    },
    Pod, Port,
    expression::{self, Family, Rule, Type},
};

const SUBSYSTEM: u16 = 10 << 8;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = SUBSYSTEM;
const DEL_TABLE: u16 = SUBSYSTEM | 2;
const NEW_CHAIN: u16 = SUBSYSTEM | 3;
const NEW_RULE: u16 = SUBSYSTEM | 6;
const NEW_SET: u16 = SUBSYSTEM | 9;
const NEW_ELEMENT: u16 = SUBSYSTEM | 12;
const GET_ELEMENT: u16 = SUBSYSTEM | 13;
const DEL_ELEMENT: u16 = SUBSYSTEM | 14;

const FAMILY_INET: u8 = 1;
const SET_INTERVAL: u32 = 0x4;
const SET_MAP: u32 = 0x8;
const ELEMENTS: u16 = 3;
const ELEMENT: u16 = 1;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
const ELEMENT_END: u32 = 1;
const DATA_VALUE: u16 = 1;

/// Hooks of the family inet (linux/netfilter.h) and their priorities for NAT (netfilter_ipv4.h).
const CHAINS: [(&str, u32, i32); 3] = [
    ("prerouting", 0, -100),
    ("output", 3, -100),
    ("postrouting", 4, 100),
];

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Change {
    Add,
    Del,
}

#[derive(Debug)]
pub(super) struct Schema {
    table: String,
}

pub(super) fn begin() -> Message {
    Message::new(BATCH_BEGIN, 0, &[0, 0, 0, 10])
}

pub(super) fn end() -> Message {
    Message::new(BATCH_END, 0, &[0, 0, 0, 10])
}

impl Schema {
    pub(super) fn new(table: String) -> Self {
        Self { table }
    }

    /// Everything, with these pods, in the place of what there is.
    pub(super) fn make(&self, pods: &[Pod]) -> Vec<Message> {
        // What is made first can be removed, whether it was there or not.
        let mut messages = vec![
            self.message(NEW_TABLE, CREATE),
            self.remove(),
            self.message(NEW_TABLE, CREATE),
        ];
        for family in [Family::V4, Family::V6] {
            let address = family.address();
            let service = expression::PROTOCOL + expression::SERVICE;
            let value = Some(address + expression::SERVICE);
            messages.extend([
                self.set(&family.name("pods"), 0, address, None),
                self.set(&family.name("masquerade"), 0, address, None),
                self.set(&family.name("local"), SET_INTERVAL, address, None),
                self.set(&family.name("ports"), SET_MAP, service, value),
                self.set(&family.name("ports_at"), SET_MAP, address + service, value),
                self.set(
                    &family.name("opened"),
                    0,
                    service + address + expression::SERVICE,
                    None,
                ),
            ]);
        }
        messages.push(self.chain("ports", None));
        messages
            .extend(CHAINS.map(|(name, hook, priority)| self.chain(name, Some((hook, priority)))));
        for (chain, rules) in expression::rules() {
            messages.extend(rules.iter().map(|rule| self.rule(chain, rule)));
        }
        let pods: Vec<&Pod> = pods.iter().collect();
        messages.extend(self.elements(Change::Add, &pods));
        messages
    }

    pub(super) fn remove(&self) -> Message {
        self.message(DEL_TABLE, 0)
    }

    /// The elements of pods. Their networks are never taken out: other pods may be in them.
    pub(super) fn elements(&self, change: Change, pods: &[&Pod]) -> Vec<Message> {
        let mut messages = Vec::new();
        let mut networks = Vec::new();
        for pod in pods {
            for address in &pod.addresses {
                let family = Family::of(address.ip);
                let key = octets(address.ip);
                messages.push(self.element(change, &family.name("pods"), &key, None));
                if pod.masquerade {
                    messages.push(self.element(change, &family.name("masquerade"), &key, None));
                }
                let network = (family, interval(*address));
                if change == Change::Add && !networks.contains(&network) {
                    networks.push(network);
                }
            }
            for port in &pod.ports {
                let value = value(port);
                messages.push(self.element(change, &map(port), &key(port), Some(&value)));
                let key = [service(port), value].concat();
                let opened = Family::of(port.ip).name("opened");
                messages.push(self.element(change, &opened, &key, None));
            }
        }
        messages.extend(networks.iter().map(|(family, (first, after))| {
            let mut message = self.message(NEW_ELEMENT, CREATE);
            message
                .text(2, &family.name("local"))
                .nest(ELEMENTS, |list| {
                    element(list, first, None, 0);
                    element(list, after, None, ELEMENT_END);
                });
            message
        }));
        messages
    }

    /// Asks where a host port leads; [`leads_to`] reads the answer.
    pub(super) fn look_up(&self, port: &Port) -> Message {
        let mut message = self.message(GET_ELEMENT, 0);
        message
            .text(2, &map(port))
            .nest(ELEMENTS, |list| element(list, &key(port), None, 0));
        message
    }

    /// A message about the table, or about what is in it.
    fn message(&self, kind: u16, flags: u16) -> Message {
        let mut message = Message::new(kind, flags, &[FAMILY_INET, 0, 0, 0]);
        message.text(1, &self.table);
        message
    }

    fn set(&self, name: &str, flags: u32, key: Type, value: Option<Type>) -> Message {
        let mut set = self.message(NEW_SET, CREATE);
        set.text(2, name).network_number(3, flags);
        set.network_number(4, key.id).network_number(5, key.length);
        if let Some(value) = value {
            set.network_number(6, value.id)
                .network_number(7, value.length);
        }
        // Only rules that are made in the same transaction without the set's name would need it to be unique.
        set.network_number(10, 1);
        set
    }

    fn chain(&self, name: &str, hook: Option<(u32, i32)>) -> Message {
        let mut chain = self.message(NEW_CHAIN, CREATE);
        chain.text(3, name);
        if let Some((hook, priority)) = hook {
            chain.nest(4, |nest| {
                nest.network_number(1, hook)
                    .attribute(2, &priority.to_be_bytes());
            });
            chain.text(7, "nat");
        }
        chain
    }

    fn rule(&self, chain: &str, rule: &Rule) -> Message {
        let mut message = self.message(NEW_RULE, CREATE | APPEND);
        message.text(2, chain).nest(4, |list| rule.write(list));
        message
    }

    fn element(&self, change: Change, set: &str, key: &[u8], value: Option<&[u8]>) -> Message {
        let (mut message, value) = match change {
            Change::Add => (self.message(NEW_ELEMENT, CREATE), value),
            Change::Del => (self.message(DEL_ELEMENT, 0), None),
        };
        message
            .text(2, set)
            .nest(ELEMENTS, |list| element(list, key, value, 0));
        message
    }
}

/// Whether the answer to [`Schema::look_up`] says that the port leads where `port` does.
pub(super) fn leads_to(body: &[u8], port: &Port) -> bool {
    let inner = |bytes, kind| find(&attributes(bytes), kind);
    let found = body
        .get(4..)
        .and_then(|bytes| inner(bytes, ELEMENTS))
        .and_then(|bytes| inner(bytes, ELEMENT))
        .and_then(|bytes| inner(bytes, ELEMENT_DATA))
        .and_then(|bytes| inner(bytes, DATA_VALUE));
    let mut wanted = octets(port.ip);
    wanted.extend(port.port.to_be_bytes());
    found.is_some_and(|found| found.starts_with(&wanted))
}

/// The map that the port is in.
fn map(port: &Port) -> String {
    Family::of(port.ip).name(if port.host_ip.is_some() {
        "ports_at"
    } else {
        "ports"
    })
}

fn key(port: &Port) -> Vec<u8> {
    let mut key = port.host_ip.map(octets).unwrap_or_default();
    key.extend(service(port));
    key
}

/// Protocol and host port. Parts of a concatenation are padded to 4 bytes.
fn service(port: &Port) -> Vec<u8> {
    let mut service = vec![port.protocol.number(), 0, 0, 0];
    service.extend(port.host_port.to_be_bytes());
    service.extend([0, 0]);
    service
}

fn value(port: &Port) -> Vec<u8> {
    let mut value = octets(port.ip);
    value.extend(port.port.to_be_bytes());
    value.extend([0, 0]);
    value
}

fn element(list: &mut Message, key: &[u8], value: Option<&[u8]>, flags: u32) {
    list.nest(ELEMENT, |element| {
        element.nest(ELEMENT_KEY, |data| {
            data.attribute(DATA_VALUE, key);
        });
        if let Some(value) = value {
            element.nest(ELEMENT_DATA, |data| {
                data.attribute(DATA_VALUE, value);
            });
        }
        if flags != 0 {
            element.network_number(3, flags);
        }
    });
}

/// A network: its first address, and the one after its last.
fn interval(network: Address) -> (Vec<u8>, Vec<u8>) {
    let octets = octets(network.ip);
    let bits = u32::try_from(octets.len() * 8).unwrap_or(128);
    let host_bits = bits.saturating_sub(network.prefix.into());
    let value = octets
        .iter()
        .fold(0u128, |value, octet| value << 8 | u128::from(*octet));
    let size = 1u128.checked_shl(host_bits).unwrap_or(0);
    let first = if size == 0 { 0 } else { value & !(size - 1) };
    let bytes = |value: u128| value.to_be_bytes()[16 - octets.len()..].to_vec();
    (bytes(first), bytes(first.wrapping_add(size)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_its_first_address_and_the_one_after_its_last() {
        let network = Address {
            ip: [10, 88, 3, 7].into(),
            prefix: 24,
        };
        assert_eq!(interval(network), (vec![10, 88, 3, 0], vec![10, 88, 4, 0]));
    }
}
