//! What a container sees of the host: volumes, their propagation, hidden paths.

use std::fs;

use corten_proto::shim::{Bind, FailureKind, Mount, MountAttributes, Propagation, mount::Kind};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::{Scenario, check, process, scenarios};
use crate::site::{Site, bind, create, run};

pub(super) const ALL: &[(&str, Scenario)] = scenarios![
    volumes_are_mounted,
    a_missing_volume_is_told,
    destinations_stay_in_the_root,
    paths_are_masked_and_read_only,
    a_read_only_root_is_read_only,
    mounts_propagate_as_asked,
    a_recursive_read_only_volume_is_wholly_read_only,
    the_hosts_files_cannot_be_reached,
];

fn mounted(source: &str, destination: &str, change: impl FnOnce(&mut Mount, &mut Bind)) -> Mount {
    let (mut mount, mut bind) = bind(source, destination);
    change(&mut mount, &mut bind);
    Mount {
        kind: Some(Kind::Bind(bind)),
        ..mount
    }
}

fn volumes_are_mounted(site: &Site) {
    fs::write(site.dir.join("volume/file"), "hello\n").unwrap();
    std::os::unix::fs::symlink(site.path("volume"), site.dir.join("volume-link")).unwrap();
    let readonly = |mount: &mut Mount, _: &mut _| {
        mount.attributes = Some(MountAttributes {
            readonly: true,
            ..Default::default()
        })
    };
    let mut plan = site.plan(
        "cat /data/deep/file; touch /data/deep/new && echo wrote; touch /ro/new 2>&1; cat /etc/one; ls -d /made; \
         touch /data/deep/../../link/x; grep -c shared: /proc/self/mountinfo",
    );
    plan.mounts.extend([
        mounted(&site.path("volume-link"), "/data/deep", |_, _| ()),
        mounted(&site.path("volume"), "/ro", readonly),
        mounted(&site.path("volume/file"), "/etc/one", |_, _| ()),
        mounted(&site.path("missing/dir"), "/made", |_, bind| {
            bind.create_source = true
        }),
    ]);
    let outcome = run(plan).unwrap();
    assert_eq!(
        outcome.out,
        "hello\nwrote\ntouch: /ro/new: Read-only file system\nhello\n/made\n0\n"
    );
    assert!(site.dir.join("volume/new").exists() && site.dir.join("missing/dir").is_dir());
}

fn a_missing_volume_is_told(site: &Site) {
    let mut plan = site.plan("true");
    plan.mounts
        .push(mounted("/no/such/volume", "/data", |_, _| ()));
    let failure = run(plan).unwrap_err();
    assert_eq!(
        (failure.kind(), failure.errno),
        (FailureKind::FailureInvalid, nix::libc::ENOENT)
    );
    assert_eq!(failure.subject, "/no/such/volume on /data");

    site.renew();
    let mut plan = site.plan("true");
    fs::write(site.dir.join("volume/file"), "").unwrap();
    plan.mounts
        .push(mounted(&site.path("volume/file"), "/bin", |_, _| ()));
    let failure = run(plan).unwrap_err();
    assert_eq!(failure.kind(), FailureKind::FailureInvalid, "{failure:?}");

    site.renew();
    let mut plan = site.plan("true");
    let two_way = |_: &mut Mount, bind: &mut Bind| bind.set_propagation(Propagation::Bidirectional);
    plan.mounts
        .push(mounted(&site.path("volume"), "/data", two_way));
    match run(plan) {
        Ok(_) => assert!(
            fs::read_to_string("/proc/self/mountinfo")
                .unwrap()
                .contains("shared:")
        ),
        Err(failure) => assert!(failure.hint.contains("make-rshared"), "{failure:?}"),
    }
}

fn destinations_stay_in_the_root(site: &Site) {
    let outside = site.dir.join("outside");
    fs::create_dir(&outside).unwrap();
    std::os::unix::fs::symlink(&outside, site.dir.join("lower/escape")).unwrap();
    let mut plan = site.plan("ls /link-target/in; ls -d /escape/in");
    plan.mounts.extend([
        mounted(&site.path("volume"), "/link/in", |_, _| ()),
        mounted(&site.path("volume"), "/escape/in", |_, _| ()),
        mounted(&site.path("volume"), "/../../escape/up", |_, _| ()),
    ]);
    check(plan, "/escape/in\n");
    assert_eq!(fs::read_dir(outside).unwrap().count(), 0);
}

