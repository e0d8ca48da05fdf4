//! The schedules of GITS (Chen et al., 2024): noise levels chosen from one list, for each coefficient and number of
//! steps.
//!
//! The first line of the file holds the levels, falling. Each further line belongs to a coefficient, from 0.8 on in
//! steps of 0.05, and holds for 2 to 20 steps which of the levels are visited: bit i of a number is level i.

const TABLE: &str = include_str!("gits.txt");

/// The fewest and the most steps there are schedules for.
const FEWEST: usize = 2;
const MOST: usize = 20;

/// The levels for a coefficient and a number of steps, those of the most steps if it is more; none for coefficients
/// between the known ones.
pub(super) fn schedule(coefficient: f64, steps: usize) -> Option<Vec<f64>> {
    let hundredths = (coefficient * 100.0).round_ties_even() as usize;
    let row = hundredths.checked_sub(80).filter(|above| above.is_multiple_of(5))? / 5;
    let mut lines = TABLE.lines();
    let levels = lines.next()?.split(' ').map(|level| level.parse::<f64>().ok());
    let levels = levels.collect::<Option<Vec<_>>>()?;
    let visited = lines.nth(row)?.split(' ').nth(steps.clamp(FEWEST, MOST) - FEWEST)?;
    let visited = u128::from_str_radix(visited, 16).ok()?;
    Some(
        levels
            .into_iter()
            .enumerate()
            .filter(|(index, _)| (visited >> index) & 1 == 1)
            .map(|(_, level)| level)
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_coefficient_has_a_schedule_for_each_number_of_steps() {
        for row in 0..15 {
            for steps in FEWEST..=MOST {
                let levels = schedule(0.8 + 0.05 * f64::from(row), steps).expect("a schedule");
                assert_eq!(levels.len(), steps + 1);
                assert_eq!((levels[0], levels[steps]), (14.614_641_19, 0.029_167_53));
            }
        }
        assert_eq!(schedule(1.2, 99).map(|levels| levels.len()), Some(MOST + 1));
        assert!(schedule(0.83, 4).is_none() && schedule(1.55, 4).is_none() && schedule(0.1, 4).is_none());
    }
}
