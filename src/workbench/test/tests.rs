use std::sync::Arc;

use arrow::array::StringArray;
use tempfile::TempDir;

use super::*;
use crate::config::{Lookup, LookupFrom};
use crate::workbench::tests::users;

/// The shipped pipeline in a folder of its own, with one file of cases.
struct Workspace {
    pipeline: Pipeline,
    folder: TempDir,
}

impl Workspace {
    fn new(cases: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let queries = folder.path().join("queries");
        std::fs::create_dir_all(queries.join("tests")).unwrap();
        let shipped = users();
        for entry in std::fs::read_dir(&shipped.queries).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                std::fs::copy(&path, queries.join(path.file_name().unwrap())).unwrap();
            }
        }
        let workspace = Self { pipeline: Pipeline { queries, ..shipped }, folder };
        std::fs::write(workspace.file(), cases).unwrap();
        workspace
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("queries/tests/case.yaml")
    }

    fn edit(&self, model: &str, from: &str, to: &str) {
        let path = self.pipeline.queries.join(model);
        let sql = std::fs::read_to_string(&path).unwrap();
        assert!(sql.contains(from), "{model} has no {from:?}");
        std::fs::write(path, sql.replace(from, to)).unwrap();
    }

    async fn run(&self) -> Report {
        run(&self.pipeline, &BTreeMap::new(), &Options::default()).await
    }
}

const GIVEN: &str = r#"given:
  events:
    - {op: c, after: {userId: "1", name: Ada, country: DE}, timestamp: 1700000001000}
    - {op: c, after: {userId: "2", name: Bob, country: XX}, timestamp: 1700000002000}
    - {op: d, before: {userId: "3"}, timestamp: 1700000003000}
    - {op: u, after: {userId: "1", name: late, points: 3}, timestamp: 1700000000000}
"#;

/// What `--update` does; the run before it, and whether the file changed.
async fn update(workspace: &Workspace) -> (Report, std::io::Result<bool>) {
    let options = Options { update: true, ..Options::default() };
    let report = run(&workspace.pipeline, &BTreeMap::new(), &options).await;
    let cases: Vec<&CaseReport> = report.cases.iter().collect();
    let changed = update::rewrite(&workspace.file(), &cases);
    (report, changed)
}

/// What is wrong, a line per row: section, what, and the columns that differ.
fn wrong(report: &Report) -> Vec<String> {
    assert_eq!(report.faults, []);
    let failures = report.cases.iter().flat_map(|case| &case.failures);
    failures
        .flat_map(|failure| match failure {
            Failure::Section(section) => section
                .rows
                .iter()
                .map(|row| {
                    let names: Vec<&str> = row.differs.iter().map(|place| section.columns[*place].as_str()).collect();
                    format!("{} {} {}", section.title, row.what, names.join(",")).trim_end().to_owned()
                })
                .collect(),
            Failure::Error { expected, found, .. } => vec![format!("error {expected:?} {found:?}")],
            Failure::Cut(diff) => vec![format!("cut {}", diff.cut)],
        })
        .collect()
}

