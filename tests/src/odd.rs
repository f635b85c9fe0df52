//! What is odd without being an error: names, families and values that nobody would make on purpose.

use std::ffi::CString;

use pool_core::task;
use serde::ser::SerializeTuple;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Gives the worker's main thread a name: any bytes but NUL, of which the kernel keeps 15.
///
/// # Panics
/// If there is a NUL among them.
#[task]
pub fn take_name(name: Vec<u8>) {
    let name = CString::new(name).expect("no NUL");
    // SAFETY: PR_SET_NAME reads a text that ends with a NUL, and keeps no pointer.
    let named = unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
    assert_eq!(named, 0, "the kernel takes any bytes");
}

/// Makes children that are not the worker's own, but its parent's (`CLONE_PARENT`): one that ends at once, and one that stays.
///
/// # Panics
/// If there is no room for them.
#[task]
pub fn give_children_to_the_parent() -> [u32; 2] {
    [true, false].map(|ends| {
        let flags = (libc::CLONE_PARENT | libc::SIGCHLD) as libc::c_ulong;
        // SAFETY: without CLONE_VM it is a fork: the child has a copy of the memory and of this stack. It calls nothing but
        // pause(2) and _exit(2), for which no lock is needed that another thread could hold.
        let child = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
        if child == 0 {
            if ends {
                // SAFETY: the call takes an integer, and does not return.
                unsafe { libc::_exit(0) }
            }
            loop {
                // SAFETY: the call takes nothing.
                unsafe { libc::pause() };
            }
        }
        assert!(child > 0, "no child: {}", std::io::Error::last_os_error());
        u32::try_from(child).expect("a process id")
    })
}

/// A value whose decoding panics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PanicOnDecode;

impl<'de> Deserialize<'de> for PanicOnDecode {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        panic!("this value cannot be decoded")
    }
}

/// Returns a value whose decoding panics.
#[task]
pub fn panic_while_decoding() -> PanicOnDecode {
    PanicOnDecode
}

/// A value whose encoding has no end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Endless;

impl Serialize for Endless {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut tuple = serializer.serialize_tuple(2)?;
        loop {
            tuple.serialize_element("and so on, ")?;
        }
    }
}

/// Returns a value whose encoding has no end.
#[task]
pub fn endless() -> Endless {
    Endless
}

/// Something to panic with that panics again when it is dropped, with something that does the same.
#[derive(Debug)]
pub struct PanicsAgain;

impl Drop for PanicsAgain {
    fn drop(&mut self) {
        std::panic::panic_any(Self)
    }
}

/// Panics with [`PanicsAgain`].
#[task]
pub fn panic_again_and_again() {
    std::panic::panic_any(PanicsAgain)
}

/// Leaves itself no more than 4 MiB of memory to write to beyond what it has (`RLIMIT_DATA`), and panics.
///
/// # Panics
/// Always.
#[task]
pub fn panic_with_little_memory() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let status = std::fs::read_to_string("/proc/self/status").expect("it is there");
    let line = status.lines().find_map(|line| line.strip_prefix("VmData:")).expect("a line for it");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    let (_, hard) = getrlimit(Resource::RLIMIT_DATA).expect("a limit");
    setrlimit(Resource::RLIMIT_DATA, (kib + 4096) * 1024, hard).expect("a lower limit");
    panic!("with little memory")
}

/// Reads from the terminal, as who asks for a password does; the error, if that fails.
#[task]
pub fn ask_the_terminal() -> Option<i32> {
    use std::io::Read;
    let asked = std::fs::File::open("/dev/tty").and_then(|mut terminal| terminal.read(&mut [0; 1]));
    asked.err().and_then(|error| error.raw_os_error())
}
