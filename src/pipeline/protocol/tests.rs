use super::*;
use crate::generation::{Fingerprint, Generation};
use crate::sink::positions::SumChanges;

const OURS: Token = [1; 16];
const THEIRS: Token = [2; 16];
const THIS: Token = [3; 16];
const OTHER: Token = [4; 16];
const NEWEST: Generation = Generation { number: 2, fingerprint: Fingerprint([6; 32]) };

fn advance(partition: Partition, from: i64, to: i64) -> Advance {
    Advance {
        partition,
        epoch: 3,
        last: OTHER,
        from,
        to,
        high_water_ns: None,
        sums: SumChanges::default(),
        generation: NEWEST,
    }
}

fn found(partition: Partition, next_offset: i64, owner: Token, transaction: Token) -> Found {
    Found { partition, next_offset, epoch: 3, owner, transaction, generation: NEWEST }
}

fn judged(advances: &[Advance], found: &[Found]) -> Fate {
    judge(&Claim { id: &THIS, owner: &OURS, advances }, found)
}

fn after(observed: Observed<'_>) -> Next {
    next(&Claim { id: &THIS, owner: &OURS, advances: &[advance(0, 5, 9), advance(1, 7, 8)] }, observed)
}

#[test]
fn a_row_that_carries_the_transaction_proves_it_committed() {
    assert_eq!(judged(&[advance(0, 5, 9)], &[found(0, 9, OURS, THIS)]), Fate::Committed);
}

#[test]
fn a_row_where_it_was_proves_it_did_not_commit() {
    assert_eq!(judged(&[advance(0, 5, 9)], &[found(0, 5, OURS, OTHER)]), Fate::NotCommitted);
}

#[test]
fn another_owner_fences_and_an_earlier_position_means_the_database_moved() {
    assert_eq!(judged(&[advance(0, 5, 9)], &[found(0, 9, THEIRS, OTHER)]), Fate::Fenced(vec![0]));
    assert_eq!(judged(&[advance(0, 5, 9)], &[found(0, 2, OURS, OTHER)]), Fate::Moved(vec![0]));
    assert_eq!(judged(&[advance(0, 5, 9)], &[]), Fate::Moved(vec![0]));
}

#[test]
fn what_the_swap_would_refuse_is_not_called_uncommitted() {
    let acquired_since = Found { epoch: 4, ..found(0, 5, OURS, OTHER) };
    let moved_by_another = found(0, 5, OURS, [5; 16]);
    for row in [acquired_since, moved_by_another] {
        assert_eq!(judged(&[advance(0, 5, 9)], &[row]), Fate::Moved(vec![0]));
    }
}

// Proves: R57
#[test]
fn a_row_of_another_generation_is_about_all_of_the_pipeline() {
    let newer = Generation { number: 3, fingerprint: Fingerprint([7; 32]) };
    let same_number = Generation { number: 2, ..newer };
    for generation in [newer, same_number] {
        let row = Found { generation, ..found(0, 5, OURS, OTHER) };
        assert_eq!(judged(&[advance(0, 5, 9)], &[row]), Fate::Outdated);
        let taken = Found { generation, ..found(0, 9, THEIRS, OTHER) };
        let rows = [taken, found(1, 2, OURS, OTHER)];
        assert_eq!(judged(&[advance(0, 5, 9), advance(1, 7, 8)], &rows), Fate::Outdated);
        assert_eq!(after(Observed::SwapRefused(&rows)), Next::Outdated);
        assert_eq!(after(Observed::ReadBack(&rows)), Next::Outdated);
        let committed_before = Found { generation, ..found(0, 9, OURS, THIS) };
        assert_eq!(judged(&[advance(0, 5, 9)], &[committed_before]), Fate::Committed);
    }
}

#[test]
fn a_new_owner_of_one_partition_does_not_hide_that_the_transaction_committed() {
    let advances = [advance(0, 5, 9), advance(1, 7, 8)];
    assert_eq!(judged(&advances, &[found(0, 20, THEIRS, OTHER), found(1, 8, OURS, THIS)]), Fate::Committed);
}

#[test]
fn a_commit_without_an_answer_is_never_simply_repeated() {
    assert_eq!(after(Observed::Failed(Kind::CommitUnknown)), Next::ReadBack(Pace::AtOnce));
    assert_eq!(after(Observed::ReadBackFailed), Next::ReadBack(Pace::Patient));
    let stands = [found(0, 5, OURS, OTHER), found(1, 7, OURS, OTHER)];
    assert_eq!(after(Observed::ReadBack(&stands)), Next::Repeat(Pace::AtOnce));
}

#[test]
fn a_refused_swap_is_never_simply_repeated() {
    let stands = [found(0, 5, OURS, OTHER), found(1, 7, OURS, OTHER)];
    assert_eq!(after(Observed::SwapRefused(&stands)), Next::Moved(vec![0, 1]));
}

#[test]
fn before_commit_was_sent_an_error_is_repeated_or_stops() {
    assert_eq!(after(Observed::Failed(Kind::SinkContention)), Next::Repeat(Pace::Soon));
    assert_eq!(after(Observed::Failed(Kind::SinkUnavailable)), Next::Repeat(Pace::Patient));
    assert_eq!(after(Observed::Failed(Kind::Bug)), Next::Halt);
}
