//! Plans that are made once and run often yield what fresh plans yield.

use super::*;

/// Countries beyond any batch's size, so that the planner builds the join's hash table from the events.
fn many_countries() -> LookupFrom {
    let codes: Vec<String> =
        ["DE", "FR", "JP"].into_iter().map(str::to_owned).chain((0..200_000).map(|it| format!("#{it}"))).collect();
    let column = || Arc::new(StringArray::from_iter_values(&codes)) as ArrayRef;
    let rows = RecordBatch::try_from_iter(["code", "name", "region"].map(|name| (name, column())));
    LookupFrom::Table(rows.unwrap())
}

/// Batches that differ in size, users and in which countries are found.
fn some_batches() -> Vec<RecordBatch> {
    let countries = [Some("DE"), None, Some("XX"), Some("FR"), Some("JP"), Some("YY"), None];
    let users = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k"];
    let sizes = [40, 7, 90, 1, 0, 55];
    let mut offset = 0;
    let mut batches = Vec::new();
    for (number, size) in sizes.into_iter().enumerate() {
        let events: Vec<Event> = (0..size)
            .map(|row| {
                offset += 1;
                let pick = row as usize * 5 + number * 3;
                match pick % 4 {
                    0 => delete(users[pick % 11], offset % 17, offset),
                    1 => rename(users[pick % 11], users[(pick + 1) % 11], countries[pick % 7], offset % 17, offset),
                    _ => upsert(users[pick % 11], countries[pick % 7], offset % 17, offset),
                }
            })
            .collect();
        batches.push(batch(&events));
    }
    batches
}

async fn compare(spec: &ModelSpec) {
    let (mut reused, _) = prepare(spec).await.unwrap();
    reused.keep_rows();
    for (number, events) in some_batches().into_iter().enumerate() {
        let (mut fresh, _) = prepare(spec).await.unwrap();
        fresh.keep_rows();
        let again = World::default().run(&mut reused, events.clone()).await.unwrap();
        let first = World::default().run(&mut fresh, events).await.unwrap();
        assert_eq!(again.latest, first.latest, "batch {number}");
        assert_eq!(again.refused, first.refused, "batch {number}");
        assert_eq!(again.held, first.held, "batch {number}");
        assert_eq!(again.sums, first.sums, "batch {number}");
        let rows = |engine: &Engine| -> BTreeMap<String, usize> {
            engine.tables().map(|(model, rows, _)| (model.to_owned(), rows.num_rows())).collect()
        };
        assert_eq!(rows(&reused), rows(&fresh), "batch {number}");
    }
}

#[tokio::test]
async fn a_reused_plan_equals_a_fresh_one_with_a_small_lookup() {
    compare(&spec()).await;
}

/// The join that silently gave rows of older batches and dropped the unmatched ones when its plan was run twice.
#[tokio::test]
async fn a_reused_plan_equals_a_fresh_one_when_events_are_the_build_side() {
    let lookups = vec![LookupSpec { from: many_countries(), ..spec().lookups[0].clone() }];
    compare(&ModelSpec { lookups, ..spec() }).await;
}

#[tokio::test]
async fn every_row_of_every_batch_comes_through_the_join() {
    let lookups = vec![LookupSpec { from: many_countries(), ..spec().lookups[0].clone() }];
    let (mut engine, _) = prepare(&ModelSpec { lookups, ..spec() }).await.unwrap();
    engine.keep_rows();
    for (from, size) in [(0, 500), (500, 300), (800, 900), (1700, 2)] {
        let country = |offset: i64| if offset % 11 == 0 { None } else { Some("DE") };
        let events: Vec<Event> =
            (from..from + size).map(|offset| upsert("a", country(offset), offset, offset)).collect();
        World::default().run(&mut engine, batch(&events)).await.unwrap();
        let (_, enriched, _) = engine.tables().find(|(model, _, _)| *model == "enriched").unwrap();
        let mut found: Vec<i64> =
            enriched.column_by_name("_offset").unwrap().as_primitive::<Int64Type>().values().to_vec();
        found.sort_unstable();
        assert_eq!(found, (from..from + size).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn batches_larger_than_one_slice_come_through_whole() {
    let mut engine = shipped().await;
    let events: Vec<Event> = (0..20_000).map(|offset| upsert("a", Some("DE"), offset, offset)).collect();
    let evaluation = World::default().run(&mut engine, batch(&events)).await.unwrap();
    assert_eq!(evaluation.sums[0].classes.accepted, 20_000);
    assert_eq!(image_of(&evaluation.latest, 0).0.offset, 19_999);
}
