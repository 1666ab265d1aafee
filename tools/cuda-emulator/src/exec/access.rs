//! The one door through which instructions reach memory: generic addresses, alignment, bounds, checkers and counters.

use super::cta::{LOCAL, PARAM, SHARED};
use super::decode::{Addr, Base};
use super::{Access, Cta, Kind, Mask, Order, Warp};
use crate::error::{Code, Fault};
use crate::memory::PAGE;
use crate::ptx::ast::Space;

/// Host addresses of the lanes' first bytes.
type Pointers = [*mut u8; 32];

/// Lowest and highest address of the lanes of a mask, and all their bits.
#[inline(always)]
fn bounds(addresses: &[u64; 32], mask: Mask) -> (u64, u64, u64) {
    let (mut low, mut high, mut bits) = (u64::MAX, 0, 0);
    if mask == !0 {
        for &a in addresses {
            low = low.min(a);
            high = high.max(a);
            bits |= a;
        }
    } else {
        let mut m = mask;
        while m != 0 {
            let a = addresses[m.trailing_zeros() as usize];
            m &= m - 1;
            low = low.min(a);
            high = high.max(a);
            bits |= a;
        }
    }
    (low, high, bits)
}

fn lanes(mask: Mask) -> impl Iterator<Item = usize> {
    (0..32).filter(move |l| mask >> l & 1 == 1)
}

/// The first lane that a condition holds for.
fn culprit(a: &Access, bad: impl Fn(u64) -> bool) -> (u64, u32) {
    let lane = lanes(a.mask).find(|&l| bad(a.addresses[l])).unwrap_or(0);
    (a.addresses[lane], lane as u32)
}

fn space_of(address: u64) -> Space {
    match address >> 56 {
        0 => Space::Global,
        1 => Space::Shared,
        2 => Space::Local,
        3 => Space::Param,
        _ => Space::Generic,
    }
}

