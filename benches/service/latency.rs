//! One event on an idle service: from handing it to the producer until another connection sees its row.
//!
//! In turn with each event a single row is upserted by its own durable transaction on a connection that is open anyway: the server's own
//! commit time, which nobody who writes to this server can do without.

use std::time::{Duration, Instant};

use afterimage::demo::server::PrivateServer;
use mysql_async::prelude::Queryable;
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::figure::{Figure, percentile};
use crate::kafka::Broker;
use crate::load::{Events, Load};
use crate::run::{Service, Variant};
use crate::shape::Shape;

const LOOK_EVERY: Duration = Duration::from_micros(200);

pub async fn measure(server: &PrivateServer, broker: &Broker, name: &str, rounds: usize) -> Vec<Figure> {
    // A table of some size, filled before anything is measured.
    let load = Load::users("one event", Events::Creates, 20_000);
    let topic = broker.create_topic(load.partitions, &[("retention.ms", "-1")]).await;
    super::produce(broker, &topic, load.records());
    let mut service = Service::prepare(server, broker, &load, &topic, &Variant::default()).await;
    service.run_until(load.events).await;
    let (mut running, _) = service.start().await;
    let mut own = service.database.connect().await;
    own.query_drop("CREATE TABLE own LIKE enriched_user").await.unwrap();
    let mut reader = service.database.connect().await;
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", broker.brokers())
        .set("linger.ms", "0")
        .set("acks", "1")
        .create()
        .unwrap();
    let (mut seen, mut committed) = (Vec::new(), Vec::new());
    // The first ones warm up.
    for round in 0..rounds + 20 {
        let user = format!("latency {}", round % 97);
        let number = round as u64 + 1;
        let value = Shape::Users.event('c', &user, None, Some(number), 1_790_000_000_000 + round as i64);
        let began = Instant::now();
        let record =
            BaseRecord::<[u8], [u8]>::to(&topic).partition((round % 4) as i32).key(user.as_bytes()).payload(&value);
        producer.send(record.timestamp(1_790_000_000_000 + round as i64)).map_err(|(error, _)| error).unwrap();
        producer.poll(Duration::ZERO);
        let query =
            format!("SELECT 1 FROM enriched_user WHERE user_id = '{user}' AND email = 'user.{number}@example.com'");
        loop {
            let found: Option<u8> = reader.query_first(&query).await.unwrap();
            if found.is_some() {
                break;
            }
            assert!(running.is_running() && began.elapsed().as_secs() < 60, "an event gets lost\n{}", running.tail());
            producer.poll(Duration::ZERO);
            // A runtime's timers are coarser than this.
            std::thread::sleep(LOOK_EVERY);
        }
        let took = began.elapsed();
        let upsert = format!(
            "INSERT INTO own VALUES ('{user}', 'User {number} of the Many Names', 'user.{number}@example.com', 'DE', 'Germany', 'Europe', {number}, 0, \
             {number}) ON DUPLICATE KEY UPDATE email = 'user.{number}@example.com', cdc_offset = {number}"
        );
        let began = Instant::now();
        own.query_drop(upsert).await.unwrap();
        if round >= 20 {
            committed.push(began.elapsed().as_secs_f64() * 1e3);
            seen.push(took.as_secs_f64() * 1e3);
        }
        // Idle again, and no beat that the service could fall into.
        tokio::time::sleep(Duration::from_millis(10 + (round as u64 * 7) % 13)).await;
    }
    producer.flush(Duration::from_secs(10)).unwrap();
    running.terminate();
    running.wait_for_code(0, Duration::from_secs(60)).await;
    let figure = |percent: f64| {
        let (whole, own) = (percentile(&seen, percent), percentile(&committed, percent));
        Figure {
            what: format!("one event, p{percent}"),
            server: Some(name.to_owned()),
            value: whole - own,
            unit: "ms".into(),
            note: Some(format!("{whole:.2} ms in all, {own:.2} of them the server's own commit; {rounds} events")),
            ..Figure::default()
        }
    };
    vec![figure(50.0), figure(99.0)]
}
