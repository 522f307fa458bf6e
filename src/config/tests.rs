use super::*;
use crate::diagnostic::{Severity, render, render_json};

mod reference;

const SMALL: &str = r#"
[kafka]
brokers = "127.0.0.1:9092"
[mysql]
url = "mysql://app@127.0.0.1/app"
[pipelines.users]
topic = "user_cdc"
table = "enriched_user"
key = ["user_id"]
"#;

fn environment(name: &str) -> Option<String> {
    match name {
        "MYSQL_PASSWORD" => Some("hunter2@/".to_owned()),
        "EVENTS" => Some("100".to_owned()),
        "WAIT" => Some("7ms".to_owned()),
        "ON" => Some("true".to_owned()),
        "SECRET" => Some("hunter2".to_owned()),
        _ => None,
    }
}

fn parse(text: &str) -> Result<(Config, Vec<Diagnostic>), Vec<Diagnostic>> {
    Config::parse(text, Path::new("conf/afterimage.toml"), &environment)
}

/// The config in `text`, which has no fault and no warning.
fn accepted(text: &str) -> Config {
    let (config, warnings) = parse(text).unwrap();
    assert_eq!(warnings, []);
    config
}

fn shown(fault: &Diagnostic) -> String {
    let place = fault.span.map_or_else(|| "-".to_owned(), |span| format!("{}:{}", span.line, span.column));
    let help = fault.help.as_deref().unwrap_or_default();
    format!("{} {place} {} | {help}", fault.code, fault.message)
}

/// The faults of `text`, one per line: code, line:column, message, help.
fn faults(text: &str) -> Vec<String> {
    parse(text).unwrap_err().iter().map(shown).collect()
}

/// The one fault of [`SMALL`] with `from` replaced by `to`.
fn fault_with(from: &str, to: &str) -> String {
    assert!(SMALL.contains(from), "{from}");
    let found = faults(&SMALL.replacen(from, to, 1));
    assert_eq!(found.len(), 1, "{found:#?}");
    found.into_iter().next().unwrap()
}

/// The one fault of [`SMALL`] with `lines` after it, inside of `[pipelines.users]`.
fn fault_of_pipeline(lines: &str) -> String {
    fault_with("key = [\"user_id\"]\n", &format!("key = [\"user_id\"]\n{lines}\n"))
}

#[test]
fn the_shipped_example_is_read_as_it_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/afterimage.toml");
    let (config, warnings) = Config::load(&path, &environment).unwrap();
    assert_eq!(warnings, []);
    assert_eq!(config.kafka.brokers, "127.0.0.1:9092");
    assert_eq!((config.mysql.user.as_str(), config.mysql.password.expose()), ("app", "hunter2@/"));
    let users = &config.pipelines["users"];
    assert_eq!(users.queries, path.with_file_name("queries/users"));
    assert_eq!(users.batch, Batch { max_events: 32768, max_bytes: 7 << 20, max_wait: Duration::from_millis(5) });
    let from = LookupFrom::File(path.with_file_name("queries/users/lookups/countries.csv"));
    assert_eq!(users.lookups["countries"], Lookup { from, key: vec!["code".to_owned()] });
}

#[test]
fn what_is_left_out_has_its_default() {
    let config = accepted(SMALL);
    assert_eq!(config.kafka.group, "afterimage");
    assert_eq!(config.kafka.properties, Properties::default());
    assert_eq!((config.mysql.port, config.mysql.database.as_str(), &config.mysql.tls), (3306, "app", &Tls::Off));
    assert!(config.mysql.password.is_empty());
    assert_eq!(config.log, Log { format: LogFormat::Text, level: LogLevel::Info });
    assert_eq!(config.http, Http { enabled: true, listen: ([127, 0, 0, 1], 9190).into() });
    let users = &config.pipelines["users"];
    assert_eq!((users.name.as_str(), users.group.as_str()), ("users", "afterimage"));
    assert_eq!(users.version, VersionBy::EventTime);
    assert_eq!(users.timestamp_unit, TimestampUnit::Millisecond);
    assert_eq!(users.on_error, OnError::HoldKey);
    assert_eq!(users.queries, Path::new("conf/queries/users"));
    assert_eq!(users.schemas, Path::new("conf/schemas/users"));
    assert_eq!(users.max_future_skew, Duration::from_secs(3600));
    assert_eq!(users.tombstone_retention, Duration::from_secs(7 * 86400));
    assert_eq!(users.metrics_interval, Duration::from_secs(10));
    assert_eq!(users.max_refused, MaxRefused { share: 0.5, window: Duration::from_secs(60), min_events: 1000 });
    assert!(users.lookups.is_empty());
}

