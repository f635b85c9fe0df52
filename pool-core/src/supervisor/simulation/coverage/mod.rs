//! Which transitions of the [state machine](crate::supervisor::machine) a run has seen.
//!
//! For workers, units, batches and the pool itself there is a table of the states that the machine distinguishes, and of what can
//! happen in each of them. The state is looked at before the machine is given an event, so the machine knows nothing of
//! this. Every pair of a table
//! * is *expected*, and a long run must have seen it;
//! * is expected but *rare*: it takes a coincidence, for which nobody waits, so some pools [aim](super::aims) at it, and for what has not
//!   been seen by the end of a long run, more pools do so until it is;
//! * is *ignored* for a reason: the machine does nothing about it, which is checked each time that it happens. A long run must have seen it
//!   like what is rare;
//! * *never* happens, for a reason: a run that sees it has failed.

mod batches;
mod count;
mod pools;
mod units;
mod worker_rules;
mod workers;

use std::fmt::{self, Debug};

pub(super) use batches::{BatchEvent, BatchState};
pub(super) use count::Watch;
pub(super) use pools::{PoolEvent, PoolState};
pub(super) use units::{UnitEvent, UnitState};
pub(super) use workers::{WorkerEvent, WorkerState};

/// The rows or the columns of a table.
pub(super) trait Axis: Copy + PartialEq + Debug + 'static {
    const ALL: &'static [Self];

    fn index(self) -> usize {
        Self::ALL.iter().position(|it| *it == self).expect("every value is listed")
    }
}

macro_rules! axis {
    ($(#[$about:meta])* $name:ident { $($(#[$meaning:meta])* $value:ident,)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(in crate::supervisor::simulation) enum $name {
            $($(#[$meaning])* $value,)*
        }

        impl $crate::supervisor::simulation::coverage::Axis for $name {
            const ALL: &'static [Self] = &[$(Self::$value,)*];
        }
    };
}
use axis;

/// What is to be expected of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Expected,
    Rare,
    Ignored(&'static str),
    Never(&'static str),
}

/// A verdict on all pairs of these states and these events; no states, or no events, stand for all.
#[derive(Debug)]
pub(super) struct Rule<S: 'static, E: 'static> {
    states: &'static [S],
    events: &'static [E],
    verdict: Verdict,
}

/// The rules of a table, of which the first that fits counts. What none fits is expected.
pub(super) trait Table: Axis {
    type Event: Axis;
    const WHAT: &'static str;
    const RULES: &'static [Rule<Self, Self::Event>];

    fn verdict(self, event: Self::Event) -> Verdict {
        let fits = |rule: &&Rule<Self, Self::Event>| {
            (rule.states.is_empty() || rule.states.contains(&self))
                && (rule.events.is_empty() || rule.events.contains(&event))
        };
        Self::RULES.iter().find(fits).map_or(Verdict::Expected, |rule| rule.verdict)
    }
}

/// The pairs of a table for which nobody waits: those that are rare, and those that are ignored.
pub(super) fn rare<S: Table>() -> impl Iterator<Item = (S, S::Event)> {
    let pairs = S::ALL.iter().flat_map(|state| S::Event::ALL.iter().map(move |event| (*state, *event)));
    pairs.filter(|(state, event)| matches!(state.verdict(*event), Verdict::Rare | Verdict::Ignored(_)))
}

/// How often each pair of a table was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Grid<S> {
    counts: Vec<u64>,
    of: std::marker::PhantomData<S>,
}

impl<S: Table> Default for Grid<S> {
    fn default() -> Self {
        Self { counts: vec![0; S::ALL.len() * S::Event::ALL.len()], of: std::marker::PhantomData }
    }
}

impl<S: Table> Grid<S> {
    /// Counts a pair, and says what is to be expected of it.
    pub(super) fn count(&mut self, state: S, event: S::Event) -> Verdict {
        self.counts[state.index() * S::Event::ALL.len() + event.index()] += 1;
        let verdict = state.verdict(event);
        if let Verdict::Never(why) = verdict {
            panic!("{} {state:?} sees {event:?}, which never happens: {why}", S::WHAT);
        }
        verdict
    }

    pub(super) fn get(&self, state: S, event: S::Event) -> u64 {
        self.counts[state.index() * S::Event::ALL.len() + event.index()]
    }

    fn add(&mut self, other: &Self) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(sum, more)| *sum += more);
    }

    /// The pairs that should have been seen and were not.
    fn missing(&self) -> Vec<String> {
        let pairs = S::ALL.iter().flat_map(|state| S::Event::ALL.iter().map(move |event| (*state, *event)));
        let is_missing = |(state, event): &(S, S::Event)| {
            !matches!(state.verdict(*event), Verdict::Never(_)) && self.get(*state, *event) == 0
        };
        let missing = pairs.filter(is_missing);
        missing.map(|(state, event)| format!("{} {state:?} × {event:?}", S::WHAT)).collect()
    }

    fn cell(&self, state: S, event: S::Event) -> String {
        let count = short(self.get(state, event));
        match state.verdict(event) {
            Verdict::Never(_) => "-".to_owned(),
            Verdict::Ignored(_) => format!("({count})"),
            Verdict::Rare => format!("{count}*"),
            Verdict::Expected => count,
        }
    }

    fn print(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = S::Event::ALL;
        let named: Vec<String> =
            (1..).zip(all).map(|(number, event)| format!("{number} {event:?}")).collect();
        writeln!(to, "\n{}: {}", S::WHAT, named.join(", "))?;
        let heads: String = (1..=all.len()).map(|number| format!("{number:>8}")).collect();
        writeln!(to, "{:18}{heads}", "")?;
        for state in S::ALL {
            let cells: String = all.iter().map(|event| format!("{:>8}", self.cell(*state, *event))).collect();
            writeln!(to, "{:18}{cells}", format!("{state:?}"))?;
        }
        for rule in S::RULES {
            let (how, why) = match rule.verdict {
                Verdict::Ignored(why) => ("is ignored", why),
                Verdict::Never(why) => ("never happens", why),
                Verdict::Rare | Verdict::Expected => continue,
            };
            writeln!(to, "  {} × {} {how}: {why}", list(rule.states), list(rule.events))?;
        }
        Ok(())
    }
}

fn list<A: Debug>(values: &[A]) -> String {
    if values.is_empty() { "every".to_owned() } else { format!("{values:?}") }
}

/// A number in at most five characters.
fn short(count: u64) -> String {
    match count {
        0..10_000 => count.to_string(),
        10_000..10_000_000 => format!("{}k", count / 1_000),
        _ => format!("{}M", count / 1_000_000),
    }
}

/// Everything that was seen. Displayed, it is the tables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Coverage {
    pub(super) workers: Grid<WorkerState>,
    pub(super) units: Grid<UnitState>,
    pub(super) batches: Grid<BatchState>,
    pub(super) pools: Grid<PoolState>,
}

impl Coverage {
    pub(super) fn add(&mut self, other: &Self) {
        self.workers.add(&other.workers);
        self.units.add(&other.units);
        self.batches.add(&other.batches);
        self.pools.add(&other.pools);
    }

    /// The pairs that should have been seen and were not.
    pub(super) fn missing(&self) -> Vec<String> {
        let (workers, units) = (self.workers.missing(), self.units.missing());
        let (batches, pools) = (self.batches.missing(), self.pools.missing());
        [workers, units, batches, pools].concat()
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(to, "How often what happened in which state: (ignored), rare*, - for what never happens")?;
        self.workers.print(to)?;
        self.units.print(to)?;
        self.batches.print(to)?;
        self.pools.print(to)
    }
}
