//! AI03xx: lookups.

use super::{CONFIG, Code, code};

const FILE: &str = "queries/users/lookups/countries.csv";
const RIGHT: &str = "code,name,region\nDE,Germany,Europe\nFR,France,Europe\n";

pub(super) const CODES: &[Code] = &[
    code(
        "AI0301",
        "a lookup's file can't be read, or there is no such lookup",
        "Models that join it would find nothing, and every row would look like a miss.",
        FILE,
        ["", RIGHT],
        "correct `file`, which is relative to the config file",
    ),
    code(
        "AI0302",
        "a lookup's file isn't what its ending says",
        "A row that is read wrongly is a wrong row in every event that meets it.",
        FILE,
        ["code,name,region\nDE,Germany\n", RIGHT],
        "mend the line; the ending is .csv, .ndjson or .parquet, and a CSV has a header and as many fields in each line",
    ),
    code(
        "AI0303",
        "a lookup's key columns aren't there, or can't be a key",
        "The key decides which row an event meets.",
        FILE,
        ["country,name,region\nDE,Germany,Europe\n", RIGHT],
        "`key` of the lookup names its columns as the file's header does",
    ),
    code(
        "AI0304",
        "two rows of a lookup have one key",
        "A join would make two rows of one event.",
        FILE,
        ["code,name,region\nDE,Germany,Europe\nDE,Deutschland,Europe\n", RIGHT],
        "a key stands there once: remove one of the rows, or name one more column in `key`",
    ),
    code(
        "AI0305",
        "a lookup's key is empty",
        "NULL equals nothing: no event could ever meet this row.",
        FILE,
        ["code,name,region\n,Nowhere,Europe\n", RIGHT],
        "fill it in, or remove the row",
    ),
    code(
        "AI0306",
        "a lookup comes back with other columns",
        "The models are planned over the columns that it had. The last good rows stay in use.",
        FILE,
        ["code,name,continent\nDE,Germany,Europe\n", RIGHT],
        "give it its columns back, or restart, so that the models are planned over the new ones",
    ),
    code(
        "AI0307",
        "a lookup has the name of a model or of another table",
        "Models couldn't say which of the two they mean.",
        "queries/users/countries.sql",
        ["SELECT 'DE' AS code, 'Germany' AS name, 'Europe' AS region\n", ""],
        "give one of them another name",
    ),
    code(
        "AI0309",
        "warning: models weren't planned, because a lookup comes from MySQL",
        "Its columns are those that the query yields, and only the server knows them.",
        CONFIG,
        [
            "[pipelines.users.lookups.countries]\nmysql = \"SELECT code, name, region FROM countries\"\nkey = [\"code\"]\n",
            "[pipelines.users.lookups.countries]\nfile = \"queries/users/lookups/countries.csv\"\nkey = [\"code\"]\n",
        ],
        "`check --online` reads it, and then all models can be planned",
    ),
];
