//! Which parts of a network stay where not all of them fit.

/// Parts that stay once they are there, and parts that come for each use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    stays: Vec<bool>,
    /// How many parts come ahead of their use.
    pub ahead: usize,
}

impl Plan {
    /// For parts of these sizes, the first `kept` of which are needed all the time, in so much room; none if not even
    /// one part after the other fits.
    ///
    /// Parts are used in a circle, so it does not matter which of them stay: those that come are spread evenly, so
    /// that each has the work on several others to come during.
    pub fn new(sizes: &[u64], kept: usize, room: u64) -> Option<Self> {
        if sizes.iter().sum::<u64>() <= room {
            return Some(Self { stays: vec![true; sizes.len()], ahead: 1 });
        }
        let (always, others) = sizes.split_at(kept);
        let room = room.checked_sub(always.iter().sum())?;
        let largest = others.iter().copied().max().unwrap_or(0);
        // The one in use, and the one that comes.
        let ahead = usize::from(2 * largest <= room);
        let room = room.checked_sub((1 + ahead as u64) * largest)?;
        let mut stays = vec![true; kept];
        stays.extend(spread(others, room));
        Some(Self { stays, ahead })
    }

    /// The least room in which one part comes while another one is in use.
    pub fn least(sizes: &[u64], kept: usize) -> u64 {
        let (always, others) = sizes.split_at(kept);
        always.iter().sum::<u64>() + 2 * others.iter().max().copied().unwrap_or(0)
    }

    pub fn stays(&self, part: usize) -> bool {
        self.stays[part]
    }

    /// Has a part come for each use from now on.
    pub fn give_up(&mut self, part: usize) {
        self.stays[part] = false;
    }

    /// Whether this plan fits into so much room, and keeps as much of it as `other` does but for one part.
    pub fn is_about(&self, other: &Self, sizes: &[u64], room: u64) -> bool {
        let one = sizes.iter().max().copied().unwrap_or(0);
        self.bytes(sizes) <= room
            && other.ahead <= self.ahead
            && (other.staying() == sizes.len()) == (self.staying() == sizes.len())
            && other.staying_bytes(sizes) <= self.staying_bytes(sizes) + one
    }

    /// How many parts stay.
    pub fn staying(&self) -> usize {
        self.stays.iter().filter(|stays| **stays).count()
    }

    /// The bytes of the parts that stay.
    pub fn staying_bytes(&self, sizes: &[u64]) -> u64 {
        sizes.iter().zip(&self.stays).filter(|(_, stays)| **stays).map(|(size, _)| size).sum()
    }

    /// The most bytes there are at once.
    pub fn bytes(&self, sizes: &[u64]) -> u64 {
        let coming = sizes.iter().zip(&self.stays).filter(|(_, stays)| !**stays).map(|(size, _)| *size).max();
        self.staying_bytes(sizes) + coming.unwrap_or(0) * (1 + self.ahead as u64)
    }
}

/// Which of some parts stay in so much room, as evenly as their sizes allow.
fn spread(sizes: &[u64], room: u64) -> Vec<bool> {
    let share = room as f64 / sizes.iter().sum::<u64>() as f64;
    let (mut due, mut left) = (0.0, room);
    let mut stays: Vec<bool> = sizes
        .iter()
        .map(|size| {
            due += *size as f64 * share;
            let stays = due >= *size as f64 / 2.0 && *size <= left;
            if stays {
                due -= *size as f64;
                left -= size;
            }
            stays
        })
        .collect();
    for (stays, size) in stays.iter_mut().zip(sizes) {
        if !*stays && *size <= left {
            *stays = true;
            left -= size;
        }
    }
    stays
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(sizes: &[u64], room: u64) -> Plan {
        Plan::new(sizes, 1, room).unwrap()
    }

    #[test]
    fn everything_stays_where_it_fits() {
        let plan = plan(&[1, 4, 4], 9);
        assert_eq!((plan.staying(), plan.bytes(&[1, 4, 4])), (3, 9));
    }

    #[test]
    fn what_comes_is_spread_and_the_room_is_never_exceeded() {
        let sizes = [&[10][..], &[100; 60]].concat();
        for room in (0..=6010).step_by(7) {
            match Plan::new(&sizes, 1, room) {
                Some(plan) => {
                    assert!(plan.bytes(&sizes) <= room, "{room}: {plan:?}");
                    // Nothing that would fit is left out.
                    assert!(plan.staying() == 61 || plan.bytes(&sizes) + 100 > room, "{room}: {plan:?}");
                }
                None => assert!(room < 110, "{room}"),
            }
        }
        let half = plan(&sizes, 10 + 200 + 3000);
        assert_eq!(half.staying(), 31);
        assert!((1..60).all(|part| half.stays(part) != half.stays(part + 1)), "{half:?}");
    }

    #[test]
    fn the_smallest_room_takes_one_part_at_a_time() {
        let sizes = [1, 4, 6, 4];
        assert_eq!(plan(&sizes, 7).ahead, 0);
        assert_eq!(plan(&sizes, 13).ahead, 1);
        assert_eq!(Plan::least(&sizes, 1), 13);
        assert_eq!(Plan::new(&sizes, 1, 6), None);
        assert_eq!(Plan::new(&sizes, 4, 14), None);
    }

    #[test]
    fn parts_of_different_sizes_fit_too() {
        let sizes: Vec<u64> = (0..40).map(|part| 1 + part * 37 % 11).collect();
        let sum: u64 = sizes.iter().sum();
        for room in 22..sum {
            let plan = Plan::new(&sizes, 0, room).unwrap();
            assert!(plan.bytes(&sizes) <= room, "{room}: {plan:?}");
        }
    }
}
