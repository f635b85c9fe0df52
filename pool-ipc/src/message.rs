//! The messages inside frames: a fixed prefix where speed or compatibility asks for it, [`postcard`] for the
//! rest.
//!
//! [`Boot`] and [`Hello`] start with eight magic bytes and the protocol version (`u32`, little endian), so
//! that a mismatch is named even between versions that agree on nothing else. A worker is untrusted: every
//! message has a limit that is checked before it is decoded.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use thiserror::Error;

use crate::confinement::Confinement;

/// The protocol of this build; supervisor and worker must have the same.
pub const PROTOCOL_VERSION: u32 = 7;

/// The most bytes of an encoded [`Boot`].
pub const MAX_BOOT_LEN: usize = 64 << 10;
/// The most bytes of an encoded [`Hello`].
pub const MAX_HELLO_LEN: usize = 8 << 20;
/// The most tasks in a [`Hello`].
pub const MAX_TASKS: usize = 65_536;
/// The most bytes of each string in a [`Failure`]; the sender cuts longer ones.
pub const MAX_FAILURE_TEXT: usize = 64 << 10;
/// The most bytes of an encoded [`Failure`]: three strings and their framing.
pub const MAX_FAILURE_LEN: usize = 3 * MAX_FAILURE_TEXT + 64;

/// The most bytes of the name of a state.
pub const MAX_STATE_NAME: usize = 4 << 10;
/// The most bytes of an encoded [`Unfit`].
pub const MAX_UNFIT_LEN: usize = MAX_STATE_NAME + MAX_FAILURE_TEXT + 64;
/// The most bytes of a value that a state leaves behind.
pub const MAX_EXIT_VALUE: usize = 64 << 10;
/// The most bytes of an encoded [`ExitNote`].
pub const MAX_EXIT_NOTE_LEN: usize = MAX_STATE_NAME + MAX_EXIT_VALUE + 64;

/// Ends a string that was cut.
const CUT_MARK: &str = " [truncated]";

/// Why bytes are not the message they should be, or a message cannot be sent.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum MessageError {
    /// It does not start like this message.
    #[error(
        "{what} message does not start with its magic: the other side is no worker or supervisor of a pool"
    )]
    BadMagic {
        /// The message that was expected.
        what: &'static str,
    },
    /// The other side speaks another version.
    #[error(
        "the other side speaks protocol version {theirs}, this side {ours}: build both from the same release"
    )]
    Version {
        /// Theirs.
        theirs: u32,
        /// Ours.
        ours: u32,
    },
    /// It is shorter than its fixed part.
    #[error(
        "{what} message has {len} bytes, its fixed part alone has {need}: it was cut or is something else"
    )]
    TooShort {
        /// The message.
        what: &'static str,
        /// Bytes that are there.
        len: usize,
        /// Bytes of the fixed part.
        need: usize,
    },
    /// It is longer than this message may be.
    #[error("{what} message of {len} bytes exceeds the limit of {limit} bytes")]
    TooLong {
        /// The message.
        what: &'static str,
        /// Its bytes.
        len: usize,
        /// The most that is allowed, in bytes.
        limit: usize,
    },
    /// A worker declares too many tasks.
    #[error(
        "hello message declares {count} tasks, the limit is {MAX_TASKS}: link fewer tasks into one executable"
    )]
    TooManyTasks {
        /// How many.
        count: usize,
    },
    /// The encoded part is malformed.
    #[error("{what} message is malformed")]
    Malformed {
        /// The message.
        what: &'static str,
        /// What is wrong.
        source: postcard::Error,
    },
    /// A bundle has no items, or more than its bytes can hold.
    #[error("bundle declares {count} items in {len} bytes")]
    ItemCount {
        /// How many it declares.
        count: u32,
        /// Bytes behind its fixed part.
        len: usize,
    },
    /// Bytes are left after the message.
    #[error("{what} message is followed by {count} stray bytes")]
    TrailingBytes {
        /// The message.
        what: &'static str,
        /// How many.
        count: usize,
    },
    /// It cannot be encoded.
    #[error("{what} message cannot be encoded")]
    Encode {
        /// The message.
        what: &'static str,
        /// Why.
        source: postcard::Error,
    },
}

