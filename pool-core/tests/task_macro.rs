//! What `#[task]` makes of a function, seen by its caller.

#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::error::Error;
use std::ffi::{CStr, OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pool_core::__private::{CallOptions, Encoded};
use pool_core::{Call, IntoCall, RetryOn, RunHereError, StateContext, TaskContext, WorkerState, task};
use serde::{Deserialize, Serialize};

#[task]
fn add(a: u64, b: u64) -> u64 {
    a + b
}

#[task]
fn nothing() {}

#[task(version = 3)]
fn changed() {}

#[derive(Serialize, Deserialize, Debug, PartialEq, Clone, Copy)]
struct Point {
    x: i32,
    y: i32,
}

/// A user's type may have the name of one that the standard library knows.
mod namesakes {
    use super::*;

    #[derive(Serialize, Deserialize, Debug, PartialEq)]
    pub(crate) struct Vec(pub(crate) u8);
    #[derive(Serialize, Deserialize, Debug, PartialEq)]
    pub(crate) struct Path(pub(crate) u8);
    pub(crate) type Result<T> = std::result::Result<T, String>;

    #[task]
    pub(crate) fn shadowed(v: Vec, p: &Path) -> Result<Option<Vec>> {
        Ok(Some(Vec(v.0 + p.0)))
    }
}

#[task]
#[expect(clippy::too_many_arguments, clippy::ptr_arg, reason = "one of each kind")]
fn lent(
    text: &str,
    bytes: &[u8],
    vector: &Vec<u8>,
    points: &[Point],
    path: &Path,
    os: &OsStr,
    c: &CStr,
    point: &Point,
    word: &&str,
) -> String {
    format!("{text} {bytes:?} {vector:?} {points:?} {path:?} {os:?} {c:?} {point:?} {word}")
}

#[task]
fn lifetimes<'a>(
    first: &'a str,
    second: Option<&'a str>,
    third: Cow<'_, str>,
    fourth: Cow<'static, str>,
) -> String {
    let longest: &'a str =
        if second.is_some_and(|s| s.len() > first.len()) { second.unwrap_or(first) } else { first };
    format!("{longest} {third} {fourth}")
}

#[task]
fn patterns((a, b): (u8, u8), mut c: Vec<u8>, _: u8, Point { x, .. }: Point, [d, e]: [u8; 2]) -> Vec<i32> {
    c.push(a);
    c.into_iter().chain([b, d, e]).map(i32::from).chain([x]).collect()
}

type Blob = Vec<u8>;

#[task]
fn blobs(a: Blob, b: Option<Vec<u8>>, c: Result<Vec<u8>, String>) -> Result<Vec<u8>, String> {
    Ok([a, b.unwrap_or_default(), c?].concat())
}

#[task]
fn no_blob() -> Option<Vec<u8>> {
    None
}

#[task]
fn parent(path: PathBuf) -> PathBuf {
    path.parent().map(Path::to_path_buf).unwrap_or_default()
}

#[task]
fn os_identity(text: OsString) -> OsString {
    text
}

#[task]
fn hygiene(input: u8, output: String, run: &str, result: u8, bytes: &[u8], value0: u8, entry: u8) -> String {
    format!("{input} {output} {run} {result} {bytes:?} {value0} {entry}")
}

#[task(name = "drills::échelle")]
fn named() -> u8 {
    7
}

mod reexport {
    pub(crate) mod pool {
        pub(crate) use pool_core::*;
    }
}

#[task(crate = crate::reexport::pool, name = "reexported")]
fn reexported(a: u8) -> u8 {
    a
}

macro_rules! tasks {
    ($($name:ident($argument:ident: $ty:ty) -> $result:ty = $body:expr;)*) => {
        $(#[task] fn $name($argument: $ty) -> $result { $body })*
    };
}

tasks! {
    by_macro_length(text: &str) -> usize = text.len();
    by_macro_blob(bytes: Vec<u8>) -> Vec<u8> = bytes;
}

#[task]
fn r#type(r#fn: u8) -> u8 {
    r#fn
}

#[task]
fn circumstances(before: u8, #[context] cx: &TaskContext, after: &str) -> (u8, usize, u32, bool, String) {
    (before, cx.worker_index(), cx.attempt(), cx.is_cancelled(), after.to_owned())
}

struct Calls(u32);

impl WorkerState for Calls {
    fn init(cx: &StateContext) -> Result<Self, Box<dyn Error + Send + Sync>> {
        Ok(Calls(100 + u32::try_from(cx.worker_index())?))
    }
}

struct Broken;

