//! How fast a worker works, measured by what it reports.

use std::time::{Duration, Instant};

use super::Config;

/// A worker is late when it has reported nothing for so many times as long as it takes to wake another.
pub(super) const LATE: u32 = 4;
/// As [`LATE`], and what waking another takes, where there is no core left for it.
const CROWDED: u32 = 20;
/// From so long on an item takes so much longer than the way to its worker that the next one need not be there already.
pub(super) const LONG: Duration = Duration::from_millis(50);
/// Nanoseconds below which an item does nothing but compute.
const SHORT: u64 = 5_000;

/// Time per item, as a moving average that a long item raises at once and short ones soon lower again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// When it last reported something, or got something to do.
    since: Instant,
    /// Items reported at that very moment: they tell how long they took only once the clock has gone on.
    items: u32,
    /// It had nothing to do before `since`, and may have had to be woken.
    rested: bool,
    /// What the worker itself has measured, 0 if there is no news of it.
    measured: u64,
    /// What it should hold.
    window: u32,
    /// Nanoseconds an item; 0 while nothing is known.
    item: u64,
}

impl Pace {
    pub(super) fn new(now: Instant, config: &Config) -> Self {
        let mut pace = Self { since: now, items: 0, rested: true, measured: 0, window: 0, item: 0 };
        pace.window = pace.fit(config);
        pace
    }

    /// It has got something to do.
    pub(super) fn start(&mut self, now: Instant) {
        (self.since, self.items, self.rested) = (now, 0, true);
    }

    /// The worker has measured how many nanoseconds its latest items took each.
    pub(super) fn measured(&mut self, item: u64) {
        self.measured = item;
    }

    /// It has finished items: how many nanoseconds each took, if the clock has gone on, and whether it may have been woken for
    /// them, so that it was rather less.
    pub(super) fn report(&mut self, now: Instant, items: u32, config: &Config) -> Option<(u64, bool)> {
        self.items = self.items.saturating_add(items);
        let passed = nanos(now.saturating_duration_since(self.since));
        if passed == 0 {
            return None;
        }
        let (item, rested) = match std::mem::take(&mut self.measured) {
            0 => ((passed / u64::from(self.items.max(1))).max(1), self.rested),
            measured => (measured, false),
        };
        // To be woken may have taken longer than the items.
        let vague = rested && passed <= 2 * nanos(config.wake);
        if self.item == 0 || item < self.item || !vague {
            self.item = average(self.item, item);
        }
        self.window = self.fit(config);
        let took = (item, rested);
        (self.since, self.items, self.rested) = (now, 0, false);
        Some(took)
    }

    /// Items for about as long as the worker is to be busy without us, and two at least, so that it need not wait for us; one, if
    /// it takes long.
    fn fit(&self, config: &Config) -> u32 {
        let items = match nanos(config.ahead).checked_div(self.item) {
            Some(items) => usize::try_from(items).unwrap_or(usize::MAX),
            None => config.unpaced,
        };
        u32::try_from(items.max(self.least()).min(config.prefetch)).unwrap_or(u32::MAX)
    }

    /// How many items it should hold at least while it works: nothing waits behind one that takes long.
    pub(super) fn least(&self) -> usize {
        if self.item >= nanos(LONG) { 1 } else { 2 }
    }

    /// How many items it should hold.
    pub(super) fn window(&self) -> usize {
        self.window as usize
    }

    /// For how long it has reported nothing.
    pub(super) fn silence(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }

    /// Whether it has reported nothing for so long that it must have a long item to do.
    pub(super) fn is_silent(&self, now: Instant, ahead: Duration) -> bool {
        now.saturating_duration_since(self.since) > 2 * ahead
    }

    /// Whether it has reported nothing for so long that nothing should wait behind what it does.
    pub(super) fn is_long(&self, now: Instant) -> bool {
        self.silence(now) >= LONG
    }

    /// Nanoseconds an item, as far as one can tell now, one at least.
    pub(super) fn item(&self, now: Instant, ahead: Duration) -> u64 {
        let silent = now.saturating_duration_since(self.since);
        if silent > 2 * ahead { self.item.max(nanos(silent)) } else { self.item.max(1) }
    }
}

/// How long items take that come one after the other, whoever does them.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tempo {
    /// Nanoseconds; 0 while nothing is known.
    item: u64,
    /// What a worker does while another could be woken, and while another could be woken that has to wait for a core.
    soon: [u32; 2],
}

impl Tempo {
    /// An item has taken so many nanoseconds, or less.
    pub(super) fn note(&mut self, (item, or_less): (u64, bool), config: &Config) {
        if or_less && self.item > 0 && item > self.item {
            return;
        }
        self.item = average(self.item, item);
        let within = |time: Duration| u32::try_from(nanos(time) / self.item.max(1)).unwrap_or(u32::MAX);
        let crowded = if self.is_short() { CROWDED * config.wake } else { config.wake };
        self.soon = [within(config.wake), within(crowded)];
    }

    /// Nanoseconds an item takes; 0 while nothing is known.
    pub(super) fn item(&self) -> u64 {
        self.item
    }

    /// Whether items do nothing but compute: what takes longer may be waiting for something else than a core.
    fn is_short(&self) -> bool {
        self.item < SHORT
    }

    /// How many items a worker should have done by the time another could be woken; none while nothing is known.
    pub(super) fn soon(&self, crowded: bool) -> usize {
        self.soon[usize::from(crowded)] as usize
    }

    /// For how long a worker may be silent before it is in doubt that it does them.
    pub(super) fn patience(&self, config: &Config, crowded: bool) -> Duration {
        config.wake * if crowded && self.is_short() { CROWDED } else { LATE }
    }
}

/// Half of the way up, three quarters of the way down.
fn average(old: u64, item: u64) -> u64 {
    match old {
        0 => item,
        old if item > old => old + (item - old) / 2,
        old => old - (old - item) / 4 * 3,
    }
}

pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
