//! User objects: things of the host that graphs keep alive.

use super::graph_api::graph;
use super::state::{driver, fresh, lock};
use super::{Handle, api, put};
use crate::error::Code;
use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// A counted reference to something of the host, destroyed by a function of the host.
pub(crate) struct UserObject {
    data: usize,
    destroy: unsafe extern "C" fn(*mut c_void),
    count: AtomicU32,
}
impl UserObject {
    /// Gives `n` references back; the last one destroys.
    fn release(&self, n: u32) -> Result<(), Code> {
        let less = |c: u32| c.checked_sub(n);
        let before = self.count.fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
        if before.map_err(|_| Code::InvalidValue)? == n {
            // SAFETY: the caller of cuUserObjectCreate says that it may be called with its data, once all have let go.
            unsafe { (self.destroy)(self.data as *mut c_void) };
        }
        Ok(())
    }
}
/// References that a graph and its executables hold.
pub(crate) struct Held(Arc<UserObject>, u32);
impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.0.release(self.1);
    }
}
fn object(h: Handle, n: u32) -> Result<Arc<UserObject>, Code> {
    let o = driver()?.objects.get(h).filter(|o| n > 0 && o.count.load(Ordering::Acquire) > 0);
    o.ok_or(Code::InvalidValue)
}

api! {
    fn cuUserObjectCreate(
        out: *mut Handle, data: *mut c_void, destroy: Option<unsafe extern "C" fn(*mut c_void)>, n: u32, flags: u32,
    ) {
        // The only flag, which must be set: nobody waits for the destructor.
        let Some(destroy) = destroy.filter(|_| n > 0 && flags == 1) else { return Err(Code::InvalidValue) };
        let id = fresh();
        put(out, id as Handle)?;
        let o = UserObject { data: data as usize, destroy, count: AtomicU32::new(n) };
        driver()?.objects.insert(id, Arc::new(o));
        Ok(())
    }
    fn cuUserObjectRetain(h: Handle, n: u32) {
        object(h, n)?.count.fetch_add(n, Ordering::AcqRel);
        Ok(())
    }
    fn cuUserObjectRelease(h: Handle, n: u32) {
        object(h, n)?.release(n)
    }
    fn cuGraphRetainUserObject(g: Handle, h: Handle, n: u32, flags: u32) {
        let (g, o) = (graph(g)?, object(h, n)?);
        match flags {
            0 => _ = o.count.fetch_add(n, Ordering::AcqRel),
            // The caller's references move to the graph.
            1 => (),
            _ => return Err(Code::InvalidValue),
        }
        lock(&g.objects).push(Arc::new(Held(o, n)));
        Ok(())
    }
    fn cuGraphReleaseUserObject(g: Handle, h: Handle, n: u32) {
        let (g, o) = (graph(g)?, object(h, n)?);
        let mut held = lock(&g.objects);
        let i = held.iter().position(|x| Arc::ptr_eq(&x.0, &o) && x.1 == n).ok_or(Code::InvalidValue)?;
        let gone = held.swap_remove(i);
        drop(held);
        drop(gone);
        Ok(())
    }
}
