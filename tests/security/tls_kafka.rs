//! TLS and SASL to Kafka: one broker that shows a good certificate, an expired one, and one of somebody else, on ports of their own.

use std::path::Path;
use std::time::Duration;

use afterimage::demo::server::free_port;
use serde_json::json;

use super::{LONG, event};
use crate::support::certificates::Authority;
use crate::support::kafka::{Broker, Message};
use crate::support::mysql::Database;
use crate::support::outcome;
use crate::support::process::Workspace;
use crate::support::rig::{self, Variant};
use crate::support::servers::{cache, mysql, scratch};

const PASSWORD: &str = "canary-of-a-password";
const LISTENERS: [&str; 4] = ["GOOD", "EXPIRED", "ELSEWHERE", "SASL"];

/// A broker with a listener of each kind, and their ports.
async fn broker(folder: &Path, authority: &Authority) -> (Broker, [u16; 4]) {
    let here = ["127.0.0.1", "localhost"];
    let identities = [
        authority.issue(&here),
        authority.issue_expired(&here),
        authority.issue(&["elsewhere.example"]),
        authority.issue(&here),
    ];
    let ports = [(); 4].map(|()| free_port().unwrap());
    let listed = |own: &str| {
        let ours = LISTENERS.iter().zip(ports).map(|(name, port)| format!("{name}://127.0.0.1:{port}"));
        std::iter::once(own.to_owned()).chain(ours).collect::<Vec<_>>().join(",")
    };
    let mut properties = vec![
        format!("listeners={}", listed("PLAINTEXT://127.0.0.1:{PORT},CONTROLLER://127.0.0.1:{CONTROLLER}")),
        format!("advertised.listeners={}", listed("PLAINTEXT://127.0.0.1:{PORT}")),
        "listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,GOOD:SSL,EXPIRED:SSL,ELSEWHERE:SSL,SASL:SASL_SSL"
            .to_owned(),
        "listener.name.sasl.sasl.enabled.mechanisms=SCRAM-SHA-512,PLAIN".to_owned(),
        "listener.name.sasl.scram-sha-512.sasl.jaas.config=\
         org.apache.kafka.common.security.scram.ScramLoginModule required;"
            .to_owned(),
        format!(
            "listener.name.sasl.plain.sasl.jaas.config=\
             org.apache.kafka.common.security.plain.PlainLoginModule required user_app=\"{PASSWORD}\";"
        ),
    ];
    for (name, identity) in LISTENERS.iter().zip(&identities) {
        let lower = name.to_ascii_lowercase();
        let store = identity.store(&folder.join(format!("{lower}.pem")));
        properties.push(format!("listener.name.{lower}.ssl.keystore.type=PEM"));
        properties.push(format!("listener.name.{lower}.ssl.keystore.location={}", store.display()));
    }
    let properties: Vec<&str> = properties.iter().map(String::as_str).collect();
    let scram = format!("SCRAM-SHA-512=[name=app,password={PASSWORD}]");
    let home = scratch("kafka-tls-");
    (Broker::start_formatted(&cache().join("kafka/lib"), home, &properties, &["--add-scram", &scram]).await, ports)
}

fn with_tls(ca_file: &Path) -> String {
    format!("\"security.protocol\" = \"ssl\"\n\"ssl.ca.location\" = {ca_file:?}")
}

fn with_sasl(mechanism: &str, password: &str, ca_file: &Path) -> String {
    format!(
        "\"security.protocol\" = \"sasl_ssl\"\n\"ssl.ca.location\" = {ca_file:?}\n\"sasl.mechanism\" = \"{mechanism}\"\n\
         \"sasl.username\" = \"app\"\n\"sasl.password\" = \"{password}\""
    )
}

