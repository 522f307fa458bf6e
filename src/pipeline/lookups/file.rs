//! Whether a file is still what it was: by everything that a look at its directory tells, links followed.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// A change so soon after the last one may leave the time of modification as it is.
const COARSEST_CLOCK: Duration = Duration::from_secs(2);

/// A file as it was at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    /// Behind all links; `None` where there is nothing.
    target: Option<PathBuf>,
    modified: Option<SystemTime>,
    len: u64,
    /// Device and number.
    inode: (u64, u64),
    /// It was modified just before it was seen: it may be modified again without a trace.
    fresh: bool,
}

impl Seen {
    pub(super) fn of(path: &Path) -> Self {
        let found = std::fs::metadata(path).ok();
        let modified = found.as_ref().and_then(|found| found.modified().ok());
        let age = modified.and_then(|modified| SystemTime::now().duration_since(modified).ok());
        Self {
            target: std::fs::canonicalize(path).ok(),
            modified,
            len: found.as_ref().map_or(0, std::fs::Metadata::len),
            inode: found.as_ref().map(inode).unwrap_or_default(),
            fresh: found.is_some() && age.is_none_or(|age| age < COARSEST_CLOCK),
        }
    }

    /// Whether `now` is certainly the same content.
    pub(super) fn is_still(&self, now: &Self) -> bool {
        !self.fresh && *self == Self { fresh: false, ..now.clone() }
    }
}

#[cfg(unix)]
fn inode(found: &std::fs::Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    (found.dev(), found.ino())
}

#[cfg(not(unix))]
fn inode(_: &std::fs::Metadata) -> (u64, u64) {
    (0, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn long_ago(path: &Path) {
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_600_000_000)).unwrap();
    }

    #[test]
    fn a_file_that_is_left_alone_is_still_the_same_and_every_change_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("it.csv");
        std::fs::write(&path, "a\n1\n").unwrap();
        long_ago(&path);
        let seen = Seen::of(&path);
        assert!(seen.is_still(&Seen::of(&path)));
        std::fs::write(&path, "a\n2\n").unwrap();
        assert!(!seen.is_still(&Seen::of(&path)), "another time");
        long_ago(&path);
        assert!(seen.is_still(&Seen::of(&path)), "nothing tells this one: only whoever sets clocks back does it");
        std::fs::write(&path, "a\n22\n").unwrap();
        long_ago(&path);
        assert!(!seen.is_still(&Seen::of(&path)), "another length");
        std::fs::remove_file(&path).unwrap();
        assert!(!seen.is_still(&Seen::of(&path)), "gone");
    }

    #[test]
    fn a_swapped_link_is_a_change_even_if_the_files_look_alike() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [("one", "a\n1\n"), ("two", "a\n2\n")] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            let path = dir.path().join(name).join("it.csv");
            std::fs::write(&path, text).unwrap();
            long_ago(&path);
        }
        let (link, path) = (dir.path().join("..data"), dir.path().join("it.csv"));
        std::os::unix::fs::symlink(dir.path().join("one"), &link).unwrap();
        std::os::unix::fs::symlink(link.join("it.csv"), &path).unwrap();
        let seen = Seen::of(&path);
        assert!(seen.is_still(&Seen::of(&path)));
        std::fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink(dir.path().join("two"), &link).unwrap();
        assert!(!seen.is_still(&Seen::of(&path)));
    }

    #[test]
    fn a_file_that_was_written_just_now_is_looked_at_once_more() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("it.csv");
        std::fs::write(&path, "a\n1\n").unwrap();
        let seen = Seen::of(&path);
        assert!(!seen.is_still(&Seen::of(&path)));
    }
}
