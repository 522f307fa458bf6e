//! From the file's tables to [`Config`]: one function per table. Each reads all it can before it gives up.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use toml::de::{DeTable, DeValue};

use super::reader::{Place, Reader, Table, Text, code};
use super::url::UrlFault;
use super::{
    Batch, Config, Http, Kafka, Log, LogFormat, LogLevel, MaxRefused, MySql, OnError, Pipeline, Properties, Secret,
    TimestampUnit, Tls, VersionBy, is_loopback, kafka, keys, lookups, names, read_password, url,
};
use crate::source;
use crate::target::MAX_KEY_COLUMNS;

/// What could be read: the whole, and pipelines by themselves.
pub(super) struct Read {
    pub config: Option<Config>,
    pub pipelines: BTreeMap<String, Pipeline>,
    /// Names of the other pipelines.
    pub unread: Vec<String>,
}

pub(super) fn config<'d>(reader: &Reader<'d>, document: &'d DeTable<'d>) -> Read {
    let root = reader.root(document);
    let kafka = kafka_section(reader, &root);
    let mysql = mysql_section(reader, &root);
    let http = http_section(reader, &root);
    let log = log_section(reader, &root);
    let group = kafka.as_ref().map_or("", |kafka| kafka.group.as_str());
    let (pipelines, unread) = pipelines(reader, &root, group);
    let whole = !pipelines.is_empty() && unread.is_empty();
    let config = match (kafka, mysql, http, log) {
        (Some(kafka), Some(mysql), Some(http), Some(log)) if whole => {
            Some(Config { path: reader.file.to_owned(), kafka, mysql, http, log, pipelines: pipelines.clone() })
        }
        _ => None,
    };
    Read { config, pipelines, unread }
}

fn kafka_section<'d>(reader: &Reader<'d>, root: &Table<'d>) -> Option<Kafka> {
    let table = reader.table(root, "kafka", &keys::KAFKA);
    let brokers = reader.text(&table, "brokers").filter(|text| brokers_are_well_formed(reader, text));
    let group = reader.text(&table, "group").filter(|text| {
        let empty = text.value.trim().is_empty();
        if empty {
            reader.fault(code::NAME, text.place.as_ref(), "kafka.group is empty", "");
        }
        !empty
    });
    let allow_insecure = reader.flag(&table, "allow_insecure");
    let properties = properties(reader, &table, allow_insecure.unwrap_or_default());
    if let (Some(brokers), Some(false)) = (&brokers, allow_insecure) {
        refuse_plain_text(reader, brokers, &properties);
    }
    Some(Kafka { brokers: brokers?.value, group: group?.value, properties })
}

/// What leaves this machine is encrypted, unless somebody says by name that it needn't be.
fn refuse_plain_text(reader: &Reader<'_>, brokers: &Text, properties: &Properties) {
    let protocol = properties.expose().get("security.protocol").map_or("plaintext", String::as_str);
    let plain = ["plaintext", "sasl_plaintext"].iter().any(|plain| plain.eq_ignore_ascii_case(protocol));
    if plain && !brokers.value.split(',').all(|broker| is_loopback(broker_host(broker.trim()))) {
        // The host itself isn't shown: it may come from a variable, and be something else by mistake.
        let what = "kafka.brokers is not on loopback, and what is sent there is not encrypted";
        let help = "set security.protocol = \"ssl\" or \"sasl_ssl\" in [kafka.properties], \
                    or accept that with allow_insecure = true in [kafka]";
        reader.fault(code::INSECURE, brokers.place.as_ref(), what, help);
    }
}

/// The host of `host:port`, an IPv6 address without its brackets.
fn broker_host(broker: &str) -> &str {
    let address = broker.rsplit_once("://").map_or(broker, |(_, address)| address);
    let host = match address.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => host,
        _ => address,
    };
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

/// `host:port, host:port`; a protocol before a host is librdkafka's to judge.
fn brokers_are_well_formed(reader: &Reader<'_>, brokers: &Text) -> bool {
    let well_formed = |broker: &str| {
        let broker = broker.rsplit_once("://").map_or(broker, |(_, address)| address);
        let (host, port) = match broker.rsplit_once(':') {
            Some((host, port)) => (host, port.parse::<u16>().is_ok_and(|port| port != 0)),
            None => (broker, true),
        };
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host_fits = match bracketed {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')),
        };
        port && host_fits
    };
    let all = brokers.value.split(',').all(|broker| well_formed(broker.trim()));
    if !all {
        let help = "write it like \"kafka-1:9092,kafka-2:9092\"; user and password go into [kafka.properties]";
        reader.fault(code::ADDRESS, brokers.place.as_ref(), "kafka.brokers is no list of host:port", help);
    }
    all
}

