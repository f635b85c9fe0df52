//! How fast a worker works, measured by what it reports.

use std::time::{Duration, Instant};

use super::Config;

/// A worker is late when it has reported nothing for so many times as long as it takes to wake another.
pub(super) const LATE: u32 = 4;

/// Time per item, as a moving average that a long item raises at once and short ones soon lower again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// When it last reported something, or got something to do.
    since: Instant,
    /// Items reported at that very moment: they tell how long they took only once the clock has gone on.
    items: u32,
    /// It had nothing to do before `since`, and may have had to be woken.
    rested: bool,
    /// What it should hold.
    window: u32,
    /// What it does while another could be woken.
    soon: u32,
    /// Nanoseconds an item; 0 while nothing is known.
    item: u64,
}

impl Pace {
    pub(super) fn new(now: Instant, config: &Config) -> Self {
        let mut pace = Self { since: now, items: 0, rested: true, window: 0, soon: 0, item: 0 };
        pace.window = pace.fit(config);
        pace
    }

    /// It has got something to do.
    pub(super) fn start(&mut self, now: Instant) {
        (self.since, self.items, self.rested) = (now, 0, true);
    }

    /// It has finished items.
    pub(super) fn report(&mut self, now: Instant, items: u32, config: &Config) {
        self.items = self.items.saturating_add(items);
        let passed = nanos(now.saturating_duration_since(self.since));
        if passed == 0 {
            return;
        }
        let item = (passed / u64::from(self.items.max(1))).max(1);
        // To be woken may have taken longer than the items.
        let vague = self.rested && passed <= 2 * nanos(config.wake);
        self.item = match self.item {
            0 => item,
            old if item > old && vague => old,
            // Half of the way up, three quarters of the way down.
            old if item > old => old + (item - old) / 2,
            old => old - (old - item) / 4 * 3,
        };
        self.window = self.fit(config);
        self.soon = u32::try_from(nanos(config.wake) / self.item).unwrap_or(u32::MAX);
        (self.since, self.items, self.rested) = (now, 0, false);
    }

    /// Items for about as long as the worker is to be busy without us, and two at least, so that it need not wait for us.
    fn fit(&self, config: &Config) -> u32 {
        let items = match nanos(config.ahead).checked_div(self.item) {
            Some(items) => usize::try_from(items).unwrap_or(usize::MAX),
            None => config.unpaced,
        };
        u32::try_from(items.max(2).min(config.prefetch)).unwrap_or(u32::MAX)
    }

    /// How many items it should hold.
    pub(super) fn window(&self) -> usize {
        self.window as usize
    }

    /// How many items it should have done by the time another could be woken; none while nothing is known.
    pub(super) fn soon(&self) -> usize {
        self.soon as usize
    }

    /// Whether it has reported nothing for so long that it may not do soon what one thought.
    pub(super) fn is_late(&self, now: Instant, config: &Config) -> bool {
        now.saturating_duration_since(self.since) > LATE * config.wake
    }

    /// Whether it has reported nothing for so long that it must have a long item to do.
    pub(super) fn is_silent(&self, now: Instant, ahead: Duration) -> bool {
        now.saturating_duration_since(self.since) > 2 * ahead
    }

    /// Nanoseconds an item, as far as one can tell now, one at least.
    pub(super) fn item(&self, now: Instant, ahead: Duration) -> u64 {
        let silent = now.saturating_duration_since(self.since);
        if silent > 2 * ahead { self.item.max(nanos(silent)) } else { self.item.max(1) }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
