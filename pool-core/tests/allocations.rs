//! A tiny task allocates nothing while it is encoded, run and decoded.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;

use pool_core::__private::{Buffer, RunContext, States};
use pool_core::{Call, TaskContext, task};

/// The system's allocator, counting what each thread asks for.
struct Counting;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: it passes everything on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[task]
fn add(a: u64, b: u64) -> u64 {
    a + b
}

#[task]
fn shorter(text: &str, limit: u16) -> Option<u16> {
    u16::try_from(text.len()).ok().filter(|len| *len < limit)
}

#[task]
fn length(data: &[u8]) -> usize {
    data.len()
}

fn allocations(work: impl FnOnce()) -> u64 {
    let before = COUNT.get();
    work();
    COUNT.get() - before
}

/// What a worker and the caller do with a call, with what they keep from task to task.
fn run<R>(call: Call<R>, context: &TaskContext, states: &mut States, output: &mut Buffer) -> R {
    let parts = call.into_parts();
    let args = parts.args.unwrap();
    output.clear();
    (parts.entry.run)(&mut RunContext::new(context, states), &args, output).unwrap();
    (parts.decode)(output.as_slice().into()).unwrap()
}

#[test]
fn a_tiny_task_allocates_nothing() {
    let (context, mut states, mut output) = (TaskContext::local(), States::new(), Buffer::new());
    let mut count = |call: &dyn Fn(&TaskContext, &mut States, &mut Buffer)| {
        // The first time may set things up.
        call(&context, &mut states, &mut output);
        allocations(|| (0..100).for_each(|_| call(&context, &mut states, &mut output)))
    };
    let sum = count(&|context, states, output| {
        assert_eq!(run(add(black_box(u64::MAX / 2), 1), context, states, output), u64::MAX / 2 + 1);
    });
    let text = count(&|context, states, output| {
        assert_eq!(run(shorter("eighteen characters", 99), context, states, output), Some(19));
    });
    assert_eq!((sum, text), (0, 0));
    let call = add(1, 2);
    assert_eq!(allocations(|| (0..100).for_each(|_| drop(black_box(call.clone())))), 0, "nor do clones");
    // What is not tiny allocates a little, which is then shared; so the count counts.
    assert_eq!(allocations(|| drop(black_box(length(&[7; 1000])))), 2);
}