#[tokio::test]
async fn whatever_comes_otherwise_than_expected_is_found_and_nothing_else() {
    let good = r#"  models:
    - model: enriched
      rows:
        - {user_id: "1", name: Ada, country_name: Germany}
        - {user_id: "2"}
        - {user_id: "3", _deleted: true}
        - {user_id: "1", name: late}
  table:
    - {user_id: "1", name: Ada, region: Europe, cdc_ts: 1700000001000, cdc_offset: 0}
  tombstones: ["3"]
  quarantine:
    - {offset: 1, state: refused, stage: model, reason: COUNTRY, keys: ["2"]}
  out_of_order:
    - {offset: 3, user_id: "1", ts: 1700000000000, known_ts: 1700000001000, known_offset: 0}
  sums:
    0: {read: 4, refused: 1, accepted: 3, changes: 3}
  unmapped: {points: 1}
"#;
    let tampers = [
        ("country_name: Germany", "country_name: France", "model enriched different country_name"),
        ("        - {user_id: \"2\"}\n", "", "model enriched unexpected"),
        ("name: Ada, region: Europe", "name: Eva, region: Asia", "table different name,region"),
        ("region: Europe", "region: null", "table different region"),
        ("cdc_ts: 1700000001000", "cdc_ts: 1700000001001", "table different cdc_ts"),
        ("  table:\n", "  table:\n    - {user_id: \"9\"}\n", "table missing"),
        ("tombstones: [\"3\"]", "tombstones: []", "tombstones unexpected"),
        ("state: refused", "state: held", "quarantine different state"),
        ("reason: COUNTRY", "reason: region", "quarantine different reason"),
        ("keys: [\"2\"]", "keys: [\"2\", \"3\"]", "quarantine different keys"),
        ("offset: 1, state", "offset: 2, state", "quarantine missing"),
        ("known_offset: 0", "known_offset: 1", "out_of_order different known_offset"),
        ("ts: 1700000000000, known", "ts: 1700000000001, known", "out_of_order different ts"),
        ("refused: 1", "refused: 2", "sums different refused"),
        ("points: 1", "points: 2", "unmapped different events"),
        ("unmapped: {points: 1}", "unmapped: {}", "unmapped unexpected"),
        ("  unmapped", "  error: boo\n  unmapped", "error Some(\"boo\") None"),
    ];
    let workspace = Workspace::new(&format!("{GIVEN}expect:\n{good}"));
    assert_eq!(wrong(&workspace.run().await), Vec::<String>::new());
    for (from, to, expected) in tampers {
        let tampered = good.replacen(from, to, 1);
        assert_ne!(tampered, good, "{from}");
        std::fs::write(workspace.file(), format!("{GIVEN}expect:\n{tampered}")).unwrap();
        let found = wrong(&workspace.run().await);
        assert!(found.first().is_some_and(|line| line == expected) && found.len() <= 2, "{to}: {found:?}");
    }
}

#[tokio::test]
async fn a_row_that_says_little_leaves_the_others_their_rows() {
    let rows = |first: &str, second: &str| {
        format!(
            "{GIVEN}expect:\n  models:\n    - model: changes\n      rows:\n        - {first}\n        - {second}\n        - {{}}\n        - {{}}\n"
        )
    };
    // Whichever is asked first: the row of Ada must go to the one that can take no other.
    for (first, second) in [("{user_id: \"1\"}", "{name: Ada}"), ("{name: Ada}", "{user_id: \"1\"}")] {
        let workspace = Workspace::new(&rows(first, second));
        assert_eq!(wrong(&workspace.run().await), Vec::<String>::new());
    }
    let workspace = Workspace::new(&rows("{name: Ada}", "{name: Ada, user_id: \"1\"}"));
    let found = wrong(&workspace.run().await);
    assert_eq!(found, ["model changes missing", "model changes unexpected"], "one row can't be two");
}

#[tokio::test]
async fn order_counts_where_it_is_asked_for() {
    let case = |ordered: bool, rows: [&str; 3]| {
        let rows: String = rows.iter().map(|row| format!("        - {row}\n")).collect();
        format!("{GIVEN}expect:\n  models:\n    - model: accepted\n      ordered: {ordered}\n      rows:\n{rows}")
    };
    let (ada, late, gone) = ("{user_id: \"1\", name: Ada}", "{name: late}", "{user_id: \"3\"}");
    assert_eq!(wrong(&Workspace::new(&case(true, [ada, late, gone])).run().await), Vec::<String>::new());
    assert_eq!(wrong(&Workspace::new(&case(false, [gone, late, ada])).run().await), Vec::<String>::new());
    let found = wrong(&Workspace::new(&case(true, [gone, late, ada])).run().await);
    assert_eq!(found, ["model accepted different user_id", "model accepted different user_id,name"]);
}

