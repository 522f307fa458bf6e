use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::Value;

use super::people::Profile;
use super::*;
use crate::oracle;

fn settings() -> oracle::Settings {
    let country = |code: &&str| ((*code).to_owned(), (format!("name of {code}"), "region".to_owned()));
    oracle::Settings::users(people::COUNTRIES.iter().map(country).collect())
}

fn small(seed: u64, mix: Mix) -> Workload {
    Workload { events: 20_000, users: 300, partitions: 3, seed, mix, ..Workload::default() }
}

#[test]
fn the_same_seed_yields_the_same_bytes_and_another_seed_others() {
    let records: Vec<OwnedRecord> = small(7, Mix::harsh()).records().collect();
    assert!(records.iter().eq(small(7, Mix::harsh()).records().collect::<Vec<_>>().iter()));
    assert_ne!(records, small(8, Mix::harsh()).records().collect::<Vec<_>>());
    assert_eq!(records.len(), 20_000);
}

#[test]
fn offsets_rise_by_one_in_every_partition() {
    let mut next = BTreeMap::from([(0, 0), (1, 0), (2, 0)]);
    for record in small(1, Mix::default()).records() {
        let next = next.get_mut(&record.partition).unwrap();
        assert_eq!(record.offset, *next);
        *next += 1;
    }
    assert!(next.values().all(|next| *next > 1000), "{next:?}");
}

#[test]
fn before_images_of_an_orderly_stream_are_the_rows_as_they_stood() {
    let mut rows: HashMap<String, Value> = HashMap::new();
    let mix = Mix { key_change: 0.1, delete: 0.1, ..Mix::orderly() };
    for record in small(3, mix).records() {
        let event: Value = serde_json::from_slice(&record.value.unwrap()).unwrap();
        let id = |image: &str| event[image]["userId"].as_str().map(str::to_owned);
        match id("before") {
            Some(old) => assert_eq!(rows.remove(&old).as_ref(), Some(&event["before"]), "user {old}"),
            None => assert!(!rows.contains_key(&id("after").unwrap()), "created twice"),
        }
        if let Some(new) = id("after") {
            rows.insert(new, event["after"].clone());
        }
    }
    assert!(rows.len() > 100);
}

#[test]
fn a_user_stays_in_one_partition_through_changes_of_key() {
    let mut partitions: HashMap<String, i32> = HashMap::new();
    let mut changes_of_key = 0;
    for record in small(4, Mix::harsh()).records() {
        let Some(Ok(event)) = record.value.map(|value| serde_json::from_slice::<Value>(&value)) else { continue };
        let ids = ["before", "after"].map(|image| event[image]["userId"].as_str().map(str::to_owned));
        changes_of_key += u64::from(ids[0].is_some() && ids[1].is_some() && ids[0] != ids[1]);
        for id in ids.into_iter().flatten() {
            assert_eq!(*partitions.entry(id.clone()).or_insert(record.partition), record.partition, "user {id:?}");
        }
    }
    assert!(changes_of_key > 500, "{changes_of_key}");
}

#[test]
fn every_malformation_is_refused_by_the_fold_and_says_rightly_whether_it_names_its_user() {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
    let profile = Profile::random(&mut rng);
    for fault in Malformation::ALL {
        let value = fault.value("17", &profile, 1_700_000_000_000);
        let record = OwnedRecord {
            partition: 0,
            offset: 0,
            timestamp_ms: Some(1_700_000_000_000),
            key: None,
            value: Some(value),
        };
        let expected = oracle::fold(settings(), [record.as_raw()]);
        let quarantined = expected.quarantine.get(&(0, 0)).unwrap_or_else(|| panic!("{fault:?} was accepted"));
        assert_eq!(quarantined.stage.as_deref(), Some("decode"), "{fault:?}");
        let users: BTreeSet<String> = fault.names_user().then(|| "17".to_owned()).into_iter().collect();
        assert_eq!(quarantined.users, users, "{fault:?}");
    }
}

#[test]
fn the_default_mix_has_everything_and_holds_few_users() {
    let records: Vec<OwnedRecord> = Workload::default().records().collect();
    let expected = oracle::fold(settings(), records.iter().map(OwnedRecord::as_raw));
    let stage = |name| expected.quarantine.values().filter(|record| record.stage.as_deref() == Some(name)).count();
    let total = |part: fn(&oracle::Sums) -> u64| expected.sums.values().map(part).sum::<u64>();
    assert!(
        stage("decode") > 50 && stage("model") > 10 && stage("target") > 5,
        "refused {}",
        total(|sums| sums.refused)
    );
    assert!(expected.out_of_order.len() > 500, "{}", expected.out_of_order.len());
    assert!(expected.tombstones.len() > 1000, "{}", expected.tombstones.len());
    assert!(total(|sums| sums.ignored) > 300);
    let accepted = total(|sums| sums.accepted);
    assert!(total(|sums| sums.held) > 100, "{}", total(|sums| sums.held));
    assert!(accepted > 97_000 && total(|sums| sums.changes) > accepted + 500, "accepted {accepted}");
    assert_eq!(accepted + total(|sums| sums.refused + sums.held + sums.ignored), total(|sums| sums.read));
}

