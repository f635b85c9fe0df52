//! The states of a worker: built before they are needed, and sent home when it retires.
//!
//! # Order of events
//! `Preparing`, then `init` runs, then `Prepared`; the task that needs the state is claimed after that. So until the claim the
//! supervisor knows what the worker does instead, and allows it the time for that; the task can still be taken back; and if the
//! worker dies, it is not the task that is blamed.
//!
//! If `init` fails, `Unfit` is the last frame. Another worker would fare no better, so the supervisor breaks the pool.
//!
//! When the worker is asked to retire, it has each state exit, the youngest first, and passes on what it leaves; then comes
//! `Bye`.

use std::panic::{AssertUnwindSafe, catch_unwind};

use pool_ipc::{ExitNote, Failure, Kind, MAX_STATE_NAME, Unfit};

use crate::state::StateEntry;
use crate::sys::setup;
use crate::task;
use crate::told::discard;
use crate::worker::panics;
use crate::worker::serve::{Worker, give_up};

impl Worker {
    /// Builds the state that the task behind this ticket needs, unless it is there.
    #[inline]
    pub(super) fn prepare(&mut self, ticket: u64, state: &StateEntry) {
        // A task that was taken back costs no build; that may still happen to it afterwards.
        if !state.is_built(&self.states) && !self.board.is_withdrawn(ticket) {
            self.build(state);
        }
    }

    /// Builds these states, found by the tasks that need them.
    pub(super) fn prepare_all(&mut self, names: &[String]) {
        for name in names {
            let mut known = task::table().iter().filter_map(|entry| entry.state);
            match known.find(|state| state.name() == name) {
                Some(state) if state.is_built(&self.states) => {}
                Some(state) => self.build(state),
                None => {
                    let why = "no task of the worker executable has a parameter `#[state]` of this type";
                    self.give_notice(name, why.to_owned());
                }
            }
        }
    }

    #[cold]
    fn build(&mut self, state: &StateEntry) {
        self.say(Kind::Preparing, name_of(state.name()).as_bytes());
        panics::forget();
        let (states, worker) = (&mut self.states, self.context.worker_id());
        let built = catch_unwind(AssertUnwindSafe(|| state.build(states, worker)));
        if self.origin.is_elsewhere() {
            // `init` has forked, and this is the child.
            setup::leave();
        }
        if let Some(measure) = &mut self.measure {
            // Before anything is sent: what was built before the hello is no part of the start.
            measure.note_init(self.states.took_ns());
        }
        match built {
            Ok(Ok(())) => {
                self.gauge.forget();
                self.say(Kind::Prepared, &[]);
            }
            Ok(Err(why)) => self.give_notice(state.name(), why),
            Err(payload) => self.give_notice(state.name(), panic_text(&panics::report(&*payload))),
        }
    }

    /// Has all states exit, and passes on what they leave.
    pub(super) fn bequeath(&mut self) {
        while let Some(state) = self.states.take_last() {
            let (name, worker) = (state.name, self.context.worker_id());
            panics::forget();
            let left = catch_unwind(AssertUnwindSafe(|| state.exit(worker)));
            if self.origin.is_elsewhere() {
                setup::leave();
            }
            let values = match left {
                Ok(values) => values.into_iter().map(Ok).collect(),
                Err(payload) => {
                    let text = panic_text(&panics::report(&*payload));
                    discard(payload);
                    vec![Err(text)]
                }
            };
            for value in values {
                match (ExitNote { state: name.to_owned(), value }).encode() {
                    Ok(note) => self.outlet.send(Kind::ExitNote, 0, &note),
                    Err(error) => give_up(&format!("cannot encode an exit value: {error}")),
                }
            }
        }
    }

    /// Says that this worker cannot work, and ends it.
    fn give_notice(&mut self, state: &str, why: String) -> ! {
        match (Unfit { state: state.to_owned(), why }).encode() {
            Ok(notice) => self.say(Kind::Unfit, &notice),
            Err(error) => give_up(&format!("cannot say that state `{state}` cannot be built: {error}")),
        }
        std::process::exit(0)
    }

    /// Sends what the supervisor should not learn late.
    fn say(&mut self, kind: Kind, payload: &[u8]) {
        self.outlet.send(kind, 0, payload);
        self.outlet.run_low();
    }
}

/// As much of the name of a type as is sent.
fn name_of(name: &str) -> &str {
    let mut end = name.len().min(MAX_STATE_NAME);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name[..end]
}

/// What a panic of a state is reported as.
fn panic_text(report: &Failure) -> String {
    match report {
        Failure::Panicked { message, location: Some(location), .. } => {
            format!("it panicked at {location}: {message}")
        }
        Failure::Panicked { message, .. } => format!("it panicked: {message}"),
        other => format!("{other:?}"),
    }
}
