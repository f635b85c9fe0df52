//! The claim board and the gauges.

use pool_ipc::{Board, Gauges, Histogram, KEPT_MAX, KeptArguments, SLOTS, Slot};

use super::input::Input;
use super::memory::{BOARD, CANCEL, GAUGES, GAUGES_LEN, Memory, SLOTS_AT};

const KEY: u64 = 7;
const MAX_TICKET: u64 = u64::MAX >> 2;
const MAY_SPIN: u64 = 1 << 63;

/// The board as its table in `pool-ipc` describes it.
struct Model<'a> {
    memory: &'a Memory,
}

/// Supervisor, worker and a vandal at the same board and the same gauges: what each method answers must be what follows from
/// the words that are there.
pub fn board(input: &[u8]) {
    let mut input = Input::new(input);
    let memory = Memory::new();
    let (board, gauges) = (memory.region.board(), memory.region.gauges(KEY));
    let model = Model { memory: &memory };
    for _ in 0..400 {
        if input.is_empty() {
            break;
        }
        let action = input.byte();
        match action % 32 {
            0..16 => use_board(&board, &model, action % 16, &mut input),
            16 => {
                let at = u64::from(input.short()) % (SLOTS as u64 + 32);
                memory.set(BOARD + 8 * at, input.long());
            }
            // A slot that says something about the ticket whose slot it is.
            17 => {
                let (ticket, state) = (ticket(&mut input), u64::from(input.byte()));
                memory.set(model.slot(ticket), ticket << 2 | state & 3);
            }
            18..22 => {
                let at = usize::from(input.short()) % GAUGES_LEN;
                let bytes = input.bytes(1 + usize::from(action % 4) * 100);
                let bytes = &bytes[..bytes.len().min(GAUGES_LEN - at)];
                memory.write(GAUGES + at as u64, bytes);
            }
            _ => use_gauges(&gauges, action, &mut input),
        }
    }
    look_at(&gauges);
}

/// Small ones mostly, so that they meet.
fn ticket(input: &mut Input<'_>) -> u64 {
    match input.byte() {
        large @ 0xf0..=0xff => input.long() >> (large & 3),
        round @ 0xe0..0xf0 => u64::from(round & 15) * SLOTS as u64 + u64::from(input.byte() % 4),
        small => u64::from(small % 8),
    }
}

fn use_board(board: &Board, model: &Model<'_>, action: u8, input: &mut Input<'_>) {
    let ticket = ticket(input);
    let valid = (1..=MAX_TICKET).contains(&ticket);
    let (word, state) = (model.word(ticket), |state: u64| ticket << 2 | state);
    // The slot is in use for a ticket that the worker has not come to.
    let later = (word >> 2).wrapping_sub(ticket);
    let is_later = (1..1 << 32).contains(&later) && later % SLOTS as u64 == 0 && [0, 2].contains(&(word & 3));
    match action {
        // These two are the supervisor's own tickets, which are never wrong.
        0 if valid => {
            board.offer(ticket);
            assert_eq!(model.word(ticket), state(0));
        }
        1 if valid && ticket < MAX_TICKET - SLOTS as u64 => {
            let count = u32::from(input.byte());
            board.offer_all(ticket, count);
            for offered in ticket..ticket + u64::from(count) {
                assert_eq!(model.word(offered), offered << 2);
            }
        }
        2 => {
            let taken = board.take_back(ticket);
            assert_eq!(taken, valid && word == state(0));
            assert_eq!(model.word(ticket), if taken { state(2) } else { word });
        }
        3 => {
            let count = u32::from(input.short()) % (SLOTS as u32 + 1);
            let last = |back: u32| ticket.checked_add(u64::from(back)).filter(|last| *last <= MAX_TICKET);
            let is_offered = |back: &u32| last(*back).is_some_and(|it| it > 0 && model.word(it) == it << 2);
            let expected = (0..count).rev().take_while(is_offered).count() as u32;
            assert_eq!(board.take_back_span(ticket, count), expected);
        }
        4 => {
            let claimed = board.claim(ticket, 77);
            assert_eq!((claimed, board.latest_start_ns()), (valid && word == state(0), 77));
            assert_eq!(model.word(ticket), if claimed { state(1) } else { word });
        }
        5 => {
            board.finish(ticket);
            assert_eq!(model.word(ticket), if valid && !is_later { state(3) } else { word });
        }
        6 => {
            assert_eq!(board.is_withdrawn(ticket), word == state(2) || is_later);
        }
        7 => {
            board.request_cancel(ticket);
            assert!(!valid || board.cancel_requested(ticket));
            let other = ticket.wrapping_sub(1);
            assert!(!board.cancel_requested(other), "somebody else is not cancelled");
        }
        8 => {
            let asked = valid && board.cancel_requested(ticket);
            board.allow_spinning(ticket.is_multiple_of(2));
            assert_eq!(board.may_spin(), ticket.is_multiple_of(2));
            assert_eq!(valid && board.cancel_requested(ticket), asked, "it is another bit");
            assert_eq!(
                model.memory.word(BOARD + CANCEL) & MAY_SPIN,
                u64::from(ticket.is_multiple_of(2)) << 63
            );
        }
        _ => {
            let since_ns = model.memory.word(BOARD);
            let expected = match word.wrapping_sub(ticket << 2) {
                _ if !valid => Slot::Foreign,
                0 => Slot::Offered,
                1 => Slot::Claimed { since_ns },
                2 => Slot::Taken,
                3 => Slot::Finished,
                _ => Slot::Foreign,
            };
            assert_eq!(board.observe(ticket), expected);
        }
    }
}

fn use_gauges(gauges: &Gauges, action: u8, input: &mut Input<'_>) {
    match action % 4 {
        0 => gauges.note_wait(input.long()),
        1 => {
            let (task, len) = (u64::from(input.byte()), usize::from(input.short()) % (2 * KEPT_MAX));
            gauges.note_decoded(task);
            gauges.note_run(task, input.word(), input.long(), input.bytes(len));
        }
        2 => gauges.set_init(input.long()),
        _ => look_at(gauges),
    }
}

/// Any figures can be read and computed with.
fn look_at(gauges: &Gauges) {
    let measured = gauges.read();
    assert!(measured.longest.len() <= 5);
    for longest in &measured.longest {
        if let KeptArguments::Whole(bytes) = &longest.arguments {
            assert!(bytes.len() <= KEPT_MAX);
        }
    }
    let sound = measured.is_sound(1000, 1 << 40);
    assert!(!sound || measured.runs.count() <= 1000 && measured.runs.sum() <= 1 << 40);
    let mut all = Histogram::default();
    for histogram in [&measured.runs, &measured.waits, &measured.runs] {
        all.merge(histogram);
    }
    for part in [0.0, 0.5, 0.99, 1.0, f64::NAN] {
        assert!(all.quantile(part) <= all.max());
    }
    assert!(all.mean() <= all.max() && all.count() >= measured.waits.count());
}

impl Model<'_> {
    fn slot(&self, ticket: u64) -> u64 {
        BOARD + SLOTS_AT + 8 * (ticket % SLOTS as u64)
    }

    fn word(&self, ticket: u64) -> u64 {
        self.memory.word(self.slot(ticket))
    }
}
