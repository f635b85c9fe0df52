//! The sum of a payload: it finds results that were scribbled over on their way.
//!
//! It is no protection against somebody who forges results. It has to be cheap, as it is computed twice for
//! every task: about 2 ns for a few bytes, and 16 bytes in a nanosecond or more where there are many.
//!
//! The payload is taken as words of 8 bytes, the last one filled up with zeros. Whole blocks of four words go into
//! four lanes, because a multiplication takes longer than it occupies the processor. Then the lanes are mixed with
//! each other, and at last with the words behind the blocks, and with the length.

/// Payloads of more bytes than this have no sum: 0 stands in its place.
pub const SUMMED_MAX: usize = 4 << 10;

/// A constant without meaning: the fraction of the square root of 2.
const START: u64 = 0x6A09_E667_F3BC_C908;
/// Constants of `splitmix64`.
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
const LAST: u64 = 0xBF58_476D_1CE4_E5B9;

const LANES: usize = 4;

/// The sum of a payload that is `parts` one after the other, `len` bytes in all.
#[inline]
pub(crate) fn sum(parts: &[&[u8]], len: usize) -> u32 {
    match parts {
        _ if len > SUMMED_MAX => 0,
        [] => sum_of_one(&[]),
        [whole] => sum_of_one(whole),
        parts => sum_of_parts(parts, len),
    }
}

#[inline]
fn sum_of_one(bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks::<8>();
    let (blocks, words) = words.as_chunks::<LANES>();
    let mut hash = START;
    if !blocks.is_empty() {
        let mut lanes = [START; LANES];
        for block in blocks {
            for (lane, word) in lanes.iter_mut().zip(block) {
                *lane = mixed(*lane, u64::from_le_bytes(*word));
            }
        }
        hash = joined(lanes);
    }
    for word in words {
        hash = mixed(hash, u64::from_le_bytes(*word));
    }
    if !rest.is_empty() {
        hash = mixed(hash, short_word(rest));
    }
    finished(hash, bytes.len())
}

/// The same without the whole in one place.
fn sum_of_parts(parts: &[&[u8]], len: usize) -> u32 {
    let mut words =
        Words { lanes: [START; LANES], hash: START, taken: 0, in_blocks: len / 8 / LANES * LANES };
    // Bytes that do not fill a word yet, the first one lowest, and how many bits they have: a multiple of 8 below 64.
    let (mut held, mut bits) = (0, 0);
    for part in parts {
        let (whole, rest) = part.as_chunks::<8>();
        for word in whole {
            let word = u64::from_le_bytes(*word);
            words.take(held | word << bits);
            held = if bits == 0 { 0 } else { word >> (64 - bits) };
        }
        let (word, more) = (short_word(rest), 8 * rest.len() as u32);
        held |= word << bits;
        bits += more;
        if bits >= 64 {
            words.take(held);
            bits -= 64;
            // What did not fit; a shift by all 64 bits leaves nothing.
            held = word.checked_shr(more - bits).unwrap_or(0);
        }
    }
    if bits > 0 {
        words.take(held);
    }
    finished(words.hash, len)
}

struct Words {
    lanes: [u64; LANES],
    hash: u64,
    taken: usize,
    in_blocks: usize,
}

impl Words {
    #[inline]
    fn take(&mut self, word: u64) {
        if self.taken < self.in_blocks {
            let lane = &mut self.lanes[self.taken % LANES];
            *lane = mixed(*lane, word);
            self.taken += 1;
            if self.taken == self.in_blocks {
                self.hash = joined(self.lanes);
            }
        } else {
            self.hash = mixed(self.hash, word);
        }
    }
}

#[inline]
fn mixed(hash: u64, word: u64) -> u64 {
    (hash ^ word).wrapping_mul(STEP).rotate_left(29)
}

#[inline]
fn joined([first, others @ ..]: [u64; LANES]) -> u64 {
    others.into_iter().fold(first, mixed)
}

#[inline]
fn finished(hash: u64, len: usize) -> u32 {
    ((hash ^ len as u64).wrapping_mul(LAST) >> 32) as u32
}

/// Fewer than 8 bytes as a word, without a call of `memcpy(3)`.
#[inline]
fn short_word(bytes: &[u8]) -> u64 {
    let (mut word, mut bits, mut rest) = (0, 0, bytes);
    if let Some((four, after)) = rest.split_first_chunk::<4>() {
        (word, bits, rest) = (u64::from(u32::from_le_bytes(*four)), 32, after);
    }
    if let Some((two, after)) = rest.split_first_chunk::<2>() {
        word |= u64::from(u16::from_le_bytes(*two)) << bits;
        (bits, rest) = (bits + 16, after);
    }
    if let Some(one) = rest.first() {
        word |= u64::from(*one) << bits;
    }
    word
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(bytes: &[u8]) -> u32 {
        sum(&[bytes], bytes.len())
    }

    #[test]
    fn values_are_fixed() {
        let bytes: Vec<u8> = (0..=255).collect();
        let sums = [0, 1, 7, 8, 9, 64, 256].map(|len| whole(&bytes[..len]));
        assert_eq!(sums, SUMS_OF_COUNTING_BYTES);
        assert_eq!(whole(&[1; SUMMED_MAX + 1]), 0);
        assert_ne!(whole(&[1; SUMMED_MAX]), 0);
    }

    const SUMS_OF_COUNTING_BYTES: [u32; 7] =
        [1164118190, 395031000, 2998183422, 3405991019, 2034176519, 55652549, 1620406942];

    #[test]
    fn every_bit_and_every_length_counts() {
        let zeros = [0; 100];
        let lengths: std::collections::HashSet<u32> = (0..100).map(|len| whole(&zeros[..len])).collect();
        assert_eq!(lengths.len(), 100);
        for len in 1..100 {
            for bit in 0..8 * len {
                let mut flipped = zeros;
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert_ne!(whole(&flipped[..len]), whole(&zeros[..len]), "bit {bit} of {len} bytes");
            }
        }
    }

    #[test]
    fn exchanged_words_are_noticed() {
        let bytes: Vec<u8> = (0..4096_u64).map(|i| ((i * i) >> 3) as u8).collect();
        let expected = whole(&bytes);
        for (one, other) in (0..512).flat_map(|one| [1, 32, 64, 128].map(|by| (one, one + by))) {
            let mut exchanged = bytes.clone();
            if other < 512 {
                (0..8).for_each(|byte| exchanged.swap(8 * one + byte, 8 * other + byte));
                assert!(exchanged == bytes || whole(&exchanged) != expected, "{one}, {other}");
            }
        }
    }

    proptest! {
        #[test]
        fn parts_do_not_matter(bytes in prop::collection::vec(any::<u8>(), 0..300),
                               cuts in prop::collection::vec(0..300_usize, 0..12)) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let parts: Vec<&[u8]> = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect();
            prop_assert_eq!(sum(&parts, bytes.len()), whole(&bytes));
        }
    }
}