fn properties<'d>(reader: &Reader<'d>, kafka: &Table<'d>, allow_insecure: bool) -> Properties {
    let table = reader.free_table(kafka, "properties", &keys::KAFKA_PROPERTIES);
    let mut found = BTreeMap::new();
    for (name, place, value) in reader.entries(&table) {
        collect_property(reader, name.to_owned(), &place, (value.get_ref(), value.span()), &mut found);
    }
    let mut properties = BTreeMap::new();
    for (name, (value, place)) in found {
        if let Some(reason) = kafka::refused(&name, &value) {
            let what = format!("the Kafka property \"{name}\" cannot be set");
            reader.fault(code::PROPERTY_REFUSED, Some(&place), what, format!("remove it: {reason}"));
        } else if let Some(danger) = kafka::unsafe_setting(&name, &value).filter(|_| !allow_insecure) {
            let help = "remove it, or accept that with allow_insecure = true in [kafka]";
            reader.fault(code::INSECURE, Some(&place), format!("with this \"{name}\" {danger}"), help);
        } else if let Some(what) = source::properties::fault(&name, &value) {
            reader.fault(code::PROPERTY_REFUSED, Some(&place), what, "");
        } else if name.ends_with(".location") && value != "probe" {
            properties.insert(name, reader.beside(&value).to_string_lossy().into_owned());
        } else {
            properties.insert(name, value);
        }
    }
    Properties::new(properties)
}

/// `security.protocol` without quotes is a table in TOML: it is read as the property it was meant to be.
fn collect_property<'d>(
    reader: &Reader<'d>,
    name: String,
    place: &Place,
    (value, value_place): (&'d DeValue<'d>, Place),
    found: &mut BTreeMap<String, (String, Place)>,
) {
    let text = match value {
        DeValue::Table(entries) => {
            for (key, value) in entries {
                let name = format!("{name}.{}", key.get_ref());
                collect_property(reader, name, &key.span(), (value.get_ref(), value.span()), found);
            }
            return;
        }
        DeValue::String(written) => reader.filled(written, &value_place),
        DeValue::Integer(digits) => {
            i128::from_str_radix(digits.as_str(), digits.radix()).ok().map(|number| number.to_string())
        }
        DeValue::Float(digits) => Some(digits.as_str().to_owned()),
        DeValue::Boolean(flag) => Some(flag.to_string()),
        other @ (DeValue::Datetime(_) | DeValue::Array(_)) => {
            let shown = format!("the Kafka property \"{name}\"");
            reader.wrong_type(&shown, "a string, a number, true or false", other, &value_place);
            None
        }
    };
    let Some(text) = text else { return };
    if found.insert(name.clone(), (text, place.clone())).is_some() {
        let what = format!("the Kafka property \"{name}\" is set twice");
        reader.fault(code::CONTRADICTION, Some(place), what, "keep one of the two");
    }
}

fn mysql_section<'d>(reader: &Reader<'d>, root: &Table<'d>) -> Option<MySql> {
    let table = reader.table(root, "mysql", &keys::MYSQL);
    let written = reader.written(&table, "url");
    let url = written.as_ref().and_then(|(written, place)| mysql_url(reader, written, place));
    let password = mysql_password(reader, &table, url.as_ref());
    let connect_timeout = reader.duration(&table, "connect_timeout");
    let tls = tls(reader, &table, url.as_ref().map(|url| url.host.as_str()));
    let url = url?;
    let (password, password_file) = password?;
    Some(MySql {
        host: url.host,
        port: url.port,
        user: url.user,
        password,
        password_file,
        database: url.database,
        tls: tls?,
        connect_timeout: connect_timeout?,
    })
}

fn mysql_url(reader: &Reader<'_>, written: &str, place: &Place) -> Option<url::MySqlUrl> {
    let help = "write it like \"mysql://user:${MYSQL_PASSWORD}@host:3306/database\"";
    match url::parse(written, reader.environment) {
        Ok(url) => Some(url),
        Err(faults) => {
            for fault in faults {
                match fault {
                    UrlFault::Variable(fault) => reader.fault(code::VARIABLE, Some(place), fault.what, fault.help),
                    UrlFault::Malformed(what) => {
                        reader.fault(code::URL, Some(place), format!("mysql.url: {what}"), help);
                    }
                }
            }
            None
        }
    }
}

