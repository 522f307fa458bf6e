//! Events from a real topic: which records, in which order, and that nobody notices.

use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use serde_json::Value;

use super::{event, json_lines};
use crate::support::kafka::Message;
use crate::support::process::Workspace;
use crate::support::servers;

fn message(partition: i32, user: &str, second: i64) -> Message {
    let event = event("c", user, "Ann", "DE", second);
    Message::new(partition, user, event.into_bytes()).at(1_700_000_000_000 + second * 1000)
}

/// A workspace whose pipeline has its own group.
fn workspace(brokers: &str, topic: &str, group: &str) -> Workspace {
    let shipped = super::workspace();
    let config = std::fs::read_to_string(shipped.path().join("afterimage.toml")).unwrap();
    let config = config
        .replace("127.0.0.1:9092", brokers)
        .replace("\"user_cdc\"", &format!("\"{topic}\""))
        .replace("group = \"afterimage\"", &format!("group = \"{group}\""));
    shipped.write("afterimage.toml", &config);
    shipped
}

/// Partition and offset of each event that `arguments` choose, as the models see them.
fn chosen(workspace: &Workspace, arguments: &[&str]) -> Vec<(i64, i64)> {
    let shown = workspace.run(&[&["preview", "--format", "ndjson", "--model", "changes"], arguments].concat());
    assert_eq!(shown.code(), 0, "{arguments:?}: {shown:?}");
    let lines = json_lines(&shown.stdout);
    let rows = lines.iter().filter(|line| line["kind"] == "row").map(|line| &line["row"]);
    let mut found: Vec<(i64, i64)> =
        rows.map(|row: &Value| (row["_partition"].as_i64().unwrap(), row["_offset"].as_i64().unwrap())).collect();
    found.sort_unstable();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_has_the_records_that_it_names_and_no_others() {
    let broker = servers::kafka().await;
    let topic = broker.create_topic(2, &[("retention.ms", "-1")]).await;
    let messages = (0..5).map(|second| message(0, "a", second)).chain((0..3).map(|second| message(1, "b", second)));
    broker.produce(&topic, messages.collect()).await;
    let group = format!("group_{topic}");
    let workspace = workspace(&broker.brokers(), &topic, &group);
    for (arguments, expected) in [
        (&["--topic-last", "2"] as &[&str], vec![(0, 3), (0, 4), (1, 1), (1, 2)]),
        (&["--topic-last", "100", "--partition", "1"], vec![(1, 0), (1, 1), (1, 2)]),
        (&["--topic-last", "0"], vec![]),
        (&["--from", "2"], vec![(0, 2), (0, 3), (0, 4), (1, 2)]),
        (&["--from", "1", "--to", "3", "--partition", "0"], vec![(0, 1), (0, 2)]),
        (&["--from", "3", "--to", "1"], vec![]),
        (&["--from", "77"], vec![]),
        (&["--from", "2023-11-14T22:13:22Z"], vec![(0, 2), (0, 3), (0, 4), (1, 2)]),
        (&["--from", "2023-11-14T22:13:21Z", "--to", "2023-11-14T22:13:22Z"], vec![(0, 1), (1, 1)]),
        (&["--from", "1h"], vec![]),
    ] {
        assert_eq!(chosen(&workspace, arguments), expected, "{arguments:?}");
    }
    // Partitions are interleaved by time.
    let shown =
        workspace.run(&["preview", "--topic-last", "9", "--batch", "2", "--format", "ndjson", "--model", "changes"]);
    let lines = json_lines(&shown.stdout);
    let first: Vec<&Value> = lines.iter().filter(|line| line["kind"] == "row" && line["batch"] == 1).collect();
    assert_eq!((&first[0]["row"]["_partition"], &first[1]["row"]["_partition"]), (&0.into(), &1.into()));
    // Others don't notice.
    assert_eq!(broker.committed(&group, &topic, 0).await, None);
    let brokers = broker.brokers();
    let groups = tokio::task::spawn_blocking(move || {
        let client: BaseConsumer = ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap();
        let list = client.fetch_group_list(None, Duration::from_secs(20)).unwrap();
        list.groups().iter().map(|group| group.name().to_owned()).collect::<Vec<_>>()
    });
    assert!(!groups.await.unwrap().contains(&group), "a group was joined");
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_transactions_count_once_they_are_committed() {
    let broker = servers::kafka().await;
    let topic = broker.create_topic(1, &[("retention.ms", "-1")]).await;
    let workspace = workspace(&broker.brokers(), &topic, &format!("group_{topic}"));
    let mut producer = broker.transactional_producer().await;
    producer = producer.commit(&topic, vec![message(0, "a", 0), message(0, "b", 1)]).await;
    producer = producer.abort(&topic, (0..20).map(|second| message(0, "c", second)).collect()).await;
    producer = producer.commit(&topic, vec![message(0, "d", 3)]).await;
    // 0, 1 and a mark; 3 to 22 and a mark; 24 and a mark. The last three records are far apart.
    assert_eq!(chosen(&workspace, &["--topic-last", "3"]), [(0, 0), (0, 1), (0, 24)]);
    assert_eq!(chosen(&workspace, &["--topic-last", "2"]), [(0, 1), (0, 24)]);
    assert_eq!(chosen(&workspace, &["--from", "1", "--to", "10"]), [(0, 1)]);
    let open = producer.hang(&topic, vec![message(0, "e", 4)]).await;
    assert_eq!(chosen(&workspace, &["--topic-last", "1"]), [(0, 24)]);
    open.finish().await;
    assert_eq!(chosen(&workspace, &["--topic-last", "1"]), [(0, 26)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_that_is_not_there_is_named() {
    let broker = servers::kafka().await;
    let topic = broker.create_topic(1, &[("retention.ms", "-1")]).await;
    broker.produce(&topic, (0..9).map(|second| message(0, "a", second)).collect()).await;
    broker.delete_records(&topic, 0, 5).await;
    let found = workspace(&broker.brokers(), &topic, "g");
    assert_eq!(chosen(&found, &["--topic-last", "100"]), [(0, 5), (0, 6), (0, 7), (0, 8)]);
    let absent = workspace(&broker.brokers(), "absent", "g");
    for (workspace, arguments, text) in [
        (&found, ["--from", "4", "--to", "9"], "begins at offset 5, offset 4 is gone"),
        (&found, ["--topic-last", "1", "--partition", "7"], "has no partition 7"),
        (&absent, ["--topic-last", "1", "--partition", "0"], "there is no topic `absent`"),
    ] {
        let shown = workspace.run(&[&["preview"], &arguments as &[&str]].concat());
        assert!(shown.code() == 2 && shown.stderr.contains(text), "{arguments:?}: {shown:?}");
    }
    let diff = found.run(&["diff", "--old", "queries/users", "--topic-last", "0"]);
    assert!(diff.code() == 2 && diff.stderr.contains("holds no events"), "{diff:?}");
    let diff = found.run(&["diff", "--old", "queries/users", "--topic-last", "3"]);
    assert_eq!(diff.code(), 0, "{diff:?}");
}
