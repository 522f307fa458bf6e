//! Running extremes by hash are what the stock windows yield, and are put in where the shape is right and nowhere else.

use proptest::prelude::*;

use super::latest_rule::{Row, batches, rows_of, stock};
use super::*;
use crate::sql::plan;

/// A window: what is computed, its keys, its order and how far it reaches.
fn window(value: &str, keys: &str, order: &str, frame: &str) -> String {
    format!("{value} OVER (PARTITION BY {keys} ORDER BY {order} {frame})")
}

const UP_TO_THIS: &str = "ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW";
const BEFORE: &str = "ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING";

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn running_extremes_by_hash_are_those_of_the_windows(
        rows in prop::collection::vec(any::<Row>(), 0..60), size in 1_usize..20, keys in 0_usize..3, order in 0_usize..3,
    ) {
        let rows: Vec<Row> = rows.into_iter().enumerate().map(|(id, row)| (row.0, row.1, row.2, row.3, id as i64)).collect();
        let keys = ["k", "k, l", "p, k"][keys];
        let order = ["id", "o DESC, id", "p NULLS FIRST, o, id DESC"][order];
        let columns = [
            window("MAX(o)", keys, order, BEFORE),
            window("MIN(k)", keys, order, UP_TO_THIS),
            window("MAX(CASE WHEN o > 1 THEN id END)", keys, order, BEFORE),
        ];
        let sql = format!("SELECT *, {} AS a, {} AS b, {} AS c FROM t", columns[0], columns[1], columns[2]);
        // Windows over windows, as in `out_of_order`.
        let nested = format!("SELECT *, {} AS d FROM ({sql})", window("MAX(a)", keys, order, UP_TO_THIS));
        let batches = batches(&rows, size);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            for sql in [sql, nested] {
                let (expected, slow) = rows_of(&stock(), &sql, &batches).await;
                let (found, fast) = rows_of(&plan::session().unwrap(), &sql, &batches).await;
                assert!(slow.contains("WindowAgg") && !fast.contains("WindowAgg") && !fast.contains("SortExec"), "{fast}");
                assert_eq!(found, expected, "{sql}");
            }
        });
    }
}

#[tokio::test]
async fn the_rule_takes_running_extremes_and_no_other_windows() {
    let rows: Vec<Row> =
        (0..50).map(|id| (Some((id % 7) as u8), Some(1), Some((id % 3) as i8), Some((id % 5) as i8), id)).collect();
    let batches = batches(&rows, 8);
    let (k, id) = ("k", "o, id");
    let taken = [
        window("MAX(o)", k, id, UP_TO_THIS),
        window("MIN(o)", k, id, BEFORE),
        window("MAX(k)", "l", id, "ROWS UNBOUNDED PRECEDING"),
    ];
    let left = [
        window("MAX(p)", k, id, BEFORE),
        window("SUM(o)", k, id, BEFORE),
        window("COUNT(DISTINCT o)", k, id, BEFORE),
        window("MAX(o) FILTER (WHERE o > 1)", k, id, BEFORE),
        window("MAX(o)", k, id, "ROWS BETWEEN UNBOUNDED PRECEDING AND 2 PRECEDING"),
        window("MAX(o)", k, id, "ROWS BETWEEN 3 PRECEDING AND CURRENT ROW"),
        window("MAX(o)", k, id, "ROWS BETWEEN UNBOUNDED PRECEDING AND 1 FOLLOWING"),
        window("MAX(o)", k, id, "RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW"),
        window("MAX(o)", k, "o", "GROUPS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW"),
        window("FIRST_VALUE(id)", k, id, UP_TO_THIS),
        format!("MAX(o) OVER (ORDER BY id {BEFORE})"),
    ];
    for (column, wanted) in taken.iter().map(|it| (it, true)).chain(left.iter().map(|it| (it, false))) {
        let sql = format!("SELECT *, {column} AS it FROM t");
        let (expected, _) = rows_of(&stock(), &sql, &batches).await;
        let (found, fast) = rows_of(&plan::session().unwrap(), &sql, &batches).await;
        assert_eq!(found, expected, "{sql}");
        assert_eq!(fast.contains("RunningExec"), wanted, "{sql}\n{fast}");
    }
}

#[tokio::test]
async fn the_shipped_out_of_order_is_taken() {
    let engine = shipped().await;
    let step = engine.steps.iter().find(|step| step.name == "out_of_order").unwrap();
    let shown = datafusion::physical_plan::displayable(step.template.as_ref()).indent(true).to_string();
    assert_eq!(shown.matches("RunningExec").count(), 2, "{shown}");
    assert!(!shown.contains("WindowAgg") && !shown.contains("SortExec"), "{shown}");
}