/// What a worker needs to know before it can say [`Hello`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// The name of the pool, as shown in `ps` and errors.
    pub pool: String,
    /// Which worker of the pool this is.
    pub worker: u32,
    /// Which incarnation of that worker.
    pub generation: u64,
    /// How many pools enclose this one: 0 for a pool of an ordinary process.
    pub depth: u32,
    /// The most bytes of payload in a frame, both ways.
    pub frame_limit: u32,
    /// Process id of the supervisor.
    pub supervisor_pid: u32,
    /// Whether the worker measures its tasks, in the [`Gauges`](crate::gauges) of the region, and their key.
    pub measured: Option<u64>,
    /// Whether the worker writes a [mark](crate::mark) into its output before each task.
    pub marks: bool,
    /// Whether a crash may leave a core dump.
    pub core_dumps: bool,
    /// What the worker adds to its own `oom_score_adj`.
    pub oom_score_adj: i32,
    /// Whether frames travel through the rings of the [`Region`](crate::Region); then the pipes are doorbells.
    pub ring: bool,
    /// What the worker adds to its own niceness.
    pub nice: i32,
    /// The CPUs that it is bound to; none to leave it where it is.
    pub cpus: Vec<u32>,
    /// The states that it builds before it says hello, by name.
    pub states: Vec<String>,
    /// What it denies itself before it says hello.
    pub confinement: Confinement,
}

impl Boot {
    const ENVELOPE: Envelope = Envelope { what: "boot", magic: *b"POOLBOOT", limit: MAX_BOOT_LEN };

    /// The message as it is sent.
    ///
    /// # Errors
    /// [`MessageError::TooLong`] over [`MAX_BOOT_LEN`] bytes; [`MessageError::Encode`].
    pub fn encode(&self) -> Result<Vec<u8>, MessageError> {
        self.encode_with_version(PROTOCOL_VERSION)
    }

    /// As [`encode`](Self::encode), with the mark of another protocol version: for tests of a mismatch.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_with_version(&self, version: u32) -> Result<Vec<u8>, MessageError> {
        Self::ENVELOPE.seal(version, self)
    }

    /// Reads the message; of another protocol version it reads the version only.
    ///
    /// # Errors
    /// [`MessageError::TooLong`], [`MessageError::TooShort`], [`MessageError::BadMagic`],
    /// [`MessageError::Version`], [`MessageError::Malformed`], [`MessageError::TrailingBytes`], looked for in
    /// that order.
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        let (boot, rest) = take(Self::ENVELOPE.what, Self::ENVELOPE.open(bytes)?)?;
        nothing_left(Self::ENVELOPE.what, rest)?;
        Ok(boot)
    }

    /// Whether `bytes` start like a boot message, of whatever version.
    pub(crate) fn is_start(bytes: &[u8]) -> bool {
        bytes.starts_with(&Self::ENVELOPE.magic)
    }
}

/// The first thing a worker says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hello {
    /// Process id of the worker.
    pub pid: u32,
    /// The build id of its executable; empty if it has none.
    pub build_id: Vec<u8>,
    /// The path of its executable, for people.
    pub executable: String,
    /// Its peak resident memory before the first task, in bytes.
    pub base_max_rss: u64,
    /// The tasks linked into it; a [`TaskHead`] names one by its index.
    pub tasks: Vec<TaskDecl>,
}

impl Hello {
    const ENVELOPE: Envelope = Envelope { what: "hello", magic: *b"POOLHELO", limit: MAX_HELLO_LEN };

