//! The fixtures are checked against the independent fold, so that neither can be wrong alone; and the decoder against both.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use afterimage::decode::{DecodeOptions, Decoder, TimestampUnit};
use afterimage::generate::{Mix, OwnedRecord, Workload};
use afterimage::oracle::{self, Settings};
use afterimage::schema::SourceSchema;

use crate::on_both_servers;
use crate::support::fixture::{self, Fixture};
use crate::support::rig::{Rig, Variant};

/// The countries that fixtures speak of.
fn countries() -> BTreeMap<String, (String, String)> {
    let known = [
        ("BR", "Brazil", "Americas"),
        ("DE", "Germany", "Europe"),
        ("FR", "France", "Europe"),
        ("JP", "Japan", "Asia"),
        ("KE", "Kenya", "Africa"),
        ("NZ", "New Zealand", "Oceania"),
    ];
    known.map(|(code, name, region)| (code.to_owned(), (name.to_owned(), region.to_owned()))).into()
}

fn settings(fixture: &Fixture) -> Settings {
    Settings {
        hold: fixture.on_error == "hold_key",
        arrival: fixture.version == "arrival",
        ..Settings::users(countries())
    }
}

/// Everything in which the fold differs from what the fixture expects.
fn faults(fixture: &Fixture) -> Vec<String> {
    let expect = &fixture.expect;
    let folded = oracle::fold(settings(fixture), fixture.records().map(OwnedRecord::as_raw));
    let mut faults = oracle::differences("row", &expect.table, &folded.rows, 20);
    faults.extend(oracle::differences("out of order", &expect.out_of_order, &folded.out_of_order, 20));
    faults.extend(oracle::differences("sums of partition", &expect.sums, &folded.sums, 20));
    let tombstones: BTreeSet<String> = folded.standing_tombstones().into_keys().collect();
    if tombstones != expect.tombstones {
        faults.push(format!("tombstones: expected {:?}, found {tombstones:?}", expect.tombstones));
    }
    let places: BTreeSet<_> = expect.quarantine.keys().chain(folded.quarantine.keys()).collect();
    for place in places {
        let (Some(expected), Some(found)) = (expect.quarantine.get(place), folded.quarantine.get(place)) else {
            faults.push(format!("quarantine {place:?}: on one side only"));
            continue;
        };
        let users_differ = expected.users.as_ref().is_some_and(|users| *users != found.users);
        if expected.state != found.state || expected.stage != found.stage || users_differ {
            faults.push(format!("quarantine {place:?}: expected {expected:?}, found {found:?}"));
        }
    }
    faults
}

#[test]
fn the_fold_comes_to_what_every_fixture_expects() {
    let fixtures = fixture::all();
    assert!(fixtures.len() >= 20, "only {} fixtures were found", fixtures.len());
    let mut failed = Vec::new();
    for fixture in &fixtures {
        for fault in faults(fixture) {
            failed.push(format!("{}: {fault}", fixture.name));
        }
    }
    assert!(failed.is_empty(), "{}\n", failed.join("\n"));
}

#[test]
fn whatever_a_fixture_expects_otherwise_is_found_out() {
    let mix = fixture::all().into_iter().find(|fixture| fixture.name == "mix").expect("the fixture mix");
    let tampered = |tamper: fn(&mut Fixture)| {
        let mut fixture = mix.clone();
        tamper(&mut fixture);
        faults(&fixture)
    };
    type Tamper = fn(&mut Fixture);
    let tampers: [(&str, Tamper); 7] = [
        ("row", |fixture| fixture.expect.table.get_mut("20").unwrap().email = Some("x".to_owned())),
        ("row", |fixture| drop(fixture.expect.table.remove("4"))),
        ("tombstones", |fixture| assert!(fixture.expect.tombstones.remove("2"))),
        ("quarantine", |fixture| drop(fixture.expect.quarantine.remove(&(0, 5)))),
        ("quarantine", |fixture| fixture.expect.quarantine.get_mut(&(0, 1)).unwrap().stage = Some("decode".to_owned())),
        ("out of order", |fixture| drop(fixture.expect.out_of_order.pop_first())),
        ("sums", |fixture| fixture.expect.sums.get_mut(&1).unwrap().changes -= 1),
    ];
    assert_eq!(tampered(|_| ()), Vec::<String>::new());
    for (what, tamper) in tampers {
        let faults = tampered(tamper);
        assert!(faults.len() == 1 && faults[0].starts_with(what), "{what}: {faults:?}");
    }
}

