//! What stops a launch or a load, with the driver's result code for it.

use crate::ptx::ast::Space;

/// Result codes of the driver API (`CUresult`), those that are used here. Source: CUDA driver API, "CUresult".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
#[allow(missing_docs)]
pub enum Code {
    InvalidValue = 1,
    OutOfMemory = 2,
    NotInitialized = 3,
    NoDevice = 100,
    InvalidDevice = 101,
    InvalidImage = 200,
    InvalidContext = 201,
    NoBinaryForGpu = 209,
    UnsupportedLimit = 215,
    PeerAccessUnsupported = 217,
    InvalidPtx = 218,
    UnsupportedPtxVersion = 222,
    FileNotFound = 301,
    InvalidHandle = 400,
    IllegalState = 401,
    NotFound = 500,
    NotReady = 600,
    IllegalAddress = 700,
    LaunchOutOfResources = 701,
    LaunchTimeout = 702,
    PrimaryContextActive = 708,
    ContextIsDestroyed = 709,
    AssertFailed = 710,
    HostMemoryAlreadyRegistered = 712,
    HostMemoryNotRegistered = 713,
    HardwareStackError = 714,
    IllegalInstruction = 715,
    MisalignedAddress = 716,
    InvalidAddressSpace = 717,
    InvalidPc = 718,
    LaunchFailed = 719,
    CooperativeLaunchTooLarge = 720,
    NotPermitted = 800,
    NotSupported = 801,
    StreamCaptureUnsupported = 900,
    StreamCaptureInvalidated = 901,
    StreamCaptureMerge = 902,
    StreamCaptureUnmatched = 903,
    StreamCaptureUnjoined = 904,
    StreamCaptureIsolation = 905,
    StreamCaptureImplicit = 906,
    CapturedEvent = 907,
    StreamCaptureWrongThread = 908,
    GraphExecUpdateFailure = 910,
    InvalidClusterSize = 912,
    Unknown = 999,
}

/// PTX that cannot be read or run: where and what.
#[derive(Clone, Debug, thiserror::Error)]
#[error("PTX line {line}: {what}")]
pub struct PtxError {
    /// Line in the PTX text, from 1.
    pub line: u32,
    /// One sentence.
    pub what: String,
}
impl PtxError {
    /// At a line.
    pub fn new(line: u32, what: impl Into<String>) -> Self {
        Self { line, what: what.into() }
    }
}

/// Where something happened in a launch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, serde::Serialize)]
pub struct Site {
    /// Kernel.
    pub kernel: String,
    /// PTX line; 0 when unknown.
    pub line: u32,
    /// Source file and line, when compiled with line information.
    pub source: Option<(String, u32)>,
    /// Instruction as spelled.
    pub instruction: String,
    /// Block.
    pub block: [u32; 3],
    /// Warp in the block.
    pub warp: u32,
    /// Lane in the warp, if one is to blame.
    pub lane: Option<u32>,
}
impl std::fmt::Display for Site {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let [x, y, z] = self.block;
        write!(f, "{} line {} ({}", self.kernel, self.line, self.instruction)?;
        if let Some((file, line)) = &self.source {
            write!(f, ", {file}:{line}")?;
        }
        write!(f, ") block ({x}, {y}, {z}) warp {}", self.warp)?;
        self.lane.map_or(Ok(()), |l| write!(f, " lane {l}"))
    }
}

/// What a kernel did that hardware stops at.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{what}")]
pub struct Fault {
    /// The driver's code; sticky in the context.
    pub code: Code,
    /// One sentence, without the site.
    pub what: String,
    /// Lane to blame.
    pub lane: Option<u32>,
}
impl Fault {
    /// A fault of a whole warp.
    pub fn new(code: Code, what: impl Into<String>) -> Self {
        Self { code, what: what.into(), lane: None }
    }
    /// A fault at an address of one lane.
    pub fn address(code: Code, space: Space, address: u64, bytes: u32, lane: u32) -> Self {
        let why = if code == Code::MisalignedAddress { "misaligned" } else { "outside any allocation" };
        let what = format!("{bytes} bytes at {space:?} address {address:#x} are {why}");
        Self { code, what, lane: Some(lane) }
    }
}
