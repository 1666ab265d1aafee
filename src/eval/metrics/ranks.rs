//! Where a good sample falls among the anomalous ones, without sorting it.

/// `x` as an integer of the same order; -0 and 0 are equal. `x` is not NaN.
#[inline]
pub fn key(x: f32) -> u32 {
    let b = (x + 0.0).to_bits();
    if b >> 31 == 0 { b | 1 << 31 } else { !b }
}

/// The value of a [`key`].
pub fn value(key: u32) -> f32 {
    f32::from_bits(if key >> 31 == 1 { key & !(1 << 31) } else { !key })
}

/// The distinct anomalous values, ascending, and an index on their leading bits.
pub struct Ranks {
    values: Vec<u32>,
    /// `index[b]..index[b + 1]` are the values with `(v - values[0]) >> shift == b`.
    index: Vec<u32>,
    shift: u32,
}

impl Ranks {
    /// `anomalous`: sorted, the key in the upper 32 bits. `None` if there are none.
    pub fn new(anomalous: &[u64]) -> Option<Self> {
        let mut values: Vec<u32> = anomalous.iter().map(|p| (p >> 32) as u32).collect();
        values.dedup();
        let range = values.last()? - values[0];
        // About two buckets a value, so that the search below the index is short; 4 MiB at most, to stay in cache.
        let buckets = (2 * values.len()).next_power_of_two().ilog2().clamp(8, 20);
        let shift = (32 - range.leading_zeros()).saturating_sub(buckets);
        let mut index = vec![0u32; (range >> shift) as usize + 2];
        values.iter().for_each(|v| index[((v - values[0]) >> shift) as usize + 1] += 1);
        (1..index.len()).for_each(|b| index[b] += index[b - 1]);
        Some(Self { values, index, shift })
    }
    /// Slots that samples are counted into: `2j` between values `j - 1` and `j`, `2j + 1` equal to value `j`.
    pub fn slots(&self) -> usize {
        2 * self.values.len() + 1
    }
    /// Empty slots.
    pub fn zeros(&self) -> Vec<u32> {
        vec![0; self.slots()]
    }
    /// Counts `x` into its slot.
    #[inline]
    pub fn count(&self, slots: &mut [u32], x: f32) {
        let (k, m) = (key(x), self.values.len());
        let slot = if k < self.values[0] {
            0
        } else if k > self.values[m - 1] {
            2 * m
        } else {
            let b = ((k - self.values[0]) >> self.shift) as usize;
            let (from, to) = (self.index[b] as usize, self.index[b + 1] as usize);
            let j = from + self.values[from..to].partition_point(|v| *v < k);
            // `j` may be `to`: the next value then lies in a later bucket and is no tie; it exists, as `k` is in range.
            2 * j + (self.values[j] == k) as usize
        };
        slots[slot] += 1;
    }
}
