//! What an epoll event is about, packed into its 64 bits.

use crate::ids::{Generation, WorkerId};
use crate::output::OutputStream;
use crate::supervisor::event::Incarnation;

const GENERATION_BITS: u32 = 40;
const SOURCE_BITS: u32 = 4;

/// Most workers that a pool can have: what fits into a token.
pub(crate) const MAX_WORKERS: u32 = 1 << 16;

/// A descriptor of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Death,
    Results,
    Room,
    Output(OutputStream),
}

/// Which descriptor of which incarnation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) who: Incarnation,
    pub(crate) source: Source,
}

/// The token of the wake-up eventfd.
pub(crate) const WAKE: u64 = u64::MAX;
/// The token of the timer.
pub(crate) const TIMER: u64 = u64::MAX - 1;
/// The epoll set of the results has something.
pub(crate) const RESULTS: u64 = u64::MAX - 2;
/// The zygote is dead.
pub(crate) const ZYGOTE: u64 = u64::MAX - 3;

impl Token {
    pub(crate) fn encode(self) -> u64 {
        let source = match self.source {
            Source::Death => 0,
            Source::Results => 1,
            Source::Room => 2,
            Source::Output(OutputStream::Stdout) => 3,
            Source::Output(OutputStream::Stderr) => 4,
        };
        let generation = self.who.generation.get() & ((1 << GENERATION_BITS) - 1);
        u64::from(self.who.worker.get()) << (GENERATION_BITS + SOURCE_BITS)
            | generation << SOURCE_BITS
            | source
    }

    pub(crate) fn decode(bits: u64) -> Option<Self> {
        let source = match bits & ((1 << SOURCE_BITS) - 1) {
            0 => Source::Death,
            1 => Source::Results,
            2 => Source::Room,
            3 => Source::Output(OutputStream::Stdout),
            4 => Source::Output(OutputStream::Stderr),
            _ => return None,
        };
        let generation = Generation::new((bits >> SOURCE_BITS) & ((1 << GENERATION_BITS) - 1));
        let worker = WorkerId::new((bits >> (GENERATION_BITS + SOURCE_BITS)) as u32);
        Some(Self { who: Incarnation { worker, generation }, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_way_through_the_kernel() {
        for worker in [0, 1, MAX_WORKERS - 1] {
            for generation in [1, 77, (1 << GENERATION_BITS) - 1] {
                for source in
                    [Source::Death, Source::Results, Source::Room, Source::Output(OutputStream::Stderr)]
                {
                    let who = Incarnation {
                        worker: WorkerId::new(worker),
                        generation: Generation::new(generation),
                    };
                    let token = Token { who, source };
                    assert_eq!(Token::decode(token.encode()), Some(token));
                    assert!(token.encode() < ZYGOTE);
                }
            }
        }
        for other in [WAKE, TIMER, RESULTS, ZYGOTE] {
            assert_eq!(Token::decode(other), None);
        }
    }
}