#[tokio::test]
async fn a_model_that_depends_on_the_cut_is_caught_by_other_cuts_alone() {
    let case = r#"given:
  batches:
    - - {op: c, after: {userId: "1", name: Ada}, timestamp: 1700000002000}
      - {op: u, after: {userId: "1", name: late}, timestamp: 1700000001000}
expect:
  out_of_order:
    - {offset: 1, user_id: "1"}
"#;
    let workspace = Workspace::new(case);
    // Evidence only against events of the same batch.
    workspace.edit("out_of_order.sql", "WHERE ts < earlier_ts OR ts < _known_ts", "WHERE ts < earlier_ts");
    assert_eq!(
        wrong(&workspace.run().await),
        Vec::<String>::new(),
        "the cut that is written comes to what is expected"
    );
    let options = Options { rebatch: Some(7), ..Options::default() };
    let report = run(&workspace.pipeline, &BTreeMap::new(), &options).await;
    assert_eq!(wrong(&report), ["cut one event per batch"]);
    let Failure::Cut(diff) = &report.cases[0].failures[0] else { panic!("{report:?}") };
    assert_eq!(diff.batches, "0@0 | 0@1");
    assert!(
        diff.lines.len() == 1 && diff.lines[0].starts_with("out of order partition 0 offset 1"),
        "{:?}",
        diff.lines
    );
}

#[tokio::test]
async fn a_failing_case_is_a_fault_for_whoever_takes_up_an_edit() {
    let workspace = Workspace::new(&format!("{GIVEN}expect:\n  table:\n    - {{user_id: \"1\", name: Eve}}\n"));
    let faults = workspace.run().await.into_faults();
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert_eq!(faults[0].code, fixture::code::FAILS);
    assert_eq!(faults[0].message, "the case users/case fails: table, a row is different in name");
    assert_eq!(faults[0].span.map(|span| (span.line, span.column)), Some((9, 28)));
    workspace.edit("changes.sql", "after.name    AS name", "'Eve'         AS name");
    assert_eq!(workspace.run().await.into_faults(), []);
}

// Proves: P1
#[tokio::test]
async fn the_shipped_cases_pass_with_every_cut() {
    let options = Options { rebatch: Some(1), ..Options::default() };
    let report = run(&users(), &BTreeMap::new(), &options).await;
    assert_eq!(wrong(&report), Vec::<String>::new());
    assert!(report.cases.len() >= 30, "{}", report.cases.len());
}

#[tokio::test]
async fn a_lookup_that_is_given_is_gone_with_its_case() {
    let case = |name: &str, lookups: &str, country: &str| {
        format!(
            "  - name: {name}\n    given:\n      {lookups}\n      events:\n        - {{op: c, after: {{userId: \"1\", country: DE}}, timestamp: 1}}\n    \
             expect:\n      table:\n        - {{user_id: \"1\", country_name: {country}}}\n"
        )
    };
    let first = case("given", "lookups: {countries: [{code: DE, name: Here}]}", "Here");
    let workspace = Workspace::new(&format!("cases:\n{first}{}", case("configured", "held: []", "Germany")));
    assert_eq!(wrong(&workspace.run().await), Vec::<String>::new());
    let twice = case("given", "lookups: {countries: [{code: DE, name: Here}, {code: DE}]}", "Here");
    std::fs::write(workspace.file(), format!("cases:\n{twice}")).unwrap();
    let report = workspace.run().await;
    assert_eq!(report.faults.iter().map(|fault| fault.code).collect::<Vec<_>>(), [fixture::code::LOOKUP]);
    assert!(report.faults[0].span.is_some() && !report.good());
}

