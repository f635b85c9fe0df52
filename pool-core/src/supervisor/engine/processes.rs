//! Workers as processes: spawned, killed, buried.

use std::io;
use std::time::Instant;

use pool_ipc::Slot;

use super::seeing::{Doomed, explain};
use super::{Engine, LAST_READS};
use crate::error::{BrokenReason, Death, DeathCause};
use crate::supervisor::event::{Autopsy, Event, Incarnation, KillReason, Ticket};
use crate::supervisor::launch::{Launched, may_pass};
use crate::supervisor::link::Link;
use crate::supervisor::machine::Holding;
use crate::sys::process;

impl Engine {
    pub(super) fn kill(&mut self, now: Instant, who: Incarnation, why: KillReason, fenced: bool) {
        if let Some(place) = self.to_spawn.iter().position(|waiting| *waiting == who) {
            self.to_spawn.remove(place);
            if !fenced {
                let death = unborn(who, "it could not be spawned in time (start_timeout)".to_owned());
                self.machine.on(now, Event::Died(who, Autopsy { death, started: false }));
            }
            return;
        }
        if let Some((spawning, decided)) = &mut self.spawning
            && *spawning == who
        {
            decided.get_or_insert(why);
            return;
        }
        let link = self.links.get_mut(who.index()).and_then(Option::as_mut).filter(|link| link.who == who);
        let Some(link) = link else { return };
        self.seeing.killed(link, &why);
        link.kill(why);
        if !fenced {
            return self.await_death(now, who);
        }
        if let Some(mut link) = self.links.get_mut(who.index()).and_then(Option::take) {
            link.fenced = true;
            // Nothing that it still writes is wanted; closing the pipes frees them now.
            link.turn_deaf();
            link.tasks = None;
            self.dying.push(link);
        }
    }

    /// The next worker to spawn; only the reactor asks, and answers with [`launched`](Self::launched).
    pub(crate) fn next_spawn(&mut self) -> Option<Incarnation> {
        let who = self.to_spawn.pop_front()?;
        self.spawning = Some((who, None));
        self.seeing.spawning();
        Some(who)
    }

    /// What became of a spawn.
    pub(crate) fn launched(&mut self, now: Instant, who: Incarnation, result: io::Result<Launched>) {
        let decided = self.spawning.take().and_then(|(_, decided)| decided);
        let launched = match result {
            Ok(launched) => launched,
            Err(error) => return self.not_launched(now, who, &error),
        };
        let mut link = Link::new(who, launched, self.frame_limit, &self.epoll);
        if let Err(error) = link.watch() {
            link.kill(KillReason::Terminated);
            // SIGKILL cannot be refused; the wait is short, and without epoll there is nobody else to do it.
            while matches!(link.reap(), Ok(None)) {
                std::thread::yield_now();
            }
            return self.not_launched(now, who, &error);
        }
        self.seeing.spawned(&mut link);
        if let Some(why) = decided {
            self.seeing.killed(&link, &why);
            link.kill(why);
            self.await_death(now, who);
        }
        if self.machine.expects(who) {
            if self.links.len() <= who.index() {
                self.links.resize_with(who.index() + 1, || None);
            }
            self.links[who.index()] = Some(link);
        } else {
            if link.killed.is_none() {
                link.kill(KillReason::Terminated);
            }
            link.fenced = true;
            self.dying.push(link);
        }
    }

    pub(super) fn not_launched(&mut self, now: Instant, who: Incarnation, error: &io::Error) {
        self.seeing.not_spawned(who, error);
        let event = if may_pass(error) || self.machine.was_ever_ready() {
            Event::SpawnFailed(who, unborn(who, format!("it cannot be spawned: {error}")))
        } else {
            let (executable, why) = (self.executable.clone(), error.to_string());
            Event::Unusable(who, BrokenReason::CannotStart { executable, why })
        };
        self.machine.on(now, event);
    }

