//! Messages inside frames.

use pool_ipc::message::{MAX_FAILURE_LEN, MAX_TASKS};
use pool_ipc::{Boot, Bundle, ExitNote, Failure, HEADER_LEN, Header, Hello, Locator, TaskHead, Unfit};

/// Any bytes as any message, the first byte saying which: what can be read must come back when it is sent.
pub fn messages(input: &[u8]) {
    let Some((which, bytes)) = input.split_first() else { return };
    match which % 9 {
        0 => boot(bytes),
        1 => hello(bytes),
        2 => failure(bytes),
        3 => unfit(bytes),
        4 => exit_note(bytes),
        5 => task(bytes),
        6 => bundle(bytes),
        7 => locator(bytes),
        _ => header(bytes),
    }
}

fn boot(bytes: &[u8]) {
    if let Ok(boot) = Boot::decode(bytes) {
        // The same numbers can be written longer than need be, so it may have become shorter.
        let again = boot.encode().expect("it is not longer than it was");
        assert!(again.len() <= bytes.len());
        assert_eq!(Boot::decode(&again), Ok(boot));
    }
}

fn hello(bytes: &[u8]) {
    if let Ok(hello) = Hello::decode(bytes) {
        assert!(hello.tasks.len() <= MAX_TASKS);
        let again = hello.encode().expect("it is not longer than it was");
        assert!(again.len() <= bytes.len());
        assert_eq!(Hello::decode(&again), Ok(hello));
    }
}

fn failure(bytes: &[u8]) {
    if let Ok(failure) = Failure::decode(bytes) {
        let again = failure.encode().expect("it consists of texts");
        assert!(again.len() <= MAX_FAILURE_LEN);
        assert_eq!(Failure::decode(&again), Ok(failure.bounded()));
    }
}

fn unfit(bytes: &[u8]) {
    if let Ok(unfit) = Unfit::decode(bytes) {
        let again = Unfit::decode(&unfit.encode().expect("it consists of texts")).expect("we have sent it");
        assert!(again.state.len() <= unfit.state.len() && again.why.len() <= unfit.why.len());
        if (again.state.len(), again.why.len()) == (unfit.state.len(), unfit.why.len()) {
            assert_eq!(again, unfit, "nothing has been cut");
        }
    }
}

fn exit_note(bytes: &[u8]) {
    if let Ok(note) = ExitNote::decode(bytes)
        && let Ok(again) = note.encode()
    {
        let again = ExitNote::decode(&again).expect("we have sent it");
        assert!(again.state.len() <= note.state.len());
        assert_eq!(again.value.is_ok(), note.value.is_ok());
        if note.value.is_ok() {
            assert_eq!(again.value, note.value, "a value is not cut");
        }
    }
}

fn task(bytes: &[u8]) {
    match TaskHead::split(bytes) {
        Ok((head, arguments)) => assert_eq!([&head.encode()[..], arguments].concat(), bytes),
        Err(_) => assert!(bytes.len() < TaskHead::LEN),
    }
}

fn bundle(bytes: &[u8]) {
    let Ok((head, items)) = Bundle::split(bytes) else { return };
    let count = items.len();
    assert!(count > 0 && count * Bundle::ITEM_LEN <= bytes.len());
    let mut again = Bundle::start(head, count as u32).to_vec();
    let mut taken = 0;
    for (at, item) in items.enumerate() {
        assert!(at < count);
        let Ok(arguments) = item else {
            taken = usize::MAX;
            continue;
        };
        assert_ne!(taken, usize::MAX, "the first that makes no sense is the last");
        Bundle::push(&mut again, arguments);
        taken += 1;
    }
    if taken != usize::MAX {
        assert_eq!((taken, &again[..]), (count, bytes));
    }
}

fn locator(bytes: &[u8]) {
    match Locator::split(bytes) {
        Ok((locator, head)) => assert_eq!([&locator.encode()[..], head].concat(), bytes),
        Err(_) => assert!(bytes.len() < Locator::LEN),
    }
}

fn header(bytes: &[u8]) {
    let Some((bytes, payload)) = bytes.split_first_chunk::<HEADER_LEN>() else { return };
    for limit in [0, 4096, u32::MAX] {
        if let Ok(header) = Header::decode(bytes, limit) {
            assert_eq!(header.encode(), *bytes);
            assert!(header.len <= header.kind.limit(limit));
            let right = Header::new(header.kind, header.ticket, &[payload]).expect("it is short");
            assert_eq!(header.matches(payload), (right.len, right.sum) == (header.len, header.sum));
        }
    }
}