#[test]
fn every_default_passes_its_own_check() {
    let text = SMALL.to_owned() + "batch = {}\nmax_refused = {}\n[http]\n[log]\n";
    assert_eq!(format!("{:?}", accepted(&text)), format!("{:?}", accepted(SMALL)));
}

#[test]
fn several_pipelines_are_read_each_with_its_own() {
    let text = SMALL.to_owned()
        + r#"
group = "own"
version = "arrival"
timestamp_unit = "ns"
on_error = "stop"
[pipelines.orders]
topic = "user_cdc"
table = "orders"
key = ["shop", "id"]
on_error = "skip_event"
lookups.rates = { mysql = "SELECT a, b FROM rates", key = ["a"], refresh = "5m" }
lookups.sizes = { mysql = "SELECT a FROM sizes", key = ["a"] }
"#;
    let config = accepted(&text);
    let (users, orders) = (&config.pipelines["users"], &config.pipelines["orders"]);
    assert_eq!((users.group.as_str(), orders.group.as_str()), ("own", "afterimage"));
    assert_eq!((users.version, users.on_error), (VersionBy::Arrival, OnError::Stop));
    assert_eq!(users.timestamp_unit, TimestampUnit::Nanosecond);
    assert_eq!(orders.key, ["shop", "id"]);
    let query =
        |query: &str, seconds| LookupFrom::MySql { query: query.to_owned(), refresh: Duration::from_secs(seconds) };
    assert_eq!(orders.lookups["rates"].from, query("SELECT a, b FROM rates", 300));
    assert_eq!(orders.lookups["sizes"].from, query("SELECT a FROM sizes", 60));
}

#[test]
fn variables_stand_for_texts_numbers_and_flags() {
    let text = SMALL.to_owned()
        + "batch = { max_events = \"${EVENTS}\", max_wait = \"${WAIT}\" }\n[http]\nenabled = \"${ON}\"\n";
    let config = accepted(&text.replace("\"user_cdc\"", "\"${TOPIC:-user_cdc}\""));
    let users = &config.pipelines["users"];
    assert_eq!((users.batch.max_events, users.batch.max_wait), (100, Duration::from_millis(7)));
    assert_eq!(users.topic, "user_cdc");
}

#[test]
fn kafka_properties_pass_through() {
    let text = SMALL.replace(
        "[mysql]",
        "[kafka.properties]\nsecurity.protocol = \"SSL\"\n\"sasl.password\" = \"${SECRET}\"\nsession.timeout.ms = 6000\n\
         ssl.ca.location = \"certs/ca.pem\"\nssl.key.location = \"/k.pem\"\nsocket.keepalive.enable = true\n[mysql]",
    );
    let config = accepted(&text);
    let expected = [
        ("sasl.password", "hunter2"),
        ("security.protocol", "SSL"),
        ("session.timeout.ms", "6000"),
        ("socket.keepalive.enable", "true"),
        ("ssl.ca.location", "conf/certs/ca.pem"),
        ("ssl.key.location", "/k.pem"),
    ];
    let found: Vec<(&str, &str)> =
        config.kafka.properties.expose().iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(found, expected);
}

