//! Valid encodings, for the fuzzer to start from.

use pool_ipc::ring::CAPACITY;
use pool_ipc::{
    Boot, Bundle, Confinement, ExitNote, Failure, Hello, Kind, Locator, TaskDecl, TaskHead, Unfit,
};

use super::frames::framed;

/// The first inputs of each target: its name, the name of the file, and the bytes. They follow the protocol: when it changes
/// they change, and the regression test says which have to be written anew.
pub fn seeds() -> Vec<(&'static str, String, Vec<u8>)> {
    let mut seeds = Vec::new();
    let mut add = |target, name: &str, bytes: Vec<u8>| seeds.push((target, format!("seed-{name}"), bytes));
    for (which, (name, bytes)) in (0..).zip(all_messages()) {
        add("messages", name, [&[which], &bytes[..]].concat());
    }
    for (name, bytes) in frames() {
        add("frames", name, bytes);
    }
    for (name, bytes) in rings() {
        // With a salvage at the end.
        add("ring", name, [&[0], &bytes[..]].concat());
    }
    for (name, bytes) in boards() {
        add("board", name, bytes);
    }
    for (name, bytes) in handshakes() {
        add("handshake", name, bytes);
    }
    let mark = [&[0x80][..], &7_u64.to_le_bytes()].concat();
    add("marks", "task", [&[3, 5], &b"hello"[..], &mark, &[6], b"world\n", &mark].concat());
    add("marks", "cut", [&[0, 0x82], &[9; 8][..], &[20], &mark].concat());
    seeds
}

