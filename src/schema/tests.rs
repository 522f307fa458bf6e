use super::types::type_named;
use super::*;

const USERS: &str = include_str!("../../schemas/users/1.json");

fn parse(text: &str) -> Result<SourceSchema, Vec<Diagnostic>> {
    SourceSchema::parse(1, Path::new("1.json"), text)
}

/// Code, line, column, message and help of each fault.
fn faults(text: &str) -> Vec<String> {
    let describe = |fault: Diagnostic| {
        let span = fault.span.expect("every fault has a place");
        let help = fault.help.map(|help| format!(" ({help})")).unwrap_or_default();
        format!("{} {}:{} {}{help}", fault.code, span.line, span.column, fault.message)
    };
    parse(text).map(drop).expect_err("faults").into_iter().map(describe).collect()
}

fn one_field(members: &str) -> String {
    format!("{{\"fields\": [{{{members}}}]}}")
}

#[test]
fn the_shipped_schema_describes_a_user() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/users");
    let schema = SourceSchema::load(&dir).unwrap();
    let fields: Vec<_> =
        schema.fields.iter().map(|field| (field.name().as_str(), field.data_type(), field.is_nullable())).collect();
    let utf8 = &DataType::Utf8;
    assert_eq!(fields, [("userId", utf8, false), ("name", utf8, true), ("email", utf8, true), ("country", utf8, true)]);
    assert!(schema.fields.iter().all(|field| field.metadata().contains_key("doc")));
    assert_eq!(schema.version, 1);
    assert!(schema.path.ends_with("schemas/users/1.json"));
}

#[test]
fn columns_count_characters() {
    assert_eq!(faults("{\n\"\u{e9}\u{1f600}\" 1}"), ["AI0203 2:6 the schema file is not valid JSON: expected `:`"]);
}

#[test]
fn the_highest_version_wins_and_other_files_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    for version in ["9", "10", "2"] {
        std::fs::write(dir.path().join(format!("{version}.json")), USERS).unwrap();
    }
    std::fs::write(dir.path().join("README.md"), "notes").unwrap();
    let schema = SourceSchema::load(dir.path()).unwrap();
    assert_eq!(schema.version, 10);
    assert!(schema.path.ends_with("10.json"));
}

#[test]
fn a_folder_without_versions_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let faults = SourceSchema::load(dir.path()).map(drop).unwrap_err();
    assert_eq!((faults.len(), faults[0].code), (1, "AI0201"));
    for name in ["v1.json", "01.json", "0.json", "-1.json", "4294967295.json"] {
        std::fs::write(dir.path().join(name), USERS).unwrap();
    }
    let faults = SourceSchema::load(dir.path()).map(drop).unwrap_err();
    assert_eq!(faults.iter().map(|fault| fault.code).collect::<Vec<_>>(), ["AI0202"; 5]);
    let missing = SourceSchema::load(&dir.path().join("nowhere")).map(drop).unwrap_err();
    assert_eq!((missing.len(), missing[0].code), (1, "AI0201"));
}

#[test]
fn every_type_has_one_name_that_reads_back() {
    let others = ["timestamp(s)", "timestamp(ns)", "decimal128(38,0)", "decimal128(5,5)"];
    for name in TYPES.into_iter().filter(|name| *name != "json").chain(others) {
        assert_eq!(type_name(&type_named(name).unwrap()), name);
    }
    assert_eq!(type_named("decimal128( 10 , 2 )"), Ok(DataType::Decimal128(10, 2)));
}

#[test]
fn aliases_and_defaults_are_read_from_metadata() {
    let text = r#"{"fields": [
        {"name": "id", "type": "int64", "nullable": false, "metadata": {"aliases": "[\"user_id\", \"userId\"]"}},
        {"name": "plan", "type": "utf8", "metadata": {"default": "free"}},
        {"name": "digits", "type": "utf8", "metadata": {"default": "17"}},
        {"name": "credit", "type": "decimal128(10,2)", "metadata": {"default": "0.50"}},
        {"name": "since", "type": "date32", "metadata": {"default": "2024-02-29"}},
        {"name": "active", "type": "boolean", "metadata": {"default": "true", "owner": "billing"}}
    ]}"#;
    let schema = parse(text).unwrap();
    assert_eq!(schema.reading[0].aliases, ["user_id", "userId"]);
    let defaults: Vec<_> = schema.reading.iter().map(|reading| reading.default.as_deref()).collect();
    let expected = ["\"free\"", "\"17\"", "0.50", "\"2024-02-29\"", "true"];
    assert_eq!(defaults[1..], expected.map(Some));
    assert_eq!(schema.fields[5].metadata().get("owner").map(String::as_str), Some("billing"));
}

