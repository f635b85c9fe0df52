//! What crosses the boundary between the supervisor of a process pool and one worker process.
//!
//! This crate holds formats and the thin I/O around them. It takes no decisions and starts no threads: who
//! gets which task, and what a death means, is decided by `pool-core`.
//!
//! # The exchange
//!
//! 1. Before it spawns a worker, the supervisor makes two [`pipe`]s, a [`Region`] and a [`boot::socket_pair`].
//!    It [sends](boot::send) a [`Boot`] message and the worker's [`WorkerEnds`] over that socket, and makes
//!    its other end the worker's standard input, with [`boot::BOOT_ENV`] set. Nothing else has to be
//!    inherited.
//! 2. The worker [receives](boot::receive) them, and answers with a [`Kind::Hello`] frame: a [`Hello`] with its build
//!    and its task table.
//! 3. The supervisor [offers](Board::offer) a ticket on the [`Board`], then sends a [`Kind::Task`] frame: a
//!    [`TaskHead`] followed by the encoded arguments. Many small tasks are one [`Kind::Bundle`], a [`Bundle`].
//! 4. The worker [claims](Board::claim) the ticket, runs the task, writes one [`Kind::Done`] frame (the
//!    encoded result) or one [`Kind::Failed`] frame (a [`Failure`]), then [finishes](Board::finish) the
//!    ticket. A claim that fails means that the supervisor took the task back; the worker skips it.
//! 5. [`Kind::Retire`] asks the worker to finish and exit; [`Kind::Bye`] is the last frame that it writes.
//!
//! Frames travel through the [rings](ring) of the region, with the pipes as doorbells for who sleeps, or through the pipes
//! themselves ([`Boot::ring`]).
//!
//! Whatever the supervisor reads (frames, messages, the region) was written by a process that may be corrupt.
//! It is decoded without panicking, its length is checked before memory is set aside, and after a malformed frame a
//! [`FrameReader`] yields nothing more until it is told to look for the next one.
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
//! assert_eq!(reader.fill(read.as_fd())?, Fill::Bytes(29));
//! let frame = reader.next_frame()?.expect("one whole frame is in the buffer");
//! assert_eq!((frame.kind, frame.ticket, frame.payload), (Kind::Task, 1, Cow::from(&b"head body"[..])));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[cfg(not(target_os = "linux"))]
compile_error!("the process pool runs on Linux only: it needs pidfds, memfds and /proc");

pub mod board;
pub mod boot;
pub mod bundle;
pub mod confinement;
pub mod frame;
#[cfg(not(loom))]
pub mod gauges;
pub mod mark;
pub mod message;
mod passing;
pub mod pipe;
pub mod reader;
#[cfg(not(loom))]
pub mod region;
pub mod ring;
pub mod run;
pub mod segment;
mod sum;
mod sys;
mod word;
pub mod writer;

pub use board::{Board, SLOTS, Slot, coarse_now_ns, now_ns};
pub use boot::{BOOT_ENV, BootError, WorkerEnds};
pub use bundle::{Bundle, Items};
pub use confinement::{Confinement, Jail};
pub use frame::{DEFAULT_FRAME_LIMIT, Frame, FrameError, HEADER_LEN, Header, Kind, SUMMED_MAX};
#[cfg(not(loom))]
pub use gauges::{Gauges, Histogram, KEPT_MAX, KeptArguments, Longest, Measured};
pub use message::{
    Boot, ExitNote, Failure, Hello, MAX_EXIT_VALUE, MAX_STATE_NAME, MessageError, PROTOCOL_VERSION, TaskDecl,
    TaskHead, Unfit,
};
pub use pipe::{pipe_pair, set_nonblocking};
pub use reader::{Fill, FrameReader};
#[cfg(not(loom))]
pub use region::Region;
pub use ring::{RingError, RingReader, RingWriter, Room, Wake};
pub use run::{Frames, Run, frames};
pub use segment::{Block, Locator, Sealed, SealedWriter, Segment, SegmentView};
pub use writer::{Flush, FrameWriter, write_frame};