/// The password and the file it is from, if it is from one.
fn mysql_password<'d>(
    reader: &Reader<'d>,
    table: &Table<'d>,
    url: Option<&url::MySqlUrl>,
) -> Option<(Secret, Option<std::path::PathBuf>)> {
    let place = reader.place(table, "password_file");
    let file = reader.path(table, "password_file");
    let in_url = url.and_then(|url| url.password.clone());
    if place.is_none() {
        if url.is_some_and(|url| url.password_written) {
            let place = reader.place(table, "url");
            let help = "use a variable, \"mysql://user:${MYSQL_PASSWORD}@...\", or password_file";
            reader.warning(code::SECRET_EXPOSED, place.as_ref(), "the password is written in the config file", help);
        }
        return Some((in_url.unwrap_or_default(), None));
    }
    if in_url.is_some() {
        let what = "there is a password in mysql.url and one in mysql.password_file";
        reader.fault(code::CONTRADICTION, place.as_ref(), what, "keep one of the two");
    }
    let file = file?;
    match read_password(&file) {
        Ok(password) => {
            if readable_by_others(&file) {
                let what = format!("everybody on this machine can read {}", file.display());
                let help = format!("chmod 600 {}", file.display());
                reader.warning(code::SECRET_EXPOSED, place.as_ref(), what, help);
            }
            Some((password, Some(file)))
        }
        Err(error) => {
            let what = format!("cannot read mysql.password_file {}: {error}", file.display());
            reader.fault(code::FILE_UNREADABLE, place.as_ref(), what, "paths are relative to the config file");
            None
        }
    }
}

#[cfg(unix)]
fn readable_by_others(path: &std::path::Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|file| file.permissions().mode() & 0o004 != 0)
}

#[cfg(not(unix))]
fn readable_by_others(_: &std::path::Path) -> bool {
    false
}

fn tls<'d>(reader: &Reader<'d>, table: &Table<'d>, host: Option<&str>) -> Option<Tls> {
    let ca_file = reader.path(table, "ca_file");
    let place = reader.place(table, "ca_file");
    let allow_insecure = reader.flag(table, "allow_insecure")?;
    if let Some(path) = &ca_file {
        if let Err(error) = std::fs::File::open(path) {
            let what = format!("cannot read mysql.ca_file {}: {error}", path.display());
            reader.fault(code::FILE_UNREADABLE, place.as_ref(), what, "paths are relative to the config file");
        }
        if allow_insecure {
            let what = "mysql.ca_file asks for encryption, mysql.allow_insecure for none";
            reader.fault(code::CONTRADICTION, place.as_ref(), what, "keep one of the two");
        }
        return Some(Tls::Verified { ca_file });
    }
    let off = allow_insecure || is_loopback(host?);
    Some(if off { Tls::Off } else { Tls::Verified { ca_file: None } })
}

fn http_section<'d>(reader: &Reader<'d>, root: &Table<'d>) -> Option<Http> {
    let table = reader.table(root, "http", &keys::HTTP);
    let enabled = reader.flag(&table, "enabled");
    let listen = reader.text(&table, "listen").and_then(|text| {
        let place = text.place.as_ref();
        let Ok(listen) = text.value.parse::<SocketAddr>() else {
            let help = "write it like \"127.0.0.1:9190\" or \"[::1]:9190\"";
            reader.fault(code::ADDRESS, place, "http.listen is no address with a port", help);
            return None;
        };
        if !listen.ip().to_canonical().is_loopback() && enabled == Some(true) {
            let what = "http.listen is not on loopback: everyone who reaches it can read it";
            reader.warning(code::INSECURE, place, what, "put a proxy that asks who comes before it");
        }
        Some(listen)
    });
    Some(Http { enabled: enabled?, listen: listen? })
}

fn log_section<'d>(reader: &Reader<'d>, root: &Table<'d>) -> Option<Log> {
    let table = reader.table(root, "log", &keys::LOG);
    let format = reader.choice(&table, "format", &[("text", LogFormat::Text), ("json", LogFormat::Json)]);
    let levels = [
        ("error", LogLevel::Error),
        ("warn", LogLevel::Warn),
        ("info", LogLevel::Info),
        ("debug", LogLevel::Debug),
        ("trace", LogLevel::Trace),
    ];
    let level = reader.choice(&table, "level", &levels);
    Some(Log { format: format?, level: level? })
}

