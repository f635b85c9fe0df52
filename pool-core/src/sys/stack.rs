//! How much room is left on the stack of the calling thread.

use std::cell::Cell;

thread_local! {
    /// Lowest and highest address of the stack that the thread was given; `Some(None)` where that cannot be known.
    static BOUNDS: Cell<Option<Option<(usize, usize)>>> = const { Cell::new(None) };
}

/// Bytes that are left, and how many there are in all. `None` where that cannot be known, as on the stack of a coroutine.
#[doc(alias = "pthread_getattr_np")]
pub(crate) fn room() -> Option<(usize, usize)> {
    let look = |known: &Cell<_>| match known.get() {
        Some(bounds) => bounds,
        None => {
            let bounds = bounds();
            known.set(Some(bounds));
            bounds
        }
    };
    // At the end of a thread it is gone.
    let (low, high) = BOUNDS.try_with(look).ok()??;
    let here = 0_u8;
    let here = (&raw const here).addr();
    (low..high).contains(&here).then(|| (here - low, high - low))
}

fn bounds() -> Option<(usize, usize)> {
    // SAFETY: the attributes are plain data that the first call fills in if it succeeds, the second reads, and the third gives back.
    unsafe {
        let mut attributes: libc::pthread_attr_t = std::mem::zeroed();
        if libc::pthread_getattr_np(libc::pthread_self(), &raw mut attributes) != 0 {
            return None;
        }
        let (mut low, mut size) = (std::ptr::null_mut(), 0);
        let found = libc::pthread_attr_getstack(&raw const attributes, &raw mut low, &raw mut size);
        libc::pthread_attr_destroy(&raw mut attributes);
        (found == 0).then(|| (low.addr(), low.addr() + size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_has_what_it_was_given_and_less_of_it_further_down() {
        #[inline(never)]
        fn further_down() -> usize {
            std::hint::black_box([0_u8; 10_000]);
            room().unwrap().0
        }
        let thread = std::thread::Builder::new().stack_size(1 << 20);
        let looked = thread.spawn(|| (room().unwrap(), further_down())).unwrap();
        let ((left, size), further) = looked.join().unwrap();
        assert!((1 << 20..3 << 20).contains(&size), "{size}");
        assert!(left < size && further + 10_000 <= left, "{left} of {size}, and then {further}");
    }
}
