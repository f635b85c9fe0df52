//! Batches whose pieces go to the workers in turns.

use super::schedules::{MICROS, MILLIS, Plant};
use super::*;

/// A piece of a batch.
fn piece(group: GroupId, piece: u64) -> TaskSpec {
    TaskSpec { piece: Some(piece), ..of(group) }
}

impl Bench {
    fn open_ordered(&mut self) -> GroupId {
        self.machine.open(GroupSpec::default())
    }

    /// Submits the pieces with these numbers, and has them handed out.
    fn submit_pieces(&mut self, group: GroupId, pieces: std::ops::Range<u64>) -> Vec<TaskKey> {
        let submit = |at| self.machine.submit(&piece(group, at)).expect("the pool is open");
        let keys = pieces.map(submit).collect();
        self.on(Event::Pump);
        keys
    }

    /// A worker dies, and its replacement, too, so that nobody waits for the next one.
    fn fail_again_and_again(&mut self, worker: u32) {
        for _ in 0..2 {
            self.die(worker, false);
            if self.machine.expects(self.who(worker)) {
                self.on(Event::Ready(self.who(worker)));
            }
        }
    }

    /// Lets everybody finish what they hold, until nobody holds anything.
    fn finish_all(&mut self) {
        let places = 0..self.machine.slots().len() as u32;
        while let Some(place) = places.clone().find(|place| self.machine.load(*place as usize) > 0) {
            self.finish(place);
        }
    }
}

fn every<T: Copy>(keys: &[T], first: usize, step: usize) -> Vec<T> {
    keys.iter().copied().skip(first).step_by(step).collect()
}

#[test]
fn pieces_go_round() {
    let mut pool = Bench::ready(config(3));
    let batch = pool.open_ordered();
    let keys = pool.submit_pieces(batch, 0..30);
    pool.finish_all();
    for worker in 0..3 {
        assert_eq!(pool.sent(worker), every(&keys, worker as usize, 3));
    }
    let again = pool.open_ordered();
    let keys = pool.forget().submit_pieces(again, 0..9);
    pool.finish_all();
    assert_eq!(pool.sent(1), every(&keys, 1, 3), "the next batch finds the same worker");
}

#[test]
fn an_idle_worker_takes_nothing_over_that_is_for_another() {
    let mut pool = Bench::ready(config(2));
    let batch = pool.open_ordered();
    let keys = pool.submit_pieces(batch, 0..40);
    while pool.machine.load(1) > 0 {
        pool.finish(1);
    }
    pool.pass(MILLI);
    assert_eq!(pool.sent(1), every(&keys, 1, 2));
    assert!(pool.machine.load(1) == 0 && pool.machine.load(0) > 1, "one is idle, the other has much to do");
    let stolen: Vec<_> = pool.taken().into_iter().filter(|(_, tickets)| tickets.len() != 19).collect();
    assert!(stolen.is_empty(), "{stolen:?}");
    pool.finish_all();
    assert_eq!(pool.sent(0), every(&keys, 0, 2));
}

#[test]
fn who_is_idle_takes_what_is_for_anybody_from_behind_what_is_not() {
    let mut pool = Bench::ready(Config { ahead: Duration::from_secs(1), ..config(2) });
    let batch = pool.open_ordered();
    pool.submit_pieces(batch, 0..2);
    let loose = pool.submit(6, &plain());
    let (rich, poor) = if pool.machine.load(0) > pool.machine.load(1) { (0, 1) } else { (1, 0) };
    let pinned = pool.submit_pieces(batch, 2 + u64::from(rich)..3 + u64::from(rich))[0];
    assert_eq!(pool.sent(rich).last(), Some(&pinned), "behind what is for anybody");
    while pool.machine.load(poor as usize) > 0 {
        pool.finish(poor);
    }
    let (who, tickets) = pool.taken().pop().expect("something is taken back");
    assert_eq!(who, pool.who(rich));
    let held = pool.sent(rich);
    let taken: Vec<TaskKey> = tickets.iter().map(|ticket| held[*ticket as usize - 1]).collect();
    assert!(!taken.is_empty() && taken.iter().all(|key| loose.contains(key)), "{taken:?} of {loose:?}");
}