#[test]
fn properties_that_the_promises_own_are_refused_by_name() {
    for (name, reason) in REFUSED {
        let fault = fault_with("[mysql]", &format!("[kafka.properties]\n{name} = \"x\"\n[mysql]"));
        let expected = format!("the Kafka property \"{name}\" cannot be set | remove it: {reason}");
        assert!(fault.starts_with("AI0016 5:") && fault.ends_with(&expected), "{fault}");
    }
    let classic = SMALL.replace("[mysql]", "[kafka.properties]\n\"group.protocol\" = \"classic\"\n[mysql]");
    assert!(parse(&classic).is_ok());
    assert!(
        fault_with("[mysql]", "[kafka.properties]\n\"group.protocol\" = \"consumer\"\n[mysql]").starts_with("AI0016")
    );
}

// Proves: P6
#[test]
fn properties_that_do_not_exist_or_have_impossible_values_are_faults() {
    let fault = |line: &str| fault_with("[mysql]", &format!("[kafka.properties]\n{line}\n[mysql]"));
    assert!(fault("sesion.timeout.ms = 1").contains("session.timeout.ms"));
    let odd = fault("session.timeout.ms = \"hunter2\"");
    assert!(odd.starts_with("AI0016 5:") && !odd.contains("hunter2"), "{odd}");
}

// Proves: P6, R61
#[test]
fn certificates_are_checked_unless_that_is_given_up_on_purpose() {
    let lines = "[kafka.properties]\nenable.ssl.certificate.verification = false\n[mysql]";
    assert!(fault_with("[mysql]", lines).starts_with("AI0019 5:"));
    assert!(parse(&SMALL.replace("[mysql]", &format!("allow_insecure = true\n{lines}"))).is_ok());
}

