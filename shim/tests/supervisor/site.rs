//! Where a test takes place: a directory, a cgroup, a root with busybox, and one shim that serves a socket.

use std::{
    fs::{self, File},
    io::{self, IoSlice, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use corten_proto::{
    layout,
    shim::{
        Capabilities, Cgroup, Create, Exec, ExecDone, Exited, Failure, Filesystem, Log, Mount,
        MountAttributes, Namespace, Namespaces, New, Plan, Process, Reply, Request, Rootfs, Start,
        User, mount::Kind, namespace::From, reply::Result as Answer, request::Call,
    },
};
use corten_sys::{cgroup, mount};
use prost::Message;
use rustix::{
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg},
    pipe::{PipeFlags, pipe_with},
};

const BUSYBOX: &str = "/usr/bin/busybox";
/// Longest text of a line in the tests' logs.
pub(crate) const MAX_LINE: u32 = 16;
/// Until a test is given up.
const PATIENCE: Duration = Duration::from_secs(30);

/// The binary that is tested: that of this build, or the one that CORTEN_SHIM names.
pub(crate) fn shim() -> Command {
    let built = env!("CARGO_BIN_EXE_corten-shim");
    Command::new(std::env::var_os("CORTEN_SHIM").unwrap_or_else(|| built.into()))
}

/// Everything is removed when it is dropped.
pub(crate) struct Site {
    pub(crate) dir: PathBuf,
    pub(crate) cgroup: String,
    pub(crate) shim: Child,
}

/// One connection to the shim.
pub(crate) struct Client {
    pub(crate) stream: UnixStream,
    next: u64,
}

impl Site {
    /// `None` where the machine cannot run containers, which is told.
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        check_prerequisites();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("corten-supervisor-{}-{number}", std::process::id());
        let dir = std::env::temp_dir().join(&name);
        for part in ["lower/bin", "upper", "work", "logs"] {
            fs::create_dir_all(dir.join(part)).unwrap();
        }
        fs::copy(BUSYBOX, dir.join("lower/bin/busybox")).unwrap();
        for applet in ["sh", "sleep", "cat", "echo", "printf", "dd", "kill", "ps"] {
            std::os::unix::fs::symlink("busybox", dir.join("lower/bin").join(applet)).unwrap();
        }
        let listener = UnixListener::bind(dir.join(layout::SHIM_SOCKET)).unwrap();
        let log = File::create(dir.join(layout::SHIM_LOG)).unwrap();
        let shim = shim()
            .args(["container", &name])
            .stdin(OwnedFd::from(listener))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self {
            dir,
            cgroup: format!("/{name}/c"),
            shim,
        }
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.join(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn connect(&self) -> Client {
        let stream = UnixStream::connect(self.dir.join(layout::SHIM_SOCKET)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client { stream, next: 1 }
    }

    /// A container that runs `script`.
    pub(crate) fn plan(&self, script: &str) -> Plan {
        let new = || {
            let from = Some(From::New(New {}));
            Some(Namespace { from })
        };
        Plan {
            container_id: "c".into(),
            rootfs: Some(Rootfs {
                lower: vec![self.path("lower")],
                upper: self.path("upper"),
                work: self.path("work"),
                readonly: false,
            }),
            mounts: vec![
                filesystem("proc", "/proc"),
                filesystem("tmpfs", "/dev"),
                filesystem("devpts", "/dev/pts"),
            ],
            namespaces: Some(Namespaces {
                network: new(),
                ipc: new(),
                uts: new(),
                pid: new(),
                cgroup: new(),
                user: None,
            }),
            cgroup: Some(Cgroup {
                path: self.cgroup.clone(),
                ..Cgroup::default()
            }),
            process: Some(Process {
                args: words(&["sh", "-c", script]),
                env: vec![b"PATH=/bin".to_vec()],
                cwd: "/".into(),
                user: Some(User::default()),
                capabilities: Some(Capabilities::default()),
                ..Process::default()
            }),
            log: Some(Log {
                path: self.path("logs/0.log"),
                max_line: MAX_LINE,
                limit: None,
            }),
            state_dir: self.path(""),
            ..Plan::default()
        }
    }

    /// A container that runs `script`, and a connection to its shim.
    pub(crate) fn start(&self, script: &str) -> Client {
        let mut client = self.connect();
        client.create(self.plan(script)).unwrap();
        client.call(Call::Start(Start {})).unwrap();
        client
    }

    /// The lines of the log without their times, whose form is checked.
    pub(crate) fn log(&self, name: &str) -> String {
        let text = fs::read_to_string(self.dir.join("logs").join(name)).unwrap();
        let lines = text.split_inclusive('\n').map(|line| {
            let (time, rest) = line.split_once(' ').unwrap();
            let shape = time.replace(|char: char| char.is_ascii_digit(), "0");
            assert_eq!(shape, "0000-00-00T00:00:00.000000000Z");
            rest
        });
        lines.collect()
    }

    /// The exit file.
    pub(crate) fn exit_file(&self) -> Option<Exited> {
        let bytes = fs::read(self.dir.join(layout::EXIT)).ok()?;
        Some(Exited::decode(&*bytes).unwrap())
    }

    /// Waits for the shim's end, which has to be a success, and to leave no cgroup.
    #[track_caller]
    pub(crate) fn shim_ends(&mut self) {
        let pid = i32::try_from(self.shim.id()).unwrap();
        eventually("the shim ends", || self.shim.try_wait().unwrap().is_some());
        assert!(self.shim.wait().unwrap().success(), "shim {pid}");
        let hierarchies = cgroup::Hierarchies::detect().unwrap();
        assert!(!cgroup::Cgroup::new(&hierarchies, &self.cgroup).exists());
    }

    /// What the shim has written to its own log.
    pub(crate) fn notes(&self) -> String {
        fs::read_to_string(self.dir.join(layout::SHIM_LOG)).unwrap()
    }

    pub(crate) fn processes(&self) -> Vec<i32> {
        let hierarchies = cgroup::Hierarchies::detect().unwrap();
        let cgroup = cgroup::Cgroup::new(&hierarchies, &self.cgroup);
        cgroup.procs().unwrap()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("shim.log: {}", self.notes());
        }
        let _ = self.shim.kill();
        let _ = self.shim.wait();
        let parent = Path::new(&self.cgroup).parent().unwrap();
        let hierarchies = cgroup::Hierarchies::detect().unwrap();
        let cgroup = cgroup::Cgroup::new(&hierarchies, parent.to_str().unwrap());
        let _ = cgroup.kill();
        let _ = cgroup.remove();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Client {
    /// Sends a request, whose id is returned.
    pub(crate) fn send(&mut self, call: Call, fds: &[BorrowedFd<'_>]) -> u64 {
        let id = self.next;
        self.next += 1;
        let request = Request {
            id,
            call: Some(call),
        };
        self.send_frame(&request.encode_to_vec(), fds);
        id
    }

    pub(crate) fn send_frame(&mut self, body: &[u8], fds: &[BorrowedFd<'_>]) {
        let length = u32::try_from(body.len()).unwrap().to_le_bytes();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(fds));
        }
        let (bytes, none) = ([&length[..], body].concat(), SendFlags::NOSIGNAL);
        let sent = sendmsg(&self.stream, &[IoSlice::new(&bytes)], &mut ancillary, none).unwrap();
        self.stream.write_all(&bytes[sent..]).unwrap();
    }

    /// The next frame; `None` at the end.
    pub(crate) fn receive(&mut self) -> Option<Reply> {
        let mut length = [0; 4];
        match self.stream.read_exact(&mut length) {
            // Closed with something unread, it is a reset.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset
                ) =>
            {
                return None;
            }
            result => result.unwrap(),
        }
        let mut body = vec![0; u32::from_le_bytes(length) as usize];
        self.stream.read_exact(&mut body).unwrap();
        Some(Reply::decode(&*body).unwrap())
    }

    /// The answer to a request, which has to be the next frame.
    #[track_caller]
    pub(crate) fn answer(&mut self, id: u64) -> Result<Answer, Failure> {
        let reply = self.receive().expect("an answer");
        assert_eq!(reply.id, id, "{reply:?}");
        match reply.result.unwrap() {
            Answer::Failure(failure) => Err(failure),
            answer => Ok(answer),
        }
    }

    #[track_caller]
    pub(crate) fn call(&mut self, call: Call) -> Result<Answer, Failure> {
        let id = self.send(call, &[]);
        self.answer(id)
    }

    #[track_caller]
    pub(crate) fn create(&mut self, plan: Plan) -> Result<Answer, Failure> {
        let template = mount::template().unwrap();
        let create = Create {
            plan: Some(plan),
            oci: None,
        };
        let id = self.send(Call::Create(create), &[template.as_fd()]);
        self.answer(id)
    }

    /// Sends an exec of `script`. Returns its id and what it will print.
    pub(crate) fn exec(&mut self, script: &str, timeout_ms: u64) -> (u64, File) {
        self.exec_of(&["sh", "-c", script], timeout_ms)
    }

    /// The same of a program.
    pub(crate) fn exec_of(&mut self, args: &[&str], timeout_ms: u64) -> (u64, File) {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let exec = Exec {
            args: words(args),
            stdout: true,
            stderr: true,
            timeout_ms,
            ..Exec::default()
        };
        let id = self.send(Call::Exec(exec), &[write.as_fd(), write.as_fd()]);
        (id, read.into())
    }

    /// Runs `script` to its end.
    #[track_caller]
    pub(crate) fn exec_to_end(&mut self, script: &str) -> (i32, String) {
        let (id, out) = self.exec(script, 0);
        let done = exec_done(self.answer(id));
        (done.exit_code, io::read_to_string(out).unwrap())
    }

    /// The event of the end, which has to be the next frame, and the last.
    #[track_caller]
    pub(crate) fn exited(&mut self) -> Exited {
        let reply = self.receive().expect("the event of the end");
        match (reply.id, reply.result.unwrap()) {
            (0, Answer::Exited(exited)) => {
                assert!(self.receive().is_none());
                exited
            }
            other => panic!("{other:?}"),
        }
    }
}

#[track_caller]
pub(crate) fn exec_done(answer: Result<Answer, Failure>) -> ExecDone {
    match answer {
        Ok(Answer::Exec(done)) => done,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn words(words: &[&str]) -> Vec<Vec<u8>> {
    words.iter().map(|word| word.as_bytes().to_vec()).collect()
}

/// Waits until it is so.
#[track_caller]
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "not so: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn filesystem(kind: &str, destination: &str) -> Mount {
    Mount {
        destination: destination.into(),
        attributes: Some(MountAttributes::default()),
        kind: Some(Kind::Filesystem(Filesystem {
            r#type: kind.into(),
            options: String::new(),
        })),
        ..Mount::default()
    }
}

fn check_prerequisites() {
    assert!(rustix::process::geteuid().is_root(), "this needs root");
    // A dynamic one names its loader in its first page.
    let mut elf = Vec::new();
    let _ = File::open(BUSYBOX).and_then(|file| file.take(4096).read_to_end(&mut elf));
    let is_static = !elf.is_empty() && !elf.windows(9).any(|bytes| bytes == b"ld-linux-");
    assert!(is_static, "this needs Debian's busybox-static");
}
