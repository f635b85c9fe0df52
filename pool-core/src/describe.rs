//! What a task was called with, as text for people.
//!
//! The text is made when it is asked for, and not before: from the encoded arguments, decoded once more, by the code that
//! `#[task]` writes beside the one that runs the task. Decoding and `Debug` are code of the program: they are called without
//! any lock, may panic, and may write as much as they like. But what kills a worker could kill this process, too: so nothing is
//! decoded here of which the worker has not said that it has decoded it, under a seal that is not there by chance
//! (`pool_ipc::gauges`).

use std::fmt::{self, Debug, Write};
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::slice;

use pool_ipc::{KEPT_MAX, KeptArguments};

use crate::task::{RunError, TaskEntry};
use crate::told::discard;

/// Characters of a text, without the ellipsis of one that has been cut.
pub(crate) const MOST_CHARS: usize = 200;

/// What stands for arguments that are not known.
const UNKNOWN: &str = "<unknown>";

/// What is known of a task's parameters, those aside that callers do not pass.
#[derive(Debug)]
pub struct Signature {
    /// Name and type of each.
    parameters: &'static [(&'static str, &'static str)],
    describe: DescribeFn,
}

/// Decodes arguments and describes one after the other.
pub type DescribeFn = fn(&[u8], &mut Description) -> Result<(), RunError>;

impl Signature {
    #[doc(hidden)]
    #[must_use]
    pub const fn new(parameters: &'static [(&'static str, &'static str)], describe: DescribeFn) -> Self {
        Self { parameters, describe }
    }
}

/// A text of limited length about the arguments of a task.
#[derive(Debug)]
pub struct Description {
    parameters: slice::Iter<'static, (&'static str, &'static str)>,
    text: String,
    room: usize,
    is_cut: bool,
}

impl Description {
    fn of(signature: &Signature) -> Self {
        Self { parameters: signature.parameters.iter(), text: String::new(), room: MOST_CHARS, is_cut: false }
    }

    /// Describes the next argument; without a value, by its type.
    fn argument(&mut self, value: Option<fmt::Arguments<'_>>) {
        let Some((name, ty)) = self.parameters.next() else { return };
        let comma = if self.text.is_empty() { "" } else { ", " };
        // An error says that there is no more room, which `is_cut` knows, or comes from a `Debug` that gave up.
        let _ = match value {
            Some(value) => write!(self, "{comma}{name}: {value}"),
            None => write!(self, "{comma}{name}: <{ty}>"),
        };
    }

    fn finish(mut self) -> String {
        if self.is_cut {
            self.text.push('…');
        }
        self.text
    }
}

impl Write for Description {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for char in text.chars() {
            // One line is one line.
            let shown = if char.is_control() { char.escape_default().to_string() } else { char.into() };
            let chars = shown.chars().count();
            if self.is_cut || chars > self.room {
                self.is_cut = true;
                return Err(fmt::Error);
            }
            self.room -= chars;
            self.text.push_str(&shown);
        }
        Ok(())
    }
}

/// Shows a `T` by its `Debug`. Types without one fall back to the trait [`Opaque`], as [`Wire`](crate::codec::Wire) falls back
/// to its own.
#[derive(Debug)]
pub struct Show<T: ?Sized>(PhantomData<T>);

/// How types are shown that have no `Debug`.
pub trait Opaque<T: ?Sized> {
    /// Describes the next argument by its type.
    fn show(_: &T, description: &mut Description) {
        description.argument(None);
    }
}

impl<T: ?Sized> Opaque<T> for Show<T> {}

impl<T: Debug + ?Sized> Show<T> {
    /// Describes the next argument by its value.
    pub fn show(value: &T, description: &mut Description) {
        description.argument(Some(format_args!("{value:?}")));
    }
}

/// What a task was called with.
#[derive(Debug, Clone)]
pub(crate) struct Called {
    entry: Option<&'static TaskEntry>,
    arguments: KeptArguments,
}

impl Called {
    /// With the arguments that a worker has kept.
    pub(crate) fn kept(entry: Option<&'static TaskEntry>, arguments: &KeptArguments) -> Self {
        Self { entry, arguments: arguments.clone() }
    }

    /// With these encoded arguments, as far as they are kept.
    pub(crate) fn with(entry: &'static TaskEntry, encoded: &[u8]) -> Self {
        let arguments = match encoded.len() {
            ..=KEPT_MAX => KeptArguments::Whole(encoded.to_vec()),
            size => KeptArguments::Size(size as u64),
        };
        Self { entry: Some(entry), arguments }
    }

    /// No worker has decoded the arguments: they are not to be decoded here.
    pub(crate) fn undecoded(mut self) -> Self {
        if let KeptArguments::Whole(encoded) = &self.arguments {
            self.arguments = KeptArguments::Size(encoded.len() as u64);
        }
        self
    }

    /// Nobody knows how.
    pub(crate) fn somehow() -> Self {
        Self { entry: None, arguments: KeptArguments::Lost }
    }

