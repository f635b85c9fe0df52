//! Lanes by themselves: whose turn it is.

use super::super::lanes::{Lanes, SINGLES};
use super::super::unit::Unit;
use super::*;
use crate::ids::TaskId;
use crate::supervisor::table::TaskTable;

/// Lanes, and the units that wait in them.
struct Queue {
    lanes: Lanes,
    units: TaskTable<Unit>,
    next: u64,
}

impl Queue {
    fn new() -> Self {
        Self { lanes: Lanes::new(100), units: TaskTable::new(), next: 1 }
    }

    fn push(&mut self, lane: u32, count: usize) {
        for _ in 0..count {
            let key = self.units.insert(TaskId::new(self.next), Unit::new(&plain(), lane, &mut None));
            self.next += 1;
            self.lanes.push_back(&mut self.units, key);
        }
    }

    /// Serves the next unit, which takes so many nanoseconds by its lane, and returns that lane.
    fn serve(&mut self, takes: impl Fn(u32) -> u64) -> Option<u32> {
        let (key, unit) = self.lanes.first(&self.units)?;
        let lane = unit.lane;
        self.lanes.remove(&mut self.units, key);
        let charged = self.lanes.charge(lane, 1);
        self.units.remove(key);
        self.lanes.note(lane, 1, charged, takes(lane));
        if self.next < 1000 {
            self.lanes.check(&self.units).expect("the lanes agree with themselves");
        }
        Some(lane)
    }

    /// How much time each lane was given, out of `total` nanoseconds while none of them runs dry.
    fn shares(&mut self, lanes: &[u32], total: u64, takes: impl Fn(u32) -> u64) -> Vec<u64> {
        let mut given = vec![0; lanes.len()];
        while given.iter().sum::<u64>() < total {
            let lane = self.serve(&takes).expect("there is work");
            let at = lanes.iter().position(|of| *of == lane).expect("it is one of those");
            given[at] += takes(lane);
            self.push(lane, 1);
        }
        given
    }
}

#[test]
fn one_lane_is_served_in_order() {
    let mut queue = Queue::new();
    queue.push(SINGLES, 3);
    for number in 1..=3 {
        let (key, _) = queue.lanes.first(&queue.units).expect("it waits");
        assert_eq!(key.id.get(), number);
        queue.serve(|_| 5);
    }
    assert!(queue.serve(|_| 5).is_none());
}

#[test]
fn lanes_of_the_same_priority_share_the_time_whatever_their_items_take() {
    for count in [2, 10] {
        let mut queue = Queue::new();
        let lanes: Vec<u32> = (0..count).map(|_| queue.lanes.open(0)).collect();
        lanes.iter().for_each(|lane| queue.push(*lane, 2));
        let takes = |lane: u32| if lane.is_multiple_of(2) { 100_000 } else { 1_000_000_000 };
        let total = 20 * count as u64 * 1_000_000_000;
        let shares = queue.shares(&lanes, total, takes);
        let fair = total / count as u64;
        assert!(shares.iter().all(|share| share.abs_diff(fair) < fair / 10), "{shares:?}, {fair} each");
    }
}

#[test]
fn who_has_had_nothing_to_do_has_saved_nothing_up() {
    let mut queue = Queue::new();
    let [early, late] = [queue.lanes.open(0), queue.lanes.open(0)];
    queue.push(early, 1000);
    for _ in 0..500 {
        queue.serve(|_| 100);
    }
    queue.push(late, 1000);
    let mut of_late = 0;
    for _ in 0..100 {
        of_late += u32::from(queue.serve(|_| 100) == Some(late));
    }
    assert_eq!(of_late, 50);
}

#[test]
fn what_comes_one_at_a_time_has_its_share_too() {
    let mut queue = Queue::new();
    let batch = queue.lanes.open(0);
    queue.push(batch, 1000);
    let mut singles = 0;
    for _ in 0..100 {
        // The next one is there when the one before has ended.
        if queue.lanes.in_lane(SINGLES, &queue.units).next().is_none() {
            queue.push(SINGLES, 1);
        }
        singles += u32::from(queue.serve(|_| 100) == Some(SINGLES));
    }
    assert!((45..=55).contains(&singles), "{singles} of 100");
}

#[test]
fn who_owes_much_owes_nothing_once_everybody_has_rested() {
    let mut queue = Queue::new();
    let [greedy, other] = [queue.lanes.open(0), queue.lanes.open(0)];
    queue.push(greedy, 1);
    assert_eq!(queue.serve(|_| 1 << 60), Some(greedy));
    queue.push(other, 10);
    queue.push(greedy, 10);
    let served: Vec<u32> = (0..4).filter_map(|_| queue.serve(|_| 100)).collect();
    assert_eq!(served.iter().filter(|lane| **lane == greedy).count(), 2, "{served:?}");
}

#[test]
fn what_comes_back_is_paid_back() {
    let mut queue = Queue::new();
    let [unlucky, other] = [queue.lanes.open(0), queue.lanes.open(0)];
    queue.push(unlucky, 100);
    queue.push(other, 100);
    for _ in 0..10 {
        queue.serve(|_| 100);
    }
    let each = queue.lanes.charge(unlucky, 50);
    queue.lanes.refund(unlucky, 50 * each);
    let served: Vec<u32> = (0..10).filter_map(|_| queue.serve(|_| 100)).collect();
    assert_eq!(served.iter().filter(|lane| **lane == unlucky).count(), 5, "{served:?}");
}

#[test]
fn higher_priorities_go_first_and_singles_keep_a_lane_for_each() {
    let mut queue = Queue::new();
    let [low, high] = [queue.lanes.single(-1), queue.lanes.single(7)];
    assert_eq!((queue.lanes.single(0), queue.lanes.single(-1), queue.lanes.single(7)), (SINGLES, low, high));
    for lane in [low, SINGLES, high, low, SINGLES, high] {
        queue.push(lane, 1);
    }
    let served: Vec<u32> = (0..6).filter_map(|_| queue.serve(|_| 100)).collect();
    assert_eq!(served, [high, high, SINGLES, SINGLES, low, low]);
}

#[test]
fn times_beyond_all_measure_do_no_harm() {
    let mut queue = Queue::new();
    let [odd, other] = [queue.lanes.open(0), queue.lanes.open(0)];
    queue.push(odd, 5);
    queue.push(other, 5);
    let takes = |lane| if lane == odd { u64::MAX } else { 0 };
    assert_eq!((0..20).filter_map(|_| queue.serve(takes)).count(), 10);
    queue.lanes.close(odd);
    queue.lanes.close(other);
    assert!(!queue.lanes.is_shared());
    assert_eq!(queue.lanes.open(3), other, "places are used again");
    queue.lanes.check(&queue.units).expect("the lanes agree with themselves");
}
