//! Which number each of our tasks has in the worker's table, and which ones it does not have.

use std::collections::HashMap;

use pool_ipc::TaskDecl;

use crate::error::TaskError;
use crate::task::{self, TaskEntry};

/// The worker's number of each task of this program.
#[derive(Debug)]
pub(crate) struct Routes {
    /// In the order of this program's table.
    routes: Vec<Result<u32, TaskError>>,
    /// What they were made from.
    declared: Vec<TaskDecl>,
}

impl Routes {
    /// Compares the worker's table with ours.
    pub(crate) fn new(executable: &str, declared: Vec<TaskDecl>) -> Self {
        let theirs: HashMap<&str, (u32, &str)> = declared
            .iter()
            .zip(0_u32..)
            .map(|(task, number)| (task.name.as_str(), (number, task.signature.as_str())))
            .collect();
        let route = |ours: &TaskEntry| match theirs.get(ours.name) {
            None => Err(TaskError::UnknownTask { task: ours.name.into(), executable: executable.into() }),
            Some((number, signature)) if *signature == ours.signature => Ok(*number),
            Some((_, signature)) => Err(TaskError::TaskDiffers {
                task: ours.name.into(),
                executable: executable.into(),
                ours: ours.signature.into(),
                theirs: (*signature).into(),
            }),
        };
        let routes = task::table().iter().map(route).collect();
        Self { routes, declared }
    }

    /// Whether they were made from this table.
    pub(crate) fn made_from(&self, declared: &[TaskDecl]) -> bool {
        self.declared == declared
    }

    /// What the worker calls the task of this number.
    pub(crate) fn name(&self, number: u32) -> Option<&str> {
        self.declared.get(number as usize).map(|task| task.name.as_str())
    }

    /// Our task that has this number with the worker, if it is the same one.
    pub(crate) fn entry(&self, number: u32) -> Option<&'static TaskEntry> {
        let place = self.routes.iter().position(|route| matches!(route, Ok(theirs) if *theirs == number))?;
        task::table().get(place)
    }

    /// The worker's number of a task.
    pub(crate) fn find(&self, entry: &'static TaskEntry) -> Result<u32, TaskError> {
        let table = task::table();
        // The entry is an element of the table, so its place is the distance from the start; a search covers the case
        // that some future registry hands out entries of its own.
        let place = (std::ptr::from_ref(entry) as usize).wrapping_sub(table.as_ptr() as usize)
            / size_of::<TaskEntry>();
        let same = |place: &usize| table.get(*place).is_some_and(|at| std::ptr::eq(at, entry));
        let place = Some(place).filter(same).or_else(|| table.iter().position(|at| at.name == entry.name));
        match place.and_then(|place| self.routes.get(place)) {
            Some(route) => route.clone(),
            None => {
                Err(TaskError::UnknownTask { task: entry.name.into(), executable: "this program".into() })
            }
        }
    }
}
