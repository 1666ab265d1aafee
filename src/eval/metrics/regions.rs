//! Connected regions of a mask, 8-connected: two passes with union-find.

/// Labels the regions of `mask` `(h, width)`, non-zero meaning inside.
///
/// Returns labels of the same shape, 0 outside and 1, 2, … in the order in which regions are first met row by row,
/// and each region's area in pixels.
pub fn label(mask: &[u8], width: usize) -> (Vec<u32>, Vec<u32>) {
    let mut labels = vec![0u32; mask.len()];
    let mut parent = vec![0u32];
    for i in (0..mask.len()).filter(|&i| mask[i] != 0) {
        let (x, up) = (i % width, i >= width);
        let at = |inside: bool, back: usize| if inside { labels[i - back] } else { 0 };
        let north = at(up, width);
        let west = at(x > 0, 1);
        let north_west = at(up && x > 0, width + 1);
        let north_east = at(up && x + 1 < width, width.saturating_sub(1));
        // North touches the other three, so they are joined already; west and north-west touch each other.
        let left = if west != 0 { west } else { north_west };
        labels[i] = match (north, left, north_east) {
            (0, 0, 0) => {
                parent.push(parent.len() as u32);
                parent.len() as u32 - 1
            }
            (0, 0, e) => e,
            (0, l, 0) => l,
            (0, l, e) => {
                let (a, b) = (root(&mut parent, l), root(&mut parent, e));
                parent[a.max(b) as usize] = a.min(b);
                a.min(b)
            }
            (n, _, _) => n,
        };
    }
    let mut number = vec![0u32; parent.len()];
    let mut areas = Vec::new();
    for l in labels.iter_mut().filter(|l| **l != 0) {
        let r = root(&mut parent, *l) as usize;
        if number[r] == 0 {
            areas.push(0);
            number[r] = areas.len() as u32;
        }
        *l = number[r];
        areas[*l as usize - 1] += 1;
    }
    (labels, areas)
}

/// Representative of `l`, halving the path on the way.
fn root(parent: &mut [u32], mut l: u32) -> u32 {
    while parent[l as usize] != l {
        parent[l as usize] = parent[parent[l as usize] as usize];
        l = parent[l as usize];
    }
    l
}
