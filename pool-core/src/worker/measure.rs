//! What a worker measures of its tasks, when its pool wants to know.

use pool_ipc::{Boot, Gauges, Region, TaskHead};

/// Measures one task after another.
pub(super) struct Measure {
    pub(super) gauges: Gauges,
    /// When the present task was started.
    started_ns: u64,
    /// How long states have taken to build, as far as that has been noted.
    init_ns: u64,
}

impl Measure {
    pub(super) fn wanted(boot: &Boot, region: &Region) -> Option<Self> {
        boot.measured.map(|key| Self { gauges: region.gauges(key), started_ns: 0, init_ns: 0 })
    }

    /// A task has been claimed, and is about to be run.
    pub(super) fn start(&mut self, head: &TaskHead, now_ns: u64, init_ns: u64) {
        self.started_ns = now_ns;
        self.note_init(init_ns);
        if head.attempt == 1 && head.queued_us != 0 {
            self.gauges.note_wait(waited(now_ns, head.queued_us));
        }
    }

    /// It has ended, and has not been answered yet.
    pub(super) fn end(&mut self, head: &TaskHead, now_ns: u64, init_ns: u64, arguments: &[u8]) {
        // It may have had a state built.
        let init = self.note_init(init_ns);
        let ran = now_ns.saturating_sub(self.started_ns).saturating_sub(init);
        self.gauges.note_run(head.task, head.index, ran, arguments);
    }

    /// Notes how long states have taken to build, and returns how much more it is than before.
    pub(super) fn note_init(&mut self, init_ns: u64) -> u64 {
        let more = init_ns.saturating_sub(self.init_ns);
        if more > 0 {
            self.init_ns = init_ns;
            self.gauges.set_init(init_ns);
        }
        more
    }
}

/// Nanoseconds from the submission of a task, of which the low bits are known in microseconds.
fn waited(now_ns: u64, queued_us: u32) -> u64 {
    let now_us = (now_ns / 1000) as u32;
    u64::from(now_us.wrapping_sub(queued_us)) * 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_right_when_the_low_bits_overflow_meanwhile() {
        assert_eq!(waited(5_000_000, 3_000), 2_000_000);
        let wrap_us = 1_u64 << 32;
        assert_eq!(waited((wrap_us + 7) * 1000, u32::MAX - 2), 10_000);
    }
}