/// What a pipeline claims for itself, with the places that say so.
struct Claim {
    pipeline: String,
    group: String,
    topic: Option<Text>,
    table: Option<Text>,
}

/// The pipelines that can be used, and the names of those that can't.
fn pipelines<'d>(reader: &Reader<'d>, root: &Table<'d>, group: &str) -> (BTreeMap<String, Pipeline>, Vec<String>) {
    let all = reader.free_table(root, "pipelines", &keys::PIPELINE);
    let mut pipelines = BTreeMap::new();
    let mut unread = Vec::new();
    let mut claims: Vec<Claim> = Vec::new();
    let named = reader.tables(&all, &keys::PIPELINE);
    if named.is_empty() {
        let help = "add one: [pipelines.users] with topic, table and key";
        reader.fault(code::MISSING_KEY, all.place.as_ref(), "there is no pipeline", help);
    }
    for (name, table) in named {
        if let Some(what) = names::pipeline(&name) {
            reader.fault(code::NAME, table.place.as_ref(), format!("the pipeline's name {what}"), "");
        }
        let mut claim = Claim { pipeline: name.clone(), group: group.to_owned(), topic: None, table: None };
        match pipeline(reader, &table, &mut claim) {
            Some(pipeline) => {
                pipelines.insert(name, pipeline);
            }
            None => unread.push(name),
        }
        claims.push(claim);
    }
    refuse_shared(reader, &claims);
    (pipelines, unread)
}

fn pipeline<'d>(reader: &Reader<'d>, table: &Table<'d>, claim: &mut Claim) -> Option<Pipeline> {
    let name = claim.pipeline.clone();
    claim.topic = named(reader, table, "topic", names::topic);
    claim.table = named(reader, table, "table", names::table);
    let key = columns(reader, table, "key");
    let group = reader.text(table, "group");
    if let Some(group) = &group {
        claim.group.clone_from(&group.value);
    }
    let version = version(reader, table);
    let units = [
        ("s", TimestampUnit::Second),
        ("ms", TimestampUnit::Millisecond),
        ("us", TimestampUnit::Microsecond),
        ("ns", TimestampUnit::Nanosecond),
    ];
    let timestamp_unit = reader.choice(table, "timestamp_unit", &units);
    let reactions = [("hold_key", OnError::HoldKey), ("skip_event", OnError::SkipEvent), ("stop", OnError::Stop)];
    let on_error = reader.choice(table, "on_error", &reactions);
    let queries = reader.path(table, "queries").unwrap_or_else(|| reader.beside(&format!("queries/{name}")));
    let schemas = reader.path(table, "schemas").unwrap_or_else(|| reader.beside(&format!("schemas/{name}")));
    let max_future_skew = reader.duration(table, "max_future_skew");
    let tombstone_retention = reader.duration(table, "tombstone_retention");
    if let (Some(skew), Some(retention)) = (max_future_skew, tombstone_retention)
        && retention < skew
    {
        let what = format!("{0}.tombstone_retention is below {0}.max_future_skew", table.shown);
        let place = reader.place(table, "tombstone_retention").or_else(|| reader.place(table, "max_future_skew"));
        let help = "a delete dated in the future would be forgotten before its own time comes: keep it longer";
        reader.fault(code::CONTRADICTION, place.as_ref(), what, help);
    }
    let lanes = reader.count(table, "lanes").and_then(|count| usize::try_from(count).ok());
    let metrics_interval = reader.duration(table, "metrics_interval");
    let shutdown_timeout = reader.duration(table, "shutdown_timeout");
    let batch = batch(reader, table);
    let max_refused = max_refused(reader, table);
    let lookups = lookups::lookups(reader, table);
    Some(Pipeline {
        name,
        topic: claim.topic.as_ref()?.value.clone(),
        table: claim.table.as_ref()?.value.clone(),
        key: key?,
        group: claim.group.clone(),
        version: version?,
        timestamp_unit: timestamp_unit?,
        on_error: on_error?,
        queries,
        schemas,
        max_future_skew: max_future_skew?,
        tombstone_retention: tombstone_retention?,
        batch: batch?,
        max_refused: max_refused?,
        lanes: lanes?,
        metrics_interval: metrics_interval?,
        shutdown_timeout: shutdown_timeout?,
        lookups: lookups?,
    })
}

