//! Verdicts say what the plan that runs does, and nothing else.

use super::*;
use crate::sql::explain::{EQUALITY, Explanation, INDEX_JOIN, NEWEST_ROW, TableKind, Verdict};

async fn explained(files: &[(&str, &str)]) -> Explanation {
    let (_dir, spec) = edited(files);
    let prepared = prepare(&spec).await;
    prepared.map(|(engine, _)| engine.explain()).unwrap()
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
    // RANK ties are kept by a filter, which the rule can't tell from ROW_NUMBER's: a number computed from it isn't plain.
    let computed = "SELECT * EXCEPT (n) FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY user_id ORDER BY ts DESC, \
                    _partition DESC, _offset DESC) + 0 AS n FROM accepted) WHERE n = 1";
    let explanation = explained(&[("latest", computed)]).await;
    let [verdict] = verdicts(&explanation, "latest") else { panic!("{explanation:?}") };
    assert_eq!((verdict.rule, verdict.took), (NEWEST_ROW, false));
}

#[tokio::test]
async fn a_join_without_an_equality_is_told() {
    let sql = "SELECT c._offset, l.code FROM changes c JOIN countries l ON l.code > c.country";
    let explanation = explained(&[("pairs", sql)]).await;
    let [verdict] = verdicts(&explanation, "pairs") else { panic!("{explanation:?}") };
    assert_eq!((verdict.rule, verdict.took), (EQUALITY, false));
    assert!(verdict.why.contains("countries, 249 rows"), "{}", verdict.why);
}

#[tokio::test]
async fn a_join_with_a_lookup_by_something_else_than_its_key_grows_with_the_lookup() {
    let sql = "SELECT c._offset, l.code FROM changes c JOIN countries l ON l.name = c.country";
    let explanation = explained(&[("names", sql)]).await;
    let [verdict] = verdicts(&explanation, "names") else { panic!("{explanation:?}") };
    assert_eq!((verdict.rule, verdict.took), (INDEX_JOIN, false));
    assert!(verdict.why.contains("countries"), "{}", verdict.why);
    assert!(verdicts(&explanation, "accepted").is_empty(), "held is no lookup");
}
