//! AI05xx: cases of `afterimage test`.

use super::{Code, code};

const FILE: &str = "queries/users/tests/case.yaml";
const RIGHT: &str = r#"given:
  events:
    - {op: c, after: {userId: "1", name: Ada}, timestamp: 1700000000000}
expect:
  table:
    - {user_id: "1", name: Ada}
"#;

pub(super) const CODES: &[Code] = &[
    code(
        "AI0501",
        "a fixture can't be read, is not UTF-8, or is larger than 4 MiB",
        "What can't be read proves nothing.",
        "queries/users/tests/folder.yaml/x",
        ["x", ""],
        "make it a text file in UTF-8 that this account may read",
    ),
    code(
        "AI0502",
        "a fixture is not YAML, or holds what fixtures have no use for: aliases, tags, several documents",
        "The file breaks the rules of YAML at this place, or could mean something else to another reader.",
        FILE,
        ["given:\n  events: [\nexpect: {table: []}\n", RIGHT],
        "a blank behind colons and dashes, lists indented alike, quotes around texts with `: `, `#`, `{` or `[`",
    ),
    code(
        "AI0503",
        "a key that a fixture hasn't",
        "A key that is overlooked would make a case that proves less than it says.",
        FILE,
        ["given: {events: []}\nexpect: {tabel: []}\n", RIGHT],
        "correct the name",
    ),
    code(
        "AI0504",
        "a key that a fixture must have is missing",
        "Without events, or without anything expected, a case is none.",
        FILE,
        ["given: {events: []}\n", RIGHT],
        "add it",
    ),
    code(
        "AI0505",
        "a value of the wrong type in a fixture",
        "Nothing is guessed: a number is no text, and `007` is none of both.",
        FILE,
        ["given: {events: []}\nexpect: {table: none}\n", RIGHT],
        "write what is expected there; quote what is a text",
    ),
    code(
        "AI0506",
        "a key twice in one mapping of a fixture",
        "Only one of the two could count.",
        FILE,
        ["given: {events: []}\nexpect:\n  table: []\n  table: []\n", RIGHT],
        "keep one of them",
    ),
    code(
        "AI0507",
        "two cases of one file with one name",
        "A report could not say which of them failed.",
        FILE,
        [
            "cases:\n  - {name: a, given: {events: []}, expect: {table: []}}\n  - {name: a, given: {events: []}, expect: {table: []}}\n",
            "cases:\n  - {name: a, given: {events: []}, expect: {table: []}}\n  - {name: b, given: {events: []}, expect: {table: []}}\n",
        ],
        "give each a name of its own",
    ),
    code(
        "AI0508",
        "an event in a fixture is no JSON object, or a record has no value or several",
        "A slip of the pen would be an event that is refused, and the case about something else.",
        FILE,
        ["given:\n  events:\n    - '{\"op\":\"c\",}'\nexpect: {table: []}\n", RIGHT],
        "mend it; a record that is bad on purpose stands under `value`",
    ),
    code(
        "AI0509",
        "a fixture expects rows of a model that doesn't exist",
        "No such model ever yields a row.",
        FILE,
        ["given: {events: []}\nexpect: {models: [{model: enrichd, rows: []}]}\n", RIGHT],
        "correct the name, or drop the expectation with the model",
    ),
    code(
        "AI0510",
        "a fixture names a column that doesn't exist",
        "What isn't there can't be compared.",
        FILE,
        ["given: {events: []}\nexpect: {table: [{user_id: \"1\", nmae: Ada}]}\n", RIGHT],
        "correct the name; if the SQL has changed on purpose, change the case",
    ),
    code(
        "AI0511",
        "a value in a fixture that its column can't hold",
        "The comparison is typed: such a value would never be found.",
        FILE,
        ["given: {events: []}\nexpect: {table: [{user_id: 1}]}\n", RIGHT],
        "write it in the column's type; quote texts",
    ),
    code(
        "AI0512",
        "a fixture gives rows of an unknown lookup, gives a key twice, or leaves out a lookup that is in no file",
        "Cases run without servers: rows that only a server has must be written down.",
        FILE,
        ["given:\n  lookups: {countrys: []}\n  events: []\nexpect: {table: []}\n", RIGHT],
        "list its rows under `given: lookups:`, by the name that the config gives it",
    ),
    code(
        "AI0513",
        "a fixture expects rows of a batch that isn't given",
        "Batches count from 1.",
        FILE,
        ["given: {events: []}\nexpect: {models: [{model: latest, batch: 2, rows: []}]}\n", RIGHT],
        "correct the number, or leave it out for all batches together",
    ),
    code(
        "AI0514",
        "offsets in a fixture that don't rise",
        "A partition's offsets rise, and the order of events hangs on them.",
        FILE,
        ["given:\n  events:\n    - {offset: 5, value: a}\n    - {offset: 5, value: b}\nexpect: {table: []}\n", RIGHT],
        "leave them out: each record has the one after the last",
    ),
    code(
        "AI0515",
        "a row in a fixture without its whole key, or a key twice",
        "Rows of a table are told apart by their key.",
        FILE,
        ["given: {events: []}\nexpect: {table: [{name: Ada}]}\n", RIGHT],
        "name every key column, and each key once",
    ),
    code(
        "AI0516",
        "warning: a case that expects nothing",
        "It could only fail by stopping the pipeline.",
        FILE,
        ["given: {events: []}\nexpect: {}\n", RIGHT],
        "name what matters, e.g. `table`",
    ),
    code(
        "AI0517",
        "a case fails",
        "An edit that breaks a case isn't taken up by a running service.",
        FILE,
        ["given: {events: []}\nexpect: {table: [{user_id: \"1\"}]}\n", RIGHT],
        "`afterimage test` shows the cell; mend the SQL, or the case",
    ),
];
