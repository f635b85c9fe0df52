//! The build id that the linker has put into this executable (`NT_GNU_BUILD_ID`), if it has.

use std::ffi::{c_int, c_void};

const NT_GNU_BUILD_ID: u32 = 3;

/// The build id of the main program; empty when it was linked without one.
#[doc(alias = "dl_iterate_phdr")]
pub(crate) fn build_id() -> Vec<u8> {
    let mut id = Vec::new();
    // SAFETY: the callback is called during this call only, with `id` as its data.
    unsafe { libc::dl_iterate_phdr(Some(first_object), (&raw mut id).cast()) };
    id
}

/// Called for each loaded object; the first one is the main program, and ends the iteration.
unsafe extern "C" fn first_object(info: *mut libc::dl_phdr_info, _size: usize, data: *mut c_void) -> c_int {
    // SAFETY: `dl_iterate_phdr` passes a valid `info`, and `data` as it was given: a `Vec<u8>` that nobody else uses now.
    let (info, id) = unsafe { (&*info, &mut *data.cast::<Vec<u8>>()) };
    // SAFETY: the loader's table of program headers has `dlpi_phnum` entries.
    let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
    for header in headers.iter().filter(|header| header.p_type == libc::PT_NOTE) {
        let address = (info.dlpi_addr + header.p_vaddr) as *const u8;
        // SAFETY: a note segment of the running program is mapped at its address, `p_memsz` bytes long.
        let notes = unsafe { std::slice::from_raw_parts(address, header.p_memsz as usize) };
        if let Some(found) = find(notes) {
            id.extend_from_slice(found);
            break;
        }
    }
    1
}

/// Finds the build id among ELF notes: three words (length of the name, length of the data, type), name, data, both
/// padded to four bytes.
fn find(mut notes: &[u8]) -> Option<&[u8]> {
    loop {
        let (header, rest) = notes.split_at_checked(12)?;
        let word = |at: usize| Some(u32::from_ne_bytes(header.get(at..at + 4)?.try_into().ok()?));
        let (name_len, data_len, kind) = (word(0)? as usize, word(4)? as usize, word(8)?);
        let (name, rest) = rest.split_at_checked(name_len.next_multiple_of(4))?;
        let (data, rest) = rest.split_at_checked(data_len.next_multiple_of(4))?;
        if kind == NT_GNU_BUILD_ID && name == b"GNU\0" {
            return data.get(..data_len);
        }
        notes = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_id_among_other_notes() {
        let note = |kind: u32, name: &[u8; 4], data: &[u8]| {
            let words = [4, data.len() as u32, kind].map(u32::to_ne_bytes).concat();
            let padding = vec![0; data.len().next_multiple_of(4) - data.len()];
            [&words[..], name, data, &padding].concat()
        };
        let notes =
            [note(1, b"GNU\0", b"abi"), note(3, b"xyz\0", b"other"), note(3, b"GNU\0", b"12345")].concat();
        assert_eq!(find(&notes), Some(&b"12345"[..]));
        for cut in 0..notes.len() - 3 {
            assert_ne!(find(&notes[..cut]), Some(&b"12345"[..]), "cut at {cut}");
        }
    }

    #[test]
    fn the_id_of_this_program_is_always_the_same() {
        assert_eq!(build_id(), build_id());
    }
}
