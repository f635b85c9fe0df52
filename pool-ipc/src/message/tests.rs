use proptest::prelude::*;

use super::*;
use crate::confinement::Jail;

fn boot() -> Boot {
    Boot {
        pool: "images".into(),
        worker: 3,
        generation: 9,
        depth: 1,
        frame_limit: 1 << 30,
        supervisor_pid: 77,
        measured: None,
        marks: false,
        core_dumps: true,
        oom_score_adj: -5,
        ring: false,
        nice: -3,
        cpus: vec![0, 700],
        states: vec!["a::B".into()],
        confinement: confinement(Some(1), vec![b"/tmp".to_vec()], true),
    }
}

fn confinement(limit: Option<u64>, paths: Vec<Vec<u8>>, yes: bool) -> Confinement {
    let jail = Jail {
        files: yes,
        read: paths.clone(),
        write: paths.clone(),
        network: !yes,
        processes: yes,
        best_effort: !yes,
    };
    Confinement {
        cpu_ns: limit.unwrap_or(0),
        open_files: limit,
        file_size: limit,
        scratch: paths.first().cloned(),
        groups: paths,
        jail: limit.map(|_| jail),
    }
}

fn hello(tasks: usize) -> Hello {
    let tasks = (0..tasks).map(|n| TaskDecl { name: format!("t{n}"), signature: "()".into() }).collect();
    Hello { pid: 5, build_id: vec![1, 2, 255], executable: "/bin/x".into(), base_max_rss: 1 << 40, tasks }
}

#[test]
fn another_version_is_named_without_reading_on() {
    let version = MessageError::Version { theirs: 99, ours: PROTOCOL_VERSION };
    let bytes = boot().encode_with_version(99).unwrap();
    assert_eq!(Boot::decode(&bytes), Err(version.clone()));
    assert_eq!(Boot::decode(&bytes[..12]), Err(version.clone()), "the rest may be anything");
    let bytes = hello(2).encode_with_version(99).unwrap();
    assert_eq!(Hello::decode(&bytes), Err(version.clone()));
    assert_eq!(Hello::decode(&[&bytes[..12], &[0xff; 40]].concat()), Err(version));
}

#[test]
fn one_message_is_not_taken_for_another() {
    assert_eq!(Hello::decode(&boot().encode().unwrap()), Err(MessageError::BadMagic { what: "hello" }));
    assert_eq!(Boot::decode(&hello(0).encode().unwrap()), Err(MessageError::BadMagic { what: "boot" }));
}

#[test]
fn every_cut_and_every_stray_byte_is_an_error() {
    fn check<T>(bytes: &[u8], decode: fn(&[u8]) -> Result<T, MessageError>) {
        assert_eq!(decode(bytes).err(), None);
        for cut in 0..bytes.len() {
            assert!(decode(&bytes[..cut]).is_err(), "{cut} of {bytes:?}");
        }
        let stray = decode(&[bytes, &[0]].concat()).err();
        assert!(matches!(stray, Some(MessageError::TrailingBytes { count: 1, .. })), "{stray:?}");
    }
    check(&boot().encode().unwrap(), Boot::decode);
    check(&hello(3).encode().unwrap(), Hello::decode);
    check(&Failure::Decode("why".into()).encode().unwrap(), Failure::decode);
    check(&Unfit { state: "a::B".into(), why: "no".into() }.encode().unwrap(), Unfit::decode);
    check(&ExitNote { state: "a::B".into(), value: Ok(vec![1, 2]) }.encode().unwrap(), ExitNote::decode);
}

#[test]
fn hello_is_bounded_in_tasks_and_bytes() {
    let most = hello(MAX_TASKS);
    assert_eq!(Hello::decode(&most.encode().unwrap()).unwrap(), most);
    assert_eq!(hello(MAX_TASKS + 1).encode(), Err(MessageError::TooManyTasks { count: MAX_TASKS + 1 }));
    let forged = Hello::ENVELOPE.seal(PROTOCOL_VERSION, &hello(MAX_TASKS + 1)).unwrap();
    assert_eq!(Hello::decode(&forged), Err(MessageError::TooManyTasks { count: MAX_TASKS + 1 }));

    let mut long = hello(0);
    long.executable = "x".repeat(MAX_HELLO_LEN);
    assert!(matches!(long.encode(), Err(MessageError::TooLong { what: "hello", .. })));
    let bytes = vec![0; MAX_HELLO_LEN + 1];
    assert!(matches!(Hello::decode(&bytes), Err(MessageError::TooLong { what: "hello", .. })));
}

