//! Modules and libraries: images (PTX text, fat binaries with PTX) become programs.

use super::capture;
use super::context::{Allocation, Context, Kind};
use super::function::Function;
use super::state::{Device, context, driver, fresh, lock};
use super::{Handle, api, get_all, put, put_some, text};
use crate::error::{Code, PtxError};
use crate::exec::launch::Program;
use crate::gpu::Gpu;
use crate::ptx::ast::{self, Space};
use std::collections::HashMap;
use std::ffi::{CString, c_char, c_void};
use std::sync::{Arc, Mutex, Weak};

/// The newest PTX ISA that is known.
const NEWEST_PTX: (u32, u32) = (9, 4);

/// A loaded module (or library).
pub(crate) struct Module {
    pub id: usize,
    pub context: Weak<Context>,
    pub device: &'static Device,
    pub program: Arc<Program>,
    /// `.target` as a number: 80 of sm_80.
    pub sm: u32,
    /// Bytes of `.const` variables.
    pub const_bytes: u64,
    names: Vec<CString>,
    handles: Mutex<HashMap<usize, usize>>,
}
impl Module {
    /// A function's name for C.
    pub fn c_name(&self, index: usize) -> Option<*const c_char> {
        self.names.get(index).map(|n| n.as_ptr())
    }
    /// The handle of a kernel; the same each time.
    fn function(self: &Arc<Self>, index: usize) -> Result<Handle, Code> {
        let mut handles = lock(&self.handles);
        if let Some(id) = handles.get(&index) {
            return Ok(*id as Handle);
        }
        let id = fresh();
        handles.insert(index, id);
        Ok(driver()?.functions.insert(id, Function::new(id, self.clone(), index)))
    }
    fn named(self: &Arc<Self>, name: &str) -> Result<Handle, Code> {
        let index = self.program.function(name).filter(|i| self.program.functions[*i].entry);
        self.function(index.ok_or(Code::NotFound)?)
    }
    fn kernels(&self) -> Vec<usize> {
        (0..self.program.functions.len()).filter(|i| self.program.functions[*i].entry).collect()
    }
}

/// Whether a device runs PTX of a target: a lower plain one, or `a`/`f` of its own architecture (family).
fn runs(gpu: &Gpu, sm: u32, suffix: Option<char>) -> bool {
    let own = gpu.capability.0 * 10 + gpu.capability.1;
    match suffix {
        None => sm <= own,
        Some('f') => sm <= own && sm / 10 == own / 10,
        Some(_) => sm == own,
    }
}

/// The first PTX ISA that knows a target; of targets below 8.0 nothing is asked. Source: the PTX ISA's release notes.
fn oldest(sm: u32, suffix: Option<char>) -> Option<(u32, u32)> {
    Some(match (sm, suffix) {
        (100 | 101 | 103 | 120 | 121, Some('f')) => (8, 8),
        (90, Some(_)) => (8, 0),
        (80, _) => (7, 0),
        (86, _) => (7, 1),
        (87, _) => (7, 4),
        (89 | 90, _) => (7, 8),
        (100 | 101, _) => (8, 6),
        (120, _) => (8, 7),
        (103 | 121, _) => (8, 8),
        (88 | 110, _) => (9, 0),
        _ => return None,
    })
}

/// Text of a C image: PTX ends with NUL.
fn image(p: *const c_void, gpu: &Gpu) -> Result<String, (Code, String)> {
    let none = |what: &str| (Code::InvalidImage, what.to_owned());
    if p.is_null() {
        return Err((Code::InvalidValue, "a module image is null".into()));
    }
    // SAFETY: an image holds four bytes at least, as every form begins with a magic number or a line of text.
    let magic = unsafe { p.cast::<u32>().read_unaligned() };
    match magic {
        0x464c_457f => Err((
            Code::NoBinaryForGpu,
            "a cubin holds machine code only, which an emulator cannot run; load its PTX".into(),
        )),
        0x4662_43b1 | 0xba55_ed50 => {
            let data = if magic == 0x4662_43b1 {
                // SAFETY: the wrapper is magic, version, then the address of the fat binary.
                unsafe { p.cast::<*const c_void>().add(1).read_unaligned() }
            } else {
                p
            };
            // SAFETY: a fat binary says its size in its header.
            let all =
                unsafe { fat_binary(data) }.ok_or_else(|| none("a fat binary's header cannot be read"))?;
            crate::fatbin::ptx(all, gpu.capability).map_err(|e| (e.code, e.what))
        }
        _ => text(p.cast()).map_err(|c| (c, "a module image cannot be read".into())),
    }
}
/// # Safety
/// `p` points to a fat binary.
unsafe fn fat_binary<'a>(p: *const c_void) -> Option<&'a [u8]> {
    // SAFETY: the header is 16 bytes: magic, version (u16), header size (u16), size of what follows (u64).
    let (magic, header, body) = unsafe {
        let b = p.cast::<u8>();
        if b.is_null() {
            return None;
        }
        (
            b.cast::<u32>().read_unaligned(),
            b.add(6).cast::<u16>().read_unaligned(),
            b.add(8).cast::<u64>().read_unaligned(),
        )
    };
    if magic != 0xba55_ed50 || body > 1 << 32 {
        return None;
    }
    // SAFETY: as the header says.
    Some(unsafe { std::slice::from_raw_parts(p.cast(), header as usize + body as usize) })
}

