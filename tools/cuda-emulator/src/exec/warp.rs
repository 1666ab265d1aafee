//! A warp's registers.

/// Lanes, bit i for lane i.
pub type Mask = u32;

/// A 32-bit register (or 8/16-bit, zero-extended) of every lane.
#[repr(align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct L32(pub [u32; 32]);

/// A 64-bit register of every lane.
#[repr(align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct L64(pub [u64; 32]);

impl L32 {
    /// The same in every lane.
    pub fn splat(x: u32) -> Self {
        Self([x; 32])
    }
}
impl L64 {
    /// The same in every lane.
    pub fn splat(x: u64) -> Self {
        Self([x; 32])
    }
}

/// Registers of one warp. Slots count from the frame of the function that runs.
pub struct Warp {
    /// Number in the block.
    pub id: u32,
    /// Lanes that exist (the last warp may be partial).
    pub lanes: Mask,
    /// Lanes that have not exited.
    pub alive: Mask,
    /// Lanes that run the present instruction, before its guard.
    pub active: Mask,
    /// Function that runs.
    pub function: u32,
    /// Index of the present instruction in it.
    pub pc: u32,
    /// Calls above it.
    pub depth: u32,
    /// No other lane of the warp can run before the present instruction has: whoever it waits for does not come.
    pub stuck: bool,
    /// The carry flag (CC.CF) of each lane, of `add.cc` and its kind.
    pub carry: Mask,
    r32: Vec<L32>,
    r64: Vec<L64>,
    r128: Vec<[u128; 32]>,
    pred: Vec<Mask>,
    base: [usize; 4],
    /// Registers of a frame in each file: predicates last.
    frame: [usize; 4],
}

impl Warp {
    /// A warp whose frames have so many 32-, 64-, 128-bit and predicate registers.
    pub fn new(id: u32, lanes: Mask, frame: [usize; 4]) -> Self {
        let mut w = Self {
            id,
            lanes,
            alive: lanes,
            active: lanes,
            function: 0,
            pc: 0,
            depth: 0,
            stuck: false,
            carry: 0,
            r32: vec![],
            r64: vec![],
            r128: vec![],
            pred: vec![],
            base: [0; 4],
            frame,
        };
        w.enter(0);
        w
    }
    /// As new, for another block. Registers hold zeros, or with `poison` what no program should use.
    pub fn reset(&mut self, poison: bool) {
        let fill = if poison { !0 } else { 0 };
        self.r32.fill(L32::splat(fill));
        self.r64.fill(L64::splat(if poison { !0 } else { 0 }));
        self.pred.fill(0);
        (self.alive, self.carry, self.stuck) = (self.lanes, 0, false);
        self.enter(0);
    }
    /// Slots count from the frame of this depth.
    pub fn enter(&mut self, depth: u32) {
        let d = depth as usize;
        self.depth = depth;
        self.base = self.frame.map(|n| n * d);
        let need = self.frame.map(|n| n * (d + 1));
        if self.r32.len() < need[0]
            || self.r64.len() < need[1]
            || self.r128.len() < need[2]
            || self.pred.len() < need[3]
        {
            self.r32.resize(need[0], L32::splat(0));
            self.r64.resize(need[1], L64::splat(0));
            self.r128.resize(need[2], [0; 32]);
            self.pred.resize(need[3], 0);
        }
    }
    /// A 32-bit register.
    #[inline(always)]
    pub fn r32(&self, slot: u32) -> &L32 {
        &self.r32[self.base[0] + slot as usize]
    }
    /// A 32-bit register to write in place (lanes outside the mask must keep what they have).
    #[inline(always)]
    pub fn r32_mut(&mut self, slot: u32) -> &mut L32 {
        &mut self.r32[self.base[0] + slot as usize]
    }
    /// Where a 32-bit register is, until the frame changes.
    #[inline(always)]
    pub fn r32_at(&mut self, slot: u32) -> *mut L32 {
        let n = self.base[0] + slot as usize;
        assert!(n < self.r32.len());
        self.r32.as_mut_ptr().wrapping_add(n)
    }
    /// A 64-bit register.
    #[inline(always)]
    pub fn r64(&self, slot: u32) -> &L64 {
        &self.r64[self.base[1] + slot as usize]
    }
    /// A 128-bit register.
    #[inline(always)]
    pub fn r128(&self, slot: u32) -> &[u128; 32] {
        &self.r128[self.base[2] + slot as usize]
    }
    /// A predicate.
    #[inline(always)]
    pub fn pred(&self, slot: u32) -> Mask {
        self.pred[self.base[3] + slot as usize]
    }
    /// Writes the lanes of the mask.
    #[inline(always)]
    pub fn set32(&mut self, slot: u32, mask: Mask, x: &L32) {
        let r = &mut self.r32[self.base[0] + slot as usize];
        if mask == !0 {
            *r = *x;
        } else {
            // Bits, not branches: the lanes of a mask are hard to foretell.
            for i in 0..32 {
                r.0[i] ^= (r.0[i] ^ x.0[i]) & (mask >> i & 1).wrapping_neg();
            }
        }
    }
    /// Writes the lanes of the mask.
    #[inline(always)]
    pub fn set64(&mut self, slot: u32, mask: Mask, x: &L64) {
        let r = &mut self.r64[self.base[1] + slot as usize];
        if mask == !0 {
            *r = *x;
        } else {
            for i in 0..32 {
                r.0[i] ^= (r.0[i] ^ x.0[i]) & u64::from(mask >> i & 1).wrapping_neg();
            }
        }
    }
    /// Writes the lanes of the mask.
    #[inline(always)]
    pub fn set128(&mut self, slot: u32, mask: Mask, x: &[u128; 32]) {
        let r = &mut self.r128[self.base[2] + slot as usize];
        for i in 0..32 {
            if mask >> i & 1 == 1 {
                r[i] = x[i];
            }
        }
    }
    /// Writes the lanes of the mask.
    #[inline(always)]
    pub fn set_pred(&mut self, slot: u32, mask: Mask, x: Mask) {
        let r = &mut self.pred[self.base[3] + slot as usize];
        *r = *r & !mask | x & mask;
    }
}
