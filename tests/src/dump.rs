//! What is to be seen of a program that hangs.

use std::fmt::Write;
use std::fs;
use std::os::unix::fs::FileExt;

use crate::process;
use crate::region::{NAME, Place};

/// Threads and children of this process with what they wait for, and the words of the rings. Threads are shown twice: those
/// whose processor time has grown meanwhile are turning in circles.
#[must_use]
pub fn dump() -> String {
    let mut text = String::new();
    for look in 0..2 {
        if look > 0 {
            // Time passing is the subject.
            std::thread::sleep(std::time::Duration::from_millis(300));
        }
        threads(&mut text, std::process::id());
        for child in process::children() {
            threads(&mut text, child);
        }
    }
    descriptors(&mut text);
    regions(&mut text);
    text
}

/// What the kernel knows of descriptors that threads wait for: counters of eventfds, what an epoll set is to report.
fn descriptors(text: &mut String) {
    let entries = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    for entry in entries {
        let what = fs::read_link(entry.path()).map(|what| what.display().to_string()).unwrap_or_default();
        if !what.starts_with("anon_inode:") && !what.starts_with("pipe:") {
            continue;
        }
        let number = entry.file_name();
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", number.display())).unwrap_or_default();
        let interesting =
            |line: &&str| line.contains("count") || line.starts_with("tfd") || line.contains("it_value");
        let info: Vec<&str> = info.lines().filter(interesting).collect();
        let _ = writeln!(text, "  descriptor {} {what} {}", number.display(), info.join("; "));
    }
}

fn threads(text: &mut String, pid: u32) {
    let _ = writeln!(text, "process {}", process::describe(pid));
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    for thread in entries {
        // Some of it needs a privilege; what cannot be read is left out.
        let read = |file| fs::read_to_string(thread.path().join(file)).unwrap_or_default().trim().to_owned();
        let number = thread.file_name();
        let state =
            read("stat").rsplit_once(") ").map_or('?', |(_, rest)| rest.chars().next().unwrap_or('?'));
        let _ = writeln!(
            text,
            "  thread {} `{}` {state} in {} [{}]",
            number.display(),
            read("comm"),
            read("wchan"),
            read("syscall")
        );
        for frame in read("stack").lines() {
            let _ = writeln!(text, "    {frame}");
        }
    }
}

/// The regions of our own workers are mapped here, one for each.
fn regions(text: &mut String) {
    let Ok(memory) = fs::File::open("/proc/self/mem") else { return };
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let starts = maps.lines().filter(|line| line.contains(NAME)).filter_map(|line| line.split_once('-'));
    for start in starts.filter_map(|(start, _)| u64::from_str_radix(start, 16).ok()) {
        let _ = write!(text, "region at {start:#x}:");
        for place in Place::WORDS {
            let mut word = [0; 8];
            if memory.read_exact_at(&mut word, start + place.offset()).is_ok() {
                let _ = write!(text, " {place:?} {}", u64::from_le_bytes(word));
            }
        }
        let _ = writeln!(text);
    }
}