#[test]
fn each_fault_has_its_code_place_and_remedy() {
    let cases = [
        (
            fault_of_pipeline("topik = \"x\""),
            "AI0003 10:1 unknown key \"topik\" in [pipelines.users] | did you mean \"topic\"?",
        ),
        (
            fault_of_pipeline("brokers = \"x\""),
            "AI0003 10:1 unknown key \"brokers\" in [pipelines.users] | \"brokers\" belongs in [kafka]",
        ),
        (
            fault_with("[kafka]", "[kafka]\ntopik = 1"),
            "AI0003 3:1 unknown key \"topik\" in [kafka] | \"topic\" belongs in [pipelines.<name>]",
        ),
        (
            fault_with("[kafka]", "[kafka]\nzzz = 1"),
            "AI0003 3:1 unknown key \"zzz\" in [kafka] | known here: brokers, group, allow_insecure, properties",
        ),
        (fault_with("[mysql]", "[mysqld]\n[mysql]"), "AI0003 4:2 unknown key \"mysqld\" | did you mean \"mysql\"?"),
        (
            fault_with("topic = \"user_cdc\"", ""),
            "AI0004 6:12 \"topic\" is missing in [pipelines.users] | add it: Topic to read. One name, no pattern.",
        ),
        (fault_with("\"user_cdc\"", "7"), "AI0005 7:9 pipelines.users.topic must be a string, found an integer | "),
        (
            fault_with("[\"user_id\"]", "\"user_id\""),
            "AI0005 9:7 pipelines.users.key must be a list of strings, found a string | write it in brackets: [\"...\"]",
        ),
        (
            fault_with("[\"user_id\"]", "[\"user_id\", 7]"),
            "AI0005 9:19 pipelines.users.key must be a list of strings, found an integer | ",
        ),
        (fault_of_pipeline("batch = 7"), "AI0005 10:9 pipelines.users.batch must be a table, found an integer | "),
        (
            fault_of_pipeline("batch = { max_events = 1.5 }"),
            "AI0005 10:24 pipelines.users.batch.max_events must be a whole number, found a float | ",
        ),
        (
            fault_with("[kafka]", "[http]\nenabled = \"yes\"\n[kafka]"),
            "AI0005 3:11 http.enabled must be true or false, found a string | ",
        ),
        (
            fault_of_pipeline("max_future_skew = \"5 minuts\""),
            "AI0006 10:19 pipelines.users.max_future_skew: unknown unit \"minuts\" in \"5 minuts\" | \
             did you mean \"m\"? durations are written like \"5ms\"; units: ns, us, ms, s, m, h, d",
        ),
        (
            fault_of_pipeline("batch = { max_wait = 5 }"),
            "AI0006 10:22 pipelines.users.batch.max_wait must be a string with a unit, found an integer | write it like \"5ms\"",
        ),
        (
            fault_of_pipeline("batch = { max_bytes = 5 }"),
            "AI0006 10:23 pipelines.users.batch.max_bytes must be a string with a unit, found an integer | write it like \"32MiB\"",
        ),
        (
            fault_of_pipeline("max_refused = { share = 0.5 }"),
            "AI0006 10:25 pipelines.users.max_refused.share must be a string with a unit, found a float | write it like \"50%\"",
        ),
        (
            fault_of_pipeline("batch = { max_events = 0 }"),
            "AI0007 10:24 pipelines.users.batch.max_events must be a whole number from 1 to 1000000 | ",
        ),
        (
            fault_of_pipeline("batch = { max_events = -1 }"),
            "AI0007 10:24 pipelines.users.batch.max_events must be a whole number from 1 to 1000000 | ",
        ),
        (
            fault_of_pipeline("batch = { max_bytes = \"2GiB\" }"),
            "AI0007 10:23 pipelines.users.batch.max_bytes must be from 1KiB to 1GiB | ",
        ),
        (
            fault_of_pipeline("batch = { max_wait = \"1h\" }"),
            "AI0007 10:22 pipelines.users.batch.max_wait must be from 0s to 1m | ",
        ),
        (fault_with("[\"user_id\"]", "[]"), "AI0007 9:7 pipelines.users.key must have from 1 to 16 columns | "),
        (
            fault_of_pipeline("on_error = \"hold\""),
            "AI0008 10:12 \"hold\" is no value of pipelines.users.on_error | did you mean \"hold_key\"? choose from: hold_key, skip_event, stop",
        ),
        (
            fault_of_pipeline("version = \"source_position\""),
            "AI0008 10:11 pipelines.users.version = \"source_position\" is not there yet | choose event_time or arrival until it is",
        ),
        (
            fault_with("\"user_cdc\"", "\"${TOPIC}\""),
            "AI0009 7:9 environment variable TOPIC is not set | set it, or give a default: \"${TOPIC:-...}\"",
        ),
        (
            fault_with("\"user_cdc\"", "\"$TOPIC\""),
            "AI0009 7:9 a dollar sign before a name | a variable is written \"${NAME}\" or \"${NAME:-default}\", a dollar sign \"$$\"",
        ),
        (
            fault_with("127.0.0.1:9092", "127.0.0.1:x"),
            "AI0012 3:11 kafka.brokers is no list of host:port | write it like \"kafka-1:9092,kafka-2:9092\"; user and password go into [kafka.properties]",
        ),
        (
            fault_with("[kafka]", "[http]\nlisten = \"9190\"\n[kafka]"),
            "AI0012 3:10 http.listen is no address with a port | write it like \"127.0.0.1:9190\" or \"[::1]:9190\"",
        ),
        (
            fault_with("[pipelines.users]", "[pipelines.\"a b\"]"),
            "AI0013 6:12 the pipeline's name must be letters (a-z), digits, _ and -, and start with a letter or digit | ",
        ),
        (
            fault_with("\"user_cdc\"", "\"^user\""),
            "AI0013 7:9 pipelines.users.topic must be letters (a-z), digits, ., _ and -: one topic, no pattern | ",
        ),
        (
            fault_with("\"enriched_user\"", "\"afterimage_x\""),
            "AI0013 8:9 pipelines.users.table is a table of afterimage's own | ",
        ),
        (
            fault_with("\"user_id\"", "\"user id\""),
            "AI0013 9:8 pipelines.users.key: this column must be letters (a-z), digits and _, and not start with a digit | ",
        ),
        (
            fault_with("\"user_id\"", "\"user_id\", \"USER_ID\""),
            "AI0013 9:19 pipelines.users.key: this column is there twice | ",
        ),
        (
            fault_of_pipeline("lookups.events = { file = \"a.csv\", key = [\"a\"] }"),
            "AI0013 10:9 the lookup's name is taken: events, held, known are there in every pipeline | ",
        ),
        (
            fault_of_pipeline("lookups.a = { key = [\"a\"] }"),
            "AI0004 10:9 [pipelines.users.lookups.a] has neither file nor mysql nor topic | add file = \"<path>\", mysql = \"SELECT ...\" or topic = \"<topic>\"",
        ),
        (
            fault_of_pipeline("lookups.a = { file = \"a\", mysql = \"b\", key = [\"a\"] }"),
            "AI0017 10:35 [pipelines.users.lookups.a] has both file and mysql | keep one of the two",
        ),
        (
            fault_of_pipeline("lookups.a = { file = \"a\", refresh = \"5s\", key = [\"a\"] }"),
            "AI0017 10:37 pipelines.users.lookups.a.refresh has no meaning for a file | remove it: a file is read again when it changes",
        ),
        (
            fault_of_pipeline("tombstone_retention = \"30m\""),
            "AI0017 10:23 pipelines.users.tombstone_retention is below pipelines.users.max_future_skew | \
             a delete dated in the future would be forgotten before its own time comes: keep it longer",
        ),
        (
            fault_with("[mysql]", "[kafka.properties]\na = []\n[mysql]"),
            "AI0005 5:5 the Kafka property \"a\" must be a string, a number, true or false, found a list | ",
        ),
        (
            fault_with("[mysql]", "[kafka.properties]\nclient.rack = 1\n\"client.rack\" = 2\n[mysql]"),
            "AI0017 6:1 the Kafka property \"client.rack\" is set twice | keep one of the two",
        ),
    ];
    for (found, expected) in cases {
        assert_eq!(found, expected);
    }
}

