//! What is remembered of a panic, so that its report has message, location and backtrace.
//!
//! The standard library holds a lock while it makes a backtrace, and takes it again to tell of an allocation that fails: where memory
//! runs out in the midst of a backtrace, the thread waits for itself for ever. So none is made where the limits of the process leave
//! little room.

use std::any::Any;
use std::backtrace::Backtrace;
use std::cell::RefCell;
use std::io::{self, Write};

use pool_ipc::Failure;

use crate::sys::room;

/// More than a backtrace takes, besides the program's own file, which is mapped for it.
const ROOM: usize = 128 << 20;

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
    let setting = std::env::var_os("RUST_BACKTRACE");
    let wanted = setting.as_ref().is_none_or(|value| value != "0");
    std::panic::set_hook(Box::new(move |info| {
        let has_room = room::has(program_len().saturating_add(ROOM));
        let note = Note {
            location: info.location().map(ToString::to_string),
            backtrace: (wanted && has_room).then(|| Backtrace::force_capture().to_string()),
        };
        // A panic while another one is being noted: the first one is the interesting one.
        LAST.with(|last| {
            if let Ok(mut last) = last.try_borrow_mut() {
                *last = Some(note);
            }
        });
        if has_room || !wanted || setting.is_none() {
            before(info);
        } else {
            // It would print a backtrace. If there is no stderr, the report has to do.
            let _ = writeln!(io::stderr(), "{info}\nthere is too little memory for a backtrace");
        }
    }));
}

/// How long the file of this program is; 0 where that cannot be told.
fn program_len() -> usize {
    std::fs::metadata("/proc/self/exe").map_or(0, |meta| usize::try_from(meta.len()).unwrap_or(usize::MAX))
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
