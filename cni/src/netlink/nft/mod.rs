//! This instance's nf_tables table: masquerade for pods, and their host ports.
//!
//! ```text
//! table inet corten_<instance>
//!   set  pods4, pods6           addresses of bridge pods
//!   set  masquerade4, ..6       those whose traffic leaves with the host's address
//!   set  local4, local6         networks of pods: within them nothing is changed
//!   map  ports4, ports6         protocol . host port -> address . port
//!   map  ports_at4, ports_at6   host address . protocol . host port -> address . port
//!   chain ports                 looks into the maps
//!   chain prerouting, output    for the host's own addresses: ports
//!   chain postrouting           masquerade
//! ```
//!
//! Rules are static: a pod is a set element. They are made anew once in a daemon's life, in one transaction.

mod expression;

use std::{
    io,
    net::IpAddr,
    sync::{Mutex, PoisonError},
};

use expression::{Family, Rule};
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::libc;

use super::{
    Address,
    link::octets,
    message::{APPEND, CREATE, Message},
    socket::{Answer, Netlink},
};
use crate::attachment::Protocol;

/// linux/netfilter/nfnetlink.h and nf_tables.h.
const SUBSYSTEM: u16 = 10 << 8;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = SUBSYSTEM;
const DEL_TABLE: u16 = SUBSYSTEM | 2;
const NEW_CHAIN: u16 = SUBSYSTEM | 3;
const NEW_RULE: u16 = SUBSYSTEM | 6;
const DEL_RULE: u16 = SUBSYSTEM | 8;
const NEW_SET: u16 = SUBSYSTEM | 9;
const NEW_ELEMENT: u16 = SUBSYSTEM | 12;
const DEL_ELEMENT: u16 = SUBSYSTEM | 14;

const FAMILY_INET: u8 = 1;
const SET_INTERVAL: u32 = 0x4;
const SET_MAP: u32 = 0x8;
const ELEMENT_END: u32 = 1;

/// Hooks of the family inet (linux/netfilter.h) and their priorities for NAT (netfilter_ipv4.h).
const CHAINS: [(&str, u32, i32); 3] = [
    ("prerouting", 0, -100),
    ("output", 3, -100),
    ("postrouting", 4, 100),
];

/// A host port and where it leads.
#[derive(Clone, Debug)]
pub(crate) struct Port {
    pub(crate) protocol: Protocol,
    /// `None`: every address of the host.
    pub(crate) host_ip: Option<IpAddr>,
    pub(crate) host_port: u16,
    pub(crate) ip: IpAddr,
    pub(crate) port: u16,
}

#[derive(Debug)]
pub(crate) struct Table {
    name: String,
    /// The rules are those of this daemon.
    made: Mutex<bool>,
}

impl Table {
    pub(crate) fn new(instance: &str) -> Self {
        Self {
            name: format!("corten_{instance}"),
            made: Mutex::new(false),
        }
    }

    /// Lets a pod with these addresses be known, and out under the host's address where `masquerade`.
    pub(crate) fn add_pod(&self, addresses: &[Address], masquerade: bool) -> io::Result<()> {
        self.make()?;
        let mut messages = Vec::new();
        for address in addresses {
            let family = Family::of(address.ip);
            messages.push(self.element(
                NEW_ELEMENT,
                &family.name("pods"),
                &octets(address.ip),
                None,
            ));
            messages.push(self.network(&family.name("local"), *address));
            if masquerade {
                messages.push(self.element(
                    NEW_ELEMENT,
                    &family.name("masquerade"),
                    &octets(address.ip),
                    None,
                ));
            }
        }
        all(self.transact(messages)?)
    }

    /// Forgets a pod.
    pub(crate) fn del_pod(&self, ips: &[IpAddr]) -> io::Result<()> {
        for ip in ips {
            let family = Family::of(*ip);
            for set in ["pods", "masquerade"] {
                self.delete(self.element(DEL_ELEMENT, &family.name(set), &octets(*ip), None))?;
            }
        }
        Ok(())
    }

    /// Opens host ports.
    ///
    /// # Errors
    /// EEXIST when one of them leads somewhere else already.
    pub(crate) fn add_ports(&self, ports: &[Port]) -> io::Result<()> {
        self.make()?;
        let messages = ports
            .iter()
            .map(|port| self.port(NEW_ELEMENT, port))
            .collect();
        all(self.transact(messages)?)
    }

    pub(crate) fn del_ports(&self, ports: &[Port]) -> io::Result<()> {
        ports
            .iter()
            .try_for_each(|port| self.delete(self.port(DEL_ELEMENT, port)))
    }

    /// Takes the table away.
    pub(crate) fn remove(&self) -> io::Result<()> {
        *self.made.lock().unwrap_or_else(PoisonError::into_inner) = false;
        let mut message = message(DEL_TABLE, 0);
        message.text(1, &self.name);
        self.delete(message)
    }