#[test]
fn pipelines_share_neither_a_table_nor_a_topic_within_a_group() {
    let other = "[pipelines.z]\ntopic = \"TOPIC\"\ntable = \"TABLE\"\nkey = [\"id\"]\n";
    let with = |topic: &str, table: &str| SMALL.to_owned() + &other.replace("TOPIC", topic).replace("TABLE", table);
    assert_eq!(
        faults(&with("user_cdc", "Enriched_User")),
        [
            "AI0015 12:9 the pipelines \"users\" and \"z\" write one table | give each a table of its own",
            "AI0014 11:9 the pipelines \"users\" and \"z\" read one topic in one group: each would get a part of it | \
             give one of them a group of its own: group = \"...\"",
        ]
    );
    assert!(parse(&with("orders", "orders")).is_ok());
}

#[test]
fn without_pipelines_there_is_nothing_to_do() {
    let text = &SMALL[..SMALL.find("[pipelines").unwrap()];
    let expected = "AI0004 - there is no pipeline | add one: [pipelines.users] with topic, table and key";
    assert_eq!(faults(text), [expected]);
}

#[test]
fn an_empty_file_names_all_that_is_required() {
    let codes: Vec<&str> = parse("").unwrap_err().iter().map(|fault| fault.code).collect();
    assert_eq!(codes, ["AI0004", "AI0004", "AI0004"], "brokers, url, pipelines");
}