#[test]
fn all_faults_of_a_file_are_found_at_once_with_their_places() {
    let text = r#"{
  "docs": "typo",
  "fields": [
    {"name": "id", "type": "string", "nullable": "no"},
    {"name": "id", "type": "utf8"},
    {"nmae": "x", "type": "timestamp"},
    {"name": "credit", "type": "int32", "metadata": {"default": "free", "aliases": "id", "alias": "c"}},
    7
  ]
}"#;
    assert_eq!(
        faults(text),
        [
            r#"AI0204 2:11 unknown key "docs" (did you mean "doc"?)"#,
            r#"AI0205 4:28 "string" is no type that events can carry (did you mean "utf8"?)"#,
            "AI0204 4:50 `nullable` is a string, true or false is expected",
            "AI0204 6:5 a field without `name`",
            r#"AI0204 6:14 unknown key "nmae" (did you mean "name"?)"#,
            "AI0205 6:27 \"timestamp\" is no type that events can carry \
             (write the unit too: timestamp(s), timestamp(ms), timestamp(us) or timestamp(ns))",
            "AI0208 7:65 `default` of \"credit\" is a string, int32 is expected \
             (write it as it would stand in an event, text without quotes)",
            r#"AI0207 7:84 `aliases` of "credit" is no JSON array of names (write it as a text, e.g. "aliases": "[\"user_id\"]")"#,
            r#"AI0204 7:99 unknown key "alias" (did you mean "aliases"?)"#,
            "AI0204 8:5 a field is a number, an object is expected",
        ]
    );
}

#[test]
fn a_name_or_alias_belongs_to_one_field() {
    let text = r#"{"fields": [
        {"name": "a", "type": "utf8"},
        {"name": "a", "type": "utf8"},
        {"name": "b", "type": "utf8", "metadata": {"aliases": "[\"c\"]"}},
        {"name": "c", "type": "utf8"}
    ]}"#;
    let help = "(a name or alias belongs to one field only)";
    assert_eq!(
        faults(text),
        [
            format!("AI0206 3:18 two fields are called \"a\" {help}"),
            format!("AI0206 5:18 the fields \"b\" and \"c\" both answer to \"c\" {help}"),
        ]
    );
}

#[test]
fn broken_json_is_placed_by_the_parser() {
    assert_eq!(
        faults("{\n  \"fields\": [\n    {\"name\": }\n  ]\n}"),
        ["AI0203 3:14 the schema file is not valid JSON: expected value"]
    );
    assert_eq!(faults("").len(), 1);
}

