//! Slices of numbers as bytes, and bytes as slices of numbers.

use crate::plain::Plain;

/// The bytes of numbers.
pub(crate) fn bytes_of<T: Plain>(values: &[T]) -> &[u8] {
    // SAFETY: `Plain` is sealed, and its types have no padding, so all bytes are initialised; they are borrowed as long.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// As many numbers as there are in `bytes`; `None` if these are not aligned, or are not so many.
pub(crate) fn slice_of<T: Plain>(bytes: &[u8], count: usize) -> Option<&[T]> {
    let start = bytes.as_ptr().cast::<T>();
    if !start.is_aligned() || count.checked_mul(size_of::<T>()) != Some(bytes.len()) {
        return None;
    }
    // SAFETY: aligned and of the right length, as was looked at, and every pattern of bits is a value of a `Plain` type.
    Some(unsafe { std::slice::from_raw_parts(start, count) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_and_nothing_else_does() {
        let numbers = [1.5_f64, -0.0, f64::MAX];
        let bytes = bytes_of(&numbers);
        assert_eq!((bytes.len(), slice_of::<f64>(bytes, 3)), (24, Some(&numbers[..])));
        assert_eq!(slice_of::<[f64; 3]>(bytes, 1), Some(&[numbers][..]));
        assert!(slice_of::<f64>(bytes, 2).is_none() && slice_of::<f64>(&bytes[1..9], 1).is_none());
        assert!(slice_of::<u64>(bytes, usize::MAX).is_none());
        assert_eq!(slice_of::<[u8; 0]>(&bytes[..0], 7).map(<[_]>::len), Some(7));
        assert!(bytes_of::<u32>(&[]).is_empty());
    }
}
