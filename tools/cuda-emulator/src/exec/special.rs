//! Special registers. Those that do not change in a launch live in hidden slots; the others are read by `mov` alone.

use super::load::Hidden;
use super::{Cta, L32, L64, Mask, Warp};

/// Reads a special register that changes as the kernel runs; the same in every lane.
pub type Live = fn(&Warp, &Cta) -> u64;

/// How to read such a register, by its name without the `%`: `clock`, `clock64`, `globaltimer` and their kind. For
/// `mov.u32` and `mov.u64` (the low bits are wanted). `None`: it has a slot, see [`super::decode::Scope::specials`].
pub fn live(name: &str) -> Option<Live> {
    Some(match name {
        "clock" | "clock64" => |_, c| c.clock,
        "clock_hi" => |_, c| c.clock >> 32,
        "globaltimer" | "globaltimer_lo" => |_, _| nanoseconds(),
        "globaltimer_hi" => |_, _| nanoseconds() >> 32,
        name if name == "current_graph_exec" || name.ends_with("_64") => |_, _| 0,
        _ => return None,
    })
}

fn nanoseconds() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |t| t.as_nanos() as u64)
}

/// Whether a special register has a slot.
pub(super) fn known(name: &str) -> bool {
    let (stem, axis) = name.split_once('.').unwrap_or((name, ""));
    match stem {
        "tid" | "ntid" | "ctaid" | "nctaid" | "clusterid" | "nclusterid" | "cluster_ctaid"
        | "cluster_nctaid" => {
            matches!(axis, "x" | "y" | "z")
        }
        "laneid" | "warpid" | "nwarpid" | "smid" | "nsmid" | "gridid" | "lanemask_eq" | "lanemask_le"
        | "lanemask_lt" | "lanemask_ge" | "lanemask_gt" | "dynamic_smem_size" | "total_smem_size"
        | "aggr_smem_size" | "cluster_ctarank" | "cluster_nctarank" => axis.is_empty(),
        _ => {
            stem.starts_with("envreg")
                || stem.starts_with("pm") && !stem.ends_with("_64")
                || stem.starts_with("reserved_smem_offset")
        }
    }
}

fn value(name: &str, c: &Cta, warp: u32, lane: u32) -> u32 {
    let (stem, axis) = name.split_once('.').unwrap_or((name, "x"));
    let axis = match axis {
        "y" => 1,
        "z" => 2,
        _ => 0,
    };
    let l = c.launch;
    let [x, y, _] = l.block;
    let thread = warp * 32 + lane;
    match stem {
        "tid" => [thread % x, thread / x % y, thread / x / y][axis],
        "ntid" => l.block[axis],
        "ctaid" | "clusterid" => c.id[axis],
        "nctaid" | "nclusterid" => l.grid[axis],
        "cluster_nctaid" | "cluster_nctarank" => 1,
        "laneid" => lane,
        "warpid" => warp,
        "nwarpid" => l.gpu.threads / 32,
        "smid" => (c.linear() % u64::from(l.gpu.multiprocessors.max(1))) as u32,
        "nsmid" => l.gpu.multiprocessors,
        "lanemask_eq" => 1 << lane,
        "lanemask_le" => !0 >> (31 - lane),
        "lanemask_lt" => (1 << lane) - 1,
        "lanemask_ge" => !0 << lane,
        "lanemask_gt" => !1 << lane,
        "dynamic_smem_size" => l.dynamic_shared,
        "total_smem_size" | "aggr_smem_size" => c.shared.len() as u32,
        "gridid" => 1,
        "envreg1" => (l.workspace >> 32) as u32,
        "envreg2" => l.workspace as u32,
        _ => 0,
    }
}

/// Fills the hidden slots of the function that lanes enter.
pub(super) fn fill(w: &mut Warp, c: &Cta, mask: Mask) {
    let program = c.launch.program;
    let code = &program.functions[w.function as usize];
    for h in &code.hidden {
        match h {
            Hidden::Special(name, slot) => {
                let x = L32(std::array::from_fn(|lane| value(name, c, w.id, lane as u32)));
                w.set32(*slot, mask, &x);
            }
            Hidden::Grid(slot) => w.set64(*slot, mask, &L64::splat(1)),
            Hidden::Local(at, slots) => both(w, *slots, mask, c.local_frame(w.depth).wrapping_add(*at)),
            Hidden::Dynamic(align, offset, slots) => {
                let fixed = program.functions[c.launch.kernel].shared_bytes;
                both(w, *slots, mask, (fixed.div_ceil(*align) * align).wrapping_add(*offset));
            }
        }
    }
}

fn both(w: &mut Warp, (narrow, wide): (u32, u32), mask: Mask, x: u64) {
    w.set32(narrow, mask, &L32::splat(x as u32));
    w.set64(wide, mask, &L64::splat(x));
}