#[test]
fn the_replacement_of_a_dead_worker_gets_its_pieces() {
    let mut pool = Bench::ready(config(3));
    let batch = pool.open_ordered();
    let keys = pool.submit_pieces(batch, 0..30);
    let dead = pool.who(1);
    pool.forget().die(1, true);
    pool.finish_all();
    assert!(matches!(pool.outcome(keys[1]), Some(Err(TaskError::WorkerDied(_)))));
    for worker in [0, 2] {
        let others: Vec<TaskKey> = pool.sent(worker);
        assert!(others.iter().all(|key| every(&keys, worker as usize, 3).contains(key)), "{others:?}");
    }
    assert!(pool.who(1) != dead && pool.sent(1).is_empty(), "it starts");
    pool.on(Event::Ready(pool.who(1)));
    pool.finish_all();
    assert_eq!(pool.sent(1), every(&keys, 1, 3)[1..]);
    assert_eq!(pool.machine.pending(), 0);
}

#[test]
fn a_spare_sits_down_where_somebody_died() {
    let now = Instant::now();
    let mut pool = Bench::around(Machine::new(config(2), now).with_spares(1, now), now);
    for worker in 0..3 {
        pool.on(Event::Ready(pool.who(worker)));
    }
    let batch = pool.open_ordered();
    let keys = pool.submit_pieces(batch, 0..10);
    pool.die(0, true);
    pool.finish_all();
    assert_eq!(pool.sent(2), every(&keys, 0, 2)[1..], "the spare has place 2, and sits in seat 0");
    assert_eq!(pool.sent(1), every(&keys, 1, 2));
}

#[test]
fn a_retry_stays_with_its_seat() {
    let mut pool = Bench::ready(config(3));
    let batch = pool.open_ordered();
    let spec = TaskSpec { retries: 1, retry_on: RetryOn::PANIC, ..piece(batch, 1) };
    let key = pool.submit(1, &spec)[0];
    let panicked =
        TaskError::Panicked { message: String::new(), location: None, backtrace: None, output: None };
    pool.on(Event::Failed(pool.who(1), 1, panicked));
    assert_eq!(pool.sent(1), [key, key], "the others are idle");
    pool.die(1, true);
    assert!(matches!(pool.outcome(key), Some(Err(TaskError::Poisoned { .. }))));

    let key = pool.forget().submit(1, &TaskSpec { retries: 1, ..piece(batch, 2) })[0];
    pool.die(2, true);
    assert_eq!([0, 1, 2].map(|worker| pool.sent(worker).len()), [0, 0, 1], "it waits for the replacement");
    pool.on(Event::Ready(pool.who(2)));
    assert_eq!(pool.sent(2), [key, key]);
}

#[test]
fn fewer_workers_serve_what_was_for_more() {
    let mut pool = Bench::ready(config(4));
    let batch = pool.open_ordered();
    let keys = pool.submit_pieces(batch, 0..40);
    pool.on(Event::Resize(2));
    // Two leave, and give back what they have not begun.
    give_back_all(&mut pool);
    pool.finish_all();
    assert_eq!(pool.machine.pending(), 0);
    for worker in 0..2 {
        let sent = pool.sent(worker);
        let own = every(&keys, worker as usize, 4);
        // The first ones ran where they were.
        let of_others = &every(&keys, worker as usize + 2, 4)[1..];
        assert!(own.iter().chain(of_others).all(|key| sent.contains(key)), "{worker}: {sent:?}");
    }
}

/// Whatever is asked back was not begun.
fn give_back_all(pool: &mut Bench) {
    for (who, tickets) in pool.taken() {
        let spans = answers(&tickets.iter().map(|ticket| (*ticket, true)).collect::<Vec<_>>());
        pool.on(Event::TookBack(who, spans));
    }
}