/// In the order in which the target numbers them.
fn all_messages() -> [(&'static str, Vec<u8>); 9] {
    let encoded = "a seed is short";
    let failure = Failure::Panicked {
        message: "index out of bounds".into(),
        location: Some("src/main.rs:1:2".into()),
        backtrace: Some("0: main".into()),
    };
    let unfit = Unfit { state: "model".into(), why: "no such file".into() };
    let note = ExitNote { state: "model".into(), value: Ok(vec![1, 2, 3]) };
    let mut bundle = Bundle::start(head(), 3).to_vec();
    [&b"one"[..], b"", b"three"].iter().for_each(|item| Bundle::push(&mut bundle, item));
    let locator = Locator { segment: 7, offset: 65_536, len: 70_000 };
    [
        ("boot", boot()),
        ("hello", hello()),
        ("failure", failure.encode().expect(encoded)),
        ("unfit", unfit.encode().expect(encoded)),
        ("exit-note", note.encode().expect(encoded)),
        ("task", [&head().encode()[..], b"arguments"].concat()),
        ("bundle", bundle),
        ("locator", [&locator.encode()[..], b"head"].concat()),
        ("header", framed(Kind::Done, 5, b"result")),
    ]
}

fn head() -> TaskHead {
    TaskHead { index: 3, attempt: 1, queued_us: 9, task: 42, timeout_ns: 1_000_000 }
}

fn boot() -> Vec<u8> {
    let boot = Boot {
        pool: "images".into(),
        worker: 3,
        generation: 9,
        depth: 1,
        frame_limit: 1 << 30,
        supervisor_pid: 77,
        measured: Some(0x0123_4567_89AB_CDEF),
        marks: false,
        core_dumps: false,
        oom_score_adj: 500,
        ring: true,
        nice: -3,
        cpus: vec![0, 300],
        states: vec!["model".into()],
        confinement: Confinement { cpu_ns: 1, open_files: Some(64), ..Confinement::default() },
    };
    boot.encode().expect("it is short")
}

fn hello() -> Vec<u8> {
    let declare = |name: &str| TaskDecl { name: name.into(), signature: "fn(u64) -> u64".into() };
    let hello = Hello {
        pid: 78,
        build_id: vec![0xAB; 20],
        executable: "/usr/bin/worker".into(),
        base_max_rss: 1 << 22,
        tasks: vec![declare("crate::one"), declare("crate::two")],
    };
    hello.encode().expect("it is short")
}

/// The actions of the target: a result, any frame, a damaged one, a cut one, a large one, a header, garbage.
fn frames() -> Vec<(&'static str, Vec<u8>)> {
    let start = |step: u16, runs: u8| [&[3][..], &step.to_le_bytes(), &[7, runs]].concat();
    let result = [&[1, 6][..], b"result"].concat();
    let any = [&[2, 0][..], &0_u64.to_le_bytes(), &[5], b"hello"].concat();
    let damaged = [&[3, 6][..], b"result", &[22, 0, 1]].concat();
    let cut = [&[4, 6][..], b"result", &[10, 0]].concat();
    let large = |len: u32| [&[5][..], &len.to_le_bytes(), &[9]].concat();
    let header = [&[6, 2][..], &u32::MAX.to_le_bytes(), &1_u64.to_le_bytes(), &[1, 0, 0, 0]].concat();
    let garbage = [0, 9].iter().chain(b"thread 'm").copied().collect::<Vec<u8>>();
    let long = vec![7, 0, 80, 0xB7];
    // A sum where none can be, before a payload that does not fit the reader's buffer.
    let summed = [&[6, 2][..], &60_000_u32.to_le_bytes(), &1_u64.to_le_bytes(), &[1, 0, 0, 0]].concat();
    let summed = [summed, vec![7, 0x60, 0xEA, 5]].concat();
    let all = [&result, &any, &damaged, &result, &cut, &result, &header, &garbage, &result];
    let all: Vec<u8> = all.into_iter().flatten().copied().collect();
    vec![
        ("results", [start(0, 1), result.repeat(5)].concat()),
        ("everything", [start(9, 0), all.clone()].concat()),
        ("everything-in-runs", [start(9, 1), all.clone()].concat()),
        ("large", [start(20_000, 0), large(100_000), result.clone(), large(49_000), large(5000)].concat()),
        ("large-with-a-sum", [start(9000, 0), summed, result.clone()].concat()),
        ("long-garbage", [start(300, 0), result.clone(), long, all].concat()),
    ]
}

/// The actions of the target, by their numbers.
fn rings() -> Vec<(&'static str, Vec<u8>)> {
    let receive = [&[4, 40, 0, 1][..], &[7; 40]].concat();
    let read = [&[8][..], &10_000_u32.to_le_bytes()].concat();
    let full = (CAPACITY as u32).to_le_bytes();
    let honest = [receive.clone(), vec![9, 4], read.clone(), receive.clone(), vec![10], vec![7]].concat();
    let stage = [&[11][..], &full, &[5], &[13, 1], &[14, 9, 0, 0, 0], &[6], &[12, 200, 0, 0, 0, 6], &[13, 0]];
    let bent = |word: u8, to: u64| [&[0, word][..], &to.to_le_bytes(), &[7], &read, &[10, 9, 5]].concat();
    vec![
        ("honest", honest.clone()),
        ("around", [honest.clone(), bent(0, CAPACITY as u64), read.clone(), honest.clone()].concat()),
        ("tasks", stage.concat()),
        ("one-too-far-from-the-start", bent(0, CAPACITY as u64 + 1)),
        ("tail-ahead", [honest.clone(), bent(0, 1 << 20), honest.clone()].concat()),
        ("tail-back", [honest.clone(), vec![2, 0, 100], read, honest].concat()),
        (
            "low-without-a-position",
            [&[1, 2, 2, 0, 0, 0, 0, 0, 0, 0, 1, 1][..], &[0xFF; 8], &[11], &full, &[5, 13, 1]].concat(),
        ),
        (
            "low",
            [&[1, 2, 2, 0, 0, 0, 0, 0, 0, 0][..], &stage.concat(), &[1, 1, 0, 0, 0, 0, 0, 0, 0, 9, 13, 1]]
                .concat(),
        ),
    ]
}

/// The actions of the target, by their numbers, with their tickets.
fn boards() -> Vec<(&'static str, Vec<u8>)> {
    let life = vec![0, 1, 9, 1, 4, 1, 9, 1, 7, 1, 5, 1, 9, 1, 0, 2, 2, 2, 6, 2, 8, 2];
    let span = vec![1, 1, 7, 4, 1, 3, 1, 7, 0, 9, 7];
    let forged = [&[17, 3, 1, 9, 3, 16, 35, 0][..], &[0xFF; 8], &[9, 3, 6, 3, 4, 3]].concat();
    let run = |ns: u64| [&[25, 1, 5, 0, 2, 0, 0, 0][..], &ns.to_le_bytes(), b"bytes"].concat();
    let measured = [run(50), run(20), vec![24, 9, 0, 0, 0, 0, 0, 0, 0], run(70), vec![27]].concat();
    let scribbled = [measured.clone(), vec![19, 40, 0], vec![0xFF; 101], run(90), vec![27]].concat();
    vec![("life", life), ("span", span), ("forged", forged), ("measured", measured), ("scribbled", scribbled)]
}

fn handshakes() -> Vec<(&'static str, Vec<u8>)> {
    // Two pipes and a region.
    let ends = [3, 1, 1, 2];
    let boot = [&[0][..], &ends, &[0, 0, 0], &boot()].concat();
    let without = [&[0, 0, 0, 0, 0][..], &self::boot()].concat();
    // A segment as it should be, one that can be written to, one that is sealed for good, and three that are nothing.
    let packet = |shape: u8, fd: &[u8]| [&[shape, 7, 0, 0, 0, 0, 0, 0, 0][..], fd].concat();
    let look = [2, 10, 0, 20, 0];
    let passed = [
        &[1][..],
        &packet(0, &[3, 0b10111, 0, 16]),
        &look,
        &packet(0, &[3, 0b00011, 0, 16]),
        &packet(0, &[3, 0b01011, 0, 16]),
        &packet(0, &[3, 0b10111, 0, 0]),
        &packet(0, &[0]),
        &packet(0, &[2]),
        &packet(1, &[0, 0, 1]),
        &packet(4, &[2, 0, 1]),
    ]
    .concat();
    let one_too_far = [&[1][..], &packet(0, &[3, 0b10111, 0, 16]), &[2, 0xFA, 0x0F, 7, 0]].concat();
    let one_too_long = [&[1][..], &packet(2, &[17, 0])].concat();
    vec![
        ("one-byte-too-far", one_too_far),
        ("one-byte-too-long", one_too_long),
        ("boot", boot),
        ("boot-without-descriptors", without),
        ("descriptors", passed),
        ("hello", [&[2, 0, 0, 16][..], &hello()].concat()),
        ("hello-unframed", [&[2, 1, 0, 16][..], &framed(Kind::Hello, 0, &hello())].concat()),
    ]
}
