//! Plain-woven cloth: blue warp, grey weft, no two yarns quite alike.

use super::canvas::*;
use super::{Flaw, Pose, Rng};
use std::f32::consts::PI;

/// Distance from yarn to yarn.
const PITCH: f32 = 6.0;
const WARP: Rgb = [0.20, 0.33, 0.56];
const WEFT: Rgb = [0.62, 0.66, 0.70];

struct Cloth {
    pose: Pose,
    seed: u32,
    /// A warp yarn that is missing between two heights.
    gap: Option<(f32, f32, f32)>,
    fibre: Option<(Stroke, Rgb)>,
    hole: Option<Blob>,
    stain: Option<Blob>,
    strength: f32,
}

pub fn draw(rng: &mut Rng, pose: Pose, flaw: Option<Flaw>) -> Scene {
    let mut c =
        Cloth { pose, seed: rng.seed(), gap: None, fibre: None, hole: None, stain: None, strength: 1.0 };
    if let Some(mut f) = flaw {
        let r = &mut f.rng;
        c.strength = f.strength;
        // Well inside the picture, whatever the crop; defects lie in the picture's own coordinates but the broken yarn.
        let at = (r.range(64.0, 192.0), r.range(64.0, 192.0));
        match f.kind {
            "broken_thread" => {
                let (u, v) = pose.local(at.0, at.1);
                let yarn = (u / PITCH).floor();
                c.gap = Some((yarn, v - 0.5 * f.size, v + 0.5 * f.size));
                // One loose end lies on the cloth.
                let angle = r.range(0.3, 1.2);
                c.fibre = Some((
                    Stroke::new(r, (at.0 + 6.0, at.1 + 0.5 * f.size - 6.0), angle, 22.0, 0.5, 3.4),
                    WARP,
                ));
            }
            "foreign_fibre" => {
                let angle = r.range(0.0, PI);
                c.fibre = Some((Stroke::new(r, at, angle, f.size, 0.5, 4.0), [0.75, 0.16, 0.14]));
            }
            "hole" => c.hole = Some(Blob::new(r, at, f.size)),
            _ => c.stain = Some(Blob::new(r, at, f.size)),
        }
    }
    Box::new(move |x, y| c.shade(x, y))
}

impl Cloth {
    /// A yarn's shade: its own tone, slubs along it, twisted fibres across it.
    fn yarn(&self, base: Rgb, side: u32, index: f32, along: f32, across: f32) -> Rgb {
        let s = self.seed ^ side;
        let own = 0.06 * white(s, index as i32, 7) + 0.05 * noise(s, 0.05 * along, 17.0 * index);
        let twist = 0.07 * libm::sinf(1.6 * along + 5.0 * across)
            + 0.06 * noise(s ^ 2, 0.9 * along, 3.0 * across + 31.0 * index);
        lit(base, 1.0 + own + twist)
    }

    fn shade(&self, x: f32, y: f32) -> Rgb {
        let (mut u, mut v) = self.pose.local(x, y);
        u += 1.1 * noise(self.seed ^ 3, 0.02 * u, 0.03 * v);
        v += 1.1 * noise(self.seed ^ 4, 0.03 * u, 0.02 * v);
        let (mut pull, mut open) = (0.0, 0.0);
        if let Some(h) = &self.hole {
            let d = h.depth(x, y);
            open = step(1.0, 0.85, d + 0.18 * noise(self.seed ^ 8, 0.5 * x, 0.5 * y));
            pull = step(1.7, 0.9, d);
        }
        let (i, j) = ((u / PITCH).floor(), (v / PITCH).floor());
        let (a, b) = (u / PITCH - i - 0.5, v / PITCH - j - 0.5);
        let missing = self.gap.is_some_and(|(yarn, top, end)| i == yarn && v > top && v < end);
        let warp_up = (i + j).rem_euclid(2.0) < 1.0;
        let (across, along) = if warp_up { (a, b) } else { (b, a) };
        let height = libm::cosf(PI * across) * (0.6 + 0.4 * libm::cosf(PI * along));
        // The lamp from the upper left brightens one flank of each float.
        let flank = 0.16 * if warp_up { facing(a, 0.4 * b) } else { facing(0.4 * a, b) };
        let k = 0.38 + 0.62 * height + flank;
        let mut c = match (warp_up, missing) {
            (true, true) => lit(self.yarn(WEFT, 1, j, u, b), 0.12 + 0.22 * libm::cosf(PI * b)),
            (true, false) => lit(self.yarn(WARP, 0, i, v, a), k),
            (false, _) => lit(self.yarn(WEFT, 1, j, u, b), if missing { 0.75 * k } else { k }),
        };
        c = lit(c, 1.0 + 0.05 * noise(self.seed ^ 5, 0.012 * x, 0.012 * y) - 0.25 * pull);
        c = blend(c, [0.05, 0.05, 0.06], open);
        if let Some(s) = &self.stain {
            let d = s.depth(x, y);
            let cover = step(1.1, 0.5, d);
            c = blend(c, [c[0] * 0.42, c[1] * 0.33, c[2] * 0.20], self.strength * cover);
        }
        if let Some((f, colour)) = &self.fibre {
            c = lit(c, 1.0 - 0.4 * step(1.6, -0.6, f.edge(x - 1.2, y - 1.6)));
            let tone = 0.85 + 0.2 * noise(self.seed ^ 6, 0.7 * x, 0.7 * y);
            c = blend(c, lit(*colour, tone), self.strength * step(0.3, -0.4, f.edge(x, y)));
        }
        c
    }
}
