//! What is told through `tracing`, compared with the table in the documentation of `WorkerEvent`.
//!
//! A collector of events is one for the whole process, so these tests have a program of their own.

pool_core::test_worker!();

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pool_core::{Output, Pool, TaskError, WorkerExe};
use pool_tests::{Part, play, right, wait_until};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// The table, where users read it.
const DOCUMENTED: &str = include_str!("../../pool-core/src/events.rs");

/// Whatever is told of the pool of this name makes the collector panic.
const PANICS: &str = "traced-panics";

/// One event of a pool.
#[derive(Debug, Clone)]
struct Told {
    target: String,
    level: Level,
    message: String,
    /// All but the message, as text.
    fields: BTreeMap<String, String>,
    /// The name of the span that it is in, and its fields.
    span: Option<Span>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Span {
    name: String,
    fields: BTreeMap<String, String>,
}

static TOLD: Mutex<Vec<Told>> = Mutex::new(Vec::new());
static SPANS: Mutex<BTreeMap<u64, Span>> = Mutex::new(BTreeMap::new());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps every event of pools.
struct Collector {
    next: AtomicU64,
}

#[derive(Default)]
struct Fields(BTreeMap<String, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.to_owned());
    }
}

impl Subscriber for Collector {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("pool_core::")
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut fields = Fields::default();
        span.record(&mut fields);
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        lock(&SPANS).insert(id, Span { name: span.metadata().name().to_owned(), fields: fields.0 });
        Id::from_u64(id)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let told = Told {
            target: event.metadata().target().to_owned(),
            level: *event.metadata().level(),
            message: fields.0.remove("message").unwrap_or_default(),
            fields: fields.0,
            span: event.parent().and_then(|id| lock(&SPANS).get(&id.into_u64()).cloned()),
        };
        let panics = told.fields.get("pool").is_some_and(|pool| pool == PANICS);
        lock(&TOLD).push(told);
        assert!(!panics, "a collector that panics, on purpose");
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

fn collect() {
    // Both tests want it, and one of them is first.
    let _ = tracing::subscriber::set_global_default(Collector { next: AtomicU64::new(1) });
}

/// What has been told about a pool.
fn about(pool: &str) -> Vec<Told> {
    let is_its = |told: &&Told| told.fields.get("pool").is_some_and(|name| name == pool);
    lock(&TOLD).iter().filter(is_its).cloned().collect()
}

/// A row of the table.
#[derive(Debug)]
struct Row {
    message: &'static str,
    target: &'static str,
    level: &'static str,
    always: BTreeSet<&'static str>,
    sometimes: BTreeSet<&'static str>,
}

fn documented() -> Vec<Row> {
    let rows = DOCUMENTED.lines().filter_map(|line| line.strip_prefix("/// | ")?.strip_suffix(" |"));
    let row = |line: &'static str| {
        let [message, target, level, fields] =
            line.split(" | ").collect::<Vec<_>>().try_into().expect("four columns");
        let (sometimes, always) = fields.split(' ').partition::<Vec<_>, _>(|field| field.starts_with('('));
        let bare = |fields: Vec<&'static str>| {
            fields.into_iter().map(|field| field.trim_matches(['(', ')', '`'])).collect::<BTreeSet<_>>()
        };
        let (always, sometimes) = (bare(always), bare(sometimes));
        Row { message, target: target.trim_matches('`'), level, always, sometimes }
    };
    rows.filter(|line| !line.starts_with("message ")).map(row).collect()
}

fn builder(name: &str) -> pool_core::Builder {
    Pool::builder().name(name).workers(1).output(Output::Null).transport(pool_tests::transport())
}

