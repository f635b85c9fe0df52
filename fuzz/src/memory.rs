//! The memory that a supervisor and a worker share, as a third party writes and reads it: by its offsets, behind everybody's
//! back. The table is in `docs/protocol.md`.

use std::fs::File;
use std::os::unix::fs::FileExt;

use pool_ipc::Region;
use pool_ipc::ring::CAPACITY;

/// Where things are.
pub(crate) const BOARD: u64 = 128;
pub(crate) const TASKS: u64 = 33_152;
pub(crate) const RESULTS: u64 = 295_936;
pub(crate) const GAUGES: u64 = 561_152;
pub(crate) const GAUGES_LEN: usize = 16_384;

/// Parts of the board, from its start.
pub(crate) const CANCEL: u64 = 128;
pub(crate) const SLOTS_AT: u64 = 256;

/// Words of a ring, from its start.
pub(crate) const TAIL: u64 = 0;
pub(crate) const HEAD: u64 = 128;
pub(crate) const READER_WAITS: u64 = 256;
pub(crate) const WRITER_WAITS: u64 = 384;
pub(crate) const NOTE: u64 = 512;
/// The bytes of a ring, from its start.
pub(crate) const BYTES: u64 = 640;

/// A region, and the way behind it.
pub(crate) struct Memory {
    pub(crate) region: Region,
    file: File,
}

impl Memory {
    pub(crate) fn new() -> Self {
        let (region, fd) = Region::create().expect("there is memory");
        Self { region, file: fd.into() }
    }

    pub(crate) fn word(&self, at: u64) -> u64 {
        let mut word = [0; 8];
        self.read(at, &mut word);
        u64::from_le_bytes(word)
    }

    pub(crate) fn set(&self, at: u64, word: u64) {
        self.write(at, &word.to_le_bytes());
    }

    pub(crate) fn read(&self, at: u64, into: &mut [u8]) {
        self.file.read_exact_at(into, at).expect("inside of the region");
    }

    pub(crate) fn write(&self, at: u64, bytes: &[u8]) {
        self.file.write_all_at(bytes, at).expect("inside of the region");
    }

    /// The bytes of a ring from a position on.
    pub(crate) fn ring(&self, ring: u64, position: u64, len: usize) -> Vec<u8> {
        let at = offset(position);
        let first = len.min(CAPACITY - at);
        let mut bytes = vec![0; len];
        self.read(ring + BYTES + at as u64, &mut bytes[..first]);
        self.read(ring + BYTES, &mut bytes[first..]);
        bytes
    }

    /// Writes into a ring from a position on; at most its capacity.
    pub(crate) fn set_ring(&self, ring: u64, position: u64, bytes: &[u8]) {
        let at = offset(position);
        let (first, second) = bytes.split_at(bytes.len().min(CAPACITY - at));
        self.write(ring + BYTES + at as u64, first);
        self.write(ring + BYTES, second);
    }
}

pub(crate) fn offset(position: u64) -> usize {
    (position % CAPACITY as u64) as usize
}
