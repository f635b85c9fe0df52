//! Which program to run, and how.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde::{Deserialize, Serialize};

/// Most bytes that a program may write to stdout, and to stderr, unless [`Command::output_limit`] says otherwise: 16 MiB.
pub const DEFAULT_OUTPUT_LIMIT: u64 = 16 << 20;

/// A program to be run in a worker: the description that [`run`](super::run) takes.
///
/// It is built like a [`std::process::Command`]; names and values need not be UTF-8. Printed with `{}` it is the command
/// line, quoted for a shell.
///
/// ```
/// use pool_worker::command::{self, Command, CommandStatus};
///
/// let sort = Command::new("sort").arg("-r").stdin("a\nb\n").env("LC_ALL", "C");
/// assert_eq!(sort.to_string(), "sort -r");
/// let output = command::run(sort).run_here().unwrap().unwrap();
/// assert_eq!(output.status, CommandStatus::Exited(0));
/// assert_eq!(output.stdout, b"b\na\n");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[must_use = "a command does nothing until it is given to `run`"]
pub struct Command {
    program: OsString,
    args: Vec<OsString>,
    #[serde(with = "serde_bytes")]
    stdin: Vec<u8>,
    env_clear: bool,
    env: Vec<(OsString, Option<OsString>)>,
    // Not a `PathBuf`, which serde encodes only if it is UTF-8.
    current_dir: Option<OsString>,
    output_limit: u64,
}

impl Command {
    /// Runs this program: a path, or a name that the worker looks up in its `PATH`.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            stdin: Vec::new(),
            env_clear: false,
            env: Vec::new(),
            current_dir: None,
            output_limit: DEFAULT_OUTPUT_LIMIT,
        }
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args<I>(mut self, args: I) -> Self
    where
        I: IntoIterator,
        I::Item: AsRef<OsStr>,
    {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// What the program reads on its standard input. Default: nothing.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// Sets an environment variable; all others are those of the worker.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), Some(value.as_ref().to_owned())));
        self
    }

    /// Removes an environment variable.
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), None));
        self
    }

    /// Removes all environment variables, those set before included.
    pub fn env_clear(mut self) -> Self {
        self.env.clear();
        self.env_clear = true;
        self
    }

    /// The working directory of the program. Default: that of the worker.
    pub fn current_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.current_dir = Some(dir.into().into_os_string());
        self
    }

    /// Most bytes that the program may write to stdout, and as many to stderr; one that writes more is killed, and
    /// [`CommandError::TooMuchOutput`](super::CommandError::TooMuchOutput) is the result. Default: [`DEFAULT_OUTPUT_LIMIT`].
    pub fn output_limit(mut self, bytes: u64) -> Self {
        self.output_limit = bytes;
        self
    }

    /// The program.
    #[must_use]
    pub fn program(&self) -> &OsStr {
        &self.program
    }

    /// The working directory, if one was set.
    #[must_use]
    pub fn dir(&self) -> Option<&Path> {
        self.current_dir.as_deref().map(Path::new)
    }

    pub(super) fn limit(&self) -> u64 {
        self.output_limit
    }

    /// The command for the standard library, with all three streams piped, and what to write to the first.
    pub(super) fn into_std(self) -> (std::process::Command, Vec<u8>) {
        let mut command = std::process::Command::new(self.program);
        command.args(self.args);
        if self.env_clear {
            command.env_clear();
        }
        for (name, value) in self.env {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        if let Some(dir) = self.current_dir {
            command.current_dir(dir);
        }
        let stdin = if self.stdin.is_empty() { Stdio::null() } else { Stdio::piped() };
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        (command, self.stdin)
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&quoted(&self.program))?;
        self.args.iter().try_for_each(|arg| write!(f, " {}", quoted(arg)))
    }
}

/// A word as one would type it in a shell; what is not UTF-8 is replaced.
fn quoted(word: &OsStr) -> Cow<'_, str> {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_alphanumeric() || "%+,-./:=@_".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word;
    }
    Cow::Owned(format!("'{}'", word.replace('\'', r"'\''")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_one_would_type_it() {
        let command = Command::new("grep").args(["-c", "it's a word", "", "/tmp/a.txt"]).arg("$HOME");
        assert_eq!(command.to_string(), r"grep -c 'it'\''s a word' '' /tmp/a.txt '$HOME'");
    }
}