#[tokio::test]
async fn a_lookup_that_is_in_no_file_must_be_given_or_known() {
    let text = "given:\n  events:\n    - {op: c, after: {userId: \"1\", country: DE}, timestamp: 1}\nexpect:\n  table:\n    - {user_id: \"1\", country_name: Here}\n";
    let mut workspace = Workspace::new(text);
    let from = LookupFrom::MySql { query: "SELECT 1".into(), refresh: Duration::from_secs(60) };
    workspace.pipeline.lookups.insert("countries".into(), Lookup { from, key: vec!["code".into()] });
    let report = workspace.run().await;
    assert_eq!(report.faults.iter().map(|fault| fault.code).collect::<Vec<_>>(), [fixture::code::LOOKUP]);
    let text_of = |texts: [&str; 1]| Arc::new(StringArray::from(texts.to_vec())) as arrow::array::ArrayRef;
    let columns = [("code", text_of(["DE"])), ("name", text_of(["Here"])), ("region", text_of([""]))];
    let known = BTreeMap::from([("countries".to_owned(), RecordBatch::try_from_iter(columns).unwrap())]);
    assert_eq!(wrong(&run(&workspace.pipeline, &known, &Options::default()).await), Vec::<String>::new());
    let given = text.replace("given:\n", "given:\n  lookups: {countries: [{code: DE, name: Here, region: null}]}\n");
    std::fs::write(workspace.file(), given).unwrap();
    assert_eq!(wrong(&workspace.run().await), Vec::<String>::new());
}

#[tokio::test]
async fn update_changes_what_differs_and_not_a_byte_more() {
    let before = format!(
        r#"# head
about: x   # y
{GIVEN}
expect:
  # the table
  table:
    # first
    - {{user_id: "1", name: Eve}}   # behind
    - {{user_id: "4", name: gone}}
    # last
    - user_id: "5"   # gone, too
      name: x
  tombstones: []   # none
  sums:
    0: {{read: 9,   accepted: 3}}
  unmapped: {{points: 1}}
# tail
"#
    );
    let expected = before
        .replace("name: Eve", "name: Ada")
        .replace("    - {user_id: \"4\", name: gone}\n", "")
        .replace("    - user_id: \"5\"   # gone, too\n      name: x\n", "")
        .replace("tombstones: []   # none", "tombstones:\n    - \"3\"   # none")
        .replace("read: 9", "read: 4");
    let workspace = Workspace::new(&before);
    let report = workspace.run().await;
    assert!(!report.good());
    let cases: Vec<&CaseReport> = report.cases.iter().collect();
    assert!(update::rewrite(&workspace.file(), &cases).unwrap());
    assert_eq!(std::fs::read_to_string(workspace.file()).unwrap(), expected);
    let report = workspace.run().await;
    assert_eq!(wrong(&report), Vec::<String>::new());
    let cases: Vec<&CaseReport> = report.cases.iter().collect();
    assert!(!update::rewrite(&workspace.file(), &cases).unwrap(), "what passes isn't touched");
}

#[tokio::test]
async fn update_mends_what_is_expected_of_a_pipeline_that_should_stop() {
    let text = format!(
        "on_error: stop\n{GIVEN}expect:\n  error: COUNTRY\n  table:\n    - {{user_id: \"9\"}}\n  tombstones: []\n"
    );
    let workspace = Workspace::new(&text);
    let report = workspace.run().await;
    assert_eq!(wrong(&report), ["table missing"]);
    let cases: Vec<&CaseReport> = report.cases.iter().collect();
    assert!(update::rewrite(&workspace.file(), &cases).unwrap());
    assert_eq!(wrong(&workspace.run().await), Vec::<String>::new());
}

