//! Verdicts say what the plan that runs does, and nothing else.

use super::*;
use crate::sql::explain::{EQUALITY, Explanation, NEWEST_ROW, TableKind, Verdict};

async fn explained(files: &[(&str, &str)]) -> Explanation {
    let (_dir, spec) = edited(files);
    let prepared = prepare(&spec).await;
    prepared.map(|(engine, _)| engine.explain()).unwrap_or_else(|faults| panic!("{faults:?}"))
}

fn verdicts<'a>(explanation: &'a Explanation, model: &str) -> &'a [Verdict] {
    &explanation.models.iter().find(|node| node.name == model).unwrap().verdicts
}

#[tokio::test]
async fn the_graph_has_every_model_with_what_it_reads_in_running_order() {
    let explanation = shipped().await.explain();
    let models: Vec<String> =
        explanation.models.iter().map(|model| format!("{} <- {}", model.name, model.reads.join(" "))).collect();
    insta::assert_snapshot!(models.join("\n"), @r"
    changes <- events
    enriched <- changes countries
    accepted <- enriched held
    latest <- accepted
    metrics <- enriched
    out_of_order <- accepted known
    ");
    let to_target: Vec<&str> =
        explanation.models.iter().filter(|model| model.reaches_target).map(|model| model.name.as_str()).collect();
    assert_eq!(to_target, ["changes", "enriched", "accepted", "latest"]);
    let lookup = explanation.tables.iter().find(|table| table.kind == TableKind::Lookup).unwrap();
    assert_eq!((lookup.name.as_str(), lookup.rows), ("countries", Some(249)));
    for model in &explanation.models {
        assert!(!model.logical.is_empty() && !model.physical.is_empty() && !model.operators.is_empty());
    }
}

#[tokio::test]
async fn the_newest_row_is_picked_by_the_rule_and_told_where_it_is_not() {
    let explanation = shipped().await.explain();
    let [verdict] = verdicts(&explanation, "latest") else { panic!("{explanation:?}") };
    assert_eq!((verdict.rule, verdict.took), (NEWEST_ROW, true));
    // Another window beside it needs all rows.
    let beside = "SELECT * EXCEPT (n, m) FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY user_id ORDER BY ts DESC, \
                  _partition DESC, _offset DESC) AS n, MIN(_offset) OVER (PARTITION BY user_id ORDER BY ts DESC, \
                  _partition DESC, _offset DESC) AS m FROM accepted) WHERE n = 1 AND m >= 0";
    let explanation = explained(&[("latest", beside)]).await;
    let [verdict] = verdicts(&explanation, "latest") else { panic!("{explanation:?}") };
    assert_eq!((verdict.rule, verdict.took), (NEWEST_ROW, false));
}

#[tokio::test]
async fn a_join_without_an_equality_is_told() {
    let sql = "SELECT c._offset, l.code FROM changes c JOIN countries l ON l.code > c.country";
    let explanation = explained(&[("pairs", sql)]).await;
    let of_pairs = verdicts(&explanation, "pairs");
    let verdict = of_pairs.iter().find(|verdict| verdict.rule == EQUALITY).unwrap_or_else(|| panic!("{of_pairs:?}"));
    assert!(!verdict.took);
    assert!(verdict.why.contains("countries, 249 rows"), "{}", verdict.why);
}

#[tokio::test]
async fn what_the_index_join_made_of_a_lookup_is_told() {
    let explanation = shipped().await.explain();
    let [verdict] = verdicts(&explanation, "enriched") else { panic!("{explanation:?}") };
    assert!(verdict.rule == "index join" && verdict.took && verdict.why.contains("countries"), "{verdict:?}");
    let sql = "SELECT c._offset, l.code FROM changes c JOIN countries l ON l.name = c.country";
    let explanation = explained(&[("names", sql)]).await;
    let [verdict] = verdicts(&explanation, "names") else { panic!("{explanation:?}") };
    assert!(verdict.rule == "index join" && !verdict.took && verdict.why.contains("countries"), "{verdict:?}");
    assert!(verdicts(&explanation, "accepted").is_empty(), "held is no lookup");
}
