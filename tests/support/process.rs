//! The program itself, run as operators run it: a process with a config file, killed, paused and stopped by signals.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use afterimage::demo::process::{ServerCommand, tail, words};
use tempfile::TempDir;

use super::servers::scratch;

const PROGRAM: &str = env!("CARGO_BIN_EXE_afterimage");

/// A directory as an operator has one: `afterimage.toml`, and copies of the shipped `queries/` and `schemas/` to change. The shipped
/// cases aren't there: they hold for the shipped models only.
pub struct Workspace {
    directory: TempDir,
}

impl Workspace {
    pub fn new(config: &str) -> Self {
        let workspace = Self { directory: scratch("workspace-") };
        for folder in ["queries", "schemas"] {
            let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
            let copied = Command::new("cp").arg("-r").arg(&shipped).arg(workspace.path()).status().unwrap();
            assert!(copied.success(), "cannot copy {}", shipped.display());
        }
        std::fs::remove_dir_all(workspace.path().join("queries/users/tests")).unwrap();
        workspace.write("afterimage.toml", config);
        workspace
    }

    /// The same with the shipped cases.
    pub fn with_cases(config: &str) -> Self {
        let workspace = Self::new(config);
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("queries/users/tests");
        for entry in std::fs::read_dir(&shipped).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            workspace.write(&format!("queries/users/tests/{name}"), &std::fs::read_to_string(&path).unwrap());
        }
        workspace
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Writes a file at a path relative to the workspace.
    pub fn write(&self, file: &str, text: &str) {
        let path = self.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Starts `afterimage <arguments>` in the workspace with its config; `name` names its log.
    pub fn start(&self, name: &str, arguments: &[&str]) -> Running {
        self.start_with(name, arguments, &[])
    }

    /// The same with environment variables.
    pub fn start_with(&self, name: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Running {
        self.spawn(name, &[], arguments, environment)
    }

    /// The same by way of a program that runs the words behind its own, such as `prlimit --nofile=40 --`.
    pub fn start_under(&self, name: &str, wrapper: &[&str], arguments: &[&str]) -> Running {
        self.spawn(name, wrapper, arguments, &[])
    }

    fn spawn(&self, name: &str, wrapper: &[&str], arguments: &[&str], environment: &[(&str, &str)]) -> Running {
        let log = self.path().join(format!("{name}.log"));
        let mut command = words(wrapper);
        command.extend(words(&[PROGRAM]));
        command.extend(words(arguments));
        let child = ServerCommand {
            words: command,
            environment: environment.iter().map(|&(name, value)| (name.into(), value.into())).collect(),
            directory: self.path().to_owned(),
            log: log.clone(),
        }
        .spawn()
        .unwrap();
        Running::of(name, child, log)
    }

    /// Runs `afterimage <arguments>` to its end, which must come within a minute.
    pub fn run(&self, arguments: &[&str]) -> Finished {
        self.run_with(arguments, &[])
    }

    /// The same with environment variables.
    pub fn run_with(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Finished {
        let (out, err) = (self.path().join("stdout"), self.path().join("stderr"));
        let mut child = Command::new(PROGRAM)
            .args(arguments)
            .envs(environment.iter().copied())
            .current_dir(self.path())
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(&out).unwrap())
            .stderr(std::fs::File::create(&err).unwrap())
            .spawn()
            .unwrap();
        let status = wait(&mut child, Duration::from_secs(60));
        let read = |path| String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned();
        let (stdout, stderr) = (read(&out), read(&err));
        let Some(status) = status else {
            let _ = child.kill();
            panic!("afterimage {arguments:?} does not end\n{stdout}\n{stderr}");
        };
        Finished { status, stdout, stderr }
    }
}

/// How a run to the end came out.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    /// The exit code; panics where a signal ended the run.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| panic!("ended by a signal: {self:?}"))
    }
}

/// A running program. Killed when dropped; a test that fails shows the end of its log.
pub struct Running {
    name: String,
    child: Child,
    log: PathBuf,
    status: Option<ExitStatus>,
}

impl Running {
    /// A child that was started some other way and writes to `log`.
    pub fn of(name: &str, child: Child, log: PathBuf) -> Self {
        Self { name: name.to_owned(), child, log, status: None }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        self.status = self.child.wait().ok();
    }

    /// SIGTERM: asks for an orderly stop.
    pub fn terminate(&self) {
        signal(self.pid(), libc::SIGTERM);
    }

