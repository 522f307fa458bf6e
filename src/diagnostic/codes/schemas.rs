//! AI02xx: schema files.

use super::{Code, code};

const FILE: &str = "schemas/users/1.json";
const RIGHT: &str = r#"{ "fields": [
    { "name": "userId", "type": "utf8", "nullable": false },
    { "name": "name", "type": "utf8" },
    { "name": "email", "type": "utf8" },
    { "name": "country", "type": "utf8" }
] }
"#;

pub(super) const CODES: &[Code] = &[
    code(
        "AI0201",
        "the folder or a schema file can't be read, or there is no schema file",
        "Without the schema of the source's row no event can be read.",
        FILE,
        ["", RIGHT],
        "`schemas` of the pipeline names the folder; describe the row in a first file `1.json`",
    ),
    code(
        "AI0202",
        "a schema file whose name is no version",
        "The highest number is the version in use. A file without one would be overlooked.",
        "schemas/users/v2.json",
        [RIGHT, ""],
        "name it by a whole number from 1, without zeros in front: `2.json`",
    ),
    code(
        "AI0203",
        "not JSON",
        "The file breaks the rules of JSON at this place.",
        FILE,
        ["{ \"fields\": [ { \"name\": \"userId\", \"type\": \"utf8\" }, ] }\n", RIGHT],
        "mend the place; no comma after the last element, no comments",
    ),
    code(
        "AI0204",
        "a key that is unknown, missing, there twice, or of the wrong kind",
        "A key that is silently ignored is a setting that somebody believes in.",
        FILE,
        [
            r#"{ "fields": [
    { "name": "userId", "type": "utf8", "nulable": false },
    { "name": "name", "type": "utf8" },
    { "name": "email", "type": "utf8" },
    { "name": "country", "type": "utf8" }
] }
"#,
            RIGHT,
        ],
        "write what the message expects there",
    ),
    code(
        "AI0205",
        "a type that events can't carry",
        "The type decides how a value of the event is read, exactly or not at all.",
        FILE,
        [
            r#"{ "fields": [
    { "name": "userId", "type": "string", "nullable": false },
    { "name": "name", "type": "utf8" },
    { "name": "email", "type": "utf8" },
    { "name": "country", "type": "utf8" }
] }
"#,
            RIGHT,
        ],
        "take one of the types of [From JSON](#from-json)",
    ),
    code(
        "AI0206",
        "a name or alias that two fields answer to",
        "A value of the event could belong to either of them.",
        FILE,
        [
            r#"{ "fields": [
    { "name": "userId", "type": "utf8", "nullable": false },
    { "name": "name", "type": "utf8" },
    { "name": "email", "type": "utf8", "metadata": { "aliases": "[\"name\"]" } },
    { "name": "country", "type": "utf8" }
] }
"#,
            RIGHT,
        ],
        "a name or alias belongs to one field only",
    ),
    code(
        "AI0207",
        "`aliases` that are no JSON array of names",
        "Metadata are texts, as in Arrow: the array stands in quotes.",
        FILE,
        [
            r#"{ "fields": [
    { "name": "userId", "type": "utf8", "nullable": false },
    { "name": "name", "type": "utf8" },
    { "name": "email", "type": "utf8", "metadata": { "aliases": "mail" } },
    { "name": "country", "type": "utf8" }
] }
"#,
            r#"{ "fields": [
    { "name": "userId", "type": "utf8", "nullable": false },
    { "name": "name", "type": "utf8" },
    { "name": "email", "type": "utf8", "metadata": { "aliases": "[\"mail\"]" } },
    { "name": "country", "type": "utf8" }
] }
"#,
        ],
        r#"write `"aliases": "[\"user_id\"]"`"#,
    ),
    code(
        "AI0208",
        "a `default` that is no value of the field's type",
        "It stands for the field in every event that lacks it.",
        FILE,
        [
            r#"{ "fields": [
    { "name": "userId", "type": "utf8", "nullable": false },
    { "name": "name", "type": "utf8" },
    { "name": "email", "type": "utf8" },
    { "name": "country", "type": "utf8" },
    { "name": "age", "type": "int32", "metadata": { "default": "unknown" } }
] }
"#,
            r#"{ "fields": [
    { "name": "userId", "type": "utf8", "nullable": false },
    { "name": "name", "type": "utf8" },
    { "name": "email", "type": "utf8" },
    { "name": "country", "type": "utf8" },
    { "name": "age", "type": "int32", "metadata": { "default": "0" } }
] }
"#,
        ],
        "write it as it would stand in an event, text without quotes",
    ),
];
