//! Capsules in a blister pack: red and cream shells under clear domes on embossed foil.

use super::canvas::*;
use super::{Flaw, Pose, Rng};

/// Pockets across and down, and their distances.
const ACROSS: usize = 2;
const DOWN: usize = 3;
const GRID: (f32, f32) = (102.0, 70.0);
/// A capsule's half length and radius; a pocket's half sides.
const CAPSULE: (f32, f32) = (33.0, 13.0);
const POCKET: (f32, f32) = (42.0, 23.0);
const RED: Rgb = [0.74, 0.17, 0.15];
const CREAM: Rgb = [0.90, 0.86, 0.76];
/// The body of another product's capsule.
const OTHER: Rgb = [0.80, 0.54, 0.16];

enum State {
    Whole,
    /// Pressed out through the foil.
    Burst,
    /// Only the part left of this place is there.
    Broken(f32),
    Other(f32),
}

struct Pack {
    pose: Pose,
    seed: u32,
    capsules: Vec<(Pose, State)>,
}

pub fn draw(rng: &mut Rng, pose: Pose, flaw: Option<Flaw>) -> Scene {
    let mut capsules: Vec<_> = (0..ACROSS * DOWN)
        .map(|_| (Pose::new((rng.around(1.2), rng.around(0.8)), rng.around(0.03), 1.0), State::Whole))
        .collect();
    let seed = rng.seed();
    if let Some(mut f) = flaw {
        let i = f.rng.pick(ACROSS * DOWN);
        capsules[i].1 = match f.kind {
            "burst_pocket" => State::Burst,
            "broken_capsule" => State::Broken(CAPSULE.0 * (1.0 - 2.0 * f.size)),
            _ => State::Other(f.strength),
        };
    }
    let pack = Pack { pose, seed, capsules };
    Box::new(move |x, y| pack.shade(x, y))
}

impl Pack {
    fn shade(&self, x: f32, y: f32) -> Rgb {
        let (u, v) = self.pose.local(x, y);
        let s = self.seed;
        // Foil: a fine embossed lattice, and slow waves that catch the light.
        let lattice = libm::sinf(0.9 * (u + v)) * libm::sinf(0.9 * (u - v));
        let wave = 0.05 * noise(s, 0.02 * u, 0.03 * v) + 0.03 * noise(s ^ 1, 0.07 * u, 0.05 * v);
        let foil = lit([0.97, 0.99, 1.02], 0.66 + 0.07 * lattice + wave);
        let place = |t: f32, grid: f32, n: usize| {
            let half = 0.5 * (n as f32 - 1.0);
            let i = (t / grid + half + 0.5).floor().clamp(0.0, n as f32 - 1.0);
            (i as usize, t - (i - half) * grid)
        };
        let ((i, px), (j, py)) = (place(u, GRID.0, ACROSS), place(v, GRID.1, DOWN));
        let wall = rounded_box(px, py, POCKET.0, POCKET.1, 21.0);
        if wall > 3.0 {
            return foil;
        }
        let (nx, ny) = (px / POCKET.0, py / POCKET.1);
        let n = hypot(nx, ny).max(1e-3);
        let slope = facing(nx / n, ny / n);
        // The rim of the clear dome bends the light; inside, the foil is smooth and a little darker.
        let mut c = blend(foil, lit([0.93, 0.97, 1.0], 0.60 + wave), step(1.0, -1.0, wall));
        c = lit(c, 1.0 + 0.30 * slope * step(3.0, 0.0, wall.abs()) - 0.10 * slope * step(0.0, -8.0, wall));
        let (pose, state) = &self.capsules[j * ACROSS + i];
        let edge = |x: f32, y: f32| {
            let (a, b) = pose.local(x, y);
            let cap = if a < 1.0 { CAPSULE.1 } else { CAPSULE.1 - 0.8 };
            let whole = segment(a, b, (CAPSULE.1 - CAPSULE.0, 0.0), (CAPSULE.0 - CAPSULE.1, 0.0)).0 - cap;
            match state {
                State::Burst => 99.0,
                State::Broken(end) => whole.max(a - end - 2.2 * noise(s ^ 4, 0.3, 0.55 * b)),
                _ => whole,
            }
        };
        let shadow = step(4.5, -3.5, edge(px - 2.5, py - 3.2));
        c = lit(c, 1.0 - 0.42 * shadow);
        if let State::Broken(end) = state {
            // Its filling, spilt beside the break.
            let d = hypot((px - end - 12.0) / 17.0, py / 15.0) + 0.6 * fbm(s ^ 5, 0.25 * px, 0.25 * py);
            let tone = 0.80 + 0.35 * noise(s ^ 6, 0.6 * px, 0.6 * py);
            c = blend(c, lit([0.80, 0.50, 0.12], tone), step(0.95, 0.80, d));
        }
        if let State::Burst = state {
            // Torn foil curls up around a dark hole.
            let d = hypot(px / 31.0, py / 14.0) + 0.30 * fbm(s ^ 7, 0.13 * px, 0.16 * py);
            let curl = 0.75 + 0.45 * slope + 0.15 * noise(s ^ 8, 0.4 * px, 0.4 * py);
            c = blend(c, lit([0.95, 0.97, 1.0], curl), step(1.12, 1.04, d));
            c = blend(c, [0.07, 0.06, 0.06], step(0.95, 0.87, d));
        }
        let e = edge(px, py);
        if e < 0.6 {
            let (a, b) = pose.local(px, py);
            let t = (b / CAPSULE.1).clamp(-1.0, 1.0);
            let end = ((a.abs() - (CAPSULE.0 - CAPSULE.1)) / CAPSULE.1).clamp(0.0, 1.0);
            let round = (1.0 - t * t - end * end).max(0.0).sqrt();
            let other = if let State::Other(k) = state { *k } else { 0.0 };
            let body = blend(RED, OTHER, other);
            let shell =
                lit(blend(body, CREAM, step(0.7, 1.3, a)), 1.0 - 0.25 * step(0.9, 0.0, (a - 1.0).abs()));
            let gloss = 0.55 * step(0.22, 0.0, (t + 0.42).abs()) * step(1.0, 0.5, a.abs() / CAPSULE.0);
            let body = blend(lit(shell, 0.52 + 0.5 * round), [1.0, 1.0, 1.0], gloss);
            let torn = if let State::Broken(stop) = state { 0.45 * step(stop - 3.5, *stop, a) } else { 0.0 };
            c = blend(c, lit(body, 1.0 - torn), step(0.5, -0.5, e));
        }
        // The lamp's reflection on the dome.
        let shine = step(2.6, 0.0, (wall + 5.0).abs()) * step(0.75, 0.97, slope);
        blend(c, [1.0, 1.0, 1.0], 0.5 * shine)
    }
}
