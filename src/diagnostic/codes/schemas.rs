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
/// A second version, after the shipped first one.
const SECOND: &str = "schemas/users/2.json";

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
    code(
        "AI0210",
        r##"structs and lists more than 16 deep"##,
        r##"Reading them costs with every level, and nobody can write SQL for them."##,
        FILE,
        [
            r##"{ "fields": [
    { "name": "userId", "type": "utf8", "nullable": false },
    { "name": "name", "type": "utf8" },
    { "name": "email", "type": "utf8" },
    { "name": "country", "type": "utf8" },
    { "name": "deep", "type": "list", "items": { "type": "list", "items": { "type": "list", "items": { "type": "list", "items": { "type": "list", "items": { "type": "list", "items": { "type": "list", "items": { "type": "list", "items": { "type": "list", "items": { "type": "list", "items": { "type": "list", "items": { "type": "list", "items": { "type": "list", "items": { "type": "list", "items": { "type": "list", "items": { "type": "list", "items": { "type": "utf8" } } } } } } } } } } } } } } } } }
] }
"##,
            r##"{ "fields": [
    { "name": "userId", "type": "utf8", "nullable": false },
    { "name": "name", "type": "utf8" },
    { "name": "email", "type": "utf8" },
    { "name": "country", "type": "utf8" },
    { "name": "deep", "type": "json" }
] }
"##,
        ],
        r##"make an outer one `"type": "json"`, which takes whatever there is"##,
    ),
    code(
        "AI0211",
        r##"`fields` or `items` missing or where they don't belong, or items with a default or alias"##,
        r##"A struct is its `fields`, a list its `items`. An item is never missing, so that nothing could stand for it."##,
        FILE,
        [
            r##"{ "fields": [
    { "name": "userId", "type": "utf8", "nullable": false },
    { "name": "name", "type": "utf8" },
    { "name": "email", "type": "utf8" },
    { "name": "country", "type": "utf8" },
    { "name": "tags", "type": "list" }
] }
"##,
            r##"{ "fields": [
    { "name": "userId", "type": "utf8", "nullable": false },
    { "name": "name", "type": "utf8" },
    { "name": "email", "type": "utf8" },
    { "name": "country", "type": "utf8" },
    { "name": "tags", "type": "list", "items": { "type": "utf8" } }
] }
"##,
        ],
        r##"write `"fields": [..]` with a struct, `"items": { "type": .. }` with a list, neither with other types"##,
    ),
    code(
        "AI0212",
        r##"an entry of `breaking` that can't be read"##,
        r##"Each says what happens to which field, and why, so that a reviewer sees it."##,
        SECOND,
        [
            r##"{ "breaking": ["no country any more"], "fields": [
    { "name": "userId", "type": "utf8", "nullable": false },
    { "name": "name", "type": "utf8" },
    { "name": "email", "type": "utf8" }
] }
"##,
            r##"{ "fields": [
    { "name": "userId", "type": "utf8", "nullable": false },
    { "name": "name", "type": "utf8" },
    { "name": "email", "type": "utf8" },
    { "name": "country", "type": "utf8" }
] }
"##,
        ],
        r##"`"drop phone: the product is gone"`; the verbs are drop, narrow, retype, require, unalias, redefault"##,
    ),
    code(
        "AI0220",
        r##"a field of the version before is gone"##,
        r##"Events that carry it would lose it, and a model that reads it fails."##,
        SECOND,
        [
            r##"{ "fields": [
    { "name": "userId", "type": "utf8", "nullable": false },
    { "name": "name", "type": "utf8" },
    { "name": "email", "type": "utf8" }
] }
"##,
            r##"{ "fields": [
    { "name": "userId", "type": "utf8", "nullable": false },
    { "name": "name", "type": "utf8" },
    { "name": "email", "type": "utf8" },
    { "name": "country", "type": "utf8" }
] }
"##,
        ],
        r##"keep it; name it in `aliases` of the field that it became; or say in `breaking` that it is meant"##,
    ),
    code(
        "AI0221",
        r##"a type that holds less than in the version before"##,
        r##"Values of older events may not fit, and would refuse their events."##,
        "a schema file, after the version before it",
        [
            r##"{ "name": "age", "type": "int16" }   where version 1 has int32
"##,
            r##"{ "name": "age", "type": "int64" }
"##,
        ],
        r##"keep the type, or take a wider one; or say in `breaking` that it is meant"##,
    ),
    code(
        "AI0222",
        r##"a field has a type of another kind than in the version before"##,
        r##"Older events would be refused, or read as something else."##,
        SECOND,
        [
            r##"{ "fields": [
    { "name": "userId", "type": "utf8", "nullable": false },
    { "name": "name", "type": "json" },
    { "name": "email", "type": "utf8" },
    { "name": "country", "type": "utf8" }
] }
"##,
            r##"{ "breaking": ["retype name: it became a document"], "fields": [
    { "name": "userId", "type": "utf8", "nullable": false },
    { "name": "name", "type": "json" },
    { "name": "email", "type": "utf8" },
    { "name": "country", "type": "utf8" }
] }
"##,
        ],
        r##"keep the type; add a new field beside it; or say in `breaking` that it is meant"##,
    ),
    code(
        "AI0223",
        r##"a field that older events may lack may not be null"##,
        r##"They would be refused."##,
        SECOND,
        [
            r##"{ "fields": [
    { "name": "userId", "type": "utf8", "nullable": false },
    { "name": "name", "type": "utf8" },
    { "name": "email", "type": "utf8" },
    { "name": "country", "type": "utf8" },
    { "name": "plan", "type": "utf8", "nullable": false }
] }
"##,
            r##"{ "fields": [
    { "name": "userId", "type": "utf8", "nullable": false },
    { "name": "name", "type": "utf8" },
    { "name": "email", "type": "utf8" },
    { "name": "country", "type": "utf8" },
    { "name": "plan", "type": "utf8", "nullable": false, "metadata": { "default": "free" } }
] }
"##,
        ],
        r##"let it be null; give it a `default`; or say in `breaking` that it is meant"##,
    ),
    code(
        "AI0224",
        r##"an alias of the version before is gone"##,
        r##"Events that call the field so would lose it."##,
        "a schema file, after the version before it",
        [
            r##"{ "name": "email", "type": "utf8" }   where version 1 has the alias mail
"##,
            r##"{ "name": "email", "type": "utf8", "metadata": { "aliases": "[\"mail\"]" } }
"##,
        ],
        r##"keep the alias as long as such events are in the topic; or say in `breaking` that it is meant"##,
    ),
    code(
        "AI0225",
        r##"another default than in the version before, or none any more"##,
        r##"Events that lack the field meant the older one: read again, they would say something else."##,
        "a schema file, after the version before it",
        [
            r##"{ "name": "plan", "type": "utf8", "metadata": { "default": "basic" } }   where version 1 has free
"##,
            r##"{ "name": "plan", "type": "utf8", "metadata": { "default": "free" } }
"##,
        ],
        r##"keep the default; or say in `breaking` that it is meant"##,
    ),
    code(
        "AI0227",
        r##"warning: an entry of `breaking` that this version doesn't do"##,
        r##"It is misspelt, or left over. Somebody reads it and believes it."##,
        SECOND,
        [
            r##"{ "breaking": ["drop phone: it was never there"], "fields": [
    { "name": "userId", "type": "utf8", "nullable": false },
    { "name": "name", "type": "utf8" },
    { "name": "email", "type": "utf8" },
    { "name": "country", "type": "utf8" }
] }
"##,
            r##"{ "fields": [
    { "name": "userId", "type": "utf8", "nullable": false },
    { "name": "name", "type": "utf8" },
    { "name": "email", "type": "utf8" },
    { "name": "country", "type": "utf8" }
] }
"##,
        ],
        r##"take it out, or correct the verb or the field"##,
    ),
    code(
        "AI0228",
        r##"warning: a gap in the numbers of the versions"##,
        r##"A missing file would go unnoticed, and versions on both sides of it are compared as if nothing had been between."##,
        "schemas/users/3.json",
        [
            r##"{ "fields": [
    { "name": "userId", "type": "utf8", "nullable": false },
    { "name": "name", "type": "utf8" },
    { "name": "email", "type": "utf8" },
    { "name": "country", "type": "utf8" }
] }
"##,
            r##""##,
        ],
        r##"number versions one by one: rename the file, or bring the missing one back"##,
    ),
];
