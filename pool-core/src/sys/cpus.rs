//! Which CPUs a process may use.

use std::io;

/// A set of CPUs as the kernel writes it: one bit for each.
type Mask = Vec<libc::c_ulong>;

const BITS: usize = libc::c_ulong::BITS as usize;
/// More CPUs than any kernel knows.
const MOST: usize = 1 << 20;

/// The CPUs that the calling thread may use, in ascending order.
#[doc(alias = "sched_getaffinity")]
pub(crate) fn allowed() -> io::Result<Vec<usize>> {
    let mut mask: Mask = vec![0; 1024 / BITS];
    loop {
        // SAFETY: the kernel writes at most as many bytes as it is told. The type of the pointer is that of the smallest set.
        let result = unsafe { libc::sched_getaffinity(0, size_of_val(&mask[..]), mask.as_mut_ptr().cast()) };
        if result == 0 {
            break;
        }
        let error = io::Error::last_os_error();
        // The kernel knows more CPUs than there is room for.
        if error.raw_os_error() != Some(libc::EINVAL) || mask.len() * BITS >= MOST {
            return Err(error);
        }
        mask.resize(2 * mask.len(), 0);
    }
    Ok((0..mask.len() * BITS).filter(|cpu| mask[cpu / BITS] >> (cpu % BITS) & 1 == 1).collect())
}

/// Binds the calling thread, and those that it starts from now on, to these CPUs.
#[doc(alias = "sched_setaffinity")]
pub(crate) fn bind_to(cpus: &[u32]) -> io::Result<()> {
    let highest = cpus.iter().max().map_or(0, |cpu| *cpu as usize);
    if highest >= MOST {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut mask: Mask = vec![0; highest / BITS + 1];
    for cpu in cpus {
        mask[*cpu as usize / BITS] |= 1 << (*cpu as usize % BITS);
    }
    // SAFETY: the kernel reads as many bytes as it is told. The type of the pointer is that of the smallest set.
    let result = unsafe { libc::sched_setaffinity(0, size_of_val(&mask[..]), mask.as_ptr().cast()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_can_be_bound_to_fewer_of_its_cpus_and_to_none_that_do_not_exist() {
        let before = allowed().unwrap();
        let last = *before.last().expect("this thread runs somewhere");
        std::thread::spawn(move || {
            bind_to(&[u32::try_from(last).unwrap()]).unwrap();
            assert_eq!(allowed().unwrap(), [last]);
            assert!(bind_to(&[u32::MAX]).is_err());
            assert!(bind_to(&[99_999]).is_err());
            assert_eq!(allowed().unwrap(), [last]);
        })
        .join()
        .unwrap();
        assert_eq!(allowed().unwrap(), before);
    }
}
