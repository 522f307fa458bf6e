//! Whatever the index join yields, the planner's own join yields too; and whoever writes a join is told which of them it is.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray, UInt32Array, new_null_array};
use arrow::compute::{cast, concat, concat_batches, take};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use arrow::util::pretty::pretty_format_batches;
use datafusion::prelude::SessionContext;
use proptest::prelude::*;

use super::super::lookup::LookupTable;
use super::super::lookup::slot::LookupSlot;
use super::super::plan;
use super::super::slots::Slot;
use super::{Verdict, Verdicts};

/// `l` has the key `a`, or `a` and `b`; `m` the key `a`. Both have a value `v`.
const TAKEN: [&str; 14] = [
    "SELECT e.n, l.v FROM events e LEFT JOIN l ON e.a = l.a AND e.b = l.b",
    "SELECT e.*, l.* FROM events e JOIN l ON e.a = l.a AND e.b = l.b",
    "SELECT e.n, l.v FROM l RIGHT JOIN events e ON l.b = e.b AND l.a = e.a",
    "SELECT l.v, e.n FROM l JOIN events e ON l.a = e.a AND e.b = l.b",
    "SELECT e.n, l.v FROM events e LEFT JOIN l ON e.a = l.a AND e.b = l.b AND l.v > 'd'",
    "SELECT e.n, l.v FROM events e LEFT JOIN l ON e.a = l.a AND e.b = l.b AND l.v > e.t",
    "SELECT e.n, l.v FROM events e JOIN l ON e.a = l.a AND e.b = l.b WHERE l.v <> e.t AND l.v < 'x'",
    "SELECT e.n, e.t FROM events e WHERE EXISTS (SELECT 1 FROM m WHERE m.a = e.a)",
    "SELECT e.n, e.t FROM events e WHERE NOT EXISTS (SELECT 1 FROM m WHERE m.a = e.a)",
    "SELECT e.n FROM events e WHERE e.a IN (SELECT a FROM m)",
    "SELECT e.n, m.v, l.v AS w FROM events e LEFT JOIN m ON e.a = m.a LEFT JOIN l ON l.a = e.a AND l.b = e.b",
    "SELECT e.n, m.v, l.v AS w FROM events e LEFT JOIN m ON e.a = m.a JOIN l ON l.a = m.a AND l.b = e.b",
    "SELECT e.n, p.v, q.v AS w FROM events e LEFT JOIN m p ON e.a = p.a LEFT JOIN m q ON q.a = e.a AND q.v = p.v",
    "WITH w AS (SELECT a AS k, v AS x FROM m WHERE v IS NOT NULL) SELECT e.n, w.x FROM events e LEFT JOIN w ON w.k = e.a",
];

fn kinds() -> Vec<DataType> {
    let utc = |unit| DataType::Timestamp(unit, Some("UTC".into()));
    vec![
        DataType::Utf8,
        DataType::Binary,
        DataType::Boolean,
        DataType::Int8,
        DataType::Int16,
        DataType::Int32,
        DataType::Int64,
        DataType::UInt8,
        DataType::UInt16,
        DataType::UInt32,
        DataType::UInt64,
        DataType::Date32,
        DataType::Decimal128(12, 2),
        utc(TimeUnit::Second),
        utc(TimeUnit::Nanosecond),
    ]
}

/// The values `0..` of a type, a few of them.
fn domain(kind: &DataType) -> ArrayRef {
    let numbers: ArrayRef = Arc::new(arrow::array::Int8Array::from_iter_values(0..7));
    match kind {
        DataType::Utf8 | DataType::Binary => {
            let texts: ArrayRef = Arc::new(StringArray::from(vec!["", "a", "ab", "b", "\u{e9}", "zz", "a\0"]));
            cast(&texts, kind).unwrap()
        }
        DataType::Boolean => cast(&numbers, kind).unwrap(),
        DataType::Date32 | DataType::Timestamp(..) => {
            cast(&cast(&numbers, &DataType::Int32).unwrap(), &DataType::Date32)
                .and_then(|days| cast(&days, kind))
                .unwrap()
        }
        other => cast(&numbers, other).unwrap(),
    }
}

/// A column of chosen values, NULL for `None`.
fn column(kind: &DataType, picks: impl IntoIterator<Item = Option<u32>>) -> ArrayRef {
    let values = domain(kind);
    let values = concat(&[values.as_ref(), new_null_array(kind, 1).as_ref()]).unwrap();
    let picks: UInt32Array = picks.into_iter().map(|pick| Some(pick.map_or(7, |pick| pick % 7))).collect();
    take(&values, &picks, None).unwrap()
}

fn table(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    let fields: Vec<Field> =
        columns.iter().map(|(name, values)| Field::new(*name, values.data_type().clone(), true)).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns.into_iter().map(|(_, values)| values).collect())
        .unwrap()
}

type Row = (Option<u32>, Option<u32>, Option<u32>);

