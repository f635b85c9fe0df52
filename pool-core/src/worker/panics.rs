//! What is remembered of a panic, so that its report has message, location and backtrace.

use std::any::Any;
use std::backtrace::Backtrace;
use std::cell::RefCell;

use pool_ipc::Failure;

thread_local! {
    static LAST: RefCell<Option<Note>> = const { RefCell::new(None) };
}

struct Note {
    location: Option<String>,
    backtrace: Option<String>,
}

/// Installs a panic hook that takes notes, and then does what the hook before it did (print to stderr).
pub(super) fn install_hook() {
    let before = std::panic::take_hook();
    // Backtraces are taken whatever RUST_BACKTRACE says, unless it says no.
    let wanted = std::env::var_os("RUST_BACKTRACE").is_none_or(|value| value != "0");
    std::panic::set_hook(Box::new(move |info| {
        let note = Note {
            location: info.location().map(ToString::to_string),
            backtrace: wanted.then(|| Backtrace::force_capture().to_string()),
        };
        // A panic while another one is being noted: the first one is the interesting one.
        LAST.with(|last| {
            if let Ok(mut last) = last.try_borrow_mut() {
                *last = Some(note);
            }
        });
        before(info);
    }));
}

/// Forgets an older panic; called before a task, which may catch panics of its own.
pub(super) fn forget() {
    LAST.with(|last| *last.borrow_mut() = None);
}

/// The report of a panic that has been caught.
pub(super) fn report(payload: &(dyn Any + Send)) -> Failure {
    let message = if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "a value that is no text".to_owned()
    };
    let note = LAST.with(|last| last.borrow_mut().take());
    let (location, backtrace) = note.map_or((None, None), |note| (note.location, note.backtrace));
    Failure::Panicked { message, location, backtrace }
}