#[test]
fn broken_toml_is_placed_and_does_not_hide_other_faults() {
    let text = SMALL.replace("\"user_cdc\"", "\"user_cdc").replace("[kafka]", "[kafka]\nbrokrs = 1");
    let found = faults(&text);
    assert!(found[0].starts_with("AI0002 8:"), "{found:#?}");
    assert!(
        found.contains(&"AI0003 3:1 unknown key \"brokrs\" in [kafka] | did you mean \"brokers\"?".to_owned()),
        "{found:#?}"
    );
    assert!(
        !found.iter().any(|fault| fault.starts_with("AI0004")),
        "what a broken line lost is not missing: {found:#?}"
    );
    assert!(faults(&(SMALL.to_owned() + "topic = \"again\"\n"))[0].starts_with("AI0002 10:1 duplicate key"));
}

#[test]
fn all_faults_are_found_at_once() {
    let text = r#"
[kafka]
broker = "b"
[kafka.properties]
group.id = "x"
[mysql]
url = "mysql://app:${NOPE}@db:x/"
[log]
level = "loud"
[pipelines.users]
topic = "a b"
table = "x.y"
key = []
batch = { max_events = 0, max_bytes = "1", max_wait = "9h" }
[pipelines.users.lookups.held]
key = ["a"]
"#;
    let found = parse(text).unwrap_err();
    let codes: Vec<&str> = found.iter().map(|fault| fault.code).collect();
    let mut sorted = codes.clone();
    sorted.sort_unstable();
    assert_eq!(
        sorted,
        [
            "AI0003", "AI0004", "AI0004", "AI0006", "AI0007", "AI0007", "AI0007", "AI0008", "AI0009", "AI0013",
            "AI0013", "AI0013", "AI0016",
        ],
        "{:#?}",
        found.iter().map(shown).collect::<Vec<_>>()
    );
}

#[test]
fn faults_are_rendered_with_their_lines() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("afterimage.toml");
    std::fs::write(&path, SMALL.replace("topic =", "topik =").replace("app@", "app:hunter2@") + "on_error = 5\n")
        .unwrap();
    let faults = Config::load(&path, &environment).unwrap_err();
    let mut out = Vec::new();
    render(&faults, &mut out, false).unwrap();
    let text = String::from_utf8(out).unwrap().replace(&path.display().to_string(), "afterimage.toml");
    let expected = "\
warning[AI0018]: the password is written in the config file
 --> afterimage.toml:5:7
  |
5 | url = \"mysql://app:*******@127.0.0.1/app\"
  |       ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  |
  = help: use a variable, \"mysql://user:${MYSQL_PASSWORD}@...\", or password_file

error[AI0004]: \"topic\" is missing in [pipelines.users]
 --> afterimage.toml:6:12
  |
6 | [pipelines.users]
  |            ^^^^^
  |
  = help: add it: Topic to read. One name, no pattern.

error[AI0003]: unknown key \"topik\" in [pipelines.users]
 --> afterimage.toml:7:1
  |
7 | topik = \"user_cdc\"
  | ^^^^^
  |
  = help: did you mean \"topic\"?

error[AI0005]: pipelines.users.on_error must be a string, found an integer
  --> afterimage.toml:10:12
   |
10 | on_error = 5
   |            ^

3 errors, 1 warning
";
    assert_eq!(text, expected);
}

#[test]
fn a_password_comes_from_a_file_and_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("afterimage.toml");
    let password = folder.path().join("password");
    std::fs::write(&path, SMALL.replace("[mysql]", "[mysql]\npassword_file = \"password\"")).unwrap();
    let missing = Config::load(&path, &environment).unwrap_err();
    assert!(shown(&missing[0]).starts_with("AI0010 5:17 cannot read mysql.password_file"), "{missing:?}");
    std::fs::write(&password, "hunter2 \r\n").unwrap();
    let (config, warnings) = Config::load(&path, &environment).unwrap();
    assert_eq!(config.mysql.password.expose(), "hunter2 ");
    let codes: Vec<(&str, Severity)> = warnings.iter().map(|fault| (fault.code, fault.severity)).collect();
    assert_eq!(codes, [("AI0018", Severity::Warning)], "the file is readable by everybody");
    std::fs::write(&password, "rotated").unwrap();
    assert_eq!(config.mysql.current_password().unwrap().expose(), "rotated");
    std::fs::remove_file(&password).unwrap();
    assert_eq!(config.mysql.current_password().unwrap_err().kind, Kind::SinkUnavailable);
}

