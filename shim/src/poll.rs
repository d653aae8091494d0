//! What the shim waits for.

use std::{
    fmt, io,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use rustix::{
    buffer::spare_capacity,
    event::epoll::{self, CreateFlags, EventData, EventFlags},
    io::Errno,
    time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    },
};

use crate::connection::Interest;

/// Where an event comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Source {
    Listener,
    Connection(u64),
    /// The end of the container's init.
    Init,
    /// What init reports before it runs its program.
    Report,
    Stdout,
    Stderr,
    /// The deadline of a stop.
    Deadline,
    /// The end of an exec's process.
    Exec(u64),
    /// The deadline of an exec.
    ExecDeadline(u64),
    /// The end of any child.
    Child,
}

impl Source {
    /// The kind in the lower four bits, the number above them.
    fn encode(self) -> u64 {
        match self {
            Self::Listener => 0,
            Self::Connection(number) => 1 | number << 4,
            Self::Init => 2,
            Self::Report => 3,
            Self::Stdout => 4,
            Self::Stderr => 5,
            Self::Deadline => 6,
            Self::Exec(number) => 7 | number << 4,
            Self::ExecDeadline(number) => 8 | number << 4,
            Self::Child => 9,
        }
    }

    fn decode(code: u64) -> Self {
        match (code & 15, code >> 4) {
            (0, _) => Self::Listener,
            (1, number) => Self::Connection(number),
            (2, _) => Self::Init,
            (3, _) => Self::Report,
            (4, _) => Self::Stdout,
            (5, _) => Self::Stderr,
            (6, _) => Self::Deadline,
            (7, number) => Self::Exec(number),
            (8, number) => Self::ExecDeadline(number),
            _ => Self::Child,
        }
    }
}

/// An epoll(7) instance.
pub(crate) struct Poll {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
}

impl fmt::Debug for Poll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poll")
            .field("epoll", &self.epoll)
            .finish_non_exhaustive()
    }
}

impl Poll {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            events: Vec::with_capacity(16),
        })
    }

    /// Waits for `fd` to be readable until it is [removed](Self::remove). Closing it is not enough: a child that has not run its
    /// program yet holds a copy, for which events would come for ever.
    pub(crate) fn add(&self, fd: impl AsFd, source: Source) -> io::Result<()> {
        Ok(epoll::add(
            &self.epoll,
            fd,
            EventData::new_u64(source.encode()),
            EventFlags::IN,
        )?)
    }

    /// Waits for `fd` as `interest` says.
    pub(crate) fn set_interest(
        &self,
        fd: impl AsFd,
        source: Source,
        interest: Interest,
    ) -> io::Result<()> {
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN, interest.read);
        flags.set(EventFlags::OUT, interest.write);
        Ok(epoll::modify(
            &self.epoll,
            fd,
            EventData::new_u64(source.encode()),
            flags,
        )?)
    }

    pub(crate) fn remove(&self, fd: impl AsFd) {
        let _ = epoll::delete(&self.epoll, fd);
    }

    /// Waits until something happens.
    pub(crate) fn wait(&mut self) -> io::Result<Vec<Source>> {
        self.events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        Ok(self
            .events
            .iter()
            .map(|event| Source::decode(event.data.u64()))
            .collect())
    }
}

/// A timer that is readable after `time`; at once for zero.
pub(crate) fn timer(time: Duration) -> io::Result<OwnedFd> {
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
    let seconds = i64::try_from(time.as_secs())
        .unwrap_or(i64::MAX / 2)
        .min(i64::MAX / 2);
    // Zero would disarm it.
    let nanos = i64::from(time.subsec_nanos()).max(i64::from(seconds == 0));
    let value = Timespec {
        tv_sec: seconds,
        tv_nsec: nanos,
    };
    let once = Itimerspec {
        it_interval: Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        },
        it_value: value,
    };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &once)?;
    Ok(timer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_survive_the_kernel() {
        for source in [
            Source::Listener,
            Source::Connection(9),
            Source::Init,
            Source::Report,
            Source::Stdout,
            Source::Stderr,
            Source::Deadline,
            Source::Exec(1 << 40),
            Source::ExecDeadline(3),
            Source::Child,
        ] {
            assert_eq!(Source::decode(source.encode()), source);
        }
    }

    #[test]
    fn a_timer_of_zero_fires() {
        let mut poll = Poll::new().unwrap();
        let timer = timer(Duration::ZERO).unwrap();
        poll.add(&timer, Source::Deadline).unwrap();
        assert_eq!(poll.wait().unwrap(), [Source::Deadline]);
    }
}
