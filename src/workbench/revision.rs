//! The files of a pipeline as they were at a revision of git, copied into a folder that goes with its value.
//!
//! In: a pipeline of the config, and what somebody calls a revision. Out: the same pipeline with its folders and lookups in a copy,
//! as far as they existed then; what didn't, stays what it is now. Only objects are read, by the program `git`: neither the checkout
//! nor the index is touched, and no hook, filter or external program of the repository runs.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use crate::config::{LookupFrom, Pipeline};
use crate::error::{Error, Kind, Result};

/// A pipeline at a revision.
#[derive(Debug)]
pub struct AtRevision {
    pub pipeline: Pipeline,
    /// The commit's full name.
    pub commit: String,
    /// What didn't exist then and is taken as it is now.
    pub as_now: Vec<PathBuf>,
    /// Where the copies lie, and where what they are copies of lies.
    pub copies: Copies,
}

/// Copies of files, for whoever shows paths to people.
#[derive(Debug)]
pub struct Copies {
    folder: TempDir,
    top: PathBuf,
}

impl Copies {
    /// `text` with git's own names (`HEAD:queries/latest.sql`) for the copies that it mentions.
    pub fn renamed(&self, text: &str, revision: &str) -> String {
        text.replace(&format!("{}/", self.folder.path().display()), &format!("{revision}:"))
    }
}

/// Reads the files of `pipeline` as they were at `revision`.
///
/// # Errors
/// [`Kind::Config`] where there is no git, no repository, no such revision, or where the models didn't exist then.
pub fn read(pipeline: &Pipeline, revision: &str) -> Result<AtRevision> {
    let git = Git { folder: existing(&pipeline.queries) };
    let top = git.top()?;
    let commit = git.commit(revision)?;
    let folder = tempfile::Builder::new().prefix("afterimage-revision-").tempdir().map_err(unwritable)?;
    let copies = Copies { folder, top };
    let mut at = AtRevision { pipeline: pipeline.clone(), commit, as_now: Vec::new(), copies };
    let queries = at.copy(&git, &pipeline.queries)?;
    at.pipeline.queries = queries.ok_or_else(|| {
        let what = format!("there was no {} at revision {revision}", pipeline.queries.display());
        Error::new(Kind::Config, what).remedy("name a later revision, or a folder with --old")
    })?;
    match at.copy(&git, &pipeline.schemas)? {
        Some(schemas) => at.pipeline.schemas = schemas,
        None => at.as_now.push(pipeline.schemas.clone()),
    }
    for (name, lookup) in &pipeline.lookups {
        let LookupFrom::File(file) = &lookup.from else { continue };
        match at.copy(&git, file)? {
            Some(copy) => {
                if let Some(lookup) = at.pipeline.lookups.get_mut(name) {
                    lookup.from = LookupFrom::File(copy);
                }
            }
            None => at.as_now.push(file.clone()),
        }
    }
    Ok(at)
}

impl AtRevision {
    /// Copies a file or folder of the repository; `None` where there was none, or where it lies elsewhere.
    fn copy(&self, git: &Git, path: &Path) -> Result<Option<PathBuf>> {
        let Some(inside) = inside(&self.copies.top, path) else { return Ok(None) };
        let files = git.files(&self.commit, &inside)?;
        for file in &files {
            let copy = self.copies.folder.path().join(&file.path);
            if let Some(parent) = copy.parent() {
                std::fs::create_dir_all(parent).map_err(unwritable)?;
            }
            std::fs::write(&copy, git.bytes(&file.object)?).map_err(unwritable)?;
        }
        Ok((!files.is_empty()).then(|| self.copies.folder.path().join(inside)))
    }
}

/// `path` seen from the repository's top; it may not exist any more.
fn inside(top: &Path, path: &Path) -> Option<PathBuf> {
    let there = existing(path);
    let rest = path.strip_prefix(&there).ok()?;
    let real = if there.as_os_str().is_empty() { Path::new(".") } else { &there }.canonicalize().ok()?;
    Some(real.join(rest).strip_prefix(top).ok()?.to_owned())
}

