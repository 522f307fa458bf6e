//! Whether a file has changed since it was looked at, told without reading it.
//!
//! Works by asking, so that it works everywhere: with symlinks that are swapped (ConfigMaps), with editors that write a new file and move
//! it into place, with deployments that keep times of modification. What can't be told is whether a file was written twice within one
//! tick of its clock: a [`Look`] that came so soon after a change says so by never being still.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// A change so soon after another one may leave the times as they are.
const COARSEST_CLOCK: Duration = Duration::from_secs(2);

/// What tells one state of a file from another: where it lies behind all links, its size, and when it was written or replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileMark {
    device: u64,
    inode: u64,
    len: u64,
    /// Seconds and nanoseconds; the second pair moves with every change, whoever sets the first one.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileMark {
    /// Of the file at `path`, if there is one.
    pub fn at(path: &Path) -> Option<Self> {
        std::fs::metadata(path).ok().map(|found| Self::new(&found))
    }

    pub fn new(found: &Metadata) -> Self {
        Self {
            device: found.dev(),
            inode: found.ino(),
            len: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }

    /// Whether it changed just now, so that it may change again without a trace.
    pub fn is_fresh(&self) -> bool {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now = i64::try_from(since_1970.as_secs()).unwrap_or(i64::MAX);
        // A clock that is ahead of ours is no reason to trust it.
        now.saturating_sub(self.changed.0) <= COARSEST_CLOCK.as_secs() as i64
    }
}

/// A file as one look finds it; nothing is a state, too.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    mark: Option<FileMark>,
    fresh: bool,
}

impl Look {
    pub fn at(path: &Path) -> Self {
        let mark = FileMark::at(path);
        Self { mark, fresh: mark.is_some_and(|mark| mark.is_fresh()) }
    }

    /// Whether a later look certainly sees the same content.
    pub fn is_still(&self, later: &Self) -> bool {
        !self.fresh && self.mark == later.mark
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A look at a file that has been left alone for long enough.
    fn settled(path: &Path) -> Look {
        loop {
            let look = Look::at(path);
            if look.is_still(&look) {
                return look;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    #[test]
    fn a_file_that_is_left_alone_is_still_and_every_change_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("it.csv");
        std::fs::write(&path, "a\n1\n").unwrap();
        let look = settled(&path);
        assert!(look.is_still(&Look::at(&path)));
        let as_before = std::fs::metadata(&path).unwrap().modified().unwrap();
        std::fs::write(&path, "a\n2\n").unwrap();
        assert!(!look.is_still(&Look::at(&path)), "written in place");
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(as_before).unwrap();
        assert!(!look.is_still(&Look::at(&path)), "as long as before, and its time set back");
        std::fs::remove_file(&path).unwrap();
        assert!(!look.is_still(&Look::at(&path)), "gone");
        let gone = Look::at(&path);
        assert!(gone.is_still(&Look::at(&path)));
        std::fs::write(&path, "a\n1\n").unwrap();
        assert!(!gone.is_still(&Look::at(&path)), "there again");
    }

    #[test]
    fn a_swapped_link_is_a_change() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["one", "two"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            std::fs::write(dir.path().join(name).join("it.csv"), "a\n1\n").unwrap();
        }
        let (link, path) = (dir.path().join("..data"), dir.path().join("it.csv"));
        std::os::unix::fs::symlink(dir.path().join("one"), &link).unwrap();
        std::os::unix::fs::symlink(link.join("it.csv"), &path).unwrap();
        let look = settled(&path);
        std::fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink(dir.path().join("two"), &link).unwrap();
        assert!(!look.is_still(&Look::at(&path)));
    }

    #[test]
    fn a_file_that_was_written_just_now_is_looked_at_once_more() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("it.csv");
        std::fs::write(&path, "a\n1\n").unwrap();
        let look = Look::at(&path);
        assert!(!look.is_still(&Look::at(&path)));
    }
}
