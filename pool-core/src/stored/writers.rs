//! Threads that publish results: neither the pool nor a caller waits for a disk.
//!
//! There are as many writes as items that are held, so the queue needs no bound of its own. Writing takes as long as the disk
//! needs to make it durable, and several at once take little more than one.

use std::cell::Cell;
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::Mine;
use crate::job::{Settled, Sink};
use crate::outcome::Results;
use crate::reply::Reply;
use crate::supervisor::shared::Shared;

/// Most threads.
const MOST: usize = 4;

thread_local! {
    /// The pool whose results this thread writes; nothing, on other threads.
    static WRITES_FOR: Cell<Option<usize>> = const { Cell::new(None) };
}

fn address(shared: &Shared) -> usize {
    std::ptr::from_ref(shared).addr()
}

/// Whether this is a thread that writes results of this pool. It wakes those who want them, which may be anybody's code.
pub(super) fn is_here(shared: &Shared) -> bool {
    WRITES_FOR.get() == Some(address(shared))
}

/// A result to be written, and who wants it then.
pub(super) struct Write {
    pub(super) mine: Mine,
    pub(super) reply: Reply,
    pub(super) sink: Sink,
}

impl Write {
    fn carry_out(self, shared: &Shared) {
        let outcome = self.mine.write(self.reply).map(Results::One);
        shared.deliver(Settled { sink: self.sink, count: 1, outcome });
        shared.lead.kick();
    }
}

/// The threads, which are started as they are needed. Dropping it waits until everything is written.
pub(super) struct Writers {
    shared: Arc<Shared>,
    queue: Option<(Sender<Write>, Receiver<Write>)>,
    threads: Vec<JoinHandle<()>>,
}

impl Writers {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self { shared: Arc::clone(shared), queue: None, threads: Vec::new() }
    }

    /// Has a result written, and then delivered.
    pub(super) fn push(&mut self, write: Write) {
        let (sender, receiver) = self.queue.get_or_insert_with(unbounded);
        if self.threads.len() < MOST && (self.threads.is_empty() || !receiver.is_empty()) {
            let (receiver, shared) = (receiver.clone(), Arc::clone(&self.shared));
            let name = format!("{}-store", self.shared.name);
            let work = move || {
                WRITES_FOR.set(Some(address(&shared)));
                receiver.into_iter().for_each(|write| write.carry_out(&shared));
            };
            match std::thread::Builder::new().name(name).spawn(work) {
                Ok(thread) => self.threads.push(thread),
                Err(error) => tracing::warn!(pool = self.shared.name, %error, "no thread to store results"),
            }
        }
        if self.threads.is_empty() {
            return write.carry_out(&self.shared);
        }
        if let Err(unsent) = sender.send(write) {
            unsent.into_inner().carry_out(&self.shared);
        }
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        if self.shared.origin.is_elsewhere() {
            // The threads are another process's.
            std::mem::forget(self.queue.take());
            std::mem::take(&mut self.threads).into_iter().for_each(std::mem::forget);
            return;
        }
        self.queue = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!(pool = self.shared.name, "a thread that stores results has panicked");
            }
        }
    }
}