#[test]
fn one_password_is_enough() {
    let text = SMALL.replace("app@", "app:${SECRET}@").replace("[mysql]", "[mysql]\npassword_file = \"x\"");
    let codes: Vec<&str> = parse(&text).unwrap_err().iter().map(|fault| fault.code).collect();
    assert_eq!(codes, ["AI0017", "AI0010"]);
}

// Proves: P6, R61
#[test]
fn off_loopback_the_connection_is_encrypted_unless_that_is_given_up_on_purpose() {
    let tls = |text: &str| accepted(text).mysql.tls;
    for loopback in ["127.0.0.1", "127.8.0.1", "localhost", "[::1]"] {
        assert_eq!(tls(&SMALL.replace("app@127.0.0.1", &format!("app@{loopback}"))), Tls::Off, "{loopback}");
    }
    let remote = SMALL.replace("app@127.0.0.1", "app@db.example.org");
    assert_eq!(tls(&remote), Tls::Verified { ca_file: None });
    assert_eq!(tls(&remote.replace("[mysql]", "[mysql]\nallow_insecure = true")), Tls::Off);
    let authority = tempfile::NamedTempFile::new().unwrap();
    let line = format!("[mysql]\nca_file = {:?}", authority.path());
    let expected = Tls::Verified { ca_file: Some(authority.path().to_owned()) };
    assert_eq!(tls(&SMALL.replace("[mysql]", &line)), expected);
    let both = remote.replace("[mysql]", &format!("{line}\nallow_insecure = true"));
    assert!(faults(&both)[0].starts_with("AI0017"), "contradiction");
    assert!(
        fault_with("[mysql]", "[mysql]\nca_file = \"nope.pem\"")
            .starts_with("AI0010 5:11 cannot read mysql.ca_file conf/nope.pem")
    );
}

// Proves: P6, R61
#[test]
fn brokers_off_loopback_are_spoken_to_with_tls_unless_that_is_given_up_on_purpose() {
    let with = |brokers: &str, lines: &str| {
        SMALL.replace("127.0.0.1:9092", brokers).replace("[mysql]", &format!("{lines}\n[mysql]"))
    };
    let plain = ["", "[kafka.properties]\nsecurity.protocol = \"SASL_plaintext\"\nsasl.username = \"a\""];
    let encrypted = "[kafka.properties]\n\"security.protocol\" = \"ssl\"";
    for loopback in
        ["localhost", "LOCALHOST:9092", "127.0.0.1:1,127.9.9.9:2", "[::1]:9092", "PLAINTEXT://127.0.0.1:9092"]
    {
        assert!(parse(&with(loopback, "")).is_ok(), "{loopback}");
    }
    for remote in [
        "kafka-1:9092",
        "127.0.0.1:9092,kafka-1:9092",
        "127.0.0.1.example.org:9092",
        "localhost.example.org",
        "localhost.:9092",
        "127.1:9092",
        "0.0.0.0:9092",
        "[fd00::1]:9092",
        "[::ffff:10.0.0.1]:9092",
        "PLAINTEXT://kafka-1:9092",
        "10.0.0.1",
    ] {
        for lines in plain {
            let found = faults(&with(remote, lines));
            assert_eq!(found.len(), 1, "{remote}: {found:#?}");
            assert!(found[0].starts_with("AI0019 3:11 kafka.brokers is not on loopback"), "{}", found[0]);
            assert!(
                found[0].contains("allow_insecure = true in [kafka]") && !found[0].contains("kafka-1"),
                "{}",
                found[0]
            );
            assert!(parse(&with(remote, &format!("allow_insecure = true\n{lines}"))).is_ok(), "{remote}");
        }
        assert!(parse(&with(remote, encrypted)).is_ok(), "{remote}");
    }
}

