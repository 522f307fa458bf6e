//! The hash operator yields what the stock window yields, and is put in where the shape is right and nowhere else.

use arrow::array::{Float64Array, Int32Array, Int64Array, StringArray};
use arrow::compute::concat_batches;
use arrow::util::display::array_value_to_string;
use datafusion::physical_plan::displayable;
use datafusion::prelude::{SessionConfig, SessionContext};
use proptest::prelude::*;

use super::*;
use crate::sql::plan;

/// A row: two key columns, two that order, one that tells rows apart.
pub(super) type Row = (Option<u8>, Option<i8>, Option<i8>, Option<i8>, i64);

pub(super) fn batches(rows: &[Row], size: usize) -> Vec<RecordBatch> {
    let batch = |rows: &[Row]| {
        let name = |row: &Row| row.0.map(|key| ["a", "", "ab", "ü"][key as usize % 4]);
        let float = |value: i8| [0.0, -0.0, f64::NAN, 1.5, f64::INFINITY][value.unsigned_abs() as usize % 5];
        let columns: [(&str, ArrayRef); 5] = [
            ("k", Arc::new(rows.iter().map(name).collect::<StringArray>())),
            ("l", Arc::new(rows.iter().map(|row| row.1.map(|key| i32::from(key % 3))).collect::<Int32Array>())),
            ("o", Arc::new(rows.iter().map(|row| row.2.map(|key| i64::from(key % 4))).collect::<Int64Array>())),
            ("p", Arc::new(rows.iter().map(|row| row.3.map(float)).collect::<Float64Array>())),
            ("id", Arc::new(rows.iter().map(|row| row.4).collect::<Int64Array>())),
        ];
        RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap()
    };
    let mut cut: Vec<RecordBatch> = rows.chunks(size).map(batch).collect();
    // Never none at all: a table needs a schema.
    cut.push(batch(&[]));
    cut
}

/// Rows of `sql` over `t` as texts, sorted, and the plan.
pub(super) async fn rows_of(session: &SessionContext, sql: &str, t: &[RecordBatch]) -> (Vec<Vec<String>>, String) {
    let table = datafusion::datasource::MemTable::try_new(t[0].schema(), vec![t.to_vec()]).unwrap();
    session.deregister_table("t").unwrap();
    session.register_table("t", Arc::new(table)).unwrap();
    let plan = session.sql(sql).await.unwrap().create_physical_plan().await.unwrap();
    let shown = displayable(plan.as_ref()).indent(true).to_string();
    let schema = plan.schema();
    let found = datafusion::physical_plan::collect(plan, session.task_ctx()).await.unwrap();
    let found = concat_batches(&schema, &found).unwrap();
    let text = |row| found.columns().iter().map(|column| array_value_to_string(column, row).unwrap()).collect();
    let mut rows: Vec<Vec<String>> = (0..found.num_rows()).map(text).collect();
    rows.sort();
    (rows, shown)
}

pub(super) fn stock() -> SessionContext {
    SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1))
}

/// `SELECT` of the first rows: what is partitioned and ordered by, and the condition.
fn newest(columns: &str, keys: &str, order: &str, condition: &str) -> String {
    format!(
        "SELECT {columns} FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY {keys} ORDER BY {order}) AS n FROM t) WHERE {condition}"
    )
}

proptest! {
    #[test]
    fn first_rows_by_hash_are_those_of_the_window(
        rows in prop::collection::vec(any::<Row>(), 0..60), size in 1_usize..20, keys in 0_usize..4, order in 0_usize..5,
    ) {
        let rows: Vec<Row> = rows.into_iter().enumerate().map(|(id, row)| (row.0, row.1, row.2, row.3, id as i64)).collect();
        let keys = ["k", "k, l", "l", "p, k"][keys];
        let order = ["o DESC, id", "o ASC NULLS FIRST, p DESC NULLS LAST, id DESC", "p, o, id", "id", "o DESC, p"][order];
        // Where rows tie, which one is first is open: only what they tie in can be compared.
        let columns = if order.contains("id") { "*" } else { "k, l, o, p" };
        let columns = if keys == "k, l" || columns == "*" { columns } else { "o, p" };
        let sql = newest(columns, keys, order, "n = 1");
        let batches = batches(&rows, size);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (expected, slow) = rows_of(&stock(), &sql, &batches).await;
            let (found, fast) = rows_of(&plan::session().unwrap(), &sql, &batches).await;
            assert!(!slow.contains("LatestExec") && fast.contains("LatestExec") && !fast.contains("SortExec"), "{fast}");
            assert_eq!(found, expected, "{sql}");
        });
    }
}

#[tokio::test]
async fn the_rule_takes_the_shapes_that_say_first_row_and_no_others() {
    let rows: Vec<Row> = (0..50).map(|id| (Some((id % 7) as u8), Some(1), Some((id % 3) as i8), None, id)).collect();
    let batches = batches(&rows, 8);
    let window = "ROW_NUMBER() OVER (PARTITION BY k ORDER BY o DESC, id)";
    let taken = [
        newest("*", "k", "o DESC, id", "n = 1"),
        newest("*", "k", "o DESC, id", "1 = n"),
        newest("*", "k", "o DESC, id", "n <= 1"),
        newest("*", "k", "o DESC, id", "n < 2"),
        newest("*", "k", "o DESC, id", "2 > n AND o > 0"),
        newest("id AS other", "k", "o DESC, id", "n = 1"),
        format!("SELECT * FROM t QUALIFY {window} = 1"),
        format!(
            "WITH numbered AS (SELECT id, k, {window} AS n FROM t) SELECT id FROM numbered WHERE n = 1 AND k <> 'a'"
        ),
    ];
    let left = [
        newest("*", "k", "o DESC, id", "n = 2"),
        newest("*", "k", "o DESC, id", "n <= 2"),
        newest("*", "k", "o DESC, id", "n >= 1"),
        newest("*", "k", "o DESC, id", "n = 1 OR o = 0"),
        newest("*", "k", "o DESC, id", "id = 1"),
        "SELECT * FROM (SELECT *, ROW_NUMBER() OVER (ORDER BY o DESC, id) AS n FROM t) WHERE n = 1".to_owned(),
        "SELECT * FROM (SELECT *, RANK() OVER (PARTITION BY k ORDER BY o DESC, id) AS n FROM t) WHERE n = 1".to_owned(),
        format!(
            "SELECT * FROM (SELECT *, {window} AS n, MIN(id) OVER (PARTITION BY k ORDER BY o DESC, id) AS m FROM t) WHERE n = 1"
        ),
        format!("SELECT id FROM (SELECT n + 0 AS m, id FROM (SELECT id, {window} AS n FROM t)) WHERE m = 1"),
    ];
    for (sql, wanted) in taken.iter().map(|sql| (sql, true)).chain(left.iter().map(|sql| (sql, false))) {
        let (expected, _) = rows_of(&stock(), sql, &batches).await;
        let (found, fast) = rows_of(&plan::session().unwrap(), sql, &batches).await;
        assert_eq!(found, expected, "{sql}");
        assert_eq!(fast.contains("LatestExec"), wanted, "{sql}\n{fast}");
    }
}

#[tokio::test]
async fn the_shipped_latest_is_taken() {
    let engine = shipped().await;
    let latest = engine.steps.iter().find(|step| step.name == "latest").unwrap();
    let shown = displayable(latest.template.as_ref()).indent(true).to_string();
    assert!(shown.contains("LatestExec: keys=[user_id@0]"), "{shown}");
}
