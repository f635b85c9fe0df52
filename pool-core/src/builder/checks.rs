//! What settings must be like.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::Builder;
use crate::error::BuildError;
use crate::memory::Scales;
use crate::start_method::StartMethod;
use crate::supervisor::token::MAX_WORKERS;
use crate::sys::{cpus, setup};

/// More than any title of a process shows; the name travels to each worker in a message that has a limit, too.
const LONGEST_NAME: usize = 4096;

impl Builder {
    /// Checks the settings, and returns the number of workers.
    pub(super) fn check(&self) -> Result<(u32, u32), BuildError> {
        let wrong = |setting, why: String| Err(BuildError::Setting { setting, why });
        let workers = match self.workers {
            Some(0) => return Err(BuildError::NoWorkers),
            Some(workers) => workers,
            // Where the system does not tell, one worker is right for sure.
            None => std::thread::available_parallelism().map_or(1, usize::from),
        };
        let most = MAX_WORKERS as usize;
        if workers > most {
            return wrong("workers", format!("{workers} are too many, {MAX_WORKERS} is the limit"));
        }
        if self.spares > most - workers {
            let with = format!("{} with {workers} workers are too many", self.spares);
            return wrong("spares", format!("{with}, {MAX_WORKERS} of both is the limit"));
        }
        if let Some(least) = self.min_workers.filter(|least| *least > workers) {
            return wrong("min_workers", format!("{least} are more than the {workers} workers"));
        }
        if self.name.is_empty() || self.name.contains('\0') {
            return wrong("name", format!("{:?} is empty or contains a NUL", self.name));
        }
        if self.name.len() > LONGEST_NAME {
            return wrong(
                "name",
                format!("{} bytes are too many, {LONGEST_NAME} is the limit", self.name.len()),
            );
        }
        if let Some(arg) = self.worker.args().iter().find(|arg| arg.as_bytes().contains(&0)) {
            return wrong("worker", format!("its argument {arg:?} contains a NUL"));
        }
        for (name, value) in &self.env {
            let bad = |text: &OsStr| text.as_bytes().contains(&0);
            if name.is_empty()
                || name.as_bytes().contains(&b'=')
                || bad(name)
                || value.as_deref().is_some_and(bad)
            {
                return wrong(
                    "env",
                    format!("{name:?} is empty, or contains `=` or a NUL, or its value does"),
                );
            }
        }
        if self.worker_env.is_some() && self.start == StartMethod::Zygote {
            return wrong("worker_env", "workers that a zygote forks share its environment".to_owned());
        }
        if self.inner_threads == Some(0) {
            return wrong("inner_threads", "a library needs at least one thread".to_owned());
        }
        if !(-20..=19).contains(&self.nice) {
            return wrong("nice", format!("{} is not from -20 to 19", self.nice));
        }
        if let Some(sets) = &self.cpu_affinity {
            if sets.is_empty() || sets.iter().any(Vec::is_empty) {
                return wrong("cpu_affinity", "a worker needs at least one CPU".to_owned());
            }
            let allowed = cpus::allowed()
                .map_err(|source| BuildError::Os { what: "ask which CPUs may be used", source })?;
            if let Some(cpu) = sets.iter().flatten().find(|cpu| !allowed.contains(cpu)) {
                return wrong(
                    "cpu_affinity",
                    format!("CPU {cpu} is none of those that may be used: {allowed:?}"),
                );
            }
        }
        if self.memory_limit == Some(0) {
            return wrong("memory_limit", "no worker can run without memory".to_owned());
        }
        if self.recycle_above == Some(0) {
            return wrong("recycle_above", "no worker can run without memory".to_owned());
        }
        if self.memory_limit.is_some() || self.recycle_above.is_some() {
            let setting = if self.memory_limit.is_some() { "memory_limit" } else { "recycle_above" };
            if Scales::of(std::process::id()).is_none_or(|scales| scales.private().is_none()) {
                return wrong(
                    setting,
                    "the memory of a worker is read in `/proc`, which cannot be read, or is that of another PID namespace"
                        .to_owned(),
                );
            }
        }
        if self.init_timeout.is_zero() {
            return wrong("init_timeout", "no state can be built in no time".to_owned());
        }
        if let Some(dir) = self.current_dir.as_ref().filter(|dir| !dir.is_dir()) {
            return wrong("current_dir", format!("{dir:?} is no directory"));
        }
        if (self.frame_limit as usize) < 4096 {
            return wrong(
                "frame_limit",
                format!("{} bytes are too few, 4096 is the least", self.frame_limit),
            );
        }
        if self.start_timeout.is_zero() {
            return wrong("start_timeout", "no worker can start in no time".to_owned());
        }
        let mut names = HashSet::new();
        if let Some(twice) = crate::task::table().iter().find(|task| !names.insert(task.name)) {
            return Err(BuildError::DuplicateTask { name: twice.name.to_owned() });
        }
        Ok((workers as u32, self.spares as u32))
    }

    /// Whether niceness may be lowered: tried out on a thread that ends then, as workers inherit what this one may. No file says it
    /// as surely: limits, capabilities, user namespaces and security modules have a say.
    pub(super) fn try_nice(&self) -> Result<(), BuildError> {
        let by = self.nice;
        let tried =
            std::thread::Builder::new().name(format!("{}-nice", self.name)).spawn(move || setup::renice(by));
        let tried = tried.map_err(|source| BuildError::Os { what: "start a thread", source })?;
        let refused = match tried.join() {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "its thread panicked".to_owned(),
        };
        Err(BuildError::Setting {
            setting: "nice",
            why: format!(
                "{by} cannot be added to the niceness of this program: {refused}; it needs CAP_SYS_NICE or a higher RLIMIT_NICE"
            ),
        })
    }
}