    /// SIGSTOP: it stands still, as a paused virtual machine does.
    pub fn pause(&self) {
        signal(self.pid(), libc::SIGSTOP);
    }

    /// SIGCONT.
    pub fn resume(&self) {
        signal(self.pid(), libc::SIGCONT);
    }

    pub fn is_running(&mut self) -> bool {
        if self.status.is_none() {
            self.status = self.child.try_wait().unwrap();
        }
        self.status.is_none()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.is_running();
        self.status
    }

    /// The same program while it has not ended: its process number is still its own.
    pub fn alive(&mut self) -> Option<&mut Self> {
        self.is_running().then_some(self)
    }

    /// Waits for the end; panics with the end of the log if it doesn't come.
    pub async fn wait(&mut self, deadline: Duration) -> ExitStatus {
        let until = Instant::now() + deadline;
        while self.is_running() {
            assert!(Instant::now() < until, "{} still runs after {deadline:?}\n{}", self.name, self.tail());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.status.unwrap()
    }

    /// The same for a run that must end with `code`.
    pub async fn wait_for_code(&mut self, code: i32, deadline: Duration) {
        let status = self.wait(deadline).await;
        assert_eq!(status.code(), Some(code), "{} ended with {status}\n{}", self.name, self.tail());
    }

    /// Waits until the log holds `text`; panics if it doesn't come or the program ends without it.
    pub async fn wait_for_log(&mut self, text: &str, deadline: Duration) {
        self.wait_for_line(0, &[text], deadline).await;
    }

    /// Waits for one line behind the first `known` bytes of the log that holds all of `texts`.
    pub async fn wait_for_line(&mut self, known: usize, texts: &[&str], deadline: Duration) {
        let until = Instant::now() + deadline;
        let text = texts.join(" .. ");
        loop {
            let running = self.is_running();
            let log = self.log();
            if log.get(known..).unwrap_or(&log).lines().any(|line| texts.iter().all(|text| line.contains(text))) {
                return;
            }
            assert!(running, "{} ended without logging {text:?}\n{}", self.name, self.tail());
            let late = Instant::now() > until;
            assert!(!late, "{} did not log {text:?} in {deadline:?}\n{}\n{}", self.name, self.threads(), self.tail());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Everything it wrote so far; runs of the same name in the same workspace write to one log.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    pub fn tail(&self) -> String {
        tail(&self.log, 40)
    }

    /// Each of its threads: its name, its state, and where in the kernel it waits.
    fn threads(&self) -> String {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).into_iter().flatten().flatten();
        let describe = |task: std::fs::DirEntry| {
            let read = |name: &str| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
            let stat = read("stat");
            let state = stat.rsplit_once(") ").and_then(|(_, fields)| fields.chars().next()).unwrap_or('?');
            format!("{} {state} {}", read("comm").trim(), read("wchan"))
        };
        tasks.map(describe).collect::<Vec<_>>().join("; ")
    }

    /// The processor time that it has taken so far.
    pub fn processor_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        // Behind the name in parentheses, which may hold anything: utime and stime are fields 14 and 15, in hundredths.
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_ascii_whitespace();
        let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        Duration::from_millis(ticks * 10)
    }

    /// The most memory it ever had in RAM, in bytes; 0 once it has ended.
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
        line.trim().trim_end_matches(" kB").parse::<u64>().map_or(0, |kib| kib * 1024)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("---- the end of {}'s log ({})\n{}\n----", self.name, self.log.display(), self.tail());
        }
    }
}

/// Sends a signal to a process that was started here and hasn't been waited for, so that its number is still its own.
#[allow(unsafe_code, reason = "the standard library sends SIGKILL alone")]
pub fn signal(pid: u32, signal: libc::c_int) {
    // SAFETY: kill() takes two integers and touches no memory of ours.
    let outcome = unsafe { libc::kill(pid.cast_signed(), signal) };
    assert_eq!(outcome, 0, "signal {signal} to {pid}: {}", std::io::Error::last_os_error());
}

/// Waits for a child's end on this thread; `None` if it doesn't come.
pub fn wait(child: &mut Child, deadline: Duration) -> Option<ExitStatus> {
    let until = Instant::now() + deadline;
    loop {
        match child.try_wait().unwrap() {
            Some(status) => return Some(status),
            None if Instant::now() > until => return None,
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}
