//! Waits until something has changed among the files and folders that were checked, by asking again and again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::file_mark::FileMark;

/// How often is asked.
const PAUSE: Duration = Duration::from_millis(150);
/// Folders within folders are looked at so deep.
const DEPTH: usize = 4;

/// The state of files and folders, each with all that is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot(BTreeMap<PathBuf, FileMark>);

impl Snapshot {
    pub fn of(inputs: &[PathBuf]) -> Self {
        let mut marks = BTreeMap::new();
        for input in inputs {
            note(input, DEPTH, &mut marks);
        }
        Self(marks)
    }

    /// Returns once something differs from `self`, and has come to rest.
    pub async fn changed(&self, inputs: &[PathBuf]) {
        let mut last = self.clone();
        loop {
            tokio::time::sleep(PAUSE).await;
            let now = Self::of(inputs);
            if now != *self && now == last {
                return;
            }
            last = now;
        }
    }
}

fn note(path: &Path, depth: usize, marks: &mut BTreeMap<PathBuf, FileMark>) {
    // One that isn't there is noticed when it comes.
    let Ok(meta) = std::fs::metadata(path) else { return };
    if meta.is_dir() {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        for entry in entries.filter(|_| depth > 0) {
            note(&entry.path(), depth - 1, marks);
        }
        return;
    }
    marks.insert(path.to_owned(), FileMark::new(&meta));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether `change` is noticed.
    async fn notices(inputs: &[PathBuf], change: impl FnOnce()) -> bool {
        let before = Snapshot::of(inputs);
        change();
        tokio::time::timeout(Duration::from_secs(10), before.changed(inputs)).await.is_ok()
    }

    #[tokio::test]
    async fn every_way_to_change_a_file_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let queries = at("queries");
        std::fs::create_dir_all(queries.join("tests")).unwrap();
        std::fs::write(queries.join("a.sql"), "SELECT 1").unwrap();
        let inputs = [queries.clone(), at("afterimage.toml")];
        assert!(
            notices(&inputs, || std::fs::write(queries.join("a.sql"), "SELECT 2").unwrap()).await,
            "written in place"
        );
        let replace = || {
            std::fs::write(at("new"), "SELECT 3").unwrap();
            std::fs::rename(at("new"), queries.join("a.sql")).unwrap();
        };
        assert!(notices(&inputs, replace).await, "replaced by a new file");
        assert!(notices(&inputs, || std::fs::write(queries.join("tests/b.yaml"), "").unwrap()).await, "a new file");
        assert!(notices(&inputs, || std::fs::remove_file(queries.join("a.sql")).unwrap()).await, "a file less");
        assert!(notices(&inputs, || std::fs::write(at("afterimage.toml"), "").unwrap()).await, "one that wasn't there");
        let before = Snapshot::of(&inputs);
        assert!(
            tokio::time::timeout(PAUSE * 4, before.changed(&inputs)).await.is_err(),
            "nothing happened, and it was noticed"
        );
    }

    #[tokio::test]
    async fn a_symlink_that_is_swapped_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for (folder, text) in [("one", "SELECT 1"), ("two", "SELECT 2")] {
            std::fs::create_dir(at(folder)).unwrap();
            std::fs::write(at(folder).join("a.sql"), text).unwrap();
        }
        std::os::unix::fs::symlink(at("one"), at("queries")).unwrap();
        let swap = || {
            std::os::unix::fs::symlink(at("two"), at("next")).unwrap();
            std::fs::rename(at("next"), at("queries")).unwrap();
        };
        assert!(notices(&[at("queries")], swap).await);
    }
}