fn compile(source: &str, c: &Arc<Context>) -> Result<Arc<Module>, (Code, String)> {
    let gpu = &c.device.gpu;
    let ptx = |e: PtxError| (Code::InvalidPtx, e.to_string());
    let parsed: ast::Module = crate::ptx::parse(source).map_err(ptx)?;
    if parsed.version > NEWEST_PTX {
        let ((a, b), (x, y)) = (parsed.version, NEWEST_PTX);
        return Err((
            Code::UnsupportedPtxVersion,
            format!("PTX ISA {a}.{b} is newer than {x}.{y}, the newest known"),
        ));
    }
    if !runs(gpu, parsed.sm, parsed.suffix) {
        let (sm, suffix) = (parsed.sm, parsed.suffix.map(String::from).unwrap_or_default());
        let (major, minor) = gpu.capability;
        let what = format!("PTX for sm_{sm}{suffix} does not run on {} (sm_{major}{minor})", gpu.product);
        return Err((Code::InvalidPtx, what));
    }
    if let Some((a, b)) = oldest(parsed.sm, parsed.suffix).filter(|least| parsed.version < *least) {
        let (x, y) = parsed.version;
        let what = format!("PTX ISA {x}.{y} does not know .target sm_{}: it came with {a}.{b}", parsed.sm);
        return Err((Code::InvalidPtx, what));
    }
    let program = Arc::new(Program::load(&parsed, &c.memory, gpu).map_err(ptx)?);
    let mut known = lock(&c.allocations);
    for &(at, bytes) in program.globals.values() {
        let a = Allocation { bytes, kind: Kind::Variable, flags: 0, id: fresh() as u64 };
        known.insert(at, a);
    }
    drop(known);
    let names = program.functions.iter().map(|f| CString::new(f.name.as_str()).unwrap_or_default()).collect();
    let constants = parsed.variables.iter().filter(|v| v.space == Space::Const).map(|v| v.bytes).sum();
    Ok(Arc::new(Module {
        id: fresh(),
        context: Arc::downgrade(c),
        device: c.device,
        program,
        sm: parsed.sm,
        const_bytes: constants,
        names,
        handles: Mutex::default(),
    }))
}

/// Where the caller wants messages.
#[derive(Default)]
struct Log {
    text: Option<(*mut u8, usize)>,
    used: Option<*mut *mut c_void>,
}
fn options(n: u32, names: *const u32, values: *mut *mut c_void) -> Result<Log, Code> {
    let (names, given) = (get_all(names, n as usize)?, get_all(values, n as usize)?);
    let mut log = Log::default();
    for (i, name) in names.iter().enumerate() {
        match name {
            // CU_JIT_ERROR_LOG_BUFFER and its size.
            5 => log.text = Some((given[i].cast(), log.text.map_or(0, |t| t.1))),
            6 => {
                log.text = Some((log.text.map_or(std::ptr::null_mut(), |t| t.0), given[i] as u32 as usize));
                // SAFETY: `values` has `n` elements and `i < n`.
                log.used = Some(unsafe { values.add(i) });
            }
            0..=40 => (),
            _ => return Err(Code::InvalidValue),
        }
    }
    Ok(log)
}
impl Log {
    fn write(&self, what: &str) {
        let Some((p, room)) = self.text.filter(|(p, room)| !p.is_null() && *room > 0) else { return };
        let n = what.len().min(room - 1);
        // SAFETY: the caller says that the buffer has `room` bytes, and that option values can be written.
        unsafe {
            std::ptr::copy_nonoverlapping(what.as_ptr(), p, n);
            p.add(n).write(0);
            if let Some(used) = self.used {
                used.write_unaligned((n + 1) as *mut c_void);
            }
        }
    }
}
fn load(
    out: *mut Handle,
    read: impl FnOnce(&Gpu) -> Result<String, (Code, String)>,
    log: &Log,
) -> Result<(), Code> {
    let c = context()?;
    capture::forbid_unsafe()?;
    if out.is_null() {
        return Err(Code::InvalidValue);
    }
    let d = driver()?;
    let m = read(&c.device.gpu).and_then(|source| compile(&source, &c)).map_err(|(code, what)| {
        log.write(&what);
        eprintln!("cuda-emulator: {what}");
        code
    })?;
    put(out, m.id as Handle)?;
    d.modules.insert(m.id, m);
    Ok(())
}
fn load_file(out: *mut Handle, path: *const c_char) -> Result<(), Code> {
    let path = text(path)?;
    let read = |gpu: &Gpu| {
        let bytes = std::fs::read(&path)
            .map_err(|e| (Code::FileNotFound, format!("module {path} cannot be read: {e}")))?;
        crate::fatbin::ptx(&bytes, gpu.capability).map_err(|e| (e.code, e.what))
    };
    load(out, read, &Log::default())
}
fn unload(h: Handle) -> Result<(), Code> {
    let d = driver()?;
    capture::forbid_unsafe()?;
    let m = d.modules.take(h).ok_or(Code::InvalidHandle)?;
    d.functions.retain(|f| !Arc::ptr_eq(&f.module, &m));
    if let Some(c) = m.context.upgrade() {
        c.drain();
        m.program.unload(&c.memory);
        let mut known = lock(&c.allocations);
        for (at, _) in m.program.globals.values() {
            known.remove(at);
        }
    }
    Ok(())
}
fn by_handle(h: Handle) -> Result<Arc<Module>, Code> {
    context()?;
    driver()?.modules.get(h).ok_or(Code::InvalidHandle)
}
fn global(address: *mut u64, bytes: *mut usize, m: Handle, name: *const c_char) -> Result<(), Code> {
    let (at, size) = *by_handle(m)?.program.globals.get(&text(name)?).ok_or(Code::NotFound)?;
    put_some(address, at);
    put_some(bytes, size as usize);
    Ok(())
}
fn enumerate(out: *mut Handle, n: u32, m: Handle) -> Result<(), Code> {
    let m = by_handle(m)?;
    for (i, k) in m.kernels().into_iter().take(n as usize).enumerate() {
        if out.is_null() {
            return Err(Code::InvalidValue);
        }
        // SAFETY: the caller says that `n` handles can be written.
        unsafe { out.add(i).write_unaligned(m.function(k)?) };
    }
    Ok(())
}