// Proves: P6, R61
#[tokio::test(flavor = "multi_thread")]
async fn only_brokers_that_prove_who_they_are_are_read() {
    let (authority, stranger) = (Authority::new("authority"), Authority::new("stranger"));
    let folder = scratch("tls-");
    let (broker, [good, expired, elsewhere, sasl]) = broker(folder.path(), &authority).await;
    let topic = broker.create_topic(1, &[("retention.ms", "-1")]).await;
    let database = Database::create(mysql().await).await;
    let configured = |port: u16, kafka: String| {
        let variant = Variant { kafka, partitions: 1, ..Variant::default() };
        rig::config(&format!("127.0.0.1:{port}"), &topic, &database.url, &variant)
    };
    let (ours, theirs) = (authority.file(), stranger.file());
    let workspace = Workspace::new(&configured(good, with_tls(&ours)));
    assert_eq!(workspace.run(&["migrate"]).code(), 0);
    let mut written = Vec::new();
    let mut write = async |user: &str, second: i64| {
        let record = event(user, json!(format!("name of {user}")), "DE", second);
        let message = Message::new(0, record.key.clone().unwrap(), record.value.clone().unwrap())
            .at(record.timestamp_ms.unwrap());
        broker.produce(&topic, vec![message]).await;
        written.push(user.to_owned());
        written.len()
    };
    write("before", 0).await;
    let mut asked = false;

    // Refused: by name, with a remedy; nothing is read, and no secret is in the log.
    for (port, kafka, words, remedy) in [
        (expired, with_tls(&ours), "no secure connection to Kafka", "expired"),
        (elsewhere, with_tls(&ours), "no secure connection to Kafka", "another name"),
        (good, with_tls(&theirs), "no secure connection to Kafka", "ssl.ca.location"),
        (
            sasl,
            with_sasl("SCRAM-SHA-512", "canary-of-a-wrong-password", &ours),
            "Kafka refuses the credentials",
            "sasl.password",
        ),
        (
            sasl,
            with_sasl("PLAIN", "canary-of-a-wrong-password", &ours),
            "Kafka refuses the credentials",
            "sasl.password",
        ),
        (sasl, with_sasl("SCRAM-SHA-512", PASSWORD, &theirs), "no secure connection to Kafka", "ssl.ca.location"),
    ] {
        workspace.write("afterimage.toml", &configured(port, kafka));
        let name = format!("refused-{port}-{remedy}-{words}").replace([' ', '.'], "-");
        let mut running = workspace.start_with(&name, &["run"], &[("AFTERIMAGE_LOG", "trace")]);
        running.wait_for_log(words, LONG).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(running.is_running(), "{}", running.tail());
        let log = running.log();
        let line = log.lines().find(|line| line.contains(words)).unwrap();
        assert!(line.contains("waiting") && line.contains(remedy), "{line}");
        running.kill();
        assert!(!log.contains("canary"), "{log}");
        // A question waits for its whole ten seconds: one of each kind is enough.
        if remedy == "expired" || (remedy == "sasl.password" && !asked) {
            asked = remedy != "expired";
            let checked = workspace.run(&["check", "--online"]);
            assert_eq!(checked.code(), 1, "{checked:?}");
            assert!(checked.stdout.contains("AI0401"), "{checked:?}");
            assert!(!checked.stdout.contains("canary") && !checked.stderr.contains("canary"), "{checked:?}");
        }
    }
    assert_eq!(database.number("SELECT COUNT(*) FROM afterimage_positions").await, 0, "something was read");

    // Good: TLS alone, and a name and password within it.
    let kinds = [
        (good, with_tls(&ours)),
        (sasl, with_sasl("SCRAM-SHA-512", PASSWORD, &ours)),
        (sasl, with_sasl("PLAIN", PASSWORD, &ours)),
    ];
    for (number, (port, kafka)) in kinds.into_iter().enumerate() {
        let count = write(&format!("user-{number}"), 1 + i64::try_from(number).unwrap()).await;
        workspace.write("afterimage.toml", &configured(port, kafka));
        assert_eq!(workspace.run(&["check", "--online"]).code(), 0);
        let log = [("AFTERIMAGE_LOG", "trace")];
        let mut running = workspace.start_with(&format!("good-{number}"), &["run", "--until-caught-up"], &log);
        running.wait_for_code(0, LONG).await;
        assert!(!running.log().contains("canary"), "{}", running.tail());
        assert_eq!(outcome::read(&database).await.rows.len(), count);
    }
}
