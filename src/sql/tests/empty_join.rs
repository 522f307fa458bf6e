//! An outer join yields the same rows whether its optional side happens to be empty or not, run after run.

use arrow::util::display::array_value_to_string;
use datafusion::datasource::MemTable;
use datafusion::physical_plan::displayable;
use proptest::prelude::*;

use super::latest_rule::{Row, batches, stock};
use super::*;
use crate::sql::plan;
use crate::sql::slots::Slot;

fn texts(rows: &RecordBatch) -> Vec<Vec<String>> {
    let text = |row| rows.columns().iter().map(|column| array_value_to_string(column, row).unwrap()).collect();
    let mut texts: Vec<Vec<String>> = (0..rows.num_rows()).map(text).collect();
    texts.sort();
    texts
}

/// The rows of `sql` over `e` and `h`, by plans that know nothing of slots.
async fn expected(sql: &str, e: &[RecordBatch], h: &[RecordBatch]) -> Vec<Vec<String>> {
    let session = stock();
    for (name, rows) in [("e", e), ("h", h)] {
        let table = MemTable::try_new(rows[0].schema(), vec![rows.to_vec()]).unwrap();
        session.register_table(name, Arc::new(table)).unwrap();
    }
    let plan = session.sql(sql).await.unwrap().create_physical_plan().await.unwrap();
    let schema = plan.schema();
    let found = datafusion::physical_plan::collect(plan, session.task_ctx()).await.unwrap();
    texts(&arrow::compute::concat_batches(&schema, &found).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn joins_yield_what_they_would_without_the_rule(
        rows in prop::collection::vec(any::<Row>(), 0..40), held in prop::collection::vec(any::<Row>(), 1..10), size in 1_usize..20,
    ) {
        let (e, h) = (batches(&rows, size), batches(&held, 4));
        let none = vec![h[0].slice(0, 0)];
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            for sql in [
                "SELECT e.* FROM e LEFT JOIN h ON h.k = e.k AND h.l = e.l WHERE h.o IS NULL OR e.o < h.o",
                "SELECT h.o, e.id, h.k, e.k FROM h RIGHT JOIN e ON h.k = e.k",
                "SELECT e.id FROM e LEFT JOIN h ON h.k = e.k AND h.o < e.o",
                "SELECT * FROM e LEFT JOIN h ON h.k = e.k WHERE e.o > 0",
            ] {
                let session = plan::session().unwrap();
                // The optional side is expected to be the small one in one session, the large one in the other.
                for (few, many) in [(8, 100_000), (100_000, 8)] {
                    let slots = [("e", &e, many), ("h", &h, few)].map(|(name, rows, size)| Slot::new(name, rows[0].schema(), size));
                    for slot in &slots {
                        session.deregister_table(slot.name()).unwrap();
                        plan::register(&session, slot).unwrap();
                    }
                    let template = session.sql(sql).await.unwrap().create_physical_plan().await.unwrap();
                    let shown = displayable(template.as_ref()).indent(true).to_string();
                    assert!(shown.contains("EmptyJoinExec"), "{shown}");
                    slots[0].fill(&e);
                    for h in [&none, &h, &none] {
                        slots[1].fill(h);
                        let found = plan::execute(&template, &session.task_ctx(), &template.schema()).await.unwrap();
                        assert_eq!(texts(&found), expected(sql, &e, h).await, "{sql}");
                    }
                }
            }
        });
    }
}

#[tokio::test]
async fn inner_joins_and_joins_that_keep_the_other_side_are_left_alone() {
    let session = plan::session().unwrap();
    let rows = batches(&[(Some(1), None, None, None, 0)], 1);
    for name in ["e", "h"] {
        plan::register(&session, &Slot::new(name, rows[0].schema(), 10)).unwrap();
    }
    for join in ["JOIN", "FULL JOIN", "LEFT ANTI JOIN", "LEFT SEMI JOIN"] {
        let sql = format!("SELECT e.id FROM e {join} h ON h.k = e.k");
        let plan = session.sql(&sql).await.unwrap().create_physical_plan().await.unwrap();
        assert!(!displayable(plan.as_ref()).indent(true).to_string().contains("EmptyJoinExec"), "{sql}");
    }
}

#[tokio::test]
async fn the_shipped_accepted_is_taken() {
    let engine = shipped().await;
    let step = engine.steps.iter().find(|step| step.name == "accepted").unwrap();
    let shown = displayable(step.template.as_ref()).indent(true).to_string();
    assert!(shown.contains("EmptyJoinExec: held"), "{shown}");
}
