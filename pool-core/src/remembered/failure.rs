//! How a failure is kept, so that it comes back as the same error.
//!
//! Only what a task has done to itself is kept. What is no failure of the item (a batch that was aborted, a pool that has ended) or
//! comes of a program that was built or equipped wrongly (no such task, no descriptors) is not: it runs again.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Death, DeathCause, TaskError, TaskOutput};
use crate::ids::{TaskId, WorkerId};

/// What a kept failure begins with. Others are not read.
const FORM: u8 = 1;

/// A failure that can be kept. New ones are added at the end.
#[derive(Serialize, Deserialize)]
enum Failure {
    WorkerDied(#[serde(with = "DeathForm")] Death),
    Panicked { message: String, location: Option<String>, backtrace: Option<String>, output: Option<Printed> },
    TimedOut { limit: Duration, output: Option<Printed> },
    Poisoned(Vec<Wrapped>),
    Encode { task: String, message: String },
    Decode { task: String, message: String },
}

#[derive(Serialize, Deserialize)]
struct Wrapped(#[serde(with = "DeathForm")] Death);

#[derive(Serialize, Deserialize)]
struct Printed {
    stdout: String,
    stderr: String,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Death")]
struct DeathForm {
    pid: u32,
    #[serde(with = "worker")]
    worker: WorkerId,
    #[serde(with = "CauseForm")]
    cause: DeathCause,
    task: Option<String>,
    #[serde(with = "task_id")]
    task_id: Option<TaskId>,
    ran_for: Option<Duration>,
    peak_rss: Option<u64>,
    stderr_tail: String,
    stdout_tail: String,
}

/// In this order for ever; new ones are added at the end.
#[derive(Serialize, Deserialize)]
#[serde(remote = "DeathCause")]
enum CauseForm {
    Exited(i32),
    Signalled { signal: i32, core_dumped: bool },
    OutOfMemory { evidence: String },
    MemoryLimit { rss: u64, limit: u64 },
    CpuLimit { limit: Duration },
    FileSizeLimit { limit: u64 },
    ProcessLimit { limit: u32 },
    TaskTimeout,
    Cancelled,
    ProtocolViolation { what: String },
    Unresponsive { waited: Duration },
    StartFailed { why: String },
    Terminated,
    StatusLost,
}

mod worker {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::WorkerId;

    pub(super) fn serialize<S: Serializer>(worker: &WorkerId, serializer: S) -> Result<S::Ok, S::Error> {
        worker.get().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<WorkerId, D::Error> {
        Deserialize::deserialize(deserializer).map(WorkerId::new)
    }
}

mod task_id {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::TaskId;

    pub(super) fn serialize<S: Serializer>(task: &Option<TaskId>, serializer: S) -> Result<S::Ok, S::Error> {
        task.map(TaskId::get).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<TaskId>, D::Error> {
        let number: Option<u64> = Deserialize::deserialize(deserializer)?;
        Ok(number.map(TaskId::new))
    }
}

fn printed(output: &Option<Box<TaskOutput>>) -> Option<Printed> {
    let output = output.as_deref()?.clone();
    Some(Printed { stdout: output.stdout, stderr: output.stderr })
}

fn output(printed: Option<Printed>) -> Option<Box<TaskOutput>> {
    printed.map(|Printed { stdout, stderr }| Box::new(TaskOutput { stdout, stderr }))
}

/// The bytes of a failure that can be kept.
pub(crate) fn encode(error: &TaskError) -> Option<Vec<u8>> {
    let failure = match error.clone() {
        TaskError::WorkerDied(death) => Failure::WorkerDied(*death),
        TaskError::Panicked { message, location, backtrace, output } => {
            Failure::Panicked { message, location, backtrace, output: printed(&output) }
        }
        TaskError::TimedOut { limit, output } => Failure::TimedOut { limit, output: printed(&output) },
        TaskError::Poisoned { deaths } => Failure::Poisoned(deaths.into_iter().map(Wrapped).collect()),
        TaskError::Encode { task, message } => Failure::Encode { task, message },
        TaskError::Decode { task, message } => Failure::Decode { task, message },
        _ => return None,
    };
    // It is made of texts and numbers, which can be encoded.
    postcard::to_extend(&failure, vec![FORM]).ok()
}

/// The failure that was kept as these bytes, if they are understood.
pub(crate) fn decode(bytes: &[u8]) -> Option<TaskError> {
    let (FORM, bytes) = bytes.split_first().map(|(form, bytes)| (*form, bytes))? else { return None };
    let (failure, []) = postcard::take_from_bytes(bytes).ok()? else { return None };
    Some(match failure {
        Failure::WorkerDied(death) => TaskError::WorkerDied(Box::new(death)),
        Failure::Panicked { message, location, backtrace, output: printed } => {
            TaskError::Panicked { message, location, backtrace, output: output(printed) }
        }
        Failure::TimedOut { limit, output: printed } => {
            TaskError::TimedOut { limit, output: output(printed) }
        }
        Failure::Poisoned(deaths) => {
            TaskError::Poisoned { deaths: deaths.into_iter().map(|Wrapped(death)| death).collect() }
        }
        Failure::Encode { task, message } => TaskError::Encode { task, message },
        Failure::Decode { task, message } => TaskError::Decode { task, message },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn death(cause: DeathCause) -> Death {
        Death {
            pid: 7,
            worker: WorkerId::new(3),
            cause,
            task: Some("tasks::crash".to_owned()),
            task_id: Some(TaskId::new(u64::MAX)),
            ran_for: Some(Duration::from_micros(1_234_567)),
            peak_rss: Some(1 << 40),
            stderr_tail: "a line\n".to_owned(),
            stdout_tail: String::new(),
        }
    }

    fn causes() -> Vec<DeathCause> {
        let text = || "why".to_owned();
        vec![
            DeathCause::Exited(-1),
            DeathCause::Signalled { signal: 11, core_dumped: true },
            DeathCause::OutOfMemory { evidence: text() },
            DeathCause::MemoryLimit { rss: 2, limit: 1 },
            DeathCause::CpuLimit { limit: Duration::MAX },
            DeathCause::FileSizeLimit { limit: 3 },
            DeathCause::ProcessLimit { limit: 4 },
            DeathCause::TaskTimeout,
            DeathCause::Cancelled,
            DeathCause::ProtocolViolation { what: text() },
            DeathCause::Unresponsive { waited: Duration::ZERO },
            DeathCause::StartFailed { why: text() },
            DeathCause::Terminated,
            DeathCause::StatusLost,
        ]
    }

    fn failures() -> Vec<TaskError> {
        let output = Some(Box::new(TaskOutput { stdout: "out".to_owned(), stderr: "err".to_owned() }));
        let (task, message) = ("a task".to_owned(), "what".to_owned());
        let mut failures = vec![
            TaskError::Panicked {
                message: "boom".to_owned(),
                location: Some("a.rs:1:2".to_owned()),
                backtrace: None,
                output: output.clone(),
            },
            TaskError::TimedOut { limit: Duration::from_millis(1), output },
            TaskError::timed_out(Duration::MAX),
            TaskError::Poisoned { deaths: causes().into_iter().map(death).collect() },
            TaskError::Encode { task: task.clone(), message: message.clone() },
            TaskError::Decode { task, message },
        ];
        failures.extend(causes().into_iter().map(|cause| TaskError::WorkerDied(Box::new(death(cause)))));
        failures
    }

    #[test]
    fn a_failure_comes_back_as_the_same_error() {
        for failure in failures() {
            let bytes = encode(&failure).expect("it can be kept");
            let again = decode(&bytes).expect("it was kept");
            assert_eq!(format!("{again:?}"), format!("{failure:?}"));
        }
    }

    #[test]
    fn what_is_not_of_the_item_is_not_kept() {
        assert!(encode(&TaskError::Cancelled).is_none());
        assert!(encode(&TaskError::PoolClosed).is_none());
        let missing = TaskError::NoResources { task: String::new(), message: String::new() };
        assert!(encode(&missing).is_none());
    }

    #[test]
    fn other_bytes_are_no_failure() {
        let bytes = encode(&failures()[0]).expect("it can be kept");
        for len in 0..bytes.len() {
            assert!(decode(&bytes[..len]).is_none(), "{len}");
        }
        assert!(decode(&[&bytes[..], b"x"].concat()).is_none());
        assert!(decode(&[&[FORM + 1], &bytes[1..]].concat()).is_none());
    }
}
