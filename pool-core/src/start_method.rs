//! How worker processes come into being.

/// How worker processes are started; set with [`Builder::start`](crate::Builder::start).
///
/// ```
/// use pool_core::StartMethod;
///
/// assert_eq!(StartMethod::default(), StartMethod::Spawn);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StartMethod {
    /// Each worker is a fresh run of the worker executable (`posix_spawn(3)`).
    #[default]
    Spawn,
    /// Workers that take the place of others are forked by a *zygote*: one more process of the worker executable, which has
    /// come as far as [`init()`](crate::init) and waits there. Experimental: under very heavy load a test that kills zygotes
    /// again and again has stalled, for a reason that is not known yet.
    ///
    /// It saves what a start of the executable costs, dynamic linking and all that runs before `init()`: the more that is, the
    /// more it pays. The first workers are spawned, while the zygote gets ready behind them. A forked worker has the same
    /// descriptors, signals, limits and process group as a spawned one, and is a child of this program like that.
    ///
    /// # Costs and dangers
    /// * One more process, and two descriptors.
    /// * What was done before `init()`, in constructors of libraries for example, was done once: random seeds, cached process
    ///   ids and the layout of the address space are the same in all forked workers. Handlers of `pthread_atfork(3)` are not
    ///   called. Programs that use random numbers for secrets should not use it.
    /// * Environment, working directory and limits are those of this program when the zygote was started.
    /// * What the zygote prints before `init()` is thrown away.
    /// * It needs a C library whose main thread can be forked (glibc), and a program that has no threads before `init()`.
    ///   Where a worker cannot be forked, for this or any other reason, it is spawned; a reason that will not go away is
    ///   reported once through `tracing`.
    #[doc(alias = "forkserver")]
    Zygote,
}
