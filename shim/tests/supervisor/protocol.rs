//! Frames, versions, and who may speak.

use std::{
    fs::{self, File},
    io::Write,
    os::{
        fd::AsFd,
        unix::{fs::MetadataExt, net::UnixStream},
    },
};

use corten_proto::shim::{
    FailureKind, Hello, Phase, SharePids, Start, reply::Result as Answer, request::Call,
};
use corten_sys::socket;

use crate::site::{Client, Site, eventually};

#[test]
fn a_hello_of_any_version_is_answered() {
    let site = Site::new();
    let mut client = site.connect();
    for version in [0, 1, u32::MAX] {
        match client.call(Call::Hello(Hello { version })).unwrap() {
            Answer::Hello(hello) => {
                assert_eq!((hello.version, hello.init_pid), (1, 0));
                assert_eq!(hello.phase(), Phase::Empty);
                assert_eq!(hello.shim_pid.cast_unsigned(), site.shim.id());
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn an_unknown_request_is_refused_and_the_connection_stays() {
    let site = Site::new();
    let mut client = site.connect();
    // Field 1, the id: 77. Field 100, a message of no bytes.
    client.send_frame(&[0x08, 77, 0xa2, 0x06, 0], &[]);
    let failure = client.answer(77).unwrap_err();
    assert_eq!(failure.kind(), FailureKind::FailureInvalid);
    client.call(Call::Hello(Hello { version: 1 })).unwrap();
}

#[test]
fn rubbish_closes_its_connection_and_nothing_else() {
    let site = Site::new();
    let mut good = site.connect();
    good.call(Call::Hello(Hello { version: 1 })).unwrap();
    for bytes in [&[0xff; 8][..], &[2, 0, 0, 0, 0xff, 0xff]] {
        let mut bad = site.connect();
        bad.stream.write_all(bytes).unwrap();
        assert!(bad.receive().is_none());
    }
    good.call(Call::Hello(Hello { version: 1 })).unwrap();
    assert_eq!(site.notes().lines().count(), 2);
}

#[test]
fn the_pid_namespace_of_what_runs_is_given() {
    let site = Site::new();
    let mut client = site.connect();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let share = || Call::SharePids(SharePids {});
    let ask = |client: &mut Client| {
        let id = client.send(share(), &[theirs.as_fd()]);
        client.answer(id)
    };
    let failure = ask(&mut client).unwrap_err();
    assert_eq!(failure.kind(), FailureKind::FailurePhase);
    let Ok(Answer::Created(created)) = client.create(site.plan("sleep 1000")) else {
        panic!("it is not created");
    };
    client.call(Call::Start(Start {})).unwrap();
    let failure = client.call(share()).unwrap_err();
    assert_eq!(failure.kind(), FailureKind::FailureInvalid);
    ask(&mut client).unwrap();
    let mut fds = Vec::new();
    socket::receive(&ours, &mut [0; 1], &mut fds).unwrap();
    let given = File::from(fds.pop().expect("a descriptor"));
    let own = fs::metadata(format!("/proc/{}/ns/pid", created.init_pid)).unwrap();
    assert_eq!(given.metadata().unwrap().ino(), own.ino());
}

#[test]
fn a_second_container_is_refused() {
    let site = Site::new();
    let mut client = site.connect();
    client.create(site.plan("sleep 1000")).unwrap();
    let failure = client.create(site.plan("true")).unwrap_err();
    assert_eq!(failure.kind(), FailureKind::FailurePhase);
}

#[test]
fn many_requests_at_once_are_answered_in_order() {
    let site = Site::new();
    let mut client = site.connect();
    let ids: Vec<_> = (0..200)
        .map(|_| client.send(Call::Hello(Hello { version: 1 }), &[]))
        .collect();
    for id in ids {
        client.answer(id).unwrap();
    }
}

#[test]
fn an_idle_shim_is_small() {
    let site = Site::new();
    let script = "n=0; while [ $n -lt 2000 ]; do echo line $n; n=$((n+1)); done; sleep 1000";
    let mut plan = site.plan(script);
    // The kubelet's, for a namespace with a few services.
    plan.process.as_mut().unwrap().env.extend((0..60).map(|n| {
        let value = "v".repeat(64);
        format!("VARIABLE_{n}={value}").into_bytes()
    }));
    let mut client = site.connect();
    client.create(plan).unwrap();
    client.call(Call::Start(Start {})).unwrap();
    client.exec_to_end("exit 0");
    eventually("all is written", || site.log("0.log").contains("line 1999"));
    let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", site.shim.id())).unwrap();
    let of = |field: &str| -> u32 {
        let line = rollup.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    // In KiB. Pages of the file that a build has just written would count as private, too.
    let private = of("Anonymous:");
    // A build for debugging is linked dynamically, and has more relocations.
    let limit = if std::env::var_os("CORTEN_SHIM").is_some() {
        200
    } else {
        600
    };
    assert!(private <= limit, "{private} KiB");
    let threads = fs::read_dir(format!("/proc/{}/task", site.shim.id())).unwrap();
    assert_eq!(threads.count(), 1);
}
