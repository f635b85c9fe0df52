//! Tasks that panic.

use pool_core::task;

/// Panics with this message.
#[task]
pub fn panic(message: String) {
    std::panic!("{message}");
}

/// Panics with a value that is no text.
#[task]
pub fn panic_value() {
    std::panic::panic_any(42_u32);
}

/// Panics, and panics again while unwinding (SIGABRT by the runtime).
#[task]
pub fn double_panic() {
    struct PanicOnDrop;
    impl Drop for PanicOnDrop {
        fn drop(&mut self) {
            std::panic!("panic in a destructor");
        }
    }
    let _bomb = PanicOnDrop;
    std::panic!("first panic");
}
