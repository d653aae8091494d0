# The AppArmor profile of containers that ask for none of their own (apparmor.d(5)). Corten loads it when it is not
# loaded; whoever loads another of this name beforehand has that one used.

profile corten-default flags=(attach_disconnected, mediate_deleted) {
  # A container is held by its namespaces, capabilities and cgroup. This profile keeps it from what these leave open.
  capability,
  network,
  unix,
  dbus,
  file,
  umount,

  # The shim and the node's own processes are unconfined.
  signal (receive) peer=unconfined,
  signal (send, receive) peer=corten-default,
  ptrace (trace, read, tracedby, readby) peer=corten-default,

  deny mount,

  # Of /proc, processes' own files and System V shared memory may be written.
  deny /proc/* w,
  deny /proc/[^1-9s]*/** w,
  deny /proc/s[^ey]*/** w,
  deny /proc/sys[^/]*/** w,
  deny /proc/sys/[^k]*/** w,
  deny /proc/sys/k[^e]*/** w,
  deny /proc/sys/kernel/[^s]** w,
  deny /proc/sys/kernel/s[^h]** w,
  deny /proc/{kcore,kmem,mem,sysrq-trigger} rwklx,

  # Of /sys, cgroups.
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
}
