//! The pool's thread: it waits for descriptors, and spawns workers.
//!
//! It must be the one that spawns: the kernel sends a worker its death signal (`PR_SET_PDEATHSIG`) when the *thread* that
//! spawned it ends, and this one lives as long as the pool has workers. An idle pool does not wake it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::epoll::EpollEvent;

#[cfg(feature = "test-faults")]
use crate::faults::{self, Place};
use crate::supervisor::engine::Engine;
use crate::supervisor::event::Event;
use crate::supervisor::shared::Shared;
use crate::supervisor::token::{RESULTS, TIMER, Token, WAKE, ZYGOTE};
use crate::sync::ready;
use crate::told::tell;

/// Faults of our own after which the reactor gives up altogether.
const MOST_FAULTS: u32 = 3;

/// Runs until everything has ended and every process is gone.
pub(crate) fn run(shared: &Arc<Shared>) {
    take_turns(shared);
    // Whatever has ended it: after this thread nobody would notice a death.
    let _ = catch_unwind(AssertUnwindSafe(|| shared.with(|engine, now| engine.bury_the_rest(now))));
    shared.launcher.end();
}

fn take_turns(shared: &Arc<Shared>) {
    let mut events = vec![EpollEvent::empty(); 64];
    let mut faults = 0;
    loop {
        let turn = catch_unwind(AssertUnwindSafe(|| turn(shared, &mut events)));
        match turn {
            Ok(true) => {}
            Ok(false) => return,
            Err(_) => {
                faults += 1;
                tell!(error, ERROR, pool = shared.name, "the reactor panicked");
                let fault = |engine: &mut Engine, now| {
                    // It may have panicked in the midst of a launch, which has no result then.
                    engine.forget_launch();
                    engine.machine.on(now, Event::Fault("a panic in the reactor".to_owned()));
                };
                // A panic in there is dealt with there.
                let _ = catch_unwind(AssertUnwindSafe(|| shared.with(fault)));
                if faults >= MOST_FAULTS {
                    return;
                }
            }
        }
    }
}

/// One round; false when there is nothing left to do, ever.
fn turn(shared: &Arc<Shared>, events: &mut [EpollEvent]) -> bool {
    #[cfg(feature = "test-faults")]
    faults::strike(Place::Turn);
    let mut has_launched = false;
    while let Some(who) = shared.with(|engine, _| engine.next_spawn()) {
        #[cfg(feature = "test-faults")]
        faults::strike(Place::Launch);
        let launched = shared.launcher.launch(who);
        shared.with(|engine, now| engine.launched(now, who, launched));
        has_launched = true;
    }
    drop(shared.with(|engine, _| engine.leavings()));
    let is_gone = shared.with(|engine, _| {
        engine.clear_away();
        engine.is_gone()
    });
    if is_gone {
        return false;
    }
    if has_launched {
        shared.launcher.warm(&shared.epoll);
    }
    let ready = match ready::wait(&shared.epoll, events) {
        Ok(ready) => &events[..ready],
        Err(Errno::EINTR) => return true,
        Err(error) => {
            shared.with(|engine, now| engine.machine.on(now, Event::Fault(format!("epoll_wait: {error}"))));
            return false;
        }
    };
    if ready.iter().any(|event| event.data() == ZYGOTE) {
        shared.launcher.look();
    }
    attend(shared, ready);
    true
}

/// Does what descriptors are ready for.
pub(crate) fn attend(shared: &Shared, ready: &[EpollEvent]) {
    shared.with(|engine, now| {
        #[cfg(feature = "test-faults")]
        faults::strike(Place::Locked);
        // Results before deaths: what a worker has written counts, whatever happened to it afterwards.
        for token in ready.iter().map(EpollEvent::data) {
            match token {
                RESULTS => engine.on_results(now),
                WAKE => {
                    shared.woken();
                    engine.on_tick(now);
                    engine.glance();
                }
                TIMER => {
                    engine.timer_fired();
                    engine.on_tick(now);
                }
                other => {
                    if let Some(token) = Token::decode(other) {
                        engine.on_ready(now, token);
                    }
                }
            }
        }
    });
}
