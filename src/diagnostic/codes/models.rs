//! AI01xx: models.

use super::{CONFIG, Code, code};

const METRICS: &str = "queries/users/metrics.sql";
const ENRICHED: &str = "queries/users/enriched.sql";
const LATEST: &str = "queries/users/latest.sql";

const METRICS_RIGHT: &str = "SELECT COUNT(*) AS users FROM enriched\n";
const ENRICHED_RIGHT: &str = "SELECT c.*, l.name AS country_name, l.region, NULL AS _error
FROM changes c
LEFT JOIN countries l ON l.code = c.country
";
const LATEST_RIGHT: &str = "SELECT user_id, name, country_name, _deleted, ts, _partition, _offset
FROM (
    SELECT *, ROW_NUMBER() OVER (PARTITION BY user_id ORDER BY ts DESC, _partition DESC, _offset DESC) AS newest
    FROM accepted
)
WHERE newest = 1
";

pub(super) const CODES: &[Code] = &[
    code(
        "AI0101",
        "folder or file can't be read, or holds no model",
        "A pipeline without its models has nothing to write.",
        CONFIG,
        [
            "[pipelines.users]\ntopic = \"user_cdc\"\ntable = \"enriched_user\"\nkey = [\"user_id\"]\nqueries = \"queries/usres\"\n",
            "[pipelines.users]\ntopic = \"user_cdc\"\ntable = \"enriched_user\"\nkey = [\"user_id\"]\nqueries = \"queries/users\"\n",
        ],
        "`queries` of the pipeline names the folder of its .sql files",
    ),
    code(
        "AI0102",
        "one of the four models is missing",
        "`changes`, `enriched`, `accepted` and `latest` each have a part that the engine counts on.",
        LATEST,
        ["", LATEST_RIGHT],
        "add the file; the shipped one in queries/users/ is a good start",
    ),
    code(
        "AI0103",
        "a file name that can't be a model's name",
        "Other models call it by the file's name.",
        "queries/users/my-model.sql",
        ["SELECT 1 AS one\n", ""],
        "letters, digits, `_`; not `events`, `held`, `known`",
    ),
    code(
        "AI0104",
        "syntax error",
        "The text can't be read from this place on.",
        METRICS,
        ["SELECT COUNT(* AS users FROM enriched\n", METRICS_RIGHT],
        "look at the place and just before it: a comma, a bracket, a quote",
    ),
    code(
        "AI0105",
        "no statement, or more than one",
        "A model is one SELECT; its rows are what others read.",
        METRICS,
        ["SELECT COUNT(*) AS users FROM enriched;\nSELECT 1 AS more\n", METRICS_RIGHT],
        "one SELECT per file",
    ),
    code(
        "AI0106",
        "not a SELECT, or `WITH RECURSIVE`",
        "Models only read: what is created or changed on the way would not be undone when a batch is repeated.",
        METRICS,
        ["CREATE TABLE users AS SELECT * FROM enriched\n", METRICS_RIGHT],
        "write a SELECT",
    ),
    code(
        "AI0107",
        "no such table or model",
        "Models read `events`, `held`, lookups, and each other, by names that are case-sensitive.",
        METRICS,
        ["SELECT COUNT(*) AS users FROM enrichd\n", METRICS_RIGHT],
        "correct the name",
    ),
    code(
        "AI0108",
        "models that read each other in a ring",
        "None of them could run first.",
        "queries/users/changes.sql",
        [
            "SELECT * FROM latest\n",
            "SELECT after.userId AS user_id, after.name AS name, after.email AS email, after.country AS country,
       false AS _deleted, ts, _partition, _offset
FROM events
WHERE op <> 'd'
",
        ],
        "move what they share into a third one",
    ),
    code(
        "AI0109",
        "unknown column",
        "Names are case-sensitive and taken as written.",
        METRICS,
        ["SELECT COUNT(user) AS users FROM enriched\n", "SELECT COUNT(user_id) AS users FROM enriched\n"],
        "correct the name, or yield the column in the model that is read",
    ),
    code(
        "AI0110",
        "unknown struct field",
        "The fields of `before` and `after` are those of the schema file, in its spelling.",
        METRICS,
        ["SELECT COUNT(after.userid) AS users FROM events\n", "SELECT COUNT(after.userId) AS users FROM events\n"],
        "correct the name, or describe the field in the schema file",
    ),
    code(
        "AI0111",
        "unknown function",
        "The functions are those of Apache DataFusion, close to PostgreSQL's.",
        METRICS,
        ["SELECT MAX(lenght(name)) AS longest FROM enriched\n", "SELECT MAX(length(name)) AS longest FROM enriched\n"],
        "correct the name",
    ),
    code(
        "AI0112",
        "ambiguous column",
        "Two of the tables that are read have a column of this name.",
        METRICS,
        [
            "SELECT COUNT(name) AS named FROM enriched e JOIN countries l ON l.code = e.country\n",
            "SELECT COUNT(e.name) AS named FROM enriched e JOIN countries l ON l.code = e.country\n",
        ],
        "write the table's name before it: `e.name`",
    ),
    code(
        "AI0113",
        "any other fault of planning",
        "The SQL engine can't make a plan of the model; the text is DataFusion's.",
        METRICS,
        ["SELECT SUM(name) AS names FROM enriched\n", "SELECT COUNT(name) AS names FROM enriched\n"],
        "do what the text says",
    ),
    code(
        "AI0114",
        "a constant that can't be converted, or a model that fails even without rows",
        "It would fail on every batch.",
        METRICS,
        [
            "SELECT COUNT(*) AS users FROM enriched WHERE ts > 'yesterday'\n",
            "SELECT COUNT(*) AS users FROM enriched WHERE ts > '2024-02-29T00:00:00Z'\n",
        ],
        "write the constant in the other side's type, or use `TRY_CAST`",
    ),
    code(
        "AI0115",
        "a role lacks a column",
        "The engine finds rows again by their key and by `_partition` and `_offset`, and judges them by `_deleted` and `_error`.",
        ENRICHED,
        [
            "SELECT c.*, l.name AS country_name, l.region FROM changes c LEFT JOIN countries l ON l.code = c.country\n",
            ENRICHED_RIGHT,
        ],
        "the table of models above",
    ),
    code(
        "AI0116",
        "a role has a column in the wrong type",
        "As above, and a key must have one type in all four models, because it is compared across them.",
        ENRICHED,
        [
            "SELECT c.*, l.name AS country_name, l.region, false AS _error\nFROM changes c\nLEFT JOIN countries l ON l.code = c.country\n",
            ENRICHED_RIGHT,
        ],
        "the table of models above; `CAST` where the value is another type's",
    ),
    code(
        "AI0117",
        "a column twice",
        "Nobody could say which of the two is meant.",
        METRICS,
        [
            "SELECT COUNT(*) AS users, COUNT(country) AS users FROM enriched\n",
            "SELECT COUNT(*) AS users, COUNT(country) AS with_country FROM enriched\n",
        ],
        "name the columns one by one, or `SELECT t.* EXCEPT (column)`",
    ),
    code(
        "AI0118",
        "`now()`, `random()` and the like on the way to `latest`",
        "After a crash a batch is run again and must give the same rows; these functions give others.",
        ENRICHED,
        [
            "SELECT c.*, l.name AS country_name, CAST(now() AS VARCHAR) AS region, NULL AS _error\nFROM changes c\nLEFT JOIN countries l ON l.code = c.country\n",
            "SELECT c.*, l.name AS country_name, CAST(c.ts AS VARCHAR) AS region, NULL AS _error\nFROM changes c\nLEFT JOIN countries l ON l.code = c.country\n",
        ],
        "take the event's own time: `ts`, or `_kafka_ts`",
    ),
    code(
        "AI0119",
        "aggregates, windows, `LIMIT` and the like that look at other events of the batch",
        "Where a batch ends is an accident of timing. Rows that depend on it differ from run to run, and after a crash.",
        ENRICHED,
        [
            "SELECT c.*, NULL AS country_name, CAST(COUNT(*) OVER () AS VARCHAR) AS region, NULL AS _error FROM changes c\n",
            ENRICHED_RIGHT,
        ],
        "up to `accepted` decide each event alone (or group by `_partition` and `_offset`); in `latest` pick rows \
         (`ROW_NUMBER`, `MAX`), don't sum them up",
    ),
    code(
        "AI0120",
        "a column of `latest` for which MySQL has no type",
        "A value enters its column exactly, or not at all.",
        LATEST,
        [
            "SELECT user_id, name, ts - ts AS country_name, _deleted, ts, _partition, _offset
FROM (
    SELECT *, ROW_NUMBER() OVER (PARTITION BY user_id ORDER BY ts DESC, _partition DESC, _offset DESC) AS newest
    FROM accepted
)
WHERE newest = 1
",
            LATEST_RIGHT,
        ],
        "take out the fields you need, or `CAST`; for a NULL without a type write `CAST(NULL AS VARCHAR)`",
    ),
    code(
        "AI0121",
        "the target has a column that `latest` doesn't yield",
        "It would be NULL in every row that is written, also where it was filled before.",
        "the table in MySQL",
        ["a column `phone`, which latest.sql doesn't yield\n", ""],
        "yield it, or drop it from the table",
    ),
    code(
        "AI0122",
        "`latest` yields a column that the target lacks, or can't have",
        "Its values would be lost. Names that begin with `_` and those of the version columns are the engine's own.",
        LATEST,
        [
            "SELECT user_id, name, country_name, newest AS _rank, _deleted, ts, _partition, _offset
FROM (
    SELECT *, ROW_NUMBER() OVER (PARTITION BY user_id ORDER BY ts DESC, _partition DESC, _offset DESC) AS newest
    FROM accepted
)
WHERE newest = 1
",
            LATEST_RIGHT,
        ],
        "leave it out of the SELECT, name it otherwise, or add the column to the table",
    ),
    code(
        "AI0123",
        "the target's column doesn't hold the type that `latest` yields",
        "MySQL would round, cut or refuse the values.",
        "the table in MySQL",
        ["a column `name INT`, for which latest.sql yields a text\n", "a column `name VARCHAR(255)`\n"],
        "`CAST` it to the column's type, or change the column",
    ),
    code(
        "AI0124",
        "a role doesn't read what it must, or reads `known`",
        "`latest` must come from `accepted`, `accepted` from `enriched` and `held`: rows that were refused or have to wait \
         would get past otherwise.",
        LATEST,
        [
            "SELECT user_id, name, country_name, _deleted, ts, _partition, _offset
FROM (
    SELECT *, ROW_NUMBER() OVER (PARTITION BY user_id ORDER BY ts DESC, _partition DESC, _offset DESC) AS newest
    FROM enriched
)
WHERE newest = 1
",
            LATEST_RIGHT,
        ],
        "read the table that the message names",
    ),
    code(
        "AI0125",
        "warning: no model reads this one",
        "It is never run. Perhaps its name is misspelt.",
        "queries/users/out_of_orders.sql",
        ["SELECT user_id FROM accepted\n", ""],
        "read it from another model, rename it, or delete the file",
    ),
    code(
        "AI0126",
        "the table's key isn't the pipeline's",
        "One row per key is what the table's primary key guarantees.",
        "the table in MySQL",
        ["PRIMARY KEY (email), and key = [\"user_id\"] in afterimage.toml\n", ""],
        "make both the same, in the same order",
    ),
];
