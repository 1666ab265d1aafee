//! What to check, count and vary. From code or from the environment.

/// Switches of a run. Everything is off by default.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Accesses out of bounds, after free, misaligned, to the byte.
    pub memcheck: bool,
    /// Reads of what nobody wrote.
    pub initcheck: bool,
    /// Conflicting accesses that nothing orders, shared and global.
    pub racecheck: bool,
    /// Barriers and `.sync` instructions reached by some lanes only, barriers with wrong counts.
    pub synccheck: bool,
    /// Count instructions, sectors, wavefronts…
    pub count: bool,
    /// Adversarial schedule: warps interleave, asynchronous copies land late or early, fresh memory is poisoned.
    pub seed: Option<u64>,
    /// Worker threads; `None` for one a core.
    pub threads: Option<usize>,
    /// Warp instructions that a block may run before the launch is stopped with [`crate::error::Code::LaunchTimeout`].
    pub budget: Option<u64>,
}
impl Options {
    /// Every checker on.
    pub fn all() -> Self {
        Self { memcheck: true, initcheck: true, racecheck: true, synccheck: true, ..Self::default() }
    }
    /// Whether any checker is on.
    pub fn checks(&self) -> bool {
        self.memcheck || self.initcheck || self.racecheck || self.synccheck
    }
    /// `INP_EMULATED_CHECK` (`all` or a list of memcheck, initcheck, racecheck, synccheck), `INP_EMULATED_COUNT` (1),
    /// `INP_EMULATED_SEED`, `INP_EMULATED_THREADS`, `INP_EMULATED_BUDGET`, from any source of values. A value that cannot
    /// be read is an error.
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let mut o = Self::default();
        for word in get("INP_EMULATED_CHECK").unwrap_or_default().split(',').filter(|w| !w.is_empty()) {
            match word {
                "all" => o = Self { ..Self::all() },
                "memcheck" => o.memcheck = true,
                "initcheck" => o.initcheck = true,
                "racecheck" => o.racecheck = true,
                "synccheck" => o.synccheck = true,
                _ => return Err(format!("INP_EMULATED_CHECK: no checker is called \"{word}\"")),
            }
        }
        o.count = match get("INP_EMULATED_COUNT").as_deref() {
            None | Some("" | "0") => false,
            Some("1") => true,
            Some(v) => return Err(format!("INP_EMULATED_COUNT: \"{v}\" is neither 0 nor 1")),
        };
        let number = |name: &str| -> Result<Option<u64>, String> {
            let text = get(name).filter(|v| !v.is_empty());
            text.map(|v| v.parse().map_err(|_| format!("{name}: \"{v}\" is not a number"))).transpose()
        };
        o.seed = number("INP_EMULATED_SEED")?;
        o.budget = number("INP_EMULATED_BUDGET")?;
        o.threads = number("INP_EMULATED_THREADS")?.map(|n| n.max(1) as usize);
        Ok(o)
    }
}