impl Cta<'_> {
    /// Where the lanes of a whole warp go in shared memory, if nobody watches and every access is good: the short way.
    #[inline(always)]
    pub fn offsets(&self, w: &Warp, addr: &Addr, space: Space, bytes: u32, mask: Mask) -> Option<[u32; 32]> {
        let Base::R32(slot) = addr.base else { return None };
        if (mask, space) != (!0, Space::Shared) || self.check.is_some() || self.count.is_some() {
            return None;
        }
        let (mut at, mut high, mut bits) = (w.r32(slot).0, 0, 0);
        for x in &mut at {
            *x = x.wrapping_add(addr.offset as u32);
            high = high.max(*x);
            bits |= *x;
        }
        let fits = u64::from(high) + u64::from(bytes) <= self.shared.len() as u64;
        (fits && bits & (bytes.next_power_of_two().clamp(1, 16) - 1) == 0).then_some(at)
    }
    /// As [`Self::access`], of an address operand.
    #[inline(always)]
    pub fn reach(
        &mut self,
        w: &Warp,
        addr: &Addr,
        (kind, space, order): (Kind, Space, Order),
        bytes: u32,
        mask: Mask,
    ) -> Result<[*mut u8; 32], Fault> {
        if let Some(at) = self.offsets(w, addr, space, bytes, mask) {
            let mut p = [self.shared.as_mut_ptr(); 32];
            for (p, x) in p.iter_mut().zip(&at) {
                *p = p.wrapping_add(*x as usize);
            }
            return Ok(p);
        }
        self.access(w, &Access { kind, space, addresses: &addr.get(w), bytes, mask, order })
    }

    /// Checks an access (alignment, bounds, checkers), counts it, and gives each lane of the mask the host address of
    /// its first byte (unspecified for other lanes). Pointers hold until the next access. Inlined, so that callers which
    /// are compiled for wide vectors have it so.
    #[inline(always)]
    pub fn access(&mut self, w: &Warp, a: &Access) -> Result<[*mut u8; 32], Fault> {
        if a.mask == 0 {
            return Ok([std::ptr::null_mut(); 32]);
        }
        let (low, high, bits) = bounds(a.addresses, a.mask);
        let align = u64::from(a.bytes.next_power_of_two().clamp(1, 16));
        if bits & (align - 1) != 0 {
            let (at, lane) = culprit(a, |x| x & (align - 1) != 0);
            return Err(Fault::address(Code::MisalignedAddress, a.space, at, a.bytes, lane));
        }
        match a.space {
            Space::Global | Space::Const => self.global(w, a, low, high),
            Space::Shared => self.shared(w, a, high, 0),
            Space::Generic if high < SHARED => self.global(w, a, low, high),
            Space::Generic if low >= SHARED && high < LOCAL => self.shared(w, a, high - SHARED, SHARED),
            Space::Generic => self.mixed(w, a),
            Space::Local | Space::Param => self.private(w, a, a.space, 0),
        }
    }

    #[inline(always)]
    fn global(&mut self, w: &Warp, a: &Access, low: u64, high: u64) -> Result<Pointers, Fault> {
        let memory = self.launch.memory;
        let span = high.saturating_sub(low).saturating_add(u64::from(a.bytes));
        let near = span <= 16 * PAGE && memory.covers(low, span);
        if !near && let Some(lane) = lanes(a.mask).find(|&l| !memory.mapped(a.addresses[l], a.bytes)) {
            return Err(self.outside(a, Space::Global, lane));
        }
        self.note(w, a, Space::Global, a.addresses);
        let mut p = [std::ptr::null_mut(); 32];
        for (p, x) in p.iter_mut().zip(a.addresses) {
            *p = *x as *mut u8;
        }
        Ok(p)
    }

    #[inline(always)]
    fn shared(&mut self, w: &Warp, a: &Access, high: u64, window: u64) -> Result<Pointers, Fault> {
        let size = self.shared.len() as u64;
        if high.checked_add(u64::from(a.bytes)).is_none_or(|end| end > size) {
            let (_, lane) = culprit(a, |x| (x - window).saturating_add(u64::from(a.bytes)) > size);
            return Err(self.outside(a, Space::Shared, lane as usize));
        }
        if self.check.is_some() || self.count.is_some() {
            self.note(w, a, Space::Shared, &a.addresses.map(|x| x.wrapping_sub(window)));
        }
        let base = self.shared.as_mut_ptr();
        let mut p = [base; 32];
        for (p, x) in p.iter_mut().zip(a.addresses) {
            *p = base.wrapping_add(x.wrapping_sub(window) as usize);
        }
        Ok(p)
    }

    /// Local and param memory, lane by lane.
    fn private(&mut self, w: &Warp, a: &Access, space: Space, window: u64) -> Result<Pointers, Fault> {
        let mut p = [std::ptr::null_mut(); 32];
        let mut offsets = [0; 32];
        for lane in lanes(a.mask) {
            let at = a.addresses[lane].wrapping_sub(window);
            offsets[lane] = at;
            let thread = (w.id * 32) as usize + lane;
            let found = if space == Space::Param {
                self.param(w.depth, thread, at, a, window != 0)
            } else {
                self.local(thread, at, u64::from(a.bytes))
            };
            p[lane] = found.ok_or_else(|| self.outside(a, space, lane))?;
        }
        self.note(w, a, space, &offsets);
        Ok(p)
    }

    fn local(&mut self, thread: usize, at: u64, bytes: u64) -> Option<*mut u8> {
        if at >= super::ops::stack::BASE {
            return self.stacks.get_mut(thread)?.find(at, bytes);
        }
        let program = self.launch.program;
        let first = program.functions[self.launch.kernel].local_bytes;
        let (depth, inside, size) = if at < first {
            (0, at, first)
        } else {
            let size = program.callee_local;
            let over = at - first;
            (1 + over.checked_div(size)?, over % size, size)
        };
        let frame = &mut self.frames.get_mut(usize::try_from(depth).ok()?)?[0];
        let from = thread * size as usize + inside as usize;
        (inside + bytes <= size && from + bytes as usize <= frame.len()).then(|| frame[from..].as_mut_ptr())
    }

    /// A kernel's parameters are the launch's; what else is in param memory is a thread's own.
    fn param(&mut self, depth: u32, thread: usize, at: u64, a: &Access, generic: bool) -> Option<*mut u8> {
        let bytes = u64::from(a.bytes);
        let end = at.checked_add(bytes)?;
        if (depth == 0 || generic) && end <= self.launch.params.len() as u64 {
            // The pointer is only read through.
            return (a.kind == Kind::Read).then(|| self.launch.params[at as usize..].as_ptr().cast_mut());
        }
        let size = self.launch.program.param_stride;
        let frame = &mut self.frames.get_mut(depth as usize)?[1];
        let from = thread * size as usize + at as usize;
        (!generic && end <= size && from + bytes as usize <= frame.len()).then(|| frame[from..].as_mut_ptr())
    }

    /// Generic addresses that are not all global or all shared.
    fn mixed(&mut self, w: &Warp, a: &Access) -> Result<Pointers, Fault> {
        let mut p = [std::ptr::null_mut(); 32];
        let mut left = a.mask;
        while left != 0 {
            let space = space_of(a.addresses[left.trailing_zeros() as usize]);
            let mask = lanes(left).filter(|&l| space_of(a.addresses[l]) == space).fold(0, |m, l| m | 1 << l);
            left &= !mask;
            let part = Access { mask, ..*a };
            let (low, high, _) = bounds(a.addresses, mask);
            let some = match space {
                Space::Global => self.global(w, &part, low, high)?,
                Space::Shared => self.shared(w, &part, high - SHARED, SHARED)?,
                Space::Local => self.private(w, &part, space, LOCAL)?,
                Space::Param => self.private(w, &part, space, PARAM)?,
                _ => return Err(self.outside(&part, Space::Generic, mask.trailing_zeros() as usize)),
            };
            lanes(mask).for_each(|l| p[l] = some[l]);
        }
        Ok(p)
    }

    #[cold]
    fn outside(&self, a: &Access, space: Space, lane: usize) -> Fault {
        Fault::address(Code::IllegalAddress, space, a.addresses[lane], a.bytes, lane as u32)
    }

    #[inline(always)]
    fn note(&mut self, w: &Warp, a: &Access, space: Space, resolved: &[u64; 32]) {
        if let Some(c) = &mut self.count {
            c.access(a, space, resolved);
        }
        if let Some(c) = &mut self.check {
            c.access(self.launch.memory, &self.shared, w.id, a, space, resolved);
        }
    }

    /// Where local memory of a frame begins, in the thread's own terms.
    pub(super) fn local_frame(&self, depth: u32) -> u64 {
        let p = self.launch.program;
        match u64::from(depth) {
            0 => 0,
            d => p.functions[self.launch.kernel].local_bytes + (d - 1) * p.callee_local,
        }
    }

    /// Makes frames up to a depth; an error when the stack is used up.
    pub(super) fn grow(&mut self, depth: u32) -> Result<(), Fault> {
        /// Bytes of local memory that a thread may have at most on every GPU so far.
        const STACK: u64 = 512 << 10;
        /// Calls within calls.
        const DEPTH: u32 = 1000;
        let p = self.launch.program;
        if depth > DEPTH
            || self.local_frame(depth + 1) > STACK.max(p.functions[self.launch.kernel].local_bytes)
        {
            return Err(Fault::new(
                Code::HardwareStackError,
                format!("the stack is used up after {depth} calls"),
            ));
        }
        let threads = self.launch.block.iter().product::<u32>().div_ceil(32) as usize * 32;
        while self.frames.len() <= depth as usize {
            let local = if self.frames.is_empty() {
                p.functions[self.launch.kernel].local_bytes
            } else {
                p.callee_local
            };
            // Kernels without calls have nothing but parameters, which are the launch's.
            let params = if p.makes_calls { p.param_stride } else { 0 };
            let sizes = [local, params].map(|b| vec![0; threads * b as usize]);
            self.frames.push(sizes);
        }
        Ok(())
    }

    /// Param bytes of a thread at a depth of call.
    pub(super) fn param_bytes(
        &mut self,
        depth: u32,
        thread: usize,
        at: u64,
        bytes: u64,
    ) -> Option<&mut [u8]> {
        let size = self.launch.program.param_stride;
        let frame = &mut self.frames.get_mut(depth as usize)?[1];
        let from = thread * size as usize + at as usize;
        if at + bytes <= size { frame.get_mut(from..from + bytes as usize) } else { None }
    }
}
