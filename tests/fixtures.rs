//! The fixtures are checked against the independent fold, so that neither can be wrong alone.

use std::collections::{BTreeMap, BTreeSet};

use afterimage::generate::OwnedRecord;
use afterimage::oracle::{self, Settings};

use crate::support::fixture::{self, Fixture};

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
    assert!(["hold_key", "skip_event"].contains(&fixture.on_error.as_str()), "on_error {:?}", fixture.on_error);
    assert!(["event_time", "arrival"].contains(&fixture.version.as_str()), "version {:?}", fixture.version);
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
    let tampers: [(&str, fn(&mut Fixture)); 7] = [
        ("row", |fixture| fixture.expect.table.get_mut("20").unwrap().email = Some("x".to_owned())),
        ("row", |fixture| drop(fixture.expect.table.remove("4"))),
        ("tombstones", |fixture| drop(fixture.expect.tombstones.remove("2"))),
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