impl WorkerState for Broken {
    fn init(_: &StateContext) -> Result<Self, Box<dyn Error + Send + Sync>> {
        Err("no licence")?
    }
}

#[task]
fn count(#[state] calls: &mut Calls, step: u32, #[context] cx: &TaskContext) -> u32 {
    calls.0 += step + cx.attempt();
    calls.0
}

#[task]
fn needs_broken(#[state] _broken: &mut Broken) {}

#[task]
fn panics(message: String) -> u8 {
    panic!("{message}")
}

#[task]
fn countdown(n: u32) -> Result<Vec<u32>, String> {
    let mut rest = match n {
        0 => Vec::new(),
        n => countdown(n - 1).run_here().map_err(|e| e.to_string())??,
    };
    rest.insert(0, n);
    Ok(rest)
}

#[derive(Serialize, Deserialize, Debug, PartialEq)]
#[serde(untagged)]
enum Untagged {
    Number(u8),
}

#[derive(Serialize, Deserialize)]
struct Flat {
    #[serde(flatten)]
    rest: BTreeMap<String, u8>,
}

#[task]
fn takes_untagged(value: Untagged) -> bool {
    value == Untagged::Number(1)
}

#[task]
fn gives_untagged() -> Untagged {
    Untagged::Number(1)
}

#[task]
fn takes_flat(number: u8, flat: &Flat) -> usize {
    usize::from(number) + flat.rest.len()
}

#[task]
fn gives_flat() -> Flat {
    Flat { rest: BTreeMap::new() }
}

#[cfg(any())]
#[task]
fn compiled_out(this: does::not::exist) {}

#[task]
#[cfg(any())]
fn compiled_out(this: does::not::exist) {}

fn args<R>(call: Call<R>) -> Vec<u8> {
    call.into_parts().args.unwrap().to_vec()
}

fn run_raw<R>(call: Call<R>, args: &[u8]) -> Result<R, RunHereError> {
    let mut parts = call.into_parts();
    let (entry, decode) = (parts.entry, parts.decode);
    parts.args = Ok(args.to_vec().into());
    let (context, mut states, mut output) =
        (TaskContext::local(), pool_core::__private::States::new(), pool_core::__private::Buffer::new());
    let mut run = pool_core::__private::RunContext::new(&context, &mut states);
    (entry.run)(&mut run, args, &mut output)?;
    decode(Encoded::from(&*output)).map_err(RunHereError::Decode)
}

#[test]
fn a_task_runs_with_its_arguments() {
    assert_eq!(add(40, 2).run_here(), Ok(42));
    assert_eq!(nothing().run_here(), Ok(()));
    assert_eq!(
        namesakes::shadowed(namesakes::Vec(1), &namesakes::Path(2)).run_here(),
        Ok(Ok(Some(namesakes::Vec(3))))
    );
    assert_eq!(by_macro_length("four").run_here(), Ok(4));
    assert_eq!(by_macro_blob(vec![1, 2]).run_here(), Ok(vec![1, 2]));
    assert_eq!(r#type(3).run_here(), Ok(3));
    assert_eq!(hygiene(1, "2".into(), "3", 4, &[5], 6, 7).run_here(), Ok("1 2 3 4 [5] 6 7".into()));
    assert_eq!(reexported(4).run_here(), Ok(4));
}

#[test]
fn borrowed_arguments_arrive_as_they_were_lent() {
    let point = Point { x: 1, y: -1 };
    let (path, os, c) = (Path::new("/a/b"), OsStr::from_bytes(b"\xff"), c"c");
    let call = lent("t", &[1], &vec![2], &[point], path, os, c, &point, &"w");
    let expected = format!("t [1] [2] {:?} {path:?} {os:?} {c:?} {point:?} w", [point]);
    assert_eq!(call.run_here(), Ok(expected));
}

#[test]
fn inner_and_named_lifetimes_are_accepted() {
    let call = {
        let text = String::from("longest");
        lifetimes("first", Some(&text), Cow::Borrowed(&text), "x".into())
    };
    assert_eq!(call.run_here(), Ok("longest longest x".to_owned()));
}

#[test]
fn arguments_are_taken_apart_by_patterns() {
    let call = patterns((1, 2), vec![0], 9, Point { x: 5, y: 6 }, [3, 4]);
    assert_eq!(call.run_here(), Ok(vec![0, 1, 2, 3, 4, 5]));
}

#[test]
fn byte_strings_travel_in_results_and_inside_option_and_result() {
    assert_eq!(blobs(vec![1], Some(vec![2]), Ok(vec![3])).run_here(), Ok(Ok(vec![1, 2, 3])));
    assert_eq!(blobs(vec![], None, Err("no".into())).run_here(), Ok(Err("no".into())));
    assert_eq!(no_blob().run_here(), Ok(None));
}

#[test]
fn paths_need_not_be_utf8() {
    let path = PathBuf::from(OsString::from_vec(b"/data/\xff/x".to_vec()));
    assert_eq!(parent(path.clone()).run_here(), Ok(path.parent().unwrap().to_owned()));
    assert_eq!(os_identity(path.clone().into()).run_here(), Ok(path.into()));
}

#[test]
fn arguments_are_encoded_one_after_another() {
    assert_eq!(args(add(1, 300)), [1, 0xac, 2]);
    assert_eq!(args(by_macro_length("ab")), [2, b'a', b'b']);
    assert!(args(nothing()).is_empty());
    assert_eq!(args(count(5)), [5], "context and state do not travel");
}

#[test]
fn a_task_has_its_path_as_name_unless_it_is_given_one() {
    assert_eq!(add(1, 2).task_name(), "task_macro::add");
    let shadowed = namesakes::shadowed(namesakes::Vec(0), &namesakes::Path(0));
    assert_eq!(shadowed.task_name(), "task_macro::namesakes::shadowed");
    assert_eq!(r#type(0).task_name(), "task_macro::type");
    assert_eq!(named().task_name(), "drills::échelle");
    assert_eq!(reexported(0).task_name(), "reexported");
}

#[test]
fn the_signature_names_crate_version_and_the_types_that_travel() {
    fn signature<R>(call: Call<R>) -> String {
        let signature = call.into_parts().entry.signature;
        let start = concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION"), ": ");
        let (shape, sources) = signature
            .strip_prefix(start)
            .and_then(|rest| rest.split_once(" (sources "))
            .unwrap_or_else(|| panic!("{signature}"));
        assert_eq!(sources.len(), 16 + 1, "{signature}");
        shape.to_owned()
    }
    assert_eq!(signature(add(1, 2)), "fn(u64, u64) -> u64");
    assert_eq!(signature(nothing()), "fn()");
    assert_eq!(signature(count(1)), "fn(u32) -> u32");
    assert_eq!(signature(by_macro_length("")), "fn(&str) -> usize");
    let lifetimes = lifetimes("", None, "".into(), "".into());
    assert_eq!(signature(lifetimes), "fn(&str, Option<&str>, Cow<'_, str>, Cow<'static, str>) -> String");
    let patterns = patterns((1, 2), vec![], 0, Point { x: 0, y: 0 }, [0, 0]);
    assert_eq!(signature(patterns), "fn((u8, u8), Vec<u8>, u8, Point, [u8; 2]) -> Vec<i32>");
    assert_eq!(signature(no_blob()), "fn() -> Option<Vec<u8>>");
}

#[test]
fn a_task_has_version_0_unless_it_is_given_one() {
    assert_eq!(nothing().into_parts().entry.version, 0);
    assert_eq!(changed().into_parts().entry.version, 3);
}

#[test]
fn every_task_is_in_the_table_once() {
    let mut names: Vec<_> = pool_core::__private::TASKS.iter().map(|entry| entry.name).collect();
    names.sort_unstable();
    let all = names.len();
    names.dedup();
    assert_eq!(names.len(), all);
    for name in ["task_macro::add", "drills::échelle", "reexported", "task_macro::namesakes::shadowed"] {
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
    assert!(names.iter().all(|name| !name.ends_with("compiled_out")));
}

#[test]
fn context_and_state_are_supplied() {
    assert_eq!(circumstances(1, "x").run_here(), Ok((1, 0, 1, false, "x".into())));
    assert_eq!(count(5).run_here(), Ok(106));
    assert_eq!(count(5).run_here(), Ok(106), "each run_here builds a fresh state");
}

#[test]
fn a_state_that_cannot_be_built_is_an_error() {
    let error = needs_broken().run_here().unwrap_err();
    assert_eq!(
        error,
        RunHereError::State("state `task_macro::Broken` could not be built on worker 0: no licence".into())
    );
}

#[test]
fn a_panic_unwinds_to_the_caller() {
    let panic = catch_unwind(|| panics("boom".into()).run_here()).unwrap_err();
    assert_eq!(panic.downcast_ref::<String>().unwrap(), "boom");
}

#[test]
fn a_task_calls_itself_with_run_here() {
    assert_eq!(countdown(3).run_here(), Ok(Ok(vec![3, 2, 1, 0])));
}

#[test]
fn types_that_postcard_cannot_carry_are_reported_in_words() {
    const CANNOT: &str = "cannot be carried by postcard (untagged, internally tagged, flatten, \
                          `serde_json::Value`, or a sequence of unknown length); wrap it in \
                          `pool_core::Json`";
    let flat = Flat { rest: BTreeMap::new() };
    let error = takes_flat(1, &flat).run_here().unwrap_err();
    assert_eq!(error, RunHereError::Encode(format!("argument `flat: &Flat` {CANNOT}")));
    let error = takes_untagged(Untagged::Number(1)).run_here().unwrap_err();
    assert_eq!(error, RunHereError::Decode(format!("argument `value: Untagged` {CANNOT}")));
    let error = gives_untagged().run_here().unwrap_err();
    assert_eq!(error, RunHereError::Decode(format!("the result, of type `Untagged`, {CANNOT}")));
    let error = gives_flat().run_here().err().unwrap();
    assert_eq!(error, RunHereError::Encode(format!("the result, of type `Flat`, {CANNOT}")));
}

#[test]
fn a_decode_error_names_the_argument_its_type_and_the_cause() {
    let error = |args: &[u8]| {
        run_raw(patterns((0, 0), vec![], 0, Point { x: 0, y: 0 }, [0, 0]), args).unwrap_err().to_string()
    };
    assert_eq!(error(&[1]), "argument `arg0: (u8, u8)` cannot be decoded: the bytes end too early");
    assert_eq!(error(&[1, 2, 5, 0]), "argument `c: Vec<u8>` cannot be decoded: the bytes end too early");
    assert_eq!(
        error(&[1, 2, 0, 0, 0, 0, 0, 0, 7, 7]),
        "2 bytes follow the last argument; caller and worker disagree about the types"
    );
    let error = run_raw(by_macro_length(""), &[1, 0xff]).unwrap_err().to_string();
    assert_eq!(error, "argument `text: &str` cannot be decoded: a text is not UTF-8");
}

#[test]
fn a_result_is_decoded_in_full_or_not_at_all() {
    let decode = add(1, 2).into_parts().decode;
    assert_eq!(decode(Encoded::from(&[7][..])), Ok(7));
    assert_eq!(
        decode(Encoded::from(&[7, 0, 0][..])).unwrap_err(),
        "2 bytes follow the result; caller and worker disagree about the types"
    );
    let message = decode(Encoded::from(&[0x80][..])).unwrap_err();
    assert_eq!(message, "the result, of type `u64`, cannot be decoded: the bytes end too early");
}

#[test]
fn options_are_part_of_the_call() {
    let call = add(1, 2).timeout(Duration::from_secs(3)).retries(4).retry_on(RetryOn::PANIC).name("sum");
    let options = call.into_parts().options.unwrap();
    assert_eq!(options.timeout, Some(Duration::from_secs(3)));
    assert_eq!(
        (options.retries, options.retry_on, options.name.as_deref()),
        (Some(4), Some(RetryOn::PANIC), Some("sum"))
    );
    assert!(add(1, 2).into_parts().options.is_none(), "the default costs nothing");
    assert_eq!(CallOptions::default().retry_on, None);
}

#[test]
fn a_call_is_cheap_to_clone_and_does_not_print_its_arguments() {
    let call = by_macro_length("a secret that is too long to be copied with the call");
    let text = format!("{call:?}");
    assert!(text.starts_with("Call { task: \"task_macro::by_macro_length\", args_len: Ok(53)"), "{text}");
    let (one, two) = (call.clone().into_parts().args.unwrap(), call.into_parts().args.unwrap());
    assert_eq!(one.as_ptr(), two.as_ptr(), "longer arguments are shared");
}

#[test]
fn a_call_can_go_to_another_thread_whatever_its_result() {
    fn is_send_sync<T: Send + Sync>(_: &T) {}
    #[task]
    fn cell() -> std::cell::Cell<u8> {
        std::cell::Cell::new(3)
    }
    is_send_sync(&cell());
    assert_eq!(cell().run_here().unwrap().get(), 3);
}

#[test]
fn a_task_and_a_closure_around_one_can_be_mapped() {
    fn map<T, C: IntoCall>(f: impl FnMut(T) -> C, items: Vec<T>) -> Vec<C::Output> {
        items.into_iter().map(f).map(|call| call.into_call().run_here().unwrap()).collect()
    }
    assert_eq!(map(|a| add(a, 10), vec![1, 2]), [11, 12]);
    assert_eq!(map(by_macro_blob, vec![vec![1]]), [[1]]);
    assert_eq!(map(by_macro_length, vec!["a", "bc"]), [1, 2]);
}