/// The events of a batch: `n` counts them, `t` is a text.
fn events(kind: &DataType, rows: &[Row]) -> RecordBatch {
    let numbers = Arc::new(UInt32Array::from_iter_values(0..rows.len() as u32)) as ArrayRef;
    table(vec![
        ("n", numbers),
        ("a", column(kind, rows.iter().map(|row| row.0))),
        ("b", column(&DataType::Int32, rows.iter().map(|row| row.1))),
        ("t", column(&DataType::Utf8, rows.iter().map(|row| row.2))),
    ])
}

/// Lookups `l` and `m` from rows whose keys may be NULL or there before: those are left out. In several chunks.
fn lookups(kind: &DataType, rows: &[Row]) -> (LookupTable, LookupTable) {
    let mut seen = std::collections::HashSet::new();
    // Values of a type with few values fall together.
    let same = |pick: u32| if *kind == DataType::Boolean { u32::from(!pick.is_multiple_of(7)) } else { pick % 7 };
    let two: Vec<Row> = rows
        .iter()
        .filter(|row| row.0.zip(row.1).is_some_and(|(a, b)| seen.insert((same(a), b % 7))))
        .copied()
        .collect();
    let mut seen = std::collections::HashSet::new();
    let one: Vec<Row> = rows.iter().filter(|row| row.0.is_some_and(|a| seen.insert(same(a)))).copied().collect();
    let batch = |rows: &[Row]| {
        table(vec![
            ("a", column(kind, rows.iter().map(|row| row.0))),
            ("v", column(&DataType::Utf8, rows.iter().map(|row| row.2))),
            ("b", column(&DataType::Int32, rows.iter().map(|row| row.1))),
        ])
    };
    let chunks =
        |rows: &[Row]| -> Vec<RecordBatch> { std::iter::once(batch(&[])).chain(rows.chunks(5).map(batch)).collect() };
    let keys = ["a", "b"].map(str::to_owned);
    let built = |key: &[String], rows: &[Row]| LookupTable::from_batches("l", key, chunks(rows)).unwrap();
    (built(&keys, &two), built(&keys[..1], &one))
}

/// A session with `events`, `l` and `m`.
fn session(fast: bool, slots: &[Arc<LookupSlot>], events: &Arc<Slot>) -> SessionContext {
    let session = plan::session_with(fast).unwrap();
    plan::register(&session, events).unwrap();
    for slot in slots {
        plan::register_lookup(&session, slot).unwrap();
    }
    session
}

/// Runs one plan over each batch; yields the rows of each run, in no order, and what was noted.
async fn run(
    session: &SessionContext,
    sql: &str,
    slot: &Slot,
    batches: &[RecordBatch],
) -> (Vec<Vec<String>>, Vec<Verdict>) {
    let noted = session.state().config().get_extension::<Verdicts>().unwrap();
    let logical = session.state().create_logical_plan(sql).await.unwrap();
    noted.take();
    let template = session.state().create_physical_plan(&logical).await.unwrap();
    let mut runs = Vec::new();
    for batch in batches {
        slot.fill(&[
            batch.slice(0, batch.num_rows() / 2),
            batch.slice(batch.num_rows() / 2, batch.num_rows().div_ceil(2)),
        ]);
        let schema = template.schema();
        let rows = plan::execute(&template, &session.task_ctx(), &schema).await.unwrap();
        let mut lines: Vec<String> =
            pretty_format_batches(&[rows]).unwrap().to_string().lines().map(str::to_owned).collect();
        lines.sort();
        runs.push(lines);
    }
    (runs, noted.take())
}

fn rows(most: usize) -> impl Strategy<Value = Vec<Row>> {
    let cell = || prop_oneof![1 => Just(None), 6 => (0_u32..7).prop_map(Some)];
    proptest::collection::vec((cell(), cell(), cell()), 0..most)
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn an_index_join_yields_what_the_planners_own_join_yields(
        kind in proptest::sample::select(kinds()),
        first in rows(40), second in rows(40),
        small in rows(12), big in rows(60),
    ) {
        let batches = [events(&kind, &first), events(&kind, &second), events(&kind, &[]), events(&kind, &first)];
        for known in [&small, &big] {
            let (l, m) = lookups(&kind, known);
            let slots = [
                LookupSlot::new("l", &["a".to_owned(), "b".to_owned()], Arc::new(l)),
                LookupSlot::new("m", &["a".to_owned()], Arc::new(m)),
            ];
            let slot = Slot::new("events", batches[0].schema(), 100);
            let (fast, stock) = (session(true, &slots, &slot), session(false, &slots, &slot));
            for sql in TAKEN {
                let (quick, verdicts) = block_on(run(&fast, sql, &slot, &batches));
                let (slow, _) = block_on(run(&stock, sql, &slot, &batches));
                prop_assert_eq!(&quick, &slow, "{}", sql);
                prop_assert!(!verdicts.is_empty() && verdicts.iter().all(|it| it.took), "{}: {:?}", sql, verdicts);
            }
        }
    }
}

