//! Watches the files of one pipeline while it runs, on a thread of its own: the road goes on meanwhile.
//!
//! In: the files as they are, looked at once a second (each by its mark; content once one of these differs),
//! and at once on SIGHUP. Out: [`Seen`], once the files have been still for a moment: faults, or a planned and tested [`Definition`].
//! Nothing is told of files that are what was judged last.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc};

use super::{decoder, definition, prepare_with, read_tables};
use crate::config::{self, Config};
use crate::diagnostic::{Diagnostic, has_errors};
use crate::error::{Error, Kind, Result};
use crate::file_mark::FileMark;
use crate::generation::Fingerprint;
use crate::pipeline::reload::{Definition, Reload, Seen};
use crate::sql::LookupFrom;
use crate::workbench::test;

const LOOK: Duration = Duration::from_secs(1);
/// Files that were not touched for so long are whole: editors and deployments write several in a row.
const STILL: Duration = Duration::from_millis(300);
/// Something that never stands still is judged all the same.
const AT_MOST: Duration = Duration::from_secs(10);

/// The files as one look finds them.
struct Sight {
    files: Vec<(PathBuf, Option<FileMark>)>,
    /// One of them changed just now, and may change again without a trace.
    fresh: bool,
}

impl Sight {
    fn of(pipeline: &config::Pipeline) -> Self {
        let mark = |path: PathBuf| (path.clone(), FileMark::at(&path));
        let files: Vec<_> = definition::watched(pipeline).into_iter().map(mark).collect();
        let fresh = files.iter().any(|(_, mark)| mark.is_some_and(|mark| mark.is_fresh()));
        Self { files, fresh }
    }
}

/// The definition as its files are now, or all its faults; lookups in MySQL are read for it.
pub async fn define_anew(config: &Config, pipeline: &config::Pipeline) -> Result<Definition, Vec<Diagnostic>> {
    let tables = read_tables(pipeline, &super::connector(config)).await.map_err(|error| {
        vec![Diagnostic::error("AI0434", error.what.clone()).help("the models are planned over the lookups' columns")]
    })?;
    let tables = tables.into_iter().map(|(name, rows)| (name, LookupFrom::Table(rows))).collect();
    define(pipeline, &tables).await
}

/// The same with lookups that were read elsewhere.
pub async fn define(
    pipeline: &config::Pipeline,
    tables: &BTreeMap<String, LookupFrom>,
) -> Result<Definition, Vec<Diagnostic>> {
    loop {
        let before = definition::marks(pipeline);
        let prepared = prepare_with(pipeline, tables).await;
        // Written to while they were read: what was planned may be half of it.
        if definition::marks(pipeline) != before {
            tokio::time::sleep(STILL).await;
            continue;
        }
        let (schema, engine, _) = prepared?;
        return Ok(Definition { marks: before, decoder: decoder(pipeline, &schema), engine });
    }
}

/// Faults that the pipeline's own tests find in its files.
async fn failing_tests(config: &Config, pipeline: &config::Pipeline) -> Vec<Diagnostic> {
    // Cases that give their lookups' rows need no server; the others say what they lack.
    let tables = read_tables(pipeline, &super::connector(config)).await.unwrap_or_default();
    test::run(pipeline, &tables, &test::Options::default()).await.into_faults()
}

/// Starts to watch; `judged` is the content that runs already.
pub fn start(config: &Config, pipeline: &config::Pipeline, judged: Fingerprint, look: Arc<Notify>) -> Result<Reload> {
    let (seen, news) = mpsc::unbounded_channel();
    let mut watch = Watch {
        config: config.clone(),
        pipeline: pipeline.clone(),
        seen,
        look: Arc::clone(&look),
        judged,
        usable: true,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::new(Kind::Bug, "no runtime for a watcher").source(error))?;
    std::thread::Builder::new()
        .name(format!("watch-{}", pipeline.name))
        .spawn(move || runtime.block_on(watch.run()))
        .map_err(|error| Error::new(Kind::Bug, "cannot start a thread").source(error))?;
    Ok(Reload::new(news, look))
}

struct Watch {
    config: Config,
    pipeline: config::Pipeline,
    seen: mpsc::UnboundedSender<Seen>,
    look: Arc<Notify>,
    /// The content that was judged last, and whether it could be used.
    judged: Fingerprint,
    usable: bool,
}

impl Watch {
    /// Until nobody listens any more.
    async fn run(&mut self) {
        // What has changed since it was read counts as a change.
        let mut last: Option<Sight> = None;
        loop {
            let asked = tokio::select! {
                () = self.look.notified() => true,
                () = tokio::time::sleep(LOOK) => false,
                () = self.seen.closed() => return,
            };
            let mut now = Sight::of(&self.pipeline);
            if !asked && last.is_some_and(|last| !last.fresh && last.files == now.files) {
                last = Some(now);
                continue;
            }
            if !asked {
                now = self.stillness(now).await;
            }
            self.judge(asked).await;
            last = Some(now);
        }
    }

    /// Waits until the files have been still for a moment.
    async fn stillness(&self, mut last: Sight) -> Sight {
        let began = Instant::now();
        loop {
            tokio::time::sleep(STILL).await;
            let now = Sight::of(&self.pipeline);
            if now.files == last.files || began.elapsed() > AT_MOST {
                return now;
            }
            last = now;
        }
    }

    /// Judges the files if their content differs from what was judged last, or if that was refused and somebody asks.
    async fn judge(&mut self, asked: bool) {
        loop {
            let content = definition::judged(&self.pipeline);
            if content == self.judged && (self.usable || !asked) {
                return;
            }
            // Nobody listens: the pipeline has ended, which is seen at the next look.
            let _ = self.seen.send(Seen::Changed);
            let verdict = match define_anew(&self.config, &self.pipeline).await {
                Ok(definition) => {
                    let faults = failing_tests(&self.config, &self.pipeline).await;
                    if has_errors(&faults) { Seen::Faulty(faults) } else { Seen::Ready(Box::new(definition)) }
                }
                Err(faults) => Seen::Faulty(faults),
            };
            if definition::judged(&self.pipeline) != content {
                continue;
            }
            self.judged = content;
            self.usable = matches!(verdict, Seen::Ready(_));
            let _ = self.seen.send(verdict);
            return;
        }
    }
}
