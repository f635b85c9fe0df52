//! What crosses the boundary between the supervisor of a process pool and one worker process.
//!
//! This crate holds formats and the thin I/O around them. It takes no decisions and starts no threads: who
//! gets which task, and what a death means, is decided by `pool-core`.
//!
//! # The exchange
//!
//! 1. Before it spawns a worker, the supervisor makes two [`pipe`]s, a [`Board`] and a [`boot::socket_pair`].
//!    It [sends](boot::send) a [`Boot`] message and the worker's [`WorkerEnds`] over that socket, and makes
//!    its other end the worker's standard input, with [`boot::BOOT_ENV`] set. Nothing else has to be
//!    inherited.
//! 2. The worker [receives](boot::receive) them, and answers on its result pipe with a [`Kind::Hello`] frame:
//!    a [`Hello`] with its build and its task table.
//! 3. The supervisor [offers](Board::offer) a ticket on the board, then sends a [`Kind::Task`] frame: a
//!    [`TaskHead`] followed by the encoded arguments.
//! 4. The worker [claims](Board::claim) the ticket, runs the task, writes one [`Kind::Done`] frame (the
//!    encoded result) or one [`Kind::Failed`] frame (a [`Failure`]), then [finishes](Board::finish) the
//!    ticket. A claim that fails means that the supervisor took the task back; the worker skips it.
//! 5. [`Kind::Retire`] asks the worker to finish and exit; [`Kind::Bye`] is the last frame that it writes.
//!
//! Whatever the supervisor reads (frames, messages, the board) was written by a process that may be corrupt.
//! It is decoded without panicking, its length is checked before memory is set aside, and after the first
//! malformed frame a [`FrameReader`] yields nothing more.
//!
//! ```
//! use std::{borrow::Cow, os::fd::AsFd, sync::Arc};
//! use pool_ipc::{DEFAULT_FRAME_LIMIT, Fill, Flush, FrameReader, FrameWriter, Kind, pipe};
//!
//! let (read, write) = pipe::pipe_pair()?;
//! let mut writer = FrameWriter::new();
//! writer.push(Kind::Task, 1, b"head ", &Arc::new(b"body".to_vec()))?;
//! assert_eq!(writer.flush(write.as_fd())?, Flush::Done);
//!
//! let mut reader = FrameReader::new(DEFAULT_FRAME_LIMIT);
//! assert_eq!(reader.fill(read.as_fd())?, Fill::Bytes(25));
//! let frame = reader.next_frame()?.expect("one whole frame is in the buffer");
//! assert_eq!((frame.kind, frame.ticket, frame.payload), (Kind::Task, 1, Cow::from(&b"head body"[..])));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[cfg(not(target_os = "linux"))]
compile_error!("the process pool runs on Linux only: it needs pidfds, memfds and /proc");

pub mod board;
pub mod boot;
pub mod frame;
pub mod message;
pub mod pipe;
pub mod reader;
mod sys;
pub mod writer;

pub use board::{Board, SLOTS, Slot, now_ns};
pub use boot::{BOOT_ENV, BootError, WorkerEnds};
pub use frame::{DEFAULT_FRAME_LIMIT, Frame, FrameError, HEADER_LEN, Header, Kind};
pub use message::{Boot, Failure, Hello, MessageError, PROTOCOL_VERSION, TaskDecl, TaskHead};
pub use pipe::{pipe_pair, set_nonblocking};
pub use reader::{Fill, FrameReader};
pub use writer::{Flush, FrameWriter, write_frame};
