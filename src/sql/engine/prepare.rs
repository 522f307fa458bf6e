//! From files to an engine: models and lookups loaded, planned and checked against their contract.
//!
//! In: a pipeline's [`ModelSpec`] and what its events look like. Out: an [`Engine`] that is ready to run and warnings, or every fault
//! at once; where the events' schema or a lookup isn't known, [`Examined`] says how far that could be told.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::common::DataFusionError;
use datafusion::prelude::SessionContext;

use super::{Engine, Routes};
use crate::diagnostic::{Diagnostic, Severity, has_errors};
use crate::sql::lookup::{self, Lookup};
use crate::sql::models::{
    ACCEPTED, CHANGES, ENRICHED, EVENTS, HELD, KNOWN, LATEST, METRICS, Models, OUT_OF_ORDER, order,
};
use crate::sql::plan::{self, ASSUMED_ROWS, Step};
use crate::sql::slots::Slot;
use crate::sql::{ModelSpec, check, check_target, locate};
use crate::target::Target;

/// What came of planning and checking the models.
#[derive(Debug, Default)]
pub struct Examined {
    /// Ready to run; `None` where a fault refuses it, or something isn't known.
    pub engine: Option<Box<Engine>>,
    pub faults: Vec<Diagnostic>,
    /// Models that couldn't be planned though nothing is said against them: what they read has a fault, or isn't known.
    pub unplanned: Vec<String>,
}

impl Engine {
    /// Loads, plans and checks the models and lookups of `spec` over events of the given schema. Yields the engine and warnings,
    /// or every fault at once. Without a `target` the one that follows from `latest` is assumed.
    pub async fn prepare(
        spec: &ModelSpec,
        events: SchemaRef,
        target: Option<&Target>,
    ) -> Result<(Self, Vec<Diagnostic>), Vec<Diagnostic>> {
        let examined = Self::examine(spec, Some(events), &[], target).await;
        match examined.engine {
            Some(engine) => Ok((*engine, examined.faults)),
            None => Err(examined.faults),
        }
    }

    /// As [`prepare`](Self::prepare), as far as that is possible where the schema of the events or the columns of some lookups
    /// (`unknown`, by name) aren't known.
    pub async fn examine(
        spec: &ModelSpec,
        events: Option<SchemaRef>,
        unknown: &[&str],
        target: Option<&Target>,
    ) -> Examined {
        let mut examined = Examined::default();
        match Self::planned(spec, events, unknown, target, &mut examined).await {
            Ok(engine) => examined.engine = engine.filter(|_| !has_errors(&examined.faults)).map(Box::new),
            Err(error) => examined.faults.push(internal(&error)),
        }
        examined
    }

    async fn planned(
        spec: &ModelSpec,
        events: Option<SchemaRef>,
        unknown: &[&str],
        target: Option<&Target>,
        examined: &mut Examined,
    ) -> Result<Option<Self>, DataFusionError> {
        let faults = &mut examined.faults;
        let (models, found) = Models::read(&spec.queries);
        faults.extend(found);
        let lookups = lookup::load(spec, &models, faults);
        let session = plan::session()?;
        let fields = events.as_ref().map(check::struct_fields).unwrap_or_default();
        let events = events.map(|schema| Slot::new(EVENTS, schema, ASSUMED_ROWS));
        if let Some(events) = &events {
            plan::register(&session, events)?;
        }
        for lookup in &lookups {
            plan::register_lookup(&session, &lookup.slot)?;
        }
        let mut tables: Vec<&str> = events.iter().map(|_| EVENTS).collect();
        tables.extend(lookups.iter().map(|lookup| lookup.name.as_str()));
        let configured = spec.lookups.iter().map(|lookup| lookup.name.as_str());
        let named: Vec<&str> =
            [EVENTS, HELD, KNOWN].into_iter().chain(configured).chain(unknown.iter().copied()).collect();
        let order = order(&models, &named, faults);
        let planned = plan::plan(&session, &models, &order, &tables, &spec.key, &fields, faults).await;
        let names: Vec<&str> =
            spec.lookups.iter().map(|lookup| lookup.name.as_str()).chain(unknown.iter().copied()).collect();
        check::contract(spec, &models, &planned.steps, &session, (&names, &lookups), faults);
        let assumed = check_target::target(spec, &models, &planned.steps, target, faults);
        examined.unplanned = unplanned(&models, &planned.steps, faults);
        let (Some(target), Some(events), Some(held), Some(known), []) =
            (assumed, events, planned.held, planned.known, unknown)
        else {
            return Ok(None);
        };
        Ok(Some(Self::assemble(spec, &session, &models, planned.steps, [events, held, known], lookups, target)))
    }

    fn assemble(
        spec: &ModelSpec,
        session: &SessionContext,
        models: &Models,
        steps: Vec<Step>,
        [events, held, known]: [Arc<Slot>; 3],
        lookups: Vec<Lookup>,
        target: Target,
    ) -> Self {
        let route = |name: &str| -> Vec<usize> {
            let ancestry = models.ancestry(name);
            (0..steps.len()).filter(|step| ancestry.contains(&steps[*step].name)).collect()
        };
        let (latest, out_of_order) = (route(LATEST), route(OUT_OF_ORDER));
        let waiting: Vec<usize> = out_of_order.iter().copied().filter(|step| !latest.contains(step)).collect();
        let read = waiting.iter().flat_map(|step| &steps[*step].reads);
        let of_batch = |read: &&String| {
            let made = waiting.iter().any(|step| steps[*step].name == **read);
            !made && *read != KNOWN && !lookups.iter().any(|lookup| lookup.name == **read)
        };
        let waiting_reads: BTreeSet<String> = read.filter(of_batch).cloned().collect();
        let enriched = route(ENRICHED);
        let read_later = |step: usize| {
            let later = (0..steps.len()).filter(|later| !enriched.contains(later));
            later.flat_map(|later| &steps[later].reads).any(|read| *read == steps[step].name)
        };
        let spent = |step: &usize| steps[*step].name != ENRICHED && !read_later(*step);
        let routes = Routes {
            changes: route(CHANGES),
            spent: enriched.iter().copied().filter(spent).collect(),
            enriched,
            accepted: route(ACCEPTED),
            latest,
            metrics: route(METRICS),
            out_of_order,
            waiting,
            waiting_reads: waiting_reads.into_iter().collect(),
        };
        Self {
            spec: spec.clone(),
            task: session.task_ctx(),
            steps,
            events,
            held,
            known,
            lookups,
            target,
            routes,
            keeps_rows: false,
            texts: models.models.iter().map(|model| model.sql.clone()).collect(),
        }
    }
}

fn unplanned(models: &Models, steps: &[Step], faults: &[Diagnostic]) -> Vec<String> {
    let blamed = |file: &Path| {
        faults.iter().any(|fault| fault.severity == Severity::Error && fault.file.as_deref() == Some(file))
    };
    let open = models.models.iter().filter(|model| !steps.iter().any(|step| step.name == model.name));
    open.filter(|model| !blamed(&model.file)).map(|model| model.name.clone()).collect()
}

fn internal(error: &DataFusionError) -> Diagnostic {
    Diagnostic::error("AI0113", format!("the SQL engine doesn't start: {}", locate::plain(error)))
}