    /// The message as it is sent.
    ///
    /// # Errors
    /// [`MessageError::TooManyTasks`] over [`MAX_TASKS`]; [`MessageError::TooLong`] over [`MAX_HELLO_LEN`]
    /// bytes; [`MessageError::Encode`].
    pub fn encode(&self) -> Result<Vec<u8>, MessageError> {
        self.encode_with_version(PROTOCOL_VERSION)
    }

    /// As [`encode`](Self::encode), with the mark of another protocol version: for tests of a mismatch.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_with_version(&self, version: u32) -> Result<Vec<u8>, MessageError> {
        check_count(self.tasks.len())?;
        Self::ENVELOPE.seal(version, self)
    }

    /// Reads the message; of another protocol version it reads the version only.
    ///
    /// # Errors
    /// [`MessageError::TooLong`], [`MessageError::TooShort`], [`MessageError::BadMagic`],
    /// [`MessageError::Version`], [`MessageError::TooManyTasks`], [`MessageError::Malformed`],
    /// [`MessageError::TrailingBytes`].
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        let what = Self::ENVELOPE.what;
        let rest = Self::ENVELOPE.open(bytes)?;
        // Field by field, as `derive(Deserialize)` would: the count is checked before the table is built.
        let ((pid, build_id, executable, base_max_rss, count), mut rest) =
            take::<(u32, Vec<u8>, String, u64, usize)>(what, rest)?;
        check_count(count)?;
        let mut tasks = Vec::new();
        for _ in 0..count {
            let (task, after) = take(what, rest)?;
            tasks.push(task);
            rest = after;
        }
        nothing_left(what, rest)?;
        Ok(Self { pid, build_id, executable, base_max_rss, tasks })
    }
}

/// A task that a worker can run.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TaskDecl {
    /// The name by which it is found.
    pub name: String,
    /// Its argument and result types as declared; both sides must agree.
    pub signature: String,
}

/// Why a worker that lives on has no result for a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Failure {
    /// The task panicked.
    Panicked {
        /// What the panic said.
        message: String,
        /// Where, as `file:line:column`.
        location: Option<String>,
        /// The backtrace, if one was asked for.
        backtrace: Option<String>,
    },
    /// The arguments could not be decoded.
    Decode(String),
    /// The result could not be encoded.
    Encode(String),
    /// There is no such task in the worker's table.
    UnknownTask {
        /// The index that was asked for.
        index: u32,
    },
}

impl Failure {
    /// Cuts each string to [`MAX_FAILURE_TEXT`] bytes and marks the cut.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        self.texts_mut().for_each(|text| cut(text, MAX_FAILURE_TEXT));
        self
    }

    fn texts_mut(&mut self) -> impl Iterator<Item = &mut String> {
        let texts = match self {
            Self::Panicked { message, location, backtrace } => {
                [Some(message), location.as_mut(), backtrace.as_mut()]
            }
            Self::Decode(text) | Self::Encode(text) => [Some(text), None, None],
            Self::UnknownTask { .. } => [None, None, None],
        };
        texts.into_iter().flatten()
    }

    /// The message as it is sent, [bounded](Self::bounded).
    ///
    /// # Errors
    /// [`MessageError::Encode`].
    pub fn encode(&self) -> Result<Vec<u8>, MessageError> {
        postcard::to_stdvec(&self.clone().bounded())
            .map_err(|source| MessageError::Encode { what: "failure", source })
    }

    /// Reads the message.
    ///
    /// # Errors
    /// [`MessageError::TooLong`] over [`MAX_FAILURE_LEN`] bytes; [`MessageError::Malformed`];
    /// [`MessageError::TrailingBytes`].
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        check_len("failure", bytes.len(), MAX_FAILURE_LEN)?;
        let (failure, rest) = take("failure", bytes)?;
        nothing_left("failure", rest)?;
        Ok(failure)
    }
}

/// Why a worker cannot work, and no other could: one of its states cannot be built, or it cannot start as it should.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unfit {
    /// The name of the state; empty if it is about the start.
    pub state: String,
    /// What its `init` reported, or the operating system.
    pub why: String,
}