#[test]
fn a_life_of_a_pool_in_events() {
    collect();
    let pool = builder("traced-life").build().unwrap();
    let one = pool.apply_async(play(1, Part::Segv).name("first"));
    one.get().unwrap_err();
    assert_eq!(pool.apply(play(2, Part::Innocent)).unwrap(), right(2));
    pool.join();
    wait_until("the end has been told", || {
        about("traced-life").iter().any(|told| told.message == "pool drained")
    });
    let told = about("traced-life");
    let messages = |target: &str| -> Vec<String> {
        let of_target = told.iter().filter(|told| told.target == target);
        of_target.map(|told| told.message.clone()).collect()
    };
    assert_eq!(
        messages("pool_core::worker"),
        [
            "worker spawned",
            "worker ready",
            "worker died",
            "worker spawned",
            "worker ready",
            "worker retiring",
            "worker exited"
        ]
    );
    assert_eq!(
        messages("pool_core::task"),
        ["task submitted", "task sent", "task ended", "task submitted", "task sent", "task ended"]
    );
    assert_eq!(messages("pool_core::pool"), ["pool drained"]);
    let field = |place: usize, name: &str| {
        let task = told.iter().filter(|told| told.target == "pool_core::task").nth(place).expect("see above");
        task.fields.get(name).cloned().unwrap_or_default()
    };
    assert_eq!(
        (field(0, "task"), field(0, "count"), field(0, "name")),
        ("1".into(), "1".into(), "first".into())
    );
    assert_eq!(
        (field(1, "attempt"), field(1, "worker"), field(1, "generation")),
        ("1".into(), "0".into(), "1".into())
    );
    assert!(field(2, "reason").contains("SIGSEGV"), "{}", field(2, "reason"));
    assert_eq!((field(5, "task"), field(5, "reason")), ("2".into(), String::new()), "it has its result");
    let died = told.iter().find(|told| told.message == "worker died").expect("see above");
    assert_eq!((&*died.fields["task"], &*died.fields["name"]), ("1", "first"));
    let pool_field = BTreeMap::from([("pool".to_owned(), "traced-life".to_owned())]);
    let span = Some(Span { name: "pool".to_owned(), fields: pool_field });
    assert!(told.iter().all(|told| told.span == span), "{told:#?}");
}

#[test]
fn field_names_are_those_documented() {
    collect();
    let rows = documented();
    assert!(rows.len() >= 13, "the table is where it was: {rows:?}");
    let pool = builder("traced-fields").build().unwrap();
    let cancelled = pool.apply_async(play(1, Part::Segv).retries(1));
    cancelled.get().unwrap_err();
    pool.apply(play(2, Part::Hang).timeout(Duration::from_millis(5))).unwrap_err();
    pool.map(|n| play(n, Part::Innocent), 0..50).unwrap();
    pool.join();
    pool.apply(play(3, Part::Innocent)).unwrap_err();
    let broken = builder("traced-fields").worker(WorkerExe::path("/bin/false")).build().unwrap();
    broken.apply(play(4, Part::Innocent)).unwrap_err();
    drop(broken);
    // It may be executed, and cannot be.
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().join("empty");
    fs::write(&empty, "no program").unwrap();
    fs::set_permissions(&empty, fs::Permissions::from_mode(0o755)).unwrap();
    let unstartable = builder("traced-fields").worker(WorkerExe::path(&empty)).build().unwrap();
    unstartable.apply(play(5, Part::Innocent)).unwrap_err();
    drop(unstartable);
    let told = about("traced-fields");
    let mut missing: BTreeSet<&str> = rows.iter().map(|row| row.message).collect();
    for told in &told {
        let row = rows.iter().find(|row| row.message == told.message);
        let Some(row) = row else {
            let ours = ["pool_core::pool", "pool_core::worker", "pool_core::task"].contains(&&*told.target);
            assert!(!ours, "not documented: {told:?}");
            continue;
        };
        missing.remove(row.message);
        assert_eq!((&*told.target, told.level.as_str()), (row.target, row.level), "{told:?}");
        let fields: BTreeSet<&str> = told.fields.keys().map(String::as_str).collect();
        assert!(fields.is_superset(&row.always), "{told:?}: {row:?}");
        let known = |field: &&str| {
            row.always.contains(field) || row.sometimes.contains(field) || *field == "build_id"
        };
        assert!(fields.iter().all(known), "{told:?}: {row:?}");
    }
    assert!(missing.is_empty(), "never told: {missing:?}");
}

#[test]
fn a_collector_that_panics_concerns_nobody() {
    collect();
    let pool = builder(PANICS).build().unwrap();
    let death = pool.apply(play(1, Part::Segv)).unwrap_err();
    assert!(matches!(death, TaskError::WorkerDied(_)), "{death}");
    let results = pool.map(|n| play(n, Part::Innocent), 0..20).unwrap();
    assert_eq!(results, (0..20).map(right).collect::<Vec<_>>());
    let late = pool.apply(play(2, Part::Hang).timeout(Duration::from_millis(5))).unwrap_err();
    assert!(matches!(late, TaskError::TimedOut { .. }), "{late}");
    pool.join();
    drop(pool);
    let broken = builder(PANICS).worker(WorkerExe::path("/bin/false")).build().unwrap();
    let error = broken.apply(play(4, Part::Innocent)).unwrap_err();
    assert!(matches!(error, TaskError::PoolBroken(_)), "{error}");
    drop(broken);
    let told = about(PANICS);
    let has = |message: &str| told.iter().any(|told| told.message == message);
    let messages =
        ["worker spawned", "worker died", "worker killed", "task ended", "pool broken", "pool drained"];
    assert!(messages.into_iter().all(has), "each made it panic: {told:?}");
}
