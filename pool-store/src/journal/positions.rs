//! Where the records of a journal are.

use std::collections::BTreeMap;

/// Items whose positions are kept together. Items are numbered from 0 on, so most groups are full: then a position costs a
/// little more than its eight bytes, and a lone one, whatever a file claims, costs half a kilobyte.
const TOGETHER: u64 = 64;

/// The position of the latest record of each item.
#[derive(Debug, Default)]
pub(crate) struct Positions {
    /// 0 where there is none, since a file begins with something else.
    groups: BTreeMap<u64, Box<[u64; TOGETHER as usize]>>,
    count: u64,
}

impl Positions {
    pub(crate) fn insert(&mut self, item: u64, position: u64) {
        let group = self.groups.entry(item / TOGETHER).or_insert_with(|| Box::new([0; TOGETHER as usize]));
        let place = &mut group[(item % TOGETHER) as usize];
        self.count += u64::from(*place == 0 && position != 0);
        *place = position;
    }

    pub(crate) fn get(&self, item: u64) -> Option<u64> {
        let group = self.groups.get(&(item / TOGETHER))?;
        Some(group[(item % TOGETHER) as usize]).filter(|position| *position != 0)
    }

    /// Every item and its position, in their order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        let all = self.groups.iter().flat_map(|(group, places)| {
            places
                .iter()
                .enumerate()
                .map(move |(place, position)| (group * TOGETHER + place as u64, *position))
        });
        all.filter(|(_, position)| *position != 0)
    }

    /// How many items there are.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_position_of_any_item_is_found() {
        let mut positions = Positions::default();
        for item in [0, 63, 64, u64::MAX] {
            positions.insert(item, item / 2 + 9);
        }
        positions.insert(63, 7);
        assert_eq!([0, 63, 64].map(|item| positions.get(item)), [Some(9), Some(7), Some(41)]);
        assert_eq!(
            (positions.get(u64::MAX), positions.get(1), positions.get(1000)),
            (Some(u64::MAX / 2 + 9), None, None)
        );
        assert_eq!(positions.count(), 4);
        let all: Vec<_> = positions.iter().collect();
        assert_eq!(all, [(0, 9), (63, 7), (64, 41), (u64::MAX, u64::MAX / 2 + 9)]);
    }
}
