//! Lookup files and their faults.

use super::*;

async fn with_file(name: &str, content: &str) -> Result<Engine, Vec<Diagnostic>> {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), name, content);
    let lookups = vec![LookupSpec { name: "countries".into(), key: vec!["code".into()], from: LookupFrom::File(path) }];
    prepare(&ModelSpec { lookups, ..spec() }).await.map(|(engine, _)| engine)
}

async fn faults(name: &str, content: &str) -> Vec<(&'static str, Option<usize>, String)> {
    let found = with_file(name, content).await.unwrap_err();
    found.into_iter().map(|fault| (fault.code, fault.span.map(|span| span.line), fault.message)).collect()
}

#[tokio::test]
async fn csv_columns_are_text_and_empty_is_null() {
    let mut engine = with_file("it.csv", "code,name,region\n007,\"Bond, James\",\nDE,Germany,Europe\n").await.unwrap();
    let mut world = World::default();
    world.run(&mut engine, batch(&[upsert("a", Some("007"), 1, 0), upsert("b", Some("7"), 1, 1)])).await.unwrap();
    assert_eq!(world.table["a"].1.as_deref(), Some("Name|-|007|Bond, James|-"));
    assert!(!world.table.contains_key("b"));
}

#[tokio::test]
async fn ndjson_is_read_too() {
    let lines = "{\"code\":\"DE\",\"name\":\"Germany\",\"region\":null}\n{\"code\":\"FR\",\"name\":\"France\",\"region\":\"Europe\"}\n";
    let mut engine = with_file("it.ndjson", lines).await.unwrap();
    let mut world = World::default();
    world.run(&mut engine, batch(&[upsert("a", Some("DE"), 1, 0)])).await.unwrap();
    assert_eq!(world.table["a"].1.as_deref(), Some("Name|-|DE|Germany|-"));
}

#[tokio::test]
async fn parquet_is_read_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("it.parquet");
    let column = |value: &str| Arc::new(StringArray::from(vec![value])) as ArrayRef;
    let rows =
        RecordBatch::try_from_iter([("code", column("DE")), ("name", column("Germany")), ("region", column("Europe"))])
            .unwrap();
    let file = std::fs::File::create(&path).unwrap();
    let mut writer = parquet::arrow::ArrowWriter::try_new(file, rows.schema(), None).unwrap();
    writer.write(&rows).unwrap();
    writer.close().unwrap();
    let lookups = vec![LookupSpec { from: LookupFrom::File(path), ..spec().lookups[0].clone() }];
    let (mut engine, _) = prepare(&ModelSpec { lookups, ..spec() }).await.unwrap();
    let mut world = World::default();
    world.run(&mut engine, batch(&[upsert("a", Some("DE"), 1, 0)])).await.unwrap();
    assert_eq!(world.table["a"].1.as_deref(), Some("Name|-|DE|Germany|Europe"));
}

#[tokio::test]
async fn a_key_that_stands_there_twice_or_is_empty_is_refused_with_its_line() {
    let found = faults("it.csv", "code,name,region\nDE,a,b\n,c,d\nFR,e,f\nDE,g,h\n").await;
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!((found[0].0, found[0].1), ("AI0305", Some(3)));
    assert_eq!((found[1].0, found[1].1), ("AI0304", Some(5)));
    assert!(found[1].2.contains("line 5") && found[1].2.contains("line 2"), "{}", found[1].2);
}

#[tokio::test]
async fn every_broken_line_is_named() {
    let found = faults("it.csv", "code,name,region\nDE,a\nFR,b,c\nJP,a,b,c\n").await;
    assert_eq!(
        found.iter().map(|fault| (fault.0, fault.1)).collect::<Vec<_>>(),
        [("AI0302", Some(2)), ("AI0302", Some(4))]
    );
}

#[tokio::test]
async fn a_missing_file_or_key_column_is_one_fault_and_not_an_echo_in_each_model() {
    let found = faults("it.csv", "cod,name,region\nDE,a,b\n").await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].0, "AI0303");
    let lookups = vec![LookupSpec { from: LookupFrom::File("/nowhere/it.csv".into()), ..spec().lookups[0].clone() }];
    let found = prepare(&ModelSpec { lookups, ..spec() }).await.unwrap_err();
    assert_eq!(found.iter().map(|fault| fault.code).collect::<Vec<_>>(), ["AI0301"]);
}

#[tokio::test]
async fn a_lookup_that_comes_back_wrong_leaves_the_old_rows() {
    let mut engine = shipped().await;
    let column = |values: Vec<&str>| Arc::new(StringArray::from(values)) as ArrayRef;
    let table = |names: [&str; 3], codes: Vec<&str>| {
        RecordBatch::try_from_iter(names.map(|name| (name, column(codes.clone())))).unwrap()
    };
    let code = |result: Result<bool, Vec<Diagnostic>>| result.unwrap_err()[0].code;
    assert_eq!(code(engine.set_lookup("countries", table(["code", "name", "area"], vec!["DE"]))), "AI0306");
    assert_eq!(code(engine.set_lookup("countries", table(["code", "name", "region"], vec!["DE", "DE"]))), "AI0304");
    assert_eq!(code(engine.set_lookup("currencies", table(["code", "name", "region"], vec!["DE"]))), "AI0301");
    let mut world = World::default();
    world.run(&mut engine, batch(&[upsert("a", Some("DE"), 1, 0)])).await.unwrap();
    assert_eq!(world.table["a"].1.as_deref(), Some("Name|-|DE|Germany|Europe"));
}

