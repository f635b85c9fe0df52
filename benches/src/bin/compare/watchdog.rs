//! Ends the program when a measurement hangs, and says which.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use pool_benches::Outcome;

use crate::ours::Probe;

/// Longest time for one measurement; the longest one should take a quarter of that.
const PATIENCE: Duration = Duration::from_secs(120);

/// Watches one measurement after another.
#[derive(Debug)]
pub(crate) struct Watchdog {
    watched: Sender<Option<Probe>>,
}

impl Watchdog {
    pub(crate) fn start() -> Outcome<Self> {
        let (watched, receiver) = channel();
        std::thread::Builder::new().name("watchdog".to_owned()).spawn(move || {
            let mut current: Option<Probe> = None;
            loop {
                let next = match current {
                    None => receiver.recv().map_err(|_| RecvTimeoutError::Disconnected),
                    Some(_) => receiver.recv_timeout(PATIENCE),
                };
                match next {
                    Ok(probe) => current = probe,
                    Err(RecvTimeoutError::Disconnected) => return,
                    Err(RecvTimeoutError::Timeout) => {
                        eprintln!("compare: {current:?} has not ended after {PATIENCE:?}; giving up");
                        // The workers end with their supervisor.
                        std::process::exit(3);
                    }
                }
            }
        })?;
        Ok(Self { watched })
    }

    pub(crate) fn watch(&self, probe: Probe) {
        // The thread ends only with the sender.
        let _ = self.watched.send(Some(probe));
    }

    pub(crate) fn rest(&self) {
        let _ = self.watched.send(None);
    }
}
