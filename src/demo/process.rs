//! Server processes that end when this one does, even when this one is killed.
//!
//! In: a command. Out: a running child in a process group of its own, so that a Ctrl-C in the terminal is ours to act on.
//! The child dies with us through `setpriv` (util-linux): the kernel sends it SIGKILL when its parent is gone. Where there
//! is no `setpriv` (not Linux) only the orderly ways remain: stopping and dropping.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{OnceLock, mpsc};

/// A command that is yet to run: program, arguments, the directory it runs in, the file that takes its output.
#[derive(Debug, Clone)]
pub struct ServerCommand {
    /// The program and its arguments.
    pub words: Vec<OsString>,
    pub environment: Vec<(OsString, OsString)>,
    pub directory: PathBuf,
    /// Standard output and error are appended here.
    pub log: PathBuf,
}

impl ServerCommand {
    /// Runs the command; it lives at most as long as this process.
    pub fn spawn(self) -> io::Result<Child> {
        // The death signal comes when the *thread* that started the child ends, and threads of a runtime come and go.
        static KEEPER: OnceLock<mpsc::Sender<(Command, mpsc::Sender<io::Result<Child>>)>> = OnceLock::new();
        let keeper = KEEPER.get_or_init(|| {
            let (sender, receiver) = mpsc::channel::<(Command, mpsc::Sender<io::Result<Child>>)>();
            std::thread::spawn(move || {
                for (mut command, reply) in receiver {
                    // A caller that went away takes its child along.
                    if let Err(mpsc::SendError(Ok(mut child))) = reply.send(command.spawn()) {
                        let _ = child.kill();
                    }
                }
            });
            sender
        });
        let (reply, answer) = mpsc::channel();
        let gone = || io::Error::other("the thread that starts servers is gone");
        keeper.send((self.command()?, reply)).map_err(|_| gone())?;
        answer.recv().map_err(|_| gone())?
    }

    fn command(self) -> io::Result<Command> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut words = Vec::new();
        if let Some(setpriv) = find_program("setpriv") {
            words.extend([setpriv.into_os_string(), "--pdeathsig".into(), "KILL".into(), "--".into()]);
        }
        words.extend(self.words);
        let mut words = words.into_iter();
        let program = words.next().ok_or_else(|| io::Error::other("an empty command"))?;
        let mut command = Command::new(program);
        command.args(words).envs(self.environment).current_dir(self.directory).process_group(0);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(command)
    }
}

/// Finds a program on the PATH, or where Debian keeps programs that are meant for root.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    find_in(name, std::env::split_paths(&path).chain(["/usr/local/sbin".into(), "/usr/sbin".into(), "/sbin".into()]))
}

fn find_in(name: &str, mut directories: impl Iterator<Item = PathBuf>) -> Option<PathBuf> {
    directories.find_map(|directory| {
        let candidate = directory.join(name);
        candidate.is_file().then_some(candidate)
    })
}

/// The last `lines` lines of a log, for messages; empty if there is none.
pub fn tail(log: &Path, lines: usize) -> String {
    let text = String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()).into_owned();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// A command line from its words.
pub fn words(words: &[impl AsRef<OsStr>]) -> Vec<OsString> {
    words.iter().map(|word| word.as_ref().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn sleeper(directory: &Path) -> ServerCommand {
        ServerCommand {
            words: words(&["sh", "-c", "echo started; exec sleep 60"]),
            environment: Vec::new(),
            directory: directory.to_owned(),
            log: directory.join("log"),
        }
    }

    #[test]
    fn a_child_outlives_the_thread_that_asked_for_it() {
        let directory = tempfile::tempdir().unwrap();
        let command = sleeper(directory.path());
        let mut child = std::thread::spawn(move || command.spawn().unwrap()).join().unwrap();
        let patience = Instant::now() + Duration::from_secs(10);
        while tail(&directory.path().join("log"), 1) != "started" {
            assert!(Instant::now() < patience, "the child never wrote");
            std::thread::yield_now();
        }
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_missing_program_is_an_error_or_an_early_end() {
        let directory = tempfile::tempdir().unwrap();
        let command = ServerCommand { words: words(&["/nowhere/at/all"]), ..sleeper(directory.path()) };
        // With setpriv in between it is setpriv that finds out.
        let failed = command.spawn().map(|mut child| child.wait().unwrap());
        assert!(failed.is_err() || failed.is_ok_and(|status| !status.success()));
    }

    #[test]
    fn the_tail_of_a_log_is_its_last_lines() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        std::fs::write(&log, "one\ntwo\nthree\n").unwrap();
        assert_eq!(tail(&log, 2), "two\nthree");
        assert_eq!(tail(&log, 9), "one\ntwo\nthree");
        assert_eq!(tail(&directory.path().join("none"), 2), "");
    }

    #[test]
    fn programs_are_looked_for_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let (first, second) = (directory.path().join("first"), directory.path().join("second"));
        for folder in [&first, &second] {
            std::fs::create_dir(folder).unwrap();
        }
        std::fs::write(second.join("mysqld"), "").unwrap();
        let search = || find_in("mysqld", [first.clone(), second.clone()].into_iter());
        assert_eq!(search(), Some(second.join("mysqld")));
        std::fs::write(first.join("mysqld"), "").unwrap();
        assert_eq!(search(), Some(first.join("mysqld")));
    }
}