impl Unfit {
    /// The message as it is sent; names over [`MAX_STATE_NAME`] and texts over [`MAX_FAILURE_TEXT`] bytes are cut.
    ///
    /// # Errors
    /// [`MessageError::Encode`].
    pub fn encode(&self) -> Result<Vec<u8>, MessageError> {
        let mut bounded = self.clone();
        cut(&mut bounded.state, MAX_STATE_NAME);
        cut(&mut bounded.why, MAX_FAILURE_TEXT);
        postcard::to_stdvec(&bounded).map_err(|source| MessageError::Encode { what: "unfit", source })
    }

    /// Reads the message.
    ///
    /// # Errors
    /// [`MessageError::TooLong`] over [`MAX_UNFIT_LEN`] bytes; [`MessageError::Malformed`];
    /// [`MessageError::TrailingBytes`].
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        check_len("unfit", bytes.len(), MAX_UNFIT_LEN)?;
        let (unfit, rest) = take("unfit", bytes)?;
        nothing_left("unfit", rest)?;
        Ok(unfit)
    }
}

/// What a state leaves behind when its worker retires.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitNote {
    /// The name of the state.
    pub state: String,
    /// An encoded value, or why there is none.
    pub value: Result<Vec<u8>, String>,
}

impl ExitNote {
    /// The message as it is sent; a name over [`MAX_STATE_NAME`] and a text over [`MAX_FAILURE_TEXT`] bytes are cut.
    ///
    /// # Errors
    /// [`MessageError::TooLong`] for a value over [`MAX_EXIT_VALUE`] bytes; [`MessageError::Encode`].
    pub fn encode(&self) -> Result<Vec<u8>, MessageError> {
        let mut bounded = self.clone();
        cut(&mut bounded.state, MAX_STATE_NAME);
        match &mut bounded.value {
            Ok(value) => check_len("exit note", value.len(), MAX_EXIT_VALUE)?,
            Err(why) => cut(why, MAX_EXIT_VALUE.min(MAX_FAILURE_TEXT)),
        }
        postcard::to_stdvec(&bounded).map_err(|source| MessageError::Encode { what: "exit note", source })
    }

    /// Reads the message.
    ///
    /// # Errors
    /// [`MessageError::TooLong`] over [`MAX_EXIT_NOTE_LEN`] bytes; [`MessageError::Malformed`];
    /// [`MessageError::TrailingBytes`].
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        check_len("exit note", bytes.len(), MAX_EXIT_NOTE_LEN)?;
        let (note, rest) = take("exit note", bytes)?;
        nothing_left("exit note", rest)?;
        Ok(note)
    }
}

/// Cuts `text` to so many bytes, the mark included, at the end of a character.
fn cut(text: &mut String, most: usize) {
    if text.len() > most {
        let mut end = most - CUT_MARK.len();
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str(CUT_MARK);
    }
}

/// The fixed start of a [`Kind::Task`](crate::Kind::Task) payload; the encoded arguments follow.
///
/// ```
/// use pool_ipc::TaskHead;
///
/// let head = TaskHead { index: 3, attempt: 1, queued_us: 0, task: 42, timeout_ns: 0 };
/// let payload = [&head.encode()[..], b"arguments"].concat();
/// assert_eq!(TaskHead::split(&payload), Ok((head, &b"arguments"[..])));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskHead {
    /// Which task of the worker's table; below [`MAX_TASKS`].
    pub index: u32,
    /// Which attempt, counted from the supervisor's first. It arrives as 65,535 at most.
    pub attempt: u32,
    /// When it was submitted: the low bits of the monotonic clock in microseconds, or 0 if that is not measured.
    pub queued_us: u32,
    /// The number of the task, for people.
    pub task: u64,
    /// How long it may run, in nanoseconds; 0 for no limit.
    pub timeout_ns: u64,
}

