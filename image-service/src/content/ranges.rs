//! Which bytes are here: ranges, sorted, none of which touch.

use std::ops::Range;

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Ranges(Vec<Range<u64>>);

impl Ranges {
    /// Returns the whole range that `more` is now part of.
    pub(super) fn insert(&mut self, more: Range<u64>) -> Range<u64> {
        let from = self.0.partition_point(|range| range.end < more.start);
        let to = self.0.partition_point(|range| range.start <= more.end);
        let touched = &self.0[from..to];
        let start = touched
            .first()
            .map_or(more.start, |first| first.start.min(more.start));
        let end = touched
            .last()
            .map_or(more.end, |last| last.end.max(more.end));
        let whole = start..end;
        self.0.splice(from..to, std::iter::once(whole.clone()));
        whole
    }

    /// What is not here of `size` bytes, in order.
    pub(super) fn missing(&self, size: u64) -> Vec<Range<u64>> {
        let ends = [0].into_iter().chain(self.0.iter().map(|range| range.end));
        let starts = self.0.iter().map(|range| range.start).chain([size]);
        let gaps = ends.zip(starts).map(|(end, start)| end..start);
        gaps.filter(|gap| gap.start < gap.end).collect()
    }

    /// All bytes before it are here.
    pub(super) fn front(&self) -> u64 {
        match self.0.first() {
            Some(first) if first.start == 0 => first.end,
            _ => 0,
        }
    }

    pub(super) fn total(&self) -> u64 {
        self.0.iter().map(|range| range.end - range.start).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(parts: &[(u64, u64)], missing: &[(u64, u64)], front: u64) {
        let mut ranges = Ranges::default();
        for (start, end) in parts {
            let whole = ranges.insert(*start..*end);
            assert!(whole.start <= *start && *end <= whole.end);
        }
        let gaps = ranges.missing(100).into_iter();
        let gaps: Vec<_> = gaps.map(|gap| (gap.start, gap.end)).collect();
        assert_eq!(gaps, missing, "{parts:?}");
        assert_eq!(ranges.front(), front, "{parts:?}");
        let left: u64 = missing.iter().map(|(start, end)| end - start).sum();
        assert_eq!(ranges.total(), 100 - left, "{parts:?}");
    }

    #[test]
    fn ranges_merge_where_they_touch() {
        check(&[], &[(0, 100)], 0);
        check(&[(0, 100)], &[], 100);
        check(&[(0, 10), (10, 20)], &[(20, 100)], 20);
        check(&[(10, 20)], &[(0, 10), (20, 100)], 0);
        check(&[(10, 20), (30, 40)], &[(0, 10), (20, 30), (40, 100)], 0);
        check(&[(30, 40), (10, 20), (20, 30)], &[(0, 10), (40, 100)], 0);
        check(&[(10, 20), (0, 10), (90, 100)], &[(20, 90)], 20);
        let parts = [(10, 20), (30, 40), (50, 60), (15, 55)];
        check(&parts, &[(0, 10), (60, 100)], 0);
        check(&[(10, 40), (20, 30)], &[(0, 10), (40, 100)], 0);
    }
}