/// Verdicts over a lookup `l` by (a, b), `m` by a, where `a` is a 32-bit number.
async fn verdicts(sql: &str) -> Vec<(bool, String)> {
    let kind = DataType::Int32;
    let (l, m) = lookups(&kind, &[(Some(1), Some(1), Some(1)), (Some(2), Some(2), Some(2))]);
    let slots = [
        LookupSlot::new("l", &["a".to_owned(), "b".to_owned()], Arc::new(l)),
        LookupSlot::new("m", &["a".to_owned()], Arc::new(m)),
    ];
    let batch = events(&kind, &[(Some(1), Some(1), Some(1)), (None, Some(2), None)]);
    let slot = Slot::new("events", batch.schema(), 100);
    let (fast, stock) = (session(true, &slots, &slot), session(false, &slots, &slot));
    let (quick, noted) = run(&fast, sql, &slot, &[batch.clone(), batch.clone()]).await;
    let (slow, _) = run(&stock, sql, &slot, &[batch.clone(), batch]).await;
    assert_eq!(quick, slow, "{sql}");
    noted.into_iter().map(|verdict| (verdict.took, verdict.why)).collect()
}

#[tokio::test]
async fn what_cannot_go_through_the_index_says_why_and_stays_right() {
    for (sql, words) in [
        ("SELECT e.n, l.v FROM events e LEFT JOIN l ON e.a = l.a", "isn't compared: b"),
        ("SELECT e.n, m.v FROM events e LEFT JOIN m ON CAST(e.a AS BIGINT) = m.a", "is cast for the comparison"),
        ("SELECT e.n, m.v FROM events e LEFT JOIN m ON e.a = m.a + 1", "is computed"),
        ("SELECT e.n, m.v FROM m LEFT JOIN events e ON e.a = m.a", "keeps the lookup's own rows"),
        ("SELECT e.n, m.v FROM events e FULL JOIN m ON e.a = m.a", "keeps the lookup's own rows"),
        ("SELECT e.n FROM events e WHERE e.a NOT IN (SELECT a FROM m)", "NOT IN"),
        (
            "SELECT e.n, x.c FROM events e LEFT JOIN (SELECT a, COUNT(*) AS c FROM l GROUP BY a) x ON e.a = x.a",
            "grouped",
        ),
        ("SELECT e.n, (SELECT MAX(v) FROM m) AS v FROM events e", "all of its rows are read"),
        ("SELECT e.n, m.v FROM events e CROSS JOIN m", "all of its rows are read"),
        ("SELECT e.n, m.v FROM events e LEFT JOIN m ON e.a IS NOT DISTINCT FROM m.a", "IS NOT DISTINCT FROM"),
    ] {
        let found = verdicts(sql).await;
        assert!(found.iter().any(|(took, why)| !took && why.contains(words)), "{sql}: {found:?}");
    }
}

#[tokio::test]
async fn what_goes_through_the_index_is_noted_with_its_key() {
    let found = verdicts("SELECT e.n, l.v FROM events e LEFT JOIN l ON e.a = l.a AND e.b = l.b AND l.v > 'a'").await;
    assert_eq!(found, [(true, "lookup l: by a, b, with a condition".to_owned())]);
}

#[tokio::test]
async fn a_condition_that_fails_on_other_rows_of_the_lookup_fails_no_batch() {
    let found = verdicts("SELECT e.n, m.v FROM events e LEFT JOIN m ON e.a = m.a AND 10 / m.b > 1").await;
    assert!(found.iter().all(|(took, _)| *took), "{found:?}");
}

#[tokio::test]
async fn a_plan_reads_the_lookup_as_it_is_when_it_runs() {
    let kind = DataType::Int32;
    let (_, m) = lookups(&kind, &[(Some(1), Some(1), Some(1))]);
    let slot = LookupSlot::new("m", &["a".to_owned()], Arc::new(m));
    let batch = events(&kind, &[(Some(1), None, None), (Some(2), None, None)]);
    let events_slot = Slot::new("events", batch.schema(), 100);
    let session = session(true, std::slice::from_ref(&slot), &events_slot);
    let sql = "SELECT e.n, m.v FROM events e JOIN m ON e.a = m.a";
    let logical = session.state().create_logical_plan(sql).await.unwrap();
    let template = session.state().create_physical_plan(&logical).await.unwrap();
    let mut counts = Vec::new();
    for rows in [vec![], vec![(Some(1), None, Some(2)), (Some(2), None, Some(3))], vec![(Some(2), None, Some(3))]] {
        let (_, next) = lookups(&kind, &rows);
        slot.put(Arc::new(next));
        events_slot.fill(std::slice::from_ref(&batch));
        let rows = plan::execute(&template, &session.task_ctx(), &template.schema()).await.unwrap();
        counts.push(concat_batches(&template.schema(), [&rows]).unwrap().num_rows());
    }
    assert_eq!(counts, [0, 2, 1]);
}