    /// The text about the arguments: `width: 3, name: "a"`.
    pub(crate) fn describe(&self) -> String {
        let Some(entry) = self.entry else { return UNKNOWN.to_owned() };
        let Some(signature) = entry.arguments else { return String::new() };
        let mut description = Description::of(signature);
        match &self.arguments {
            KeptArguments::Whole(encoded) => {
                let described =
                    catch_unwind(AssertUnwindSafe(|| (signature.describe)(encoded, &mut description)));
                match described {
                    Ok(Ok(())) => description.finish(),
                    Ok(Err(_)) => UNKNOWN.to_owned(),
                    Err(payload) => {
                        discard(payload);
                        UNKNOWN.to_owned()
                    }
                }
            }
            KeptArguments::Size(size) => {
                signature.parameters.iter().for_each(|_| description.argument(None));
                format!("{} ({})", description.finish(), shown_size(*size))
            }
            KeptArguments::Lost => UNKNOWN.to_owned(),
        }
    }
}

fn shown_size(bytes: u64) -> String {
    let kib = bytes as f64 / 1024.0;
    match kib {
        ..1.0 => format!("{bytes} bytes"),
        ..1024.0 => format!("{kib:.1} KiB"),
        _ => format!("{:.1} MiB", kib / 1024.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing(_: &[u8], _: &mut Description) -> Result<(), RunError> {
        Ok(())
    }

    /// Describes `a` and `b`.
    fn described(a: &dyn Debug, b: &dyn Debug) -> String {
        static TWO: Signature = Signature::new(&[("a", "A"), ("b", "B")], nothing);
        let mut description = Description::of(&TWO);
        Show::<dyn Debug>::show(a, &mut description);
        Show::<dyn Debug>::show(b, &mut description);
        description.finish()
    }

    /// Writes these parts, whether there is room or not.
    struct Stubborn(Vec<&'static str>);

    impl Debug for Stubborn {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0.iter().for_each(|part| _ = f.write_str(part));
            Ok(())
        }
    }

    #[test]
    fn a_text_ends_after_so_many_characters() {
        let room = MOST_CHARS - "a: , b: 1".len();
        let whole = Stubborn(vec!["ä"; room]);
        assert_eq!(described(&whole, &1), format!("a: {}, b: 1", "ä".repeat(room)));
        let longer = Stubborn(vec!["ä"; room + 1]);
        assert_eq!(described(&longer, &1), format!("a: {}, b: …", "ä".repeat(room + 1)));
        let endless = Stubborn(vec!["x"; 100_000]);
        assert_eq!(described(&endless, &1), format!("a: {}…", "x".repeat(MOST_CHARS - 3)));
    }

    #[test]
    fn a_text_is_one_line() {
        let wild = Stubborn(vec!["one\n", "two\t\u{1b}[31m"]);
        assert_eq!(described(&wild, &"c"), r#"a: one\ntwo\t\u{1b}[31m, b: "c""#);
        // What stands for one character is not cut through.
        let late = Stubborn(vec!["y".repeat(MOST_CHARS - 4).leak(), "\n"]);
        assert_eq!(described(&late, &1), format!("a: {}…", "y".repeat(MOST_CHARS - 4)));
    }

    #[test]
    fn a_debug_that_gives_up_leaves_the_others() {
        struct Fails;
        impl Debug for Fails {
            fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
                Err(fmt::Error)
            }
        }
        assert_eq!(described(&Fails, &2), "a: , b: 2");
    }

    #[test]
    fn what_is_not_there_is_not_described() {
        static ENTRY: TaskEntry =
            TaskEntry::new("task", "fn(A, B)", |_, _, _| Ok(())).with_arguments(&UNEXPECTED);
        static UNEXPECTED: Signature =
            Signature::new(&[("a", "A"), ("b", "B")], |_, _| panic!("not decoded"));
        let describe = |arguments| Called::kept(Some(&ENTRY), &arguments).describe();
        assert_eq!(describe(KeptArguments::Size(1023)), "a: <A>, b: <B> (1023 bytes)");
        assert_eq!(describe(KeptArguments::Size(1536)), "a: <A>, b: <B> (1.5 KiB)");
        assert_eq!(describe(KeptArguments::Size(3 << 19)), "a: <A>, b: <B> (1.5 MiB)");
        assert_eq!(describe(KeptArguments::Lost), "<unknown>");
        assert_eq!(Called::with(&ENTRY, b"abc").undecoded().describe(), "a: <A>, b: <B> (3 bytes)");
        assert_eq!(Called::with(&ENTRY, &[0; KEPT_MAX + 1]).describe(), "a: <A>, b: <B> (1.0 KiB)");
        assert_eq!(Called::with(&ENTRY, b"abc").describe(), "<unknown>", "a panic");
        assert_eq!(Called::somehow().describe(), "<unknown>");
    }
}
