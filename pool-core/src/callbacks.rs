//! The thread that runs `on_complete` callbacks.
//!
//! Callbacks are foreign code: they may block, panic, submit tasks or drop the pool. They run on a thread of their own,
//! which is started with the first callback, one after another, in the order of completion.

use std::sync::{Arc, PoisonError};

use crate::outcome::{Callback, Cell};
use crate::sync::channel::{Sender, unbounded};
use crate::sync::{Mutex, thread};
use crate::told::caught;

type Job = (Callback, Arc<Cell>);

/// The way to the callback thread. The thread ends when this is dropped and what was queued has run.
#[derive(Debug, Default)]
pub(crate) struct Callbacks {
    sender: Mutex<Option<Sender<Job>>>,
}

impl Callbacks {
    /// Queues callbacks; there are never more of them than tasks that were submitted.
    pub(crate) fn run(&self, pool: &str, jobs: Vec<Job>) {
        if jobs.is_empty() {
            return;
        }
        let mut sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        if sender.is_none() {
            let (jobs, queue) = unbounded::<Job>();
            let spawned = thread::detach(format!("{pool}-callbacks"), move || {
                for job in queue {
                    run(job);
                }
            });
            if let Err(error) = &spawned {
                tracing::error!(pool, %error, "no thread for callbacks: they run on the pool's own thread");
            } else {
                *sender = Some(jobs);
            }
        }
        for job in jobs {
            match &*sender {
                Some(sender) => {
                    if let Err(unsent) = sender.send(job) {
                        run(unsent.into_inner());
                    }
                }
                None => run(job),
            }
        }
    }
}

fn run((callback, cell): Job) {
    if caught(|| callback(&cell)).is_none() {
        // The panic hook has shown it; nobody else is harmed.
        tracing::error!("an on_complete callback panicked");
    }
}