#[test]
fn boot_is_bounded() {
    let long = Boot { pool: "x".repeat(MAX_BOOT_LEN), ..boot() };
    assert!(matches!(long.encode(), Err(MessageError::TooLong { what: "boot", .. })));
    assert!(matches!(Boot::decode(&vec![0; MAX_BOOT_LEN + 1]), Err(MessageError::TooLong { .. })));
}

#[test]
fn long_failures_are_cut_at_a_character_and_marked() {
    // Three bytes a character, so that the cut falls inside one.
    let text = || "€".repeat(MAX_FAILURE_TEXT);
    let failure = Failure::Panicked { message: text(), location: Some(text()), backtrace: Some(text()) };
    let sent = failure.encode().unwrap();
    assert!(sent.len() <= MAX_FAILURE_LEN);
    let mut received = Failure::decode(&sent).unwrap();
    assert_eq!(received.texts_mut().count(), 3);
    for text in received.texts_mut() {
        assert!(text.len() <= MAX_FAILURE_TEXT && text.len() > MAX_FAILURE_TEXT - 20);
        assert!(text.ends_with(&format!("€{CUT_MARK}")));
    }
    assert_eq!(received.clone().bounded(), received, "cutting twice changes nothing");

    let exact = Failure::Decode("x".repeat(MAX_FAILURE_TEXT));
    assert_eq!(exact.clone().bounded(), exact);
    let oversized = vec![0; MAX_FAILURE_LEN + 1];
    assert!(matches!(Failure::decode(&oversized), Err(MessageError::TooLong { what: "failure", .. })));
}

#[test]
fn what_is_said_of_a_state_is_bounded() {
    let long = "€".repeat(MAX_FAILURE_TEXT);
    let sent = Unfit { state: long.clone(), why: long.clone() }.encode().unwrap();
    let Unfit { state, why } = Unfit::decode(&sent).unwrap();
    assert!(state.len() <= MAX_STATE_NAME && why.len() <= MAX_FAILURE_TEXT && why.ends_with(CUT_MARK));
    let left = |value| ExitNote { state: long.clone(), value };
    for value in [Ok(vec![7; MAX_EXIT_VALUE]), Err(long.clone())] {
        let sent = left(value.clone()).encode().unwrap();
        let received = ExitNote::decode(&sent).unwrap();
        assert_eq!(received.value.is_ok(), value.is_ok());
        assert!(value.is_err() || received.value == value);
    }
    let error = left(Ok(vec![7; MAX_EXIT_VALUE + 1])).encode().unwrap_err();
    assert!(matches!(error, MessageError::TooLong { what: "exit note", .. }), "{error:?}");
    let oversized = vec![0; MAX_EXIT_NOTE_LEN + 1];
    assert!(matches!(ExitNote::decode(&oversized), Err(MessageError::TooLong { .. })));
    let oversized = vec![0; MAX_UNFIT_LEN + 1];
    assert!(matches!(Unfit::decode(&oversized), Err(MessageError::TooLong { .. })));
}

#[test]
fn task_head_layout_is_fixed() {
    let head = TaskHead { index: 0x0201, attempt: 3, queued_us: 0x0706_0504, task: 6, timeout_ns: u64::MAX };
    let mut expected = [0; 24];
    expected[..8].copy_from_slice(&[1, 2, 3, 0, 4, 5, 6, 7]);
    expected[8] = 6;
    expected[16..].fill(0xff);
    assert_eq!(head.encode(), expected);
    assert_eq!(
        TaskHead::split(&expected[..23]),
        Err(MessageError::TooShort { what: "task", len: 23, need: 24 })
    );
}