/// What the decoder makes of records: places and reasons (with the column) of the refused, and the unknown fields it counted.
fn decode<'a>(
    records: impl IntoIterator<Item = &'a OwnedRecord>,
) -> (BTreeMap<oracle::Place, String>, BTreeMap<String, u64>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/users");
    let schema = SourceSchema::load(&folder).expect("the shipped schema");
    let options = DecodeOptions {
        topic: "user_cdc".into(),
        timestamp_unit: TimestampUnit::Ms,
        max_future_skew: Duration::from_secs(3600),
    };
    let decoded = Decoder::new(&schema, options).decode(records.into_iter().map(OwnedRecord::as_raw)).unwrap();
    let refused = decoded.refused.into_iter().map(|refusal| {
        let place = (refusal.position.partition, refusal.position.offset);
        (place, format!("{} {}", refusal.reason, refusal.column.unwrap_or_default()))
    });
    (refused.collect(), decoded.unmapped)
}

/// Places of the records that the fold calls no event; with nobody waiting, so that none is held instead.
fn no_events<'a>(records: impl IntoIterator<Item = &'a OwnedRecord>, settings: Settings) -> BTreeSet<oracle::Place> {
    let settings = Settings { hold: false, ..settings };
    let folded = oracle::fold(settings, records.into_iter().map(OwnedRecord::as_raw));
    let decode = folded.quarantine.into_iter().filter(|(_, record)| record.stage.as_deref() == Some("decode"));
    decode.map(|(place, _)| place).collect()
}

#[test]
fn the_decoder_refuses_the_records_of_every_fixture_for_the_reason_it_expects() {
    for fixture in fixture::all() {
        let (refused, unmapped) = decode(fixture.records());
        assert_eq!(
            refused.keys().copied().collect::<BTreeSet<_>>(),
            no_events(fixture.records(), settings(&fixture)),
            "{}",
            fixture.name
        );
        assert_eq!(unmapped, fixture.expect.unmapped, "{}", fixture.name);
        for (place, expected) in &fixture.expect.quarantine {
            let (Some(wanted), Some(reason)) = (&expected.reason, refused.get(place)) else { continue };
            assert!(reason.to_lowercase().contains(&wanted.to_lowercase()), "{} {place:?}: {reason:?}", fixture.name);
        }
    }
}

#[test]
fn decoder_and_fold_agree_about_what_is_an_event() {
    for seed in 0..5 {
        let workload = Workload { events: 20_000, users: 500, seed, mix: Mix::harsh(), ..Workload::default() };
        let records: Vec<OwnedRecord> = workload.records().collect();
        let (refused, _) = decode(&records);
        let expected = no_events(&records, Settings::users(countries()));
        assert!(expected.len() > 100, "seed {seed}: only {} are no events", expected.len());
        assert_eq!(refused.into_keys().collect::<BTreeSet<_>>(), expected, "seed {seed}");
    }
}

on_both_servers! {
    async fn every_fixture_holds_on_real_servers(server) {
        for fixture in fixture::all() {
            println!("{}", fixture.name);
            let pipeline = format!("on_error = \"{}\"\nversion = \"{}\"", fixture.on_error, fixture.version);
            let shipped = crate::support::outcome::settings();
            let settings = Settings { countries: shipped.countries, ..settings(&fixture) };
            let variant = Variant { partitions: fixture.partitions, pipeline, settings, ..Variant::default() };
            let mut rig = Rig::new(server, variant).await;
            for (number, batch) in fixture.batches.iter().enumerate() {
                rig.write(batch.iter().cloned()).await;
                rig.catch_up(&format!("batch-{number}"), Duration::from_secs(60)).await;
            }
            rig.assert_as_folded().await;
        }
    }
}