#[test]
fn who_moves_up_keeps_what_it_runs_of_its_old_seat() {
    let mut pool = Bench::ready(config(4));
    let batch = pool.open_ordered();
    let keys = pool.submit_pieces(batch, 0..16);
    pool.die(1, true);
    pool.forget().on(Event::Resize(3));
    give_back_all(&mut pool);
    pool.finish(3);
    pool.finish_all();
    assert_eq!(pool.machine.pending(), 0);
    let [left, served] = [3, 0].map(|worker| pool.sent(worker));
    let was_for_it = &every(&keys, 3, 4)[1..];
    assert!(
        was_for_it.iter().all(|key| served.contains(key)),
        "the fourth seat counts as the first: {served:?}"
    );
    assert!(was_for_it.iter().all(|key| !left.contains(key)), "it sits in the second one: {left:?}");
    assert_eq!(left, every(&keys, 1, 4)[1..], "where somebody died");
}

#[test]
fn more_workers_get_what_comes_from_then_on() {
    let mut pool = Bench::ready(config(2));
    let batch = pool.open_ordered();
    let first = pool.submit_pieces(batch, 0..8);
    pool.on(Event::Resize(4));
    pool.on(Event::Ready(pool.who(2)));
    pool.on(Event::Ready(pool.who(3)));
    let then = pool.submit_pieces(batch, 8..16);
    pool.finish_all();
    for worker in 0..4 {
        let mut expected = if worker < 2 { every(&first, worker, 2) } else { Vec::new() };
        expected.extend(every(&then, worker, 4));
        assert_eq!(pool.sent(worker as u32), expected);
    }
}

fn elastic(least: u32, most: u32) -> Config {
    let staffing = Staffing { least: Some(least), idle: Some(100 * MILLI), ..Staffing::default() };
    Config { staffing, ..config(most) }
}

#[test]
fn an_elastic_pool_grows_to_the_seats_that_are_needed() {
    let mut pool = Bench::ready(elastic(1, 4));
    let batch = pool.open_ordered();
    let keys = pool.submit_pieces(batch, 0..8);
    assert_eq!(pool.sent(0), every(&keys, 0, 4), "it does not take what is for those that come");
    for worker in [3, 1, 2] {
        pool.on(Event::Ready(pool.who(worker)));
    }
    pool.finish_all();
    for worker in 0..4 {
        assert_eq!(pool.sent(worker), every(&keys, worker as usize, 4));
    }
    // All but one go again, and come again when there is something for them, though somebody else is idle.
    pool.pass(Duration::from_secs(1));
    for worker in 0..4 {
        let who = pool.who(worker);
        if pool.machine.is_retiring(who) {
            pool.die_as(who, false);
        }
    }
    let late = pool.forget().submit_pieces(batch, 2..3)[0];
    assert_eq!(pool.spawns(), 1);
    let new = (0..4).find(|worker| pool.machine.expects(pool.who(*worker))).expect("somebody starts");
    pool.on(Event::Ready(pool.who(new)));
    assert_eq!(pool.sent(new), [late]);
}

#[test]
fn when_whoever_stands_in_is_idle_no_longer_somebody_is_started_for_what_still_waits() {
    let mut pool = Bench::ready(elastic(1, 4));
    let batch = pool.open_ordered();
    let keys = [2, 6, 10].map(|piece| pool.submit_pieces(batch, piece..piece + 1)[0]);
    for _ in 0..2 {
        assert!(pool.sent(0).is_empty(), "it waits for who comes");
        let who = pool.who(1);
        assert!(pool.machine.expects(who), "the only one who is missing");
        pool.forget().on(Event::SpawnFailed(who, death(who)));
    }
    assert_eq!(pool.sent(0), keys[..1], "nobody waits for one that has failed twice");
    assert_eq!(pool.spawns(), 1, "two wait behind whoever stands in, and nobody is idle");
}

