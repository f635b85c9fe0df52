//! Workers that are healthy and go: after so many tasks, when they have grown too large, when there are to be fewer of them,
//! or when there has been nothing to do for long.
//!
//! A worker that is to go is *leaving*: it is given nothing more, what it has not begun is taken back, and it *retires*
//! when its hand is empty. Until then it stays active, so that never more tasks run at once than there should be workers; its
//! successor starts meanwhile in another place (see [`staff`](super::staff)), and stands by.
//!
//! Every incarnation has a *quota*: the tickets that it may still be given. What it is given is taken off, and what is taken
//! back unclaimed is added again, so it never begins more tasks than it should. One whose quota is used up is on its way out
//! like one that is leaving; should something be taken back from it, it goes on.
//!
//! # Races
//! * *A result and the leave cross.* The result counts; then the worker retires.
//! * *It dies while it is leaving.* Its death is judged as any other, but its place is only filled if somebody is missing.
//! * *It is condemned while it is leaving, and its head ends in time.* Then it retires.
//! * *It is asked to retire and breaks the protocol.* It is killed, and nobody is blamed: it holds nothing.
//! * *Its successor is ready before it is gone.* The successor is a spare until then.

use std::time::Instant;

use super::Machine;
use crate::stats::RetireReason;
use crate::supervisor::event::Action;
use crate::supervisor::slot::Phase;

impl<P> Machine<P> {
    /// How many tasks the next incarnation may run.
    pub(super) fn draw_quota(&mut self) -> u64 {
        let Some(most) = self.config.staffing.quota else { return u64::MAX };
        let most = most.max(1);
        match self.config.staffing.jitter.min(most - 1) {
            0 => most,
            jitter => most - self.draw() % (jitter + 1),
        }
    }

    /// A worker is to go once it has finished what it runs. What it has not begun is taken back.
    pub(super) fn leave(&mut self, now: Instant, index: usize, why: RetireReason) {
        let Some(ready) = self.slots[index].ready() else { return };
        if ready.leaving.is_some() {
            return;
        }
        ready.leaving = Some(why);
        let reserved = ready.reserved.take();
        self.release_reserved(reserved);
        self.take_back(index, usize::MAX);
        self.touch(index);
        self.retire_if_done(now, index);
    }

    /// Asks a worker to exit that is to go and holds nothing any more; whether it has been asked.
    pub(super) fn retire_if_done(&mut self, now: Instant, index: usize) -> bool {
        let Phase::Ready(ready) = &self.slots[index].phase else { return false };
        let done = ready.hand.is_empty() && ready.is_going();
        if done {
            self.retire(now, index, ready.leaving.unwrap_or(RetireReason::Tasks));
        }
        done
    }

    /// Asks a worker that holds nothing to exit.
    pub(super) fn retire(&mut self, now: Instant, index: usize, why: RetireReason) {
        let builds = match &self.slots[index].phase {
            Phase::Ready(ready) => ready.hand.unprepared(ready.next_ticket),
            _ => return,
        };
        let retiring = Phase::Retiring { asked: now, since: now, killed: false, builds, why };
        let Phase::Ready(ready) = self.enter(index, retiring) else { return };
        debug_assert!(ready.hand.is_empty(), "it holds tasks, and retires: {ready:?}");
        self.slots[index].uptime += now.duration_since(ready.since);
        self.release_reserved(ready.reserved);
        self.counters.retired.count(why);
        self.out.push_back(Action::Retire(self.slots[index].incarnation(), why));
        self.arm_exit(index);
    }
}
