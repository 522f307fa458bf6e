//! The tests' own ground: if these fail, no other failure means anything.

use std::time::{Duration, Instant};

use afterimage::demo::server::Flavour;
use mysql_async::prelude::Queryable;

use crate::on_both_servers;
use crate::support::kafka::Message;
use crate::support::mysql::{Database, connect, rows};
use crate::support::process::signal;
use crate::support::proxy::{Fault, Proxy};
use crate::support::servers::{kafka, mariadb, mysql, start_private, start_private_kafka};

#[tokio::test]
async fn the_servers_are_what_they_are_said_to_be() {
    let mut connection = mysql().await.connect().await.unwrap();
    let answer = rows(&mut connection, "SELECT VERSION(), @@log_bin, @@local_infile, @@innodb_buffer_pool_size").await;
    assert!(answer[0][0].starts_with("9."), "{answer:?}");
    assert_eq!(answer[0][1..], ["1", "1", "268435456"]);
    let mut connection = mariadb().await.connect().await.unwrap();
    let answer = rows(&mut connection, "SELECT VERSION(), @@local_infile").await;
    assert!(answer[0][0].starts_with("10.11.") && answer[0][0].contains("MariaDB"), "{answer:?}");
    assert_eq!(answer[0][1], "1");
}

on_both_servers! {
    async fn each_test_has_a_database_that_goes_with_it(server) {
        let database = Database::create(server).await;
        database.execute("CREATE TABLE t (k VARCHAR(9) PRIMARY KEY, n INT)").await;
        database.execute("INSERT INTO t VALUES ('a', 1), ('b', NULL)").await;
        assert_eq!(database.rows("SELECT k, n FROM t ORDER BY k").await, [["a", "1"], ["b", "NULL"]]);
        assert_eq!(database.number("SELECT COUNT(*) FROM t").await, 2);
        let names = format!("SELECT COUNT(*) FROM information_schema.schemata WHERE schema_name = '{}'", database.name);
        let other = Database::create(server).await;
        assert_eq!(other.number(&names).await, 1);
        drop(database);
        assert_eq!(other.number(&names).await, 0);
    }

    async fn an_account_may_do_what_was_granted_and_no_more(server) {
        let database = Database::create(server).await;
        database.execute("CREATE TABLE t (k INT PRIMARY KEY)").await;
        let url = database.account("SELECT").await;
        let mut connection = connect(&url).await;
        assert!(rows(&mut connection, "SELECT * FROM t").await.is_empty());
        assert!(connection.query_drop("INSERT INTO t VALUES (1)").await.is_err());
    }

    async fn nobody_gets_in_without_the_password(server) {
        for user in ["root", server.account(), ""] {
            let url = format!("mysql://{user}@127.0.0.1:{}", server.port());
            let options = mysql_async::OptsBuilder::from_opts(mysql_async::Opts::from_url(&url).unwrap());
            let outcome = mysql_async::Conn::new(options.prefer_socket(false)).await;
            assert!(outcome.is_err(), "{user:?}: {outcome:?}");
        }
    }

    async fn a_commit_cut_before_the_server_is_not_done(server) {
        let (database, proxy) = behind_a_proxy(server.port(), Database::create(server).await).await;
        proxy.cut_next_commit_before();
        assert!(commit_one_row(&database, &proxy).await.is_err());
        assert_eq!(database.number("SELECT COUNT(*) FROM t").await, 0);
        // It fires once: the same again goes through.
        commit_one_row(&database, &proxy).await.unwrap();
        assert_eq!(database.number("SELECT COUNT(*) FROM t").await, 1);
        assert_eq!((proxy.fired(), proxy.commits(), proxy.connections()), (1, 2, 2));
    }

    async fn a_commit_whose_answer_was_cut_is_done(server) {
        let (database, proxy) = behind_a_proxy(server.port(), Database::create(server).await).await;
        proxy.cut_next_commit_after();
        assert!(commit_one_row(&database, &proxy).await.is_err());
        assert_eq!(database.number("SELECT COUNT(*) FROM t").await, 1);
    }

    async fn a_commit_can_be_refused_with_an_error_of_ones_choice(server) {
        let (database, proxy) = behind_a_proxy(server.port(), Database::create(server).await).await;
        proxy.arm("commit", Fault::Refuse(1213));
        match commit_one_row(&database, &proxy).await {
            Err(mysql_async::Error::Server(error)) => assert_eq!(error.code, 1213),
            outcome => panic!("{outcome:?}"),
        }
    }

    async fn a_lost_answer_keeps_the_client_waiting(server) {
        let (database, proxy) = behind_a_proxy(server.port(), Database::create(server).await).await;
        proxy.arm("COMMIT", Fault::LoseAnswer);
        let waiting = tokio::time::timeout(Duration::from_millis(500), commit_one_row(&database, &proxy)).await;
        assert!(waiting.is_err(), "{waiting:?}");
        assert_eq!(database.number("SELECT COUNT(*) FROM t").await, 1);
    }

    async fn a_black_hole_delays_and_a_refusing_port_refuses(server) {
        let proxy = Proxy::start(server.port());
        let mut connection = connect(&server.url_through(proxy.port(), "")).await;
        proxy.blackhole(true);
        // The question stays under way; it arrives, and is answered, once packets pass again.
        let asking = tokio::spawn(async move { connection.query_first::<u8, _>("SELECT 7").await });
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!asking.is_finished());
        proxy.blackhole(false);
        assert_eq!(asking.await.unwrap().unwrap(), Some(7));

        proxy.refuse(true);
        let until = Instant::now() + Duration::from_secs(10);
        while std::net::TcpStream::connect(("127.0.0.1", proxy.port())).is_ok() {
            assert!(Instant::now() < until, "the port still accepts");
        }
        proxy.refuse(false);
        let until = Instant::now() + Duration::from_secs(10);
        while std::net::TcpStream::connect(("127.0.0.1", proxy.port())).is_err() {
            assert!(Instant::now() < until, "the port still refuses");
        }
    }

    async fn open_connections_can_be_cut(server) {
        let proxy = Proxy::start(server.port());
        let mut connection = connect(&server.url_through(proxy.port(), "")).await;
        connection.ping().await.unwrap();
        proxy.cut_all();
        assert!(connection.ping().await.is_err());
    }
}

