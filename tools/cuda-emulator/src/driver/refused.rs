//! What is not emulated: the functions are there, as a caller that looks them up expects, and answer
//! `CUDA_ERROR_NOT_SUPPORTED` with a line that says why.

use crate::error::Code;

fn refuse(name: &str, what: &str) -> i32 {
    if super::state::driver().is_err() {
        return Code::NotInitialized as i32;
    }
    eprintln!("cuda-emulator: {name} is not emulated: {what}");
    Code::NotSupported as i32
}
/// Functions by what they are about. They take arguments that they do not look at: in the C calling conventions of 64-bit
/// machines the caller cleans up.
macro_rules! refused {
    ($($what:literal: [$($name:ident)*])*) => {
        $($(
            #[doc = "Not emulated."]
            #[unsafe(no_mangle)]
            #[allow(non_snake_case)]
            pub extern "C" fn $name() -> i32 {
                refuse(stringify!($name), $what)
            }
        )*)*
        /// All of them.
        pub(crate) const SYMBOLS: &[super::Symbol] = &[$($((stringify!($name), $name as *const (), None)),*),*];
    };
}

refused! {
    "textures, surfaces and arrays": [
        cuMemcpyAtoA_v2 cuMemcpyAtoD_v2 cuMemcpyAtoHAsync_v2 cuMemcpyAtoH_v2 cuMemcpyDtoA_v2 cuMemcpyHtoAAsync_v2
        cuMemcpyHtoA_v2
        cuArray3DCreate_v2 cuArray3DGetDescriptor_v2 cuArrayCreate_v2 cuArrayDestroy cuArrayGetDescriptor_v2
        cuArrayGetMemoryRequirements cuArrayGetPlane cuArrayGetSparseProperties
        cuDeviceGetTexture1DLinearMaxWidth cuExternalMemoryGetMappedMipmappedArray
        cuGraphicsResourceGetMappedMipmappedArray cuGraphicsSubResourceGetMappedArray cuMemMapArrayAsync
        cuMipmappedArrayCreate cuMipmappedArrayDestroy cuMipmappedArrayGetLevel
        cuMipmappedArrayGetMemoryRequirements cuMipmappedArrayGetSparseProperties cuModuleGetSurfRef
        cuModuleGetTexRef cuParamSetTexRef cuSurfObjectCreate cuSurfObjectDestroy cuSurfObjectGetResourceDesc
        cuSurfRefGetArray cuSurfRefSetArray cuTexObjectCreate cuTexObjectDestroy cuTexObjectGetResourceDesc
        cuTexObjectGetResourceViewDesc cuTexObjectGetTextureDesc cuTexRefCreate cuTexRefDestroy
        cuTexRefGetAddressMode cuTexRefGetAddress_v2 cuTexRefGetArray cuTexRefGetBorderColor
        cuTexRefGetFilterMode cuTexRefGetFlags cuTexRefGetFormat cuTexRefGetMaxAnisotropy
        cuTexRefGetMipmapFilterMode cuTexRefGetMipmapLevelBias cuTexRefGetMipmapLevelClamp
        cuTexRefGetMipmappedArray cuTexRefSetAddress2D_v3 cuTexRefSetAddressMode cuTexRefSetAddress_v2
        cuTexRefSetArray cuTexRefSetBorderColor cuTexRefSetFilterMode cuTexRefSetFlags cuTexRefSetFormat
        cuTexRefSetMaxAnisotropy cuTexRefSetMipmapFilterMode cuTexRefSetMipmapLevelBias
        cuTexRefSetMipmapLevelClamp cuTexRefSetMipmappedArray
    ]
    "work shared with graphics": [
        cuGraphicsMapResources cuGraphicsResourceGetMappedPointer_v2 cuGraphicsResourceSetMapFlags_v2
        cuGraphicsUnmapResources cuGraphicsUnregisterResource
    ]
    "memory and semaphores of other interfaces or processes": [
        cuDestroyExternalMemory cuDestroyExternalSemaphore cuExternalMemoryGetMappedBuffer
        cuFlushGPUDirectRDMAWrites cuGraphAddExternalSemaphoresSignalNode cuGraphAddExternalSemaphoresWaitNode
        cuGraphExecExternalSemaphoresSignalNodeSetParams cuGraphExecExternalSemaphoresWaitNodeSetParams
        cuGraphExternalSemaphoresSignalNodeGetParams cuGraphExternalSemaphoresSignalNodeSetParams
        cuGraphExternalSemaphoresWaitNodeGetParams cuGraphExternalSemaphoresWaitNodeSetParams
        cuImportExternalMemory cuImportExternalSemaphore cuIpcCloseMemHandle cuIpcGetEventHandle
        cuIpcGetMemHandle cuIpcOpenEventHandle cuIpcOpenMemHandle_v2 cuMemExportToShareableHandle
        cuMemGetHandleForAddressRange cuMemImportFromShareableHandle cuMemPoolExportPointer
        cuMemPoolExportToShareableHandle cuMemPoolImportFromShareableHandle cuMemPoolImportPointer
        cuSignalExternalSemaphoresAsync cuWaitExternalSemaphoresAsync
    ]
    "mapping of physical memory (attribute 102 of the device is 0)": [
        cuMemAddressFree cuMemAddressReserve cuMemCreate cuMemGetAccess cuMemGetAllocationGranularity
        cuMemGetAllocationPropertiesFromHandle cuMemMap cuMemRelease cuMemRetainAllocationHandle
        cuMemSetAccess cuMemUnmap
    ]
    "multicast and logical endpoints": [
        cuDeviceGetCliqueCount cuDeviceGetCliqueInfo cuDeviceGetFabricClusterUuid cuLogicalEndpointAddDevice
        cuLogicalEndpointBindAddr cuLogicalEndpointBindMem cuLogicalEndpointCreate cuLogicalEndpointDestroy
        cuLogicalEndpointExport cuLogicalEndpointGetLimits cuLogicalEndpointIdRelease
        cuLogicalEndpointIdReserve cuLogicalEndpointImport cuLogicalEndpointQuery cuLogicalEndpointUnbind
        cuMulticastAddDevice cuMulticastBindAddr cuMulticastBindAddr_v2 cuMulticastBindMem
        cuMulticastBindMem_v2 cuMulticastCreate cuMulticastGetGranularity cuMulticastUnbind
    ]
    "green contexts and shares of multiprocessors": [
        cuCtxFromGreenCtx cuCtxGetDevResource cuCtxGetExecAffinity cuCtxRecordEvent cuCtxWaitEvent
        cuDevResourceGenerateDesc cuDevSmResourceSplit cuDevSmResourceSplitByCount cuDeviceGetDevResource
        cuGreenCtxCreate cuGreenCtxDestroy cuGreenCtxGetDevResource cuGreenCtxGetId cuGreenCtxRecordEvent
        cuGreenCtxStreamCreate cuGreenCtxWaitEvent cuStreamGetCtx_v2 cuStreamGetDevResource
        cuStreamGetGreenCtx
    ]
    "waiting for values in memory (attribute 92 of the device is 0)": [
        cuGraphAddBatchMemOpNode cuGraphBatchMemOpNodeGetParams cuGraphBatchMemOpNodeSetParams
        cuGraphExecBatchMemOpNodeSetParams cuStreamBatchMemOp cuStreamBatchMemOp_v2 cuStreamWaitValue32
        cuStreamWaitValue32_v2 cuStreamWaitValue64 cuStreamWaitValue64_v2 cuStreamWriteValue32
        cuStreamWriteValue32_v2 cuStreamWriteValue64 cuStreamWriteValue64_v2
    ]
    "tensor maps": [
        cuTensorMapEncodeIm2col cuTensorMapEncodeIm2colWide cuTensorMapEncodeTiled cuTensorMapReplaceAddress
    ]
    "linking of several images: load each, or link at build time": [
        cuLinkAddData_v2 cuLinkAddFile_v2 cuLinkComplete cuLinkCreate_v2 cuLinkDestroy
    ]
    "conditional nodes": [
        cuGraphConditionalHandleCreate
    ]
    "recapture and graphics in capture": [
        cuStreamBeginCaptureToCig cuStreamBeginRecaptureToGraph cuStreamEndCaptureToCig
    ]
    "core dumps, logs and notifications": [
        cuCoredumpDeregisterCompleteCallback cuCoredumpDeregisterStartCallback cuCoredumpGetAttribute
        cuCoredumpGetAttributeGlobal cuCoredumpRegisterCompleteCallback cuCoredumpRegisterStartCallback
        cuCoredumpSetAttribute cuCoredumpSetAttributeGlobal cuDeviceRegisterAsyncNotification
        cuDeviceUnregisterAsyncNotification cuLogsCurrent cuLogsDumpToFile cuLogsDumpToMemory
        cuLogsRegisterCallback cuLogsUnregisterCallback
    ]
    "batches of boxes, discards, prefetches and decompression": [
        cuMemBatchDecompressAsync cuMemDiscardAndPrefetchBatchAsync cuMemDiscardBatchAsync
        cuMemGetLocationInfo cuMemPrefetchBatchAsync cuMemcpy3DBatchAsync cuMemcpy3DBatchAsync_v2
        cuMemcpy3DWithAttributesAsync cuMemcpyWithAttributesAsync
    ]
    "atomics between devices": [
        cuDeviceGetHostAtomicCapabilities cuDeviceGetP2PAtomicCapabilities
    ]
    "calls that CUDA has given up": [
        cuCtxAttach cuCtxDetach cuDeviceGetLuid cuFuncSetBlockShape cuFuncSetSharedSize cuGetExportTable
        cuLaunch cuLaunchCooperativeKernelMultiDevice cuLaunchGrid cuLaunchGridAsync cuParamSetSize
        cuParamSetf cuParamSeti cuParamSetv cuProfilerInitialize
    ]
    "functions of several libraries under one address": [
        cuLibraryGetManaged cuLibraryGetUnifiedFunction
    ]
}