#[tokio::test]
async fn a_file_is_read_again_when_asked() {
    let mut engine = shipped().await;
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "it.csv", "code,name,region\nXX,Xanadu,Nowhere\n");
    assert_eq!(engine.reload_lookup("countries", &path), Ok(true));
    assert_eq!(engine.reload_lookup("countries", &path), Ok(false));
    let mut world = World::default();
    world.run(&mut engine, batch(&[upsert("a", Some("XX"), 1, 0)])).await.unwrap();
    assert_eq!(world.table["a"].1.as_deref(), Some("Name|-|XX|Xanadu|Nowhere"));
}

#[test]
fn the_shipped_countries_are_all_there() {
    let text = std::fs::read_to_string(repository().join("queries/users/lookups/countries.csv")).unwrap();
    let codes: HashSet<&str> = text.lines().skip(1).filter_map(|line| line.split(',').next()).collect();
    assert_eq!(codes.len(), 249);
    assert!(codes.iter().all(|code| code.len() == 2 && code.bytes().all(|byte| byte.is_ascii_uppercase())));
    assert!(text.lines().any(|line| line == "DE,Germany,Europe"));
}

#[tokio::test]
async fn a_damaged_parquet_file_is_refused_or_read_and_never_a_panic() {
    let column = |name: &str| {
        let values = (0..300).map(|row| (row % 7 > 0).then(|| format!("{name} {row}")));
        Arc::new(values.collect::<StringArray>()) as ArrayRef
    };
    let numbers = Arc::new(Int64Array::from_iter_values(0..300)) as ArrayRef;
    let rows = RecordBatch::try_from_iter_with_nullable([
        ("code", numbers, false),
        ("name", column("name"), true),
        ("region", column("region"), true),
    ]);
    let mut whole = Vec::new();
    let rows = rows.unwrap();
    let mut writer = parquet::arrow::ArrowWriter::try_new(&mut whole, rows.schema(), None).unwrap();
    writer.write(&rows).unwrap();
    writer.close().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut refused = 0;
    let mut judge = |bytes: &[u8]| {
        let path = write(dir.path(), "it.parquet", "");
        std::fs::write(&path, bytes).unwrap();
        refused += usize::from(super::super::LookupTable::from_file("it", &["code".to_owned()], &path).is_err());
    };
    for place in 0..whole.len() {
        // Every byte of the footer, and some of the others.
        if place + 1500 > whole.len() || place % 7 == 0 {
            for mask in [0xff, 0x01, 0x80] {
                let mut damaged = whole.clone();
                damaged[place] ^= mask;
                judge(&damaged);
            }
        }
    }
    for length in (0..whole.len()).step_by(37) {
        judge(&whole[..length]);
    }
    assert!(refused > 100, "{refused}");
}

#[tokio::test]
async fn ndjson_names_the_line_of_every_fault() {
    let good = "{\"code\":\"DE\",\"name\":\"a\",\"region\":null}\n";
    let found = faults("it.ndjson", &format!("{good}\n{good}")).await;
    assert_eq!((found[0].0, found[0].1), ("AI0304", Some(3)));
    assert!(found[0].2.contains("line 3 stands in line 1 already"), "{found:?}");
    let lines =
        "{\"code\":\"FR\"} {\"code\":\"JP\"}\n{\"code\":1}\n{\"code\":\"US\",\"code\":\"GB\"}\n[]\n{\"code\":\"IT\"\n";
    let found = faults("it.ndjson", &format!("{good}{lines}")).await;
    let shown: Vec<String> = found.iter().map(|(code, line, text)| format!("{code} {line:?} {text}")).collect();
    for (number, words) in
        [(2, "no JSON"), (3, "a number here, and a string in line 1"), (4, "twice"), (5, "is an array"), (6, "no JSON")]
    {
        let place = format!("AI0302 Some({number}) ");
        assert!(shown.iter().any(|line| line.starts_with(&place) && line.contains(words)), "{number}: {shown:?}");
    }
    assert_eq!(found.len(), 5);
}

/// What is told apart by rows here is by lines elsewhere.
#[tokio::test]
async fn duplicates_of_rows_without_lines_are_named_by_their_rows() {
    let column = |values: Vec<&str>| Arc::new(StringArray::from(values)) as ArrayRef;
    let rows = RecordBatch::try_from_iter(["code", "name", "region"].map(|name| (name, column(vec!["a", "b", "a"]))));
    let lookups = vec![LookupSpec { from: LookupFrom::Table(rows.unwrap()), ..spec().lookups[0].clone() }];
    let found = prepare(&ModelSpec { lookups, ..spec() }).await.unwrap_err();
    assert!(found[0].message.contains("row 3 stands in row 1 already"), "{found:?}");
}
