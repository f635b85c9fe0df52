//! Who reads what workers have written: leader and followers.
//!
//! Every hop from one sleeping thread to another costs tens of microseconds, far more than a small task. So a thread that
//! waits for an outcome reads the workers' results itself, if no other does: it *leads*. Threads that come second *follow*:
//! they sleep until the leader or the reactor has their outcome. While nobody leads, the reactor reads.
//!
//! # States
//!
//! ```text
//!           wait            nothing for a while           a doorbell, or a kick
//! Nobody ─────────▶ Reading ───────────────────▶ Asleep ───────────────────────▶ Reading
//!    ▲                 │ its outcome is there, or the deadline has come
//!    └─────────────────┘
//! ```
//!
//! | state | who is woken by a worker | workers ring when |
//! |---|---|---|
//! | `Nobody` | the reactor | somebody watches an outcome: each result; otherwise they run low |
//! | `Reading` | nobody | never |
//! | `Asleep` | the leader: it waits on the epoll set of the results alone, which is muted in the reactor's | each result; the leader of a batch: when they run low |
//!
//! Deaths, timers and output stay with the reactor throughout.
//!
//! # Races
//!
//! * *A result comes while the leader falls asleep.* Arming a worker's bell looks at its ring once more, after the bell has
//!   been made visible; the worker looks at the bell after it has published. One of the two sees the other
//!   (`pool_ipc::ring`). What is found is read, with the bell left armed; if it has settled anything, the leader looks
//!   once whether that was what it waits for, and then sleeps without looking again.
//! * *A worker runs low before its bell is armed to ring when it does.* It rings again when it has nothing left at all, and
//!   what it had published by the time its bell was armed is read then, so that it is given more.
//! * *Somebody else settles what the leader waits for* (the reactor: a death, a limit; another caller: a cancellation). It
//!   kicks the leader: it settles, fence, looks at `asleep`; the leader sets `asleep`, fence, looks whether its outcome is
//!   there. One of the two sees the other. A kick too many costs one turn. The kick is no part of the epoll set: while the
//!   reactor reads, because the leader has stepped aside, it must not take the kick from under a leader that is about to
//!   wake up.
//! * *The leader leaves while others' tasks are running.* Under the lock: it gives the lead up, arms the bells of the
//!   workers that hold tasks (and reads what has come meanwhile), and unmutes the reactor.
//! * *A task is submitted while nobody leads and the reactor is muted.* Whoever submits unmutes it under the lock; a
//!   leader that is about to leave sees the new task when it gives up the lead, under the same lock.
//! * *Somebody begins to watch an outcome while bells are set to ring late.* It arms them anew, after it has registered.
//! * *Foreign code.* Wakers run outside of the lock, by the leader, the reactor or a caller; a panic is caught. They may wait for
//!   the pool: so everything that has ended is delivered before the first of them runs, and whoever has the lead steps aside.
//!
//! Each has a model that runs this code in every order: `src/models`.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::outcome::Watched;
use crate::supervisor::engine::bells::Leading;
use crate::supervisor::shared::Shared;
use crate::supervisor::spin::{self, Turn};
use crate::supervisor::token::RESULTS;
use crate::sync::{AtomicBool, fence, now, ready};

/// Something that a thread can wait for.
pub(crate) trait Wait {
    /// Whether it has come.
    fn is_over(&self) -> bool;
    /// Whether many outcomes are waited for, so that a single one is no news.
    fn is_bulk(&self) -> bool;
    /// Sleeps until it has come, or until the deadline, while somebody else reads results. `heed` is to be called when the
    /// registration is done.
    fn follow(&self, watched: &Watched, heed: impl FnOnce(), deadline: Option<Instant>);
}

/// The lead of a pool, and where its holder sleeps.
#[derive(Debug)]
pub(crate) struct Lead {
    taken: AtomicBool,
    asleep: AtomicBool,
    /// The doorbells of all workers that have said hello.
    pub(crate) results: Arc<Epoll>,
    kick: EventFd,
    pub(crate) watched: Watched,
}

impl Lead {
    pub(crate) fn new(reactor: &Epoll) -> nix::Result<Self> {
        let results = Arc::new(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?);
        let kick = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        reactor.add(&results.0, EpollEvent::new(EpollFlags::EPOLLIN, RESULTS))?;
        Ok(Self {
            taken: AtomicBool::new(false),
            asleep: AtomicBool::new(false),
            results,
            kick,
            watched: Watched::default(),
        })
    }

    /// Has the reactor woken by results, or not.
    pub(crate) fn mute(&self, reactor: &Epoll, muted: bool) -> nix::Result<()> {
        let flags = if muted { EpollFlags::empty() } else { EpollFlags::EPOLLIN };
        ready::tell(|| reactor.modify(&self.results.0, &mut EpollEvent::new(flags, RESULTS)))
    }