    /// A worker is dead: deliver what it had written, find out what it was doing, and tell the state machine.
    pub(super) fn bury(&mut self, now: Instant, who: Incarnation) {
        if let Some(place) = self.dying.iter().position(|link| link.who == who) {
            let link = &self.dying[place];
            // Before it is reaped: afterwards its number may belong to somebody else.
            link.kill_group();
            if let Some((remains, held)) = self.remains(who) {
                let mut link = self.dying.swap_remove(place);
                self.last_words(&mut link);
                let mut death = link.death(&remains, &mut self.oom, &self.executable);
                explain(&link, &mut death);
                self.seeing.buried(&link, &death, link.doomed.as_ref().and_then(Doomed::called));
                // It may have exited as it was asked to, in the moment in which it was killed for not doing so.
                self.tell_of_its_end(&link, &death);
                self.put_away(now, link, held);
            }
            return;
        }
        let Some(link) = self.live(who) else { return };
        link.kill_group();
        self.read_results(now, who.index(), LAST_READS);
        if self.live(who).is_some_and(|link| link.rings.is_some()) {
            self.answer_the_door(now, who.index());
            if self.live(who).is_some_and(|link| link.salvaged_from.is_some()) {
                // What it has published since is there, too.
                self.salvage(now, who.index());
            }
            if let (Some(head), Some(link)) = (self.machine.head(who), self.live(who))
                && link.board.observe(head.span.first) == Slot::Finished
            {
                self.find_results(now, who, head.span.first + 1);
            }
        }
        let Some((remains, held)) = self.remains(who) else { return };
        let Some(mut link) = self.links.get_mut(who.index()).and_then(Option::take) else { return };
        self.last_words(&mut link);
        let mut death = link.death(&remains, &mut self.oom, &self.executable);
        let (mut started, mut called) = (false, None);
        if let Some(head) = self.machine.head(who) {
            let (ticket, task) = (head.span.first, head.unit.map(|(key, _)| key));
            let slot = link.board.observe(ticket);
            started = link.had_started(ticket, true, &death.cause);
            if started {
                if let Slot::Claimed { since_ns } = slot {
                    let since = link.started_at(since_ns, now);
                    death.ran_for = Some(now.saturating_duration_since(since));
                    // What it printed in earlier tasks explains nothing.
                    let task = head.task(ticket);
                    death.stdout_tail = link.stdout.said(task, Some(since));
                    death.stderr_tail = link.stderr.said(task, Some(since));
                }
                if let Some(job) = task.and_then(|task| self.job(task)) {
                    death.task = Some(job.shown());
                    death.task_id = head.task(ticket);
                }
                called = head.unit.and_then(|(key, offset)| self.called(key, offset));
            }
        }
        let lost = self.lost(&link, &death);
        if !lost.is_empty() {
            self.machine.on(now, Event::Lost(who, lost));
        }
        self.seeing.buried(&link, &death, called);
        self.tell_of_its_end(&link, &death);
        if link.killed == Some(KillReason::Timeout) {
            self.seeing.heard(&death);
        }
        self.put_away(now, link, held);
        self.machine.on(now, Event::Died(who, Autopsy { death, started }));
    }

    /// What is left of a worker whose death has been told.
    fn put_away(&mut self, now: Instant, link: Link, held: bool) {
        if held {
            return self.keep_held(now, link);
        }
        self.reap_orphans(now, link.pid);
        self.buried.push(link);
    }

    /// Counts and tells of a death, unless it is the exit that the worker was asked for.
    fn tell_of_its_end(&mut self, link: &Link, death: &Death) {
        if link.stages.is_retiring() && death.cause == DeathCause::Exited(0) {
            self.seeing.exited(link.who, link.pid);
        } else {
            self.deaths.count(&death.cause);
            self.seeing.died(link.who, death);
        }
    }

    /// What a dead worker had started besides its oldest task: something has destroyed results, and it went on.
    fn lost(&self, link: &Link, death: &Death) -> Vec<(Ticket, Death)> {
        let held = self.machine.tail(link.who);
        let tickets = held.iter().flat_map(|held| held.span.tickets().map(move |ticket| (ticket, held)));
        let started = tickets.filter(|(ticket, _)| link.had_started(*ticket, false, &death.cause));
        let report = |(ticket, held): (Ticket, &Holding)| {
            let job = held.unit.and_then(|(key, _)| self.job(key));
            let death = Death {
                task: job.map(|job| job.shown()),
                task_id: held.task(ticket),
                ran_for: None,
                ..death.clone()
            };
            (ticket, death)
        };
        started.map(report).collect()
    }

    /// What a worker has left, if it is dead, and whether it cannot be reaped: somebody debugs it, or it is stuck.
    fn remains(&self, who: Incarnation) -> Option<(process::Remains, bool)> {
        let link = match self.dying.iter().find(|link| link.who == who) {
            Some(link) => link,
            None => self.links.get(who.index())?.as_ref()?,
        };
        match link.reap() {
            Ok(Some(remains)) => Some((remains, false)),
            Ok(None) => link.held_remains().map(|remains| (remains, true)),
            Err(error) => {
                tracing::error!(pid = link.pid, %error, "cannot wait for a dead worker");
                Some((process::Remains { status: None, max_rss: None, cpu_time: None }, false))
            }
        }
    }
}

/// A report for a worker that never was a process.
fn unborn(who: Incarnation, why: String) -> Death {
    Death {
        pid: 0,
        worker: who.worker,
        cause: DeathCause::StartFailed { why },
        task: None,
        task_id: None,
        ran_for: None,
        peak_rss: None,
        stderr_tail: String::new(),
        stdout_tail: String::new(),
    }
}
