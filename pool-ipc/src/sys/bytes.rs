//! The bytes of a ring: copied in and out, never borrowed.

use std::mem::MaybeUninit;

#[cfg(loom)]
use loom::cell::UnsafeCell;
#[cfg(not(loom))]
use std::cell::UnsafeCell;

/// Bytes that another process may write to while they are looked at, so that nothing is ever parsed in them.
///
/// A copy that races with a hostile writer is outside of what Rust defines, as all memory shared between processes
/// is. What is copied is private afterwards: each copy is followed by a store with `Release` before its bytes are
/// looked at, over which no compiler moves the reading of the source.
#[repr(transparent)]
pub(crate) struct Bytes<const N: usize>([UnsafeCell<u8>; N]);

// SAFETY: access is through the unsafe functions below only, whose callers exclude each other.
unsafe impl<const N: usize> Sync for Bytes<N> {}

#[cfg(not(loom))]
impl<const N: usize> Bytes<N> {
    /// Copies `from` to the bytes from `at` on.
    ///
    /// # Safety
    /// Nobody else in this process accesses these bytes at the same time.
    ///
    /// # Panics
    /// If they are not all within.
    #[inline]
    pub(crate) unsafe fn copy_in(&self, at: usize, from: &[u8]) {
        assert!(at <= N && from.len() <= N - at, "a ring's bytes end here");
        let target = UnsafeCell::raw_get(self.0.as_ptr().wrapping_add(at));
        // A call of memcpy(3) costs more than the few bytes of most results.
        match from.len() {
            // SAFETY: so many bytes from `at` on are within the array, which may be written through a shared
            // borrow; `from` is private memory of this process, so they do not overlap.
            8..=16 => unsafe { copy_ends::<8>(target, from) },
            // SAFETY: as above.
            4..8 => unsafe { copy_ends::<4>(target, from) },
            // SAFETY: as above.
            len => unsafe { target.copy_from_nonoverlapping(from.as_ptr(), len) },
        }
    }

    /// Copies all of `from`, whose length is known, to the bytes from `at` on.
    ///
    /// # Safety
    /// As for [`copy_in`](Self::copy_in).
    ///
    /// # Panics
    /// If they are not all within.
    #[inline]
    pub(crate) unsafe fn copy_array_in<const LEN: usize>(&self, at: usize, from: &[u8; LEN]) {
        assert!(at <= N && LEN <= N - at, "a ring's bytes end here");
        let target = UnsafeCell::raw_get(self.0.as_ptr().wrapping_add(at));
        // SAFETY: as in `copy_in`.
        unsafe { target.copy_from_nonoverlapping(from.as_ptr(), LEN) }
    }

    /// Copies the bytes from `at` on to `into`, all of which is initialised then.
    ///
    /// # Safety
    /// Nobody else in this process writes to these bytes at the same time.
    ///
    /// # Panics
    /// If they are not all within.
    #[inline]
    pub(crate) unsafe fn copy_out(&self, at: usize, into: &mut [MaybeUninit<u8>]) {
        assert!(at <= N && into.len() <= N - at, "a ring's bytes end here");
        let source = UnsafeCell::raw_get(self.0.as_ptr().wrapping_add(at));
        // SAFETY: as in `copy_in`, the other way round.
        unsafe { into.as_mut_ptr().copy_from_nonoverlapping(source.cast(), into.len()) }
    }
}

/// Copies `from`, which has `HALF` to `2 * HALF` bytes, as two halves that may overlap.
///
/// # Safety
/// `target` must be valid for writes of as many bytes, none of which are in `from`.
#[cfg(not(loom))]
#[inline]
unsafe fn copy_ends<const HALF: usize>(target: *mut u8, from: &[u8]) {
    let (first, last) = (from.as_ptr(), from[from.len() - HALF..].as_ptr());
    // SAFETY: the first `HALF` bytes of both are within.
    unsafe { target.copy_from_nonoverlapping(first, HALF) };
    // SAFETY: so are the last ones.
    unsafe { target.add(from.len() - HALF).copy_from_nonoverlapping(last, HALF) };
}

#[cfg(loom)]
impl<const N: usize> Bytes<N> {
    pub(crate) fn new() -> Self {
        Self(std::array::from_fn(|_| UnsafeCell::new(0)))
    }

    /// As the real one; loom reports accesses that are not ordered.
    pub(crate) unsafe fn copy_in(&self, at: usize, from: &[u8]) {
        for (cell, byte) in self.0[at..].iter().zip(from) {
            // SAFETY: loom allows one access at a time.
            cell.with_mut(|cell| unsafe { *cell = *byte });
        }
    }

    /// As the real one.
    pub(crate) unsafe fn copy_array_in<const LEN: usize>(&self, at: usize, from: &[u8; LEN]) {
        // SAFETY: the caller's.
        unsafe { self.copy_in(at, from) }
    }

    /// As the real one; loom reports accesses that are not ordered.
    pub(crate) unsafe fn copy_out(&self, at: usize, into: &mut [MaybeUninit<u8>]) {
        for (cell, byte) in self.0[at..].iter().zip(into) {
            // SAFETY: loom allows no write at the same time.
            cell.with(|cell| unsafe { byte.write(*cell) });
        }
    }
}
