//! This instance's nf_tables table: masquerade for pods, and their host ports.
//!
//! ```text
//! table inet corten_<instance>
//!   set  pods4, pods6           addresses of bridge pods
//!   set  masquerade4, ..6       those whose traffic leaves with the host's address
//!   set  local4, local6         networks of pods: within them nothing is changed
//!   map  ports4, ports6         protocol . host port -> address . port
//!   map  ports_at4, ports_at6   host address . protocol . host port -> address . port
//!   set  opened4, opened6       protocol . host port . address . port, of all in the maps
//!   chain ports                 looks into the maps
//!   chain prerouting, output    for the host's own addresses: ports
//!   chain postrouting           masquerade; also of who asks for a host port from where no answer would come back
//! ```
//!
//! Rules are static: a pod is a few elements. The whole table is made anew, in one transaction, once in a daemon's life and
//! when somebody has taken it away: then it holds the pods that are attached, and nothing else.

mod expression;
mod schema;

use std::{
    io,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::libc;

use self::schema::{Change, Schema};
use super::{Address, message::Message, socket::Netlink};
use crate::attachment::Protocol;

/// What the table holds of a pod.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pod {
    pub(crate) addresses: Vec<Address>,
    /// The addresses leave under the host's.
    pub(crate) masquerade: bool,
    pub(crate) ports: Vec<Port>,
}

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
    schema: Schema,
    /// There when the table is of this daemon's making. It stays open: the kernel lets the one who closes such a socket wait
    /// until everything that was deleted is freed, which takes 10 ms.
    socket: Mutex<Option<Netlink>>,
}

impl Table {
    pub(crate) fn new(instance: &str) -> Self {
        Self {
            schema: Schema::new(format!("corten_{instance}")),
            socket: Mutex::new(None),
        }
    }

    /// Lets in what belongs to a pod. `attached` are all pods, for a table that is to be made.
    ///
    /// # Errors
    /// EEXIST when a port leads somewhere else already.
    pub(crate) fn add(&self, pod: &Pod, attached: &dyn Fn() -> Vec<Pod>) -> io::Result<()> {
        let add =
            |netlink: &mut Netlink| transact(netlink, self.schema.elements(Change::Add, &[pod]));
        self.change(&add, attached)
    }

    /// Takes out what belongs to a pod, and leaves ports that lead elsewhere. What is not there is taken out.
    pub(crate) fn del(&self, pod: &Pod, attached: &dyn Fn() -> Vec<Pod>) -> io::Result<()> {
        self.change(&|netlink| self.take_out(netlink, pod), attached)
    }

    /// Takes the table away.
    pub(crate) fn remove(&self) -> io::Result<()> {
        let mut socket = self.lock();
        *socket = None;
        let mut netlink = Netlink::open(NETLINK_NETFILTER)?;
        ignore_missing(transact(&mut netlink, vec![self.schema.remove()]))
    }

    fn change(
        &self,
        change: &dyn Fn(&mut Netlink) -> io::Result<()>,
        attached: &dyn Fn() -> Vec<Pod>,
    ) -> io::Result<()> {
        let mut socket = self.lock();
        if let Some(netlink) = &mut *socket {
            match change(netlink) {
                // A firewall's restart flushes everybody's tables.
                Err(error) if is_missing(&error) => *socket = None,
                result => return result,
            }
        }
        let mut netlink = Netlink::open(NETLINK_NETFILTER)?;
        transact(&mut netlink, self.schema.make(&attached()))?;
        change(socket.insert(netlink))
    }

    fn take_out(&self, netlink: &mut Netlink, pod: &Pod) -> io::Result<()> {
        let mut own = Pod {
            ports: Vec::new(),
            ..pod.clone()
        };
        for port in &pod.ports {
            if self.leads_to(netlink, port)? {
                own.ports.push(port.clone());
            }
        }
        let messages = self.schema.elements(Change::Del, &[&own]);
        match transact(netlink, messages.clone()) {
            Err(error) if is_missing(&error) => {}
            result => return result,
        }
        // One is missing, and a transaction is all or nothing: each by itself.
        messages
            .into_iter()
            .try_for_each(|message| ignore_missing(transact(netlink, vec![message])))
    }

    /// Whether the host port leads to this address and port.
    fn leads_to(&self, netlink: &mut Netlink, port: &Port) -> io::Result<bool> {
        match netlink.request(self.schema.look_up(port)) {
            Err(error) if is_missing(&error) => Ok(false),
            answer => {
                let bodies = answer?;
                Ok(bodies
                    .first()
                    .is_some_and(|body| schema::leads_to(body, port)))
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Netlink>> {
        self.socket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn transact(netlink: &mut Netlink, messages: Vec<Message>) -> io::Result<()> {
    netlink.transaction(schema::begin(), messages, schema::end())
}

fn is_missing(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOENT)
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if is_missing(&error) => Ok(()),
        result => result,
    }
}