async fn behind_a_proxy(port: u16, database: Database) -> (Database, Proxy) {
    database.execute("CREATE TABLE t (k INT AUTO_INCREMENT PRIMARY KEY)").await;
    (database, Proxy::start(port))
}

/// Inserts a row by way of the proxy, in a transaction.
async fn commit_one_row(database: &Database, proxy: &Proxy) -> mysql_async::Result<()> {
    let (front, path) = database.url.rsplit_once(':').unwrap();
    let name = path.split_once('/').unwrap().1;
    let mut connection = connect(&format!("{front}:{}/{name}", proxy.port())).await;
    connection.query_drop("START TRANSACTION").await?;
    connection.query_drop("INSERT INTO t VALUES ()").await?;
    connection.query_drop("COMMIT").await
}

async fn a_private_server_survives(flavour: Flavour) {
    let mut server = start_private(flavour, &["--local-infile=0"]).await;
    let database = Database::create(&server).await;
    assert_eq!(database.number("SELECT @@local_infile").await, 0);
    database.execute("CREATE TABLE t (k INT PRIMARY KEY)").await;
    database.execute("INSERT INTO t VALUES (1)").await;
    let port = server.port();
    server.kill();
    assert!(server.connect().await.is_err());
    server.start_again().await.unwrap();
    database.execute("INSERT INTO t VALUES (2)").await;
    server.stop().await;
    assert!(server.pid().is_none());
    server.start_again().await.unwrap();
    assert_eq!(server.port(), port);
    // Standing still is not being gone: connections are made by the kernel, and nobody answers.
    signal(server.pid().unwrap(), libc::SIGSTOP);
    assert!(tokio::time::timeout(Duration::from_millis(500), server.connect()).await.is_err());
    signal(server.pid().unwrap(), libc::SIGCONT);
    assert_eq!(database.number("SELECT COUNT(*) FROM t").await, 2);
}

#[tokio::test]
async fn a_private_mysql_survives_kill_and_stop() {
    a_private_server_survives(Flavour::MySql).await;
}

#[tokio::test]
async fn a_private_mariadb_survives_kill_and_stop() {
    a_private_server_survives(Flavour::MariaDb).await;
}

#[tokio::test]
async fn a_server_that_cannot_start_says_why() {
    let program = afterimage::demo::server::Program::mariadb().unwrap();
    let home = crate::support::servers::scratch("broken-");
    let server = afterimage::demo::server::PrivateServer::start(&program, home, &["--no-such-option"]).await;
    let error = server.unwrap_err().to_string();
    assert!(error.contains("unknown option '--no-such-option'"), "{error}");
}

#[tokio::test]
async fn records_lie_in_kafka_where_they_were_put() {
    let broker = kafka().await;
    let topic = broker.create_topic(2, &[]).await;
    let offsets = broker
        .produce(
            &topic,
            vec![
                Message::new(0, "a", "1").at(1_700_000_000_000),
                Message::tombstone(1, "b"),
                Message::new(0, "a", "2").header("trace", "x"),
            ],
        )
        .await;
    assert_eq!(offsets, [0, 0, 1]);
    assert_eq!(broker.watermarks(&topic, 0).await, (0, 2));
    broker.delete_records(&topic, 0, 1).await;
    assert_eq!(broker.watermarks(&topic, 0).await, (1, 2));
    broker.add_partitions(&topic, 3).await;
    assert_eq!(broker.produce(&topic, vec![Message::new(2, "c", "3")]).await, [0]);
    assert_eq!(broker.committed("nobody", &topic, 0).await, None);
    broker.delete_topic(&topic).await;
    broker.create_topic_named(&topic, 1, &[("cleanup.policy", "compact")]).await;
    assert_eq!(broker.watermarks(&topic, 0).await, (0, 0));
}

#[tokio::test]
async fn transactions_take_up_offsets_whether_they_are_committed_or_aborted() {
    let broker = kafka().await;
    let topic = broker.create_topic(1, &[]).await;
    let producer = broker.transactional_producer().await;
    let producer = producer.commit(&topic, vec![Message::new(0, "a", "1")]).await;
    producer.abort(&topic, vec![Message::new(0, "a", "2"), Message::new(0, "a", "3")]).await;
    // A record and its marker, two records and theirs.
    assert_eq!(broker.watermarks(&topic, 0).await, (0, 5));
}

#[tokio::test]
async fn a_private_broker_keeps_its_records_over_kill_and_pause() {
    let broker = start_private_kafka(&[]).await;
    let topic = broker.create_topic(1, &[]).await;
    broker.produce(&topic, vec![Message::new(0, "a", "1")]).await;
    let brokers = broker.brokers();
    broker.kill();
    broker.start_again().await;
    assert_eq!(broker.brokers(), brokers);
    broker.pause();
    broker.resume();
    broker.stop();
    broker.start_again().await;
    assert_eq!(broker.watermarks(&topic, 0).await, (0, 1));
}
