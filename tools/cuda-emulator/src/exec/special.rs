//! Special registers. Those that do not change in a launch live in hidden slots; the others are read by `mov` alone.

use super::{Cta, Warp};

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
        _ => return None,
    })
}

fn nanoseconds() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |t| t.as_nanos() as u64)
}