    /// What is not there is deleted.
    fn delete(&self, message: Message) -> io::Result<()> {
        match self.transact(vec![message]).and_then(all) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            result => result,
        }
    }

    /// Makes the table with its sets, and its rules anew; elements that are there stay.
    fn make(&self) -> io::Result<()> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if *made {
            return Ok(());
        }
        let mut table = message(NEW_TABLE, CREATE);
        table.text(1, &self.name);
        let mut messages = vec![table];
        for family in [Family::V4, Family::V6] {
            for set in ["pods", "masquerade"] {
                messages.push(self.set(&family.name(set), 0, family.address(), None));
            }
            messages.push(self.set(&family.name("local"), SET_INTERVAL, family.address(), None));
            let value = Some(family.address() + expression::SERVICE);
            messages.push(self.set(
                &family.name("ports"),
                SET_MAP,
                expression::PROTOCOL + expression::SERVICE,
                value,
            ));
            let key = family.address() + expression::PROTOCOL + expression::SERVICE;
            messages.push(self.set(&family.name("ports_at"), SET_MAP, key, value));
        }
        messages.push(self.chain("ports", None));
        messages
            .extend(CHAINS.map(|(name, hook, priority)| self.chain(name, Some((hook, priority)))));
        for (chain, rules) in expression::rules() {
            let mut flush = message(DEL_RULE, 0);
            flush.text(1, &self.name).text(2, chain);
            messages.push(flush);
            messages.extend(rules.iter().map(|rule| self.rule(chain, rule)));
        }
        all(self.transact(messages)?)?;
        *made = true;
        Ok(())
    }

    fn set(
        &self,
        name: &str,
        flags: u32,
        key: expression::Type,
        value: Option<expression::Type>,
    ) -> Message {
        let mut set = message(NEW_SET, CREATE);
        set.text(1, &self.name)
            .text(2, name)
            .network_number(3, flags);
        set.network_number(4, key.id).network_number(5, key.length);
        if let Some(value) = value {
            set.network_number(6, value.id)
                .network_number(7, value.length);
        }
        // An id that is unique in the transaction; nothing refers to it.
        set.network_number(10, 1);
        set
    }

    fn chain(&self, name: &str, hook: Option<(u32, i32)>) -> Message {
        let mut chain = message(NEW_CHAIN, CREATE);
        chain.text(1, &self.name).text(3, name);
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
        let mut message = message(NEW_RULE, CREATE | APPEND);
        message
            .text(1, &self.name)
            .text(2, chain)
            .nest(4, |list| rule.write(list));
        message
    }

    fn element(&self, kind: u16, set: &str, key: &[u8], value: Option<&[u8]>) -> Message {
        let mut message = message(kind, if kind == NEW_ELEMENT { CREATE } else { 0 });
        message
            .text(1, &self.name)
            .text(2, set)
            .nest(3, |list| element(list, key, value, 0));
        message
    }

    /// A network as an interval: its first address, and the one after its last.
    fn network(&self, set: &str, network: Address) -> Message {
        let (first, after) = interval(network);
        let mut message = message(NEW_ELEMENT, CREATE);
        message.text(1, &self.name).text(2, set).nest(3, |list| {
            element(list, &first, None, 0);
            element(list, &after, None, ELEMENT_END);
        });
        message
    }

    fn port(&self, kind: u16, port: &Port) -> Message {
        let family = Family::of(port.ip);
        let mut key = Vec::new();
        if let Some(ip) = port.host_ip {
            key.extend(octets(ip));
        }
        key.extend([port.protocol.number(), 0, 0, 0]);
        key.extend(port.host_port.to_be_bytes());
        key.extend([0, 0]);
        let mut value = octets(port.ip);
        value.extend(port.port.to_be_bytes());
        value.extend([0, 0]);
        let map = family.name(if port.host_ip.is_some() {
            "ports_at"
        } else {
            "ports"
        });
        self.element(kind, &map, &key, (kind == NEW_ELEMENT).then_some(&value))
    }

    fn transact(&self, messages: Vec<Message>) -> io::Result<Vec<Answer>> {
        let bracket = |kind| Message::new(kind, 0, &[0, 0, 0, 10]);
        Netlink::open(NETLINK_NETFILTER)?.transaction(
            bracket(BATCH_BEGIN),
            messages,
            bracket(BATCH_END),
        )
    }
}

/// struct nfgenmsg.
fn message(kind: u16, flags: u16) -> Message {
    Message::new(kind, flags, &[FAMILY_INET, 0, 0, 0])
}

fn element(list: &mut Message, key: &[u8], value: Option<&[u8]>, flags: u32) {
    list.nest(1, |element| {
        element.nest(1, |data| {
            data.attribute(1, key);
        });
        if let Some(value) = value {
            element.nest(2, |data| {
                data.attribute(1, value);
            });
        }
        if flags != 0 {
            element.network_number(3, flags);
        }
    });
}

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

fn all(answers: Vec<Answer>) -> io::Result<()> {
    answers.into_iter().try_for_each(|answer| answer.map(drop))
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
