//! Why there is no output of a program.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a program has no [`CommandOutput`](super::CommandOutput).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Error)]
#[non_exhaustive]
pub enum CommandError {
    /// It could not be started.
    #[error(
        "cannot start `{command}`{}: {cause}; check the program, its permissions and the working directory",
        within(dir)
    )]
    #[non_exhaustive]
    Start {
        /// The command line.
        command: String,
        /// The working directory, if one was set.
        dir: Option<String>,
        /// What the operating system said.
        cause: String,
        /// Its number for that (errno), where there is one.
        errno: Option<i32>,
    },
    /// It wrote more than the limit, and was killed.
    #[error(
        "`{command}` wrote more than {limit} bytes to its {stream}, and was killed; raise `Command::output_limit`"
    )]
    #[non_exhaustive]
    TooMuchOutput {
        /// The command line.
        command: String,
        /// Where it wrote them.
        stream: Stream,
        /// The limit in bytes.
        limit: u64,
    },
    /// The operating system failed between the worker and the program, which was killed.
    #[error("cannot {what} `{command}`, which was killed: {cause}")]
    #[non_exhaustive]
    Os {
        /// The command line.
        command: String,
        /// What was tried.
        what: String,
        /// What the operating system said.
        cause: String,
    },
}

fn within(dir: &Option<String>) -> String {
    dir.as_ref().map(|dir| format!(" in {dir}")).unwrap_or_default()
}

/// One of the two streams that a program writes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        })
    }
}