api! {
    fn cuModuleLoadData(out: *mut Handle, p: *const c_void) {
        load(out, |gpu| image(p, gpu), &Log::default())
    }
    fn cuModuleLoadDataEx(out: *mut Handle, p: *const c_void, n: u32, names: *const u32, values: *mut *mut c_void) {
        load(out, |gpu| image(p, gpu), &options(n, names, values)?)
    }
    fn cuModuleLoadFatBinary(out: *mut Handle, p: *const c_void) {
        load(out, |gpu| image(p, gpu), &Log::default())
    }
    fn cuModuleLoad(out: *mut Handle, path: *const c_char) {
        load_file(out, path)
    }
    fn cuModuleUnload(m: Handle) {
        context()?;
        unload(m)
    }
    fn cuModuleGetFunction(out: *mut Handle, m: Handle, name: *const c_char) {
        put(out, by_handle(m)?.named(&text(name)?)?)
    }
    fn cuModuleGetGlobal_v2(address: *mut u64, bytes: *mut usize, m: Handle, name: *const c_char) {
        global(address, bytes, m, name)
    }
    fn cuModuleGetLoadingMode(out: *mut u32) {
        driver()?;
        put(out, 1)
    }
    fn cuModuleGetFunctionCount(out: *mut u32, m: Handle) {
        put(out, by_handle(m)?.kernels().len() as u32)
    }
    fn cuModuleEnumerateFunctions(out: *mut Handle, n: u32, m: Handle) {
        enumerate(out, n, m)
    }
    fn cuLibraryLoadData(
        out: *mut Handle, p: *const c_void, names: *const u32, values: *mut *mut c_void, n: u32,
        _library_names: *const u32, _library_values: *mut *mut c_void, _library_n: u32,
    ) {
        load(out, |gpu| image(p, gpu), &options(n, names, values)?)
    }
    fn cuLibraryLoadFromFile(
        out: *mut Handle, path: *const c_char, _names: *const u32, _values: *mut *mut c_void, _n: u32,
        _library_names: *const u32, _library_values: *mut *mut c_void, _library_n: u32,
    ) {
        load_file(out, path)
    }
    fn cuLibraryUnload(m: Handle) {
        unload(m)
    }
    fn cuLibraryGetKernel(out: *mut Handle, m: Handle, name: *const c_char) {
        put(out, by_handle(m)?.named(&text(name)?)?)
    }
    fn cuLibraryGetModule(out: *mut Handle, m: Handle) {
        put(out, by_handle(m)?.id as Handle)
    }
    fn cuLibraryGetGlobal(address: *mut u64, bytes: *mut usize, m: Handle, name: *const c_char) {
        global(address, bytes, m, name)
    }
    fn cuLibraryGetKernelCount(out: *mut u32, m: Handle) {
        put(out, by_handle(m)?.kernels().len() as u32)
    }
    fn cuLibraryEnumerateKernels(out: *mut Handle, n: u32, m: Handle) {
        enumerate(out, n, m)
    }
}
