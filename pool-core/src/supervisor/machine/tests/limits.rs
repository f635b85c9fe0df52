//! Workers that have more of something than they may.

use super::*;

#[test]
fn a_worker_over_a_limit_is_killed_once_and_its_task_ends_with_that() {
    for crowded in [false, true] {
        let mut pool = Bench::ready(config(2));
        pool.submit(1, &plain());
        let worker = pool.holder();
        let who = pool.who(worker);
        let event = || if crowded { Event::Crowded(who, 7) } else { Event::OverLimit(who, 2, 1) };
        let reason = match crowded {
            true => KillReason::ProcessLimit(7),
            false => KillReason::MemoryLimit { rss: 2, limit: 1 },
        };
        pool.on(event());
        pool.on(event());
        assert_eq!(pool.kills(), [(who, reason)]);
        pool.die_as(who, true);
        pool.on(event());
        assert_eq!(pool.kills().len(), 1, "the dead are not killed");
        assert!(matches!(pool.ends()[..], [(_, "died")]), "{:?}", pool.ends());
    }
}
