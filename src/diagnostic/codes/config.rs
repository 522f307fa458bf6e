//! AI00xx: the config file.

use super::{CONFIG, Code, code};

pub(super) const CODES: &[Code] = &[
    code(
        "AI0001",
        "the config file cannot be read, or is not UTF-8",
        "Nothing is known without the config: neither where the models are nor where rows go.",
        CONFIG,
        ["", "[kafka]\nbrokers = \"127.0.0.1:9092\"\n"],
        "give its path with `--config`; `docs/afterimage.toml` is one to start from",
    ),
    code(
        "AI0002",
        "not TOML",
        "The file breaks the rules of TOML at this place. What can be read of the rest is checked all the same.",
        CONFIG,
        ["[kafka\nbrokers = \"127.0.0.1:9092\"\n", "[kafka]\nbrokers = \"127.0.0.1:9092\"\n"],
        "mend the line; texts stand in quotes, tables in brackets",
    ),
    code(
        "AI0003",
        "unknown key",
        "A key that is silently ignored is a setting that somebody believes in. So no key is.",
        CONFIG,
        [
            "[kafka]\nbrokers = \"127.0.0.1:9092\"\ngrup = \"a\"\n",
            "[kafka]\nbrokers = \"127.0.0.1:9092\"\ngroup = \"a\"\n",
        ],
        "correct the name, or remove the line; docs/config.md lists every key",
    ),
    code(
        "AI0004",
        "a required key is missing",
        "There is no sensible default for it.",
        CONFIG,
        ["[kafka]\ngroup = \"a\"\n", "[kafka]\nbrokers = \"127.0.0.1:9092\"\ngroup = \"a\"\n"],
        "add the key that the message names",
    ),
    code(
        "AI0005",
        "a value of the wrong type",
        "A text where a number is expected, or the other way round, is guessed by nobody.",
        CONFIG,
        [
            "[kafka]\nbrokers = \"127.0.0.1:9092\"\nallow_insecure = \"no\"\n",
            "[kafka]\nbrokers = \"127.0.0.1:9092\"\nallow_insecure = false\n",
        ],
        "write a value of the type that the message names",
    ),
    code(
        "AI0006",
        "a duration, size or share without a unit, or with an unknown one",
        "`30` may be seconds to one and milliseconds to another.",
        CONFIG,
        [
            "[mysql]\nurl = \"mysql://app@127.0.0.1/app\"\nconnect_timeout = \"10\"\n",
            "[mysql]\nurl = \"mysql://app@127.0.0.1/app\"\nconnect_timeout = \"10s\"\n",
        ],
        "write the unit too: `\"5ms\"`, `\"32MiB\"`, `\"50%\"`",
    ),
    code(
        "AI0007",
        "a value out of its range",
        "Beyond these limits the setting defeats its purpose, or nothing can work.",
        CONFIG,
        [
            "[mysql]\nurl = \"mysql://app@127.0.0.1/app\"\nconnect_timeout = \"1ms\"\n",
            "[mysql]\nurl = \"mysql://app@127.0.0.1/app\"\nconnect_timeout = \"1s\"\n",
        ],
        "choose a value within the limits that the message names",
    ),
    code(
        "AI0008",
        "a value that is none of the choices",
        "The key takes one of a few words.",
        CONFIG,
        ["[log]\nlevel = \"loud\"\n", "[log]\nlevel = \"debug\"\n"],
        "take one of the words that the message lists",
    ),
    code(
        "AI0009",
        "a variable that is not set, or is written wrongly",
        "`${NAME}` is replaced by the environment's variable. An empty text in its place would connect somebody to somewhere else.",
        CONFIG,
        [
            "[mysql]\nurl = \"mysql://app:${THIS_IS_NOT_SET}@127.0.0.1/app\"\n",
            "[mysql]\nurl = \"mysql://app@127.0.0.1/app\"\n",
        ],
        "set it in the environment of the process; `$$` is a plain dollar sign",
    ),
    code(
        "AI0010",
        "a file that the config names cannot be read",
        "A password or an authority that can't be read now can't be used later.",
        CONFIG,
        [
            "[mysql]\nurl = \"mysql://app@127.0.0.1/app\"\npassword_file = \"nowhere/password\"\n",
            "[mysql]\nurl = \"mysql://app@127.0.0.1/app\"\n",
        ],
        "correct the path, which is relative to the config file, or make the file readable",
    ),
    code(
        "AI0011",
        "`mysql.url` is malformed",
        "Host, account and database are taken from it.",
        CONFIG,
        ["[mysql]\nurl = \"127.0.0.1/app\"\n", "[mysql]\nurl = \"mysql://app@127.0.0.1/app\"\n"],
        "write `mysql://user:password@host:port/database`",
    ),
    code(
        "AI0012",
        "an address is malformed",
        "It is no `host:port`, or no list of them.",
        CONFIG,
        ["[kafka]\nbrokers = \"kafka-1:port\"\n", "[kafka]\nbrokers = \"127.0.0.1:9092,localhost:9093\"\n"],
        "write `host:port`, several separated by commas",
    ),
    code(
        "AI0013",
        "a name that is not accepted",
        "Names of pipelines, topics, tables, columns and lookups end up in SQL, in file names and in metrics.",
        CONFIG,
        [
            "[pipelines.users]\ntopic = \"user cdc\"\ntable = \"enriched_user\"\nkey = [\"user_id\"]\n",
            "[pipelines.users]\ntopic = \"user_cdc\"\ntable = \"enriched_user\"\nkey = [\"user_id\"]\n",
        ],
        "use the characters that the message allows",
    ),
    code(
        "AI0014",
        "two pipelines read one topic in one group",
        "The brokers would share the partitions out between them, and each pipeline would see a part of the events.",
        CONFIG,
        [
            "[pipelines.users]\ntopic = \"user_cdc\"\ntable = \"enriched_user\"\nkey = [\"user_id\"]\n\n\
             [pipelines.copy]\ntopic = \"user_cdc\"\ntable = \"copy\"\nkey = [\"user_id\"]\nqueries = \"queries/users\"\nschemas = \"schemas/users\"\n\n\
             [pipelines.copy.lookups.countries]\nfile = \"queries/users/lookups/countries.csv\"\nkey = [\"code\"]\n",
            "[pipelines.users]\ntopic = \"user_cdc\"\ntable = \"enriched_user\"\nkey = [\"user_id\"]\n\n\
             [pipelines.copy]\ntopic = \"user_cdc\"\ngroup = \"copy\"\ntable = \"copy\"\nkey = [\"user_id\"]\nqueries = \"queries/users\"\nschemas = \"schemas/users\"\n\n\
             [pipelines.copy.lookups.countries]\nfile = \"queries/users/lookups/countries.csv\"\nkey = [\"code\"]\n",
        ],
        "give one of them a `group` of its own",
    ),
    code(
        "AI0015",
        "two pipelines write one table",
        "A table equals the fold of one topic. Two writers would overwrite each other's rows by versions that can't be compared.",
        CONFIG,
        [
            "[pipelines.users]\ntopic = \"user_cdc\"\ntable = \"enriched_user\"\nkey = [\"user_id\"]\n\n\
             [pipelines.more]\ntopic = \"more_cdc\"\ntable = \"enriched_user\"\nkey = [\"user_id\"]\nqueries = \"queries/users\"\nschemas = \"schemas/users\"\n\n\
             [pipelines.more.lookups.countries]\nfile = \"queries/users/lookups/countries.csv\"\nkey = [\"code\"]\n",
            "[pipelines.users]\ntopic = \"user_cdc\"\ntable = \"enriched_user\"\nkey = [\"user_id\"]\n\n\
             [pipelines.more]\ntopic = \"more_cdc\"\ntable = \"more_user\"\nkey = [\"user_id\"]\nqueries = \"queries/users\"\nschemas = \"schemas/users\"\n\n\
             [pipelines.more.lookups.countries]\nfile = \"queries/users/lookups/countries.csv\"\nkey = [\"code\"]\n",
        ],
        "give each a table of its own",
    ),
    code(
        "AI0016",
        "a Kafka property that cannot be set, does not exist, or has a value that is not accepted",
        "Some properties belong to the guarantees: offsets come from MySQL, only committed records are read.",
        CONFIG,
        [
            "[kafka]\nbrokers = \"127.0.0.1:9092\"\n\n[kafka.properties]\n\"enable.auto.commit\" = true\n",
            "[kafka]\nbrokers = \"127.0.0.1:9092\"\n\n[kafka.properties]\n\"fetch.min.bytes\" = 1\n",
        ],
        "remove it; docs/config.md lists those that can't be set, each with the reason",
    ),
    code(
        "AI0017",
        "keys that contradict each other",
        "Only one of them could be obeyed, and which one would be an accident.",
        CONFIG,
        [
            "[pipelines.users.lookups.countries]\nfile = \"queries/users/lookups/countries.csv\"\nrefresh = \"5m\"\nkey = [\"code\"]\n",
            "[pipelines.users.lookups.countries]\nfile = \"queries/users/lookups/countries.csv\"\nkey = [\"code\"]\n",
        ],
        "keep one of the two",
    ),
    code(
        "AI0018",
        "warning: a secret that others can read",
        "A password in a file that is copied, mailed and checked in is soon known to many.",
        CONFIG,
        ["[mysql]\nurl = \"mysql://app:sesame@127.0.0.1/app\"\n", "[mysql]\nurl = \"mysql://app@127.0.0.1/app\"\n"],
        "take it from a variable (`${NAME}`) or from `password_file`, which only this account can read",
    ),
    code(
        "AI0019",
        "a connection or listener that others can read or meddle with",
        "What leaves this machine in plain text, passwords and rows, can be read and changed on the way.",
        CONFIG,
        ["[kafka]\nbrokers = \"kafka-1.example.org:9092\"\n", "[kafka]\nbrokers = \"127.0.0.1:9092\"\n"],
        "encrypt it (`security.protocol`, `ca_file`), or accept it by name with `allow_insecure = true`",
    ),
];
