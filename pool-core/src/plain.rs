//! Numbers that can be shared as they are in memory.

/// A type of which every pattern of bits is a value, and that has no padding: `u8` to `u128`, `i8` to `i128`, `usize`, `isize`,
/// `f32`, `f64`, and arrays of them. Slices of such are shared with [`Builder::share_slice`](crate::Builder::share_slice).
#[diagnostic::on_unimplemented(
    message = "slices of `{Self}` cannot be shared as they are in memory",
    label = "neither a number nor an array of numbers",
    note = "share a value with `Builder::share_value`, or bytes with `Builder::share`"
)]
pub trait Plain: sealed::Plain + Copy + Send + Sync + 'static {}

mod sealed {
    #[diagnostic::on_unimplemented(
        message = "slices of `{Self}` cannot be shared as they are in memory",
        label = "neither a number nor an array of numbers",
        note = "share a value with `Builder::share_value`, or bytes with `Builder::share`"
    )]
    pub trait Plain {}
}

macro_rules! plain {
    ($($number:ty)*) => {$(
        impl sealed::Plain for $number {}
        impl Plain for $number {}
    )*};
}

// What is added here must have no padding, and no bits that are not allowed: `sys::plain` stands on that.
plain!(u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize f32 f64);

impl<T: Plain, const N: usize> sealed::Plain for [T; N] {}
impl<T: Plain, const N: usize> Plain for [T; N] {}
