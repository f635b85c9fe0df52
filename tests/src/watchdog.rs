//! Nothing may hang, the tests included.

use std::io::Write;
use std::process::abort;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::dump;

/// The longest time that a test may take.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Aborts the test program when it is not dropped in time.
#[derive(Debug)]
pub(crate) struct Watchdog {
    done: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    pub(crate) fn new(test: String, limit: Duration) -> Self {
        let (done, is_done) = channel();
        let watch = move || {
            if is_done.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                // Written to the stream itself: what `eprintln!` writes is captured, and lost in an abort.
                let message = format!("\ntest {test} hangs: it has not ended within {limit:?}\n{}\n", dump());
                // There is nobody to tell when stderr is closed.
                let _ = std::io::stderr().write_all(message.as_bytes());
                abort();
            }
        };
        let thread = std::thread::Builder::new().name("watchdog".to_owned()).spawn(watch);
        Self { done: Some(done), thread: Some(thread.expect("the system has room for a thread")) }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.done.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the watchdog does not panic");
        }
    }
}