/// The nearest folder of `path` that exists; empty for the working directory.
fn existing(path: &Path) -> PathBuf {
    let folder = path.ancestors().find(|folder| folder.is_dir() || folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new("")).to_owned()
}

/// A file in a commit.
struct Blob {
    /// From the repository's top.
    path: PathBuf,
    object: String,
}

/// The program `git`, run in a folder of the repository.
struct Git {
    folder: PathBuf,
}

impl Git {
    fn run(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new("git");
        if !self.folder.as_os_str().is_empty() {
            command.arg("-C").arg(&self.folder);
        }
        // A hook's own variables would mean another repository than the folder's.
        for variable in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_OBJECT_DIRECTORY"] {
            command.env_remove(variable);
        }
        command.env("LC_ALL", "C").env("GIT_OPTIONAL_LOCKS", "0").stdin(Stdio::null());
        command.args(arguments).output().map_err(|error| {
            Error::new(Kind::Config, "the program git can't be run")
                .remedy("install git, or name a folder with the old models with --old")
                .source(error)
        })
    }

    fn top(&self) -> Result<PathBuf> {
        let output = self.run(&["rev-parse", "--show-toplevel"])?;
        if !output.status.success() {
            let folder = if self.folder.as_os_str().is_empty() { Path::new(".") } else { &self.folder };
            let what = format!("{} is in no git repository that can be read", folder.display());
            let remedy = "name a folder with the old models with --old";
            return Err(Error::new(Kind::Config, what).remedy(remedy).source(words(&output)));
        }
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let top = PathBuf::from(text.strip_suffix('\n').unwrap_or(&text));
        Ok(top.canonicalize().unwrap_or(top))
    }

    fn commit(&self, revision: &str) -> Result<String> {
        let wanted = format!("{revision}^{{commit}}");
        let output = self.run(&["rev-parse", "--verify", "--quiet", "--end-of-options", &wanted])?;
        if !output.status.success() {
            return Err(Error::new(Kind::Config, format!("git knows no revision {revision:?}"))
                .remedy("name a commit, a branch or a tag that `git rev-parse` knows; a shallow clone has few"));
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Files at or below `path`.
    fn files(&self, commit: &str, path: &Path) -> Result<Vec<Blob>> {
        let path = path.to_string_lossy();
        let arguments = ["ls-tree", "-r", "-z", "--full-tree", commit, "--", path.as_ref()];
        let arguments = if path.is_empty() { &arguments[..5] } else { &arguments[..] };
        let output = self.run(arguments)?;
        if !output.status.success() {
            return Err(Error::new(Kind::Config, format!("git can't list {path}")).source(words(&output)));
        }
        let mut files = Vec::new();
        for entry in output.stdout.split(|byte| *byte == 0).filter(|entry| !entry.is_empty()) {
            let entry = String::from_utf8_lossy(entry);
            let Some((meta, path)) = entry.split_once('\t') else { continue };
            let parts: Vec<&str> = meta.split(' ').collect();
            match parts.as_slice() {
                ["120000", ..] => {
                    let what = format!("{path} is a symbolic link at that revision, which can't be followed");
                    return Err(Error::new(Kind::Config, what).remedy("name a folder with --old"));
                }
                [_, "blob", object] => files.push(Blob { path: path.into(), object: (*object).to_owned() }),
                _ => {}
            }
        }
        Ok(files)
    }

    fn bytes(&self, object: &str) -> Result<Vec<u8>> {
        let output = self.run(&["cat-file", "blob", object])?;
        if !output.status.success() {
            return Err(Error::new(Kind::Config, "git can't show a file").source(words(&output)));
        }
        Ok(output.stdout)
    }
}

/// What git said.
fn words(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or("it says nothing");
    crate::diagnostic::printable(line)
}

fn unwritable(error: std::io::Error) -> Error {
    Error::new(Kind::Config, "a copy of the old files can't be written").source(error)
}