#[tokio::test]
async fn update_takes_columns_that_are_gone_out_of_rows_however_they_are_written() {
    let event = r#"{op: c, after: {userId: "1", name: Ada, country: DE}, timestamp: 1700000001000}"#;
    let text = |given: &str, rows: &str, enriched: &str| {
        format!(
            "given:\n  table:\n{given}  events:\n    - {event}\nexpect:\n  table:\n{rows}  models:\n    - model: enriched\n      rows:\n{enriched}"
        )
    };
    let before = text(
        "    - {gone: {a: [x, \"}\"]}, user_id: \"8\", email: null} # given\n    - user_id: \"9\"\n      gone: |  # text\n        of: two\n\n        lines\n      # about the name\n      name: Bob\n",
        concat!(
            "    - {user_id: \"1\",  # the user\n       gone: 1,  # goes\n       # stays\n       name: Eve, gone three, # Ada\n       region: Europe,   \"gone too\":   2 }\n",
            "    - {user_id: \"8\", gone: x, 'gone too': 'y', region: null,}\n",
            "    - gone: x # goes\n      # stays, too\n      user_id: \"9\" # nine\n      gone too:\n      name: Bob\n",
        ),
        "        - {gone: 1, gone too}   # a row\n",
    );
    let after = text(
        "    - {user_id: \"8\", email: null} # given\n    - user_id: \"9\"\n      # about the name\n      name: Bob\n",
        concat!(
            "    - {user_id: \"1\",  # the user\n       # stays\n       name: Ada, # Ada\n       region: Europe }\n",
            "    - {user_id: \"8\", region: null,}\n",
            "    -\n      # stays, too\n      user_id: \"9\" # nine\n      name: Bob\n",
        ),
        "        - WHOLE   # a row\n",
    );
    for (before, after) in
        [(before.clone(), after.clone()), (before.replace('\n', "\r\n"), after.replace('\n', "\r\n"))]
    {
        let workspace = Workspace::new(&before);
        assert!(workspace.run().await.faults.iter().all(|fault| fault.code == fixture::code::UNKNOWN_COLUMN));
        assert!(!workspace.run().await.good(), "without --update they are faults");
        let (report, changed) = update(&workspace).await;
        assert_eq!(report.faults, []);
        assert!(changed.unwrap());
        let updated = std::fs::read_to_string(workspace.file()).unwrap();
        let (start, end) = after.split_once("WHOLE").unwrap();
        let whole = updated.strip_prefix(start).and_then(|rest| rest.strip_suffix(end));
        assert!(whole.is_some_and(|row| row.contains("country_name: Germany") && row.starts_with('{')), "{updated}");
        assert_eq!(wrong(&workspace.run().await), Vec::<String>::new(), "{updated}");
    }
}

#[tokio::test]
async fn update_guesses_nothing_about_misspelt_columns_keys_and_odd_rows() {
    let case = |row: &str| format!("{GIVEN}expect:\n  table:\n    - {row}\n  quarantine: []\n");
    for (row, codes) in [
        ("{user_id: \"1\", nmae: Ada}", vec![fixture::code::UNKNOWN_COLUMN]),
        ("{user_id: \"1\", gone: x, contry: DE}", vec![fixture::code::UNKNOWN_COLUMN]),
        ("{uid: \"1\", name: Ada}", vec![fixture::code::UNKNOWN_COLUMN, fixture::code::KEY]),
    ] {
        let workspace = Workspace::new(&case(row));
        let (report, changed) = update(&workspace).await;
        assert_eq!(report.faults.iter().map(|fault| fault.code).collect::<Vec<_>>(), codes, "{row}");
        assert!(report.cases.is_empty() && !changed.unwrap(), "{row}");
    }
    let odd = case("? gone\n      : x\n      user_id: \"1\"");
    let workspace = Workspace::new(&odd);
    let (report, changed) = update(&workspace).await;
    assert_eq!(report.faults, []);
    assert!(changed.unwrap_err().to_string().ends_with("take gone out by hand"));
    assert_eq!(std::fs::read_to_string(workspace.file()).unwrap(), odd);
}

#[test]
fn names_are_chosen_by_parts_and_by_stars() {
    let options = |filters: &[&str], exact| Options {
        filters: filters.iter().map(|filter| (*filter).to_owned()).collect(),
        exact,
        ..Options::default()
    };
    assert!(options(&[], false).chooses("users", "create"));
    assert!(options(&["x", "reat"], false).chooses("users", "create"));
    assert!(options(&["users/*_delete"], false).chooses("users", "create_delete"));
    assert!(!options(&["delete*create"], false).chooses("users", "create_delete"));
    assert!(options(&["create"], true).chooses("users", "create"));
    assert!(options(&["users/create"], true).chooses("users", "create"));
    assert!(!options(&["create"], true).chooses("users", "create_delete"));
}