#[test]
fn pieces_do_not_wait_for_a_worker_that_fails_again_and_again() {
    let mut pool = Bench::ready(config(3));
    let batch = pool.open_ordered();
    pool.fail_again_and_again(1);
    let early = pool.forget().submit_pieces(batch, 1..2)[0];
    assert_eq!(pool.sent(2), [early], "the second of the two that are there");
    pool.pass(Duration::from_millis(150));
    assert!(pool.machine.expects(pool.who(1)), "it starts for the third time");
    pool.finish(2);
    let late = pool.submit_pieces(batch, 4..5)[0];
    assert_eq!(pool.sent(2), [early, late]);
    pool.on(Event::Ready(pool.who(1)));
    let last = pool.submit_pieces(batch, 7..8)[0];
    assert_eq!(pool.sent(1), [last], "now it is there");
}

#[test]
fn who_stood_in_gives_back_what_it_has_not_begun_when_somebody_sits_there() {
    let mut pool = Bench::ready(config(3));
    let batch = pool.open_ordered();
    pool.fail_again_and_again(1);
    let own = pool.forget().submit_pieces(batch, 2..3);
    let keys = pool.submit_pieces(batch, 1..2);
    let more = pool.submit_pieces(batch, 4..5);
    assert_eq!(pool.sent(2), [own[0], keys[0], more[0]]);
    pool.finish(2);
    pool.show_claim(2);
    pool.pass(Duration::from_millis(150));
    assert!(pool.machine.expects(pool.who(1)) && pool.taken().is_empty(), "nobody else is there yet");
    pool.on(Event::Ready(pool.who(1)));
    assert_eq!(pool.taken(), [(pool.who(2), vec![3])], "what it runs may take for ever");
    give_back_all(&mut pool);
    assert_eq!(pool.sent(1), more);
    pool.finish_all();
    assert_eq!(pool.machine.pending(), 0);
}

#[test]
fn a_batch_in_turns_and_another_one_share_the_time() {
    for workers in [1, 2, 4] {
        let mut plant = Plant::new(workers);
        let [ordered, other] = [0, 0].map(|_| plant.bench.machine.open(GroupSpec::default()));
        let count = 1_000 * u64::from(workers);
        for at in 0..count {
            plant.submit(&piece(ordered, at), &[MILLIS]);
        }
        let first = plant.submit(&of(other), &vec![500 * MICROS; 2 * count as usize]);
        plant.on(0, Event::Pump);
        plant.run_until(800 * MILLIS);
        let ours = plant.begun.range(..first).count() as u64 * MILLIS;
        let theirs = plant.begun.range(first..).count() as u64 * 500 * MICROS;
        let fair = (ours + theirs) / 2;
        assert!(fair >= 350 * MILLIS * u64::from(workers), "{workers} workers do {fair} each");
        assert!(ours.abs_diff(fair) < fair / 10, "{workers} workers: {ours} and {theirs}");
    }
}

#[test]
fn a_higher_priority_goes_first_with_each_worker() {
    let mut pool = Bench::ready(Config { prefetch: 1, ..config(2) });
    let batch = pool.open_ordered();
    let running = pool.submit_pieces(batch, 0..2);
    let low = pool.submit_pieces(batch, 2..4);
    let single = pool.submit(1, &plain())[0];
    let high = pool.submit(1, &TaskSpec { priority: 3, ..piece(batch, 1) })[0];
    pool.finish(0);
    assert!(pool.sent(0)[1] != high, "it is not for this one");
    pool.finish(1);
    assert_eq!(pool.sent(1)[..2], [running[1], high]);
    pool.finish_all();
    assert_eq!(pool.machine.pending(), 0);
    assert!(pool.sent(0).contains(&low[0]) && pool.sent(1).contains(&low[1]), "{single:?}");
}