#[test]
fn an_orderly_mix_is_accepted_whole_and_the_table_is_the_last_event_of_each_user() {
    let workload = small(9, Mix::orderly());
    let records: Vec<OwnedRecord> = workload.records().collect();
    let expected = oracle::fold(settings(), records.iter().map(OwnedRecord::as_raw));
    assert_eq!(expected.quarantine, BTreeMap::new());
    assert_eq!(expected.out_of_order, BTreeMap::new());
    let mut last = BTreeMap::new();
    for record in &records {
        let deleted = record.value.as_deref().unwrap().starts_with(br#"{"op":"d""#);
        last.insert(String::from_utf8(record.key.clone().unwrap()).unwrap(), (record.offset, deleted));
    }
    let alive = last.into_iter().filter(|(_, (_, deleted))| !deleted).map(|(user, (offset, _))| (user, offset));
    assert!(expected.rows.iter().map(|(user, row)| (user.clone(), row.cdc_offset)).eq(alive));
}

#[test]
fn a_file_gives_back_every_byte_that_was_written() {
    let mut records: Vec<OwnedRecord> =
        Workload { events: 5000, users: 50, mix: Mix::harsh(), ..Workload::default() }.records().collect();
    for value in ["null", " {\"op\":\"c\"}", "{\"op\":\n1}", "12345678901234567890123", "\"\""] {
        records.push(OwnedRecord {
            partition: 9,
            offset: records.len() as i64,
            timestamp_ms: None,
            key: Some(vec![0xff]),
            value: Some(value.as_bytes().to_vec()),
        });
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    assert_eq!(write_ndjson(file.as_file(), records.iter().cloned()).unwrap(), records.len() as u64);
    let text = std::fs::read_to_string(file.path()).unwrap();
    assert!(text.lines().all(|line| serde_json::from_str::<Value>(line).unwrap().is_object()));
    assert_eq!(read_events_file(file.path(), 1000).unwrap(), records);
}

#[test]
fn bare_events_lie_in_partition_0_and_take_their_own_time() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let lines = "{\"op\":\"c\",\"after\":{},\"timestamp\":5}\n\nnot json\n{\"partition\":1,\"offset\":7,\"value\":{\"op\":\"c\"}}\n";
    std::fs::write(file.path(), lines).unwrap();
    let records = read_events_file(file.path(), 1).unwrap();
    let places: Vec<_> = records.iter().map(|record| (record.partition, record.offset, record.timestamp_ms)).collect();
    assert_eq!(places, [(0, 0, Some(5000)), (0, 1, None), (1, 7, None)]);
    assert_eq!(records[1].value.as_deref(), Some(&b"not json"[..]));
    assert_eq!(records[2].value.as_deref(), Some(&b"{\"op\":\"c\"}"[..]));
}

#[test]
fn a_record_that_can_not_be_understood_is_named_by_its_line() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "{\"offset\":3,\"value\":{}}\n{\"offset\":3,\"value\":{}}\n").unwrap();
    let error = read_events_file(file.path(), 1000).unwrap_err().to_string();
    assert!(error.contains(":2: ") && error.contains("offset 3"), "{error}");
    std::fs::write(file.path(), "{\"offset\":3,\"valu\":{}}\n").unwrap();
    let error = read_events_file(file.path(), 1000).unwrap_err().to_string();
    assert!(error.contains(":1: ") && error.contains("valu"), "{error}");
}

#[test]
fn produced_records_arrive_in_their_partitions_in_order_with_key_and_time() {
    use rdkafka::consumer::{BaseConsumer, Consumer};
    use rdkafka::message::Message;

    let cluster = rdkafka::mocking::MockCluster::new(1).unwrap();
    cluster.create_topic("users", 3, 1).unwrap();
    let records: Vec<OwnedRecord> = Workload { events: 3000, ..small(5, Mix::default()) }.records().collect();
    let brokers = cluster.bootstrap_servers();
    let mut told = 0;
    let sent = produce(&brokers, "users", &BTreeMap::new(), records.clone(), None, |sent| told = sent).unwrap();
    assert_eq!((sent, told), (3000, 3000));

    let consumer: BaseConsumer =
        rdkafka::ClientConfig::new().set("bootstrap.servers", &brokers).set("group.id", "check").create().unwrap();
    let mut all = rdkafka::TopicPartitionList::new();
    for partition in 0..3 {
        all.add_partition_offset("users", partition, rdkafka::Offset::Beginning).unwrap();
    }
    consumer.assign(&all).unwrap();
    let mut found = Vec::new();
    while found.len() < records.len() {
        let message = consumer.poll(std::time::Duration::from_secs(20)).expect("a record within 20 s").unwrap();
        found.push(OwnedRecord {
            partition: message.partition(),
            offset: message.offset(),
            timestamp_ms: message.timestamp().to_millis(),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
        });
    }
    let sorted = |mut records: Vec<OwnedRecord>| {
        records.sort_by_key(|record| (record.partition, record.offset));
        records
    };
    assert!(sorted(found) == sorted(records), "what was read is not what was sent");
}