fn version<'d>(reader: &Reader<'d>, table: &Table<'d>) -> Option<VersionBy> {
    if let Some(("source_position", place)) = reader.written(table, "version") {
        let what = format!("{}.version = \"source_position\" is not there yet", table.shown);
        reader.fault(code::UNKNOWN_CHOICE, Some(&place), what, "choose event_time or arrival until it is");
        return None;
    }
    reader.choice(table, "version", &[("event_time", VersionBy::EventTime), ("arrival", VersionBy::Arrival)])
}

fn batch<'d>(reader: &Reader<'d>, pipeline: &Table<'d>) -> Option<Batch> {
    let table = reader.table(pipeline, "batch", &keys::BATCH);
    let max_events = reader.count(&table, "max_events").and_then(|count| usize::try_from(count).ok());
    let max_bytes = reader.size(&table, "max_bytes");
    let max_wait = reader.duration(&table, "max_wait");
    Some(Batch { max_events: max_events?, max_bytes: max_bytes?, max_wait: max_wait? })
}

fn max_refused<'d>(reader: &Reader<'d>, pipeline: &Table<'d>) -> Option<MaxRefused> {
    let table = reader.table(pipeline, "max_refused", &keys::MAX_REFUSED);
    let share = reader.share(&table, "share");
    let window = reader.duration(&table, "window");
    let min_events = reader.count(&table, "min_events");
    Some(MaxRefused { share: share?, window: window?, min_events: min_events? })
}

/// A text that has to be a name; `judge` says what is wrong with one.
pub(super) fn named<'d>(
    reader: &Reader<'d>,
    table: &Table<'d>,
    name: &str,
    judge: fn(&str) -> Option<String>,
) -> Option<Text> {
    let text = reader.text(table, name)?;
    if let Some(what) = judge(&text.value) {
        reader.fault(code::NAME, text.place.as_ref(), format!("{}.{name} {what}", table.shown), "");
        return None;
    }
    Some(text)
}

/// A list of key columns: at least one, each once.
pub(super) fn columns<'d>(reader: &Reader<'d>, table: &Table<'d>, name: &str) -> Option<Vec<String>> {
    let shown = format!("{}.{name}", table.shown);
    let place = reader.place(table, name);
    let texts = reader.texts(table, name)?;
    let before = texts.len();
    let mut columns: Vec<String> = Vec::new();
    for text in texts {
        let repeated = columns.iter().any(|column| column.eq_ignore_ascii_case(&text.value));
        let what = if repeated { Some("is there twice".to_owned()) } else { names::column(&text.value) };
        match what {
            Some(what) => reader.fault(code::NAME, text.place.as_ref(), format!("{shown}: this column {what}"), ""),
            None => columns.push(text.value),
        }
    }
    if before == 0 || before > MAX_KEY_COLUMNS {
        let what = format!("{shown} must have from 1 to {MAX_KEY_COLUMNS} columns");
        reader.fault(code::OUT_OF_RANGE, place.as_ref(), what, "");
        return None;
    }
    (columns.len() == before).then_some(columns)
}

/// Two pipelines never share a table, nor a topic within a group: each would do a part of the other's work.
fn refuse_shared(reader: &Reader<'_>, claims: &[Claim]) {
    for (index, claim) in claims.iter().enumerate() {
        let earlier = claims.get(..index).unwrap_or_default();
        let same = |left: &Option<Text>, right: &Option<Text>| match (left, right) {
            (Some(left), Some(right)) => left.value.eq_ignore_ascii_case(&right.value),
            _ => false,
        };
        // MySQL compares table names without case on some systems, so near twins are refused as well.
        if let Some(other) = earlier.iter().find(|other| same(&other.table, &claim.table)) {
            let place = claim.table.as_ref().and_then(|table| table.place.as_ref());
            let what = format!("the pipelines \"{}\" and \"{}\" write one table", other.pipeline, claim.pipeline);
            reader.fault(code::SAME_TABLE, place, what, "give each a table of its own");
        }
        let reads_same = |other: &&Claim| match (&other.topic, &claim.topic) {
            (Some(left), Some(right)) => left.value == right.value && other.group == claim.group,
            _ => false,
        };
        if let Some(other) = earlier.iter().find(reads_same) {
            let place = claim.topic.as_ref().and_then(|topic| topic.place.as_ref());
            let what = format!(
                "the pipelines \"{}\" and \"{}\" read one topic in one group: each would get a part of it",
                other.pipeline, claim.pipeline
            );
            reader.fault(code::SAME_TOPIC, place, what, "give one of them a group of its own: group = \"...\"");
        }
    }
}
