//! Words that two processes share, with the few ways in which they are accessed.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Release, SeqCst};

#[cfg(not(loom))]
use std::sync::atomic::AtomicU64;

#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, fence};

/// A word that one side changes, with cache lines of its own: 128 bytes, because processors fetch lines in pairs.
#[repr(C, align(128))]
pub(crate) struct Word(AtomicU64);

impl Word {
    /// The value, and all that was written before it was [set](Self::set) or [told](Self::tell).
    #[inline]
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Acquire)
    }

    /// Changes the value.
    #[inline]
    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Release);
    }

    /// Changes one's own word before one [looks](Flag::look) at the other side's flag.
    ///
    /// Where one side tells and looks at a flag, and the other [raises](Flag::raise) that flag and [looks](Self::look)
    /// at the word, at least one of them sees what the other has done: all four are in one total order. A store that
    /// is in that order is an exchange instruction on x86, which is cheaper than a fence.
    #[cfg(not(loom))]
    #[inline]
    pub(crate) fn tell(&self, value: u64) {
        self.0.store(value, SeqCst);
    }

    /// As the real one: loom knows a total order of fences only.
    #[cfg(loom)]
    pub(crate) fn tell(&self, value: u64) {
        self.0.store(value, Release);
        fence(SeqCst);
    }

    /// The other side's word, after one has [raised](Flag::raise) one's own flag.
    #[inline]
    pub(crate) fn look(&self) -> u64 {
        self.0.load(SeqCst)
    }

    #[cfg(loom)]
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(0))
    }
}

/// A word that both sides change: one raises it, either lowers it. It has cache lines of its own, too.
///
/// It is changed by exchanges only, so that each change sees the one before it, and a late one by the other side cannot
/// pass for a newer one.
#[repr(C, align(128))]
pub(crate) struct Flag(AtomicU64);

impl Flag {
    /// Makes it `value`, which is not 0, before one [looks](Word::look) at the other side's word.
    #[cfg(not(loom))]
    #[inline]
    pub(crate) fn raise(&self, value: u64) {
        self.0.swap(value, SeqCst);
    }

    /// As the real one: loom knows a total order of fences only.
    #[cfg(loom)]
    pub(crate) fn raise(&self, value: u64) {
        self.0.swap(value, AcqRel);
        fence(SeqCst);
    }

    /// Its value, after one has [told](Word::tell) one's own word.
    #[inline]
    pub(crate) fn look(&self) -> u64 {
        self.0.load(SeqCst)
    }

    /// Makes it 0; whether it was something else. If several do so at the same time, one is told so.
    #[inline]
    pub(crate) fn lower(&self) -> bool {
        self.0.swap(0, AcqRel) != 0
    }

    /// Overwrites it, as task code might.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn scribble(&self, value: u64) {
        self.0.store(value, Release);
    }

    #[cfg(loom)]
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(0))
    }
}
