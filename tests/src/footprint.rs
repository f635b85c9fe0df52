//! What a test may leave behind, counted.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use crate::process;

/// What this process holds, and what it has started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footprint {
    /// Open descriptors: number and what it is.
    descriptors: BTreeMap<String, String>,
    /// Threads whose name begins with the pool's.
    threads: Vec<String>,
    /// Mappings of memfds.
    mappings: usize,
    /// Children, zombies included, and everything that was started with the mark in its environment.
    processes: BTreeSet<u32>,
}

impl Footprint {
    /// Takes a look. `mark` is in the environment of the workers, `pool` the beginning of the pool's name.
    #[must_use]
    pub fn take(mark: &str, pool: &str) -> Self {
        let mut processes = process::children();
        processes.extend(process::marked(mark));
        Self { descriptors: descriptors(), threads: threads(pool), mappings: mappings(), processes }
    }

    /// Whether nothing is here that was not there before. Less is no fault: memory that an earlier pool has left for the next
    /// one is given back after a while.
    #[must_use]
    pub fn is_within(&self, before: &Self) -> bool {
        self.descriptors.iter().all(|(number, what)| before.descriptors.get(number) == Some(what))
            && self.threads.iter().all(|thread| before.threads.contains(thread))
            && self.threads.len() <= before.threads.len()
            && self.mappings <= before.mappings
            && self.processes.is_subset(&before.processes)
    }

    /// Whether no process and no thread is here that was not there before, whatever memory is kept for the next pool.
    #[must_use]
    pub fn has_no_more_life_than(&self, before: &Self) -> bool {
        self.threads.len() <= before.threads.len() && self.processes.is_subset(&before.processes)
    }

    /// What is here and was not there before, for a failure report.
    #[must_use]
    pub fn beyond(&self, before: &Self) -> String {
        let fresh = |(number, what): &(&String, &String)| before.descriptors.get(*number) != Some(*what);
        let descriptors: Vec<_> = self.descriptors.iter().filter(fresh).collect();
        let processes: Vec<_> =
            self.processes.difference(&before.processes).map(|pid| process::describe(*pid)).collect();
        format!(
            "descriptors {descriptors:?}, threads {:?} (before: {:?}), {} mappings (before: {}), processes {processes:#?}",
            self.threads, before.threads, self.mappings, before.mappings
        )
    }
}

fn descriptors() -> BTreeMap<String, String> {
    let entries = fs::read_dir("/proc/self/fd").expect("Linux has /proc");
    let look = |entry: fs::DirEntry| {
        let what = fs::read_link(entry.path()).ok()?.display().to_string();
        // The descriptor that lists the directory itself.
        (!what.ends_with("/fd")).then(|| (entry.file_name().to_string_lossy().into_owned(), what))
    };
    entries.flatten().filter_map(look).collect()
}

fn threads(pool: &str) -> Vec<String> {
    let entries = fs::read_dir("/proc/self/task").expect("Linux has /proc");
    let name = |entry: fs::DirEntry| fs::read_to_string(entry.path().join("comm")).ok();
    let mut names: Vec<String> = entries.flatten().filter_map(name).collect();
    names.retain(|name| name.starts_with(pool));
    names.sort();
    names
}

fn mappings() -> usize {
    let maps = fs::read_to_string("/proc/self/maps").expect("Linux has /proc");
    maps.lines().filter(|line| line.contains("/memfd:")).count()
}