    /// Wakes the leader, if it sleeps: something has been settled.
    pub(crate) fn kick(&self) {
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) {
            // EAGAIN: the counter is full, so the leader is being woken anyway.
            let _ = ready::tell(|| self.kick.write(1));
        }
    }

    /// Sleeps until there are results or a kick, until the deadline, or for no reason.
    fn sleep(&self, deadline: Option<Instant>) -> Result<(), Errno> {
        let timeout = match deadline {
            None => PollTimeout::NONE,
            Some(deadline) => {
                // Rounded up, so that it does not wake up too early again and again.
                let left = deadline.saturating_duration_since(now()).as_nanos().div_ceil(1_000_000);
                PollTimeout::from(u16::try_from(left).unwrap_or(u16::MAX))
            }
        };
        let mut fds =
            [self.results.0.as_fd(), self.kick.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        match ready::poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
        if fds[1].any() != Some(false) {
            // EAGAIN: there was none.
            let _ = self.kick.read();
        }
        Ok(())
    }
}

impl Shared {
    /// Waits until something has come, or until the deadline, and reads results meanwhile if nobody else does.
    pub(crate) fn wait_for(&self, wait: &impl Wait, deadline: Option<Instant>) {
        if wait.is_over() {
            return;
        }
        let slept = match self.try_lead() {
            Some(leader) => leader.read_until(wait, deadline),
            None => false,
        };
        if !slept {
            wait.follow(&self.lead.watched, || self.heed(), deadline);
        }
    }

    /// Takes the lead, if nobody has it.
    pub(crate) fn try_lead(&self) -> Option<Leader<'_>> {
        let taken = &self.lead.taken;
        let free = taken.compare_exchange(false, true, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        // Not `then_some`: a leader that is made and dropped would give up somebody else's lead.
        free.then(|| Leader { shared: self })
    }

    /// Somebody watches an outcome from now on: every result is to be announced.
    pub(crate) fn heed(&self) {
        self.with(|engine, _| engine.arm_bells());
    }
}

/// What a leader does next, without the lock.
enum Next {
    /// It looks whether what it waits for has come.
    Look,
    /// It lets others have its core, or the lock.
    Yield,
    Sleep,
}

/// Whoever has the lead; dropping it gives the lead up.
#[derive(Debug)]
pub(crate) struct Leader<'a> {
    shared: &'a Shared,
}

impl Leader<'_> {
    /// Reads results until something has come, or until the deadline. False if the leader cannot sleep, so that it is
    /// better off as a follower.
    pub(crate) fn read_until(self, wait: &impl Wait, deadline: Option<Instant>) -> bool {
        let shared = self.shared;
        let lead = &shared.lead;
        let mut away = None;
        while !wait.is_over() && deadline.is_none_or(|deadline| now() < deadline) {
            let next = shared.with(|engine, _| {
                if engine.is_dozing() {
                    return Next::Sleep;
                }
                engine.lead(Some(Leading::Awake));
                if let Some(away) = away.take() {
                    engine.was_away(away);
                }
                loop {
                    if engine.read_rings() {
                        return Next::Look;
                    }
                    if shared.is_contended() {
                        return Next::Yield;
                    }
                    match engine.spin() {
                        Turn::Look => {}
                        Turn::Yield => return Next::Yield,
                        Turn::Sleep if engine.fall_asleep(wait.is_bulk()) => return Next::Sleep,
                        Turn::Sleep => return Next::Look,
                    }
                }
            });
            match next {
                Next::Look => continue,
                Next::Yield => {
                    away = Some(spin::give_way());
                    continue;
                }
                Next::Sleep => {}
            }
            lead.asleep.store(true, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            let slept = if wait.is_over() { Ok(()) } else { lead.sleep(deadline) };
            lead.asleep.store(false, Ordering::Relaxed);
            if let Err(error) = slept {
                tracing::error!(pool = shared.name, %error, "cannot wait for results: the reactor will");
                return false;
            }
            shared.with(|engine, now| {
                engine.lead(Some(Leading::Awake));
                engine.on_results(now);
            });
        }
        true
    }
}

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        self.shared.with(|engine, _| {
            self.shared.lead.taken.store(false, Ordering::Release);
            engine.lead(None);
            engine.arm_bells();
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nix::sys::epoll::EpollTimeout;

    use super::*;

    /// How much the reactor is shown when it reads results.
    fn read_as_the_reactor(lead: &Lead, reactor: &Epoll) -> usize {
        let mut events = [EpollEvent::empty(); 8];
        let shown = reactor.wait(&mut events, EpollTimeout::ZERO).unwrap();
        shown + lead.results.wait(&mut events, EpollTimeout::ZERO).unwrap()
    }

    /// The reactor reads while the leader is about to sleep, or to wake up. Were the kick part of the set that both wait for, it
    /// would be the reactor's, and the leader would sleep on.
    #[test]
    fn a_kick_is_for_the_leader_alone() {
        let reactor = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        let lead = Lead::new(&reactor).unwrap();
        for muted in [false, true, false] {
            lead.mute(&reactor, muted).unwrap();
            lead.asleep.store(true, Ordering::Relaxed);
            lead.kick();
            assert_eq!(read_as_the_reactor(&lead, &reactor), 0, "muted: {muted}");
            // It is still there, and taken by the leader: once.
            let deadline = Instant::now() + Duration::from_secs(60);
            lead.sleep(Some(deadline)).unwrap();
            assert!(Instant::now() < deadline, "the leader slept on");
            assert_eq!(lead.kick.read(), Err(Errno::EAGAIN));
            lead.asleep.store(false, Ordering::Relaxed);
            lead.kick();
            assert_eq!(lead.kick.read(), Err(Errno::EAGAIN), "nobody sleeps");
        }
    }
}