#[test]
fn wrong_shapes_are_named() {
    assert_eq!(faults("[]"), ["AI0204 1:1 a schema file is an array, an object is expected"]);
    assert_eq!(faults("{}"), [MISSING]);
    assert_eq!(faults("{\"fields\": {}}"), ["AI0204 1:12 `fields` is an object, an array is expected"]);
    assert_eq!(
        faults("{\"fields\": []}"),
        ["AI0204 1:12 `fields` is empty (a row has at least the fields of its key)"]
    );
    assert_eq!(
        faults(&one_field(r#""name": "a""#)),
        [r#"AI0204 1:22 the field "a" has no `type` (e.g. "type": "utf8")"#]
    );
    assert_eq!(
        faults(&one_field(r#""name": "a", "type": "int8", "metadata": {"default": 1}"#)),
        ["AI0204 1:67 `default` is a number, a text is expected (metadata are texts: put it in quotes)"]
    );
    assert_eq!(
        faults(&one_field(r#""name": "a", "type": "utf8", "type": "int8""#)),
        ["AI0204 1:51 the key \"type\" stands here twice"]
    );
    assert_eq!(
        faults(&one_field(r#""name": "a", "type": "decimal128(39,2)""#)),
        [
            "AI0205 1:35 \"decimal128(39,2)\" is no type that events can carry (the precision is 1 to 38, the scale 0 to the precision)"
        ]
    );
}

#[test]
fn structs_lists_and_json_are_read_with_what_is_inside() {
    let text = r#"{"$schema": "../schema.json", "fields": [
        {"name": "address", "type": "struct", "nullable": false, "metadata": {"default": "{\"zip\":\"1\"}"}, "fields": [
            {"name": "zip", "type": "utf8", "nullable": false, "metadata": {"aliases": "[\"plz\"]", "doc": "Postal code."}},
            {"name": "geo", "type": "list", "items": {"type": "float64", "nullable": false}}
        ]},
        {"name": "any", "type": "json", "metadata": {"default": "[1, 2]"}}
    ]}"#;
    let schema = parse(text).unwrap();
    assert_eq!(schema.editor.as_deref(), Some("../schema.json"));
    let DataType::Struct(inner) = schema.fields[0].data_type() else { panic!("{schema:?}") };
    assert_eq!(
        (inner[0].is_nullable(), inner[0].metadata().get("doc").map(String::as_str)),
        (false, Some("Postal code."))
    );
    assert_eq!(inner[1].data_type(), &DataType::List(Arc::new(Field::new("item", DataType::Float64, false))));
    assert!(is_json(&schema.fields[1]) && !schema.fields[0].is_nullable());
    assert_eq!(schema.reading[0].inner[0].aliases, ["plz"]);
    assert_eq!(schema.reading[1].default.as_deref(), Some("[1, 2]"));
    // Below an image everything may be absent, because what is around it may be.
    let image = image_fields(&schema);
    let DataType::Struct(inner) = image[0].data_type() else { panic!("{image:?}") };
    assert!(image[0].is_nullable() && inner[0].is_nullable());
    assert_eq!(parse(&schema.text()).unwrap().fields, schema.fields);
}

#[test]
fn faults_inside_of_structs_and_lists_have_their_places() {
    let text = r#"{
  "breaking": ["remove a: b", "drop a", 7],
  "fields": [
    {"name": "a", "type": "struct", "fields": [{"name": "x", "type": "text"}, {"name": "x", "type": "int8"}]},
    {"name": "b", "type": "struct"},
    {"name": "c", "type": "list"},
    {"name": "d", "type": "list", "items": {"type": "utf8", "metadata": {"default": "x"}}},
    {"name": "e", "type": "utf8", "items": {"type": "utf8"}},
    {"name": "f", "type": "list", "items": {"name": "i", "type": "array"}},
    {"name": "g", "type": "struct", "fields": []},
    {"name": "h", "type": "struct", "fields": [{"name": "z", "type": "utf8", "nullable": false}], "metadata": {"default": "{}"}}
  ]
}"#;
    let breaking = "an entry of `breaking` that can't be read (write what happens to which field, and why, e.g. \"drop phone: the \
                    product is gone\"; the verbs are drop, narrow, retype, require, unalias, redefault)";
    assert_eq!(
        faults(text),
        [
            format!("AI0212 2:16 {breaking}"),
            format!("AI0212 2:31 {breaking}"),
            "AI0204 2:41 an entry of `breaking` is a number, a text is expected".to_owned(),
            r#"AI0205 4:70 "text" is no type that events can carry (did you mean "utf8"?)"#.to_owned(),
            r#"AI0211 5:27 the struct "b" has no `fields` (e.g. "fields": [{ "name": "zip", "type": "utf8" }])"#.to_owned(),
            r#"AI0211 6:27 the list "c" has no `items` (e.g. "items": { "type": "utf8" })"#.to_owned(),
            r#"AI0211 7:44 a `default` inside of the items of "d" (leave it out: COALESCE in the SQL does the same)"#.to_owned(),
            r#"AI0211 8:44 `items` of "e", whose type is utf8 (only a "list" has `items`: change the type, or leave them out)"#.to_owned(),
            r#"AI0204 9:53 unknown key "name" (the keys here are type, nullable, fields, items, metadata)"#.to_owned(),
            r#"AI0205 9:66 "array" is no type that events can carry (did you mean "list"?)"#.to_owned(),
            r#"AI0204 10:47 `fields` is empty (list the struct's fields, or make it "json", which takes whatever there is)"#.to_owned(),
            "AI0208 11:123 `default` of \"h\" lacks a member that may not be missing, struct is expected (write it as it would stand in an event, text without quotes)".to_owned(),
        ]
    );
    let nested = |levels: usize| {
        format!(
            r#""name": "a", {}"type": "utf8"{}"#,
            r#""type": "list", "items": {"#.repeat(levels),
            "}".repeat(levels)
        )
    };
    assert!(parse(&one_field(&nested(15))).is_ok());
    let deep = faults(&one_field(&nested(16)));
    assert!(deep.len() == 1 && deep[0].starts_with("AI0210 1:"), "{deep:?}");
}

const MISSING: &str = "AI0204 1:1 `fields` is missing (list the row's fields under it)";