// Proves: P6, R61
#[test]
fn a_name_that_only_looks_like_loopback_gets_no_plain_text() {
    for host in ["127.0.0.1.example.org", "localhost.example.org", "localhost.", "127.1", "0.0.0.0", "[fd00::1]"] {
        let config = accepted(&SMALL.replace("app@127.0.0.1", &format!("app@{host}")));
        assert_eq!(config.mysql.tls, Tls::Verified { ca_file: None }, "{host}");
    }
    for host in ["LOCALHOST", "127.0.0.2", "[::ffff:127.0.0.1]"] {
        assert_eq!(accepted(&SMALL.replace("app@127.0.0.1", &format!("app@{host}"))).mysql.tls, Tls::Off, "{host}");
    }
}

#[test]
fn listening_off_loopback_is_warned_about() {
    let (_, warnings) = parse(&(SMALL.to_owned() + "[http]\nlisten = \"0.0.0.0:9190\"\n")).unwrap();
    assert_eq!(warnings.iter().map(|fault| fault.code).collect::<Vec<_>>(), ["AI0019"]);
    assert!(parse(&(SMALL.to_owned() + "[http]\nenabled = false\nlisten = \"0.0.0.0:9190\"\n")).unwrap().1.is_empty());
}

#[test]
fn an_unreadable_file_is_one_fault() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("afterimage.toml");
    assert_eq!(Config::load(&path, &environment).unwrap_err()[0].code, "AI0001");
    std::fs::write(&path, b"\xff").unwrap();
    assert_eq!(Config::load(&path, &environment).unwrap_err()[0].code, "AI0001");
}

/// P6 and the notes on secrets: whatever goes wrong, no secret is shown.
// Proves: P6, R61
#[test]
fn a_secret_never_appears_in_what_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("password"), "hunter2").unwrap();
    let secret = SMALL.replace("app@", "app:hunter2@").replace(
        "[mysql]",
        "[kafka.properties]\nsasl.password = \"hunter2\"\n\"ssl.key.pem\" = '''\nhunter2\n'''\n[mysql]",
    );
    let variants = [
        secret.clone(),
        secret.replace("1/app", "1"),
        secret.replace("@127", "127"),
        secret.replace("sasl.password = \"hunter2\"", "sasl.password = \"hunter2"),
        secret.replace("'''\n[mysql]", "[mysql]"),
        secret.replace("mysql://", "mysql:/"),
        secret.replace("\"user_cdc\"", "\"${SECRET}!\""),
        secret.replace("key = ", "max_future_skew = \"${SECRET}\"\nkey = "),
        secret.replace("key = ", "on_error = \"${SECRET}\"\nkey = "),
        secret.replace("key = ", "batch = { max_events = \"${SECRET}\" }\nkey = "),
        secret.replace("\"127.0.0.1:9092\"", "\"${SECRET}@\""),
        secret.replace("[mysql]", "[kafka.properties.ssl.key]\npem = \"hunter2\n[mysql]\npassword = \"hunter2\""),
        SMALL.replace("[mysql]", "[mysql]\npassword_file = \"password\""),
    ];
    let mut refused = 0;
    for text in variants {
        let path = folder.path().join("afterimage.toml");
        std::fs::write(&path, &text).unwrap();
        let (config, faults) = match Config::load(&path, &environment) {
            Ok((config, warnings)) => (format!("{config:?}"), warnings),
            Err(faults) => (String::new(), faults),
        };
        refused += usize::from(config.is_empty());
        let mut out = format!("{config}{faults:?}").into_bytes();
        render(&faults, &mut out, false).unwrap();
        render_json(&faults, &mut out).unwrap();
        let shown = String::from_utf8(out).unwrap();
        assert!(!shown.contains("hunter2"), "{shown}");
    }
    assert_eq!(refused, 11, "all but the first and the last are faulty");
}
