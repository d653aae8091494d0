//! Every system call, tried with arguments that make it fail: what a filter forbids answers otherwise than the kernel.

use std::io;

use corten_sys::syscall;
use rustix::net::{AddressFamily, SocketType, socket};

use crate::report::{Report, outcome};

/// Past all calls of Linux 6.18.
const NUMBERS: u32 = 480;
/// Of include/linux/socket.h: UNIX, INET, INET6, NETLINK, PACKET, ALG, VSOCK.
const FAMILIES: [u16; 7] = [1, 2, 10, 16, 17, 38, 40];

pub(crate) fn report() -> Report {
    let mut report = Report::default();
    for family in FAMILIES {
        let made = socket(AddressFamily::from_raw(family), SocketType::DGRAM, None);
        report.add(
            format!("socket.{family}"),
            outcome(made.map_err(io::Error::from)),
        );
    }
    // The question, Linux, and Linux with ADDR_NO_RANDOMIZE.
    for persona in [0xffff_ffff, 0, 0x0004_0000] {
        let answer = syscall::personality(persona);
        report.add(format!("personality.{persona:#x}"), outcome(answer));
    }
    for number in 0..NUMBERS {
        if let Some(answer) = syscall::nonsense(number) {
            report.add(format!("call.{number:03}"), outcome(answer));
        }
    }
    report
}