fn failure() -> impl Strategy<Value = Failure> {
    prop_oneof![
        (".*", proptest::option::of(".*"), proptest::option::of(".*"))
            .prop_map(|(message, location, backtrace)| Failure::Panicked { message, location, backtrace }),
        ".*".prop_map(Failure::Decode),
        ".*".prop_map(Failure::Encode),
        any::<u32>().prop_map(|index| Failure::UnknownTask { index }),
    ]
}

proptest! {
    #[test]
    fn boot_round_trip(pool in ".*", worker: u32, generation: u64, depth: u32, frame_limit: u32,
                       supervisor_pid: u32, core_dumps: bool, oom_score_adj: i32, ring: bool,
                       nice: i32, cpus: Vec<u32>, states in prop::collection::vec(".*", 0..4),
                       measured: Option<u64>, marks: bool, limit: Option<u64>,
                       paths in prop::collection::vec(any::<Vec<u8>>(), 0..3)) {
        let boot = Boot {
            pool, worker, generation, depth, frame_limit, supervisor_pid, core_dumps, oom_score_adj, ring,
            nice, cpus, states, measured, marks, confinement: confinement(limit, paths, marks),
        };
        prop_assert_eq!(Boot::decode(&boot.encode().unwrap()), Ok(boot));
    }

    #[test]
    fn hello_round_trip(pid: u32, build_id: Vec<u8>, executable in ".*", base_max_rss: u64,
                        tasks in prop::collection::vec((".*", ".*"), 0..20)) {
        let tasks = tasks.into_iter().map(|(name, signature)| TaskDecl { name, signature }).collect();
        let hello = Hello { pid, build_id, executable, base_max_rss, tasks };
        prop_assert_eq!(Hello::decode(&hello.encode().unwrap()), Ok(hello));
    }

    #[test]
    fn failure_round_trip(failure in failure()) {
        prop_assert_eq!(Failure::decode(&failure.encode().unwrap()), Ok(failure));
    }

    #[test]
    fn unfit_round_trip(state in ".*", why in ".*") {
        let unfit = Unfit { state, why };
        prop_assert_eq!(Unfit::decode(&unfit.encode().unwrap()), Ok(unfit));
    }

    #[test]
    fn exit_note_round_trip(state in ".*", value: Result<Vec<u8>, String>) {
        let note = ExitNote { state, value };
        prop_assert_eq!(ExitNote::decode(&note.encode().unwrap()), Ok(note));
    }

    #[test]
    fn task_head_round_trip(index: u16, attempt: u16, queued_us: u32, task: u64, timeout_ns: u64,
                            arguments: Vec<u8>) {
        let (index, attempt) = (index.into(), attempt.into());
        let head = TaskHead { index, attempt, queued_us, task, timeout_ns };
        let payload = [&head.encode()[..], &arguments].concat();
        prop_assert_eq!(TaskHead::split(&payload), Ok((head, &arguments[..])));
    }

    /// What decodes encodes again to something that decodes to the same: nothing is made up, and nothing
    /// panics.
    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
        for envelope in [Boot::ENVELOPE, Hello::ENVELOPE] {
            let sealed = [&envelope.magic[..], &PROTOCOL_VERSION.to_le_bytes(), &bytes].concat();
            for bytes in [&bytes, &sealed] {
                if let Ok(boot) = Boot::decode(bytes) {
                    prop_assert_eq!(Boot::decode(&boot.encode().unwrap()), Ok(boot));
                }
                if let Ok(hello) = Hello::decode(bytes) {
                    prop_assert_eq!(Hello::decode(&hello.encode().unwrap()), Ok(hello));
                }
            }
        }
        if let Ok(failure) = Failure::decode(&bytes) {
            prop_assert_eq!(Failure::decode(&failure.encode().unwrap()), Ok(failure));
        }
        if let Ok(unfit) = Unfit::decode(&bytes) {
            prop_assert!(unfit.encode().is_ok());
        }
        if let Ok(Ok(sent)) = ExitNote::decode(&bytes).map(|note| note.encode()) {
            prop_assert!(ExitNote::decode(&sent).is_ok());
        }
        prop_assert_eq!(TaskHead::split(&bytes).is_ok(), bytes.len() >= TaskHead::LEN);
    }
}
