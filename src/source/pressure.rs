//! Back-pressure: what to do where the loop takes less than Kafka gives. Pure arithmetic over what each partition has buffered.
//!
//! The cheap way is not to poll for a moment: the client's own queue fills up and keeps what it has. But that holds up every
//! partition and all that polling is for besides records. So where somebody waits for a partition that has none, or where the
//! buffer stays full, partitions that hold more than their part are paused; that costs fetching anew what the client had of them.

use crate::position::Partition;

/// What a partition may hold however many of them there are.
const LEAST: usize = 64 << 10;

/// A partition that the client reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) partition: Partition,
    /// Bytes of memory that its records take.
    pub(super) memory: usize,
    pub(super) paused: bool,
}

/// What the thread has to do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Pressure {
    pub(super) pause: Vec<Partition>,
    pub(super) resume: Vec<Partition>,
    /// Not to poll until something has been taken.
    pub(super) wait: bool,
}

/// `must_poll`: somebody lacks what a poll might bring, or the buffer has been full for long.
///
/// With that, at most one and a half times `budget` is buffered (plus [`LEAST`] per partition, where there are very many).
pub(super) fn decide(budget: usize, loads: &[Load], must_poll: bool) -> Pressure {
    let total: usize = loads.iter().map(|load| load.memory).sum();
    let part = (budget / loads.len().max(1)).max(LEAST);
    let full = total > budget;
    let named = |wanted: &dyn Fn(&Load) -> bool| {
        loads.iter().filter(|load| wanted(load)).map(|load| load.partition).collect::<Vec<Partition>>()
    };
    let relieved = |load: &Load| load.memory <= part / 4 || total <= budget / 2;
    Pressure {
        pause: if full && must_poll { named(&|load| !load.paused && load.memory > part / 2) } else { Vec::new() },
        resume: named(&|load| load.paused && relieved(load)),
        wait: full && !must_poll,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: usize = 1 << 20;

    fn load(partition: Partition, memory: usize) -> Load {
        Load { partition, memory, paused: false }
    }

    #[test]
    fn a_full_buffer_stops_polling_and_pauses_nobody_unless_polling_must_go_on() {
        let loads = [load(0, 5 * MIB), load(1, 4 * MIB), load(2, 0)];
        assert_eq!(decide(9 * MIB, &loads, false), Pressure::default());
        assert_eq!(decide(8 * MIB, &loads, false), Pressure { wait: true, ..Pressure::default() });
        assert_eq!(decide(8 * MIB, &loads, true), Pressure { pause: vec![0, 1], ..Pressure::default() });
    }

    #[test]
    fn a_paused_partition_goes_on_when_its_own_part_or_half_of_the_whole_is_free() {
        let paused = |partition, memory| Load { paused: true, ..load(partition, memory) };
        let loads = [paused(0, 5 * MIB), paused(1, MIB / 2), load(2, 2 * MIB)];
        assert_eq!(decide(8 * MIB, &loads, true).resume, [1]);
        assert_eq!(decide(16 * MIB, &loads, true).resume, [0, 1]);
    }

    proptest! {
        /// Whoever has buffered little can go on reading, so nobody starves; and the whole stays within its bound.
        #[test]
        fn however_partitions_fill_the_buffer_is_bounded_and_those_with_little_are_read_on(
            partitions in 1usize..300,
            fills in proptest::collection::vec((any::<usize>(), 1usize..300_000), 1..2000),
            must_poll in any::<bool>(),
        ) {
            let budget = 16 * MIB;
            let burst = 300_000;
            let part = (budget / partitions).max(LEAST);
            let mut loads: Vec<Load> = (0..partitions).map(|partition| load(partition as Partition, 0)).collect();
            for (index, bytes) in fills {
                let pressure = decide(budget, &loads, must_poll);
                for load in &mut loads {
                    load.paused = (load.paused || pressure.pause.contains(&load.partition))
                        && !pressure.resume.contains(&load.partition);
                }
                if pressure.wait {
                    break;
                }
                let fewest = loads.iter().min_by_key(|load| load.memory).expect("there is one");
                prop_assert!(!fewest.paused || fewest.memory > part / 4);
                let load = &mut loads[index % partitions];
                if !load.paused {
                    load.memory += bytes;
                }
            }
            let total: usize = loads.iter().map(|load| load.memory).sum();
            prop_assert!(total <= budget + partitions * (part / 2 + burst), "{total}");
        }
    }
}