fn paths_are_masked_and_read_only(site: &Site) {
    fs::copy("/usr/bin/busybox", site.dir.join("lower/bin/own")).unwrap();
    let mut plan = site.plan(
        "ls /proc/acpi /etc; /bin/own 2>&1; cat /bin/own; echo x 2>&1 > /proc/sys/kernel/domainname; touch /etc/x 2>&1; exit 0",
    );
    plan.masked_paths = [
        "/proc/acpi",
        "/etc",
        "/bin/own",
        "/not/there",
        "/proc/kcore",
    ]
    .map(Into::into)
    .into();
    plan.readonly_paths = ["/proc/sys", "/not/there"].map(Into::into).into();
    let out = run(plan).unwrap().out;
    assert!(out.contains("sh: /bin/own: Permission denied\n"), "{out}");
    assert!(
        out.contains("/proc/sys/kernel/domainname: Read-only file system"),
        "{out}"
    );
    assert!(
        out.contains("touch: /etc/x: Read-only file system"),
        "{out}"
    );
    assert!(!out.contains("passwd"), "{out}");
}

fn a_read_only_root_is_read_only(site: &Site) {
    let mut plan = site.plan("touch test.go 2>&1; echo fine > /dev/null && echo ok");
    plan.rootfs.as_mut().unwrap().readonly = true;
    check(plan, "touch: test.go: Read-only file system\nok\n");
}

/// A mount namespace of this process's own, where the volume is a tmpfs that is shared.
fn share_volume(site: &Site) -> std::path::PathBuf {
    let none: Option<&str> = None;
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    let volume = site.dir.join("volume");
    mount(Some("t"), &volume, Some("tmpfs"), MsFlags::empty(), none).unwrap();
    mount(none, &volume, none, MsFlags::MS_SHARED, none).unwrap();
    for name in ["host", "container"] {
        fs::create_dir(volume.join(name)).unwrap();
    }
    volume
}

fn mounts_propagate_as_asked(site: &Site) {
    let volume = share_volume(site);
    let mut plan = site.plan("sleep 1000");
    for (name, propagation) in [
        ("private", Propagation::Private),
        ("slave", Propagation::HostToContainer),
        ("shared", Propagation::Bidirectional),
    ] {
        plan.mounts.push(mounted(
            &site.path("volume"),
            &format!("/{name}"),
            |_, bind| bind.set_propagation(propagation),
        ));
    }
    process(&mut plan).capabilities.as_mut().unwrap().permitted |= 1 << 21;
    process(&mut plan).capabilities.as_mut().unwrap().bounding |= 1 << 21;
    process(&mut plan).capabilities.as_mut().unwrap().effective |= 1 << 21;
    let mut waiting = create(plan).unwrap();
    waiting.start().unwrap();
    let none: Option<&str> = None;
    mount(
        Some("of-host"),
        &volume.join("host"),
        Some("tmpfs"),
        MsFlags::empty(),
        none,
    )
    .unwrap();
    let (_, seen) = waiting
        .exec("grep of-host /proc/self/mountinfo | grep -o ' /[a-z]*/host ' | sort")
        .unwrap();
    assert_eq!(seen, " /shared/host \n /slave/host \n");
    for name in ["private", "slave", "shared"] {
        let (code, _) = waiting
            .exec(&format!("mount -t tmpfs in-{name} /{name}/container"))
            .unwrap();
        assert_eq!(code, 0);
    }
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(
        table.contains("in-shared") && !table.contains("in-slave") && !table.contains("in-private"),
        "{table}"
    );
    waiting.kill();
    for name in ["container", "host", ""] {
        umount2(&volume.join(name), MntFlags::MNT_DETACH).unwrap();
    }
}

fn a_recursive_read_only_volume_is_wholly_read_only(site: &Site) {
    let volume = share_volume(site);
    let none: Option<&str> = None;
    mount(
        Some("below"),
        &volume.join("host"),
        Some("tmpfs"),
        MsFlags::empty(),
        none,
    )
    .unwrap();
    let mut plan = site.plan("for d in /ro /rro; do touch $d/x 2>/dev/null || echo $d; touch $d/host/x 2>/dev/null || echo $d/host; done");
    for (name, recursive) in [("/ro", false), ("/rro", true)] {
        plan.mounts
            .push(mounted(&site.path("volume"), name, |mount, bind| {
                mount.attributes = Some(MountAttributes {
                    readonly: true,
                    ..Default::default()
                });
                bind.recursive_readonly = recursive;
            }));
    }
    check(plan, "/ro\n/rro\n/rro/host\n");
    umount2(&volume, MntFlags::MNT_DETACH).unwrap();
}

fn the_hosts_files_cannot_be_reached(site: &Site) {
    for cwd in ["/proc/self/fd/3", "/proc/1/cwd", "/proc/self/fd/5/.."] {
        let mut plan = site.plan("true");
        process(&mut plan).cwd = cwd.into();
        let failure = run(plan).unwrap_err();
        assert_eq!(
            failure.operation, "open working directory",
            "{cwd}: {failure:?}"
        );
        site.renew();
    }
    // Nothing but the streams and the directory that ls itself reads.
    check(site.plan("ls /proc/self/fd"), "0\n1\n2\n3\n");
}