impl TaskHead {
    /// Bytes of an encoded head.
    pub const LEN: usize = 24;

    /// The head as it is sent.
    #[must_use]
    pub fn encode(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let short = |number: u32| u16::try_from(number).unwrap_or(u16::MAX).to_le_bytes();
        bytes[..2].copy_from_slice(&short(self.index));
        bytes[2..4].copy_from_slice(&short(self.attempt));
        bytes[4..8].copy_from_slice(&self.queued_us.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.task.to_le_bytes());
        bytes[16..].copy_from_slice(&self.timeout_ns.to_le_bytes());
        bytes
    }

    /// Splits a payload into its head and the encoded arguments.
    ///
    /// # Errors
    /// [`MessageError::TooShort`].
    pub fn split(payload: &[u8]) -> Result<(Self, &[u8]), MessageError> {
        let (&head, arguments) = payload
            .split_first_chunk::<{ Self::LEN }>()
            .ok_or(MessageError::TooShort { what: "task", len: payload.len(), need: Self::LEN })?;
        let [i0, i1, a0, a1, q0, q1, q2, q3, n0, n1, n2, n3, n4, n5, n6, n7, timeout @ ..] = head;
        let head = Self {
            index: u16::from_le_bytes([i0, i1]).into(),
            attempt: u16::from_le_bytes([a0, a1]).into(),
            queued_us: u32::from_le_bytes([q0, q1, q2, q3]),
            task: u64::from_le_bytes([n0, n1, n2, n3, n4, n5, n6, n7]),
            timeout_ns: u64::from_le_bytes(timeout),
        };
        Ok((head, arguments))
    }
}

/// The fixed start of a message that introduces a process.
struct Envelope {
    what: &'static str,
    magic: [u8; 8],
    limit: usize,
}

impl Envelope {
    const LEN: usize = 12;

    fn seal(&self, version: u32, message: &impl Serialize) -> Result<Vec<u8>, MessageError> {
        let mut bytes = self.magic.to_vec();
        bytes.extend_from_slice(&version.to_le_bytes());
        let bytes = postcard::to_extend(message, bytes)
            .map_err(|source| MessageError::Encode { what: self.what, source })?;
        check_len(self.what, bytes.len(), self.limit)?;
        Ok(bytes)
    }

    fn open<'a>(&self, bytes: &'a [u8]) -> Result<&'a [u8], MessageError> {
        check_len(self.what, bytes.len(), self.limit)?;
        let (&prefix, rest) = bytes.split_first_chunk::<{ Self::LEN }>().ok_or(MessageError::TooShort {
            what: self.what,
            len: bytes.len(),
            need: Self::LEN,
        })?;
        let [magic @ .., v0, v1, v2, v3] = prefix;
        if magic != self.magic {
            return Err(MessageError::BadMagic { what: self.what });
        }
        match u32::from_le_bytes([v0, v1, v2, v3]) {
            PROTOCOL_VERSION => Ok(rest),
            theirs => Err(MessageError::Version { theirs, ours: PROTOCOL_VERSION }),
        }
    }
}

fn check_len(what: &'static str, len: usize, limit: usize) -> Result<(), MessageError> {
    if len > limit { Err(MessageError::TooLong { what, len, limit }) } else { Ok(()) }
}

fn check_count(count: usize) -> Result<(), MessageError> {
    if count > MAX_TASKS { Err(MessageError::TooManyTasks { count }) } else { Ok(()) }
}

fn take<'a, T: DeserializeOwned>(what: &'static str, bytes: &'a [u8]) -> Result<(T, &'a [u8]), MessageError> {
    postcard::take_from_bytes(bytes).map_err(|source| MessageError::Malformed { what, source })
}

fn nothing_left(what: &'static str, rest: &[u8]) -> Result<(), MessageError> {
    if rest.is_empty() { Ok(()) } else { Err(MessageError::TrailingBytes { what, count: rest.len() }) }
}

#[cfg(test)]
mod tests;
