//! What can happen to a worker.

use super::worker_rules::RULES;
use super::{Rule, Table, axis};
use crate::supervisor::event::{Event, Incarnation, Ticket};
use crate::supervisor::machine::Machine;
use crate::supervisor::slot::{Phase, Ready, Slot};
use WorkerEvent as On;
use WorkerState as Is;

axis! {
    /// What an incarnation of a worker is to the machine.
    WorkerState {
        /// Another incarnation is in its place.
        Outdated,
        /// It is gone, and nobody comes.
        Vacant,
        /// It is gone, and the next one has to wait.
        BackingOff,
        Starting,
        /// It has not said hello, and builds a state.
        StartBuilding,
        Spare,
        Idle,
        /// It builds a state for a task that was taken back.
        IdleBuilding,
        /// It is not known to have claimed its head.
        Unclaimed,
        /// It builds a state for its head.
        Building,
        Running,
        /// It runs a task that failed before, or is to.
        Alone,
        /// A task that failed before waits for it to become empty.
        Reserved,
        /// It is given nothing more, and retires when it is empty.
        Leaving,
        /// Its head has been told to stop.
        Stopping,
        /// It is about to be killed for its head.
        Condemned,
        /// Killed before it has said hello; its death is awaited, as that of the next three.
        KilledStarting,
        KilledEmpty,
        KilledHolding,
        /// Killed because of something that came out of it between results.
        Spoiled,
        Retiring,
        /// Asked to exit, and builds a state.
        RetiringBuilding,
        RetiringKilled,
    }
}

axis! {
    /// What can happen to a worker.
    WorkerEvent {
        Ready,
        Preparing,
        Prepared,
        Unfit,
        Unusable,
        SpawnFailed,
        /// The result of its head, or of several items from it on.
        Finished,
        /// A result, or a failure, of something else.
        Foreign,
        /// Its head has failed.
        Failed,
        Unsendable,
        /// All of what was asked for was taken back.
        TookBack,
        /// It had claimed something of it.
        Claimed,
        Illegible,
        Observed,
        Garbage,
        OverLimit,
        Crowded,
        Violation,
        Lost,
        Died,
        /// It died, and had started its head.
        DiedInTask,
        Heavy,
        /// Its timer has run out.
        Timer,
        Close,
        Shrink,
        Grow,
        /// The pool ends at once.
        End,
    }
}

impl WorkerState {
    pub(in crate::supervisor::simulation) fn of<P>(machine: &Machine<P>, who: Incarnation) -> Self {
        match machine.slots().get(who.index()).filter(|slot| slot.incarnation() == who) {
            Some(slot) => Self::of_slot(slot),
            None => Is::Outdated,
        }
    }

    pub(super) fn of_slot(slot: &Slot) -> Self {
        let builds = slot.preparing.is_some();
        match &slot.phase {
            Phase::Stopped => Is::Vacant,
            Phase::Waiting { .. } => Is::BackingOff,
            Phase::Starting { .. } if builds => Is::StartBuilding,
            Phase::Starting { .. } => Is::Starting,
            Phase::Ready(ready) => Self::of_ready(ready, slot.active, builds),
            Phase::Dying { was_ready: false, .. } => Is::KilledStarting,
            Phase::Dying { hand, .. } => match hand.head() {
                None => Is::KilledEmpty,
                Some(head) if head.is_spoiled() => Is::Spoiled,
                Some(_) => Is::KilledHolding,
            },
            Phase::Retiring { killed: true, .. } => Is::RetiringKilled,
            Phase::Retiring { .. } if builds => Is::RetiringBuilding,
            Phase::Retiring { .. } => Is::Retiring,
        }
    }

    fn of_ready(ready: &Ready, active: bool, builds: bool) -> Self {
        match ready.hand.head() {
            None if builds => Is::IdleBuilding,
            None if active => Is::Idle,
            None => Is::Spare,
            Some(head) if head.is_condemned() => Is::Condemned,
            Some(head) if head.is_doomed() => Is::Stopping,
            _ if ready.is_going() => Is::Leaving,
            _ if ready.reserved.is_some() => Is::Reserved,
            Some(head) if head.is_alone() => Is::Alone,
            _ if builds => Is::Building,
            Some(head) if head.is_started() => Is::Running,
            Some(_) => Is::Unclaimed,
        }
    }
}

impl WorkerEvent {
    /// Whether it is of no one in particular.
    pub(in crate::supervisor::simulation) fn is_of_all(self) -> bool {
        matches!(self, On::Close | On::Shrink | On::Grow | On::End)
    }

    /// Whom an event is about, and what it is to him.
    pub(in crate::supervisor::simulation) fn of<P>(
        machine: &Machine<P>,
        event: &Event<P>,
    ) -> Option<(Incarnation, Self)> {
        let is_its = |who: &Incarnation, ticket: &Ticket| {
            machine.head(*who).is_some_and(|head| head.span.first == *ticket)
        };
        Some(match event {
            Event::Ready(who) => (*who, On::Ready),
            Event::Preparing(who, _) => (*who, On::Preparing),
            Event::Prepared(who) => (*who, On::Prepared),
            Event::Unfit(who, _) => (*who, On::Unfit),
            Event::Unusable(who, _) => (*who, On::Unusable),
            Event::SpawnFailed(who, _) => (*who, On::SpawnFailed),
            Event::Finished(who, ticket, ..) if is_its(who, ticket) => (*who, On::Finished),
            Event::Failed(who, ticket, _) if is_its(who, ticket) => (*who, On::Failed),
            Event::Finished(who, ..) | Event::Failed(who, ..) => (*who, On::Foreign),
            Event::Unsendable(who, ..) => (*who, On::Unsendable),
            Event::TookBack(who, answers) => (
                *who,
                if answers.iter().all(|(_, unclaimed)| *unclaimed) { On::TookBack } else { On::Claimed },
            ),
            Event::Illegible(who, _) => (*who, On::Illegible),
            Event::Observed(who, _) => (*who, On::Observed),
            Event::Garbage(who, _) => (*who, On::Garbage),
            Event::OverLimit(who, ..) => (*who, On::OverLimit),
            Event::Crowded(who, _) => (*who, On::Crowded),
            Event::Violation(who, _) => (*who, On::Violation),
            Event::Lost(who, _) => (*who, On::Lost),
            Event::Died(who, autopsy) => (*who, if autopsy.started { On::DiedInTask } else { On::Died }),
            Event::Heavy(who) => (*who, On::Heavy),
            Event::Pump
            | Event::Tick
            | Event::Cancel(_)
            | Event::CloseGroup(_)
            | Event::Close
            | Event::Resize(_)
            | Event::Terminate
            | Event::Interrupt(_)
            | Event::Fault(_) => return None,
        })
    }

    /// What an event is to every worker, if it is of no one in particular.
    pub(super) fn of_all<P>(event: &Event<P>, most: u32) -> Option<Self> {
        match event {
            Event::Close => Some(On::Close),
            Event::Resize(workers) if *workers < most => Some(On::Shrink),
            Event::Resize(_) => Some(On::Grow),
            Event::Terminate | Event::Interrupt(_) | Event::Fault(_) => Some(On::End),
            _ => None,
        }
    }
}

impl Table for WorkerState {
    type Event = WorkerEvent;
    const WHAT: &'static str = "worker";
    const RULES: &'static [Rule<Self, WorkerEvent>] = RULES;
}
